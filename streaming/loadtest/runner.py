"""Streams by the plan, each read to its end and compared with what it should be."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import httpx2
import msgspec

from streaming.core.events import TERMINAL_NAMES
from streaming.core.load import Ended, Outcome, Plan, Tally
from streaming.core.sse import Decoder, SSELimitExceeded

PATH: Final = "/content/generate/stream/async"

DEFAULT_BRIEF: Final[dict[str, Any]] = {"topic": "a load test", "length": "short"}

SCRIPTED_TOKENS: Final = 200
"""Tokens of the scripted provider where the brief names no number."""

CONNECT_PATIENCE: Final = 30.0

LOOK_PATIENCE: Final = 10.0
"""Seconds for the answer that says whether there is a server at all."""

PAUSE: Final = 1.0
"""Seconds before another stream takes the place of one that was refused or failed."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Where to, and what. `base`: without a slash at its end. `patience`: seconds for one stream."""

    base: str
    plan: Plan
    brief: dict[str, Any]
    key: str = ""
    insecure: bool = False
    patience: float = 300.0


def expected_text(brief: dict[str, Any]) -> str | None:
    """What the scripted provider writes; None where only the server knows."""
    if brief.get("provider") != "scripted" or brief.get("max_tokens") is not None:
        return None
    options = brief.get("options") or {}
    if options.get("text") is not None:
        return str(options["text"])
    return "".join(f"{number} " for number in range(options.get("tokens", SCRIPTED_TOKENS)))


class NoTargetError(Exception):
    """There is nothing at the address that streams could come from; says why."""


async def look(load: Load) -> None:
    """Ask once whether there is what the load is for, for nothing: by the method that the call does not take.
    Raises `NoTargetError`."""
    try:
        async with _client(load, LOOK_PATIENCE) as http:
            answer = await http.get(PATH)
    except httpx2.TimeoutException as error:
        raise NoTargetError(f"no answer from {load.base} in {LOOK_PATIENCE:g} s") from error
    except (httpx2.HTTPError, OSError) as error:
        raise NoTargetError(f"no answer from {load.base}: {_root_of(error)}") from error
    kind = answer.headers.get("content-type", "")
    if answer.is_redirect:
        raise NoTargetError(f"{load.base} sends calls on to {answer.headers['location']}: give that address")
    if not kind.startswith("application/problem+json"):
        raise NoTargetError(
            f"there is no Sluice at {load.base}: GET {PATH} was answered {answer.status_code} "
            f"{kind or 'without a type'}"
        )
    code = _code_of(answer.status_code, answer.content)
    if answer.status_code in (502, 504):
        raise NoTargetError(f"a proxy answers at {load.base}, and the server behind it does not ({code})")
    if answer.status_code not in (405, 429, 503):
        raise NoTargetError(f"{load.base} refuses {PATH}: {code} (status {answer.status_code})")


