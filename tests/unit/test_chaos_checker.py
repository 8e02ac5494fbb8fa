"""The checker of `make chaos`: nothing is wrong in what is right, and each kind of wrong is found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from streaming.runtime.journals.base import LOST_IDS
from tests.chaos.checker import (
    Call,
    Facts,
    Hit,
    Outage,
    Refusal,
    Row,
    Seen,
    Silence,
    Story,
    judge,
)

CALL = Call("1-7", tokens=6, interval=0.1)
TASK = "a" * 32
OTHER = "b" * 32

KILLED = Hit(5.0, "web 1", "killed", frozenset({TASK}), until=7.0)


def content(at: float, number: int, *tokens: int, tag: str = "") -> Seen:
    return Seen(at, "content", number, {"delta": "".join(f"{tag}{k} " for k in tokens)})


def ended(at: float, number: int, name: str = "complete", **data: Any) -> Seen:
    return Seen(at, name, number, data)


def whole(call: Call = CALL) -> list[Seen]:
    """What a reader sees of a call when nothing happens."""
    texts = [content(4 + k / 10, k + 1, k, tag=call.tag) for k in range(call.tokens)]
    return [Seen(4.0, "status"), *texts, ended(5, call.tokens + 1, content_length=len(call.text))]


def interrupted(after: int = 3) -> list[Seen]:
    """One whose process was killed at 5.0, and which lost nothing."""
    end = ended(10, after + LOST_IDS, "error", code="interrupted")
    return [*(content(4.5 + k / 10, k + 1, k) for k in range(after)), end]


def story(*events: Seen, call: Call = CALL, **members: Any) -> Story:
    told: dict[str, Any] = {"task_id": TASK, "node": "web 1", "accepted_at": 4.0, "route": "direct"}
    return Story(call, events=list(events), **{**told, "posts": 1, **members})


def facts(told: Story, **members: Any) -> Facts:
    """Those of a service that knows what the reader knows."""
    end = told.end
    kept = told.call.text if end is None or end.name == "complete" else ""
    row = Row(TASK, told.call.name, end.name if end else "complete", kept, end.id if end else 99)
    return Facts(rows={TASK: row}, **members)


def rules(told: Story, known: Facts | None = None) -> set[str]:
    return {violation.rule for violation in judge([told], known or facts(told))}


def test_a_story_in_which_nothing_happens_breaks_no_rule():
    assert rules(story(*whole())) == set()


def test_merged_events_break_no_rule():
    told = story(content(4, 4, 0, 1, 2, 3), content(4, 6, 4, 5), ended(5, 7, content_length=12))
    assert rules(told) == set()


def test_a_token_that_comes_in_two_events_is_one():
    pieces = [Seen(4, "content", k + 1, {"delta": delta}) for k, delta in enumerate(["0 1", " 2 3 4 5", " "])]
    assert rules(story(*pieces, ended(5, 4, content_length=12))) == set()


# Text


@pytest.mark.parametrize("at", range(1, CALL.tokens + 1))
def test_no_change_of_the_text_goes_unseen(at: int):
    """An event that is left out, comes twice, changes places with another one, or says something else."""
    right = whole()
    wrong = [
        right[:at] + right[at + 1 :],
        [*right[:at], right[at], *right[at:]],
    ]
    for there in range(1, CALL.tokens + 1):
        if there != at:
            swapped = list(right)
            swapped[at], swapped[there] = swapped[there], swapped[at]
            wrong.append(swapped)
    for events in wrong:
        assert rules(story(*events, gave_up=True)) & {"missing", "twice", "order", "foreign"}, events


@pytest.mark.parametrize("delta", ["", "7 ", "x ", "1", "0 1 "])
@pytest.mark.parametrize("at", range(1, CALL.tokens + 1))
def test_no_other_text_goes_unseen(at: int, delta: str):
    events = whole()
    events[at] = replace(events[at], data={"delta": delta})
    assert rules(story(*events)) & {"missing", "twice", "foreign"}


def test_a_token_of_somebody_else():
    call = replace(CALL, tag="1-7.")
    events = whole(call)
    events[3] = content(4.2, 3, 2, tag="1-8.")
    assert "foreign" in rules(story(*events, call=call))


def test_an_id_that_comes_again():
    events = whole()
    events[3] = replace(events[3], id=2)
    assert rules(story(*events)) == {"order"}


def test_a_text_that_is_shorter_than_its_end_says():
    events = [*whole()[:-1], ended(5, 7, content_length=99)]
    assert rules(story(*events)) == {"end"}


def test_an_end_that_comes_too_early():
    events = [content(4, 1, 0), ended(5, 2, content_length=2)]
    assert rules(story(*events)) == {"missing"}


# The end


def test_something_after_the_end():
    assert rules(story(*whole(), content(6, 9, 6))) == {"end"}


def test_two_ends():
    assert rules(story(*whole(), ended(6, 8, content_length=12))) == {"end"}


def test_no_end():
    assert rules(story(*whole()[:-1], gave_up=True)) == {"hang"}


def test_no_answer_at_all():
    assert "hang" in rules(Story(CALL, gave_up=True), Facts())


def test_an_error_that_nobody_caused():
    events = [*whole()[:3], ended(5, 3, "error", code="producer_failed")]
    assert rules(story(*events)) == {"end"}


def test_a_cancel_that_nobody_asked_for():
    events = [*whole()[:3], ended(5, 3, "cancelled", reason="disconnect")]
    assert rules(story(*events)) == {"end"}
    asked = replace(CALL, cancelled_at=0.2)
    assert rules(story(*events, call=asked)) == set()


def test_a_cancel_that_was_told_and_undone():
    asked = replace(CALL, cancelled_at=0.2)
    assert rules(story(*whole(), call=asked, told_cancelled=True)) == {"end"}


def test_a_cut_of_the_model_is_told_exactly():
    call = replace(CALL, fails_after=2)
    end = ended(5, 3, "error", code="upstream_truncated")
    assert rules(story(content(4, 1, 0), content(4, 2, 1), end, call=call)) == set()
    assert rules(story(content(4, 1, 0), end, call=call)) == {"missing"}
    assert "end" in rules(story(*whole(), call=call))


def test_a_model_that_cannot_be_reached_for_want_of_files():
    end = ended(5, 1, "error", code="upstream_failed")
    told = story(Seen(4.0, "status"), end, call=replace(CALL, by_model=True), began=4.0)
    starved = Hit(3.0, "web 1", "starved", frozenset(), until=6.0)
    assert rules(told, facts(told, hits=[starved])) == set()
    assert rules(told, facts(told, hits=[replace(starved, until=3.5)])) == {"end"}
    assert rules(told, facts(told, hits=[KILLED])) == {"end"}


def test_two_readers_who_see_different_ends():
    one, other = story(*whole()), story(*whole()[:-1], ended(5, 8, content_length=12), follows=True)
    assert "unlike" in {violation.rule for violation in judge([one, other], facts(one))}


# Interruptions and losses


def test_interrupted_by_a_kill():
    told = story(*interrupted())
    assert rules(told, facts(told, hits=[KILLED])) == set()


def test_interrupted_without_a_cause():
    told = story(*interrupted())
    assert rules(told) == {"interrupted"}
    elsewhere = replace(KILLED, tasks=frozenset({OTHER}))
    assert rules(told, facts(told, hits=[elsewhere])) == {"interrupted"}


def test_interrupted_because_the_same_call_was_refused_meanwhile():
    told = story(
        *interrupted(), refusals=[Refusal(1.0, 1.1, "web 1", 503, "redis_unavailable", told_when=True)]
    )
    assert rules(told) == set()
    told = story(*interrupted(), refusals=[Refusal(1.0, 1.1, "web 1", 429, "owner_limit", told_when=True)])
    assert rules(told) == {"interrupted"}


def test_interrupted_where_nobody_could_be_asked_what_ran():
    told = story(*interrupted())
    assert rules(told, facts(told, hits=[replace(KILLED, tasks=None)])) == set()


@pytest.mark.parametrize(("seconds", "broken"), [(1.0, {"interrupted"}), (8.0, set())])
def test_interrupted_by_standing_still(seconds: float, broken: set[str]):
    told = story(*interrupted())
    frozen = replace(KILLED, why="frozen", until=5.0 + seconds)
    assert rules(told, facts(told, hits=[frozen])) == broken


@pytest.mark.parametrize("why", ["frozen", "starved"])
def test_interrupted_by_standing_still_where_nobody_else_is(why: str):
    told = story(*interrupted())
    alone = replace(KILLED, why=why, until=15.0, alone=True)
    assert rules(told, facts(told, hits=[alone])) == {"interrupted"}
    assert rules(told, facts(told, hits=[replace(alone, alone=False)])) == set()


@pytest.mark.parametrize(("grace", "broken"), [(4.0, set()), (9.0, {"interrupted"})])
def test_interrupted_within_the_grace(grace: float, broken: set[str]):
    told = story(*interrupted())
    drained = replace(KILLED, why="drained", grace=grace)
    assert rules(told, facts(told, hits=[drained])) == broken


def test_what_was_seen_and_lost_is_told():
    end = ended(10, 2 + LOST_IDS, "error", code="interrupted")
    texts = [content(4.7 + k / 10, k + 1, k) for k in range(3)]
    lost = Seen(10, "gap", 0, {"requested": 3, "available_from": end.id, "lost": True})
    told = story(*texts, lost, end)
    assert rules(told, facts(told, hits=[KILLED])) == set()
    silent = story(*texts, end)
    assert rules(silent, facts(silent, hits=[KILLED])) == {"untold"}


@pytest.mark.parametrize("store", ["postgresql", "sqlite"])
def test_a_loss_of_more_than_a_second(store: str):
    end = ended(10, 1 + LOST_IDS, "error", code="interrupted")
    lost = Seen(10, "gap", 0, {"requested": 3, "available_from": end.id, "lost": True})
    told = story(content(2, 1, 0), content(3, 2, 1), content(4, 3, 2), lost, end)
    assert rules(told, facts(told, hits=[KILLED])) == {"loss"}
    away = [Outage(store, 2.5, 5.5)]
    assert rules(told, facts(told, hits=[KILLED], outages=away)) == set()


def test_a_loss_that_nobody_caused():
    gap = Seen(5, "gap", 0, {"requested": 6, "available_from": 7, "lost": True})
    assert rules(story(*whole()[:-1], gap, whole()[-1])) == {"gap"}


def holed(*missing: int) -> Story:
    """A reader who is told of a hole."""
    texts = [content(4 + k / 10, k + 1, k) for k in range(CALL.tokens) if k not in missing]
    texts.insert(min(missing), Seen(4.3, "gap", 0, {"requested": 1, "available_from": max(missing) + 2}))
    return story(*texts, ended(5, CALL.tokens + 1, content_length=12))


def test_a_hole_where_a_store_lost_something():
    told = holed(2, 3)
    outage = Outage("redis", 3.0, 4.0, loses=1.0)
    assert rules(told, facts(told, outages=[outage])) == set()
    assert rules(told) == {"gap"}
    assert rules(told, facts(told, outages=[replace(outage, loses=0.0)])) == {"gap"}


def test_a_hole_that_is_larger_than_what_can_be_lost():
    call = replace(CALL, interval=2.0)
    told = holed(2, 3)
    told.call = call
    assert rules(told, facts(told, outages=[Outage("redis", 3.0, 3.5, loses=1.0)])) == {"gap"}


def test_a_hole_beside_what_was_told():
    told = holed(2, 3)
    told.events = [seen for seen in told.events if seen.name != "gap"]
    assert rules(told, facts(told, outages=[Outage("redis", 3.0, 4.0, loses=1.0)])) >= {"missing"}


def test_text_that_begins_anew():
    again = Seen(9, "restart", 4, {"attempt": 2, "reason": "interrupted"})
    texts = [content(10 + k / 10, 5 + k, k) for k in range(CALL.tokens)]
    told = story(*interrupted()[:-1], again, *texts, ended(12, 11, content_length=12))
    assert rules(told, facts(told, hits=[KILLED])) == set()
    assert rules(told) == {"restart"}


def test_text_that_goes_on_where_it_should_begin_anew():
    again = Seen(9, "restart", 4, {"attempt": 2, "reason": "interrupted"})
    texts = [content(10, 5 + k, k) for k in range(3, CALL.tokens)]
    told = story(*interrupted()[:-1], again, *texts, ended(12, 11, content_length=12))
    assert rules(told, facts(told, hits=[KILLED])) == {"missing", "end"}


# Answers


def test_a_refusal_that_says_when_to_come_back():
    refused = Refusal(1.0, 1.1, "web 1", 503, "queue_full", told_when=True)
    assert rules(story(*whole(), refusals=[refused])) == set()


@pytest.mark.parametrize(
    "change",
    [{"told_when": False}, {"at": 4.0}, {"status": 500}, {"status": 409}, {"status": 404}],
    ids=["silent", "late", "500", "409", "404"],
)
def test_a_refusal_that_is_none(change: dict[str, Any]):
    refused = replace(Refusal(1.0, 1.1, "web 1", 503, "queue_full", told_when=True), **change)
    assert rules(story(*whole(), refusals=[refused])) in ({"refusal"}, {"forgotten"})


def test_a_late_refusal_of_a_process_that_was_hit_or_of_a_late_client():
    refused = Refusal(4.0, 8.0, "web 1", 503, "queue_full", told_when=True)
    told = story(*whole(), refusals=[refused])
    assert rules(told, facts(told, hits=[KILLED])) == set()
    assert rules(told, facts(told, hits=[replace(KILLED, node="web 2")])) == {"refusal"}
    assert rules(told, facts(told, lag=3.0)) == set()
    assert rules(told, facts(told, pings={"web 1": [(4.5, 1.0)]})) == set()
    assert rules(told, facts(told, pings={"web 1": [(4.5, 0.1), (8.5, 1.0)], "web 2": [(4.5, 1.0)]})) == {
        "refusal"
    }


def test_a_promise_waits_longer_while_the_database_takes_nothing():
    refused = Refusal(4.0, 8.9, "web 1", 503, "storage_unavailable", told_when=True)
    told = story(*whole(), refusals=[refused])
    full = Outage("sqlite", 3.0, 9.5)
    assert rules(told, facts(told, outages=[full])) == set()
    assert rules(told) == {"refusal"}
    told.refusals = [replace(refused, at=9.3)]
    assert rules(told, facts(told, outages=[full])) == {"refusal"}


def forgotten(**members: Any) -> Story:
    return story(content(4.8, 1, 0), refusals=[Refusal(7, 7.1, "web 2", 404, "not_found")], **members)


def test_what_began_while_nothing_could_be_written_may_be_unknown():
    full = Outage("sqlite", 3.5, 6.0)
    assert rules(forgotten(accepted_at=3.6), Facts(hits=[KILLED], outages=[full])) == set()


def test_what_began_in_the_last_moment_may_be_unknown():
    known = Facts(hits=[KILLED])
    assert rules(forgotten(accepted_at=4.7), known) == set()
    assert rules(forgotten(accepted_at=3.0), known) == {"forgotten"}
    assert rules(forgotten(accepted_at=4.7), Facts()) == {"forgotten"}


@pytest.mark.parametrize(
    "promise",
    [{}, {"call": replace(CALL, durable=True)}],
    ids=["queued", "202"],
)
def test_what_was_promised_is_never_unknown(promise: dict[str, Any]):
    told = forgotten(accepted_at=4.7, **promise)
    if not promise:
        told.events.insert(0, Seen(4.7, "status", data={"status": "queued"}))
    assert rules(told, Facts(hits=[KILLED])) == {"forgotten"}


def test_a_silence():
    told = story(*whole(), silences=[Silence(2.0, 17.0, "web 1")])
    assert rules(told) == {"silence"}
    frozen = replace(KILLED, why="frozen", tasks=frozenset())
    assert rules(told, facts(told, hits=[frozen])) == set()


# What was made


def test_a_model_is_called_once_for_each_life():
    call = replace(CALL, by_model=True, key=True, durable=True)
    told = story(*whole(), call=call)
    assert rules(told, facts(told, model_calls=Counter({"1-7": 1}))) == set()
    assert rules(told, facts(told, model_calls=Counter({"1-7": 2}))) == {"generated"}
    assert rules(told, facts(told, model_calls=Counter({"1-7": 2}), hits=[KILLED])) == set()


def test_a_call_with_a_key_is_one_task():
    call = replace(CALL, key=True, durable=True)
    told = story(*whole(), call=call, posts=2)
    known = facts(told)
    known.rows[OTHER] = replace(known.rows[TASK], id=OTHER)
    assert rules(told, known) == {"generated"}
    known.rows[OTHER] = replace(known.rows[TASK], id=OTHER, state="error", text="", error_code="interrupted")
    assert rules(told, known) == set()


def test_a_call_that_was_made_twice_is_two_tasks_at_most():
    told = story(*whole(), posts=2)
    known = facts(told)
    known.rows[OTHER] = replace(known.rows[TASK], id=OTHER)
    assert rules(told, known) == set()
    told.posts = 1
    assert rules(told, known) == {"generated"}


@pytest.mark.parametrize(
    "change",
    [{"state": "running"}, {"text": "0 1 2 "}, {"text": "0 1 2 4 5 "}, {"last_event_id": 8}],
    ids=["still running", "too short", "with a hole", "another end"],
)
def test_a_record_that_does_not_agree(change: dict[str, Any]):
    told = story(*whole())
    known = facts(told)
    known.rows[TASK] = replace(known.rows[TASK], **change)
    assert rules(told, known) == {"record"}


def test_an_end_without_a_record():
    assert rules(story(*whole()), Facts()) == {"record"}
