"""When API keys were last used: noted by calls, written by the writer's thread, once a minute for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from django.db import router, transaction

from .models import ApiKey

INTERVAL: Final = 60.0
"""Seconds at least between two moments that are written of one key, by whichever process."""

AT_ONCE: Final = 500
"""Keys in one look: the writer's thread has more to do."""

CAPACITY: Final = 10_000
"""Keys that are noted at most where nobody writes (a WSGI server)."""


class LastUses:
    """See the module. Any thread may note; `write` visits the database. `clock`: seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._noted: dict[int, float] = {}
        self._written: dict[int, float] = {}

    def note(self, key: int) -> None:
        """The key with this primary key is used now."""
        now = self._clock()
        with self._lock:
            if len(self._noted) < CAPACITY or key in self._noted:
                self._noted[key] = now

    def write(self) -> None:
        """Write what is news. Raises what the database raises; then it is still noted."""
        with self._lock:
            noted, self._noted = self._noted, {}
        news = {key: at for key, at in noted.items() if _is_news(at, self._written.get(key))}
        if not news:
            return
        due = dict(islice(news.items(), AT_ONCE))
        try:
            self._written |= _write(due)
        except BaseException:
            self._keep(news)
            raise
        self._keep({key: at for key, at in news.items() if key not in due})
        if len(self._written) > CAPACITY:
            newest = max(self._written.values())
            self._written = {key: at for key, at in self._written.items() if not _is_news(newest, at)}

    def _keep(self, uses: dict[int, float]) -> None:
        with self._lock:
            self._noted = uses | self._noted


def _is_news(at: float, before: float | None) -> bool:
    # A clock that was set back must not silence a key until it has caught up.
    return before is None or abs(at - before) >= INTERVAL


def _write(uses: dict[int, float]) -> dict[int, float]:
    """Write those of which nobody else has written within the minute; what the database has then."""
    using = router.db_for_write(ApiKey)
    rows = ApiKey.objects.using(using)
    found = dict(rows.filter(pk__in=uses).values_list("pk", "last_used_at"))
    known = {key: moment.timestamp() for key, moment in found.items() if moment is not None}
    news = {key: uses[key] for key in found if _is_news(uses[key], known.get(key))}
    if news:
        with transaction.atomic(using=using):
            for key, at in news.items():
                # Only if no other process has written meanwhile. `update` sends no signal, so nobody is taken
                # for having lost a right.
                row = rows.filter(pk=key, last_used_at=found[key])
                row.update(last_used_at=datetime.fromtimestamp(at, UTC))
    return known | news


LAST_USES: Final = LastUses()
"""Those of this process."""
