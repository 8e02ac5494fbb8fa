"""Alerts over a database: what rules see in rollups and beats, each change told once whoever looks, receivers
that do not answer, the admin, the command. Servers are in `tests/integration/test_alerts.py`."""

from __future__ import annotations

import json
import logging
import smtplib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import django
import httpx2
import pytest
from django.contrib.auth import get_user_model
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.test import Client, override_settings
from django.utils import timezone

from settings import settings as file
from streaming import conf
from streaming.alerts import channels, measuring, notices, report, rounds
from streaming.alerts.notices import ATTEMPTS, PAUSES, deliver
from streaming.alerts.rounds import evaluate
from streaming.alerts.watch import Watch
from streaming.alerts.words import ending
from streaming.checks import check_settings
from streaming.cluster.processes import Registry
from streaming.core.alerts import Change, Kind, Rule
from streaming.core.rollup import End, Rollup
from streaming.models import Alert, AlertNotice, AlertRound, LostProcess, Process, Refusal, TaskRollup
from streaming.storage.pruning import prune_alerts

pytestmark = pytest.mark.django_db

threads = pytest.mark.django_db(transaction=True)

NOW = datetime(2026, 11, 21, 12, 34, 56, tzinfo=UTC)

SECRET = "https://hooks.example/T0P-S3CRET"

WAITS = {"waits": {"kind": "oldest_wait", "threshold": 5, "for": 30, "calm": 60, "severity": "critical"}}


@pytest.fixture
def rules() -> Iterator[Callable[..., None]]:
    """Sets ALERTS and ALERT_CONFIG for the test."""
    changed: list[override_settings] = []

    def change(alerts: dict[str, Any], **config: Any) -> None:
        made = override_settings(ALERTS=alerts, ALERT_CONFIG={"interval": 0, **config})
        made.enable()
        changed.append(made)

    yield change
    for each in reversed(changed):
        each.disable()


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def part(rollup: Rollup, minutes_ago: int = 0, pool: str = "agent_pool") -> None:
    start = (NOW - timedelta(minutes=minutes_ago)).replace(second=0, microsecond=0)
    TaskRollup.objects.create(start=start, seconds=60, pool=pool, kind="x", numbers=rollup.encode().decode())


def ended(
    count: int, first_content_ms: float | None = 100.0, failed: int = 0, code: str = "producer_failed"
) -> Rollup:
    made = Rollup()
    for number in range(count):
        made.accept("direct", "worker_free")
        state = "error" if number < failed else "complete"
        end = End(
            task_id=f"{number:032x}",
            route="direct",
            state=state,
            code=code if state == "error" else "",
            first_content_ms=first_content_ms,
        )
        made.end(end)
    return made


def process(number: int, beat: int, wait: float = 0.0, lag: float = 0.0, pool: str = "agent_pool") -> None:
    statistics = {"pools": {pool: {"oldest_wait_seconds": wait}}, "loop_lag_seconds": lag}
    Process.objects.update_or_create(
        pk=f"{number:032x}", defaults={"pid": number, "beat": beat, "statistics": statistics}
    )


def waiting(seconds: float) -> None:
    """The only process beats, and somebody waits there."""
    row = Process.objects.first()
    process(1, 1 if row is None else row.beat + 1, wait=seconds)


def seen(kind: str, beats: measuring.Beats | None = None, now: datetime = NOW, **values: Any) -> Any:
    rule = Rule("rule", Kind(kind), 1.0, **values)
    return measuring.readings([rule], beats or {}, now.timestamp())[0]["rule"]


def told() -> list[tuple[str, bool]]:
    """The alerts, oldest first, and whether they are resolved."""
    return [(row.rule, row.resolved_at is not None) for row in Alert.objects.order_by("pk")]


# What rules see


def test_first_content_is_that_of_one_task_in_twenty():
    part(ended(19, 100.0))
    part(ended(2, 8000.0), 1)
    reading = seen("first_content")
    assert reading.count == 21
    assert reading.value == pytest.approx(8.0, rel=0.1)


def test_only_the_window_and_the_pool_count():
    part(ended(10))
    part(ended(10, failed=10), 4)
    part(ended(10, failed=10), 20)
    part(ended(7, failed=7), pool="other_pool")
    assert seen("error_share", pool="agent_pool").value == 0.5
    assert seen("error_share", pool="agent_pool", window=60).value == 0
    assert seen("error_share", window=60).count == 17
    assert seen("error_share", window=7200).value == pytest.approx(27 / 37)


