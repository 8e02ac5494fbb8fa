"""From arrivals to verdicts. The streams are made here, so each cause is known."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.core.diagnosis import (
    Arrival,
    Failure,
    Observation,
    Pool,
    Severity,
    bunched,
    diagnose,
    is_one_behind,
    is_timed,
    measure,
    proxy_of,
)

OFFSET = 1_795_000_000_000.0
"""How far the server's clock is from ours: far enough that taking one for the other is noticed."""

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-store, must-revalidate, no-transform",
    "x-stream-id": "0" * 32,
    "x-stream-route": "direct",
}


def seen(sent, arrived=None, *, late=0.5, name="result", **changes):
    """A probe whose events were sent and arrived at these milliseconds; without `arrived`, 3 ms later."""
    arrived = [each + 3 for each in sent] if arrived is None else arrived
    arrivals = [Arrival(name="status", at=arrived[0], sent_at=OFFSET + sent[0], status="started")]
    arrivals += [
        Arrival(name=name, at=at, sent_at=OFFSET + each, sequence=number, late=late)
        for number, (each, at) in enumerate(zip(sent, arrived, strict=True), 1)
    ]
    arrivals.append(Arrival(name="complete", at=arrived[-1] + 1, sent_at=OFFSET + sent[-1] + 1))
    values = {
        "target": "probe",
        "status": 200,
        "http_version": "HTTP/1.1",
        "headers": HEADERS,
        "arrivals": arrivals,
        "reads": [(each.at, 100) for each in arrivals],
        "outcome": "ended",
        "end": {"type": "complete", "timing": {"queued_ms": 0.0}},
        "expected": len(sent),
        "total": arrived[-1] + 1,
        "connect": 1.0,
    }
    return Observation(**values | changes)


PACED = [float(100 * number) for number in range(20)]


def codes(*arguments):
    return diagnose(*arguments).codes


def test_what_arrives_as_it_is_sent_is_fine():
    found = diagnose(seen(PACED))
    assert (found.codes, found.severity) == (["fine"], Severity.INFO)
    assert found.measures.delays.max == 0


def test_what_arrives_all_at_the_end_was_buffered():
    found = diagnose(seen(PACED, [1_910.0] * 20))
    assert (found.codes, found.severity) == (["buffered_by_proxy"], Severity.SUSPICIOUS)
    evidence = found.findings[0].evidence
    assert evidence["bursts"] == 1
    assert evidence["bunched_percent"] > 90
    assert evidence["held_ms"] == pytest.approx(1_900, abs=5)


