"""Whom credentials speak for, remembered for a moment, so that a call that is one of many visits no database.

A credential is known by its digest; the secret itself is not kept. Nothing is remembered that is not watched
over: while the writer's thread looks at the number of revocations in the database, twice a second (see
`cluster.processes`). Where it does not (a command, a WSGI server) each call looks up, as it does for what is
not known: who was refused once is not refused from memory.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from django.db import DatabaseError, InterfaceError

from .threads import borrowed_thread

logger = logging.getLogger(__name__)

MAX_AGE: Final = 30.0
"""Seconds that an identity is good for after it was looked up: so long, at most, a process that is cut off
from the database goes on with what it knew."""

RENEWAL_AGE: Final = 5.0
"""Seconds after which an identity that is in use is looked up again, while its callers go on: what nobody
announced (SQL by hand, `QuerySet.update`) holds after that."""

CAPACITY: Final = 10_000
"""Identities at once, about 5 MB; who has not called for the longest time is forgotten first."""

Credential = tuple[str, str, str]
"""What kind it is, in which database it is looked up, and its SHA-256."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`account`: the user's primary key as text. `seconds`: how long the credential itself holds. Of an API
    key, `scopes` is what it may be used for (None: all that its account may do), `key` its primary key."""

    account: str
    staff: bool
    seconds: float = math.inf
    scopes: frozenset[str] | None = None
    key: int | None = None


LookUp = Callable[[], Awaitable[Identity | None]]

Listener = Callable[[Credential | None], None]
"""Is told in any thread whose identity was forgotten; None: everybody's."""


class _Known:
    """An identity in memory; moments are seconds of the clock."""

    __slots__ = ("good_until", "identity", "looked_up", "renewal_at")

    def __init__(self, identity: Identity, looked_up: float) -> None:
        self.identity = identity
        self.looked_up = looked_up
        self.good_until = looked_up + min(MAX_AGE, identity.seconds)
        self.renewal_at = looked_up + RENEWAL_AGE


class Identities:
    """See the module. Any thread may forget; `of` is called on event loops."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, capacity: int = CAPACITY) -> None:
        self._clock = clock
        self._capacity = capacity
        self._lock = threading.Lock()
        self._known: OrderedDict[Credential, _Known] = OrderedDict()
        self._generation = 0
        self._revocations: int | None = None
        self._watched_until = -math.inf
        self._renewals: set[asyncio.Task[None]] = set()
        self._quiet_until = -math.inf
        self._listeners: tuple[Listener, ...] = ()

    @property
    def generation(self) -> int:
        """How often something was forgotten: who was looked up before it rose may have lost a right since."""
        return self._generation

    async def of(self, credential: Credential, look_up: LookUp, max_age: float = MAX_AGE) -> Identity | None:
        """Whom the credential speaks for: at once if that is known since `max_age` seconds at most, else by
        `look_up`, whose errors are raised."""
        now = self._clock()
        with self._lock:
            known = self._known.get(credential)
            if (
                known is None
                or now >= known.good_until
                or now >= self._watched_until
                or now > known.looked_up + max_age
            ):
                known = None
            else:
                self._known.move_to_end(credential)
        if known is None:
            return await self._learn(credential, look_up)
        if now >= known.renewal_at:
            known.renewal_at = now + RENEWAL_AGE
            self._renew_soon(credential, look_up)
        return known.identity

    async def _learn(self, credential: Credential, look_up: LookUp) -> Identity | None:
        """What was revoked while it was looked up may have been read before that, and is not remembered."""
        started, generation = self._clock(), self._generation
        # The hot door lends no thread; inside a request that has one, that one is used.
        async with borrowed_thread():
            identity = await look_up()
        with self._lock:
            if identity is None:
                self._known.pop(credential, None)
            elif generation == self._generation and started < self._watched_until:
                self._known[credential] = _Known(identity, started)
                self._known.move_to_end(credential)
                if len(self._known) > self._capacity:
                    self._known.popitem(last=False)
        return identity

    def _renew_soon(self, credential: Credential, look_up: LookUp) -> None:
        # In a context of its own: the request's thread is given back before this has ended.
        task = asyncio.get_running_loop().create_task(
            self._renew(credential, look_up), context=contextvars.Context()
        )
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    async def _renew(self, credential: Credential, look_up: LookUp) -> None:
        try:
            await self._learn(credential, look_up)
        except (DatabaseError, InterfaceError) as error:
            if (now := self._clock()) >= self._quiet_until:
                self._quiet_until = now + RENEWAL_AGE
                logger.warning("could not look up again who calls: %s", error)

    # What is no longer so

    def forget(self, credential: Credential) -> None:
        """The next call with it looks up."""
        with self._lock:
            self._generation += 1
            self._known.pop(credential, None)
        self._tell(credential)

    def forget_all(self) -> None:
        """Every next call looks up."""
        with self._lock:
            self._generation += 1
            self._known.clear()
        self._tell(None)

    def watch(self, revocations: int) -> None:
        """The database counts so many revocations now. All is forgotten if it was another number before."""
        now = self._clock()
        with self._lock:
            news = revocations != self._revocations or now >= self._watched_until
            if news:
                self._generation += 1
                self._known.clear()
            self._revocations = revocations
            self._watched_until = now + MAX_AGE
        if news:
            self._tell(None)

    def unwatch(self) -> None:
        """Nobody looks at revocations any more, so nothing is remembered."""
        with self._lock:
            self._watched_until = -math.inf
            self._generation += 1
            self._known.clear()

    # Who has to ask again

    def listen(self, listener: Listener) -> None:
        """Call it from now on whenever something is forgotten; it must not wait."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def unlisten(self, listener: Listener) -> None:
        """Do not call it any more."""
        with self._lock:
            self._listeners = tuple(each for each in self._listeners if each != listener)

    def _tell(self, credential: Credential | None) -> None:
        for listener in self._listeners:
            listener(credential)


IDENTITIES: Final = Identities()
"""Those of this process."""
