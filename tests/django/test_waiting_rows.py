"""Writing what must be written to a database that has just come back."""

from __future__ import annotations

import pytest
from django.db import InterfaceError, OperationalError

from streaming.cluster.waiting_rows import until_taken
from streaming.core.errors import StorageUnavailable


async def test_what_fails_on_the_connections_of_before_is_written_on_the_next():
    faults = [OperationalError("terminating connection"), InterfaceError("connection is closed")]
    written: list[str] = []

    async def write() -> None:
        if faults:
            raise faults.pop()
        written.append("once")

    await until_taken(write, 60)
    assert written == ["once"]


async def test_it_is_given_up_in_the_end():
    async def write() -> None:
        raise OperationalError("the database is read-only")

    with pytest.raises(StorageUnavailable):
        await until_taken(write, 0.01)


async def test_what_is_no_fault_of_the_database_is_not_tried_again():
    tries: list[None] = []

    async def write() -> None:
        tries.append(None)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await until_taken(write, 60)
    assert len(tries) == 1
