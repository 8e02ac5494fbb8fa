"""The doctor before real servers and a real nginx: it must say what is wrong, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from streaming.core.diagnosis import Severity
from streaming.doctor.client import Target, base_of
from streaming.doctor.rounds import Round, examine
from tests.support.buffering import BUFFERING, COLLECTING, COMPRESSING
from tests.support.client import STREAM, brief, client, eventually
from tests.support.nginx import Nginx, find_nginx, fronted
from tests.support.servers import ROOT, Server, environment, free_port, migrate, running, started

pytestmark = [pytest.mark.server]

needs_nginx = pytest.mark.skipif(find_nginx() is None, reason="no nginx here: apt-get install nginx")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "ALLOW_ANONYMOUS": "true",
        "AGENT_POOL_MAX_WORKERS": "1",
        "AGENT_POOL_QUEUE_SIZE": "0",
        "SSE_STATUS_MESSAGE_INTERVAL": "5",
    }
    with running("serve", tmp_path_factory.mktemp("doctor"), **settings) as made:
        yield made
        assert "Traceback" not in made.log()


@pytest.fixture(scope="module")
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with fronted(tmp_path_factory.mktemp("nginx"), server.port) as made:
        yield made


@pytest.fixture(scope="module")
def buffering(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Before the one that is as shipped."""
    with fronted(tmp_path_factory.mktemp("buffering"), nginx.port, BUFFERING) as made:
        yield made


def probe(url: str, **options: Any) -> Target:
    defaults: dict[str, Any] = {"base": base_of(url), "count": 12, "interval": 60, "patience": 30.0}
    return Target(**defaults | options)


def task(url: str, **options: Any) -> Target:
    return probe(url, kind="brief", brief=brief(options=options, on_disconnect="cancel"), patience=30.0)


async def verdict(target: Target, *expected: str) -> Round:
    """A round that finds just that. What a busy machine adds by itself goes away when it is asked again."""
    for _ in range(4):
        made = await examine(target)
        if set(made.diagnosis.codes) - {"reader_busy"} == set(expected):
            return made
    raise AssertionError(made.diagnosis.findings)


# --- The five ------------------------------------------------------------------------------------------


async def test_a_direct_server_is_fine(server: Server) -> None:
    made = await verdict(probe(server.url), "fine")
    assert made.diagnosis.severity is Severity.INFO
    assert made.seen.comments == 1
    assert made.diagnosis.proxy == ""


@needs_nginx
async def test_nginx_as_it_is_shipped_is_fine(nginx: Nginx) -> None:
    made = await verdict(probe(nginx.url), "fine")
    assert made.diagnosis.proxy == "nginx"
    made = await verdict(probe(f"https://127.0.0.1:{nginx.tls_port}", insecure=True), "fine")
    assert made.seen.http_version == "HTTP/2"


@needs_nginx
async def test_nginx_that_buffers_is_told_from_everything_else(buffering: Nginx) -> None:
    made = await verdict(probe(buffering.url), "buffered_by_proxy")
    worst = made.diagnosis.findings[0]
    assert (worst.severity, worst.remedy) == (Severity.SUSPICIOUS, "buffering:nginx")


@needs_nginx
async def test_nginx_that_buffers_and_compresses(server: Server, tmp_path) -> None:
    with fronted(tmp_path, server.port, COLLECTING) as collecting:
        await verdict(probe(collecting.url), "compressed_without_flush")


async def test_a_provider_that_begins_late_is_slow(server: Server) -> None:
    await verdict(task(server.url, tokens=3, start_delay=2.1), "slow_provider")


async def test_a_provider_that_stops_hangs(server: Server) -> None:
    body = brief(options={"hang_after": 2}, on_disconnect="cancel")
    hanging = probe(server.url, kind="brief", brief=body, patience=1.5)
    await verdict(hanging, "provider_hangs")


async def test_a_full_pool_is_full(server: Server) -> None:
    body = brief(options={"hang_after": 0}, on_disconnect="cancel")
    async with client(server.url) as http, http.stream("POST", STREAM, json=body):
        await verdict(task(server.url, tokens=1), "pool_full")
        # A probe needs no place, but is told of the pools.
        await verdict(probe(server.url, count=2), "pool_full")
    await verdict(probe(server.url, count=2), "fine")


# --- What else may be wrong ----------------------------------------------------------------------------


@needs_nginx
async def test_compression_that_passes_on_each_event_is_no_fault(server: Server, tmp_path) -> None:
    with fronted(tmp_path, server.port, COMPRESSING) as nginx:
        made = await verdict(probe(nginx.url), "fine", "compressed")
    assert made.seen.encoding == "gzip"
    assert made.diagnosis.severity is Severity.INFO


@needs_nginx
async def test_a_proxy_without_its_server_and_tls_that_nobody_signed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with fronted(tmp_path_factory.mktemp("away"), free_port()) as nginx:
        await verdict(probe(nginx.url), "server_away")
        tls = f"127.0.0.1:{nginx.tls_port}"
        await verdict(probe(f"https://{tls}"), "tls_failed")
        await verdict(probe(f"https://{tls}", insecure=True), "server_away")
        await verdict(probe(f"http://{tls}"), "wrong_scheme")
        await verdict(probe(f"https://127.0.0.1:{nginx.port}"), "wrong_scheme")


async def test_addresses_where_nothing_is(server: Server) -> None:
    await verdict(probe(f"http://127.0.0.1:{free_port()}"), "unreachable")
    await verdict(probe("http://nowhere.invalid"), "name_unknown")
    await verdict(probe(f"{server.url}/somewhere"), "not_sluice")


