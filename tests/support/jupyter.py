"""A Jupyter Server of the tests' own: on a free loopback port, with a token, in a temporary folder, ended by
its pid, with its kernels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil

from tests.support.servers import free_port

START_LIMIT: Final = 60.0
STOP_LIMIT: Final = 20.0


@dataclass
class JupyterServer:
    """A running Jupyter Server. `options`: of its command line."""

    folder: Path
    port: int
    options: tuple[str, ...]
    token: str = "a-token-of-the-tests"
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    @property
    def url(self) -> str:
        """KERNEL_GATEWAY_URL."""
        return f"http://127.0.0.1:{self.port}/hub"

    def start(self) -> None:
        """Start it (again), and wait until it answers. Raises `RuntimeError`."""
        places = {
            f"JUPYTER_{name}_DIR": str(self.folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
        }
        command = [
            sys.executable,
            "-m",
            "jupyter_server",
            "--no-browser",
            "--allow-root",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            "--ServerApp.ip=127.0.0.1",
            "--ServerApp.base_url=/hub/",
            f"--ServerApp.root_dir={self.folder}",
            "--ServerApp.terminals_enabled=False",
            "--ServerApp.jpserver_extensions={}",
            *self.options,
        ]
        env = {
            **os.environ,
            **places,
            "JUPYTER_TOKEN": self.token,
            "IPYTHONDIR": str(self.folder / "ipython"),
        }
        with (self.folder / "jupyter.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(httpx2.HTTPError):
                httpx2.get(f"{self.url}/api", timeout=5)
                return
            time.sleep(0.05)
        raise RuntimeError(self.log())

    def log(self) -> str:
        """What it has said."""
        return (self.folder / "jupyter.log").read_text(errors="replace")

    def kernels(self) -> list[dict[str, Any]]:
        """Those that it has, as it shows them."""
        headers = {"Authorization": f"token {self.token}"}
        answer = httpx2.get(f"{self.url}/api/kernels", headers=headers)
        return list(answer.json())

    def processes(self) -> list[psutil.Process]:
        """The processes of its kernels, and all that they have started."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def freeze(self) -> None:
        """Let it answer nothing, while its connections stay."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, with its kernels."""
        self.thaw()
        below = self.processes() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait(STOP_LIMIT)
        for each in below:
            with suppress(psutil.NoSuchProcess):
                each.kill()


@contextmanager
def jupyter_server(*options: str) -> Iterator[JupyterServer]:
    """A Jupyter Server until the block ends, which drops no output however fast it comes."""
    chosen = ("--ZMQChannelsWebsocketConnection.limit_rate=False", *options)
    with tempfile.TemporaryDirectory(prefix="jupyter-", ignore_cleanup_errors=True) as folder:
        server = JupyterServer(Path(folder), free_port(), chosen)
        try:
            yield server
        finally:
            server.stop()
