"""`/metrics` of real servers: what is told, to whom, of how many processes; and that dashboard, rules and
docs name nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as families

from tests.integration.conftest import assert_clean
from tests.support.client import client, eventually, generate
from tests.support.servers import ROOT, Server, environment, migrate, started

pytestmark = pytest.mark.server

TOKEN: Final = "only-for-tests-0123456789"
DEPLOY = ROOT / "deploy"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not here")

Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two processes on one port, each of which runs one task and lets one wait."""
    folder = tmp_path_factory.mktemp("metrics")
    limits = {"AGENT_POOL_MAX_WORKERS": "1", "AGENT_POOL_QUEUE_SIZE": "1", "AGENT_POOL_PER_OWNER": "9"}
    env = environment(folder, **limits)
    migrate(env)
    with started("serve with two workers", folder, env) as made:
        yield made
        made.stop()
        assert "Traceback" not in made.log()


async def scrape(server: Server, **headers: str) -> str:
    """On a connection of its own: any of the processes answers."""
    async with client(server.url) as http:
        response = await http.get("/metrics", headers=headers)
        assert response.status_code == 200, response.text
        return response.text


def numbers(text: str) -> Numbers:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(text)
        for sample in family.samples
    }


def total(text: str, name: str, **labels: str) -> float:
    """The sum over the labels that are not named."""
    return sum(
        value
        for (each, found), value in numbers(text).items()
        if each == name and set(labels.items()) <= found
    )


async def some_streams(server: Server, count: int, **options: Any) -> None:
    for number in range(count):
        async with client(server.url) as http:
            script = {"tokens": 5, "interval": 0.001, **options}
            await generate(http, user_id=f"user {number}", options=script)


# --- What is told -------------------------------------------------------------------------------------


async def test_a_scrape_shows_the_sum_of_all_processes(pair: Server):
    async def both_serve() -> bool:
        return total(await scrape(pair), "sluice_processes") == 2

    assert await eventually(both_serve, 30)
    before = await scrape(pair)
    await some_streams(pair, 12)

    async def all_seen() -> bool:
        done = total(await scrape(pair), "sluice_task_ends_total") - total(before, "sluice_task_ends_total")
        return done == 12

    assert await eventually(all_seen)
    for _ in range(4):
        after = await scrape(pair)
        assert total(after, "sluice_processes") == 2
        assert total(after, "sluice_pool_workers", pool="agent_pool") == 2

        def grown(name: str, **labels: str) -> float:
            return total(after, name, **labels) - total(before, name, **labels)  # noqa: B023

        assert grown("sluice_route_decisions_total", pool="agent_pool", route="direct") == 12
        assert grown("sluice_task_ends_total", kind="content", outcome="complete") == 12
        assert grown("sluice_first_content_seconds_count", kind="content", route="direct") == 12
        assert grown("sluice_content_parts_total") == 60
        assert grown("sluice_sent_bytes_total") > 12 * 300
        assert total(after, "sluice_loop_lag_seconds_count") > total(before, "sluice_loop_lag_seconds_count")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL])
async def test_nothing_that_counts_falls_when_a_process_ends(pair: Server, number: int):
    """Not for one scrape: a fall would look like a start, and the whole number like news."""
    await some_streams(pair, 6)
    before = await scrape(pair)
    starts = total(before, "sluice_process_starts_total")
    workers = await asyncio.to_thread(_workers, pair)
    os.kill(workers[0], number)
    shown, lowest = before, 2.0

    async def replaced() -> bool:
        nonlocal shown, lowest
        text = await scrape(pair)
        lowest = min(lowest, total(text, "sluice_processes"))
        now = numbers(text)
        for key, value in _that_count(shown).items():
            assert now.get(key, 0) >= value, key
        shown = text
        return total(text, "sluice_process_starts_total") > starts and total(text, "sluice_processes") == 2

    assert await eventually(lambda: _patiently(replaced), 120)
    assert lowest == 1, "the gauges of the dead are gone"
    assert total(shown, "sluice_pool_workers", pool="agent_pool") == 2


async def _patiently(look: Any) -> bool:
    """A connection that the kernel gave to the dead process is lost."""
    try:
        return bool(await look())
    except httpx2.TransportError:
        return False


def _workers(server: Server) -> list[int]:
    """The processes that serve, of the one that watches over them."""
    tasks = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    children = [int(pid) for pid in tasks.read_text().split()]
    found = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 2
    return found


def _that_count(text: str) -> Numbers:
    counters = {"counter", "histogram"}
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(text)
        if family.type in counters
        for sample in family.samples
    }


