"""How long a thread waits for a lock of the database that somebody else holds: a backup, a migration, an
admin's forgotten transaction.

SQLite has one lock for all writers, PostgreSQL one for each table and row. Where a caller waits, the wait is
short, and he is told (503 `storage_unavailable`); threads for which nobody waits, and commands, keep the
patience of the settings.
"""

from __future__ import annotations

import os
from typing import Any, Final

from django.db import connections

PATIENCE: Final = 1.5
"""Seconds that one statement waits where a caller does: he is told within two seconds or so."""

_DEFAULT_TIMEOUT: Final = 5.0
"""Seconds that Python's sqlite3 waits if nothing else is said."""


def hurry() -> None:
    """Let this thread wait for locks for `PATIENCE` seconds at most, on each connection that it opens from
    now on. Changes what the connection is opened with, so it costs nothing later."""
    for connection in connections.all():
        found = connection.settings_dict
        options = dict(found.get("OPTIONS") or {})
        match connection.vendor:
            case "sqlite":
                options["timeout"] = min(options.get("timeout", _DEFAULT_TIMEOUT), PATIENCE)
            case "postgresql" if _takes_options(found):
                given = options.get("options", os.environ.get("PGOPTIONS", ""))
                if "lock_timeout" not in given:
                    options["options"] = f"{given} -c lock_timeout={round(PATIENCE * 1000)}".strip()
        connection.settings_dict = {**found, "OPTIONS": options}


def _takes_options(found: dict[str, Any]) -> bool:
    """PgBouncer refuses a connection that comes with options; in front of it server-side cursors are switched
    off. Connections of a pool (`pool`) are everybody's."""
    return not found.get("DISABLE_SERVER_SIDE_CURSORS") and not (found.get("OPTIONS") or {}).get("pool")
