"""A Jupyter Server or Kernel Gateway elsewhere: its REST calls and its WebSockets.

The source is jupyter-server.readthedocs.io, "The REST API" (`/api/kernels`) and "WebSocket kernel wire
protocols". The token goes with each call as a header, never in an address.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from streaming.core.errors import KernelNotStarted

from .kernel import LARGEST_ELSE, START_TIMEOUT, UNREAD
from .limits import GatewayConfig
from .wire import V1

PING: Final = 10.0
"""Seconds between two questions whether the WebSocket's other end is there, and that an answer may take."""

STOP_TIMEOUT: Final = 15.0
"""Seconds for ending a kernel: Jupyter waits five before it kills."""

CONNECTIONS: Final = 20
"""REST calls at once."""

_NO_ANSWER: Final = (ValueError, LookupError, TypeError, RecursionError)
"""What reading an answer raises that is not of a Jupyter server."""

_UNWELCOME: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_REFUSED: Final = "the Jupyter server refuses KERNEL_GATEWAY_TOKEN"


class KernelGone(Exception):
    """The server has no such kernel any more."""


class _Connect(connect):
    """Goes nowhere else with the token."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """What is a redirection is a fault."""
        return exc


class Gateway:
    """The server. Belongs to the running event loop. Where it does not answer as it should, each call raises
    `KernelNotStarted` with the reason."""

    def __init__(self, config: GatewayConfig, output_limit: int) -> None:
        self._config = config
        self._largest = 4 * output_limit + LARGEST_ELSE
        self._base = config.url.rstrip("/")
        self._headers = {"Authorization": f"token {config.token}"} if config.token else {}
        self._http = httpx2.AsyncClient(
            headers=self._headers,
            timeout=httpx2.Timeout(config.answer_timeout, connect=config.connect_timeout),
            limits=httpx2.Limits(max_connections=CONNECTIONS),
            follow_redirects=False,
            # An operator names it, mostly in a network of their own: no proxy is asked for the way.
            trust_env=False,
            verify=httpx2.create_ssl_context(verify=self._base.startswith("https:")),
        )

    async def start(self) -> str:
        """Start a kernel; its id. Where nothing answers, that is known within `connect_timeout`."""
        await self._call("GET", "", httpx2.Timeout(self._config.connect_timeout))
        limit = httpx2.Timeout(START_TIMEOUT, connect=self._config.connect_timeout)
        answer = await self._call("POST", "/kernels", limit, {"name": self._config.kernel})
        if answer.status_code != HTTPStatus.CREATED:
            raise KernelNotStarted(_reason(answer))
        try:
            return str(answer.json()["id"])
        except _NO_ANSWER as error:
            raise KernelNotStarted("what answers at KERNEL_GATEWAY_URL is no Jupyter server") from error

    async def exists(self, kernel: str) -> bool:
        """Whether it has this kernel."""
        answer = await self._call("GET", f"/kernels/{kernel}")
        if answer.status_code not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise KernelNotStarted(_reason(answer))
        return answer.status_code == HTTPStatus.OK

    async def interrupt(self, kernel: str) -> bool:
        """Interrupt what the kernel runs; False if there is no such kernel."""
        answer = await self._call("POST", f"/kernels/{kernel}/interrupt")
        if answer.status_code != HTTPStatus.NOT_FOUND and answer.is_error:
            raise KernelNotStarted(_reason(answer))
        return answer.is_success

    async def delete(self, kernel: str) -> None:
        """End the kernel; nothing if there is no such kernel."""
        answer = await self._call("DELETE", f"/kernels/{kernel}", httpx2.Timeout(STOP_TIMEOUT))
        if answer.status_code != HTTPStatus.NOT_FOUND and answer.is_error:
            raise KernelNotStarted(_reason(answer))

    async def channels(self, kernel: str, session: str) -> ClientConnection:
        """A WebSocket to the kernel; it is open when the kernel answers. Who comes back with the same
        `session` gets what was said meanwhile. Raises `KernelGone`."""
        address = f"ws{self._base.removeprefix('http')}/api/kernels/{kernel}/channels?session_id={session}"
        try:
            return await _Connect(
                address,
                additional_headers=self._headers,
                subprotocols=[Subprotocol(V1)],
                compression=None,
                max_size=self._largest,
                max_queue=UNREAD,
                open_timeout=START_TIMEOUT,
                close_timeout=1,
                ping_interval=PING,
                ping_timeout=PING,
                proxy=None,
            )
        except InvalidStatus as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:
                raise KernelGone(kernel) from None
            if error.response.status_code in _UNWELCOME:
                raise KernelNotStarted(_REFUSED) from None
            raise KernelNotStarted(f"the Jupyter server's WebSocket: {error}") from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise KernelNotStarted(f"the Jupyter server's WebSocket: {type(error).__name__}") from error

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def _call(
        self, method: str, path: str, limit: httpx2.Timeout | None = None, body: Any = None
    ) -> httpx2.Response:
        try:
            answer = await self._http.request(
                method,
                f"{self._base}/api{path}",
                json=body,
                timeout=self._http.timeout if limit is None else limit,
            )
        except httpx2.HTTPError as error:
            reason = f"the Jupyter server does not answer: {type(error).__name__}"
            raise KernelNotStarted(reason) from error
        if answer.status_code in _UNWELCOME:
            raise KernelNotStarted(_REFUSED)
        return answer


def _reason(answer: httpx2.Response) -> str:
    """For the log."""
    try:
        words = str(answer.json()["message"])
    except _NO_ANSWER:
        words = ""
    return f"the Jupyter server says {answer.status_code}: {words[:200] or answer.reason_phrase}"
