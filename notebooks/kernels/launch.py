"""How a kernel's process is started: its folders, its environment, its command."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from streaming.core.errors import KernelNotStarted

from . import keeper
from .limits import PROGRAM, KernelLimits

_PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that hold no secret and that a program may need."""

PREFIX: Final = "sluice-"
"""How the names of private folders begin."""

LONGEST_PLACE: Final = 107 - len(f"/{PREFIX}12345678/s-12")
"""Bytes of the path of a private folder's parent, so that there is room for a socket's path (unix(7))."""


class Folder:
    """A kernel's private folder (mode 0700): sockets, connection file, log, and what it works in.

    Raises `KernelNotStarted` if there can be none.
    """

    def __init__(self) -> None:
        self.path = _private_folder()
        self.work = self.path / "work"
        self.work.mkdir(mode=0o700)

    @property
    def connection_file(self) -> Path:
        """Where the kernel reads its sockets and its key."""
        return self.path / "connection.json"

    @property
    def sockets(self) -> Path:
        """The sockets' common prefix."""
        return self.path / "s"

    @property
    def log(self) -> Path:
        """What the process says outside of all cells."""
        return self.path / "log"

    def last_words(self) -> str:
        """The end of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(-min(self.log.stat().st_size, 2_000), os.SEEK_END)
                return file.read().decode(errors="replace").strip()
        except OSError:
            return ""

    def remove(self) -> None:
        """Delete it with everything in it; what cannot be deleted stays. Mostly the keeper has done so; if
        not it may have been killed, and left processes behind: they end too."""
        if self.path.exists():
            keeper.kill_marked(str(self.path))
            keeper.remove(self.path)


def _private_folder() -> Path:
    reasons = []
    # Each once, in this order.
    for place in dict.fromkeys(filter(None, (tempfile.gettempdir(), os.getenv("XDG_RUNTIME_DIR"), "/tmp"))):  # noqa: S108
        if len(os.fsencode(place)) > LONGEST_PLACE:
            reasons.append(f"{place} is too long for sockets (at most {LONGEST_PLACE} bytes)")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        except OSError as error:
            reasons.append(str(error))
    raise KernelNotStarted(f"no place for a private folder: {'; '.join(reasons)}. Set TMPDIR.")


class OnlySpec(KernelSpecManager):
    """Knows one kernel, which needs no installation."""

    def __init__(self, argv: list[str], **traits: Any) -> None:
        super().__init__(**traits)
        self._spec = KernelSpec(
            argv=argv, display_name="Python 3", language="python", interrupt_mode="signal"
        )

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The one."""
        return self._spec


def command(limits: KernelLimits, lifeline: int, notice: int) -> list[str]:
    """What starts a kernel, with `{connection_file}` in it. `lifeline`, `notice`: see `keeper`."""
    python = limits.python or sys.executable
    program = PROGRAM.read_text(encoding="utf-8")
    kernel = [python, "-c", program, str(limits.output_limit), "-f", "{connection_file}"]
    kernel += [
        "--HistoryManager.enabled=False",
        "--IPKernelApp.log_level=40",
    ]
    return [
        sys.executable,
        "-I",
        "-S",
        keeper.__file__,
        f"--lifeline={lifeline}",
        f"--notice={notice}",
        f"--memory={limits.memory_limit}",
        f"--file-size={limits.file_limit}",
        f"--cpu={limits.cpu_limit}",
        f"--processes={limits.processes}",
        "--connection-file={connection_file}",
        *([] if limits.sandbox_words else ["--unprivileged"]),
        "--",
        *limits.sandbox_words,
        *kernel,
    ]


def environment(folder: Folder, wanted: Iterable[str]) -> dict[str, str]:
    """All that a kernel knows of the server's environment: names of `_PASSED_ON` and of `wanted`."""
    passed = {name: os.environ[name] for name in (*_PASSED_ON, *wanted) if name in os.environ}
    return passed | {
        "HOME": str(folder.work),
        "TMPDIR": str(folder.work),
        "IPYTHONDIR": str(folder.path / "ipython"),
        "PYTHONUTF8": "1",
        "PYTHONNOUSERSITE": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TERM": "xterm-256color",
    }
