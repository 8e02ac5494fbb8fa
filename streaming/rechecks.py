"""Rights are asked about again while streams are open: at once when somebody has lost one, else by and by.

Open readers are known by what they rest on (see `standing`), so a key with a thousand streams is looked up
once. While nothing happens this costs one timer for each event loop; an event costs nothing. What was revoked
empties the memory of who calls (see `identities`), which tells here, and all are asked again, a few at a
time.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from django.db import DatabaseError, InterfaceError

from .identities import IDENTITIES, Credential, Identities
from .standing import Standing
from .threads import borrowed_thread

logger = logging.getLogger(__name__)

PERIOD_SHARE: Final = 0.7
"""Of the interval: the time between two questions about the same. The rest is for the two below."""

AGE_SHARE: Final = 0.1
"""Of the interval: how old an answer from memory may be."""

AT_ONCE: Final = 8
"""Questions at the same time, each with a thread and a database connection."""

PAUSE: Final = 0.01
"""Seconds between two such lots: 10,000 credentials take some 15 s, and the database never sees more than
`AT_ONCE` of them."""

NEWS_DELAY: Final = 0.1
"""Seconds for which news of revocations is collected."""

ASK_PATIENCE: Final = 5.0
"""Seconds for an answer."""

RETRY: Final = 1.0
"""Seconds between two tries while the database does not answer."""

UNKNOWN_LIMIT: Final = 300.0
"""Seconds for which a reader whose right nobody can look up goes on; then it is sent away, and who it is must
be shown anew."""


class Reader(Protocol):
    """Who reads, or waits."""

    def revoke(self) -> None:
        """The right is gone: end it."""
        ...

    def dismiss(self) -> None:
        """Nobody can say any more whether there is a right: send it away, to come back."""
        ...


class _Group:
    """Those who rest on the same, each with what it needs of that. `standing` is the first one's; any is as
    good to ask by. Moments are seconds of the clock."""

    __slots__ = ("due", "known", "readers", "standing")

    def __init__(self, standing: Standing, now: float) -> None:
        self.standing = standing
        self.readers: dict[Reader, Standing] = {}
        self.known = self.due = now


class Rechecks:
    """See the module. Belongs to an event loop; `interval`: seconds within which a right that is gone has
    ended all readers, also where nobody announced that. `later` runs a call after so many seconds."""

    def __init__(
        self,
        interval: float,
        loop: asyncio.AbstractEventLoop,
        identities: Identities = IDENTITIES,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] | None = None,
    ) -> None:
        self._period = interval * PERIOD_SHARE
        self._max_age = interval * AGE_SHARE
        self._loop = loop
        self._identities = identities
        self._clock = clock
        self._later = loop.call_later if later is None else later
        # In the order in which they are due.
        self._groups: dict[Credential, _Group] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._round: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._quiet_until = 0.0
        self._heard = self._news
        identities.listen(self._heard)

    def join(self, reader: Reader, standing: Standing) -> Callable[[], None]:
        """Ask about it from now on; call what is returned when the reader has left."""
        group = self._groups.get(standing.name)
        if group is None:
            now = self._clock()
            group = self._groups[standing.name] = _Group(standing, now)
            group.due = now + self._period
            self._arm(group.due)
        if standing.generation != self._identities.generation:
            # Something was revoked between its look-up and now, and nobody asked about it then.
            self._hurry(group)
        group.readers[reader] = standing
        return partial(self._leave, group, reader)

    def _leave(self, group: _Group, reader: Reader) -> None:
        group.readers.pop(reader, None)
        if not group.readers and self._groups.get(group.standing.name) is group:
            del self._groups[group.standing.name]

    def close(self) -> None:
        """Ask no more."""
        self._identities.unlisten(self._heard)
        if self._timer is not None:
            self._timer.cancel()
        if self._round is not None and not self._loop.is_closed():
            self._round.cancel()
        self._groups.clear()

    # When

    def _news(self, credential: Credential | None) -> None:
        """In any thread."""
        try:
            self._loop.call_soon_threadsafe(self._forgotten, credential)
        except RuntimeError:
            # The loop is closed.
            self._identities.unlisten(self._heard)

    def _forgotten(self, credential: Credential | None) -> None:
        if credential is None:
            for group in self._groups.values():
                group.due = 0.0
        else:
            known = self._groups.get(credential)
            if known is None:
                return
            self._hurry(known)
        if self._groups:
            self._arm(self._clock() + NEWS_DELAY)

    def _hurry(self, group: _Group) -> None:
        group.due = 0.0
        # In front of those that are not due; rare, and a few hundred microseconds for 10,000.
        name = group.standing.name
        others = {each: other for each, other in self._groups.items() if each != name}
        self._groups = {name: group, **others}
        self._arm(self._clock() + NEWS_DELAY)

    def _try_again(self, group: _Group) -> None:
        """Soon, behind all others that are due: one that cannot be told must not keep them waiting."""
        now = self._clock()
        group.due = now + RETRY
        name = group.standing.name
        due: dict[Credential, _Group] = {}
        later: dict[Credential, _Group] = {}
        for each, other in self._groups.items():
            if each != name:
                (due if other.due <= now else later)[each] = other
        self._groups = {**due, name: group, **later}

    def _arm(self, due: float) -> None:
        due = max(due, self._not_before)
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._later(max(due - self._clock(), 0.0), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._round is not None or not self._groups:
            return
        if self._clock() < self._not_before:
            self._arm(self._not_before)
        else:
            # Whatever context the timer was set in: no request's thread is used, nor its language.
            self._round = self._loop.create_task(self._ask_all(), context=contextvars.Context())
            self._round.add_done_callback(self._over)

    def _over(self, done: asyncio.Task[None]) -> None:
        self._round = None
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.error("rights could not be asked about again", exc_info=error)
        if not done.cancelled() and self._groups:
            self._arm(next(iter(self._groups.values())).due)

    # Asking

    async def _ask_all(self) -> None:
        begun, left = self._clock(), len(self._groups)
        # Nobody twice, whatever is revoked meanwhile: that is the next round's.
        while left > 0 and (due := self._due()):
            left -= len(due)
            # Behind all others; if something is revoked meanwhile, its moment is moved again.
            for group in due:
                self._groups[group.standing.name] = self._groups.pop(group.standing.name)
                group.due = self._clock() + self._period
            answers = await asyncio.gather(*map(self._ask, due))
            if not all(answers):
                self._send_away_unknown()
            # Of one credential alone nobody may be able to tell; where there is no answer at all, all wait.
            if not any(answers):
                self._not_before = self._clock() + RETRY
                return
            await asyncio.sleep(PAUSE)
        now = self._clock()
        # Half of the time at most, however often somebody loses a right.
        self._not_before = now + max(now - begun, NEWS_DELAY)

    def _due(self) -> list[_Group]:
        now = self._clock()
        due: list[_Group] = []
        for group in self._groups.values():
            if group.due > now or len(due) == AT_ONCE:
                break
            due.append(group)
        return due

    async def _ask(self, group: _Group) -> bool:
        """Whether there was an answer."""
        asked = self._clock()
        # Where a revocation was announced, nothing older is in the memory.
        try:
            async with asyncio.timeout(ASK_PATIENCE), borrowed_thread():
                now = await group.standing.ask(self._max_age)
        except Exception as error:
            self._complain(error)
            if group.readers:
                self._try_again(group)
            return False
        if now is not None:
            group.known = asked
        for reader, standing in list(group.readers.items()):
            if not standing.holds_for(now):
                reader.revoke()
        return True

    def _complain(self, error: Exception) -> None:
        if (now := self._clock()) >= self._quiet_until:
            expected = isinstance(error, DatabaseError | InterfaceError | TimeoutError)
            logger.warning(
                "could not ask again who may read: %s", error, exc_info=None if expected else error
            )
        self._quiet_until = now + 2 * RETRY

    def _send_away_unknown(self) -> None:
        before = self._clock() - UNKNOWN_LIMIT
        for group in list(self._groups.values()):
            if group.known < before:
                for reader in list(group.readers):
                    reader.dismiss()
