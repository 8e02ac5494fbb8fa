"""Rollups of any split of the same tasks add up to the same; summaries put each where it belongs."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.rollup import (
    DAY,
    HOUR,
    NOBODY,
    OWNERS,
    OWNERS_IN_MEMORY,
    RANGES,
    SLOWEST,
    WEEK,
    End,
    Part,
    Range,
    Rollup,
    decode,
    figures,
    merged,
    summarise,
)

from .test_sse import fast

NOW = 1_800_000_000.0 + 17.5
"""Not at the beginning of a minute."""

durations = st.none() | st.floats(0, 100_000)
counts = st.integers(0, 500)
ends = st.builds(
    End,
    task_id=st.uuids().map(lambda each: each.hex),
    route=st.sampled_from(["direct", "queued"]),
    state=st.sampled_from(["complete", "error", "cancelled"]),
    code=st.sampled_from(["", "interrupted", "run_timeout"]),
    cancelled_by=st.sampled_from(["", "client", "disconnect"]),
    started=st.booleans(),
    queued_ms=durations,
    first_content_ms=durations,
    total_ms=durations,
    status_messages=counts,
    resumes=counts,
    chunks=counts,
    tokens=counts,
    code_points=counts,
)
happenings = st.one_of(
    ends,
    st.tuples(
        st.sampled_from(["direct", "queued"]),
        st.sampled_from(["worker_free", "workers_busy"]),
        st.sampled_from([NOBODY, "1", "2"]),
    ),
    st.sampled_from(["queue_full", "owner_limit"]),
)


def rollup_of(happened: Iterable[Any]) -> Rollup:
    made = Rollup()
    for each in happened:
        match each:
            case End():
                made.end(each)
            case str():
                made.refuse(each)
            case route, reason, *owner:
                made.accept(route, reason, *owner)
    return made


@fast
@given(st.lists(happenings, max_size=40), st.data())
def test_any_split_over_minutes_and_processes_adds_up_to_the_same(happened: list[Any], data: st.DataObject):
    places = data.draw(st.lists(st.integers(0, 3), min_size=len(happened), max_size=len(happened)))
    parts = [
        rollup_of(each for each, at in zip(happened, places, strict=True) if at == place)
        for place in range(4)
    ]
    order = data.draw(st.permutations(parts))
    assert merged(order) == rollup_of(happened)
    assert merged([merged(order[:2]), merged(order[2:])]) == rollup_of(happened)


@fast
@given(st.lists(happenings, max_size=20))
def test_json_and_back_is_the_same(happened: list[Any]):
    made = rollup_of(happened)
    assert decode(made.encode()) == made


@fast
@given(st.lists(happenings, max_size=20), st.lists(happenings, max_size=20))
def test_what_is_merged_into_another_stays_as_it_is(ours: list[Any], theirs: list[Any]):
    one, other = rollup_of(ours), rollup_of(theirs)
    whole = merged([one, other])
    whole.merge(whole)
    whole.refuse("draining")
    assert (one, other) == (rollup_of(ours), rollup_of(theirs))


def test_what_another_version_wrote_is_read_as_far_as_it_is_known():
    assert decode(b'{"accepted":{"direct":2},"new":[1]}') == Rollup(accepted={"direct": 2})
    assert decode(b"{}") == Rollup()
    with pytest.raises(msgspec.DecodeError):
        decode(b"[]")


def test_the_slowest_are_kept_by_name_longest_first():
    tasks = [
        End(task_id=f"{number:02}", route="queued", state="complete", queued_ms=number % 50, total_ms=number)
        for number in range(99)
    ]
    made = rollup_of(tasks)
    assert [each.task_id for each in made.longest] == [f"{98 - number}" for number in range(SLOWEST)]
    assert [each.milliseconds for each in made.longest_wait[:3]] == [49, 48, 48]
    assert made.latest_content == []


def test_only_who_got_a_worker_through_the_queue_counts_as_having_waited():
    """As `sluice_queue_wait_seconds`: from admission to permit, of tasks that were queued and got one."""
    direct = End(task_id="a", route="direct", state="complete", queued_ms=0.1, total_ms=5)
    served = End(task_id="b", route="queued", state="cancelled", queued_ms=900, total_ms=2000)
    gave_up = End(task_id="c", route="queued", state="cancelled", started=False, queued_ms=9e4, total_ms=9e4)
    made = rollup_of([direct, served, gave_up])
    assert (made.queue_wait.count, made.queue_wait.max) == (1, 900)
    assert [each.task_id for each in made.longest_wait] == ["b"]
    assert [(each.task_id, each.milliseconds) for each in made.in_vain] == [("c", 9e4)]
    assert made.total.count == 3
    assert made.first_content.count == 0


def test_owners_are_counted_by_name_up_to_so_many():
    made = rollup_of([("direct", "x", str(number % OWNERS)) for number in range(3 * OWNERS)])
    assert decode(made.encode()).owners == {str(number): 3 for number in range(OWNERS)}


@pytest.mark.parametrize("seed", range(3))
def test_of_any_number_of_owners_those_who_ask_most_are_kept_and_nobody_is_counted_too_often(seed: int):
    """Some ask again and again, thousands once each; over several periods that were written down."""
    chance = random.Random(seed)
    asked = {f"often {number}": chance.randint(40, 200) for number in range(10)}
    parts = []
    for period in range(3):
        calls = [name for name, times in asked.items() for _ in range(times)]
        calls += [f"once {period} {number}" for number in range(OWNERS_IN_MEMORY)]
        chance.shuffle(calls)
        parts.append(decode(rollup_of(("direct", "x", name) for name in calls).encode()))
    assert max(len(part.owners) for part in parts) <= OWNERS
    whole = merged(parts)
    for name, count in whole.owners.items():
        assert count <= 3 * asked.get(name, 1)
    assert set(whole.top_owners(len(asked))) == set(asked)
    assert all(whole.owners[name] >= 3 * times * 0.9 for name, times in asked.items())
    assert sum(whole.owners.values()) <= sum(whole.accepted.values())


def test_figures_are_shares_and_rates():
    made = Rollup()
    for route, times in (("direct", 6), ("queued", 2)):
        for _ in range(times):
            made.accept(route, "any")
    made.refuse("queue_full", 2)
    done = {"state": "complete", "tokens": 100, "code_points": 400, "status_messages": 3, "resumes": 1}
    for number in range(3):
        made.end(
            End(task_id=str(number), route="direct", first_content_ms=1000, total_ms=6000, **done)  # type: ignore[arg-type]
        )
    made.end(End(task_id="3", route="direct", state="error", code="run_timeout", total_ms=10))
    found = figures(made, 60)
    assert (found.asked, found.direct, found.queued, found.rejected) == (10, 6, 2, 2)
    assert (found.direct_share, found.queued_share, found.rejected_share) == (0.6, 0.2, 0.2)
    assert (found.ended, found.complete, found.failed, found.cancelled) == (4, 3, 1, 0)
    assert found.error_share == 0.25
    assert found.tokens_per_second == 300 / 60
    assert found.code_points_per_second == 1200 / 60
    assert found.stream_tokens_per_second == 300 / 15
    assert found.status_per_task == 9 / 4
    assert (found.first_content.count, found.total.count, found.total.max) == (3, 4, 6000)


def test_nothing_happened_is_no_share_of_anything():
    found = figures(Rollup(), 60)
    assert found.rejected_share is found.error_share is found.status_per_task is None
    assert found.stream_tokens_per_second is found.first_content.p99 is None
    assert (found.asked, found.tokens_per_second) == (0, 0)


@pytest.mark.parametrize("of", RANGES.values(), ids=RANGES)
def test_a_range_has_its_buckets_and_the_last_one_is_now(of: Range):
    found = summarise([], of, NOW)
    assert len(found.buckets) == of.seconds // of.step
    assert found.starts[-1] <= NOW < found.starts[-1] + of.step
    assert all(start % of.step == 0 for start in found.starts)
    assert [HOUR.step, DAY.step, WEEK.step] == [60, 600, 3600]


@fast
@given(st.lists(st.tuples(st.floats(-7200, 7200), happenings), max_size=30))
def test_what_is_in_the_range_is_in_one_bucket_and_in_the_whole(happened: list[tuple[float, Any]]):
    parts = [Part(NOW + shift, "pool", "kind", rollup_of([each])) for shift, each in happened]
    found = summarise(parts, HOUR, NOW)
    end = found.start + HOUR.seconds
    inside = [part.rollup for part in parts if found.start <= part.start < end]
    assert found.whole == merged(inside) == merged(found.buckets)
    for start, bucket in zip(found.starts, found.buckets, strict=True):
        assert bucket == merged(part.rollup for part in parts if start <= part.start < start + 60)


def test_pools_and_kinds_have_their_own_totals():
    one, other, refusals = rollup_of([("direct", "x")]), rollup_of([("queued", "x")]), rollup_of(["full"])
    at = NOW - 60
    found = summarise(
        [Part(at, "a", "k", one), Part(at, "b", "k", other), Part(at, "a", "", refusals)], HOUR, NOW
    )
    assert found.pools == {"a": merged([one, refusals]), "b": other}
    assert found.kinds == {"k": merged([one, other])}


def test_rates_of_the_bucket_that_is_not_over_are_over_what_has_passed_of_it():
    made = Rollup(tokens=350)
    last = list(summarise([Part(NOW - 1, "a", "k", made)], HOUR, NOW).series())[-1]
    assert last[1].tokens_per_second == pytest.approx(350 / 17.5)


def test_rates_of_the_range_are_over_the_time_since_something_happened():
    made = Rollup(tokens=350)
    found = summarise([Part(NOW, "a", "k", made), Part(NOW - 180, "a", "k", made)], WEEK, NOW)
    assert found.seconds == NOW % WEEK.step + WEEK.step
    assert summarise([Part(NOW - 180, "a", "k", made)], HOUR, NOW).totals.tokens_per_second == 350 / 197.5
    assert summarise([], HOUR, NOW).seconds == NOW - HOUR.start(NOW), "nothing happened in all this time"