def test_what_a_restart_cuts_is_no_error():
    part(ended(30, failed=20, code="interrupted"))
    assert (seen("error_share").value, seen("error_share").count) == (0, 10)
    part(ended(10, failed=10))
    assert (seen("error_share").value, seen("error_share").count) == (0.5, 20)


def test_where_a_restart_cut_all_nobody_can_tell():
    part(ended(30, failed=30, code="interrupted"))
    assert (seen("error_share").value, seen("error_share").count) == (None, 0)


def test_nothing_is_no_share():
    for kind in ("first_content", "error_share", "rejected_share"):
        reading = seen(kind)
        assert (reading.value, reading.count) == (None, 0)


def test_a_refusal_for_the_callers_own_limit_is_no_sign_of_a_busy_server():
    part(ended(6))
    minute = NOW.replace(second=0, microsecond=0)
    for reason, count in (("queue_full", 3), ("owner_limit", 1)):
        Refusal.objects.create(minute=minute, pool="agent_pool", reason=reason, count=count)
    reading = seen("rejected_share")
    assert (reading.value, reading.count) == (0.3, 10)


def test_waits_and_lags_are_the_longest_of_all_that_live():
    process(1, 1, wait=3.0, lag=0.1)
    process(2, 1, wait=7.0, lag=2.0, pool="other_pool")
    process(3, 1, wait=99.0, lag=99.0)
    beats = {f"{3:032x}": (1, NOW.timestamp() - 60)}
    assert (seen("oldest_wait", beats).value, seen("oldest_wait", beats).about) == (7.0, "other_pool")
    assert seen("oldest_wait", beats, pool="agent_pool").value == 3.0
    assert seen("loop_lag", beats).value == 2.0
    assert seen("no_heartbeat", beats).value == 60


def test_a_process_that_has_told_nothing_yet_or_is_of_another_version_is_no_fault():
    Process.objects.create(id="a" * 32, pid=1)
    Process.objects.create(id="b" * 32, pid=2, statistics={"pools": {}})
    for kind in ("oldest_wait", "loop_lag"):
        assert seen(kind).value is None
    assert seen("no_heartbeat").value == 0


def test_a_lost_process_is_silent_until_the_window_is_over():
    LostProcess.objects.create(id="c" * 32, pid=7, at=NOW)
    assert seen("no_heartbeat", now=after(20)).value == 20
    assert "7" in seen("no_heartbeat", now=after(20)).about
    assert seen("no_heartbeat", now=after(301)).value is None


def test_a_process_that_is_found_dead_is_lost_and_one_that_leaves_is_not():
    dead, left = "d" * 32, "e" * 32
    for each in (dead, left):
        Process.objects.create(id=each, pid=1, beat=1)
    Registry(left).leave()
    observer = Registry("f" * 32)
    for now in range(9):
        observer.tick(float(now), able=True)
    assert list(LostProcess.objects.values_list("pk", flat=True)) == [dead]
    # It was only asleep.
    Registry(dead).tick(0.0, able=True)
    assert not LostProcess.objects.exists()


# Raised once, resolved once


def test_a_threshold_that_is_crossed_is_told_once_and_so_is_its_end(rules, caplog):
    rules(WAITS)
    logging.getLogger("streaming").addHandler(caplog.handler)
    for second in range(0, 300, 15):
        waiting(10.0 + second if second < 120 else 0.0)
        assert evaluate(0, after(second))
    (alert,) = Alert.objects.all()
    assert (alert.raised_at, alert.resolved_at) == (after(30), after(180))
    assert (alert.value, alert.worst, alert.last, alert.threshold) == (40.0, 115.0, 0.0, 5.0)
    assert (alert.severity, alert.kind) == ("critical", "oldest_wait")
    assert "40 s" in alert.sentence
    assert "agent_pool" in alert.sentence
    lines = [record for record in caplog.records if record.name.startswith("streaming.alerts")]
    assert [record.levelname for record in lines] == ["ERROR", "INFO"]
    logging.getLogger("streaming").removeHandler(caplog.handler)


def test_one_look_in_each_interval_whoever_asks(rules):
    rules(WAITS)
    assert [evaluate(15, after(second)) for second in (0, 1, 13, 14, 20, 28.9)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]


