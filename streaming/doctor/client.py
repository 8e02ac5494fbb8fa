"""One stream from any address, observed: when each piece of it came, and what it said."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

import httpx2
import msgspec

from streaming.core.diagnosis import Arrival, Failure, Observation, Phase, Pool
from streaming.core.events import TERMINAL_NAMES
from streaming.core.sse import Decoder, SSELimitExceeded

CONNECT_PATIENCE: Final = 10.0
"""Seconds for the connection, TLS included."""

STATS_PATIENCE: Final = 5.0
"""Seconds for what is only asked by the way."""

EXCERPT: Final = 2_000
"""Bytes of an answer that is no stream that are looked at."""

TICK: Final = 0.01
"""Seconds between two looks at the own event loop's lateness."""

_OURS: Final = re.compile(
    r"/(streams|content|send_operation|notebooks?|admin|accounts|docs|openapi\.json|stats|healthz|readyz|metrics"
    r"|ws|static|i18n|jsi18n|favicon\.ico|robots\.txt)(/.*)?$"
)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What to stream from where. `base`: without a slash at its end. `count`, `interval`: of a probe, the
    latter in milliseconds. `brief`: the body of a real task. `key`: an API key, empty for none. `insecure`:
    whether any certificate will do. `patience`: seconds for the whole stream."""

    base: str
    kind: Literal["probe", "ping", "brief"] = "probe"
    count: int = 20
    interval: int = 100
    brief: dict[str, Any] | None = None
    key: str = ""
    insecure: bool = False
    patience: float = 60.0


def base_of(address: str) -> str:
    """The address of the server behind that of any page or call of it; `http://` where no scheme is given.
    Raises `ValueError` for what is no address."""
    text = address.strip()
    if "://" not in text:
        text = f"http://{text}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an address of a server: {address}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address with a password in it; give a key with --key")
    # Raises `ValueError` for a port that is none.
    _ = parts.port
    return urlunsplit((parts.scheme, parts.netloc, _OURS.sub("", parts.path).rstrip("/"), "", ""))


async def observe(target: Target, *, compressed: bool = True) -> Observation:
    """Stream once. Raises nothing of the network's: what went wrong is in the observation. `compressed`:
    whether the reader takes what browsers take."""
    return await _Reading(target, compressed).observe()


async def pools_of(target: Target) -> dict[str, Pool]:
    """What the server says of its pools; empty where it does not say it to this caller, or not in time."""
    try:
        async with _client(target, STATS_PATIENCE) as http:
            answer = await http.get(f"{target.base}/stats", headers=_credentials(target))
        if answer.status_code != 200:
            return {}
        pools = msgspec.json.decode(answer.content)["pools"]
        return {str(name): msgspec.convert(pool, Pool) for name, pool in pools.items()}
    except (httpx2.HTTPError, msgspec.MsgspecError, LookupError, TypeError, AttributeError):
        return {}


def _client(target: Target, patience: float) -> httpx2.AsyncClient:
    # Reading the certificates takes a tenth of a second, so only where they are needed.
    checks = target.base.startswith("https:") and not target.insecure
    return httpx2.AsyncClient(
        verify=httpx2.create_ssl_context(verify=checks),
        http2=True,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(patience, connect=CONNECT_PATIENCE),
    )


def _credentials(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.key}"} if target.key else {}


class Undecodable(Exception):
    """The body is not in the encoding that its header names, or in one that nobody asked for."""


class Foreign(Exception):
    """An event that no Sluice sends."""


_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class _Timing(msgspec.Struct):
    queued_ms: _Milliseconds | None = None
    first_content_ms: _Milliseconds | None = None


class _Event(msgspec.Struct):
    """What is read of an event's data."""

    sent_at: _Seconds | None = None
    status: Any = None
    timing: _Timing | None = None


class _Probed(msgspec.Struct):
    """What is read of an event of the probe."""

    sequence: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    of: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    late_ms: _Milliseconds
    made_at: _Seconds


Unpack = Callable[[bytes], bytes]
"""From what came to what was packed, as far as it goes."""


