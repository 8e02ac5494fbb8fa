"""What a task is let in for, when what it was to be copied from goes while all processes are asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from streaming.opening import Opening
from streaming.runtime.quotas import Hold
from streaming.runtime.task import TaskSpec
from tests.unit.runtime.fakes import house, spec


class Source:
    """A cache with one source, which goes when the test says so."""

    def __init__(self, open_task: Callable[[TaskSpec], Any]) -> None:
        self.there = True
        self._open = open_task

    async def find(self, spec: TaskSpec) -> None:
        return

    async def make_room(self, spec: TaskSpec) -> None:
        return

    def has_source(self, spec: TaskSpec) -> bool:
        return self.there

    def open(self, spec: TaskSpec, wrap: Callable[[TaskSpec], TaskSpec], admission: Any = None) -> Any:
        return self._open(wrap(spec))


class Asked:
    """Quotas that let everybody in; while the first one asks the source goes."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.said: list[str] = []

    async def admit(self, spec: TaskSpec, *, copied: bool) -> Hold:
        self.source.there = False
        self.said.append("a copy" if copied else "work")
        return Hold(str(len(self.said)), "a", False, ())

    def drop(self, hold: Hold) -> None:
        self.said.append(f"drop {hold.id}")

    def keep(self, hold: Hold, task: Any) -> None:
        self.said.append(f"keep {hold.id}")


async def test_what_is_no_copy_any_more_after_the_question_is_let_in_as_work():
    async def parts() -> AsyncIterator[str]:
        yield "word"

    async with house() as supervisor:
        source = Source(supervisor.open)
        quotas = Asked(source)
        opening = Opening(supervisor, source, quotas=quotas)  # type: ignore[arg-type]
        task = await opening.open(spec(parts))
        supervisor.record(task)
        await task.ended
        assert quotas.said == ["a copy", "drop 1", "work", "keep 3"]
