"""Asking again whether readers may read: when, how often, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
from django.db import OperationalError

from streaming.identities import MAX_AGE, Credential, Identities, Identity
from streaming.rechecks import AT_ONCE, NEWS_DELAY, PAUSE, RETRY, UNKNOWN_LIMIT, Rechecks
from streaming.standing import Standing, right_standing
from tests.unit.runtime.fakes import now, virtual_time

INTERVAL = 30.0


class Reader:
    def __init__(self) -> None:
        self.revoked_at: float | None = None
        self.dismissed_at: float | None = None

    def revoke(self) -> None:
        if self.revoked_at is None:
            self.revoked_at = now()

    def dismiss(self) -> None:
        self.dismissed_at = now()


class World:
    """Credentials, whom they speak for, and who asks."""

    def __init__(self, interval: float = INTERVAL) -> None:
        clock = asyncio.get_running_loop().time
        self.identities = Identities(clock)
        self.identities.watch(0)
        self.rechecks = Rechecks(interval, asyncio.get_running_loop(), self.identities, clock)
        self.speaks: dict[str, str] = {}
        self.error: Exception | None = None
        self.broken: set[str] = set()
        self.asked: list[tuple[float, str]] = []
        self.under_way = self.most_under_way = 0
        self.takes = 0.0

    def standing(self, name: str, account: str = "1") -> Standing:
        self.speaks.setdefault(name, account)
        credential = ("key", "default", name)
        ask = partial(self._ask, credential)
        return Standing(credential, Identity(account, False), self.identities.generation, ask)

    def reader(self, name: str) -> Reader:
        made = Reader()
        self.leave = self.rechecks.join(made, self.standing(name))
        return made

    async def _ask(self, credential: Credential, max_age: float) -> Identity | None:
        return await self.identities.of(credential, partial(self._look_up, credential[2]), max_age)

    async def _look_up(self, name: str) -> Identity | None:
        self.asked.append((now(), name))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.takes)
            if self.error is not None:
                raise self.error
            if name in self.broken:
                raise ValueError("nobody can tell about this one")
            return Identity(self.speaks[name], False) if name in self.speaks else None
        finally:
            self.under_way -= 1

    async def call(self, name: str) -> None:
        """As an ordinary call with that credential."""
        await self._ask(("key", "default", name), MAX_AGE)

    async def watched(self, seconds: float) -> None:
        """Let time pass while the number of revocations is read, and stays as it is."""
        end = now() + seconds
        while now() < end:
            self.identities.watch(0)
            await asyncio.sleep(min(0.5, end - now()))


@asynccontextmanager
async def world(interval: float = INTERVAL) -> AsyncIterator[World]:
    made = World(interval)
    try:
        yield made
    finally:
        made.rechecks.close()


@virtual_time
async def test_a_thousand_readers_of_one_key_are_one_question_and_end_at_once():
    async with world() as here:
        mine = [here.reader("mine") for _ in range(1000)]
        other = here.reader("other")
        del here.speaks["mine"]
        begun = now()
        here.identities.forget_all()
        await here.watched(1)
    assert [name for _, name in here.asked] == ["mine", "other"]
    assert {reader.revoked_at for reader in mine} != {None}
    assert all(reader.revoked_at is not None and reader.revoked_at - begun < 0.5 for reader in mine)
    assert (other.revoked_at, other.dismissed_at) == (None, None)


@virtual_time
async def test_one_credential_that_is_forgotten_is_no_question_about_the_others():
    async with world() as here:
        mine, _other = here.reader("mine"), here.reader("other")
        del here.speaks["mine"]
        here.identities.forget(("key", "default", "mine"))
        await here.watched(1)
    assert [name for _, name in here.asked] == ["mine"]
    assert mine.revoked_at is not None


@pytest.mark.parametrize("interval", [1.0, 30.0, 60.0])
@pytest.mark.parametrize("busy", [False, True])
def test_what_nobody_announced_ends_readers_within_the_interval(interval: float, busy: bool):
    @virtual_time
    async def run() -> None:
        async with world(interval) as here:
            reader = here.reader("mine")

            async def call() -> None:
                """Others come with the same credential, so it is in the memory."""
                while busy:
                    await here.call("mine")
                    await asyncio.sleep(0.05)

            calling = asyncio.create_task(call())
            await here.watched(interval * 2.2)
            assert reader.revoked_at is None
            del here.speaks["mine"]
            lost = now()
            await here.watched(interval)
            calling.cancel()
        assert reader.revoked_at is not None
        assert reader.revoked_at - lost <= interval

    run()


@virtual_time
async def test_while_nothing_happens_each_credential_is_looked_up_about_once_in_an_interval():
    async with world() as here:
        for number in range(100):
            for _ in range(5):
                here.reader(f"key {number}")
        await here.watched(INTERVAL * 10)
    assert len(here.asked) <= 100 * 10 / 0.7


@virtual_time
async def test_nobody_is_asked_about_who_has_left_and_then_no_timer_is_set():
    async with world() as here:
        here.reader("mine")
        here.leave()
        await here.watched(INTERVAL * 3)
        here.identities.forget_all()
        await here.watched(1)
    assert here.asked == []


@virtual_time
async def test_many_credentials_are_asked_about_a_few_at_a_time():
    async with world() as here:
        readers = [here.reader(f"key {number}") for number in range(2000)]
        here.takes = 0.002
        here.speaks.clear()
        begun = now()
        here.identities.forget_all()
        await here.watched(INTERVAL)
    assert here.most_under_way == AT_ONCE
    ended = [reader.revoked_at for reader in readers]
    assert None not in ended
    assert max(each for each in ended if each is not None) - begun < INTERVAL
    asked = here.asked
    gaps = {later - earlier for (earlier, _), (later, _) in zip(asked, asked[AT_ONCE:], strict=False)}
    assert min(gaps) > PAUSE


@virtual_time
async def test_revocations_all_the_time_do_not_ask_all_the_time():
    async with world() as here:
        for number in range(100):
            here.reader(f"key {number}")
        here.takes = 0.01
        for _ in range(100):
            here.identities.forget_all()
            await asyncio.sleep(0.1)
    round_takes = 100 / AT_ONCE * (0.01 + PAUSE)
    assert len(here.asked) <= 100 * 10 / (2 * round_takes) + 200


@virtual_time
async def test_what_was_revoked_before_the_reader_came_is_asked_about_at_once():
    """Between its look-up and its first byte, in which a record is written perhaps."""
    async with world() as here:
        standing = here.standing("mine")
        del here.speaks["mine"]
        here.identities.forget_all()
        await here.watched(1)
        reader = Reader()
        here.rechecks.join(reader, standing)
        await here.watched(2 * NEWS_DELAY + 0.1)
    assert reader.revoked_at is not None


@virtual_time
async def test_what_is_revoked_while_it_is_asked_is_asked_about_again():
    async with world() as here:
        reader = here.reader("mine")
        here.takes = 1.0
        here.identities.forget_all()
        await asyncio.sleep(0.5)
        assert here.under_way == 1, "the answer is still on its way"
        here.identities.forget_all()
        await asyncio.sleep(0.7)
        del here.speaks["mine"]
        await asyncio.sleep(5)
    assert reader.revoked_at is not None


@virtual_time
async def test_a_credential_that_speaks_for_somebody_else_now_is_as_good_as_none():
    async with world() as here:
        reader = here.reader("mine")
        here.speaks["mine"] = "2"
        here.identities.forget_all()
        await here.watched(1)
    assert reader.revoked_at is not None


AWAY: list[Callable[[], Exception]] = [lambda: OperationalError("away"), lambda: ValueError("a fault")]


@pytest.mark.parametrize("error", AWAY)
def test_while_the_database_is_away_readers_go_on_and_what_was_lost_holds_when_it_is_back(
    error: Callable[[], Exception],
):
    @virtual_time
    async def run() -> None:
        async with world() as here:
            mine, other = here.reader("mine"), here.reader("other")
            del here.speaks["mine"]
            here.error = error()
            here.identities.forget_all()
            await asyncio.sleep(UNKNOWN_LIMIT - INTERVAL)
            assert (mine.revoked_at, other.revoked_at, mine.dismissed_at) == (None, None, None)
            assert len(here.asked) <= 2 * (UNKNOWN_LIMIT / RETRY)
            here.error, back = None, now()
            await asyncio.sleep(RETRY + 1)
        assert mine.revoked_at is not None
        assert mine.revoked_at - back <= RETRY + 0.5
        assert (other.revoked_at, other.dismissed_at) == (None, None)

    run()


@virtual_time
async def test_those_about_whom_nobody_can_tell_keep_no_others_waiting():
    async with world() as here:
        here.broken = {f"broken {number}" for number in range(2 * AT_ONCE)}
        unknown = [here.reader(name) for name in here.broken]
        readers = [here.reader(f"key {number}") for number in range(200)]
        begun, here.speaks = now(), {}
        here.identities.forget_all()
        await here.watched(UNKNOWN_LIMIT + INTERVAL)
    assert all(reader.revoked_at is not None and reader.revoked_at - begun < 5 for reader in readers)
    assert all(reader.revoked_at is None and reader.dismissed_at is not None for reader in unknown)


@virtual_time
async def test_who_cannot_be_asked_about_for_too_long_is_sent_away_and_not_revoked():
    async with world() as here:
        reader = here.reader("mine")
        here.error, gone = OperationalError("away"), now()
        await asyncio.sleep(UNKNOWN_LIMIT + INTERVAL)
    assert reader.revoked_at is None
    assert reader.dismissed_at is not None
    assert reader.dismissed_at - gone >= UNKNOWN_LIMIT - INTERVAL


@virtual_time
async def test_a_database_that_does_not_answer_at_all_holds_nobody_up_for_good():
    async with world() as here:
        reader = here.reader("mine")
        here.takes = 1_000_000.0
        here.identities.forget_all()
        await asyncio.sleep(20)
        here.takes = 0.0
        del here.speaks["mine"]
        await asyncio.sleep(10)
    assert reader.revoked_at is not None


@pytest.mark.parametrize("order", [("generate", "read"), ("read", "generate")])
def test_each_reader_of_a_credential_is_judged_by_the_scopes_that_it_needs(order: tuple[str, str]):
    @virtual_time
    async def run() -> None:
        async with world() as here:
            has, asked = {"generate", "read", "cancel"}, 0

            async def ask(max_age: float) -> Identity | None:
                nonlocal asked
                asked += 1
                return Identity("1", False, scopes=frozenset(has))

            readers = {}
            for need in order:
                identity = Identity("1", False, scopes=frozenset(has))
                standing = Standing(
                    ("key", "default", "mine"),
                    identity,
                    here.identities.generation,
                    ask,
                    frozenset({need}),
                )
                readers[need] = Reader()
                here.rechecks.join(readers[need], standing)
            for lost in ("cancel", "generate"):
                assert {reader.revoked_at for reader in readers.values()} == {None}
                has.discard(lost)
                here.identities.forget_all()
                await here.watched(1)
        assert asked == 2, "once each time for both"
        assert readers["generate"].revoked_at is not None
        assert readers["read"].revoked_at is None

    run()


@virtual_time
async def test_a_right_that_is_withdrawn_ends_who_needs_it():
    has = {"1", "2"}
    asked: list[str] = []

    async def holds(account: str) -> bool:
        asked.append(account)
        return account in has

    async with world() as here:
        readers = {}
        for account in ("1", "2"):
            for number in range(10):
                readers[account, number] = Reader()
                standing = right_standing("cells", account, holds, here.identities.generation)
                here.rechecks.join(readers[account, number], standing)
        has.discard("1")
        here.identities.forget_all()
        await here.watched(1)
    assert sorted(asked) == ["1", "2"]
    assert {key for key, reader in readers.items() if reader.revoked_at is not None} == {
        ("1", number) for number in range(10)
    }


@virtual_time
async def test_a_closed_service_hears_nothing_more():
    here = World()
    reader = here.reader("mine")
    here.rechecks.close()
    del here.speaks["mine"]
    here.identities.forget_all()
    await asyncio.sleep(INTERVAL * 2)
    assert (here.asked, reader.revoked_at) == ([], None)
