"""The keeper: nothing that a kernel starts outlives it, however it runs away; and what bounds a kernel."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from notebooks.kernels import keeper, launch
from notebooks.kernels.local import LocalKernel as Kernel
from streaming.core.errors import KernelDied, KernelNotStarted

from .conftest import limits
from .test_kernel import gone, outputs, run, text

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")

PATIENCE = 30.0
"""Seconds after which a wait is a hang."""

RUNAWAYS = """
import os, sys, time

# Daemons that never stay: each forks and ends, and its child has a session of its own; now and then one
# leaves a process behind. For 20 seconds at most.
end = time.monotonic() + 20
for _ in range(6):
    if not os.fork():
        hops = 0
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
            os.setsid()
            hops += 1
            if hops % 20 == 0 and not os.fork():
                time.sleep(20)
                os._exit(0)
        os._exit(0)
print("on", flush=True)
time.sleep(20)
"""


class Kept:
    """A command under a keeper, as a server would start it, marked by a variable of its environment."""

    def __init__(self, folder: Path, *command: str, options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.mark = f"KEPT={uuid.uuid4().hex}"
        reads, self.lifeline = os.pipe()
        self.notice, notice = os.pipe()
        name, _, value = self.mark.partition("=")
        self.keeper = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", keeper.__file__, f"--lifeline={reads}"),
                *(
                    f"--notice={notice}",
                    f"--connection-file={folder}/connection.json",
                    *options,
                    "--",
                    *command,
                ),
            ],
            env=os.environ | {name: value},
            pass_fds=[reads, notice],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        os.close(reads)
        os.close(notice)

    def line(self) -> str:
        """The next that it prints."""
        assert self.keeper.stdout is not None
        return self.keeper.stdout.readline().strip()

    def let_go(self) -> None:
        """As the end of a server does."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            os.close(self.notice)
            self.lifeline = -1

    def left(self) -> list[psutil.Process]:
        """Processes that have the mark."""
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                environ = Path(f"/proc/{process.pid}/environ").read_bytes()
                if self.mark.encode() in environ:
                    found.append(process)
        return found

    def clean(self) -> None:
        self.let_go()
        self.keeper.kill()
        self.keeper.communicate()
        for process in self.left():
            with suppress(psutil.Error):
                process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "private"
    made.mkdir()
    return made


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


def test_daemons_that_run_away_are_all_caught(folder: Path) -> None:
    for _ in range(20):
        folder.mkdir(exist_ok=True)
        kept = Kept(folder, *python(RUNAWAYS))
        try:
            assert kept.line() == "on"
            time.sleep(random.uniform(0, 0.05))
            kept.let_go()
            kept.keeper.wait(PATIENCE)
            assert kept.left() == []
            assert not folder.exists()
        finally:
            kept.clean()


def test_the_end_of_the_kernel_is_the_end_of_its_daemons(folder: Path) -> None:
    kept = Kept(folder, *python(RUNAWAYS.replace("time.sleep(20)\n", "os._exit(3)\n")))
    try:
        assert kept.keeper.wait(PATIENCE) == 3
        assert kept.left() == []
        # The server may read the last words in it.
        assert folder.exists()
    finally:
        kept.clean()


