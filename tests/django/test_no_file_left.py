"""Where the system gives no file for a connection to the database, callers are told to come again."""

from __future__ import annotations

import errno
import os
from unittest.mock import patch

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import AsyncClient

from streaming.requests import problem_of

NO_FILES = [errno.EMFILE, errno.ENFILE]


@pytest.mark.parametrize("number", NO_FILES)
def test_it_is_as_a_database_that_is_away(number: int) -> None:
    problem = problem_of(OSError(number, os.strerror(number)))
    assert (problem.status, problem.code) == (503, "storage_unavailable")
    assert problem.retry_after


def test_another_fault_of_the_system_is_one_of_ours() -> None:
    assert problem_of(OSError(errno.EIO, "no")).status == 500


@pytest.mark.django_db
@pytest.mark.parametrize("number", NO_FILES)
async def test_pages_say_so_too(number: int) -> None:
    client = AsyncClient(raise_request_exception=False, headers={"host": "localhost", "accept": "text/html"})
    client.cookies["sessionid"] = "x" * 32
    fault = OSError(number, os.strerror(number))
    with patch.object(BaseDatabaseWrapper, "cursor", side_effect=fault):
        answer = await client.get("/admin/")
    assert answer.status_code == 503