def test_a_look_that_lies_ahead_was_made_by_a_wrong_clock(rules):
    rules(WAITS)
    assert evaluate(15, after(3600))
    assert evaluate(15, NOW)


@threads
def test_many_that_look_at_once_raise_one_alert(rules):
    """Each with a clock of its own, so that each has its turn, and all between reading and writing."""
    rules({"waits": WAITS["waits"] | {"for": 0}}, emails=["ops@example.org"])
    waiting(10.0)
    AlertRound.objects.create(pk=1, at=after(-60))
    gate = threading.Barrier(4)

    def look(number: int) -> bool:
        gate.wait(20)
        try:
            return evaluate(0, after(number / 1000))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        assert any(pool.map(look, range(4)))
    evaluate(0, after(1))
    assert told() == [("waits", False)]
    assert AlertNotice.objects.count() == 1


def test_a_turn_that_was_overtaken_is_void(rules, monkeypatch):
    """A process that hung between reading and writing writes nothing."""
    rules({"waits": WAITS["waits"] | {"for": 0}})
    waiting(10.0)
    measured = measuring.readings

    def slowly(*arguments: Any) -> Any:
        found = measured(*arguments)
        monkeypatch.setattr(rounds, "readings", measured)
        assert evaluate(0, after(1))
        return found

    monkeypatch.setattr(rounds, "readings", slowly)
    assert not evaluate(0, NOW)
    (alert,) = Alert.objects.all()
    assert alert.raised_at == after(1)


def test_an_open_alert_survives_what_is_forgotten(rules):
    """Another version's memory, or none: the alert is not raised again, and is resolved in its time."""
    rules({"waits": WAITS["waits"] | {"for": 0}})
    waiting(10.0)
    evaluate(0, NOW)
    AlertRound.objects.update(memory='{"states": "of another kind"}')
    waiting(10.0)
    evaluate(0, after(15))
    waiting(0.0)
    evaluate(0, after(30))
    evaluate(0, after(200))
    assert told() == [("waits", True)]


def test_a_rule_that_is_gone_or_switched_off_leaves_no_alert_open(rules):
    rules({"waits": WAITS["waits"] | {"for": 0}})
    waiting(10.0)
    evaluate(0, NOW)
    rules({"waits": WAITS["waits"] | {"threshold": None}})
    evaluate(0, after(15))
    evaluate(0, after(30))
    assert told() == [("waits", True)]


# What monitors report


def test_what_is_reported_is_raised_and_resolved(rules):
    rules({"doctor": {"kind": "reported", "threshold": 0, "for": 0, "calm": 1}})
    assert not report("doctor", 0, "fine")
    assert report("doctor", 2, "A proxy is buffering.")
    assert report("doctor", 2, "A proxy is buffering.")
    assert Alert.objects.get().sentence == "A proxy is buffering."
    assert report("doctor", 0, "fine"), "calm, but not for long enough"
    evaluate(0, timezone.now() + timedelta(seconds=2))
    assert told() == [("doctor", True)]


def test_a_report_that_stays_away_is_resolved_in_the_end(rules):
    rules({})
    assert report("doctor of https://example.org", 1, "slow"), "a name that no settings have"
    start = timezone.now()
    for seconds in (60, 240, 310, 440):
        evaluate(0, start + timedelta(seconds=seconds))
    assert told() == [("doctor of https://example.org", True)]


def test_a_rule_that_is_off_or_of_another_kind_takes_no_report(rules):
    rules({"doctor": {"kind": "reported", "threshold": None}, **WAITS})
    assert not report("doctor", 5, "x")
    assert not report("waits", 50, "x")
    assert told() == []
    with pytest.raises(ValueError, match="no name"):
        report("", 5, "x")


def test_a_database_that_is_away_harms_no_monitor(rules, monkeypatch):
    rules({})

    def away(*arguments: Any) -> Any:
        raise OperationalError("away")

    monkeypatch.setattr(rounds, "_report", away)
    assert report("doctor", 1, "slow") is False


# Who is told


def raise_one(**values: Any) -> Alert:
    waiting(10.0)
    evaluate(0, NOW)
    return Alert.objects.get(resolved_at=None)


def now_rule() -> dict[str, Any]:
    return {"waits": WAITS["waits"] | {"for": 0, "calm": 1}}


