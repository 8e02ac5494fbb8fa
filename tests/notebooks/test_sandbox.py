"""The sandboxes in `deploy/`, for real: what code in them cannot do, and that it still can be stopped."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from notebooks.kernels import keeper
from notebooks.kernels.local import LocalKernel as Kernel
from streaming.core.errors import KernelDied, KernelNotStarted
from tests.support.client import eventually
from tests.support.servers import ROOT

from .conftest import limits
from .test_keeper import BOMB
from .test_kernel import family, gone, outputs, run, text

FIRST_USER = 1_000_000

SANDBOX = f"{ROOT}/deploy/kernel-sandbox {FIRST_USER} {{folder}} --"

BUBBLEWRAP = f"{ROOT}/deploy/kernel-sandbox-bwrap {{folder}} --"

DENIED = """
import json, os, socket

def told(act):
    try:
        return repr(act())
    except Exception as error:
        return type(error).__name__

def connect(*address, family=socket.AF_INET):
    with socket.socket(family) as made:
        made.settimeout(3)
        made.connect(*address)

def processes():
    return [name for name in os.listdir("/proc") if name.isdecimal()]

print(json.dumps({
    "keeper": told(lambda: os.kill(%(keeper)d, 0)),
    "server": told(lambda: os.kill(%(server)d, 0)),
    "first process": told(lambda: os.kill(1, 9)) if os.getuid() else None,
    "environment": told(lambda: open("/proc/%(server)d/environ", "rb").read()),
    "processes": len(processes()),
    "file 600": told(lambda: open(%(files)r + "/600").read()),
    "file 640": told(lambda: open(%(files)r + "/640").read()),
    "file 644": told(lambda: open(%(files)r + "/644").read()),
    "port": told(lambda: connect(("127.0.0.1", %(port)d))),
    "host": told(lambda: connect(("192.0.2.1", 80))),
    "metadata": told(lambda: connect(("169.254.169.254", 80))),
    "socket": told(lambda: connect(%(socket)r, family=socket.AF_UNIX)),
    "abstract": told(lambda: connect("\\0" + %(abstract)r, family=socket.AF_UNIX)),
    "other folder": told(lambda: os.listdir(%(other)r)),
    "other kernel": told(lambda: connect(%(other)r + "/s-1", family=socket.AF_UNIX)),
    "other connection": told(lambda: open(%(other)r + "/connection.json").read()),
    "root": told(lambda: os.setuid(0)) if os.getuid() else None,
    "own folder": told(lambda: open("mine", "w").write("x")),
    "user": os.getuid(),
}))
"""
"""Tries what must not work, and says what comes of it."""


@cache
def a_python_for_everybody() -> tuple[str, str]:
    """An interpreter that other users may run, with ipykernel, and words that must come before it. Skips if
    there is none."""
    packages = sysconfig.get_paths()["purelib"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [(sys.executable, "")]
    if other := shutil.which(version, path="/usr/local/bin:/usr/bin"):
        candidates.append((other, f"env PYTHONPATH={packages}"))
    for interpreter, before in candidates:
        command = [*before.split(), interpreter, "-c", "import ipykernel, zmq"]
        words = [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"),
            *("sh", "-c", 'exec "$@"', "sh"),
        ]
        if not subprocess.run([*words, *command], capture_output=True, cwd="/").returncode:
            return interpreter, before
    pytest.skip("needs an interpreter that other users may run")


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skips where a user cannot be given rights away, or no namespace can be made."""
    tools = all(map(shutil.which, ("unshare", "setpriv", "prlimit", "mount")))
    if os.getuid() or not tools or subprocess.run(TRY, capture_output=True).returncode:
        pytest.skip("needs root and namespaces")


TRY = [
    *("unshare", "--net", "--ipc", "--uts", "--mount", "--mount-proc", "--pid", "--fork", "--"),
    *("setpriv", f"--reuid={FIRST_USER}", f"--regid={FIRST_USER}", "--clear-groups", "true"),
]


@asynccontextmanager
async def sandboxed(sandbox: str = SANDBOX, **changes: Any) -> AsyncIterator[Kernel]:
    if sandbox == SANDBOX:
        interpreter, before = a_python_for_everybody()
        changes = {"python": interpreter} | changes
        sandbox = f"{sandbox} {before}"
    kernel = await Kernel.started(limits(sandbox=sandbox, **changes))
    try:
        yield kernel
    finally:
        await kernel.stop()


