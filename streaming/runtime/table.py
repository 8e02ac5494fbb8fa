"""Which tasks this process has in memory: those that run or wait here, those of others, those that ended."""

from __future__ import annotations

from collections.abc import Callable

from .backlog import Backlogs
from .journals.memory import MemoryJournal
from .limits import Counters, StreamLimits
from .retention import Retention
from .task import Task


class TaskTable:
    """See the module. `active`: what runs or waits here. `foreign`: what readers here follow although another
    process runs it, or none yet. `ended`: what can be replayed. Keys are ids; a task is in one of the three.

    `stirred` is called when there is something to sweep.
    """

    def __init__(
        self, limits: StreamLimits, counters: Counters, backlogs: Backlogs, stirred: Callable[[], None]
    ) -> None:
        self.active: dict[str, Task] = {}
        self.foreign: dict[str, Task] = {}
        self.ended = Retention(limits, counters)
        self._backlogs = backlogs
        self._stirred = stirred

    def __len__(self) -> int:
        return len(self.active) + len(self.foreign) + len(self.ended)

    def find(self, task_id: str) -> Task | None:
        """The task in memory: active, foreign or ended."""
        return self.active.get(task_id) or self.foreign.get(task_id) or self.ended.get(task_id)

    def own(self, task_id: str) -> Task | None:
        """The task, if it runs or waits in this process."""
        return self.active.get(task_id)

    def runs(self, task: Task) -> bool:
        """Whether this process runs it, or lets it wait."""
        return self.active.get(task.id) is task

    def new_journal(self) -> MemoryJournal:
        """An empty journal within the bound of this process' memory."""
        return self.ended.new_journal()

    def admit(self, task: Task) -> None:
        """The task runs or waits here from now on."""
        self.foreign.pop(task.id, None)
        self.active[task.id] = task
        self._stirred()

    def show(self, task: Task) -> None:
        """Let readers follow a task that another process runs, or none yet."""
        self.foreign[task.id] = task
        self._stirred()

    def hide(self, task: Task) -> None:
        """Undo `show`: the task is nobody's here any more; readers are sent away, to come back."""
        if self.foreign.pop(task.id, None) is not None:
            task.send_readers_away()
            task.journal.clear()

    def keep(self, task: Task) -> None:
        """The task has ended, here or elsewhere: it can be replayed for `replay_ttl` seconds, memory
        permitting."""
        if self.runs(task):
            del self.active[task.id]
        self.foreign.pop(task.id, None)
        self.ended.keep(task)
        self._stirred()

    def forget(self, task: Task) -> None:
        """Drop an ended task and its events from memory; see `Retention.forget`."""
        self.ended.forget(task)
        self._backlogs.forget(task.id)

    def let_go(self, task: Task) -> None:
        """A reader, or who waited for its end, has left."""
        if self.ended.let_go(task):
            self._backlogs.forget(task.id)

    def relieve(self, now: float) -> None:
        """Drop ended tasks that are old or too many, and events where that is not enough."""
        self.ended.relieve([*self.active.values(), *self.foreign.values()], now)
