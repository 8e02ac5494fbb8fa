"""`manage.py serve`: the server for streams, as in production so at home."""

from __future__ import annotations

import importlib.util
import locale
import os
import signal
import socket
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any, Final

import uvicorn
from django.conf import settings
from django.core.checks import ERROR
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from django.urls import NoReverseMatch, reverse
from uvicorn.supervisors import Multiprocess

from streaming import conf
from streaming.addresses import is_loopback, url_of
from streaming.checks import SERVING
from streaming.exposure import check_exposure
from streaming.http_protocol import StreamingHTTPProtocol
from streaming.metrics.sharing import shared_directory
from streaming.signals import preparing, serving
from streaming.websocket.protocol import MAX_MESSAGE

GRACEFUL_TIMEOUT: Final = 2
"""Seconds for what is still open after the drain: requests that are no streams."""

WORKER_PATIENCE: Final = 30
"""Seconds without any sign of life after which one of several processes is replaced."""

KERNEL_PATIENCE: Final = 2
"""Seconds after our own limit for a blocked send at which the kernel gives the connection up too."""

PING_INTERVAL: Final = 15
"""Seconds between two pings on a WebSocket."""

PONG_PATIENCE: Final = 15
"""Seconds for the pong; so a peer that vanished is noticed within half a minute."""

APPLICATION: Final = "streaming.served:application"

SPARE_FILES: Final = 256
"""Files that a process needs beside its connections: databases, logs, pipes."""

EARLIEST: Final = 1_700_000_000
"""Seconds since the epoch, in 2023: a clock that shows less was never set."""

PAGES: Final = {"API description": "sluice:openapi-view", "Admin": "admin:index"}
"""What is announced where the project has it: titles and names of URLs."""


class Command(BaseCommand):
    """uvicorn with httptools and the best event loop there is, on a socket that notices dead readers."""

    help = """Serve streams over HTTP at HOST:PORT (the settings of these names, or the options).

SIGTERM or Ctrl-C: newcomers are refused, running streams get SSE_DRAIN_GRACE seconds, every reader is
told to come back, records are written. With --workers, SIGTERM to one of the processes does so there
and replaces it; SIGHUP to this one replaces all of them, one after the other."""

    def create_parser(self, *args: Any, **kwargs: Any) -> Any:
        """Paragraphs of the help stay paragraphs."""
        parser = super().create_parser(*args, **kwargs)
        parser.formatter_class = RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The address, and how many."""
        parser.add_argument(
            "--host",
            default=None,
            help="Address to listen on; default: HOST, else 127.0.0.1. In public, or behind TRUSTED_PROXIES, "
            "only with settings that `check --deploy` finds no error in",
        )
        parser.add_argument(
            "--port", type=int, default=None, help="Port; default: PORT, else 8000; 0: any free one"
        )
        parser.add_argument(
            "--workers",
            type=int,
            default=1,
            help="Server processes that share the port and the database; one that dies is replaced. Without "
            "REDIS_URL pools and limits count in each by itself. Default: 1",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Listen, say where, serve until told to stop."""
        _unbuffer()
        workers = options["workers"]
        if workers < 1:
            raise CommandError(f"--workers is {workers}: expected at least 1")
        if workers > 1:
            _ensure_shared_databases()
        if not options["skip_checks"]:
            self.check(tags=[SERVING], databases=list(connections))
        preparing.send(Command, workers=workers)
        host = options["host"] or getattr(settings, "HOST", "127.0.0.1")
        if exposed := _reached_from_elsewhere(host):
            for line in _exposed(exposed):
                self.stderr.write(line)
        port = getattr(settings, "PORT", 8000) if options["port"] is None else options["port"]
        try:
            listener = listen(host, port, conf.sse().connection_timeout + KERNEL_PATIENCE)
        except (OSError, OverflowError) as error:
            # An impossible port is an OverflowError.
            reason = getattr(error, "strerror", None) or error
            raise CommandError(f"cannot listen on {host}:{port}: {reason}") from error
        for line in _surroundings():
            self.stderr.write(line)
        if workers == 1:
            self._serve(listener)
        else:
            self._serve_in(workers, listener)
        self.stdout.write("Stopped.")

    def _serve(self, listener: socket.socket) -> None:
        config = _config()
        config.load()
        server = uvicorn.Server(config)
        # A signal that comes before uvicorn listens to signals counts as well. And once it has stopped, it
        # raises the signal again; by then the work is done.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        self._announce(listener, config, 1)
        server.run(sockets=[listener])

    def _serve_in(self, workers: int, listener: socket.socket) -> None:
        """Each process loads the application by itself; one that dies is replaced."""
        # What cannot be loaded is told once, and here.
        loaded = _config()
        loaded.load()
        processes = _Processes(_config(workers), sockets=[listener])
        self._announce(listener, loaded, workers)
        with TemporaryDirectory(prefix="sluice-metrics-") as folder, shared_directory(folder):
            processes.run()

    def _announce(self, listener: socket.socket, config: uvicorn.Config, workers: int) -> None:
        host, port = listener.getsockname()[:2]
        url = url_of(host, port)
        self.stdout.write(f"Sluice serves at {url} (uvicorn, httptools, {config.loop} event loop).")
        if workers > 1:
            counting = (
                "queue and limits are of all together"
                if conf.redis_url()
                else ("queues and limits count in each by itself")
            )
            self.stdout.write(
                f"  {workers} processes: workers are of each, so together they run up to {workers} times as "
                f"many tasks; {counting}. /stats shows all and each."
            )
        for title, name in PAGES.items():
            if path := _path_of(name):
                self.stdout.write(f"  {title}: {url}{path}")
        for _, lines in serving.send(Command, url=url, host=host):
            for line in lines or ():
                self.stdout.write(f"  {line}")
        if conf.allow_anonymous() == "false":
            self.stdout.write("  Anonymous use is off (ALLOW_ANONYMOUS): callers must sign in.")