def _root_of(error: BaseException) -> str:
    """What the system said."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _client(load: Load, patience: float) -> httpx2.AsyncClient:
    checks = load.base.startswith("https:") and not load.insecure
    return httpx2.AsyncClient(
        base_url=load.base,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=100),
        timeout=httpx2.Timeout(patience, connect=min(patience, CONNECT_PATIENCE)),
        trust_env=False,
        verify=httpx2.create_ssl_context(verify=checks),
        headers={"Authorization": f"Bearer {load.key}"} if load.key else {},
    )


async def run(load: Load, tally: Tally, stop: asyncio.Event) -> None:
    """Until all has ended, or `stop` is set; then what runs is left `unfinished`."""
    async with _client(load, load.patience) as http:
        await _Run(load, tally, http).run(stop)


class _Run:
    def __init__(self, load: Load, tally: Tally, http: httpx2.AsyncClient) -> None:
        self._load = load
        self._tally = tally
        self._http = http
        self._begun = time.monotonic()
        self._expected = expected_text(load.brief)
        self._number = 0

    async def run(self, stop: asyncio.Event) -> None:
        stopped = asyncio.create_task(stop.wait())
        work = asyncio.create_task(self._starts())
        await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not work.done():
            work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    async def _starts(self) -> None:
        plan = self._load.plan
        async with asyncio.TaskGroup() as streams:
            for due in plan.starts():
                await asyncio.sleep(max(0.0, due - self._now()))
                streams.create_task(self._stream(due) if plan.rate is not None else self._held_open())

    async def _held_open(self) -> None:
        """One of those that are open all the time: as it ends, another one takes its place."""
        due = 0.0
        while due < self._load.plan.duration:
            if await self._stream(due) != "complete":
                # Nobody calls again at once.
                await asyncio.sleep(PAUSE)
            due = self._now()

    def _now(self) -> float:
        return time.monotonic() - self._begun

    async def _stream(self, intended: float) -> Outcome:
        """`intended`: seconds since the beginning. Times of the stream count from there."""
        self._tally.begin(intended)
        seen = _Seen()
        late = (self._now() - intended) * 1000

        def since() -> float:
            return (self._now() - intended) * 1000

        outcome: Outcome = "unfinished"
        exact: bool | None = None
        try:
            async with asyncio.timeout(self._load.patience):
                outcome = await self._read(seen, since)
            if outcome == "complete":
                exact = await self._is_exact(seen)
        except (httpx2.HTTPError, OSError, SSELimitExceeded, ValueError) as error:
            outcome, seen.code = "failed", _cause(error)
        finally:
            self._tally.add(
                Ended(
                    intended=intended,
                    start_late=late,
                    outcome=outcome,
                    first=seen.first,
                    total=since() if seen.ended is None else seen.ended,
                    gaps=seen.gaps,
                    code=seen.code,
                    exact=exact,
                    route=seen.route,
                    characters=sum(map(len, seen.pieces)),
                    events=seen.events,
                    bytes=seen.bytes,
                )
            )

        return outcome

    async def _read(self, seen: _Seen, since: Callable[[], float]) -> Outcome:
        self._number += 1
        brief = {"user_id": f"loadtest-{self._number}", **self._load.brief}
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        async with self._http.stream("POST", PATH, json=brief, headers=headers) as response:
            seen.place = response.headers.get("location", "")
            seen.route = response.headers.get("x-stream-route", "")
            if response.status_code != 200:
                seen.code = _code_of(response.status_code, await response.aread())
                return "refused" if response.status_code in (429, 503) else "failed"
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                seen.code = "no_event_stream"
                return "failed"
            decoder = Decoder()
            async for data in response.aiter_raw():
                at = since()
                seen.bytes += len(data)
                for event in decoder.feed(data):
                    seen.take(event.event, json.loads(event.data), at)
        if seen.end == "complete":
            return "complete"
        seen.code = seen.code or "cut"
        return "failed"

    async def _is_exact(self, seen: _Seen) -> bool | None:
        """Whether the text is the one that the script gives, else the one that the server keeps; None where
        it does not tell, with the reason as the stream's code."""
        text = "".join(seen.pieces)
        if self._expected is not None:
            return text == self._expected
        try:
            record = await self._http.get(seen.place)
            kept: str = record.json()["text"]
        except (httpx2.HTTPError, ValueError, LookupError, TypeError):
            seen.code = "no_record"
            return None
        return text == kept


class _Seen:
    """What came of one stream so far."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last = 0.0
        self.ended: float | None = None
        self.end = ""
        self.gaps: list[float] = []
        self.pieces: list[str] = []
        self.events = self.bytes = 0
        self.code = self.route = self.place = ""

    def take(self, name: str, values: dict[str, Any], at: float) -> None:
        """An event came `at` milliseconds after the stream was to start."""
        self.events += 1
        if name in TERMINAL_NAMES:
            self.ended, self.end = at, name
        if name == "content":
            if self.first is None:
                self.first = at
            else:
                self.gaps.append(at - self.last)
            self.last = at
            if "channel" not in values:
                self.pieces.append(values["delta"])
        elif name == "restart":
            self.pieces.clear()
        elif name == "error":
            self.code = str(values.get("code", "error"))
        elif name == "cancelled":
            self.code = "cancelled"


def _cause(error: Exception) -> str:
    """Why a stream failed, as a code."""
    match error:
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return "unreachable"
        case httpx2.TimeoutException() | TimeoutError():
            return "timeout"
        case httpx2.HTTPError() | OSError():
            return "connection_lost"
        case _:
            return "bad_events"


def _code_of(status: int, body: bytes) -> str:
    try:
        return str(json.loads(body)["code"])
    except (ValueError, LookupError, TypeError):
        return f"HTTP {status}"
