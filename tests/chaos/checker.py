"""What may not happen, whatever fails: rules over what clients saw, pure.

A *story* is what one client saw of one call; *facts* are what was done to processes and stores meanwhile,
and what the service itself says afterwards. `judge` returns what breaks a rule. All moments are monotonic
seconds.

The text of a call is numbered: token k is the call's tag, `k` and a space. So a reader needs no second copy
to know whether each came once and in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from streaming.runtime.journals.base import LOST_IDS

TERMINAL: Final = ("complete", "error", "cancelled")

DURABLE: Final = ("content", "output", "result", "restart", "truncated", *TERMINAL)

RETRYABLE: Final = ("interrupted", "upstream_truncated", "upstream_failed")
"""Errors after which the same call may be made again."""

REFUSAL_LIMIT: Final = 2.0
"""Seconds within which a refusal comes (R14)."""

RECORD_LIMIT: Final = 5.0
"""The same while the database takes nothing: so long a promise waits for its record (docs/design.md)."""

STEPS: Final = 3
"""Turns of the loop, or of a thread, that a refusal takes besides what it waits for."""

LOSS_LIMIT: Final = 1.0
"""Seconds of text before a kill that may be lost (R8, R13)."""

HITTING: Final = 0.5
"""Seconds between the moment that is noted for a hit and the hit: its tasks are looked up first."""

PASSING: Final = ("frozen", "starved")
"""Hits that a process survives, with its tasks unless somebody else has taken over."""

HELD_FOR_DEAD: Final = 4.0
"""Seconds of standing still from which others may have taken over: five by their clocks, which look once a
second."""

DATABASES: Final = ("postgresql", "sqlite")
"""The stores that records are in."""

AFTER_RETURN: Final = 3.0
"""Seconds after a process or a store is back in which its absence may still be felt."""


@dataclass(frozen=True)
class Call:
    """What a client asks for. `name`: of no other call, and the end user of its tasks."""

    name: str
    tokens: int
    interval: float
    tag: str = ""
    key: bool = False
    """Whether it has an Idempotency-Key."""
    durable: bool = False
    """Whether an answer promises that the task is remembered (202, or a key)."""
    by_model: bool = False
    """Whether the model service writes, which counts its calls."""
    fails_after: int | None = None
    """Tokens after which the model service cuts its answer."""
    cancelled_at: float | None = None
    """Seconds after its start at which a client cancels it."""
    leaves: bool = False
    """Whether the client goes away for good before the end, and wants no more then: a cut looks the same."""

    @property
    def seconds(self) -> float:
        """How long the producer takes."""
        return self.tokens * self.interval

    def token(self, number: int) -> str:
        """The token of that number, without its space."""
        return f"{self.tag}{number}"

    @property
    def text(self) -> str:
        """All of it."""
        made = self.tokens if self.fails_after is None else self.fails_after
        return "".join(f"{self.token(k)} " for k in range(made))


@dataclass(frozen=True)
class Seen:
    """An event as a client saw it. `id`: the last one that was told; an ephemeral one has none of its own."""

    at: float
    name: str
    id: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """An answer that is no stream. `asked`, `at`: when the request left and when the answer came."""

    asked: float
    at: float
    node: str
    status: int
    code: str = ""
    told_when: bool = False
    """Whether it said when to come back."""


@dataclass(frozen=True)
class Silence:
    """An open connection on which nothing came for too long, although heartbeats are due."""

    since: float
    at: float
    node: str


@dataclass
class Story:
    """What one client saw. `began`, `ended`: of the client."""

    call: Call
    began: float = 0.0
    task_id: str = ""
    node: str = ""
    """Where the call was accepted."""
    accepted_at: float | None = None
    route: str = ""
    posts: int = 0
    """How often the call was made: who does not get its answer makes it again."""
    events: list[Seen] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    cuts: int = 0
    told_cancelled: bool = False
    """Whether a DELETE was answered with the state `cancelled`."""
    gave_up: bool = False
    """The end of the round came first."""
    follows: bool = False
    """A second reader, who did not make the call."""

    @property
    def end(self) -> Seen | None:
        """The terminal event, if one came."""
        return next((seen for seen in self.events if seen.name in TERMINAL), None)

    @property
    def was_queued(self) -> bool:
        """Whether it was told that its task waits: that is a promise (the header with the route is none)."""
        return any(seen.name == "status" and seen.data.get("status") == "queued" for seen in self.events)

    def digest(self, begun: float) -> str:
        """All that happened, in one line; times count from `begun`."""
        said = [
            f"{self.call.tokens} tokens each {self.call.interval} s from {self.began - begun:.2f}",
            f"task {self.task_id or 'unknown'}, {self.route or 'not'} accepted by {self.node or 'anybody'}",
            f"{self.posts} calls, {self.cuts} cuts",
        ]
        said += [f"{each.at - begun:.2f} {each.status} {each.code} of {each.node}" for each in self.refusals]
        said += [f"{each.since - begun:.2f} silence of {each.node}" for each in self.silences]
        texts = [seen for seen in self.events if seen.name == "content"]
        if texts:
            first, last = texts[0], texts[-1]
            said.append(f"{first.at - begun:.2f} to {last.at - begun:.2f} text {first.id} to {last.id}")
        if self.was_queued:
            said.append("told that it waits")
        others = [seen for seen in self.events if seen.name not in ("content", "status", "ping", "opened")]
        said += [f"{seen.at - begun:.2f} {seen.name} {seen.id} {_short(seen.data)}" for seen in others]
        return "; ".join(said)


@dataclass(frozen=True)
class Hit:
    """A process was hit. `why`: killed, drained, frozen, starved (of files). `tasks`: those that it was
    running by its database, None where that could not be asked. `until`: when it served again."""

    at: float
    node: str
    why: str
    tasks: frozenset[str] | None = None
    until: float = float("inf")
    grace: float = 0.0
    """Seconds that a drained one gives what runs."""
    alone: bool = False
    """Whether there is no other process: nobody can hold this one for dead."""

    def ends(self, task_id: str) -> bool:
        """Whether it may have ended that task's process under it."""
        if self.why in PASSING and (self.alone or self.until - self.at < HELD_FOR_DEAD):
            return False
        return self.tasks is None or task_id in self.tasks


