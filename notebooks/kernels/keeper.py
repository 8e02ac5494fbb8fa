"""The parent of one kernel: sets its limits, passes signals on, and takes everything down with it.

Run as a program by itself (`python -I -S keeper.py OPTIONS -- COMMAND`), with the standard library only, so
that it is small and starts at once. Whatever the kernel starts, however often it forks and whatever session
it moves to, is adopted by the keeper when its parent ends (Linux: `PR_SET_CHILD_SUBREAPER`, prctl(2)), and
killed when the kernel ends, when the server asks for it (SIGTERM), and when the lifeline ends, a pipe whose
other end only the server holds: because it lets go of the kernel, or is gone. Then the keeper, which lives
longest, removes the kernel's private folder too.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36

LOOK = 0.1
"""Seconds between two looks at how many processes there are."""

QUICK_LOOK = 0.01
"""The same, while they become more."""

PATIENCE = 5.0
"""Seconds for which processes that do not die are killed again."""

NICENESS = 5
"""How much a kernel stands back behind the server."""

TOO_MANY = 75
"""Exit status when the kernel had too many processes."""


def main(arguments: list[str]) -> int:
    """Run the command and everything it starts; its exit status, 128 + signal if one ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lifeline", type=int, required=True, help="file descriptor to watch")
    parser.add_argument("--notice", type=int, required=True, help="file descriptor to close at its end")
    parser.add_argument("--unprivileged", action="store_true", help="drop all capabilities, also of root")
    parser.add_argument("--memory", type=int, default=0, help="bytes of address space of a process; 0: any")
    parser.add_argument("--file-size", type=int, default=0, help="bytes of a file; 0: any")
    parser.add_argument("--cpu", type=int, default=0, help="seconds of processor time of a process; 0: any")
    parser.add_argument("--processes", type=int, default=0, help="processes at once; 0: any")
    parser.add_argument("--connection-file", type=Path, required=True, help="a file in its private folder")
    parser.add_argument("command", nargs="+", help="{folder} in a word stands for the private folder")
    options = parser.parse_args(arguments)

    adopt_orphans()
    wake_up = _wake_up_at_signals()
    child = os.fork()
    if not child:
        _become(options)
    status = _watch(child, options.lifeline, wake_up, options.processes)
    # The server hears of the end before everything is tidied up.
    os.close(options.notice)
    if not kill_all():
        complaint = "not all processes of the kernel end: signals must reach what the sandbox starts\n"
        with contextlib.suppress(OSError):
            os.write(2, complaint.encode())
    if _ready((options.lifeline,), 0):
        remove(options.connection_file.parent)
    return status


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends; only Linux can."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def hide_from_equals() -> None:
    """Keep what this process has in its memory and environment from others of its user (prctl(2),
    PR_SET_DUMPABLE). For the server; only Linux can."""
    _prctl(PR_SET_DUMPABLE, 0)


def kill_all() -> bool:
    """Kill every descendant, and those that they make meanwhile; for `PATIENCE` seconds at most.

    False if some are left. A look at /proc can miss a process whose parent ends at that moment; that no
    child is left at all, waitpid(2) knows for certain, and orphans become children.
    """
    end = time.monotonic() + PATIENCE
    known: set[int] = set()
    while _reap({}):
        found = set()
        for pid in _descendants():
            # One that stands makes no new ones while the others are looked for.
            _signal(pid, signal.SIGSTOP)
            found.add(pid)
        for pid in found:
            _signal(pid, signal.SIGKILL)
        if time.monotonic() > end:
            return False
        if found <= known:
            # All have been told, and need a moment.
            time.sleep(0.005)
        known = found
    return True


def kill_marked(mark: str) -> None:
    """Kill every process with `mark` in its environment, for `PATIENCE` seconds at most. For a server whose
    keeper was killed: what a kernel starts mostly has its environment."""
    end = time.monotonic() + PATIENCE
    while (found := list(_marked(mark.encode()))) and time.monotonic() < end:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                _signal(pid, number)
        time.sleep(0.005)


