"""`manage.py loadtest` against a real server."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from streaming.core.load import Ended, Plan, Tally
from streaming.loadtest.report import Report, as_data, as_html, as_text
from streaming.loadtest.runner import PATH, Load, expected_text, run
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
    assert brief in text
    assert "10 a second" in text
    told = json.loads(data.read_text())
    assert told["load"] == {
        "rate": 10.0, "streams": None, "duration": 1.5, "timeout": 300.0, "brief": SCRIPTED,
    }  # fmt: skip
    assert abs(datetime.fromisoformat(told["begun"]) - datetime.now(UTC)) < timedelta(minutes=2)
    assert told["started"] == told["outcomes"]["complete"] == told["exact"]["exact"] == 15
    assert told["first_content_ms"]["p50"] > 0
    assert sum(each["started"] for each in told["by_second"]) == 15
    html = page.read_text()
    assert escape(brief) in html
    assert html.count('role="img"') == 3
    assert not re.search(r"(src|href|url)\s*[=(]", html), "nothing from outside"


async def test_without_a_script_the_record_is_what_counts(server: Server) -> None:
    tally = await load(server.url, streams=2, duration=0.1, brief={"topic": "coffee", "length": "short"})
    assert (tally.outcomes["complete"], tally.exact["exact"]) == (2, 2)


async def test_a_text_that_is_not_the_expected_one_is_wrong(server: Server, monkeypatch) -> None:
    monkeypatch.setattr("streaming.loadtest.runner.expected_text", lambda brief: "0 1 2")
    tally = await load(server.url, streams=1, duration=0.1)
    assert tally.exact["wrong"] == 1
    assert not tally.is_exact
    assert "Not every stream" in as_text(report_of(tally))
    assert "verdict bad" in as_html(report_of(tally))


async def test_refusals_and_failures_are_counted_by_their_code(server: Server) -> None:
    # The same end user each time, who may have three at a time.
    same = {**SCRIPTED, "user_id": "one", "options": {"tokens": 40, "interval": 0.01}}
    tally = await load(server.url, rate=1000, streams=6, duration=1, brief=same)
    assert tally.outcomes["refused"] == tally.codes["owner_limit"] == 3
    failing = {**SCRIPTED, "options": {"tokens": 5, "fail_after": 2}}
    tally = await load(server.url, streams=1, duration=0.1, brief=failing)
    assert (tally.outcomes["failed"], tally.codes["producer_failed"]) == (1, 1)
    tally = await load("http://127.0.0.1:1", rate=100, streams=2, duration=1)
    assert tally.codes == {"unreachable": 2}
    assert re.search(r"no connection +2", as_text(report_of(tally)))


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
    assert "No stream came to its end" in text
    assert stopped.returncode == 1


# --- Whom it meets ------------------------------------------------------------------------------------


class Other(http.server.BaseHTTPRequestHandler):
    """Somebody with answers of his own."""

    answers: ClassVar[dict[tuple[str, str], tuple[int, str, bytes]]] = {}
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, kind, body = self.answers.get((self.command, self.path), (404, "text/html", b"<p>Nothing"))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "/streams/one")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def other() -> Iterator[tuple[str, type[Other]]]:
    """The address of such a server, and what it answers."""
    handler = type("Handler", (Other,), {"answers": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", handler
        listening.shutdown()
        thread.join()


LOOK = (405, "application/problem+json", b'{"code":"method_not_allowed"}')
WHOLE = b'event: content\ndata: {"delta":"x"}\n\nevent: complete\ndata: {}\n\n'


def test_where_no_record_is_shown_nothing_is_called_exact(other, capsys) -> None:
    url, handler = other
    handler.answers = {("GET", PATH): LOOK, ("POST", PATH): (200, "text/event-stream", WHOLE)}
    with pytest.raises(SystemExit) as ended:
        call_command("loadtest", url, "--rate=100", "--streams=3", "--duration=1")
    text = capsys.readouterr().out
    assert ended.value.code == 1
    assert re.search(r"not compared +3", text)
    assert re.search(r"exact text +0 / 3", text)
    assert "whether the text of 3 is exact is not known" in text


async def test_a_page_is_no_stream(other) -> None:
    url, handler = other
    handler.answers = {("POST", PATH): (200, "text/html", b"<p>Hello")}
    tally = await load(url, rate=100, streams=2, duration=1)
    assert tally.codes == {"no_event_stream": 2}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "there is no Sluice at"),
        ((200, "text/html", b"<p>Hello"), "there is no Sluice at"),
        ((502, "application/problem+json", b'{"code":"server_away"}'), "the server behind it does not"),
        ((404, "application/problem+json", b'{"code":"not_found"}'), r"refuses .* not_found"),
        ((301, "text/html", b""), "sends calls on to /streams/one"),
    ],
)
def test_where_there_is_no_server_no_load_is_sent(other, answer, words) -> None:
    url, handler = other
    handler.answers = {("GET", PATH): answer} if answer else {}
    with pytest.raises(CommandError, match=words):
        call_command("loadtest", url, "--duration=60")


def test_where_nobody_listens_no_load_is_sent() -> None:
    with pytest.raises(CommandError, match=r"no answer from http://127\.0\.0\.1:1: Connection refused"):
        call_command("loadtest", "127.0.0.1:1", "--duration=60")


# --- The report ---------------------------------------------------------------------------------------


def report_of(tally: Tally, key: str = "") -> Report:
    made = Load(base="http://a", plan=Plan(streams=1, duration=1), brief=SCRIPTED, key=key)
    return Report(load=made, begun=datetime.now(UTC), tally=tally)


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_report_that_cannot_be_written_is_told_before_the_load(option: str, tmp_path: Path) -> None:
    """Nobody listens there, and it does not come to that."""
    with pytest.raises(CommandError, match=f"{option} .* cannot be written"):
        call_command("loadtest", "127.0.0.1:1", option, str(tmp_path / "nowhere" / "file"))


def test_one_report_that_is_lost_later_does_not_take_the_other_along(other, tmp_path, monkeypatch) -> None:
    url, handler = other
    handler.answers = {("GET", PATH): LOOK, ("POST", PATH): (200, "text/event-stream", WHOLE)}
    brief = json.dumps({"provider": "scripted", "options": {"text": "x"}})
    html, data = tmp_path / "gone" / "load.html", tmp_path / "load.json"
    html.parent.mkdir()
    monkeypatch.setattr(
        "streaming.management.commands.loadtest.as_html", lambda report: html.parent.rmdir() or ""
    )
    with pytest.raises(SystemExit) as ended:
        call_command(
            "loadtest", url, "--rate=9", "--streams=1", "--duration=1", "--brief", brief,
            "--html", str(html), "--json", str(data),
        )  # fmt: skip
    assert json.loads(data.read_text())["all_exact"], "all was well but for the file"
    assert ended.value.code == 1


def test_no_report_holds_the_key() -> None:
    report = report_of(Tally(), key="sk-secret")
    for made in (json.dumps(as_data(report)), as_text(report), as_html(report)):
        assert "sk-secret" not in made


def test_the_last_bar_ends_at_the_longest_time() -> None:
    tally = Tally()
    for first in (5.0, 28.0):
        tally.begin(0)
        tally.add(Ended(intended=0, outcome="complete", first=first, total=30, exact=True))
    assert as_data(report_of(tally))["histograms"]["first_content"][-1]["up_to_ms"] == 28.0
    assert "≤ 28 ms: 1" in as_html(report_of(tally))


def test_what_had_no_time_is_told_and_spoils_nothing() -> None:
    tally = Tally()
    for ended in (
        Ended(intended=0, outcome="complete", exact=True),
        Ended(intended=0, outcome="unfinished"),
    ):
        tally.begin(0)
        tally.add(ended)
    assert "Every stream that had the time came whole and exact." in as_text(report_of(tally))


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
