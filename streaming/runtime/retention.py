"""How long ended tasks stay in memory, and what leaves first when memory runs short."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from .journals.memory import MemoryJournal, MemoryJournals
from .limits import Counters, StreamLimits
from .task import Task


class Retention:
    """The ended tasks that can still be replayed, and the bound on all journals together."""

    def __init__(self, limits: StreamLimits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._journals = MemoryJournals(limits.max_journal_bytes)
        self._ended: OrderedDict[str, Task] = OrderedDict()
        self._next_eviction = 0.0

    def __len__(self) -> int:
        return len(self._ended)

    @property
    def journal_bytes(self) -> int:
        """What all journals hold."""
        return self._journals.size

    def new_journal(self) -> MemoryJournal:
        """An empty journal that counts towards the bound."""
        return self._journals.create()

    def keep(self, task: Task) -> None:
        """The task has ended; it can be replayed for `replay_ttl` seconds, memory permitting."""
        self._ended[task.id] = task

    def get(self, task_id: str) -> Task | None:
        """An ended task that is still here."""
        return self._ended.get(task_id)

    def forget(self, task: Task) -> None:
        """Drop an ended task and its events."""
        if self._ended.pop(task.id, None) is not None:
            task.journal.clear()

    def relieve(self, running: Iterable[Task], now: float) -> None:
        """Drop what is too old (each `cleanup_interval`); under pressure ended tasks leave first, the
        oldest first, then the `running` ones lose events."""
        if now >= self._next_eviction:
            self._next_eviction = now + self._limits.cleanup_interval
            self._drop_expired(now)
        while self._journals.size > self._limits.journal_memory and self._ended:
            self.forget(next(iter(self._ended.values())))
            self._counters.evicted_journals += 1
        if self._journals.size > self._limits.journal_memory:
            self._trim(running)

    def _drop_expired(self, now: float) -> None:
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if oldest.finished is None or now - oldest.finished < self._limits.replay_ttl:
                return
            self.forget(oldest)

    def _trim(self, running: Iterable[Task]) -> None:
        """Last resort: the longest journals lose their older half; their readers are told (`gap`)."""
        for task in sorted(running, key=lambda each: -each.journal.size):
            if self._journals.size <= self._limits.journal_memory:
                return
            journal = task.journal
            half = (journal.last_id - journal.first_id + 1) // 2
            if half:
                journal.trim(journal.first_id + half)
                self._counters.trimmed_journals += 1