async def test_cancellations_and_readers_are_told(pair: Server):
    before = await scrape(pair)
    async with client(pair.url) as http:
        script = {"tokens": 999, "interval": 0.05}
        left = await generate(http, until=2, on_disconnect="cancel", options=script)
        task = left.response.headers["x-stream-id"]

        async def gone() -> bool:
            return bool((await http.get(f"/streams/{task}")).json()["state"] == "cancelled")

        assert await eventually(gone)
        await http.get(f"/streams/{task}/events")

    async def told() -> bool:
        after = await scrape(pair)

        def grown(name: str, **labels: str) -> float:
            return total(after, name, **labels) - total(before, name, **labels)

        return (
            grown("sluice_task_ends_total", outcome="cancelled", code="disconnect") == 1
            and grown("sluice_disconnects_total") == 1
            and grown("sluice_resumes_total") == 1
            and grown("sluice_status_messages_total") >= 1
        )

    assert await eventually(told), "the other process tells within a second"


async def test_labels_are_bounded(pair: Server):
    """No owner, no task, no path, whatever callers send."""
    await some_streams(pair, 2)
    text = await scrape(pair)
    allowed = {
        "pool": {"agent_pool", "kernel_pool"},
        "class": {"interactive", "normal", "batch", "other"},
        "kind": {"content", "code", "notebook", "probe", "other"},
        "route": {"direct", "queued", "rejected"},
        "outcome": {"complete", "error", "cancelled"},
        "quota": {"tokens", "bytes", "kernel_seconds"},
        "result": {"issued", "limited", "redeemed", "refused"},
    }
    for name, labels in numbers(text):
        for label, value in labels:
            if label in allowed:
                assert value in allowed[label], (name, label, value)
            else:
                assert label in {"le", "reason", "code", "version", "python", "django"}, (name, label)
    assert len(numbers(text)) < 1000


async def test_each_end_is_there_before_it_happens(pair: Server):
    """A rate does not see the first step of a number that was not there."""
    told = numbers(await scrape(pair))
    ends = [
        ("kernel_pool", "other", "error", "kernel_died"),
        ("agent_pool", "content", "error", "upstream_auth"),
        ("agent_pool", "content", "error", "interrupted"),
        ("agent_pool", "content", "cancelled", "admin"),
        ("kernel_pool", "other", "complete", ""),
    ]
    for values in ends:
        labels = zip(("pool", "kind", "outcome", "code"), values, strict=True)
        assert ("sluice_task_ends_total", frozenset(labels)) in told, values
    assert sum(name == "sluice_task_ends_total" for name, _labels in told) < 200


async def test_openmetrics_for_who_asks(pair: Server):
    async with client(pair.url) as http:
        plain = await http.get("/metrics")
        asked = {"Accept": "application/openmetrics-text;version=1.0.0"}
        response = await http.get("/metrics", headers=asked)
    assert plain.headers["content-type"].startswith("text/plain")
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in openmetrics(response.text)} >= {"sluice_sent_bytes", "sluice_followers"}
    assert response.text.endswith("# EOF\n")


@needs_promtool
async def test_promtool_finds_nothing_wrong(pair: Server):
    await some_streams(pair, 1)
    text = await scrape(pair)
    found = await asyncio.to_thread(_promtool, "check", "metrics", input=text)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def _promtool(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, *arguments], input=input, capture_output=True, text=True, timeout=60, check=False
    )


# --- To whom ------------------------------------------------------------------------------------------


async def test_this_machine_reads_without_a_token_and_no_proxy_for_others(pair: Server):
    async with client(pair.url) as http:
        assert (await http.get("/metrics")).status_code == 200
        refused = await http.get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"})
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    env = environment(folder, METRICS_ACCESS="token", METRICS_TOKEN=TOKEN)
    migrate(env)
    with started("serve", folder, env) as made:
        yield made
        assert_clean(made)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
async def test_a_token_is_asked_for(guarded: Server, header: str):
    async with client(guarded.url) as http:
        refused = await http.get("/metrics", headers={"Authorization": header} if header else {})
        assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in refused.text


