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
        # Forgotten, but for those who read or wait for them; the oldest first.
        self._leaving: dict[Task, None] = {}
        self._next_eviction = 0.0

    def __len__(self) -> int:
        return len(self._ended) + len(self._leaving)

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
        """Drop an ended task and its events. Those who read it now, or wait for it, are the last ones, and
        still have what they have not taken: its events go when the last of them has gone (`let_go`)."""
        found = self._ended.pop(task.id, None)
        if found is None:
            return
        if found.attended_here:
            self._leaving[found] = None
        else:
            found.journal.clear()

    def let_go(self, task: Task) -> bool:
        """Somebody reads it no more, or waits no more: whether its last events have gone with that."""
        if task not in self._leaving or task.attended_here:
            return False
        del self._leaving[task]
        task.journal.clear()
        return True

    def is_leaving(self, task: Task) -> bool:
        """Whether it is here only for those who came before it was forgotten."""
        return task in self._leaving

    def relieve(self, running: Iterable[Task], now: float) -> None:
        """Drop what is too old (each `cleanup_interval`); under pressure ended tasks leave first, the
        oldest first, then the `running` ones lose events. Who still reads an ended one keeps its end."""
        if now >= self._next_eviction:
            self._next_eviction = now + self._limits.cleanup_interval
            self._drop_expired(now)
        if self._journals.size > self._limits.journal_memory:
            self._shorten_leaving()
        while self._journals.size > self._limits.journal_memory and self._ended:
            oldest = next(iter(self._ended.values()))
            self.forget(oldest)
            oldest.journal.trim(oldest.journal.last_id)
            self._counters.evicted_journals += 1
        if self._journals.size > self._limits.journal_memory:
            self._trim(running)

    def _drop_expired(self, now: float) -> None:
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if oldest.finished is None or now - oldest.finished < self._limits.replay_ttl:
                return
            self.forget(oldest)

    def _shorten_leaving(self) -> None:
        """What nobody else can come for goes before all others, but for the end."""
        for task in self._leaving:
            before = task.journal.size
            task.journal.trim(task.journal.last_id)
            self._counters.evicted_journals += task.journal.size < before
            if self._journals.size <= self._limits.journal_memory:
                return

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