def test_a_mail_says_what_is_wrong_and_another_one_that_it_is_over(rules):
    rules(now_rule(), emails=["ops@example.org", "boss@example.org"])
    raise_one()
    deliver(NOW)
    waiting(0.0)
    evaluate(0, after(10))
    waiting(0.0)
    evaluate(0, after(20))
    deliver(after(20))
    deliver(after(9999))
    first, second = mail.outbox
    assert first.to == ["ops@example.org", "boss@example.org"]
    assert first.subject == "[Sluice] Alert: waits"
    assert "10 s" in first.body
    assert "critical" in first.body
    assert second.subject == "[Sluice] Resolved: waits"
    lines = second.body.splitlines()
    assert lines[0] == "Over after 20 s; at worst 10 s."
    assert "Value at the end: 0.00 s" in lines
    assert lines[-1] == f"What was told when it was raised: {first.body.splitlines()[0]}"
    assert set(AlertNotice.objects.values_list("state", "error")) == {("sent", "")}


def test_without_addresses_djangos_admins_are_told(rules):
    rules(now_rule())
    # Pairs are on their way out, and Django 5.2 knows nothing else.
    ops = "ops@example.org" if django.VERSION >= (6, 0) else ("Ops", "ops@example.org")
    with override_settings(ADMINS=[ops]):
        raise_one()
        deliver(NOW)
    assert [message.to for message in mail.outbox] == [["ops@example.org"]]


def test_a_name_cannot_add_a_header(rules):
    rules({}, emails=["ops@example.org"])
    report("a\r\nBcc: x@example.org", 1, "x")
    assert mail.outbox[0].subject == "[Sluice] Alert: a Bcc: x@example.org"


