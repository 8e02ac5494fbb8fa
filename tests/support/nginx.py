"""A real nginx with the configuration that is shipped in `deploy/`, on free ports, ended by its own pid."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from tests.support.servers import ROOT, Signalled, free_port

FILES = ("nginx_streaming.conf", "nginx_streaming_tls.conf", "nginx_streaming_locations.conf")

HOST = "sluice.example.org"
"""The name that the TLS server block is shipped with."""

PATIENCE = 20.0

MAIN = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
    include {types};
    default_type application/octet-stream;
    # As the systems' own files have it.
    gzip on;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include conf.d/*.conf;
}}
"""
"""What an nginx.conf has around the shipped files."""


def find_nginx() -> str | None:
    """The system's nginx, None if there is none."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass
class Nginx(Signalled):
    """A running nginx. `authority` is the file with the certificate of who signed its own."""

    launch: Callable[[], subprocess.Popen[bytes]]
    folder: Path
    port: int
    tls_port: int
    authority: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start it (again), and wait until it listens. Raises `RuntimeError`."""
        self.process = self.launch()
        _wait_until_it_listens(self)

    def kill(self) -> None:
        """End it as a crash of the machine would: a worker that were left would keep the port."""
        self._signal_all(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def freeze(self) -> None:
        """Let it answer nothing, its workers neither."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal_all(signal.SIGCONT)

    @property
    def url(self) -> str:
        """Where it speaks plain HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        """Where it speaks TLS."""
        return f"https://{HOST}:{self.tls_port}"

    def reload(self) -> None:
        """What `systemctl reload` does; returns when a new worker answers."""
        before = self._workers()
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while self._workers() <= before:
            assert time.monotonic() < deadline, self.errors()
            time.sleep(0.02)

    def errors(self) -> str:
        """Its error log."""
        return (self.folder / "error.log").read_text(errors="replace")

    def _signal_all(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _workers(self) -> int:
        return len(re.findall(r"start worker process \d+", self.errors()))


def shipped(name: str, replaced: Mapping[str, str]) -> str:
    """A file of `deploy/`, with what is to be replaced in it."""
    text = (ROOT / "deploy" / name).read_text()
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


@contextmanager
def fronted(
    folder: Path,
    upstream: int | Sequence[int],
    changes: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Iterator[Nginx]:
    """An nginx with its files in `folder`, before a server at the port `upstream`, or several; at `port`, or
    at any that is free. `changes` of the shipped text, beside ports and paths, are for controls that must
    fail."""
    binary = find_nginx()
    assert binary is not None
    port = free_port() if port is None else port
    tls_port, plain = free_port(), free_port()
    ports = [upstream] if isinstance(upstream, int) else upstream
    authority, key, chain = _certificate(folder)
    replaced = {
        "127.0.0.1:18600": f"127.0.0.1:{port}",
        "server 127.0.0.1:8000;": _servers(ports),
        "listen 443 ": f"listen 127.0.0.1:{tls_port} ",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "/etc/ssl/sluice/fullchain.pem": str(chain),
        "/etc/ssl/sluice/privkey.pem": str(key),
        "/var/log/nginx/sluice.access.log": str(folder / "access.log"),
        "/srv/sluice/staticfiles/": f"{folder / 'static'}/",
        **(changes or {}),
    }
    everything = "".join(shipped(name, {}) for name in FILES)
    assert [old for old in replaced if old not in everything] == []
    for name in FILES:
        place = folder / ("snippets" if "locations" in name else "conf.d") / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(shipped(name, replaced))
    (folder / "static").mkdir()
    (folder / "error.log").touch()
    types = Path("/etc/nginx/mime.types")
    main = folder / "nginx.conf"
    main.write_text(
        MAIN.format(
            folder=folder,
            types=types if types.exists() else "conf.d/none*.conf",
            user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
        )
    )
    command = [binary, "-p", str(folder), "-c", str(main)]
    subprocess.run([*command, "-t", "-q"], check=True, timeout=PATIENCE)

    def launch() -> subprocess.Popen[bytes]:
        with (folder / "output").open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, process_group=0)

    nginx = Nginx(launch, folder, port, tls_port, authority)
    nginx.process = launch()
    try:
        _wait_until_it_listens(nginx)
        yield nginx
    finally:
        nginx.thaw()
        nginx.stop(seconds=PATIENCE)


def _servers(ports: Sequence[int]) -> str:
    """The lines of `upstream`. One of several that does not answer is asked again soon: the next one may be
    restarted then."""
    patience = " fail_timeout=1s" if len(ports) > 1 else ""
    return "\n    ".join(f"server 127.0.0.1:{port}{patience};" for port in ports)


def _certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Files with who signs, the key, and the chain, of a certificate for an hour or so."""
    authority = trustme.CA()
    own = authority.issue_cert(HOST, "localhost", "127.0.0.1")
    files = folder / "authority.pem", folder / "key.pem", folder / "chain.pem"
    authority.cert_pem.write_to_path(files[0])
    own.private_key_pem.write_to_path(files[1])
    for blob in own.cert_chain_pems:
        blob.write_to_path(files[2], append=True)
    return files


def trusting(nginx: Nginx) -> ssl.SSLContext:
    """A client's context that takes its certificate and no other."""
    return ssl.create_default_context(cafile=str(nginx.authority))


def _wait_until_it_listens(nginx: Nginx) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if nginx.process.poll() is not None:
            raise RuntimeError(f"nginx ended at its start:\n{(nginx.folder / 'output').read_text()}")
        try:
            for port in (nginx.port, nginx.tls_port):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nginx did not listen:\n{nginx.errors()}")
