"""Whether the database answers, and has all tables: asked by one thread at a time, and for a bounded while.

If the database hangs, that one thread hangs with it, and everybody who asks is told so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor

logger = logging.getLogger(__name__)

PATIENCE: Final = 1.5
"""Seconds that the database has for its answer."""

FRESH_FOR: Final = 1.0
"""Seconds for which an answer is good for everybody."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the database said. `reached`: it works; `in_time`: or at least we know that it does not.
    `pending`: how many migrations are not applied, None if it did not say."""

    reached: bool
    in_time: bool = True
    pending: int | None = None


class Probe:
    """See the module. Belongs to one event loop."""

    def __init__(self) -> None:
        self._asking: asyncio.Future[Answer] | None = None
        self._asked = 0.0
        self._migrated = False

    async def ask(self) -> Answer:
        """Its answer, a moment old at most. Waits for `PATIENCE` at most."""
        now = time.monotonic()
        asking = self._asking
        if asking is None or (asking.done() and now - self._asked >= FRESH_FOR):
            self._asked = now
            asking = self._asking = asyncio.get_running_loop().create_future()
            thread = threading.Thread(target=self._look, args=(asking,), name="sluice-probe", daemon=True)
            thread.start()
        if not asking.done():
            await asyncio.wait([asking], timeout=max(self._asked + PATIENCE - now, 0.0))
        return asking.result() if asking.done() else Answer(reached=False, in_time=False)

    # In the thread

    def _look(self, asking: asyncio.Future[Answer]) -> None:
        answer = Answer(reached=False)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            answer = Answer(reached=True, pending=self._pending())
        except (DatabaseError, InterfaceError) as error:
            # Its words may name hosts and users, so they are for the log alone.
            logger.warning("the database cannot be used: %s", error)
        except Exception:
            logger.exception("the database could not be asked")
        finally:
            with suppress(DatabaseError, InterfaceError):
                connection.close()
            # The loop may be closed, and then nobody waits any more.
            with suppress(RuntimeError):
                asking.get_loop().call_soon_threadsafe(asking.set_result, answer)

    def _pending(self) -> int:
        """How many migrations are not applied; looked up until there is none."""
        if not self._migrated:
            executor = MigrationExecutor(connection)
            plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
            if plan:
                return len(plan)
            self._migrated = True
        return 0