def _encodings() -> dict[str, Callable[[], Unpack]]:
    """What can be decoded here, as browsers name it; br and zstd where their packages are."""
    found: dict[str, Callable[[], Unpack]] = {
        "gzip": lambda: zlib.decompressobj(wbits=31).decompress,
        "deflate": lambda: zlib.decompressobj().decompress,
    }
    if importlib.util.find_spec("brotli"):
        brotli = importlib.import_module("brotli")
        found["br"] = lambda: brotli.Decompressor().process
    if importlib.util.find_spec("zstandard"):
        zstandard = importlib.import_module("zstandard")
        found["zstd"] = lambda: zstandard.ZstdDecompressor().decompressobj().decompress
    return found


class _Reading:
    """One stream. Times are milliseconds since `_begun`."""

    def __init__(self, target: Target, compressed: bool) -> None:
        self._target = target
        self._encodings = _encodings() if compressed else {}
        self._begun = 0.0
        self._phase: Phase = "resolve"
        self._phases: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._reads: list[tuple[float, int]] = []
        self._arrivals: list[Arrival] = []
        self._comments = 0
        self._expected = 0
        self._end: dict[str, Any] | None = None
        self._facts: dict[str, Any] = {}
        self._own_lag = 0.0

    async def observe(self) -> Observation:
        failure: Failure | None = None
        outcome: Literal["ended", "cut", "patience"] = "cut"
        try:
            # What making a client costs is no part of the stream.
            async with _client(self._target, self._target.patience) as http:
                self._begun = time.monotonic()
                async with asyncio.timeout(self._target.patience):
                    await self._resolve()
                    await self._stream(http)
        except TimeoutError:
            if self._phase == "read":
                outcome = "patience"
            else:
                failure = Failure(phase=self._phase, kind="timeout")
        except (Foreign, SSELimitExceeded) as error:
            failure = Failure(phase=self._phase, kind="foreign", detail=str(error))
        except Undecodable as error:
            failure = Failure(phase=self._phase, kind="undecodable", detail=str(error))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            failure = _failure(self._phase, error)
        return Observation(
            target=self._target.kind,
            failure=failure,
            resolve=self._phases.get("resolve"),
            connect=self._phases.get("connect_tcp"),
            tls=self._phases.get("start_tls"),
            reads=self._reads,
            arrivals=self._arrivals,
            comments=self._comments,
            outcome=outcome if self._end is None else "ended",
            end=self._end or {},
            expected=self._expected,
            total=self._now(),
            own_lag=self._own_lag,
            **self._facts,
        )

    def _now(self) -> float:
        return (time.monotonic() - self._begun) * 1000

    async def _watch_myself(self) -> None:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self._own_lag = max(self._own_lag, (time.monotonic() - due) * 1000)

    async def _resolve(self) -> None:
        parts = urlsplit(self._target.base)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        self._phases["resolve"] = self._now()
        self._phase = "connect"

    async def _stream(self, http: httpx2.AsyncClient) -> None:
        method, path, body = _call(self._target)
        request = http.build_request(
            method,
            f"{self._target.base}{path}",
            json=body,
            headers={
                "Accept": "text/event-stream",
                "Accept-Encoding": ", ".join(self._encodings) or "identity",
                "User-Agent": "Sluice doctor",
                **_credentials(self._target),
            },
            extensions={"trace": self._trace},
        )
        response = await http.send(request, stream=True)
        ticker = asyncio.create_task(self._watch_myself())
        try:
            await self._read(response)
        finally:
            ticker.cancel()
            await response.aclose()

    async def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        """What the connection does: `connection.connect_tcp.started` and the like."""
        _, step, moment = name.rsplit(".", 2)
        if moment == "started":
            self._started[step] = self._now()
            if step == "start_tls":
                self._phase = "tls"
            elif step == "send_request_headers":
                self._phase = "answer"
        elif moment == "complete" and step in ("connect_tcp", "start_tls"):
            self._phases[step] = self._now() - self._started[step]

    async def _read(self, response: httpx2.Response) -> None:
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._facts = {
            "answered": self._now(),
            "status": response.status_code,
            "http_version": response.http_version,
            "headers": headers,
        }
        self._phase = "read"
        if response.status_code != 200 or not headers.get("content-type", "").startswith("text/event-stream"):
            await self._read_refusal(response)
            return
        unpack = self._unpacker(headers.get("content-encoding", "").strip().lower())
        decoder = Decoder(on_comment=self._comment)
        async for data in response.aiter_raw():
            at = self._now()
            self._reads.append((at, len(data)))
            try:
                unpacked = unpack(data)
            except Exception as error:
                # Each of these packages has an error of its own for this.
                raise Undecodable(f"{type(error).__name__}: {error}") from error
            for event in decoder.feed(unpacked):
                self._arrived(event.event, event.data, at)
            if self._end is not None:
                return

    async def _read_refusal(self, response: httpx2.Response) -> None:
        body = b""
        async for data in response.aiter_bytes():
            body += data
            if len(body) >= EXCERPT:
                break
        text = body[:EXCERPT].decode("utf-8", "replace")
        self._facts["excerpt"] = text
        if self._facts["headers"].get("content-type", "").startswith("application/problem+json"):
            try:
                self._facts["problem"] = str(json.loads(body).get("code", ""))
            except (ValueError, AttributeError, RecursionError):
                return

    def _unpacker(self, encoding: str) -> Unpack:
        """Raises `Undecodable` for an encoding that nobody asked for."""
        if encoding in ("", "identity"):
            return bytes
        if encoding not in self._encodings:
            raise Undecodable(f"Content-Encoding: {encoding}")
        return self._encodings[encoding]()

    def _comment(self, _text: str) -> None:
        self._comments += 1

    def _arrived(self, name: str, text: str, at: float) -> None:
        """Raises `Foreign`."""
        probed: _Probed | None = None
        try:
            values = msgspec.json.decode(text, type=dict[str, Any])
            event = msgspec.convert(values, _Event)
            if name == "result" and self._target.kind == "probe":
                probed = msgspec.convert(values.get("data"), _Probed)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Foreign(f"{name}: {error}") from error
        sent_at, late = event.sent_at, None
        if probed is not None:
            self._expected, late = probed.of, probed.late_ms
            if sent_at is not None:
                late += max(0.0, (sent_at - probed.made_at) * 1000)
        self._arrivals.append(
            Arrival(
                name=name,
                at=at,
                sent_at=None if sent_at is None else sent_at * 1000,
                sequence=None if probed is None else probed.sequence,
                late=late,
                status=event.status if name == "status" and isinstance(event.status, str) else None,
            )
        )
        if name in TERMINAL_NAMES:
            self._end = values


