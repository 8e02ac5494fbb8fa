"""Looking at all rules: one process at a time, each change once, whichever processes come and go.

One row (`AlertRound`) has the time of the last look and where each rule stands. Who moves the time on, by a
conditional update, looks; what follows from it (the rows of alerts, that somebody is to be told, where the
rules stand now) is one transaction, and void if meanwhile another process has had its turn. Numbers are read
before it, so that no lock is held for long.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

import msgspec
from django.db import DatabaseError, IntegrityError, InterfaceError, transaction
from django.db.models import F, Q
from django.utils import timezone

from streaming import conf
from streaming.core.alerts import QUIET, Change, Kind, Reading, Rule, State, reconciled, step
from streaming.models import Alert, AlertRound

from .measuring import NOTHING, Beats, readings
from .notices import deliver, note
from .words import sentence

logger = logging.getLogger(__name__)

ROW: Final = 1

SLACK: Final = 0.9
"""Share of the interval after which a look is due: timers are not exact, and none shall wait for two."""

LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


class Report(msgspec.Struct, frozen=True):
    """What a monitor said last; `at` in seconds since the epoch."""

    value: float
    sentence: str
    at: float


class Memory(msgspec.Struct):
    """What one look leaves to the next: where each rule stands, the beats of processes, the last reports."""

    states: dict[str, State] = {}
    beats: Beats = {}
    reports: dict[str, Report] = {}


Told = tuple[Change, Alert]


def evaluate(interval: float, now: datetime | None = None) -> bool:
    """Look at all rules, if nobody has done so within `interval` seconds; whether this call did. Raises what
    the database raises."""
    now = now or timezone.now()
    if not _take_turn(interval, now):
        return False
    before = _decode(AlertRound.objects.values_list("memory", flat=True).get(pk=ROW))
    rules = _rules(before)
    found, beats = readings(rules.values(), before.beats, now.timestamp())
    told: list[Told] = []
    with _memory(now) as memory:
        if memory is None:
            return False
        memory.beats = beats
        rules |= _rules(memory)
        opened = {alert.rule: alert for alert in Alert.objects.filter(resolved_at=None)}
        for name, rule in rules.items():
            if rule.kind is Kind.REPORTED:
                reading, words = _reported(rule, memory.reports.get(name), now)
            else:
                reading = found.get(name, NOTHING)
                words = sentence(rule, reading)
            told += _move(rule, reading, words, memory, opened.get(name), now)
        for name, alert in opened.items():
            if name not in rules:
                # The rule is gone, or switched off.
                told += _resolve(alert, None, now)
        memory.states = {name: state for name, state in memory.states.items() if name in rules}
        memory.reports = {name: report for name, report in memory.reports.items() if name in rules}
    _log(told)
    return True


def report(rule_name: str, value: float, sentence: str) -> bool:
    """Tell what a monitor sees: `value` above the rule's threshold is a reason for an alert, with this
    sentence (in the server's language, without secrets). Whether the alert is open now.

    `ALERTS[rule_name]` is of kind `reported`; a name that is not there is a rule with that kind's defaults.
    To be called again and again: without a report for the rule's `window` the alert is resolved. Synchronous,
    visits the database, may wait for receivers of notices. A database that is away is logged; the answer is
    False then.
    """
    try:
        return _report(rule_name, value, sentence)
    except (DatabaseError, InterfaceError) as error:
        logger.warning("%s could not be reported: %s: %s", rule_name, type(error).__name__, sentence)
        return False


def _report(name: str, value: float, words: str) -> bool:
    if not 0 < len(name) <= conf.MAX_RULE_NAME:
        raise ValueError(f"{name!r} is no name of a rule: expected 1 to {conf.MAX_RULE_NAME} characters")
    rule = conf.alert_rules().get(name) or _default_rule(name)
    if rule is None or rule.kind is not Kind.REPORTED:
        return False
    now = timezone.now()
    _make_row(now)
    with _memory(None) as memory:
        assert memory is not None
        memory.reports[name] = Report(value, words, now.timestamp())
        alert = Alert.objects.filter(rule=name, resolved_at=None).first()
        told = _move(rule, Reading(value), words, memory, alert, now)
        is_open = memory.states[name].phase.open
    _log(told)
    deliver(now)
    return is_open


def open_alerts() -> list[Alert]:
    """Those that are raised and not resolved, the oldest first."""
    return list(Alert.objects.filter(resolved_at=None).order_by("raised_at", "pk"))


# Whose turn it is


def _take_turn(interval: float, now: datetime) -> bool:
    due = now - timedelta(seconds=interval * SLACK)
    # A moment that lies ahead is of a clock that was wrong.
    ahead = now + timedelta(seconds=interval + 60)
    mine = AlertRound.objects.filter(pk=ROW).filter(Q(at__lte=due) | Q(at__gt=ahead))
    return bool(mine.update(at=now)) or _make_row(now)


def _make_row(now: datetime) -> bool:
    if AlertRound.objects.filter(pk=ROW).exists():
        return False
    try:
        with transaction.atomic():
            AlertRound.objects.create(pk=ROW, at=now)
    except IntegrityError:
        return False
    return True


@contextmanager
def _memory(at: datetime | None) -> Iterator[Memory | None]:
    """What is remembered, to be changed in a transaction that others wait for; None if the turn that began
    `at` is over (`at` None: whosever it is)."""
    with transaction.atomic():
        row = AlertRound.objects.filter(pk=ROW)
        # A write, and the first of the transaction: every database lets one in at a time.
        if not (row if at is None else row.filter(at=at)).update(at=F("at")):
            yield None
            return
        memory = _decode(row.values_list("memory", flat=True).get())
        yield memory
        row.update(memory=msgspec.json.encode(memory).decode())


def _decode(text: str) -> Memory:
    try:
        return msgspec.json.decode(text, type=Memory)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Of another version: open alerts are found in their table.
        return Memory()


def _rules(memory: Memory) -> dict[str, Rule]:
    """Those of the settings, and those that were only ever reported."""
    reported = {name: rule for name in memory.reports if (rule := _default_rule(name)) is not None}
    return reported | conf.alert_rules()


def _default_rule(name: str) -> Rule | None:
    """For a name that the settings have not; None for one that they have switched off."""
    return None if conf.has_alert_rule(name) else Rule(name, Kind.REPORTED, threshold=0.0, hold=0.0)


def _reported(rule: Rule, last: Report | None, now: datetime) -> tuple[Reading, str]:
    if last is None or now.timestamp() - last.at > rule.window:
        return NOTHING, ""
    return Reading(last.value), last.sentence


# What follows


def _move(
    rule: Rule, reading: Reading, words: str, memory: Memory, alert: Alert | None, now: datetime
) -> Iterable[Told]:
    opened = None if alert is None else alert.raised_at.timestamp()
    state = reconciled(memory.states.get(rule.name, QUIET), opened)
    memory.states[rule.name], change = step(rule, state, reading, now.timestamp())
    if change is Change.RAISED:
        return _raise(rule, reading, words, now)
    if alert is None:
        return []
    last = reading.value if reading.known(rule) else None
    if change is Change.RESOLVED:
        return _resolve(alert, last, now)
    Alert.objects.filter(pk=alert.pk).update(last=last, worst=max(alert.worst, last or 0.0))
    return []


def _raise(rule: Rule, reading: Reading, words: str, now: datetime) -> Iterable[Told]:
    value = reading.value or 0.0
    alert = Alert(
        rule=rule.name,
        kind=rule.kind.value,
        severity=rule.severity,
        sentence=words,
        value=value,
        worst=value,
        last=value,
        threshold=rule.threshold,
        raised_at=now,
    )
    try:
        with transaction.atomic():
            alert.save(force_insert=True)
    except IntegrityError:
        # It is open already, and somebody else tells of it.
        return []
    note(alert, Change.RAISED, now)
    return [(Change.RAISED, alert)]


def _resolve(alert: Alert, last: float | None, now: datetime) -> Iterable[Told]:
    if not Alert.objects.filter(pk=alert.pk, resolved_at=None).update(resolved_at=now, last=last):
        return []
    alert.resolved_at, alert.last = now, last
    note(alert, Change.RESOLVED, now)
    return [(Change.RESOLVED, alert)]


def _log(told: Iterable[Told]) -> None:
    for change, alert in told:
        if change is Change.RAISED:
            logger.log(LEVELS[alert.severity], "alert %s raised: %s", alert.rule, alert.sentence)
        else:
            assert alert.resolved_at is not None
            seconds = (alert.resolved_at - alert.raised_at).total_seconds()
            logger.info("alert %s resolved after %d s", alert.rule, seconds)
