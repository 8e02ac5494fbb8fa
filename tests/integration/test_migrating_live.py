"""Migrations run over a real PostgreSQL while processes of the version before them write.

A server of that version is played by what it does to the database: short transactions that name the columns
it knows. Migrations run as an operator runs them, with a limit for their locks.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

import psycopg
import pytest
from psycopg import sql

from tests.support.postgresql import Cluster
from tests.support.servers import ROOT, environment

pytestmark = pytest.mark.server

BEFORE = "0011_statistics_page"
"""The oldest version of `streaming` from which one may go to the newest without a stop."""

MIGRATE = """
import django, sys
django.setup()
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
for line in sys.stdin:
    try:
        executor = MigrationExecutor(connection)
        executor.migrate([("streaming", line.strip())])
        print("done", flush=True)
    except OperationalError as error:
        print(str(error).splitlines()[0], flush=True)
"""
"""What `manage.py migrate` does, without what it does besides."""

NEWEST = max(path.stem for path in (ROOT / "streaming" / "migrations").glob("0*.py"))

EMPTY = {
    "character varying": "",
    "text": "",
    "integer": 0,
    "smallint": 0,
    "bigint": 0,
    "jsonb": "{}",
    "bytea": b"",
    "boolean": False,
    "timestamp with time zone": "2026-01-01T00:00:00Z",
}
"""What stands in a column that must not be empty and has no default, by its type."""

TABLES = ("streaming_streamtask", "streaming_segment", "streaming_process")


class OldServer:
    """Writes as a server does, with the columns that the tables have when it starts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._columns = {name: _must_be_named(url, name) for name in TABLES}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.failure: BaseException | None = None
        self.written = 0

    @contextmanager
    def working(self) -> Iterator[OldServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._ending.set()
            self._thread.join()
        if self.failure is not None:
            raise self.failure

    def goes_on(self) -> None:
        """Wait until it has written some more, all of it after this call."""
        until = self.written + 20
        deadline = time.monotonic() + 30
        while self.written < until and self.failure is None:
            assert time.monotonic() < deadline, "the old server stands still"
            time.sleep(0.005)

    def _write(self) -> None:
        try:
            # A statement that waits so long ends a stream's record; here it ends the test.
            with psycopg.connect(
                self._url, autocommit=True, options="-c statement_timeout=20000"
            ) as connection:
                for number in count():
                    if self._ending.is_set():
                        return
                    self._one_task(connection, f"{number:032x}")
                    self.written += 1
                    time.sleep(0.001)
        except BaseException as error:  # told to the test
            self.failure = error

    def _one_task(self, connection: psycopg.Connection, task_id: str) -> None:
        with connection.transaction():
            self._insert(connection, "streaming_streamtask", id=task_id, state="running")
            self._insert(connection, "streaming_segment", task_id=task_id, first_id=1, last_id=2)
        connection.execute(
            "UPDATE streaming_streamtask SET state = 'complete', last_event_id = 3 WHERE id = %s", (task_id,)
        )
        self._insert(connection, "streaming_process", id=task_id)

    def _insert(self, connection: psycopg.Connection, table: str, **values: object) -> None:
        row = self._columns[table] | values
        connection.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join([sql.Placeholder()] * len(row)),
            ),
            list(row.values()),
        )


def _must_be_named(url: str, table: str) -> dict[str, object]:
    """The columns of a table that whoever knows only them must name, with something to stand there."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_name = %s AND is_nullable = 'NO' AND is_identity = 'NO'",
            (table,),
        ).fetchall()
    return {name: EMPTY[kind] for name, kind in rows}


class Operator:
    """Runs migrations in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def migrate(self, target: str) -> str:
        """`done`, or what PostgreSQL said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        say: IO[str] = self._process.stdin
        say.write(f"{target}\n")
        say.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def operator(folder: Path, url: str) -> Iterator[Operator]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", MIGRATE],
        cwd=ROOT,
        env=environment(
            folder,
            DATABASE_URL=url,
            DJANGO_SETTINGS_MODULE="settings.settings",
            PGOPTIONS="-c lock_timeout=1000",
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Operator(process)
    finally:
        process.communicate(timeout=30)


def test_migrations_run_beside_servers_of_the_version_before(postgresql: Cluster, tmp_path: Path):
    url = postgresql.migrated()
    with operator(tmp_path, url) as person:
        assert person.migrate(BEFORE) == "done"
        with OldServer(url).working() as old:
            old.goes_on()
            # Somebody reads for long (an export): the lock is not to be had, and nobody waits behind it.
            with psycopg.connect(url) as export:
                export.execute("SELECT count(*) FROM streaming_streamtask")
                assert person.migrate(NEWEST) == "canceling statement due to lock timeout"
                old.goes_on()
            assert person.migrate(NEWEST) == "done"
            old.goes_on()
            # The way back of a release that was not good.
            assert person.migrate(BEFORE) == "done"
            old.goes_on()
        name = url.rpartition("/")[2]
        ((tasks, ended),) = postgresql.execute(
            "SELECT count(*), count(*) FILTER (WHERE state = 'complete') FROM streaming_streamtask", name
        )
        assert tasks == ended == old.written


# What a migration may do, so that the test above need not find it out


FROM = 12
"""The first migration that keeps the law; those before it were never run beside a server."""

LATER = [
    path
    for path in sorted((ROOT / "streaming" / "migrations").glob("0*.py"))
    if int(re.match(r"\d+", path.name)[0]) >= FROM  # type: ignore[index]
]


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.stem)
def test_a_migration_takes_nothing_from_servers_of_the_version_before(path: Path):
    """New tables; new columns that may be empty or have a default of the database's own; indexes that are
    made beside writers. What is to go goes a version later, when nobody names it any more."""
    from importlib import import_module

    from django.db import migrations, models

    migration = import_module(f"streaming.migrations.{path.stem}").Migration
    made = {each.name_lower for each in migration.operations if isinstance(each, migrations.CreateModel)}
    for each in migration.operations:
        if isinstance(each, migrations.AddField) and each.model_name_lower not in made:
            field = each.field
            assert field.null or field.has_db_default(), each.describe()
        elif isinstance(each, migrations.AddIndex) and each.model_name_lower not in made:
            assert not migration.atomic, f"{each.describe()}: make it CONCURRENTLY"
        elif isinstance(each, migrations.AlterField):
            # Words only: no column changes.
            assert isinstance(each.field, models.Field)
        else:
            assert isinstance(
                each,
                migrations.CreateModel
                | migrations.AlterModelOptions
                | migrations.RunPython
                | migrations.AddField
                | migrations.AddIndex,
            ), each.describe()