def _call(target: Target) -> tuple[str, str, dict[str, Any] | None]:
    """Method, path and body."""
    match target.kind:
        case "probe":
            return "GET", f"/streams/probe?count={target.count}&interval={target.interval}", None
        case "ping":
            body = {"notebook_id": "doctor", "operation": {"type": "ping"}}
            return "POST", "/send_operation?timing=1", body
        case "brief":
            brief = {"user_id": "doctor", **(target.brief or {})}
            return "POST", "/content/generate/stream/async?timing=1", brief


def _failure(phase: Phase, error: BaseException) -> Failure:
    """What the system's error means."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    # What this side could not send may be the key, so that error's own words are nobody's.
    told = not any(isinstance(each, httpx2.LocalProtocolError) for each in causes)
    detail = (str(causes[-1]) or str(error) if told else "") or type(error).__name__
    words = " ".join(map(str, causes))
    kind = "other"
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in causes):
        phase, kind = "tls", "certificate"
        detail = next(str(each) for each in causes if isinstance(each, ssl.SSLCertVerificationError))
    elif any(isinstance(each, ssl.SSLError) for each in causes):
        plain = re.search(
            r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|HTTP_REQUEST|UNKNOWN_PROTOCOL", words.upper()
        )
        phase, kind = "tls", "not_tls" if plain else "other"
    elif any(isinstance(each, socket.gaierror) for each in causes):
        phase = "resolve"
    elif any(isinstance(each, httpx2.TimeoutException | TimeoutError) for each in causes):
        kind = "timeout"
    elif any(isinstance(each, ConnectionRefusedError) for each in causes) or "refused" in words:
        kind = "refused"
    elif isinstance(error, httpx2.RemoteProtocolError):
        kind = "closed" if "disconnected" in words or "closed" in words else "not_http"
    elif any(isinstance(each, ConnectionError | httpx2.ReadError) for each in causes):
        kind = "closed"
    return Failure(phase=phase, kind=kind, detail=detail)
