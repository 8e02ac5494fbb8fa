"""The processes that share a database: each shows that it lives, does what others ask of its tasks, and takes
over from those that are dead.

Everything here runs in the writer's thread, two looks a second.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

from django.db.models import F
from django.utils import timezone

from streaming import conf, revocation
from streaming.core.events import Terminal
from streaming.core.liveness import Observer
from streaming.identities import IDENTITIES
from streaming.last_uses import LAST_USES
from streaming.models import LostProcess, Process, StreamTask
from streaming.producers import is_registered
from streaming.storage.pruning import (
    prune_alerts,
    prune_refusals,
    prune_some,
    prune_some_keys,
    prune_some_tickets,
)
from streaming.storage.rollups import backfill_some, compact_some, prune_rollups
from streaming.storage.stored import Events, former_events

from .neighbours import Wish, Wishes, orphaning, purged_of_late, show_following, taken_from
from .survivors import NO_SURVIVORS, Survivors
from .takeover import claim, take_over, unclaimed

logger = logging.getLogger(__name__)

BEAT: Final = 1.0
"""Seconds between two beats."""

TAKEOVER_SHARE: Final = 0.5
"""Seconds in a row for the tasks of a dead process; then it is time to show life again."""

PRUNING_INTERVAL: Final = 3600.0
"""Seconds between two looks for what is older than `retention_days`."""


_here: Final[set[str]] = set()
"""The ids that live in this process: each event loop has one."""


class RegistryHost(Protocol):
    """What the registry needs of the event loop whose tasks it speaks for. Called in the writer's thread."""

    def active(self) -> list[str]:
        """The tasks that run or wait here."""
        ...

    def followed(self) -> list[str]:
        """The tasks of other processes that have readers here."""
        ...

    def room(self) -> dict[str, int]:
        """By pool, how many tasks could be taken up."""
        ...

    def statistics(self) -> dict[str, Any] | None:
        """The numbers of a moment ago."""
        ...

    def lost(self, task_ids: Iterable[str]) -> None:
        """Others have taken these over."""
        ...

    def asked(self, wishes: Iterable[Wish]) -> None:
        """Other processes ask for this."""
        ...

    def purged(self, task_ids: Iterable[str]) -> None:
        """What is in memory of these has to go."""
        ...

    def ended(self, row: StreamTask, terminal: Terminal) -> None:
        """This process has written the end of a task that no process had any more."""
        ...

    def take_up(self, row: StreamTask, events: Events) -> None:
        """The waiting task is ours now; `events` are its `former_events`."""
        ...