def webhook(monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
    """The receiver of ALERT_WEBHOOK_URL, without a network."""
    made = httpx2.AsyncClient

    def client(**options: Any) -> httpx2.AsyncClient:
        return made(transport=httpx2.MockTransport(answer), **options)

    monkeypatch.setattr(httpx2, "AsyncClient", client)


def test_a_webhook_gets_json(rules, monkeypatch):
    rules(now_rule(), webhook_url=SECRET)
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(204)

    webhook(monkeypatch, answer)
    alert = raise_one()
    deliver(NOW)
    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", SECRET)
    body = json.loads(request.content)
    assert body["event"] == "raised"
    assert body["text"] == f"Alert: {alert.sentence}"
    assert (body["id"], body["rule"], body["value"], body["threshold"]) == (alert.pk, "waits", 10.0, 5.0)
    assert datetime.fromisoformat(body["raised_at"]) == NOW
    assert body["resolved_at"] is None


def test_the_call_of_the_end_tells_the_end(rules, monkeypatch):
    """Not the complaint again. And a late call of the raising tells of the raising."""
    rules({"waits": WAITS["waits"] | {"for": 0}}, webhook_url=SECRET)
    bodies: list[dict[str, Any]] = []
    statuses = iter([503, 204, 204])

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        return httpx2.Response(next(statuses))

    webhook(monkeypatch, answer)
    raise_one()
    deliver(NOW)
    for second, wait in ((15, 77.4), (30, 4.0), (45, 0.25), (399, 0.5)):
        waiting(wait)
        evaluate(0, after(second))
    deliver(after(400))
    deliver(after(401))
    failed, raised, resolved = bodies
    assert failed | {"worst": 77.4} == raised
    assert (raised["event"], raised["value"], "10 s" in raised["sentence"]) == ("raised", 10.0, True)
    assert (resolved["event"], resolved["value"], resolved["worst"]) == ("resolved", 0.5, 77.4)
    assert resolved["sentence"] == "Over after 7 min; at worst 77 s."
    assert resolved["text"] == "Resolved: waits. Over after 7 min; at worst 77 s."
    assert raised.keys() == resolved.keys()


def test_where_nobody_can_tell_the_end_has_no_value(rules, monkeypatch):
    rules({"fails": {"kind": "error_share", "threshold": 0.1, "for": 0, "calm": 1}})
    part(ended(30, failed=20))
    evaluate(0, NOW)
    assert Alert.objects.get().last == pytest.approx(2 / 3)
    for seconds in (1200, 1230):
        evaluate(0, after(seconds))
    alert = Alert.objects.get()
    assert (alert.resolved_at, alert.last) == (after(1230), None)
    assert channels.document(alert, Change.RESOLVED)["value"] is None
    assert "Value at the end" not in channels._body(alert, Change.RESOLVED)


@pytest.mark.parametrize(
    ("seconds", "kind", "words"),
    [
        (0.4, "oldest_wait", "Over after 0 s; at worst 7.70 s."),
        (119, "loop_lag", "Over after 119 s; at worst 7.70 s."),
        (360, "no_heartbeat", "Over after 6 min; at worst 7.70 s."),
        (7500, "first_content", "Over after 2 h 5 min; at worst 7.70 s."),
        (60, "error_share", "Over after 60 s; at worst 770.0%."),
        (60, "reported", "Over after 60 s."),
    ],
)
def test_an_end_is_told_in_one_sentence(seconds, kind, words):
    alert = Alert(kind=kind, worst=7.7, raised_at=NOW, resolved_at=after(seconds))
    assert ending(alert) == words


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda request: httpx2.Response(500), "answered 500"),
        (lambda request: httpx2.Response(302, headers={"Location": "http://elsewhere"}), "answered 302"),
        (httpx2.ConnectError("to " + SECRET), "no connection"),
        (httpx2.ReadError("of " + SECRET), "no answer (ReadError)"),
        (RuntimeError(SECRET), "RuntimeError"),
    ],
)
def test_a_receiver_that_fails_is_tried_a_few_times_and_shown(rules, monkeypatch, caplog, answer, words):
    """Never with its address, which may be a secret; whatever logger is on."""
    rules(now_rule(), webhook_url=SECRET)
    calls: list[str] = []

    def fail(request: httpx2.Request) -> httpx2.Response:
        calls.append(str(request.url))
        if isinstance(answer, Exception):
            raise answer
        response: httpx2.Response = answer(request)
        return response

    webhook(monkeypatch, fail)
    logging.getLogger("streaming").addHandler(caplog.handler)
    caplog.set_level(logging.DEBUG)
    raise_one()
    moment = NOW
    for pause in (*PAUSES, 9999.0, 9999.0):
        deliver(moment)
        deliver(moment + timedelta(seconds=pause - 1))
        moment += timedelta(seconds=pause)
    logging.getLogger("streaming").removeHandler(caplog.handler)
    assert len(calls) == ATTEMPTS
    notice = AlertNotice.objects.get()
    assert (notice.state, notice.error, notice.attempts) == ("failed", words, ATTEMPTS)
    assert "given up" in caplog.text
    assert "S3CRET" not in caplog.text
    boss = Client()
    boss.force_login(get_user_model().objects.create_superuser("boss"))
    assert words in boss.get("/admin/streaming/alert/").content.decode()


def test_nobody_hears_of_an_end_before_the_beginning(rules, monkeypatch):
    rules(now_rule(), webhook_url=SECRET)
    down, events = [True], []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if not down:
            events.append(json.loads(request.content)["event"])
        return httpx2.Response(503 if down else 200)

    webhook(monkeypatch, answer)
    raise_one()
    deliver(NOW)
    waiting(0.0)
    evaluate(0, after(10))
    evaluate(0, after(20))
    down.clear()
    deliver(after(20))
    assert events == []
    for seconds in (31, 32):
        deliver(after(seconds))
    assert events == ["raised", "resolved"]


def test_a_process_that_dies_while_it_tells_is_followed_by_another(rules, monkeypatch):
    rules(now_rule(), emails=["ops@example.org"])
    raise_one()

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(channels.CHANNELS, "email", dies)
        with pytest.raises(KeyboardInterrupt):
            deliver(NOW)
    deliver(after(PAUSES[0] - 1))
    assert mail.outbox == []
    deliver(after(PAUSES[0]))
    assert len(mail.outbox) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (smtplib.SMTPAuthenticationError(535, b"user ops, password x"), "the mail server answered 535"),
        (TimeoutError(), "the mail server did not answer in time"),
        (ConnectionRefusedError(), "the mail server cannot be used (ConnectionRefusedError)"),
    ],
)
def test_a_mail_server_that_is_down_is_shown_without_its_words(rules, monkeypatch, fault, words):
    rules(now_rule(), emails=["ops@example.org"])

    def fail(message: Any) -> None:
        raise fault

    monkeypatch.setattr(mail.EmailMessage, "send", fail)
    raise_one()
    deliver(NOW)
    assert AlertNotice.objects.get().error == words


