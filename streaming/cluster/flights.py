"""Single flight over processes: the same work (see `reuse`), asked for in two of them at once, is done
once."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from streaming.core.errors import StorageUnavailable
from streaming.runtime.redis.connection import Script, SharedRedis

CLAIM: Final = Script.beside(__file__, "flight.lua")


class Flights:
    """Which task makes what, by fingerprints. `lifetime`: whole seconds that a claim stays, at least as long
    as any task."""

    def __init__(self, redis: SharedRedis, lifetime: int) -> None:
        self._redis = redis
        self._lifetime = lifetime

    async def claim(self, fingerprint: str, task_id: str, instead_of: str = "") -> str | None:
        """Let the task make it, in the place of the task `instead_of` if that one has it; the id of the one
        that makes it otherwise. Raises `StorageUnavailable`."""
        key = self._redis.key("f", fingerprint)
        found = await self._redis.call(CLAIM, [key], [task_id, instead_of, self._lifetime])
        return None if found is None else found.decode()

    async def give_up(self, fingerprint: str, task_id: str) -> None:
        """The task was not admitted, or was taken back: whoever asks next makes it, if nobody else does."""
        key = self._redis.key("f", fingerprint)
        with suppress(StorageUnavailable):
            await self._redis.call(CLAIM, [key], ["", task_id, 1])
