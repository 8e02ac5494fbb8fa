"""Asking the database: one thread at a time, for a bounded while, and not more often than once a second."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from streaming.storage import probe
from streaming.storage.probe import Answer, Probe

pytestmark = pytest.mark.django_db(transaction=True)

FINE = Answer(reached=True, pending=0)


@pytest.fixture
def impatient() -> Iterator[None]:
    with mock.patch.object(probe, "PATIENCE", 0.05):
        yield


def probing() -> int:
    return sum(thread.name == "sluice-probe" for thread in threading.enumerate())


async def test_a_database_that_is_well():
    assert await Probe().ask() == FINE


@pytest.mark.usefixtures("impatient")
async def test_a_database_that_hangs_keeps_one_thread_however_many_ask():
    gate = threading.Event()

    def cursor(self: Any) -> Any:
        gate.wait(20)
        raise OperationalError("gone")

    asked = Probe()
    with mock.patch.object(BaseDatabaseWrapper, "cursor", cursor), mock.patch.object(probe, "FRESH_FOR", 0.0):
        for _ in range(3):
            answers = await asyncio.gather(*(asked.ask() for _ in range(10)))
            assert set(answers) == {Answer(reached=False, in_time=False)}
            assert probing() == 1
        gate.set()
        while probing():  # noqa: ASYNC110 (a thread)
            await asyncio.sleep(0.005)
    with mock.patch.object(probe, "PATIENCE", 10):
        await asyncio.sleep(0)
        assert (await asked.ask()).in_time


async def test_an_answer_is_good_for_a_moment_and_for_everybody():
    asked = Probe()
    with mock.patch.object(Probe, "_pending", autospec=True, return_value=0) as pending:
        answers = await asyncio.gather(*(asked.ask() for _ in range(10)))
        answers.append(await asked.ask())
        assert set(answers) == {FINE}
        assert pending.call_count == 1
        with mock.patch.object(probe, "FRESH_FOR", 0.0):
            await asked.ask()
        assert pending.call_count == 2


async def test_what_goes_wrong_is_no_answer_and_the_next_one_is_asked_for():
    asked = Probe()
    with (
        mock.patch.object(Probe, "_pending", autospec=True, side_effect=[RuntimeError("planted"), 2]),
        mock.patch.object(probe, "FRESH_FOR", 0.0),
    ):
        assert await asked.ask() == Answer(reached=False)
        assert await asked.ask() == Answer(reached=True, pending=2)
