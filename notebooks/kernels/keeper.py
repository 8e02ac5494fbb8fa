"""The parent of one kernel: sets its limits, passes signals on, and takes everything down with it.

Run as a program by itself (`python -I -S keeper.py OPTIONS -- COMMAND`), with the standard library only, so
that it is small and starts at once. Whatever the kernel starts, however often it forks and whatever session
it moves to, is adopted by the keeper when its parent ends (Linux: `PR_SET_CHILD_SUBREAPER`, prctl(2)), and
killed when the kernel ends, when the server asks for it (SIGTERM), and when the server is gone: then the
lifeline, a pipe whose other end only the server holds, comes to its end.
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
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

LOOK = 0.25
"""Seconds between two looks at how many processes there are."""

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
    parser.add_argument("--memory", type=int, default=0, help="bytes of address space of a process; 0: any")
    parser.add_argument("--file-size", type=int, default=0, help="bytes of a file; 0: any")
    parser.add_argument("--cpu", type=int, default=0, help="seconds of processor time of a process; 0: any")
    parser.add_argument("--processes", type=int, default=0, help="processes at once; 0: any")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)

    adopt_orphans()
    wake_up = _wake_up_at_signals()
    child = os.fork()
    if not child:
        _become(options)
    status = _watch(child, options.lifeline, wake_up, options.processes)
    kill_all()
    return status


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends; only Linux can."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def kill_all() -> None:
    """Kill every descendant, and those that they make meanwhile; for `PATIENCE` seconds at most."""
    end = time.monotonic() + PATIENCE
    while found := _descendants():
        # Those that stand still make no new ones.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        _reap()
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    _reap()


def _watch(child: int, lifeline: int, wake_up: int, processes: int) -> int:
    """Wait until the kernel has ended, or must; its exit status."""
    stopping = _pass_signals_to(child)
    while True:
        readable, _, _ = select.select([lifeline, wake_up], [], [], LOOK)
        if wake_up in readable:
            os.read(wake_up, 512)
        ended = _reap().get(child)
        if ended is not None:
            return os.waitstatus_to_exitcode(ended) % 256 if ended >> 8 else 128 + (ended & 0x7F)
        if lifeline in readable or stopping:
            return 128 + signal.SIGKILL
        if processes and len(_descendants()) > processes:
            return TOO_MANY


def _pass_signals_to(child: int) -> list[int]:
    """Hand interrupts to the kernel's process group; the list gets what asks the keeper itself to end."""
    stopping: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGINT)

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
        os.set_inheritable(options.lifeline, False)
        os.execvp(options.command[0], options.command)  # noqa: S606 - that is what it is for
    except BaseException as error:
        os.write(2, f"the kernel could not be started: {error}\n".encode())
        os._exit(127)


def _limit(which: int, wanted: int, value: int | None = None) -> None:
    if wanted:
        value = wanted if value is None else value
        _, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(which, (value, value))


def _descendants() -> list[int]:
    """Process ids of children, their children, and so on."""
    found: list[int] = []
    parents = [os.getpid()]
    while parents:
        children = [pid for parent in parents for pid in _children(parent)]
        found += children
        parents = children
    return found


def _children(parent: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{parent}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        with contextlib.suppress(OSError):
            listed = Path(f"/proc/{parent}/task/{thread}/children").read_text(encoding="ascii")
            found += [int(pid) for pid in listed.split()]
    return found


def _reap() -> dict[int, int]:
    """Take note of children that have ended: status by process id."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = status
    return ended


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
