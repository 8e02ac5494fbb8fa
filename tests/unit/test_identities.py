"""The memory of who calls: what it keeps, for how long, and what it must not keep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from django.db import OperationalError

from streaming.identities import CAPACITY, MAX_AGE, RENEWAL_AGE, Credential, Identities, Identity

ALICE, BOB = Identity("1", False), Identity("2", True)


def credential(name: str) -> Credential:
    return "key", "default", name


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Directory:
    """What look-ups find, and how often there was one."""

    def __init__(self) -> None:
        self.found: Identity | None = ALICE
        self.error: Exception | None = None
        self.visits = 0
        self.before_answer: Callable[[], object] = lambda: None

    async def look_up(self) -> Identity | None:
        self.visits += 1
        found = self.found
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.before_answer()
        return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
def identities(clock: Clock) -> Identities:
    made = Identities(clock, capacity=3)
    made.watch(0)
    return made


async def _renewed() -> None:
    """Wait until nothing else runs on this loop."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


async def test_who_is_known_is_not_looked_up_and_waits_for_nothing(
    identities: Identities, directory: Directory
):
    assert await identities.of(credential("a"), directory.look_up) == ALICE
    known = identities.of(credential("a"), directory.look_up)
    with pytest.raises(StopIteration) as end:
        known.send(None)
    assert end.value.value == ALICE
    assert directory.visits == 1


async def test_kinds_and_databases_are_kept_apart(identities: Identities, directory: Directory):
    for each in (("key", "default", "a"), ("session", "default", "a"), ("key", "other", "a")):
        await identities.of(each, directory.look_up)
    assert directory.visits == 3


async def test_who_is_nobody_is_looked_up_each_time(identities: Identities, directory: Directory):
    directory.found = None
    assert await identities.of(credential("a"), directory.look_up) is None
    directory.found = BOB
    assert await identities.of(credential("a"), directory.look_up) == BOB


async def test_errors_are_the_callers_and_leave_nothing(identities: Identities, directory: Directory):
    directory.error = OperationalError("away")
    with pytest.raises(OperationalError):
        await identities.of(credential("a"), directory.look_up)
    directory.error = None
    assert await identities.of(credential("a"), directory.look_up) == ALICE


async def test_where_nobody_watches_nothing_is_remembered(clock: Clock, directory: Directory):
    identities = Identities(clock)
    for _ in range(3):
        assert await identities.of(credential("a"), directory.look_up) == ALICE
    identities.watch(7)
    for _ in range(3):
        await identities.of(credential("a"), directory.look_up)
    assert directory.visits == 4
    identities.unwatch()
    for _ in range(2):
        await identities.of(credential("a"), directory.look_up)
    assert directory.visits == 6


async def test_what_has_not_been_watched_for_too_long_is_not_remembered(
    identities: Identities, clock: Clock, directory: Directory
):
    clock.now += MAX_AGE - 1
    await identities.of(credential("a"), directory.look_up)
    clock.now += 1
    await identities.of(credential("a"), directory.look_up)
    await identities.of(credential("a"), directory.look_up)
    assert directory.visits == 3
    identities.watch(0)
    await identities.of(credential("a"), directory.look_up)
    await identities.of(credential("a"), directory.look_up)
    assert directory.visits == 4


async def test_nobody_is_known_for_longer_than_it_was_looked_up_for(
    identities: Identities, clock: Clock, directory: Directory
):
    await identities.of(credential("a"), directory.look_up)
    clock.now += MAX_AGE
    identities.watch(0)
    directory.found = BOB
    assert await identities.of(credential("a"), directory.look_up) == BOB


async def test_a_credential_that_ends_earlier_is_known_until_then(
    identities: Identities, clock: Clock, directory: Directory
):
    directory.found = Identity("1", False, seconds=2.0)
    await identities.of(credential("a"), directory.look_up)
    clock.now += 1.9
    await identities.of(credential("a"), directory.look_up)
    assert directory.visits == 1
    clock.now += 0.1
    directory.found = None
    assert await identities.of(credential("a"), directory.look_up) is None


