"""`manage.py worker`: a process that runs tasks for others (STREAM_ENGINE=celery)."""

from __future__ import annotations

import socket
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from streaming import conf
from streaming.checks import SERVING
from streaming.worker.slots import SLOTS


class Command(BaseCommand):
    """Celery's worker with our options: threads, one message a slot, acknowledged when its task has ended."""

    help = (
        "Run tasks of pools for the web processes that share the database and the broker. SIGTERM or Ctrl-C: "
        "no new ones are taken, running ones get SSE_DRAIN_GRACE seconds; a second signal, or SIGQUIT: none."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which pools, and how many tasks."""
        parser.add_argument(
            "--pools",
            default="",
            help="Names of pools, separated by commas. Default: all of THREAD_CONFIG",
        )
        parser.add_argument(
            "--concurrency",
            type=int,
            default=None,
            help="Tasks of each pool that run here at once. Default: its max_workers",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Work until told to stop. Raises `CommandError` where settings or options are wrong."""
        _ensure_engine()
        if not options["skip_checks"]:
            self.check(tags=[SERVING], databases=list(connections))
        SLOTS.offer(_slots(options["pools"], options["concurrency"]))
        # Celery takes a third of a second to import, which no other command pays for.
        from streaming.worker.app import app
        from streaming.worker.messages import queue_of

        worker = app.Worker(
            hostname=f"sluice@{socket.gethostname()}",
            queues=[queue_of(pool) for pool in SLOTS.offered],
            concurrency=SLOTS.sum,
            # Two lines for each message say nothing that ours do not.
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.start()
        if worker.exitcode:
            raise CommandError("the worker has failed; see its log", returncode=worker.exitcode)


def _ensure_engine() -> None:
    if getattr(settings, "STREAM_ENGINE", "local") != "celery":
        raise CommandError("STREAM_ENGINE is not celery, so nobody would give a worker anything to do")
    if not getattr(settings, "CELERY_BROKER_URL", ""):
        raise CommandError("CELERY_BROKER_URL is empty: through which Redis do workers get their tasks?")


def _slots(names: str, concurrency: int | None) -> dict[str, int]:
    """By pool. Raises `CommandError`."""
    if concurrency is not None and concurrency < 1:
        raise CommandError(f"--concurrency is {concurrency}: expected at least 1")
    pools = conf.pools()
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(pools)
    for name in wanted:
        if name not in pools:
            raise CommandError(f"--pools has {name!r}; known: {', '.join(pools)}")
    return {name: concurrency or pools[name].max_workers for name in wanted}