def remove(folder: Path) -> None:
    """Delete it with everything in it, also what its owner has no access to. What cannot be deleted stays.
    Nobody may work in it any more."""
    # Not needed until the end, and slow to import.
    import shutil

    with contextlib.suppress(OSError, RecursionError):
        for parent, names, _ in os.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _watch(child: int, lifeline: int, wake_up: int, processes: int) -> int:
    """Wait until the kernel has ended, or must; its exit status."""
    stopping = _pass_signals_to(child)
    crowd = Crowd()
    ended: dict[int, int] = {}
    while True:
        pause = QUICK_LOOK if crowd.grows else LOOK
        readable = _ready((lifeline, wake_up), pause)
        if wake_up in readable:
            os.read(wake_up, 512)
        _reap(ended)
        if child in ended:
            code = os.waitstatus_to_exitcode(ended[child])
            return code if code >= 0 else 128 - code
        ended.clear()
        if lifeline in readable or stopping:
            return 128 + signal.SIGKILL
        if processes and crowd.look() > processes:
            return TOO_MANY


def _ready(descriptors: tuple[int, ...], seconds: float) -> set[int]:
    """Which of them can be read, or are at their end."""
    # select(2) takes low numbers only, and those of a busy server are not.
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(seconds * 1000)}


class Crowd:
    """How many descendants there are. `grows`: whether they became more from the last look but one to the
    last."""

    def __init__(self) -> None:
        self.grows = False
        self._number = 0
        self._newest = ""

    def look(self) -> int:
        """Their number. They are counted only if any process was made since the last look, which the system
        tells at once (proc(5), loadavg: the id of the newest)."""
        newest = _read("/proc/loadavg").rpartition(" ")[2]
        if newest == self._newest and newest:
            self.grows = False
        else:
            number = sum(1 for _ in _descendants())
            self.grows = number > self._number
            self._number, self._newest = number, newest
        return self._number


def _pass_signals_to(child: int) -> list[int]:
    """Hand interrupts to the kernel's process group; the list gets what asks the keeper itself to end."""
    stopping: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        _signal(-child, signal.SIGINT)

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
    return stopping


def _wake_up_at_signals() -> int:
    """A file descriptor that is readable after each signal."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    os.set_blocking(reads, False)
    signal.set_wakeup_fd(writes)
    # Without a handler Python would not notice it.
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    # Until the kernel is there nobody needs an interrupt.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return reads


def _become(options: argparse.Namespace) -> None:
    """The kernel: a process group of its own, limits, then the command."""
    folder = str(options.connection_file.parent)
    command = [word.replace("{folder}", folder) for word in options.command]
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.nice(NICENESS)
        with contextlib.suppress(OSError):
            # Where memory ends, kernels go first.
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        _limit(resource.RLIMIT_CORE, 1, 0)
        _limit(resource.RLIMIT_AS, options.memory)
        _limit(resource.RLIMIT_FSIZE, options.file_size)
        _limit(resource.RLIMIT_CPU, options.cpu)
        for descriptor in (options.lifeline, options.notice):
            os.set_inheritable(descriptor, False)
        # Nobody types: who reads finds the end at once, and does not wait for it.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # ipykernel would look once a second whether the process that made it is still its parent.
        os.environ.pop("JPY_PARENT_PID", None)
        if options.unprivileged:
            _drop_capabilities()
        os.execvp(command[0], command)  # noqa: S606 - that is what it is for
    except BaseException as error:
        os.write(2, f"the kernel could not be started: {command[0]}: {error}\n".encode())
        os._exit(127)


def _limit(which: int, wanted: int, value: int | None = None) -> None:
    if wanted:
        value = wanted if value is None else value
        _, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(which, (value, value))


def _descendants() -> Iterator[int]:
    """Process ids of children, their children, and so on. The children of each are looked up after it was
    handed out."""
    found = _children(os.getpid())
    while found:
        yield from found
        found = [child for pid in found for child in _children(pid)]


def _children(parent: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{parent}/task")
    except OSError:
        return []
    return [int(pid) for thread in threads for pid in _read(f"/proc/{parent}/task/{thread}/children").split()]


def _marked(mark: bytes) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes() and int(path.parent.name) != os.getpid():
                yield int(path.parent.name)


def _read(path: str) -> str:
    """What the file of the system says; nothing if it is not there (any more)."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _signal(pid: int, number: int) -> None:
    # What a sandbox has made another user's may be out of reach.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _reap(ended: dict[int, int]) -> bool:
    """Add children that have ended: status by process id. Whether there are any others."""
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return True
            ended[pid] = status
    except ChildProcessError:
        return False


def _drop_capabilities() -> None:
    """What is executed from here on has none (capabilities(7)): as root, too, it may not look into processes
    that are not dumpable."""
    for capability in range(64):
        _prctl(PR_CAPBSET_DROP, capability)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