@threads
def test_two_processes_that_tell_at_once_tell_once(rules, monkeypatch):
    rules(now_rule(), emails=["ops@example.org"])
    raise_one()
    gate = threading.Barrier(2)
    claim = notices._claim

    def together(*arguments: Any) -> bool:
        gate.wait(20)
        return claim(*arguments)

    monkeypatch.setattr(notices, "_claim", together)

    def tell(number: int) -> None:
        try:
            deliver(NOW)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(tell, range(2)))
    assert len(mail.outbox) == 1


# In a server's thread


@threads
def test_a_watch_looks_and_survives_a_database_that_is_away(rules, caplog):
    rules(now_rule(), emails=["ops@example.org"])
    logging.getLogger("streaming").addHandler(caplog.handler)
    waiting(10.0)
    watch = Watch(0.05)
    away = threading.Event()
    looked = threading.Semaphore(0)
    evaluate_really = evaluate

    def evaluated(interval: float) -> bool:
        looked.release()
        if not away.is_set():
            raise OperationalError("away")
        return evaluate_really(interval)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streaming.alerts.watch.evaluate", evaluated)
        watch.start()
        for _ in range(3):
            assert looked.acquire(timeout=20)
        away.set()
        for _ in range(3):
            assert looked.acquire(timeout=20)
        watch.close(20)
    logging.getLogger("streaming").removeHandler(caplog.handler)
    assert caplog.text.count("cannot be looked at") == 1
    assert len(mail.outbox) == 1


def test_without_an_interval_nobody_watches():
    before = threading.active_count()
    Watch(0).start()
    assert threading.active_count() == before


# The command


def check(*options: str) -> tuple[int, str]:
    output = StringIO()
    try:
        call_command("check_alerts", *options, stdout=output)
    except SystemExit as end:
        return int(end.code or 0), output.getvalue()
    return 0, output.getvalue()


def test_the_command_says_by_its_exit_code_whether_something_is_wrong(rules, monkeypatch):
    rules(now_rule(), emails=["ops@example.org"])
    assert check() == (0, "No alert is open.\n")
    assert check("--json") == (0, "[]\n")
    waiting(10.0)
    code, text = check()
    assert code == 1
    assert "critical waits since" in text
    assert len(mail.outbox) == 1, "and tells"
    code, text = check("--json")
    assert code == 1
    (alert,) = json.loads(text)
    assert (alert["rule"], alert["value"]) == ("waits", 10.0)
    assert len(mail.outbox) == 1
    waiting(65.0)
    evaluate(0, timezone.now() + timedelta(seconds=15))
    waiting(55.0)
    evaluate(0, timezone.now() + timedelta(seconds=30))
    monkeypatch.setattr("streaming.management.commands.check_alerts.evaluate", lambda interval: False)
    (alert,) = json.loads(check("--json")[1])
    assert (alert["value"], alert["worst"]) == (55.0, 65.0)
    assert "Now: 55 s, at worst: 65 s." in check()[1]

    def away(*arguments: Any) -> Any:
        raise OperationalError("away")

    monkeypatch.setattr("streaming.management.commands.check_alerts.evaluate", away)
    with pytest.raises(CommandError) as end:
        check()
    assert end.value.returncode == 2


# The admin


def test_the_admin_shows_alerts_and_changes_none(rules):
    rules(now_rule(), emails=["ops@example.org"])
    alert = raise_one()
    deliver(NOW)
    boss = Client()
    boss.force_login(get_user_model().objects.create_superuser("boss"))
    waiting(65.0)
    evaluate(0, after(15))
    waiting(55.0)
    evaluate(0, after(30))
    page = boss.get("/admin/streaming/alert/").content.decode()
    for words in (alert.sentence, "10 s", "65 s", "5.00 s", "e-mail: sent", "critical"):
        assert words in page
    assert boss.get("/admin/streaming/alert/?open=no").content.decode().count("waits") == 0
    detail = boss.get(f"/admin/streaming/alert/{alert.pk}/change/")
    assert detail.status_code == 200
    for words in (alert.sentence, "55 s", "raised, e-mail: sent"):
        assert words in detail.content.decode()
    assert boss.post(f"/admin/streaming/alert/{alert.pk}/change/", {"rule": "x"}).status_code == 403
    assert boss.post(f"/admin/streaming/alert/{alert.pk}/delete/", {"post": "yes"}).status_code == 403
    assert boss.get("/admin/streaming/alert/add/").status_code == 403


