"""From an operation to what a stream needs: its source, and how it shall run. For HTTP and WebSocket
alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest
from django.utils.translation import get_language

from streaming.access import Caller
from streaming.scopes import Scope

from . import cells, store
from .access import account_of, require_runner
from .cells import CellRun
from .engine import kernels
from .kernels.key import Key
from .operations import (
    Complete,
    Execute,
    Generate,
    Inspect,
    Interrupt,
    List,
    Operation,
    Ping,
    Restart,
    Shutdown,
    Status,
)

POOL: Final = "kernel_pool"

CODE: Final = "code"
"""The registered producer that writes code, of whichever app; known by its name only."""


RUN_BY_RIGHT: Final = (Execute, Complete, Inspect, Restart)
"""What runs code, or has a kernel for it; it ends when its owner may not run code any more. The others that
need the permission answer at once."""


def kind_of(operation: type[Operation]) -> str:
    """As what the tasks of an operation are recorded."""
    return f"notebook.{operation.__struct_config__.tag}"


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be streamed: `source`, or what the registered producer `CODE` makes of `arguments`.
    `options`: keyword arguments of `streaming.Options`. `run`: of a cell, if it is one."""

    options: dict[str, Any]
    source: AsyncIterator[Any] | None = None
    arguments: dict[str, Any] | None = None
    run: CellRun | None = None

    async def accepted(self, stream_id: str) -> None:
        """The stream has this id: pages that are opened now find it."""
        if self.run is not None:
            await self.run.accepted(stream_id)


def needed_for(operation: Operation) -> tuple[Scope, ...]:
    """The scopes that an API key needs for it."""
    match operation:
        case Ping():
            return ()
        case List() | Status():
            return (Scope.READ,)
        case Generate():
            return (Scope.GENERATE,)
        case Interrupt() | Restart() | Shutdown():
            return (Scope.NOTEBOOKS,)
    return (Scope.GENERATE, Scope.NOTEBOOKS)


async def work_of(
    request: HttpRequest, caller: Caller, notebook: str, operation: Operation, lang: str | None
) -> Work:
    """What `operation` asks for. Raises `Problem` 401 and 403 for those who may not ask it."""
    scopes = needed_for(operation)
    caller.require(*scopes)
    options: dict[str, Any] = {
        "kind": kind_of(type(operation)),
        "pool": POOL,
        "message_language": lang,
        "scopes": scopes,
    }
    alone = {**options, "needs_worker": False, "on_disconnect": "continue"}
    # What changes nothing leaves nothing: neither a record nor a key, whoever asks and how often.
    asks = {**alone, "kept": False}
    match operation:
        case Ping():
            return Work({**asks, "anybody": True}, cells.answer({"pong": True}))
        case List():
            return Work(asks, cells.list_notebooks(kernels(), account_of(caller)))
        case Generate():
            account_of(caller)
            language = "zh" if (lang or get_language() or "").startswith("zh") else "en"
            arguments = {"prompt": operation.prompt, "language": language}
            return Work({**options, "pool": "agent_pool"}, arguments=arguments)
    key = Key(await require_runner(request, caller), notebook)
    table = kernels()
    in_order = {**options, "uses_kernel": True, "series": f"{key.owner} {key.notebook}"}
    match operation:
        case Execute():
            run = CellRun(key, operation.cell_id or store.new_cell_id(), operation.code, await table.era(key))
            # Who closes the page comes back to what the cell has said meanwhile.
            how = {**in_order, "eager": True, "on_disconnect": "continue"}
            return Work(how, run.parts(table), run=run)
        case Complete() | Inspect():
            how = {**in_order, "on_disconnect": "cancel"}
            return Work(how, cells.ask(table, key, operation, await table.era(key)))
        case Interrupt():
            return Work(alone, cells.interrupt(table, key))
        case Restart():
            return Work(alone, cells.restart(table, key))
        case Shutdown():
            return Work(alone, cells.shutdown(table, key))
    return Work(asks, cells.tell_status(table, key))