async def test_a_ping_needs_nothing(server: Server) -> None:
    await verdict(probe(server.url, kind="ping"), "not_measured")


async def test_a_wrong_key_is_told(server: Server) -> None:
    await verdict(probe(server.url, key="slc_wrong"), "wrong_key")


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("https://x.example/", "https://x.example"),
        ("http://x/streams/0123/view", "http://x"),
        ("http://x/prefix/content/generate/stream/async", "http://x/prefix"),
        ("http://x/streams/probe?count=3", "http://x"),
        ("http://x/prefix/", "http://x/prefix"),
        ("http://x/favicon.ico", "http://x"),
        ("http://x/prefix/static/streaming/page/site.js", "http://x/prefix"),
        ("http://x/ws/notebooks/7/", "http://x"),
        ("http://[::1]:8000/docs", "http://[::1]:8000"),
    ],
)
def test_any_address_will_do(address: str, base: str) -> None:
    assert base_of(address) == base


@pytest.mark.parametrize("address", ["ftp://x", "http://", "http://u:p@x", "http://x:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|ort"):
        base_of(address)


# --- The command ---------------------------------------------------------------------------------------


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "ENV_FILE": "", "SECRET_KEY": "x" * 50, "PYTHONUNBUFFERED": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "manage.py", "doctor", *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@needs_nginx
def test_the_command_tells_people_and_programs(server: Server, buffering: Nginx) -> None:
    fine = command(server.url, "--count", "12", "--interval", "40")
    slow = command(buffering.url, "--count", "12", "--interval", "40", "--json")
    broken = command(f"http://127.0.0.1:{free_port()}", "--ping")
    text, _errors = fine.communicate(timeout=60)
    told = slow.communicate(timeout=60)[0]
    refused = broken.communicate(timeout=60)[0]
    for _ in range(3):
        if fine.returncode == 0:
            break
        # Three at a time were too much for a busy machine: it is asked again, alone.
        fine = command(server.url, "--count", "12", "--interval", "40")
        text, _errors = fine.communicate(timeout=60)
    assert fine.returncode == 0, text
    assert "[fine]" in text
    assert "p95" in text
    assert "█" in text
    data = json.loads(told)
    assert slow.returncode == 1
    assert data["findings"][0]["code"] == "buffered_by_proxy"
    assert "proxy_buffering off" in data["findings"][0]["remedy"]
    assert broken.returncode == 2, refused
    assert "[unreachable]" in refused


async def test_it_watches_until_it_is_told_to_stop(server: Server, tmp_path) -> None:
    metrics = tmp_path / "sluice.prom"
    watching = command(
        server.url,
        "--watch",
        "--every",
        "1",
        "--count",
        "2",
        "--interval",
        "10",
        "--metrics-file",
        str(metrics),
        "--alert",
        "",
    )
    assert watching.stdout is not None
    try:
        lines = [await asyncio.to_thread(watching.stdout.readline) for _ in range(2)]
        watching.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(watching.wait, 30) == 0
    finally:
        if watching.poll() is None:
            watching.kill()
        watching.communicate()
    assert all("not_measured" in line for line in lines)
    text = metrics.read_text()
    assert f'sluice_doctor_severity{{url="{server.url}"}} 0.0' in text
    assert 'sluice_doctor_gap_seconds{percentile="95"' in text
    assert not list(tmp_path.glob(".*"))


async def test_a_monitor_raises_one_alert_and_resolves_it(tmp_path) -> None:
    """Of the database whose settings it has; the server that it watches comes later."""
    port = free_port()
    env = environment(tmp_path, ALERT_DOCTOR_CALM="1")
    migrate(env)
    options = ["--watch", "--every", "1", "--count", "2", "--interval", "10"]
    watching = command(f"http://127.0.0.1:{port}", *options, **env)

    async def alerts() -> list[tuple[str, str, float, str | None]]:
        with closing(sqlite3.connect(tmp_path / "test.sqlite3", timeout=20)) as database:
            return database.execute(
                "SELECT rule, sentence, value, resolved_at FROM streaming_alert"
            ).fetchall()

    async def resolved() -> bool:
        return all(alert[3] for alert in await alerts())

    try:
        assert await eventually(alerts, 60)
        with started("serve", tmp_path, env, port=port):
            assert await eventually(resolved, 60)
        ((rule, words, value, _),) = await alerts()
    finally:
        watching.send_signal(signal.SIGTERM)
        _, errors = watching.communicate(timeout=30)
    assert words.startswith(f"http://127.0.0.1:{port}: Nobody answers")
    assert (rule, value) == ("doctor", Severity.BROKEN)
    assert "alert doctor raised" in errors


@pytest.mark.long
async def test_a_monitor_without_a_database_watches_all_the_same(tmp_path) -> None:
    options = ["--watch", "--every", "1", "--ping"]
    watching = command(
        f"http://127.0.0.1:{free_port()}", *options, DATABASE_URL=f"sqlite:///{tmp_path}/x/none"
    )
    assert watching.stdout is not None
    try:
        line = await asyncio.to_thread(watching.stdout.readline)
    finally:
        watching.send_signal(signal.SIGTERM)
        _, errors = watching.communicate(timeout=30)
    assert "unreachable" in line
    assert "No alerts are raised" in errors


def test_a_rule_that_takes_no_reports_is_refused() -> None:
    watching = command("http://127.0.0.1:1", "--watch", "--alert", "loop_lag")
    _, errors = watching.communicate(timeout=30)
    assert watching.returncode == 1
    assert "'loop_lag' is no rule of the kind 'reported'" in errors