async def test_who_has_the_token_reads_from_anywhere(guarded: Server):
    text = await scrape(guarded, **{"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "192.0.2.1"})
    assert total(text, "sluice_processes") == 1


# --- Dashboard, rules and docs ------------------------------------------------------------------------


async def _known(server: Server) -> dict[str, set[str]]:
    """Names of series, with the labels that they may have."""
    from streaming.metrics.catalogue import METRICS
    from streaming.metrics.exposition import all_metrics

    exposed = {name for name, _labels in numbers(await scrape(server))}
    known: dict[str, set[str]] = {}
    for name, metric in all_metrics().items():
        labels = set(metric.labels)
        if metric.bounds:
            known |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            known[name] = labels
    assert set(METRICS) <= set(all_metrics())
    # What there is only with a queue, or with REDIS_URL.
    sometimes = ("sluice_queue_wait_", "sluice_shared_", "sluice_redis_")
    unseen = {each for each in known if each not in exposed and not each.startswith(sometimes)}
    assert unseen == set(), "what is in the catalogue is also told"
    assert {each for each in exposed if each.startswith(("sluice_", "process_"))} <= set(known)
    return known


TARGET: Final = {"job", "instance"}
"""Labels that Prometheus adds."""


def _expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key in ("expr", "definition") and isinstance(each, str):
                yield each
            else:
                yield from _expressions(each)
    elif isinstance(value, list):
        for each in value:
            yield from _expressions(each)


def _strangers(expression: str, known: dict[str, set[str]]) -> list[str]:
    """What an expression of PromQL names that there is not: series, and labels of them. Labels by which it
    groups must be those of one of its series."""
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', expression)
    found = []
    series = set(re.findall(r"\b(?:sluice|process)_\w+", bare))
    found += [name for name in series if name not in known]
    labels = set.union(TARGET, *(known.get(name, set()) for name in series))
    for name, matchers in re.findall(r"\b((?:sluice|process)_\w+)\s*{([^}]*)}", bare):
        own = TARGET | known.get(name, set())
        found += [
            f"{name}{{{each}}}" for each in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers) if each not in own
        ]
    for group in re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", bare):
        found += [f"by {each}" for each in re.findall(r"\w+", group) if each not in labels]
    return found


async def test_the_dashboard_names_only_what_there_is(pair: Server):
    await some_streams(pair, 1)
    known = await _known(pair)
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    expressions = list(_expressions(dashboard))
    assert len(expressions) > 40
    assert {each: found for each in expressions if (found := _strangers(each, known))} == {}
    named = set(re.findall(r"\b(?:sluice|process)_\w+", " ".join(expressions)))
    unused = {
        name for name in known if name.endswith("_bucket") or not name.endswith(("_sum", "_count"))
    } - named
    assert unused <= {"process_virtual_memory_bytes"}, "each number answers a question"
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    assert {variable["name"] for variable in dashboard["templating"]["list"]} >= {"datasource", "instance"}
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"] if panel["type"] != "row"}
    assert used == {"${datasource}"}


async def test_the_rules_name_only_what_there_is(pair: Server):
    await some_streams(pair, 1)
    known = await _known(pair)
    text = (DEPLOY / "prometheus-rules.yml").read_text(encoding="utf-8")
    expressions = re.findall(r"expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", text)
    assert len(expressions) == text.count("- alert:") > 10
    for each in map("".join, expressions):
        assert _strangers(each, known) == []
        shown = re.findall(r"\$labels\.(\w+)", text.split(each)[1].partition("- alert:")[0])
        series = re.findall(r"\b(?:sluice|process)_\w+", each)
        assert set(shown) <= TARGET.union(*(known[name] for name in series)), each


def test_what_there_is_not_is_noticed():
    known = {"sluice_x_total": {"pool"}, "sluice_y_bucket": {"le"}}
    assert _strangers('sum by (pool) (rate(sluice_x_total{pool="a{b", job="j"}[5m]))', known) == []
    assert _strangers("sluice_z", known) == ["sluice_z"]
    assert _strangers('sluice_x_total{owner="a"}', known) == ["sluice_x_total{owner}"]
    assert _strangers("sum by (kind) (sluice_x_total)", known) == ["by kind"]
    assert _strangers("sum by (le) (sluice_x_total)", known) == ["by le"]


async def test_the_docs_explain_each_metric_and_no_other(pair: Server):
    from streaming.metrics.exposition import all_metrics

    await _known(pair)
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| `((?:sluice|process)_\w+)` \| ([^|]+ \| [^|]*) \|", text, flags=re.MULTILINE)
    )
    metrics = all_metrics()
    assert set(rows) == set(metrics)
    for name, row in rows.items():
        kind, labels = (each.strip() for each in row.split("|"))
        assert kind == metrics[name].kind.value, name
        assert re.findall(r"`(\w+)`", labels) == list(metrics[name].labels), name
    bounds = dict(re.findall(r"^\| `(\w+)` \| ([\d., ]+) \|$", text, flags=re.MULTILINE))
    assert {name: [float(each) for each in row.split(",")] for name, row in bounds.items()} == {
        name: list(metric.bounds) for name, metric in metrics.items() if metric.bounds
    }


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "prometheus-rules.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", str(Path(__file__).with_name("prometheus-rules-test.yml"))],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_takes_the_files(arguments: list[str]):
    command, what, file = arguments
    path = str(DEPLOY / file)
    done = _promtool(command, what, path)
    assert done.returncode == 0, done.stdout + done.stderr
