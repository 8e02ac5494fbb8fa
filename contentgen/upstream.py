"""The way to the model service: connections, permits, time limits, retries, errors. One per event loop.

A request holds a permit from before it takes a connection until after the connection is given back or closed,
and there are as many permits as connections, so that nobody waits inside the pool: httpx2's predecessor lost
places when a request was cancelled there. Giving back runs in a task of its own that no cancel reaches.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx2

from streaming import traceparent
from streaming.core.errors import GenerationError, UpstreamError, UpstreamTimeout, UpstreamTruncated
from streaming.core.events import Finish

from . import conf
from .chat_protocol import MAY_PASS, Part
from .client import ClientFault, make_client
from .conf import Service
from .exchange import MAX_EVENT, Exchange, connection_error
from .metrics import FAILURES

logger = logging.getLogger(__name__)

WARM_FOR: Final = 4.0
"""Seconds that a connection counts as warm: less than any common server keeps an idle one (uvicorn: 5)."""

BACKOFF: Final = 0.25
"""Seconds before the first retry; doubled for each further one, and up to half as much again by chance."""

RETRIED: Final = MAY_PASS | {429, 500, 502, 503, 504} | frozenset(range(520, 530))
"""Statuses after which the same request may succeed (RFC 9110, 15.6; RFC 6585, 4; 520 to 529 are those of
networks in front of a service)."""


class _Failed(Exception):
    """A try that gave no token. `again`: whether another one may follow; `after`: seconds that the service
    wants us to wait."""

    def __init__(self, error: GenerationError, *, again: bool, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.after = after


class _Stale(Exception):
    """The service had closed a kept connection by the time that it was used."""


class _UsageRefused(Exception):
    """The service does not know `stream_options`."""


class Upstream:
    """See the module. Belongs to the running event loop; made inside it. Raises `UpstreamError` where the
    environment lets no client be made (the system check contentgen.E005 says the same before)."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        try:
            self._client = make_client(service)
        except ClientFault as fault:
            raise UpstreamError(f"no client: {fault}") from fault
        self._permits = asyncio.Semaphore(service.config.max_connections)
        self._tasks: set[asyncio.Task[None]] = set()
        self._asks_for_usage = True
        self._last_used = -WARM_FOR
        self._warming: asyncio.Task[None] | None = None
        self._warned = False

    async def write(self, request: dict[str, Any]) -> AsyncGenerator[Part | Finish, None]:
        """Send a chat request, and yield its answer as it comes. Raises errors of the tree, which close the
        connection; so does whoever stops iterating."""
        try:
            exchange = await self._first_token(request)
            try:
                parts = exchange.first
                while parts:
                    for part in parts:
                        yield part
                    parts = await self._next_parts(exchange)
                yield exchange.reader.finish()
            finally:
                self._retire(exchange)
        except GenerationError as error:
            FAILURES.add(error.code)
            raise

    def warm(self) -> None:
        """Open a connection in the background, unless there is a fresh one or a text would wait for it."""
        is_fresh = self._loop.time() - self._last_used < WARM_FOR
        if self._warming is not None or is_fresh or self._permits.locked():
            return
        self._warming = self._loop.create_task(self._warm())
        # A task that is cancelled before its first step runs no `finally`.
        self._warming.add_done_callback(self._forget_warming)
        self._keep(self._warming)

    async def settled(self) -> None:
        """Wait until no connection is being opened, given back or closed in the background."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._warming is not None:
            self._warming.cancel()
        await self.settled()
        await self._client.aclose()

    # --- The first token, over all tries ---------------------------------------------------------------

    async def _first_token(self, request: dict[str, Any]) -> Exchange:
        """The first try that gives a token or a whole answer. Raises errors of the tree."""
        config = self._service.config
        limit = self._loop.time() + config.first_token_timeout
        tries = 0
        while True:
            try:
                return await self._try(self._asked(request), limit)
            except _Stale:
                continue
            except _UsageRefused:
                self._asks_for_usage = False
            except _Failed as failed:
                tries += 1
                pause = _pause(tries) if failed.after is None else failed.after
                if not failed.again or tries > config.retries or self._loop.time() + pause >= limit:
                    raise failed.error from None
                FAILURES.add(failed.error.code)
                logger.info(
                    "the model service failed, try %d follows in %.2f s: %s", tries + 1, pause, failed
                )
                await asyncio.sleep(pause)

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        request = request | {"stream": True}
        return request | {"stream_options": {"include_usage": True}} if self._asks_for_usage else request

    async def _try(self, request: dict[str, Any], limit: float) -> Exchange:
        """One request until its first token."""
        try:
            async with asyncio.timeout_at(limit):
                if self._permits.locked() and self._warming is not None:
                    # A text does not wait for what was only to make it faster.
                    self._warming.cancel()
                await self._permits.acquire()
                exchange = Exchange(self._service.key, request["model"], traceparent())
                try:
                    await self._begin(exchange, request)
                except BaseException:
                    self._retire(exchange)
                    raise
                return exchange
        except TimeoutError:
            seconds = self._service.config.first_token_timeout
            raise UpstreamTimeout(f"no token within {seconds:g} s") from None

    async def _begin(self, exchange: Exchange, request: dict[str, Any]) -> None:
        response = await self._send(exchange, "POST", "/chat/completions", "text/event-stream", json=request)
        if response.status_code != httpx2.codes.OK:
            await self._refused(exchange, response, request)
        try:
            await exchange.begin()
        except UpstreamTruncated as error:
            raise _Failed(UpstreamError(str(error), detail=error.detail), again=True) from None
        if not exchange.first and not exchange.reader.is_whole:
            raise UpstreamTruncated("the answer ended before its first token")

    async def _send(
        self, exchange: Exchange, method: str, path: str, accept: str, **body: Any
    ) -> httpx2.Response:
        """Send a request and wait for the header. Raises `_Stale` or `_Failed`."""
        request = self._client.build_request(
            method,
            f"{self._service.base}{path}",
            headers={"Accept": accept} | exchange.headers,
            extensions={"trace": exchange.trace},
            **body,
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx2.ConnectTimeout:
            seconds = self._service.config.connect_timeout
            raise _Failed(UpstreamTimeout(f"no connection within {seconds:g} s"), again=True) from None
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            if not exchange.opened and isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
                raise _Stale from None
            fault = connection_error(UpstreamError, "no answer", error, self._service.key)
            raise _Failed(fault, again=True) from None
        exchange.answered(response)
        return response

    async def _refused(self, exchange: Exchange, response: httpx2.Response, request: dict[str, Any]) -> None:
        """Raise what a status other than 200 means."""
        status = response.status_code
        if response.is_redirect:
            raise UpstreamError(f"status {status}: a redirect, and none is followed; look at OPENAI_API_BASE")
        body, error = await exchange.refusal(status)
        if status in (400, 422) and "stream_options" in request and "stream_options" in body:
            raise _UsageRefused
        raise _Failed(error, again=status in RETRIED, after=_retry_after(response.headers))

    # --- The rest --------------------------------------------------------------------------------------

    async def _next_parts(self, exchange: Exchange) -> list[Part]:
        """The next parts within the time between two tokens."""
        seconds = self._service.config.token_timeout
        try:
            async with asyncio.timeout(seconds):
                return await exchange.parts()
        except TimeoutError:
            if exchange.reader.is_whole:
                return []
            raise UpstreamTimeout(f"no token for {seconds:g} s") from None

    def _retire(self, exchange: Exchange) -> None:
        """Give connection and permit back, or close the one and give back the other; in the background."""
        self._keep(self._loop.create_task(self._let_go(exchange)))

    async def _let_go(self, exchange: Exchange) -> None:
        try:
            if exchange.can_be_drained:
                await exchange.drain()
                self._last_used = self._loop.time()
            await exchange.close()
        except Exception:
            logger.exception("a connection to the model service could not be closed")
        finally:
            self._permits.release()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- Before the first request ----------------------------------------------------------------------

    async def _warm(self) -> None:
        try:
            if self._permits.locked():
                return
            async with asyncio.timeout(self._service.config.connect_timeout):
                await self._permits.acquire()
                exchange = Exchange(self._service.key)
                try:
                    response = await self._send(exchange, "GET", "/models", "application/json")
                    await exchange.body(MAX_EVENT)
                finally:
                    self._retire(exchange)
        except Exception as error:
            self._warn_once(f"does not answer: {str(error) or type(error).__name__}")
        else:
            if response.status_code in (401, 403):
                self._warn_once(f"refuses OPENAI_API_KEY (status {response.status_code})")

    def _forget_warming(self, task: asyncio.Task[None]) -> None:
        self._warming = None

    def _warn_once(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("the model service at %s %s", self._service.host, text)


def _pause(tries: int) -> float:
    """Exponential backoff with jitter, so that many that failed together do not come back together."""
    return BACKOFF * 2.0 ** (tries - 1) * random.uniform(1, 1.5)  # noqa: S311 (nothing to guess)


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds that the service asks us to wait (RFC 9110, 10.2.3; `retry-after-ms` is OpenAI's own)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError, OverflowError):
            return max(0.0, float(headers.get(name, "")) * unit)
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return None


# --- The one of the running loop -----------------------------------------------------------------------

_upstreams: Final[dict[asyncio.AbstractEventLoop, Upstream]] = {}


def upstream() -> Upstream | None:
    """The running loop's way to the model service; None where there is no service. Raises `UpstreamError`
    where the environment lets none be made."""
    service = conf.service()
    if service is None:
        return None
    loop = asyncio.get_running_loop()
    found = _upstreams.get(loop)
    if found is None:
        for closed in [each for each in _upstreams if each.is_closed()]:
            del _upstreams[closed]
        found = _upstreams[loop] = Upstream(service)
    return found


async def close_upstream() -> None:
    """Close the running loop's connections; the next request opens new ones."""
    found = _upstreams.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.aclose()


def warm() -> None:
    """Open a connection to the model service in the background, so that the next text need not wait for one.

    Cheap, raises nothing, and does nothing without a service, without a running loop, or while a fresh
    connection is there.
    """
    # A fault of the environment is told by a system check, and by the next text.
    with suppress(RuntimeError, UpstreamError):
        found = upstream()
        if found is not None:
            found.warm()