def test_old_alerts_are_pruned_and_open_ones_are_not(rules):
    rules(now_rule(), emails=["ops@example.org"])
    raise_one()
    assert prune_alerts(after(3600)) == 0
    Alert.objects.update(resolved_at=after(60))
    assert prune_alerts(after(30)) == 0
    assert prune_alerts(after(3600)) == 2, "with its notice"


def test_a_look_costs_few_queries(rules):
    """Whatever the number of tasks: none of them is read."""
    rules(dict(conf.DEFAULT_ALERTS))
    waiting(0.0)
    part(ended(5))
    evaluate(0, NOW)
    with override_settings(DEBUG=True):
        connection.queries_log.clear()
        evaluate(0, after(15))
        queries = [each["sql"] for each in connection.queries]
    assert not [sql for sql in queries if "streamtask" in sql]
    assert len(queries) <= 14, queries


# Settings


def errors() -> list[tuple[str | None, str]]:
    return [(message.id, message.msg) for message in check_settings(None)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"threshold": 1}, "lacks 'kind'"),
        ({"kind": "latency"}, "ALERT_X_KIND"),
        ({"kind": "oldest_wait", "threshold": -1}, "ALERT_X_THRESHOLD"),
        ({"kind": "oldest_wait", "window": 5}, "ALERT_X_WINDOW"),
        ({"kind": "oldest_wait", "for": "long"}, "ALERT_X_FOR"),
        ({"kind": "oldest_wait", "severity": "bad"}, "ALERT_X_SEVERITY"),
        ({"kind": "oldest_wait", "min_count": 0}, "ALERT_X_MIN_COUNT"),
        ({"kind": "oldest_wait", "hold": 5}, "has no key 'hold'"),
        ("always", "must be a dictionary"),
    ],
)
def test_a_wrong_rule_is_named(values: Any, words: str):
    with override_settings(ALERTS={"x": values}):
        ((number, text),) = errors()
        assert number == "streaming.E012"
        assert words in text
        with pytest.raises(ImproperlyConfigured):
            conf.alert_rules()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"webhook_url": "ftp://hooks.example/S3CRET"}, "ALERT_WEBHOOK_URL"),
        ({"webhook_url": "hooks.example/S3CRET"}, "ALERT_WEBHOOK_URL"),
        ({"webhook_url": "https://hooks.example:x/S3CRET"}, "ALERT_WEBHOOK_URL"),
        ({"webhook_url": "https://hooks.example/S3CRET\n"}, "ALERT_WEBHOOK_URL"),
        ({"emails": ["ops"]}, "ALERT_EMAILS"),
        ({"interval": -1}, "ALERT_INTERVAL"),
        ({"timeout": 0}, "ALERT_TIMEOUT"),
    ],
)
def test_a_wrong_receiver_is_named_without_its_secret(config: dict[str, Any], words: str):
    with override_settings(ALERT_CONFIG=config):
        ((_, text),) = errors()
        assert words in text
        assert "S3CRET" not in text


def test_a_rule_about_an_unknown_pool_is_warned_of():
    with override_settings(ALERTS={"x": {"kind": "oldest_wait", "threshold": 1, "pool": "swimming"}}):
        assert [number for number, _ in errors()] == ["streaming.W016"]


def test_a_mail_server_that_may_hang_is_warned_of():
    smtp = "django.core.mail.backends.smtp.EmailBackend"
    endless: dict[str, Any] = {"EMAIL_BACKEND": smtp, "EMAIL_TIMEOUT": None}
    if django.VERSION >= (6, 1):
        endless = {"MAILERS": {"default": {"BACKEND": smtp, "OPTIONS": {"host": "localhost"}}}}
    with override_settings(**endless, ALERT_CONFIG={"emails": ["ops@example.org"]}):
        assert [number for number, _ in errors()] == ["streaming.W017"]


def test_the_file_has_the_rules_of_the_app():
    with override_settings(ALERTS=conf.DEFAULT_ALERTS):
        defaults = conf.alert_rules()
    with override_settings(ALERTS=file.ALERTS):
        assert conf.alert_rules() == defaults
