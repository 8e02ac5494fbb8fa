"""The events of this process's tasks, for those who read in other processes: a recorder that also has them
written to Redis."""

from __future__ import annotations

from collections.abc import Callable

from streaming.core.routing import Snapshot
from streaming.runtime.journals.redis_streams import StreamWriter
from streaming.runtime.ports import Commit, Recorder
from streaming.runtime.task import Task


class MirroringRecorder:
    """See `ports.Recorder`. Nobody waits for Redis: what it does not have is in memory, and in the database.
    `on_start`: told of tasks that waited and run now."""

    def __init__(self, recorder: Recorder, writer: StreamWriter) -> None:
        self._recorder = recorder
        self._writer = writer
        self.on_start: Callable[[Task], object] = lambda task: None
        # Called for each event: without a call in between.
        self.appended = recorder.appended
        self.ended = recorder.ended

    def accepted(self, task: Task, *, known: bool = False) -> Commit:
        """Noted; from now on its events are in Redis, too."""
        self._writer.mirror(task.id, task.epoch, task.journal)
        return self._recorder.accepted(task, known=known)

    def started(self, task: Task) -> Commit:
        """Noted; it takes a permit now, and no place."""
        self.on_start(task)
        return self._recorder.started(task)

    def given_up(self, task: Task) -> Commit:
        """Noted; whoever takes the task up writes its events."""
        self._writer.forget(task.id)
        return self._recorder.given_up(task)

    def refused(self, snapshot: Snapshot, reason: str) -> None:
        """Noted."""
        self._recorder.refused(snapshot, reason)