def test_processes_out_of_reach_are_told_and_end_no_keeper(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sandbox that changes the user, for a server that is not root: planted, since tests may be root."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    child = subprocess.Popen(["sleep", "30"])
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", refuse)
            patch.setattr(keeper, "PATIENCE", 0.1)
            patch.setattr(keeper, "_reap", lambda ended: True)
            assert keeper.kill_all() is False
    finally:
        child.kill()
        child.wait()


def test_the_folder_goes_whatever_is_in_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    folder = tmp_path / "private"
    shut = folder / "work" / "shut"
    shut.mkdir(parents=True)
    (shut / "file").touch()
    (folder / "link").symlink_to(outside)
    shut.chmod(0)
    keeper.remove(folder)
    keeper.remove(folder)
    assert not folder.exists()
    assert outside.stat().st_mode & 0o777 == 0o755


# With real kernels


def test_a_server_that_is_killed_leaves_no_folder() -> None:
    """Two kernels, one busy with children, one idle."""
    code = (
        "import asyncio, os\n"
        "from notebooks.kernels.local import LocalKernel as Kernel\n"
        "from notebooks.kernels.output import CellOutput\n"
        "from tests.notebooks.conftest import limits\n"
        'CODE = \'import subprocess; subprocess.Popen(["setsid", "sleep", "99"]); print(1, flush=True)\\n\'\n'
        "async def main():\n"
        "    idle, busy = await asyncio.gather(*(Kernel.started(limits()) for _ in range(2)))\n"
        "    async for part in idle.execute(CODE, CellOutput(99), 'c'):\n"
        "        pass\n"
        "    async for part in busy.execute(CODE + 'while True: pass', CellOutput(99), 'c'):\n"
        "        print(idle.pid, idle.work, busy.pid, busy.work, flush=True)\n"
        "asyncio.run(main())\n"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server.stdout:
        idle, idle_work, busy, busy_work = server.stdout.readline().split()
    keepers = [psutil.Process(int(pid)) for pid in (idle, busy)]
    processes = [each for one in keepers for each in (one, *one.children(recursive=True))]
    assert len(processes) >= 6
    folders = [Path(work).parent for work in (idle_work, busy_work)]
    assert all(folder.is_dir() for folder in folders)
    server.kill()
    server.wait()
    assert asyncio.run(gone(processes))
    assert [folder for folder in folders if folder.exists()] == []


BOMB = "b() { [ $1 -gt 0 ] && { b $(($1 - 1)) & b $(($1 - 1)) & }; sleep 30; }; b 11"
"""Doubles itself eleven times, so that also an unguarded machine survives it: 2,048 shells and as many
sleeps."""


async def test_a_fork_bomb_ends_with_its_kernel() -> None:
    kernel = await Kernel.started(limits(processes=64))
    folder = str(Path(kernel.work).parent)
    try:
        with pytest.raises(KernelDied):
            await run(
                kernel,
                f"import subprocess\nsubprocess.run(['sh', '-c', {BOMB!r}])\nimport time; time.sleep(60)",
            )
        assert await gone(list(_with(folder)))
        assert not list(_with(folder))
    finally:
        await kernel.stop()


async def test_who_kills_the_keeper_gains_nothing(kernel: Kernel) -> None:
    folder = str(Path(kernel.work).parent)
    code = (
        "import os, subprocess\n"
        "subprocess.Popen(['setsid', 'sleep', '99'])\nsubprocess.Popen(['sleep', '99'])\n"
        "os.kill(os.getppid(), 9)\n"
        "import time\ntime.sleep(60)"
    )
    with pytest.raises(KernelDied):
        await run(kernel, code)
    await kernel.stop()
    assert not list(_with(folder))
    with pytest.raises(FileNotFoundError):
        os.stat(folder)


async def test_a_keeper_that_is_stopped_does_not_hold_the_server(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notebooks.kernels.local.EXIT_PATIENCE", 0.2)
    folder = str(Path(kernel.work).parent)
    code = (
        "import os, signal, subprocess\nsubprocess.Popen(['setsid', 'sleep', '99'])\n"
        "os.kill(os.getppid(), signal.SIGSTOP)"
    )
    await run(kernel, code)
    await kernel.stop()
    assert not list(_with(folder))


def _with(folder: str) -> Iterator[psutil.Process]:
    """Processes that have the folder in their environment."""
    for pid in keeper._marked(folder.encode()):
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


async def test_what_limits_what(tmp_path: Path) -> None:
    """Memory and the size of files are limited, processes that are started included; their number of files is
    not."""
    kernel = await Kernel.started(limits(memory_limit=2**30, file_limit=10_000_000))
    try:
        parts, _ = await run(kernel, "x = [0] * (10 * 2**27)")
        assert outputs(parts)[-1].ename == "MemoryError"
        parts, _ = await run(
            kernel,
            "import errno\n"
            "try:\n    with open('big', 'wb') as file:\n"
            "        file.seek(10 * 2**30)\n        file.write(b'x')\n"
            "except OSError as error:\n    print(error.errno == errno.EFBIG)",
        )
        assert text(parts) == "True\n"
        parts, _ = await run(
            kernel,
            "import subprocess, sys\n"
            "print(subprocess.run([sys.executable, '-S', '-c', 'bytearray(2**31)'],"
            " stderr=subprocess.PIPE).stderr.decode())",
        )
        assert "MemoryError" in text(parts)
        parts, end = await run(kernel, "print('fine')")
        assert (text(parts), end.status) == ("fine\n", "ok")
    finally:
        await kernel.stop()


async def test_a_kernel_inherits_no_file(kernel: Kernel, tmp_path: Path) -> None:
    """Neither the server's sockets nor its database: both are open here, and inheritable."""
    with (tmp_path / "database").open("wb") as file:
        os.set_inheritable(file.fileno(), True)
        made = await Kernel.started(limits())
        try:
            code = (
                "import os\nfor name in os.listdir('/proc/self/fd'):\n"
                "    try:\n        print(os.readlink(f'/proc/self/fd/{name}'))\n"
                "    except OSError:\n        pass"
            )
            parts, _ = await run(made, code)
            child, _ = await run(
                made,
                "import subprocess\n"
                "print(subprocess.run(['ls', '-l', '/proc/self/fd'], capture_output=True, close_fds=False)"
                ".stdout.decode())",
            )
        finally:
            await made.stop()
    opened = set(text(parts).split("\n")) - {""}
    assert str(tmp_path / "database") not in opened | set(text(child).split())
    # What is left is its own: null, the log, and what sockets and event loops it made itself.
    files = {path for path in opened if path.startswith("/") and not path.startswith(("/dev/null", "/proc/"))}
    assert {Path(path).name for path in files} <= {"log"}
    assert "socket:" not in text(child)


async def test_who_reads_standard_input_finds_its_end(kernel: Kernel) -> None:
    parts, _ = await run(
        kernel, "import subprocess\nprint(subprocess.run(['cat'], capture_output=True).stdout)"
    )
    assert text(parts) == "b''\n"


# Where the folder is


@pytest.fixture
def long_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / ("x" * 100)
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


async def test_a_place_too_long_for_sockets_is_left_for_a_shorter(
    long_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    kernel = await Kernel.started(limits())
    try:
        assert not kernel.work.startswith(str(long_place))
        assert text((await run(kernel, "print(1)"))[0]) == "1\n"
    finally:
        await kernel.stop()


def test_the_runtime_folder_comes_before_tmp(
    long_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        folder = launch.Folder()
        assert folder.path.parent == Path(short)
        assert folder.path.stat().st_mode & 0o777 == 0o700
        assert len(f"{folder.sockets}-5") <= 107
        folder.remove()
        assert not folder.path.exists()


async def test_no_place_at_all_is_told(long_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**kwargs: Any) -> str:
        raise OSError(28, "No space left on device", kwargs["dir"])

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(KernelNotStarted, match=r"too long for sockets.*No space left on device.*TMPDIR"):
        await Kernel.started(limits())


def test_the_longest_place_has_room_for_sockets() -> None:
    place = "x" * launch.LONGEST_PLACE
    assert len(f"{place}/{launch.PREFIX}12345678/s-12") == 107


def test_a_kernel_that_does_not_start_names_the_command(folder: Path) -> None:
    kept = Kept(folder, "/nowhere/at-all", "{folder}")
    try:
        assert kept.keeper.wait(PATIENCE) == 127
        assert kept.keeper.stderr is not None
        assert "/nowhere/at-all" in kept.keeper.stderr.read()
    finally:
        kept.clean()


def test_the_folder_is_put_into_the_command(folder: Path) -> None:
    kept = Kept(folder, "echo", "in {folder}/work")
    try:
        assert kept.line() == f"in {folder}/work"
        assert kept.keeper.wait(PATIENCE) == 0
    finally:
        kept.clean()


def test_a_keeper_ends_when_told(folder: Path) -> None:
    kept = Kept(folder, *python(RUNAWAYS))
    try:
        assert kept.line() == "on"
        kept.keeper.send_signal(signal.SIGTERM)
        kept.keeper.wait(PATIENCE)
        assert kept.left() == []
    finally:
        kept.clean()
