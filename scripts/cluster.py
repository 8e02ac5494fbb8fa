"""A whole cluster on this machine, to try out: webs behind nginx, workers, Redis, PostgreSQL.

`make cluster` starts it, shows what they print, restarts nothing, and keeps nothing: at Ctrl-C or SIGTERM all
is ended by its pid, and the databases are deleted.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from threading import Event
from typing import BinaryIO, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.cluster import Cancelled, Cluster, cluster
from tests.support.servers import free_port

INTERVAL: Final = 0.1
"""Seconds between two looks at what they printed, and whether they live."""


def main() -> int:
    """Start it, show it until told to end, end it; the exit code."""
    options = _options()
    told = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    port = int(os.environ.get("PORT") or 8000)
    if not _is_free(port):
        print(f"cluster: somebody listens at port {port} (PORT) already, so another one is taken")
        port = free_port()
    print("cluster: starting ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="sluice-cluster-") as folder:
        try:
            with cluster(
                Path(folder), web=options.web, workers=options.workers, port=port, cancelled=told
            ) as made:
                _introduce(made)
                _follow(made, told)
                print("cluster: ending ...", flush=True)
        except Cancelled:
            print("cluster: given up before all had started")
        except RuntimeError as error:
            print(f"cluster: {error}", file=sys.stderr)
            return 1
    print("cluster: ended")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("--web", type=int, default=2, metavar="N", help="server processes (2)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (2)")
    return parser.parse_args()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _introduce(made: Cluster) -> None:
    """Where each part is, and under which number."""
    places = {
        "postgresql": made.env["DATABASE_URL"],
        "redis": made.env["REDIS_URL"],
        "nginx": made.url,
        **{node.name: node.url for node in made.web},
    }
    for name, part in made.parts.items():
        print(f"  {name:<10}  pid {part.process.pid:<7}  {places.get(name, '')}".rstrip())
    print(f"cluster: call {made.url}; any web answers for any stream. Ctrl-C ends all.", flush=True)


def _follow(made: Cluster, told: Event) -> None:
    """Show what each part prints, and who ends, until told."""
    files = {name: path.open("rb") for name, path in made.logs.items()}
    ended: set[str] = set()
    try:
        while True:
            last = told.wait(INTERVAL)
            for name, file in files.items():
                _show(name, file)
            for name, part in made.parts.items():
                if part.lives:
                    ended.discard(name)
                elif name not in ended:
                    ended.add(name)
                    print(f"cluster: {name} ended ({part.process.returncode}); it is not restarted")
            sys.stdout.flush()
            if last:
                return
    finally:
        for file in files.values():
            file.close()


def _show(name: str, file: BinaryIO) -> None:
    """Whole lines that are new."""
    while (line := file.readline()).endswith(b"\n"):
        print(f"{name:<10} | {line.decode(errors='replace')}", end="")
    file.seek(-len(line), os.SEEK_CUR)


if __name__ == "__main__":
    sys.exit(main())
