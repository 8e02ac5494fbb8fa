"""The processes that share a database: each shows that it lives, and takes over from those that do not.

Everything here runs in the writer's thread, one look a second.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Final

from django.db.models import F
from django.utils import timezone

from streaming.core.liveness import Observer

from . import conf
from .interruption import interrupt_tasks_of
from .models import Process
from .pruning import prune_refusals, prune_some, prune_some_keys

logger = logging.getLogger(__name__)

TICK: Final = 1.0
"""Seconds between two beats."""

PRUNING_INTERVAL: Final = 3600.0
"""Seconds between two looks for what is older than `retention_days`."""


_here: Final[set[str]] = set()
"""The ids that live in this process: each event loop has one."""


class Registry:
    """This process among the others. `process_id`: 32 hex digits, new for each start."""

    def __init__(self, process_id: str) -> None:
        self.process_id = process_id
        self._observer = Observer()
        self._next_pruning = 0.0
        _here.add(process_id)

    def tick(self, now: float, *, able: bool) -> None:
        """Show life, look at the others, and give the tasks of the dead their end. `now`: monotonic seconds;
        `able`: whether the writes since the last tick succeeded. Raises what the database raises."""
        self._beat()
        for process_id in self._dead(now, able=able):
            ended = interrupt_tasks_of(process_id, self.process_id)
            logger.warning("process %s is dead: %d of its tasks were interrupted", process_id, ended)
            Process.objects.filter(pk=process_id).delete()
        if now >= self._next_pruning:
            self._prune(now)

    def leave(self) -> None:
        """The process goes down in order, with no task left."""
        _here.discard(self.process_id)
        Process.objects.filter(pk=self.process_id).delete()

    def _beat(self) -> None:
        if not Process.objects.filter(pk=self.process_id).update(beat=F("beat") + 1):
            # The first beat; or others held us for dead, and what was ours is theirs.
            Process.objects.create(id=self.process_id, machine=machine(), pid=os.getpid())

    def _prune(self, now: float) -> None:
        """Delete some of what is too old: a little each second while there is any, so that no record waits
        for long, and then not for an hour."""
        config, moment = conf.sse(), timezone.now()
        before = moment - timedelta(days=config.retention_days)
        expired = moment - timedelta(seconds=config.idempotency_ttl)
        if not prune_some(before) + prune_some_keys(expired):
            prune_refusals(before)
            self._next_pruning = now + PRUNING_INTERVAL

    def _dead(self, now: float, *, able: bool) -> set[str]:
        others = list(Process.objects.exclude(pk__in=_here))
        silent = self._observer.look({each.id: each.beat for each in others}, now, able=able)
        return silent | set(gone(others))


def gone(processes: Iterable[Process]) -> list[str]:
    """Those of this machine whose process number is nobody's any more, or has become our own (in a container
    that was started again). That needs no waiting."""
    return [
        each.id for each in processes if each.machine and each.machine == machine() and not _runs(each.pid)
    ]


def _runs(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def machine() -> str:
    """What tells the process numbers of this machine, since it was started, from all others: a digest of the
    boot's id and the process namespace. Empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()