async def test_who_has_not_called_for_the_longest_time_is_forgotten_first(
    identities: Identities, directory: Directory
):
    for name in "abcad":
        await identities.of(credential(name), directory.look_up)
    assert directory.visits == 4
    for name in "acd":
        await identities.of(credential(name), directory.look_up)
    assert directory.visits == 4
    await identities.of(credential("b"), directory.look_up)
    assert directory.visits == 5
    assert CAPACITY > 1000


# --- Forgetting ---------------------------------------------------------------------------------------


FORGETTING: list[Callable[[Identities], None]] = [
    lambda identities: identities.forget(credential("a")),
    lambda identities: identities.forget_all(),
    lambda identities: identities.watch(1),
]


@pytest.mark.parametrize("forget", FORGETTING)
async def test_who_is_forgotten_is_looked_up(
    identities: Identities, directory: Directory, forget: Callable[[Identities], None]
):
    await identities.of(credential("a"), directory.look_up)
    forget(identities)
    directory.found = None
    assert await identities.of(credential("a"), directory.look_up) is None


async def test_one_may_be_forgotten_alone(identities: Identities, directory: Directory):
    for name in "ab":
        await identities.of(credential(name), directory.look_up)
    identities.forget(credential("b"))
    await identities.of(credential("a"), directory.look_up)
    assert directory.visits == 2


async def test_the_same_number_of_revocations_is_no_news(identities: Identities, directory: Directory):
    await identities.of(credential("a"), directory.look_up)
    identities.watch(0)
    await identities.of(credential("a"), directory.look_up)
    assert directory.visits == 1


@pytest.mark.parametrize("forget", [*FORGETTING, lambda identities: identities.unwatch()])
async def test_what_was_read_before_a_revocation_is_not_remembered_after_it(
    identities: Identities, directory: Directory, forget: Callable[[Identities], None]
):
    directory.before_answer = lambda: forget(identities)
    assert await identities.of(credential("a"), directory.look_up) == ALICE, "it was so when they called"
    directory.before_answer = lambda: None
    directory.found = None
    assert await identities.of(credential("a"), directory.look_up) is None


# --- Renewal ------------------------------------------------------------------------------------------


async def test_who_calls_all_the_time_is_looked_up_now_and_then_without_waiting(
    identities: Identities, clock: Clock, directory: Directory
):
    await identities.of(credential("a"), directory.look_up)
    clock.now += RENEWAL_AGE
    directory.found = BOB
    for _ in range(3):
        assert await identities.of(credential("a"), directory.look_up) == ALICE
    await _renewed()
    assert directory.visits == 2
    assert await identities.of(credential("a"), directory.look_up) == BOB
    assert directory.visits == 2


async def test_who_turns_out_to_be_nobody_is_forgotten(
    identities: Identities, clock: Clock, directory: Directory
):
    await identities.of(credential("a"), directory.look_up)
    clock.now += RENEWAL_AGE
    directory.found = None
    assert await identities.of(credential("a"), directory.look_up) == ALICE
    await _renewed()
    assert await identities.of(credential("a"), directory.look_up) is None


async def test_a_renewal_that_was_overtaken_by_a_revocation_is_void(
    identities: Identities, clock: Clock, directory: Directory
):
    await identities.of(credential("a"), directory.look_up)
    clock.now += RENEWAL_AGE
    directory.before_answer = identities.forget_all
    await identities.of(credential("a"), directory.look_up)
    await _renewed()
    directory.before_answer = lambda: None
    directory.found = None
    assert await identities.of(credential("a"), directory.look_up) is None


async def test_while_the_database_is_away_who_is_known_goes_on_for_a_while_and_the_log_says_so(
    identities: Identities, clock: Clock, directory: Directory, caplog: pytest.LogCaptureFixture
):
    for name in "ab":
        await identities.of(credential(name), directory.look_up)
    directory.error = OperationalError("away")
    clock.now += RENEWAL_AGE
    for name in "aabb":
        assert await identities.of(credential(name), directory.look_up) == ALICE
    await _renewed()
    assert directory.visits == 4, "one each"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    clock.now += MAX_AGE - RENEWAL_AGE
    with pytest.raises(OperationalError):
        await identities.of(credential("a"), directory.look_up)
