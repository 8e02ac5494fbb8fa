"""`manage.py loadtest` against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streaming.core.load import Plan, Tally
from streaming.loadtest.report import as_html, as_text
from streaming.loadtest.runner import Load, expected_text, run
from tests.support.servers import ROOT, Server, running

pytestmark = [pytest.mark.server]

SCRIPTED = {"topic": "x", "provider": "scripted", "options": {"tokens": 12, "interval": 0.01}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"AGENT_POOL_MAX_WORKERS": "4", "AGENT_POOL_QUEUE_SIZE": "40"}
    with running("serve", tmp_path_factory.mktemp("load"), **limits) as made:
        yield made
        assert "Traceback" not in made.log()


def loadtest(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "loadtest", *arguments],
        cwd=ROOT,
        env={**os.environ, "ENV_FILE": "", "SECRET_KEY": "x" * 50},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def load(url: str, **options: Any) -> Tally:
    """Put it on, from here."""
    plan = Plan(**{name: options.pop(name) for name in ("rate", "streams", "duration") if name in options})
    tally = Tally()
    values: dict[str, Any] = {"base": url, "plan": plan, "brief": SCRIPTED, "patience": 30.0}
    await run(Load(**values | options), tally, asyncio.Event())
    return tally


def test_the_command_reports_in_three_ways(server: Server, tmp_path: Path) -> None:
    page, data = tmp_path / "load.html", tmp_path / "load.json"
    brief = json.dumps(SCRIPTED)
    options = (
        "--rate",
        "10",
        "--duration",
        "1.5",
        "--brief",
        brief,
        "--html",
        str(page),
        "--json",
        str(data),
    )
    running_load = loadtest(server.url, *options)
    text, errors = running_load.communicate(timeout=60)
    assert running_load.returncode == 0, errors
    assert "Every stream came whole and exact." in text
    told = json.loads(data.read_text())
    assert told["started"] == told["outcomes"]["complete"] == told["exact"]["exact"] == 15
    assert told["first_content_ms"]["p50"] > 0
    assert sum(each["started"] for each in told["by_second"]) == 15
    html = page.read_text()
    assert html.count("<svg") == 3
    assert not re.search(r"(src|href|url)\s*[=(]", html), "nothing from outside"


async def test_without_a_script_the_record_is_what_counts(server: Server) -> None:
    tally = await load(server.url, streams=2, duration=0.1, brief={"topic": "coffee", "length": "short"})
    assert (tally.outcomes["complete"], tally.exact["exact"]) == (2, 2)


async def test_a_text_that_is_not_the_expected_one_is_wrong(server: Server, monkeypatch) -> None:
    monkeypatch.setattr("streaming.loadtest.runner.expected_text", lambda brief: "0 1 2")
    tally = await load(server.url, streams=1, duration=0.1)
    assert tally.exact["wrong"] == 1
    assert not tally.is_exact
    assert "Not every stream" in as_text(server.url, tally)
    assert "verdict bad" in as_html(server.url, tally)


async def test_refusals_and_failures_are_counted_by_their_code(server: Server) -> None:
    # The same end user each time, who may have three at a time.
    same = {**SCRIPTED, "user_id": "one", "options": {"tokens": 40, "interval": 0.01}}
    tally = await load(server.url, rate=1000, streams=6, duration=1, brief=same)
    assert tally.outcomes["refused"] == tally.codes["owner_limit"] == 3
    failing = {**SCRIPTED, "options": {"tokens": 5, "fail_after": 2}}
    tally = await load(server.url, streams=1, duration=0.1, brief=failing)
    assert (tally.outcomes["failed"], tally.codes["producer_failed"]) == (1, 1)
    tally = await load("http://127.0.0.1:1", rate=100, streams=2, duration=1)
    assert tally.codes == {"ConnectError": 2}


async def test_the_wait_behind_others_counts(server: Server) -> None:
    """Times are from the intended start: of eight tasks of 0.3 s on four workers, half wait."""
    slow = {**SCRIPTED, "options": {"tokens": 2, "interval": 0.3}}
    tally = await load(server.url, rate=1000, streams=8, duration=1, brief=slow)
    assert tally.routes["queued"] == 4
    assert tally.first.max is not None
    assert tally.first.max >= 300


def test_ctrl_c_gives_the_report_so_far(server: Server) -> None:
    hanging = json.dumps({**SCRIPTED, "options": {"hang_after": 3}, "on_disconnect": "cancel"})
    stopped = loadtest(server.url, "--streams", "2", "--duration", "60", "--brief", hanging)
    assert stopped.stderr is not None
    try:
        first = stopped.stderr.readline()
        while "open 2" not in first:
            assert first, "it ended"
            first = stopped.stderr.readline()
        stopped.send_signal(signal.SIGINT)
        text, _errors = stopped.communicate(timeout=30)
    finally:
        if stopped.poll() is None:
            stopped.kill()
            stopped.communicate()
    assert re.search(r"unfinished +2", text)
    assert "that had the time" in text
    assert stopped.returncode == 0


@pytest.mark.parametrize(
    ("brief", "text"),
    [
        ({"provider": "scripted", "options": {"tokens": 3}}, "0 1 2 "),
        ({"provider": "scripted", "options": {"text": "é\n"}}, "é\n"),
        ({"provider": "scripted", "max_tokens": 3}, None),
        ({"topic": "x"}, None),
    ],
)
def test_what_the_script_will_say(brief, text) -> None:
    assert expected_text(brief) == text