def test_what_arrives_in_bursts_was_buffered():
    bursts = [500.0 * (1 + number // 5) for number in range(20)]
    found = diagnose(seen(PACED, bursts, headers=HEADERS | {"server": "nginx/1.22"}))
    assert found.codes == ["buffered_by_proxy"]
    assert found.findings[0].remedy == "buffering:nginx"
    assert found.measures.bursts == 4


def behind(sent):
    """Each comes when the next one is sent; the last ones at once."""
    return [after + 3 for after in sent[1:]] + [sent[-1] + 3]


@pytest.mark.parametrize(
    "sent",
    [
        PACED,
        [1_000.0 * number for number in range(6)],
        [0.0, 70.0, 300.0, 380.0, 700.0, 900.0, 1_000.0],
    ],
)
def test_a_proxy_that_is_always_one_piece_behind_buffers(sent):
    found = diagnose(seen(sent, behind(sent)))
    assert (found.codes, found.severity) == (["buffered_by_proxy"], Severity.SUSPICIOUS)
    assert found.findings[0].evidence["how"] == "one_behind"


def test_one_behind_by_compression_is_told_too():
    packed = seen(PACED, behind(PACED), headers=HEADERS | {"content-encoding": "gzip"})
    assert codes(packed, seen(PACED)) == ["compressed_without_flush"]


@pytest.mark.parametrize("beat", [110, 120, 130, 150, 170])
@pytest.mark.parametrize("phase", [0.2, 0.5, 0.9])
def test_a_proxy_that_sends_on_a_timer_buffers(beat, phase):
    # As a timer does, it drifts a little.
    ticks = [beat * (phase + number) + number * 0.7 for number in range(60)]
    sent = [100.0 * number for number in range(22)]
    found = diagnose(seen(sent, [next(tick for tick in ticks if tick >= each) for each in sent]))
    assert found.codes == ["buffered_by_proxy"]
    assert found.findings[0].evidence["how"] in ("timer", "bunches")


@pytest.mark.parametrize("most", [20, 90, 140, 300])
def test_the_unrest_of_a_network_is_no_proxy(most):
    """In their order, as TCP delivers them; also where a lost packet holds up those behind it."""
    for seed in range(200):
        chance = random.Random(seed)
        at, arrived = 0.0, []
        for each in PACED:
            pause = chance.uniform(0, most) if chance.random() < 0.5 else 0.0
            at = max(at, each + pause + (210 if chance.random() < 0.03 else 0))
            arrived.append(at)
        events = list(zip(arrived, PACED, strict=True))
        assert not is_one_behind(events), seed
        assert not is_timed(events), seed
        assert most > 90 or "buffered_by_proxy" not in codes(seen(PACED, arrived)), seed


def test_events_that_missed_exactly_one_beat_are_the_networks():
    late = [each + 100 if number in (4, 9, 15) else each for number, each in enumerate(PACED)]
    assert codes(seen(PACED, late)) == ["fine"]


def test_a_wlan_that_sleeps_between_beacons_is_no_proxy():
    sent = [60.0 * number for number in range(30)]
    arrived = [102.4 * math.ceil(each / 102.4) + 2 for each in sent]
    assert not is_timed(list(zip(arrived, sent, strict=True)))


def test_what_is_held_at_the_start_only_is_told_as_that():
    found = diagnose(seen(PACED, [max(each, 600.0) + 3 for each in PACED]))
    assert (found.codes, found.severity) == (["held_at_start"], Severity.SUSPICIOUS)
    evidence = found.findings[0].evidence
    assert (evidence["held_ms"], evidence["events"]) == (600, 8)


def test_with_too_few_events_nothing_is_said_about_holding():
    for few in (seen([0.0]), seen(PACED, arrivals=[Arrival(name="complete", at=3.0)], expected=0)):
        found = diagnose(few)
        assert (found.codes, found.severity) == (["not_measured"], Severity.INFO)


def test_a_slow_but_steady_way_is_no_buffer():
    assert codes(seen(PACED, [each + 800 for each in PACED])) == ["fine"]


@given(st.lists(st.floats(0, 20), min_size=20, max_size=20))
def test_a_little_unrest_is_no_buffer(unrest):
    arrived = [each + pause for each, pause in zip(PACED, unrest, strict=True)]
    assert codes(seen(PACED, arrived)) == ["fine"]


@given(st.floats(-1e12, 1e12), st.integers(2, 19))
def test_the_verdict_does_not_depend_on_the_servers_clock(offset, burst):
    arrived = [PACED[min(19, (number // burst + 1) * burst)] + 3 for number in range(20)]
    made = seen(PACED, arrived)
    moved = msgspec.structs.replace(
        made,
        arrivals=[msgspec.structs.replace(each, sent_at=each.sent_at + offset) for each in made.arrivals],
    )
    assert codes(moved) == codes(made)


def test_one_long_pause_of_the_network_is_not_a_proxy():
    arrived = [each + 3 for each in PACED]
    arrived[8:12] = [1_203.0] * 4
    found = diagnose(seen(PACED, arrived))
    assert found.codes == ["uneven_network"]


def test_an_answer_that_begins_late_is_told_though_no_difference_shows_it():
    assert codes(seen(PACED, [each + 1_503 for each in PACED], answered=1_500.0)) == ["late_answer"]
    # What the connection took is not the answer's.
    assert codes(seen(PACED, answered=1_500.0, connect=350.0, tls=350.0)) == ["fine"]


def test_a_reader_that_was_late_itself_blames_nobody():
    bursts = [500.0 * (1 + number // 5) for number in range(20)]
    found = diagnose(seen(PACED, bursts, own_lag=450.0))
    assert (found.severity, found.codes) == (Severity.INFO, ["fine", "reader_busy"])


def test_what_is_compressed_and_still_arrives_in_time_is_fine():
    found = diagnose(seen(PACED, headers=HEADERS | {"content-encoding": "gzip"}))
    assert (found.codes, found.severity) == (["fine", "compressed"], Severity.INFO)


def test_without_compression_it_is_seen_which_of_both_it_was():
    packed = seen(PACED, [1_910.0] * 20, headers=HEADERS | {"content-encoding": "gzip"})
    assert codes(packed, seen(PACED)) == ["compressed_without_flush"]
    assert codes(packed, seen(PACED, [1_910.0] * 20)) == ["buffered_by_proxy", "compressed_too"]


def test_a_server_that_misses_its_moments_is_busy():
    found = diagnose(seen(PACED, late=180.0))
    assert found.codes == ["busy_server"]
    assert found.findings[0].evidence["p95_ms"] == pytest.approx(180, rel=0.1)


def task(sent, **changes):
    """A real task's texts."""
    return seen([0.0, *sent], name="content", target="brief", expected=0, **changes)


def test_a_late_first_text_by_the_servers_clock_is_the_providers():
    end = {"type": "complete", "timing": {"queued_ms": 0.0, "first_content_ms": 3_000.0}}
    assert codes(task([3_000.0, 3_100.0, 3_200.0], end=end)) == ["slow_provider"]


def test_the_wait_for_a_place_is_not_the_providers():
    end = {"type": "complete", "timing": {"queued_ms": 2_900.0, "first_content_ms": 3_000.0}}
    headers = HEADERS | {"x-stream-route": "queued"}
    assert codes(task([100.0, 200.0], end=end, headers=headers)) == ["queued"]


def test_a_pause_between_texts_is_the_providers():
    assert codes(task([100.0, 6_000.0, 6_100.0])) == ["provider_stalls"]


GAVE_UP = {"outcome": "patience", "end": {}, "total": 10_000.0}


def test_who_gave_up_waiting_says_for_what():
    texts = task([100.0, 200.0])
    heartbeat = [*texts.reads, (9_000.0, 15)]
    assert codes(task([100.0, 200.0], reads=heartbeat, **GAVE_UP)) == ["provider_hangs"]
    waits = [Arrival(name="status", at=5.0, sent_at=OFFSET, status="queued")]
    assert codes(task([], arrivals=waits, **GAVE_UP)) == ["queued_too_long"]
    assert codes(task([], arrivals=[], reads=[], **GAVE_UP)) == ["silent"]


def test_a_provider_hangs_only_where_the_server_shows_life_after_the_last_text():
    texts = task([100.0, 200.0]).arrivals[:-1]
    reads = [(each.at, 100) for each in texts]
    assert codes(task([], arrivals=texts, reads=reads, **GAVE_UP)) == ["silent"]


def test_a_probe_that_stops_half_way_has_no_provider_to_blame():
    half = seen(PACED[:8]).arrivals[:-1]
    for reads in ([(each.at, 100) for each in half], [(9_000.0, 15)]):
        found = diagnose(seen([0.0], arrivals=half, reads=reads, **GAVE_UP))
        assert (found.codes, found.severity) == (["silent"], Severity.BROKEN)
        assert "provider" not in found.findings[0].remedy


def test_a_stream_that_was_only_long_is_not_blamed():
    long = seen([500.0 * number for number in range(20)]).arrivals[:-1]
    found = diagnose(seen([0.0], name="content", target="brief", arrivals=long, **GAVE_UP))
    assert (found.codes, found.severity) == (["fine", "unfinished"], Severity.INFO)


def test_a_pause_of_a_probe_is_the_servers():
    assert codes(seen([*PACED, 9_000.0])) == ["server_stalls"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"status": 503, "problem": "queue_full"}, "pool_full"),
        ({"status": 503, "problem": "too_many_requests_open"}, "server_full"),
        ({"status": 503, "problem": "storage_unavailable"}, "storage_away"),
        ({"status": 503, "problem": "draining"}, "restarting"),
        ({"status": 503, "problem": "not_ready"}, "restarting"),
        ({"status": 503, "problem": "too_many_followers"}, "refused"),
        ({"status": 429, "problem": "owner_limit"}, "own_limit"),
        ({"status": 429, "problem": "too_many_probes"}, "too_many_probes"),
        ({"status": 502, "problem": "server_away"}, "server_away"),
        ({"status": 400, "problem": "bad_host"}, "wrong_host"),
        ({"status": 400, "problem": "bad_query"}, "refused"),
        ({"status": 401, "problem": "not_authenticated"}, "not_authenticated"),
        ({"status": 401, "problem": "invalid_key"}, "wrong_key"),
        ({"status": 403, "problem": "permission_denied"}, "not_allowed"),
        ({"status": 403, "problem": "kernels_disabled"}, "not_allowed"),
        ({"status": 404, "problem": "not_found"}, "not_sluice"),
        ({"status": 404, "problem": "unknown_model"}, "refused"),
        ({"status": 405, "problem": "method_not_allowed"}, "not_sluice"),
        ({"status": 413, "problem": "body_too_large"}, "refused"),
        ({"status": 422, "problem": "validation_failed"}, "refused"),
        ({"status": 500, "problem": "server_error"}, "server_failed"),
        # Without a problem document it was not Sluice.
        ({"status": 204}, "not_sluice"),
        ({"status": 200, "headers": {"content-type": "text/html"}}, "not_sluice"),
        ({"status": 301, "headers": {"location": "https://x/"}}, "redirected"),
        ({"status": 304}, "not_sluice"),
        ({"status": 400, "excerpt": "The plain HTTP request was sent to HTTPS port"}, "wrong_scheme"),
        ({"status": 400, "excerpt": "<title>DisallowedHost at /</title>"}, "wrong_host"),
        ({"status": 401}, "proxy_refuses"),
        ({"status": 403}, "proxy_refuses"),
        ({"status": 404}, "not_sluice"),
        ({"status": 407}, "proxy_refuses"),
        ({"status": 413}, "proxy_refuses"),
        ({"status": 429}, "proxy_refuses"),
        ({"status": 500}, "server_failed"),
        ({"status": 502}, "server_away"),
        ({"status": 503}, "server_away"),
        ({"status": 511}, "proxy_refuses"),
        ({"status": 524}, "server_away"),
    ],
)
def test_an_answer_that_is_no_stream(changes, code):
    found = diagnose(Observation(**{"target": "probe", "headers": {}} | changes))
    assert (found.codes, found.severity) == ([code], Severity.BROKEN)
    assert found.findings[0].remedy == code


def test_a_proxy_that_refuses_is_named():
    found = diagnose(Observation(target="probe", status=403, headers={"server": "cloudflare"}))
    assert found.findings[0].evidence == {"status": 403, "problem": "", "proxy": "cloudflare"}


def test_a_refusal_is_told_once():
    left = {"agent_pool": Pool(running=1, waiting=1, max_workers=1, queue_size=5)}
    full = {"agent_pool": Pool(running=1, waiting=5, max_workers=1, queue_size=5)}
    for pools in (left, full):
        assert codes(Observation(target="probe", status=503, problem="queue_full", pools=pools)) == [
            "pool_full"
        ]


@pytest.mark.parametrize(
    ("phase", "kind", "code"),
    [
        ("resolve", "other", "name_unknown"),
        ("connect", "refused", "unreachable"),
        ("connect", "timeout", "unreachable"),
        ("tls", "certificate", "tls_failed"),
        ("tls", "not_tls", "wrong_scheme"),
        ("answer", "not_http", "not_http"),
        ("answer", "timeout", "no_answer"),
    ],
)
def test_no_answer_at_all(phase, kind, code):
    found = diagnose(Observation(target="probe", failure=Failure(phase=phase, kind=kind)))
    assert (found.codes, found.severity) == ([code], Severity.BROKEN)


def test_who_cuts_in_silence_has_another_reason_than_who_cuts_what_flows():
    lost = Failure(phase="read", kind="closed", detail="reset")
    flowing = diagnose(seen(PACED, outcome="cut", end={}, failure=lost))
    assert (flowing.codes, flowing.severity) == (["cut"], Severity.BROKEN)
    assert flowing.findings[0].remedy == "cut:flowing"
    silent = diagnose(seen(PACED, outcome="cut", end={}, total=62_000.0)).findings[0]
    assert silent.remedy == "cut:silent"
    assert silent.evidence["silent_ms"] == 60_096


def test_a_stream_of_nothing_is_the_proxys():
    nothing = seen(PACED, outcome="cut", end={}, arrivals=[], reads=[])
    stand_in = {"content-type": "text/event-stream", "cache-control": "no-cache, no-transform"}
    assert codes(msgspec.structs.replace(nothing, headers=stand_in)) == ["server_away"]


def test_a_hole_in_the_numbers_is_told():
    assert codes(seen(PACED, expected=21)) == ["lost_events"]


def test_a_task_that_failed_is_told_with_its_code():
    end = {"type": "error", "code": "upstream_auth", "message": "no"}
    assert codes(task([100.0], end=end)) == ["provider_failed"]
    timeout = diagnose(task([100.0], end={"type": "error", "code": "run_timeout"}))
    assert (timeout.codes, timeout.findings[0].remedy) == (["task_failed"], "task_failed:run_timeout")
    assert codes(task([100.0], end={"type": "error", "code": "interrupted"})) == ["restarting"]


def test_pools_are_told_also_when_the_probe_passes_them_by():
    full = {"agent_pool": Pool(running=5, waiting=30, max_workers=5, queue_size=30)}
    busy = {"agent_pool": Pool(running=5, waiting=3, max_workers=5, queue_size=30, stuck=1)}
    free = {"agent_pool": Pool(running=4, waiting=0, max_workers=5, queue_size=30)}
    assert codes(seen(PACED, pools=full)) == ["pool_full"]
    assert codes(seen(PACED, pools=busy)) == ["stuck_producers", "pool_busy"]
    assert codes(seen(PACED, pools=free)) == ["fine"]


def test_headers_that_did_not_survive_are_told():
    changed = HEADERS | {"cache-control": "max-age=60", "content-length": "900"}
    assert codes(seen(PACED, headers=changed, http_version="HTTP/1.0")) == [
        "headers_changed",
        "collected",
        "http_1_0",
    ]


def test_a_flood_of_statuses_is_told():
    arrivals = [
        Arrival(name="status", at=500.0 * number, sent_at=500.0 * number, status="processing")
        for number in range(20)
    ]
    assert codes(task([], arrivals=arrivals, total=9_500.0)) == ["status_flood"]


def test_the_worst_comes_first():
    found = diagnose(seen(PACED, [1_910.0] * 20, outcome="cut", end={}))
    assert found.codes == ["cut", "buffered_by_proxy"]


def test_bunches_are_counted_among_what_was_sent_apart():
    assert bunched([(0, 0), (1, 1), (2, 2)]) == (0.0, 0)
    assert bunched([(0, 0), (100, 100), (101, 200)]) == (0.5, 2)
    assert bunched([]) == (0.0, 0)


def test_an_observation_of_nothing_has_no_numbers():
    nothing = measure(Observation(target="probe"))
    assert (nothing.first_byte, nothing.first_content, nothing.gaps.count, nothing.bursts) == (
        None,
        None,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("headers", "product"),
    [
        ({"server": "nginx/1.22.1"}, "nginx"),
        ({"server": "cloudflare", "cf-ray": "x"}, "cloudflare"),
        ({"via": "1.1 Caddy"}, "caddy"),
        ({"via": "1.1 squid.example"}, "unknown"),
        ({"server": "Apache/2.4"}, "apache"),
        ({"x-varnish": "1"}, "varnish"),
        ({}, ""),
    ],
)
def test_proxies_name_themselves(headers, product):
    assert proxy_of(headers) == product
