"""The metrics of one server process: its own, or those of all that share its port."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from streaming import conf
from streaming.core.metering import Samples

from .collecting import process_samples, samples_of
from .exposition import all_metrics
from .sharing import Board, directory_of_siblings

if TYPE_CHECKING:
    from streaming.service import Service

logger = logging.getLogger(__name__)

T = TypeVar("T")

INTERVAL: Final = 1.0
"""Seconds between two times that a process shows its numbers to those beside it."""


class Scraping:
    """See the module. Belongs to the loop of `service`; made inside it. `name`: of this process."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        # One thread: what is taken later is also written later.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sluice-metrics")
        directory = conf.metrics().directory or directory_of_siblings()
        self._board = Board(Path(directory), name, all_metrics()) if directory else None
        self._closed = False
        self._publishing: asyncio.Task[None] | None = None
        if self._board is not None:
            self._publishing = asyncio.get_running_loop().create_task(
                self._publish_for_ever(self._board), name="metrics", context=contextvars.Context()
            )

    async def samples(self) -> Samples:
        """The numbers now. Raises `OSError` where those of the others cannot be had."""
        own = samples_of(self._service)
        return await self._in_thread(lambda: self._with_others(own))

    async def close(self) -> None:
        """The process goes down: what it has counted is shown for the last time."""
        if self._publishing is not None:
            self._publishing.cancel()
        if self._board is not None and not self._closed:
            own = samples_of(self._service)
            self._closed = True
            await self._in_thread(lambda: self._show_last(own))

    def _in_thread(self, function: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _publish_for_ever(self, board: Board) -> None:
        while True:
            own = samples_of(self._service)
            try:
                await self._in_thread(lambda own=own: board.publish(own | process_samples()))  # type: ignore[misc]
            except OSError as error:
                logger.warning("the metrics of this process cannot be shared: %s", error)
            await asyncio.sleep(INTERVAL)

    # In the thread

    def _with_others(self, own: Samples) -> Samples:
        own = own | process_samples()
        if self._board is None:
            return own
        if not self._closed:
            self._board.publish(own)
        return self._board.together()

    def _show_last(self, own: Samples) -> None:
        assert self._board is not None
        try:
            self._board.publish(own | process_samples())
        except OSError as error:
            logger.warning("the last metrics of this process cannot be shared: %s", error)
        self._board.leave()
