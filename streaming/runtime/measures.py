"""What happened to the streams of a process, counted by pool, kind and outcome, for metrics.

Nothing is done here for a token. A task and a reader count for themselves; when they leave, their counts come
here, and whoever looks meanwhile (`now`) adds those of the tasks and readers that are still there. So each
number only rises, and is up to date at each look.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from streaming.core.distribution import Distribution
from streaming.core.events import Cancelled, Error

from .task import GAPS, Task

FIRST_CONTENT: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: an own producer takes milliseconds, a model a second, a queue a minute."""

WAITS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds in the queue, up to the default of `queue_timeout`."""

DURATIONS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds of a whole task, up to the defaults of `queue_timeout` and `run_timeout` together."""


class Reader(Protocol):
    """What a reader counts for itself."""

    sent_bytes: int
    done: bool
    slow: bool


class Measures:
    """See the module. Belongs to the loop's thread. `kind_of`: the label of a task's kind; there must be few.

    Keys: `decisions` pool, route, reason; `ends` and `durations` pool, kind, outcome (and code);
    `first_contents` pool, kind, route; `queue_waits` pool, priority; the others the pool, or none.
    """

    def __init__(self, kind_of: Callable[[str], str] = lambda kind: kind) -> None:
        self._kind_of = kind_of
        self.decisions: Counter[tuple[str, str, str]] = Counter()
        self.ends: Counter[tuple[str, str, str, str]] = Counter()
        self.durations: defaultdict[tuple[str, str, str], Distribution] = _distributions(DURATIONS)
        self.queue_waits: defaultdict[tuple[str, int], Distribution] = _distributions(WAITS)
        self.first_contents: defaultdict[tuple[str, str, str], Distribution] = _distributions(FIRST_CONTENT)
        self.gaps: defaultdict[str, Distribution] = _distributions(GAPS)
        self.parts: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.sent_bytes = 0
        self.status_messages = 0
        self.resumes = 0
        self.disconnects = 0

    def waited(self, task: Task, seconds: float) -> None:
        """A task that was queued got its permit."""
        self.queue_waits[task.spec.pool, task.spec.priority].observe(seconds)

    def ended(self, task: Task) -> None:
        """Its end was told."""
        final, spec = task.final, task.spec
        assert final is not None
        code = (
            final.code if isinstance(final, Error) else final.reason if isinstance(final, Cancelled) else ""
        )
        kind = self._kind_of(spec.kind)
        self.ends[spec.pool, kind, final.name, code] += 1
        if task.finished is not None:
            self.durations[spec.pool, kind, final.name].observe(task.finished - task.created)

    def left(self, task: Task) -> None:
        """It is no more among those that `now` is told of: what it has counted stays here."""
        pool, counts = task.spec.pool, task.counts
        self.parts[pool] += counts.parts
        self.events[pool] += counts.chunks
        if task.first_content is not None:
            key = pool, self._kind_of(task.spec.kind), task.route
            self.first_contents[key].observe(task.first_content - task.created)
            task.add_gaps_to(self.gaps[pool])

    def reader_left(self, reader: Reader) -> None:
        """It is no more among those that `now` is told of."""
        self.sent_bytes += reader.sent_bytes
        if not reader.done and not reader.slow:
            self.disconnects += 1

    def now(self, tasks: Iterable[Task], readers: Iterable[Reader]) -> Measures:
        """These, with those of the tasks and readers that have not left."""
        made = Measures(self._kind_of)
        made.parts, made.events = self.parts.copy(), self.events.copy()
        made.first_contents.update((key, each.copy()) for key, each in self.first_contents.items())
        made.gaps.update((key, each.copy()) for key, each in self.gaps.items())
        for task in tasks:
            made.left(task)
        # What changes only when a task or a reader comes or goes is the same.
        made.decisions, made.ends, made.durations = self.decisions, self.ends, self.durations
        made.queue_waits, made.status_messages = self.queue_waits, self.status_messages
        made.resumes, made.disconnects = self.resumes, self.disconnects
        made.sent_bytes = self.sent_bytes + sum(reader.sent_bytes for reader in readers)
        return made


def _distributions(bounds: tuple[float, ...]) -> defaultdict[Any, Distribution]:
    return defaultdict(lambda: Distribution(bounds))