class _Processes(Multiprocess):
    """uvicorn's parent, to which a process is gone when it is gone.

    uvicorn asks each for a sign of life over a pipe of which it holds the other end, too. So the question to
    a process that just ends found no end of the pipe, the parent waited for all of WORKER_PATIENCE (uvicorn
    0.54), and meanwhile neither replaced anybody nor heard a signal.
    """

    def keep_subprocess_alive(self) -> None:
        for process in self.processes:
            process.child_conn.close()
        super().keep_subprocess_alive()


def stays_here(host: str) -> bool:
    """Whether who listens at `host`, an address or a name, is reached from this machine only."""
    if is_loopback(host):
        return True
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        # Listening there will fail, and say so.
        return True
    return all(is_loopback(str(address[0])) for *_, address in found)


def _reached_from_elsewhere(host: str) -> str:
    """Why others than this machine's own programs reach who listens at `host`; empty if they do not."""
    if not stays_here(host):
        return f"{host} is reached from elsewhere"
    if conf.trusted_proxies():
        return f"{host} is reached from elsewhere, by the proxies of TRUSTED_PROXIES"
    return ""


def _exposed(reason: str) -> Iterator[str]:
    """One line for each warning of a deployment. Raises `CommandError` with each error, and its hint."""
    found = [message for message in check_exposure() if not message.is_silenced()]
    errors = [message for message in found if message.level >= ERROR]
    if errors:
        lines = "\n".join(f"  {message.id}: {message.msg}\n      {message.hint}" for message in errors)
        raise CommandError(
            f"{reason}, and these settings are not safe there:\n{lines}\n"
            "  (--host 127.0.0.1 without TRUSTED_PROXIES serves this machine alone.)"
        )
    for message in found:
        yield f"{message.id}: {message.msg}. {message.hint}"


def _surroundings() -> Iterator[str]:
    """What of the machine is not as it should be, though all works: one line each."""
    if not importlib.util.find_spec("uvloop"):
        yield "uvloop is not installed: Python's own event loop is used, which takes more processor time."
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") != "utf8":
        yield f"The locale's encoding is {encoding}: texts on this console may look wrong (LANG=C.UTF-8)."
    if time.time() < EARLIEST:
        yield "The clock was never set: times in records, cookies and certificates will be wrong."
    for alias, database in settings.DATABASES.items():
        if database["ENGINE"].endswith("sqlite3") and not _is_writable(str(database["NAME"])):
            yield f"The database {alias!r} cannot be written: streams run, and are not recorded."
    files = _allow_files(conf.server().limit_concurrency + SPARE_FILES)
    if files is not None:
        yield f"This process may open {files} files, fewer than SERVER_LIMIT_CONCURRENCY needs (ulimit -n)."


def _ensure_shared_databases() -> None:
    """Raises `CommandError` where each process would have a database of its own."""
    for alias, database in settings.DATABASES.items():
        if database["ENGINE"].endswith("sqlite3") and _is_in_memory(str(database["NAME"])):
            raise CommandError(
                f"--workers: the database {alias!r} is in the memory of one process; "
                "give it a file (DATABASE_URL)"
            )


def _is_in_memory(path: str) -> bool:
    return ":memory:" in path or "mode=memory" in path


def _is_writable(path: str) -> bool:
    if _is_in_memory(path):
        return True
    folder = os.path.dirname(path) or "."
    return os.access(folder, os.W_OK) and (not os.path.exists(path) or os.access(path, os.W_OK))


def _allow_files(wanted: int) -> int | None:
    """Raise this process' own limit to what is wanted, as far as it may; the limit if that is not enough."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return None if soft >= wanted else soft


def listen(host: str, port: int, send_timeout: float) -> socket.socket:
    """A listening socket. Connections inherit from it that unacknowledged data is given up after
    `send_timeout` seconds, so that the kernel closes a frozen reader whom the server can only wait for.

    Raises `OSError`, and `OverflowError` for an impossible port.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(send_timeout * 1000))
        listener.bind((host, port))
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def _config(workers: int = 1) -> uvicorn.Config:
    limits = conf.server()
    return uvicorn.Config(
        APPLICATION,
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        http=StreamingHTTPProtocol,
        lifespan="on",
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=PONG_PATIENCE,
        # Most messages are shorter than what compressing them costs: memory for each socket, and time.
        ws_per_message_deflate=False,
        timeout_keep_alive=limits.timeout_keep_alive,
        timeout_graceful_shutdown=GRACEFUL_TIMEOUT,
        # Both are the handler's: who calls (TRUSTED_PROXIES), and how many may (SERVER_LIMIT_CONCURRENCY).
        proxy_headers=False,
        limit_concurrency=None,
        server_header=False,
        access_log=False,
        log_config=None,
        workers=workers,
        timeout_worker_healthcheck=WORKER_PATIENCE,
    )


def _path_of(name: str) -> str:
    """Where the project has the URL of that name; empty if it has not."""
    try:
        return reverse(name)
    except NoReverseMatch:
        return ""


def _unbuffer() -> None:
    """Lines appear when they are written, also in a pipe or a journal; and in any locale."""
    for output in (sys.stdout, sys.stderr):
        reconfigure = getattr(output, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")