class Registry:
    """This process among the others. `process_id`: 32 hex digits, new for each start. `alone`: whether no
    other lived a second ago. `survivors`: where events of dead processes may be beside the database."""

    def __init__(self, process_id: str, survivors: Survivors = NO_SURVIVORS) -> None:
        self.process_id = process_id
        self.survivors = survivors
        self.alone = True
        self._host: RegistryHost | None = None
        self._revocations: int | None = None
        self._wishes = Wishes(process_id)
        self._observer = Observer()
        self._next_beat = 0.0
        self._next_pruning = 0.0
        self._untold = False
        _here.add(process_id)

    def speak_for(self, host: RegistryHost) -> None:
        """The event loop whose tasks these are; to be called before the first tick."""
        self._host = host

    def tick(self, now: float, *, able: bool) -> bool:
        """Forget who calls if somebody has lost a right; show life, look at the others, do what they ask, see
        to the tasks of the dead; write when keys were used. Returns whether there is more to do at once.
        `now`: monotonic seconds; `able`: whether the writes since the last tick succeeded. Raises what the
        database raises."""
        self._forget_revoked()
        beats = now >= self._next_beat
        if beats:
            self._next_beat = now + BEAT
            self._beat()
            self._look_at_others(now, able=able)
            if now >= self._next_pruning:
                self._prune(now)
            if self._host is not None:
                self._take_up(self._host)
        if self._host is not None and (beats or self._untold):
            # What was locked is told half a second later.
            self._untold = not show_following(self._host.followed())
        # Who is alone is still asked by who runs no tasks: an admin under WSGI, a command.
        if self._host is not None and (beats or not self.alone):
            self._host.asked(self._wishes.look())
            self._host.purged(purged_of_late())
        LAST_USES.write()
        return self._next_beat <= now

    def tell_end(self, row: StreamTask, terminal: Terminal) -> None:
        """Have an end counted and logged that this process has written for another one. In any thread."""
        if self._host is not None:
            self._host.ended(row, terminal)

    def leave(self) -> None:
        """The process goes down in order, with no task left."""
        _here.discard(self.process_id)
        IDENTITIES.unwatch()
        LAST_USES.write()
        Process.objects.filter(pk=self.process_id).delete()

    def _forget_revoked(self) -> None:
        """Whoever waits for it (`revocations`) is told."""
        number = revocation.count()
        IDENTITIES.watch(number)
        if number != self._revocations:
            self._revocations = number
            Process.objects.filter(pk=self.process_id).update(revocations=number)

    def _beat(self) -> None:
        statistics = None if self._host is None else self._host.statistics()
        mine = Process.objects.filter(pk=self.process_id)
        if not mine.update(beat=F("beat") + 1, statistics=statistics, revocations=self._revocations):
            # The first beat; or others held us for dead, and what was ours may be theirs.
            Process.objects.create(
                id=self.process_id,
                machine=machine(),
                pid=os.getpid(),
                statistics=statistics,
                revocations=self._revocations,
            )
            LostProcess.objects.filter(pk=self.process_id).delete()
            if self._host is not None:
                self._host.lost(taken_from(self.process_id, self._host.active()))

    def _look_at_others(self, now: float, *, able: bool) -> None:
        others = list(Process.objects.exclude(pk__in=_here).defer("statistics"))
        self.alone = not others
        beats = {each.id: each.beat for each in others}
        silent = self._observer.look(dict.fromkeys(orphaning(), -1) | beats, now, able=able)
        for process_id in silent | set(gone(others)):
            found = take_over(process_id, self.process_id, TAKEOVER_SHARE, self.tell_end, self.survivors)
            if not found.all:
                self._next_beat = now
            logger.warning(
                "process %s is dead: %d of its tasks ended, %d wait again",
                process_id,
                found.ended,
                found.waiting,
            )
            if found.all:
                _lost(process_id)

    def _take_up(self, host: RegistryHost) -> None:
        """Claim tasks that wait for a process, as many as there is room for."""
        for pool, room in host.room().items():
            if room:
                for row in unclaimed(pool, room):
                    if is_registered(row.kind) and claim(row, self.process_id):
                        host.take_up(row, former_events(row))

    def _prune(self, now: float) -> None:
        """Delete some of what is too old, and count or merge some of what the statistics have: a little each
        second while there is any, so that no record waits for long, and then not for an hour."""
        config, moment = conf.sse(), timezone.now()
        before = moment - timedelta(days=config.retention_days)
        expired = moment - timedelta(seconds=config.idempotency_ttl)
        keys = prune_some_keys(expired) + prune_some_tickets(moment)
        if not prune_some(before) + keys + compact_some(moment) + backfill_some():
            prune_refusals(before)
            prune_rollups(before)
            prune_alerts(before)
            self._next_pruning = now + PRUNING_INTERVAL


def _lost(process_id: str) -> None:
    """Forget it as a process, and note that it is lost (others may do the same at this moment)."""
    for pid in Process.objects.filter(pk=process_id).values_list("pid", flat=True):
        LostProcess.objects.bulk_create([LostProcess(id=process_id, pid=pid)], ignore_conflicts=True)
    Process.objects.filter(pk=process_id).delete()


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
