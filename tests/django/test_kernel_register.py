"""The register of kernels elsewhere: who holds what, until when, and in which era."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from notebooks.kernels.elsewhere import Entry
from notebooks.kernels.key import Key
from notebooks.models import KernelElsewhere
from notebooks.register import DatabaseRegister

pytestmark = pytest.mark.django_db(transaction=True)

ADA, GRACE = Key("1", "book"), Key("2", "book")


@pytest.fixture
def register() -> DatabaseRegister:
    return DatabaseRegister()


async def entry(register: DatabaseRegister, key: Key = ADA) -> Entry:
    return (await register.entries([key]))[key]


async def pass_by(seconds: float) -> None:
    """So much time goes by."""
    async for row in KernelElsewhere.objects.all():
        past = timedelta(seconds=seconds)
        held = None if row.held_until is None else row.held_until - past
        rows = KernelElsewhere.objects.filter(pk=row.pk)
        await rows.aupdate(held_until=held, used_at=timezone.now() - past)


async def test_one_holds_it_and_others_wait(register: DatabaseRegister) -> None:
    assert await register.entries([ADA]) == {}
    taken = await register.take(ADA, "a", 10)
    assert taken == Entry(ADA, held=True)
    assert await register.take(ADA, "b", 10) is None
    assert (await register.take(GRACE, "b", 10)) is not None
    await register.give_back(ADA, "b", 7)
    assert (await entry(register)).held
    await register.give_back(ADA, "a", 7)
    again = await register.take(ADA, "b", 10)
    assert again == Entry(ADA, held=True, holder="a", execution_count=7)


async def test_a_lease_expires_unless_it_is_renewed(register: DatabaseRegister) -> None:
    await register.take(ADA, "a", 10)
    await pass_by(9)
    assert await register.renew(ADA, "a", 10)
    await pass_by(9)
    assert await register.take(ADA, "b", 10) is None
    await pass_by(9)
    taken = await register.take(ADA, "b", 10)
    assert taken is not None
    assert taken.expired
    assert not await register.renew(ADA, "a", 10)
    assert not await register.assign(ADA, "a", 0, "late")


async def test_a_kernel_that_starts_in_another_era_is_not_the_notebooks(register: DatabaseRegister) -> None:
    assert await register.end_era(ADA) is None
    taken = await register.take(ADA, "a", 10)
    assert taken is not None
    assert await register.assign(ADA, "a", taken.era, "one")
    ended = await register.end_era(ADA)
    assert ended is not None
    assert (ended.kernel, ended.held) == ("one", True)
    assert not await register.assign(ADA, "a", taken.era, "two")
    assert await register.assign(ADA, "a", taken.era + 1, "three")
    assert not await register.forget(ADA, "one")
    assert (await entry(register)).kernel == "three"
    assert await register.forget(ADA, "three")


async def test_who_waits_for_a_start_is_told_and_who_runs_is_not(register: DatabaseRegister) -> None:
    await register.take(ADA, "a", 10)
    await register.do_not_wait(ADA)
    assert (await entry(register)).interrupts == 1
    await register.assign(ADA, "a", 0, "one")
    await register.do_not_wait(ADA)
    assert (await entry(register)).interrupts == 1


async def test_kernels_are_counted_and_idle_ones_found(register: DatabaseRegister) -> None:
    await register.take(ADA, "a", 10)
    await register.take(GRACE, "a", 10)
    assert (await register.number(), await register.number("1")) == (2, 1)
    await register.assign(ADA, "a", 0, "one")
    await register.give_back(ADA, "a", 1)
    await register.give_back(GRACE, "a", None)
    assert (await register.number(), await register.number("2")) == (1, 0)
    assert await register.idle(60) == []
    await pass_by(61)
    assert [each.key for each in await register.idle(60)] == [ADA]
    await register.take(ADA, "b", 10)
    assert await register.idle(60) == []
