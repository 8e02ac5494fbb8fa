"""`GET /streams/probe`: a stream whose pace is known: what streams get on their way.

It takes no permit of a pool and asks no provider; everything behind the producer (pump, journal, follower,
framing, headers, sending) is that of every stream. No record is kept of it, and no number counts it. Anybody
may call who may stream; how long it lasts, how dense it is and how many there are at once is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from dataclasses import replace
from typing import Any, Final

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _

from streaming.core.events import Result
from streaming.core.framing import SSE
from streaming.core.sse import Decoder
from streaming.runtime.follower import Follower, FollowOptions, follow
from streaming.runtime.task import TaskSpec

from .access import Caller, identify
from .messages import language_of
from .problems import Problem
from .requests import endpoint, follow_options, query
from .responses import EventStream
from .scopes import Scope
from .service import service
from .shortcuts import Options, task_spec

COUNT: Final = (20, 1, 100)
"""Small events of a probe: default, least, most."""

INTERVAL: Final = (100, 10, 1_000)
"""Milliseconds between two of them: default, least, most. So a probe lasts 102 seconds at the longest."""

LARGE: Final = 16_384
"""Characters that the large event carries: more than one buffer of any common proxy."""

AT_ONCE: Final = 32
"""Probes at a time in one process."""

AT_ONCE_OF_ONE: Final = 4
"""Of them, those of one caller."""

AGAIN_AFTER: Final = 2.0
"""Seconds after which a refused probe may find room."""

REPORT_COUNT: Final = 10
"""Events by which the server measures itself, REPORT_INTERVAL milliseconds apart."""

REPORT_INTERVAL: Final = 20

LIMIT: Final = (500, 1, 60_000)
"""Milliseconds up to which the report is good: default, least, most."""

_open: Final[Counter[Hashable]] = Counter()
"""Probes at a time, by caller. Only event loops touch it."""

_measuring: asyncio.Task[dict[str, Any]] | None = None
"""The report that is being made: who asks meanwhile gets it, too, so that monitors are never too many."""


class Script:
    """The producer of a probe: `count` events at `interval` seconds, a large one, a heartbeat, the end."""

    def __init__(self, count: int, interval: float) -> None:
        self.count = count
        self.interval = interval
        self.reader: Follower | None = None
        """Who gets the heartbeat."""

    async def parts(self) -> AsyncIterator[Result]:
        """Due times are absolute, so what is late does not make the next one late."""
        begun = time.monotonic()
        for number in range(self.count):
            late = await _until(begun + number * self.interval)
            yield Result(data=self._data(number + 1, late))
        late = await _until(begun + self.count * self.interval)
        yield Result(data={**self._data(self.count + 1, late), "padding": "x" * LARGE})
        await _until(begun + (self.count + 1) * self.interval)
        if self.reader is not None:
            self.reader.show_life()
        await _until(begun + (self.count + 2) * self.interval)

    def _data(self, sequence: int, late: float) -> dict[str, Any]:
        return {
            "sequence": sequence,
            "of": self.count + 1,
            "interval_ms": round(self.interval * 1000),
            "late_ms": round(late * 1000, 3),
            "made_at": time.time(),
        }


async def _until(due: float) -> float:
    """Wait for a moment of the monotonic clock; returns the seconds by which the event loop missed it."""
    pause = due - time.monotonic()
    await asyncio.sleep(max(pause, 0))
    return max(0.0, time.monotonic() - due)


@endpoint("GET")
async def probe(request: HttpRequest) -> HttpResponseBase:
    """`GET /streams/probe`: see the module. `sent_at` is in every event, without asking."""
    values = query(request)
    script = Script(_number(values, "count", COUNT), _number(values, "interval", INTERVAL) / 1000)
    options = replace(follow_options(request, resumed=False), timing=True)
    caller = await identify(request, Scope.READ)
    follower = await _opened(script, caller, language_of(request, None), options)
    return EventStream(request, follower, options.framing.content_type)


@endpoint("GET", "HEAD")
async def probe_report(request: HttpRequest) -> HttpResponse:
    """`GET /streams/probe/report`: the server measures itself; 503 where it is late."""
    limit = _number(query(request), "limit", LIMIT)
    caller = await identify(request, Scope.READ)
    body = await _shared(caller, language_of(request, None))
    worst = max(body["first_event_ms"], body["worst_late_ms"])
    healthy = worst <= limit and body["events"] == REPORT_COUNT + 1
    answer = {"status": "ok" if healthy else "late", "limit_ms": limit, **body}
    response = HttpResponse(
        msgspec.json.encode(answer), content_type="application/json", status=200 if healthy else 503
    )
    response["Cache-Control"] = "no-store"
    return response


async def _shared(caller: Caller, language: str) -> dict[str, Any]:
    """What the server finds in itself, once for all who ask at the same time. Whoever leaves ends it for
    nobody else."""
    global _measuring
    if _measuring is None or _measuring.done() or _measuring.get_loop() is not asyncio.get_running_loop():
        _measuring = asyncio.create_task(_measured(caller, language))
        # Where everybody has left, nobody else looks at what it raised.
        _measuring.add_done_callback(lambda made: made.cancelled() or made.exception())
    return await asyncio.shield(_measuring)


async def _measured(caller: Caller, language: str) -> dict[str, Any]:
    """`first_event_ms`: from the call to the first bytes. `worst_late_ms`: the most by which the event loop
    missed a moment, or an event waited between its making and its sending. `events`: those that came."""
    begun = time.monotonic()
    options = FollowOptions(framing=SSE, timing=True)
    script = Script(REPORT_COUNT, REPORT_INTERVAL / 1000)
    script.reader = follower = await service().open(
        _spec(script, caller, language), Caller(None, ""), options
    )
    decoder, first, worst, count = Decoder(), None, 0.0, 0
    async for chunk in follow(follower):
        if first is None:
            first = time.monotonic() - begun
        for event in decoder.feed(chunk):
            if event.event == "result":
                values = msgspec.json.decode(event.data)
                made, count = values["data"], count + 1
                worst = max(worst, made["late_ms"], (values["sent_at"] - made["made_at"]) * 1000)
    return {
        "first_event_ms": round((first or 0.0) * 1000, 3),
        "worst_late_ms": round(worst, 3),
        "events": count,
    }


async def _opened(script: Script, caller: Caller, language: str, options: FollowOptions) -> Follower:
    """A reader of a new probe. Raises `Problem` 429 where there are too many, and `PoolRefused` while the
    process goes down."""
    who = caller.share_key("")
    if _open.total() >= AT_ONCE or _open[who] >= AT_ONCE_OF_ONE:
        detail = _("At most %(one)d at a time for each caller, and %(all)d for all.") % {
            "one": AT_ONCE_OF_ONE,
            "all": AT_ONCE,
        }
        raise Problem(429, "too_many_probes", detail, retry_after=AGAIN_AFTER)
    _open[who] += 1
    try:
        follower = await service().open(_spec(script, caller, language), caller, options)
    except BaseException:
        _over(who)
        raise
    follower.task.ended.add_done_callback(lambda _ended: _over(who))
    script.reader = follower
    return follower


def _over(who: Hashable) -> None:
    _open[who] -= 1
    if not _open[who]:
        del _open[who]


def _spec(script: Script, caller: Caller, language: str) -> TaskSpec:
    wishes = Options(kind="probe", needs_worker=False, on_disconnect="cancel")
    return replace(task_spec(caller, language, script.parts, None, wishes), kept=False)


def _number(values: dict[str, str], name: str, bounds: tuple[int, int, int]) -> int:
    """A whole number of the query. Raises `Problem` 400."""
    default, least, most = bounds
    text = values.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    message = _("%(name)s is a whole number from %(least)d to %(most)d.")
    raise Problem(400, "bad_query", message % {"name": name, "least": least, "most": most})
