"""The database that the processes of a house share, as the runner asks it: read only, from its own thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg

from tests.support import postgresql

PATIENCE: Final = 3
"""Seconds for a connection."""

Rows = list[tuple[Any, ...]]


class Unreachable(Exception):
    """It is away, or does not answer in time."""


class Records(Protocol):
    """Both methods block, and raise `Unreachable`."""

    def ask(self, command: str, values: Sequence[Any]) -> Rows:
        """The rows of a query with a `%s` for each value."""

    def connections(self) -> int | None:
        """How many are open; None where nobody counts them."""


@dataclass(frozen=True)
class InPostgresql:
    """The database `name` of a server."""

    server: postgresql.Cluster
    name: str

    def ask(self, command: str, values: Sequence[Any]) -> Rows:
        """See `Records`."""
        url = self.server.url(self.name)
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=PATIENCE) as connection:
                return connection.execute(command.encode(), values).fetchall()
        except psycopg.OperationalError as error:
            raise Unreachable(str(error)) from error

    def connections(self) -> int | None:
        """See `Records`."""
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        return int(self.ask(count, [self.name])[0][0])


@dataclass(frozen=True)
class InSqlite:
    """A file."""

    path: Path

    def ask(self, command: str, values: Sequence[Any]) -> Rows:
        """See `Records`."""
        place = f"file:{self.path}?mode=ro"
        try:
            with closing(sqlite3.connect(place, uri=True, timeout=PATIENCE)) as connection:
                return connection.execute(command.replace("%s", "?"), values).fetchall()
        except sqlite3.OperationalError as error:
            raise Unreachable(str(error)) from error

    def connections(self) -> int | None:
        """See `Records`."""
        return None