@dataclass(frozen=True)
class Outage:
    """A store was away: `redis`, or a database (`DATABASES`). `loses`: seconds of what it had been given
    before that may be gone."""

    store: str
    at: float
    until: float
    loses: float = 0.0


@dataclass(frozen=True)
class Row:
    """A task as the database has it after the round."""

    id: str
    call: str
    state: str
    text: str
    last_event_id: int
    error_code: str = ""
    cancel_reason: str = ""

    @property
    def may_be_asked_again(self) -> bool:
        """Whether its key stands for a new task when the call is made again."""
        return self.error_code in RETRYABLE or self.cancel_reason == "disconnect"


@dataclass
class Facts:
    """What happened, and what is known afterwards. `lag`: how late the clients' own loop was at most."""

    hits: list[Hit] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    model_calls: Counter[str] = field(default_factory=Counter)
    """By the name of the call."""
    lag: float = 0.0
    refused: set[str] = field(default_factory=set)
    """Calls that were answered 503 at least once."""
    pings: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Of each web, when it was asked whether it lives, and after how many seconds it said so."""

    def slowness(self, node: str, since: float, until: float) -> float:
        """Seconds that the web, and whoever asked it, needed for the least answer within that time: what a
        busy machine adds to each step of a longer one."""
        took = [seconds for at, seconds in self.pings.get(node, ()) if at < until and since < at + seconds]
        return max(self.lag, *took) if took else self.lag

    def hits_of(self, task_id: str) -> list[Hit]:
        """What may have ended the process of that task."""
        return [hit for hit in self.hits if hit.ends(task_id)]

    def unwritten(self, since: float, until: float) -> bool:
        """Whether the database was away, or just back, in a part of that time."""
        return any(
            outage.store in DATABASES and outage.at < until and since < outage.until + AFTER_RETURN
            for outage in self.outages
        )

    def starved(self, since: float, until: float) -> bool:
        """Whether a process could open no file in a part of that time."""
        return any(hit.why == "starved" and hit.at < until and since < hit.until for hit in self.hits)

    def troubled(self, node: str, since: float, until: float) -> bool:
        """Whether that process was hit, or just back, in a part of that time."""
        return any(
            hit.node == node and hit.at < until and since < hit.until + AFTER_RETURN for hit in self.hits
        )


@dataclass(frozen=True)
class Violation:
    """A rule that was broken, by which call, and how."""

    rule: str
    call: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.call}: {self.detail}"


def _short(data: Mapping[str, Any]) -> str:
    told = ("code", "reason", "attempt", "lost", "requested", "available_from", "after")
    return " ".join(f"{name}={data[name]}" for name in told if name in data)


def judge(stories: Iterable[Story], facts: Facts) -> list[Violation]:
    """All rules over all stories of a round."""
    told = list(stories)
    facts.refused |= {
        story.call.name for story in told if any(refusal.status == 503 for refusal in story.refusals)
    }
    found = [violation for story in told for violation in judge_story(story, facts)]
    return [*found, *_unlike(told), *_generated(told, facts), *_records(told, facts)]


def judge_story(story: Story, facts: Facts) -> list[Violation]:
    """The rules about what one client saw."""
    reading = Reading(story, facts)
    for seen in story.events:
        reading.take(seen)
    reading.finish()
    for refusal in story.refusals:
        _judge_refusal(story, refusal, facts, reading)
    for silence in story.silences:
        if not facts.troubled(silence.node, silence.since, silence.at):
            detail = f"{silence.node} said nothing for {silence.at - silence.since:.1f} s"
            reading.blame("silence", detail)
    return reading.violations


class Reading:
    """One story, event by event: what a client that follows the protocol would have."""

    def __init__(self, story: Story, facts: Facts) -> None:
        self.violations: list[Violation] = []
        self._story = story
        self._call = story.call
        self._facts = facts
        self._last_id = 0
        self._next = 0
        self._rest = ""
        self._length = 0
        self._attempt = 1
        self._gap: Seen | None = None
        self._has_hole = False
        self._end: Seen | None = None

    def blame(self, rule: str, detail: str) -> None:
        """Note that `rule` was broken."""
        self.violations.append(Violation(rule, self._call.name, detail))

    def take(self, seen: Seen) -> None:
        """The next event."""
        if seen.name == "gap":
            self._take_gap(seen)
            return
        if seen.name not in DURABLE:
            return
        if self._end is not None:
            self.blame("end", f"{seen.name} {seen.id} after {self._end.name} {self._end.id}")
            return
        if seen.id <= self._last_id:
            self.blame("order", f"{seen.name} {seen.id} after {self._last_id}")
        self._last_id = seen.id
        if seen.name == "content":
            self._take_text(str(seen.data["delta"]), seen)
        elif seen.name == "restart":
            self._take_restart(seen)
        elif seen.name in TERMINAL:
            self._end = seen

    def finish(self) -> None:
        """There was no more."""
        story, end = self._story, self._end
        if end is not None:
            self._judge_end(end)
        elif not story.call.leaves and story.gave_up:
            self.blame("hang", f"no end of {story.task_id or 'the call'} after {self._next} tokens")

    def _take_text(self, delta: str, seen: Seen) -> None:
        if self._gap is not None and self._gap.data.get("lost"):
            self.blame("gap", f"text {seen.id} after a loss that only the end may follow")
        *whole, self._rest = (self._rest + delta).split(" ")
        self._length += len(delta)
        for token in whole:
            self._take_token(token, seen)

    def _take_token(self, token: str, seen: Seen) -> None:
        number = token.removeprefix(self._call.tag)
        if not number.isdecimal() or token != self._call.token(int(number)):
            if self._gap is None:
                self.blame("foreign", f"{token!r} in {seen.id} where {self._call.token(self._next)} was due")
            return
        k = int(number)
        if k > self._next:
            if self._gap is None:
                self.blame("missing", f"{self._next} to {k - 1}, before event {seen.id}")
            else:
                self._judge_hole(k - self._next, self._gap)
        elif k < self._next:
            self.blame("twice", f"{k} in event {seen.id}, where {self._next} was due")
        self._gap = None
        self._next = k + 1

    def _take_gap(self, seen: Seen) -> None:
        if seen.data.get("lost"):
            if not self._hits():
                self.blame("gap", f"told a loss, and no process of {self._story.task_id} was hit")
        elif not self._losing(seen.at):
            self.blame("gap", f"a hole from {seen.data.get('requested')}, and nothing can have lost it")
        self._gap = seen

    def _judge_hole(self, tokens: int, gap: Seen) -> None:
        self._has_hole = True
        losing = self._losing(gap.at)
        if not losing:
            return
        away = max(outage.until - outage.at + outage.loses for outage in losing)
        seconds = tokens * self._call.interval
        if seconds > away + LOSS_LIMIT:
            self.blame("gap", f"{tokens} tokens ({seconds:.1f} s) lost, by {away:.1f} s without a store")

    def _losing(self, at: float) -> list[Outage]:
        return [outage for outage in self._facts.outages if outage.loses and outage.at < at]

    def _take_restart(self, seen: Seen) -> None:
        attempt = int(seen.data["attempt"])
        if attempt <= self._attempt:
            self.blame("restart", f"attempt {attempt} after {self._attempt}")
        elif attempt > 1 + len(self._hits()):
            self.blame("restart", f"attempt {attempt}, and its process was hit {len(self._hits())} times")
        self._attempt, self._next, self._rest, self._length, self._gap = attempt, 0, "", 0, None
        self._has_hole = False

    def _hits(self) -> list[Hit]:
        return self._facts.hits_of(self._story.task_id)

    # The end

    def _judge_end(self, end: Seen) -> None:
        if self._rest:
            self.blame("foreign", f"half a token at the end: {self._rest!r}")
        if end.name == "complete":
            self._judge_complete(end)
        elif end.name == "cancelled":
            if self._call.cancelled_at is None and not self._call.leaves:
                self.blame("end", f"cancelled ({end.data.get('reason')}), and nobody asked for it")
        else:
            self._judge_error(end)
        if self._story.told_cancelled and end.name != "cancelled":
            self.blame("end", f"{end.name}, after a DELETE was told `cancelled`")

    def _judge_complete(self, end: Seen) -> None:
        if self._call.fails_after is not None:
            self.blame("end", "complete, although the model's answer was cut")
        elif self._next != self._call.tokens and not (self._has_hole or self._gap):
            self.blame("missing", f"complete with {self._next} of {self._call.tokens} tokens")
        elif not (self._has_hole or self._gap) and end.data.get("content_length") != self._length:
            self.blame("end", f"complete says {end.data.get('content_length')} code points of {self._length}")

    def _judge_error(self, end: Seen) -> None:
        code = end.data.get("code")
        if code == "upstream_truncated" and self._call.fails_after is not None:
            if self._next != self._call.fails_after and not (self._has_hole or self._gap):
                self.blame("missing", f"{self._next} of {self._call.fails_after} tokens before the cut")
            return
        if (
            code == "upstream_failed"
            and self._call.by_model
            and self._facts.starved(self._story.began, end.at)
        ):
            return
        if code != "interrupted":
            self.blame("end", f"error {code}")
            return
        hits = self._hits()
        if not hits and self._call.name in self._facts.refused:
            # Refused after its row was written: who had found it meanwhile is told to ask again.
            return
        if not hits:
            self.blame("interrupted", "and no process that ran it was killed, drained or held for dead")
        elif all(hit.why == "drained" for hit in hits) and not self._outlasts(hits, end):
            self.blame("interrupted", "within the grace of its process")
        self._judge_loss(end, hits)

    def _outlasts(self, hits: Sequence[Hit], end: Seen) -> bool:
        """Whether it was still running when a grace was over."""
        return any(end.at > hit.at + hit.grace - 1.0 for hit in hits)

    def _judge_loss(self, end: Seen, hits: Sequence[Hit]) -> None:
        """What was seen and did not survive is told, and young."""
        kept = end.id - LOST_IDS
        if kept < 0:
            return
        lost = [seen for seen in self._story.events if seen.name == "content" and kept < seen.id < end.id]
        if not lost:
            return
        if self._gap is None:
            self.blame("untold", f"events from {lost[0].id} did not survive, and nobody said so")
        if any(self._facts.unwritten(hit.at - LOSS_LIMIT, hit.at) for hit in hits):
            return
        old = max((hit.at for hit in hits), default=lost[0].at) - lost[0].at
        if old > LOSS_LIMIT + self._facts.lag:
            self.blame("loss", f"event {lost[0].id} was {old:.2f} s old when its process was hit")


def _judge_refusal(story: Story, refusal: Refusal, facts: Facts, reading: Reading) -> None:
    took = refusal.at - refusal.asked
    if refusal.status in (429, 503):
        if not refusal.told_when:
            reading.blame("refusal", f"{refusal.status} {refusal.code} without Retry-After")
        troubled = facts.troubled(refusal.node, refusal.asked, refusal.at)
        slowness = STEPS * facts.slowness(refusal.node, refusal.asked, refusal.at)
        waits = refusal.code == "storage_unavailable" and facts.unwritten(refusal.asked, refusal.at)
        limit = RECORD_LIMIT if waits else REFUSAL_LIMIT
        if took > limit + slowness and not troubled:
            reading.blame("refusal", f"{refusal.status} {refusal.code} of {refusal.node} after {took:.1f} s")
    elif refusal.status in (404, 410):
        if not _may_be_unknown(story, facts):
            reading.blame("forgotten", f"{refusal.status} {refusal.code} for {story.task_id}")
    else:
        reading.blame("refusal", f"{refusal.status} {refusal.code} of {refusal.node}")


def _may_be_unknown(story: Story, facts: Facts) -> bool:
    """Whether the process that accepted it was killed before it can have written anything of it."""
    if story.call.durable or story.was_queued or story.accepted_at is None:
        return False
    accepted = story.accepted_at
    for hit in facts.hits:
        if hit.node != story.node or hit.at < accepted - HITTING - facts.lag:
            continue
        without = [
            outage
            for outage in facts.outages
            if outage.store in DATABASES and outage.at < hit.at < outage.until + LOSS_LIMIT
        ]
        written_since = min([hit.at, *(outage.at for outage in without)]) - LOSS_LIMIT - facts.lag
        if accepted > written_since:
            return True
    return False


def _unlike(stories: Sequence[Story]) -> list[Violation]:
    """All readers of a task see the same end."""
    first: dict[str, Story] = {}
    found = []
    for story in stories:
        if story.end is None:
            continue
        other = first.setdefault(story.task_id, story)
        assert other.end is not None
        mine, theirs = (each.id for each in (story.end, other.end))
        if (story.end.name, mine) != (other.end.name, theirs):
            detail = f"{story.end.name} {mine} here, {other.end.name} {theirs} there"
            found.append(Violation("unlike", story.call.name, detail))
    return found


def _generated(stories: Sequence[Story], facts: Facts) -> list[Violation]:
    """A call makes one task, and a task one call of the model for each of its lives."""
    found = []
    rows: dict[str, list[Row]] = {}
    for row in facts.rows.values():
        rows.setdefault(row.call, []).append(row)
    posts: Counter[str] = Counter()
    for story in stories:
        posts[story.call.name] += story.posts
    for call in {story.call.name: story.call for story in stories}.values():
        tasks = rows.get(call.name, [])
        again = sum(row.may_be_asked_again for row in tasks)
        most = 1 + again if call.key else posts[call.name]
        if len(tasks) > most:
            detail = f"{len(tasks)} tasks of {posts[call.name]} calls{' with one key' if call.key else ''}"
            found.append(Violation("generated", call.name, detail))
        if call.by_model:
            lives = sum(1 + len(facts.hits_of(row.id)) for row in tasks)
            forgotten = posts[call.name] - len(tasks) if not call.durable else 0
            if facts.model_calls[call.name] > lives + max(0, forgotten):
                detail = f"{facts.model_calls[call.name]} calls of the model for {lives} lives"
                found.append(Violation("generated", call.name, detail))
    return found


def _records(stories: Sequence[Story], facts: Facts) -> list[Violation]:
    """The database agrees with what readers saw, and nothing in it waits for ever."""
    calls = {story.call.name: story.call for story in stories}
    found = []
    for row in facts.rows.values():
        call = calls.get(row.call)
        if call is None:
            continue
        if row.state not in TERMINAL:
            found.append(Violation("record", call.name, f"{row.id} is still {row.state}"))
        elif (row.state == "complete" and row.text != call.text) or not call.text.startswith(row.text):
            found.append(Violation("record", call.name, f"{row.id}: {_difference(row.text, call.text)}"))
    for story in stories:
        end = story.end
        kept = facts.rows.get(story.task_id)
        if end is None:
            continue
        if kept is None:
            found.append(
                Violation("record", story.call.name, f"{story.task_id} has ended, and has no record")
            )
        elif (kept.state, kept.last_event_id) != (end.name, end.id):
            detail = f"{end.name} {end.id} was told, the record has {kept.state} {kept.last_event_id}"
            found.append(Violation("record", story.call.name, detail))
    return found


def _difference(one: str, other: str) -> str:
    at = next(
        (k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return f"{one[at : at + 12]!r} is kept where {other[at : at + 12]!r} was made"
