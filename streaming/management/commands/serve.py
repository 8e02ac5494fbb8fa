"""`manage.py serve`: the server for streams, as in production so at home."""

from __future__ import annotations

import gc
import importlib.util
import signal
import socket
import sys
from argparse import ArgumentParser
from tempfile import TemporaryDirectory
from typing import Any, Final

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.urls import NoReverseMatch, reverse
from uvicorn.supervisors import Multiprocess

from streaming import conf
from streaming.addresses import url_of
from streaming.metrics.sharing import shared_directory
from streaming.signals import serving
from streaming.websocket.protocol import MAX_MESSAGE

GRACEFUL_TIMEOUT: Final = 2
"""Seconds for what is still open after the drain: requests that are no streams."""

WORKER_PATIENCE: Final = 30
"""Seconds without any sign of life after which one of several processes is replaced."""

KERNEL_PATIENCE: Final = 2
"""Seconds after our own limit for a blocked send at which the kernel gives the connection up too."""

COLLECT_AFTER: Final = (10_000, 20, 50)
"""New objects, and rounds, after which the garbage collector looks at each generation (CPython: 700, 10,
10)."""

PING_INTERVAL: Final = 15
"""Seconds between two pings on a WebSocket."""

PONG_PATIENCE: Final = 15
"""Seconds for the pong; so a peer that vanished is noticed within half a minute."""

APPLICATION: Final = "streaming.asgi.application"
"""What is served where a project names no ASGI_APPLICATION."""

PAGES: Final = {"API description": "sluice:openapi-view", "Admin": "admin:index"}
"""What is announced where the project has it: titles and names of URLs."""


class Command(BaseCommand):
    """uvicorn with httptools and the best event loop there is, on a socket that notices dead readers."""

    help = "Serve streams over HTTP at HOST:PORT (the settings of these names, or the options)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The address."""
        parser.add_argument(
            "--host", default=None, help="Address to listen on; default: HOST, else 127.0.0.1"
        )
        parser.add_argument(
            "--port", type=int, default=None, help="Port; default: PORT, else 8000; 0: any free one"
        )
        parser.add_argument(
            "--workers",
            type=int,
            default=1,
            help="Server processes that share the port and the database; default: 1",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Listen, say where, serve until told to stop."""
        _unbuffer()
        workers = options["workers"]
        if workers < 1:
            raise CommandError(f"--workers is {workers}: expected at least 1")
        host = options["host"] or getattr(settings, "HOST", "127.0.0.1")
        port = getattr(settings, "PORT", 8000) if options["port"] is None else options["port"]
        try:
            listener = listen(host, port, conf.sse().connection_timeout + KERNEL_PATIENCE)
        except (OSError, OverflowError) as error:
            # An impossible port is an OverflowError.
            reason = getattr(error, "strerror", None) or error
            raise CommandError(f"cannot listen on {host}:{port}: {reason}") from error
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
        # What exists now lives as long as the process: the garbage collector need not look at it again. And
        # of what comes hardly anything is garbage that only it would find, so it looks less often: a look at
        # all objects of a thousand streams holds each of them up.
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        server.run(sockets=[listener])

    def _serve_in(self, workers: int, listener: socket.socket) -> None:
        """Each process loads the application by itself; one that dies is replaced."""
        # What cannot be loaded is told once, and here.
        loaded = _config()
        loaded.load()
        processes = Multiprocess(_config(workers), sockets=[listener])
        self._announce(listener, loaded, workers)
        with TemporaryDirectory(prefix="sluice-metrics-") as folder, shared_directory(folder):
            processes.run()

    def _announce(self, listener: socket.socket, config: uvicorn.Config, workers: int) -> None:
        host, port = listener.getsockname()[:2]
        url = url_of(host, port)
        self.stdout.write(f"Sluice serves at {url} (uvicorn, httptools, {config.loop} event loop).")
        if workers > 1:
            self.stdout.write(
                f"  {workers} processes: pools, queues and limits count in each by itself, so together they "
                f"run up to {workers} times as many tasks. /stats shows all and each."
            )
        for title, name in PAGES.items():
            if path := _path_of(name):
                self.stdout.write(f"  {title}: {url}{path}")
        for _, lines in serving.send(Command, url=url, host=host):
            for line in lines or ():
                self.stdout.write(f"  {line}")
        if conf.allow_anonymous() == "false":
            self.stdout.write("  Anonymous use is off (ALLOW_ANONYMOUS): callers must sign in.")


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
        ":".join(getattr(settings, "ASGI_APPLICATION", APPLICATION).rsplit(".", 1)),
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        http="httptools",
        lifespan="on",
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=PONG_PATIENCE,
        # Most messages are shorter than what compressing them costs: memory for each socket, and time.
        ws_per_message_deflate=False,
        timeout_keep_alive=limits.timeout_keep_alive,
        limit_concurrency=limits.limit_concurrency,
        timeout_graceful_shutdown=GRACEFUL_TIMEOUT,
        proxy_headers=False,
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
    """Lines appear when they are written, also in a pipe or a journal."""
    for output in (sys.stdout, sys.stderr):
        reconfigure = getattr(output, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)