@pytest.fixture
def files() -> Iterator[str]:
    """A folder in which everybody may look, with files that only some may read."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)  # noqa: S103
        for mode in (0o600, 0o640, 0o644):
            path = Path(folder, f"{mode:o}")
            path.write_text("secret")
            path.chmod(mode)
        yield folder


@pytest.fixture
def listeners() -> Iterator[dict[str, Any]]:
    """What a server's neighbours listen on: a port, a socket for everybody, one without a file."""
    with (
        tempfile.TemporaryDirectory(dir="/run") as folder,
        socket.create_server(("127.0.0.1", 0)) as port,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        os.chmod(folder, 0o755)  # noqa: S103
        named.bind(f"{folder}/everybody")
        os.chmod(f"{folder}/everybody", 0o777)  # noqa: S103
        abstract.bind(f"\0{folder}")
        for each in (named, abstract):
            each.listen()
        yield {"port": port.getsockname()[1], "socket": f"{folder}/everybody", "abstract": folder}


async def tried(kernel: Kernel, other: Kernel, files: str, listeners: dict[str, Any]) -> dict[str, Any]:
    """What comes of DENIED in one kernel, beside another one."""
    names = {
        "keeper": kernel.pid,
        "server": os.getpid(),
        "files": files,
        "other": str(Path(other.work).parent),
        **listeners,
    }
    parts, _ = await run(kernel, DENIED % names)
    assert outputs(parts) == []
    found: dict[str, Any] = json.loads(text(parts))
    return found


REFUSED = {"PermissionError", "ProcessLookupError", "FileNotFoundError", "ConnectionRefusedError", "OSError"}


@pytest.mark.usefixtures("namespaces")
async def test_code_reaches_nothing_but_its_own(files: str, listeners: dict[str, Any]) -> None:
    async with sandboxed() as kernel, sandboxed() as other:
        found = await tried(kernel, other, files, listeners)
        theirs = text((await run(other, "import os; print(os.getuid())"))[0])
    assert (found.pop("file 644"), found.pop("own folder")) == ("'secret'", "1")
    assert found.pop("processes") == 2
    user = found.pop("user")
    assert FIRST_USER < user != int(theirs)
    assert {name: answer for name, answer in found.items() if answer not in REFUSED} == {}
    assert (found["file 640"], found["port"]) == ("PermissionError", "OSError")


async def stop_it_in_every_way(sandbox: str, **changes: Any) -> None:
    async with sandboxed(sandbox, **changes) as kernel:
        # An interrupt reaches what runs, and what that runs.
        running = asyncio.create_task(
            run(kernel, "import subprocess\nprint(subprocess.run(['sleep', '60']).returncode)")
        )
        await until(lambda: "sleep" in [each.name() for each in family(kernel)])
        await kernel.interrupt()
        parts, end = await running
        assert (end.status, outputs(parts)[-1].ename) == ("error", "KeyboardInterrupt")
        # Daemons have a parent that notices their end.
        code = (
            "for _ in range(3): subprocess.run(['sh', '-c', 'setsid true & setsid sleep 99 &'])\nprint('on')"
        )
        assert text((await run(kernel, code))[0]) == "on\n"
        await until(
            lambda: psutil.STATUS_ZOMBIE not in [each.status() for each in family(kernel)],
        )
        processes = family(kernel)
        assert [each.name() for each in processes].count("sleep") == 3
        # Whatever it kills, it is gone itself, and nothing else.
        with pytest.raises(KernelDied):
            await run(kernel, "import os\nos.kill(-1, 9)\nos._exit(1)")
        assert await gone(processes)
        folder = Path(kernel.work).parent
    with pytest.raises(FileNotFoundError):
        os.stat(folder)


async def until(condition: Callable[[], bool]) -> None:
    async def look() -> bool:
        return condition()

    assert await eventually(look, 30)


@pytest.mark.usefixtures("namespaces")
async def test_it_is_stopped_in_every_way() -> None:
    await stop_it_in_every_way(SANDBOX)


@pytest.mark.usefixtures("namespaces")
async def test_a_fork_bomb_ends_with_its_kernel() -> None:
    async with sandboxed(processes=64) as kernel:
        folder = str(Path(kernel.work).parent)
        with pytest.raises(KernelDied):
            await run(
                kernel,
                f"import subprocess\nsubprocess.run(['sh', '-c', {BOMB!r}])\nimport time; time.sleep(60)",
            )
        await until(lambda: not list(keeper._marked(folder.encode())))


@pytest.mark.usefixtures("namespaces")
async def test_the_number_of_its_tasks_has_an_end_of_its_own() -> None:
    """Also without KERNEL_PROCESSES. The number of the script, and a process more than that."""
    async with sandboxed(processes=0, memory_limit=0) as kernel:
        parts, _ = await run(
            kernel,
            "import threading, time\nmade = []\ntry:\n    for _ in range(1100):\n"
            "        made.append(threading.Thread(target=time.sleep, args=(2,)))\n"
            "        made[-1].start()\n"
            "except RuntimeError:\n    print(len(made))",
        )
        assert 500 < int(text(parts)) <= 1024


A_SERVER = """
import asyncio, os, sys
sys.path.insert(0, os.getcwd())
from notebooks.kernels.output import CellOutput
from tests.notebooks.test_sandbox import sandboxed

CODE = 'import subprocess; subprocess.Popen(["setsid", "sleep", "99"]); print(1, flush=True)\\nwhile 1: 1'

async def main():
    async with sandboxed() as kernel:
        async for part in kernel.execute(CODE, CellOutput(99), "c"):
            print(kernel.pid, kernel.work, flush=True)

asyncio.run(main())
"""


async def family_with(name: str, one: psutil.Process) -> list[psutil.Process]:
    """The process and all below it, once one of these has that name; else none."""
    processes = [one, *one.children(recursive=True)]
    return processes if name in [each.name() for each in processes] else []


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("killed", ["server", "keeper"])
def test_nothing_is_left_of_it_when_others_are_killed(killed: str) -> None:
    a_python_for_everybody()
    server = subprocess.Popen([sys.executable, "-c", A_SERVER], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdout is not None
    with server.stdout:
        pid, work = server.stdout.readline().split()
    one = psutil.Process(int(pid))
    # The child that the code makes has this name once it runs that program.
    processes = asyncio.run(eventually(lambda: family_with("sleep", one)))
    assert processes
    (server if killed == "server" else one).kill()
    server.wait(30)
    assert asyncio.run(gone(processes))
    assert not Path(work).exists()


@pytest.mark.usefixtures("namespaces")
def test_an_interpreter_that_its_user_may_not_run_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Of mode 0700, as the home of a user is.
        interpreter = Path(folder, "python")
        interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        interpreter.chmod(0o755)
        with pytest.raises(KernelNotStarted, match=f"{interpreter}: Permission denied"):
            asyncio.run(Kernel.started(limits(sandbox=SANDBOX, python=str(interpreter))))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["1000", "folder"],
        ["0", "folder", "--", "true"],
        ["x", "folder", "--", "true"],
        ["", "folder", "--", "id"],
    ],
)
def test_wrong_words_are_refused(arguments: list[str]) -> None:
    done = subprocess.run([ROOT / "deploy" / "kernel-sandbox", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr.split(":")[0]) == (64, "usage")


@pytest.mark.parametrize("name", ["kernel-sandbox", "kernel-sandbox-bwrap"])
def test_they_are_programs(name: str) -> None:
    assert (ROOT / "deploy" / name).stat().st_mode & stat.S_IXOTH


# Bubblewrap


@pytest.fixture(scope="module")
def bubblewrap() -> None:
    command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    if not shutil.which("bwrap") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs bwrap and user namespaces")


@pytest.mark.usefixtures("bubblewrap")
async def test_bubblewrap_shows_nothing_else(files: str, listeners: dict[str, Any]) -> None:
    async with sandboxed(BUBBLEWRAP) as kernel, sandboxed(BUBBLEWRAP) as other:
        found = await tried(kernel, other, files, listeners)
        await run(kernel, "open('/usr/x', 'w')")
    assert found.pop("own folder") == "1"
    assert found.pop("processes") == 2
    found = {name: answer for name, answer in found.items() if name != "user" and answer is not None}
    assert {name: answer for name, answer in found.items() if answer not in REFUSED} == {}


@pytest.mark.usefixtures("bubblewrap")
async def test_bubblewrap_is_stopped_in_every_way() -> None:
    await stop_it_in_every_way(BUBBLEWRAP)
