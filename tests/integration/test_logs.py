"""Logs of a real server: what an operator sees with `tail -f app.log`, and what nobody sees there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.client import STREAM, brief, client, eventually, generate, read_stream
from tests.support.servers import STOP_LIMIT, Server, running

pytestmark = pytest.mark.server

GREP = "(stream|buffer|timeout)"
"""As the second field report has it."""

PROMPT = "a topic that must stay between us"
KEY = "sluice_" + "k" * 43
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs to app.log, for people."""
    folder = tmp_path_factory.mktemp("logs")
    limits = {"AGENT_POOL_MAX_WORKERS": "1", "AGENT_POOL_RUN_TIMEOUT": "2", "AGENT_POOL_QUEUE_TIMEOUT": "30"}
    with running("serve", folder, LOG_FILE=str(folder / "app.log"), **limits) as made:
        yield made


@pytest.fixture(scope="module")
def json_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that logs for programs."""
    folder = tmp_path_factory.mktemp("json-logs")
    with running(
        "serve", folder, LOG_FILE=str(folder / "app.log"), LOG_FORMAT="json", TRUSTED_PROXIES="127.0.0.1",
        ALLOW_ANONYMOUS="true",
    ) as made:  # fmt: skip
        yield made


def log_of(server: Server) -> Path:
    return server.database.parent / "app.log"


async def line(server: Server, event: str, **members: str) -> dict:
    """Once it is there: the one line of a JSON log with this event and these members."""

    async def look() -> list[dict]:
        every = [json.loads(each) for each in log_of(server).read_text().splitlines()]
        wanted = ({"event": event} | members).items()
        return [
            each for each in every if wanted <= {key: each.get(key) for key in ("event", *members)}.items()
        ]

    (found,) = await eventually(look)
    return found


async def test_tail_and_grep_show_decisions_flush_pressure_and_time_outs(server: Server):
    """Exactly the second report's command, over the lines that it would have shown."""
    command = f"tail -n +1 -f {log_of(server)} | grep --line-buffered -E '{GREP}'"
    watching = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        async with client(server.url) as http:
            hung, waited = await asyncio.gather(
                generate(http, options={"tokens": 60, "interval": 0.001, "hang_after": 50}),
                generate(http, user_id="another", options={"tokens": 100, "interval": 0.001}),
            )
        assert {hung.end.name, waited.end.name} == {"error", "complete"}
        assert watching.stdout is not None
        seen = b""
        async with asyncio.timeout(20):
            while seen.count(b"stream ended") < 2:
                seen += await watching.stdout.readline()
    finally:
        os.killpg(watching.pid, signal.SIGTERM)
        await watching.wait()
    shown = seen.decode().splitlines()
    decisions = [line for line in shown if "stream routed" in line]
    assert re.search(r"route=direct reason=worker_free", decisions[0])
    assert re.search(r"route=queued reason=workers_busy .*running=1 .*max_workers=1", decisions[1])
    assert re.search(r"WARNING .*stream ended .*outcome=error code=run_timeout", "\n".join(shown))
    pressure = [int(found) for line in shown for found in re.findall(r"buffer_full_flushes=(\d+)", line)]
    assert len(pressure) == 2
    assert max(pressure) > 0
    assert all(re.search(r"task_id=[0-9a-f]{32}", line) for line in shown if "streaming.tasks" in line)


async def test_a_request_has_an_id_in_answer_and_lines(json_server: Server):
    async with client(json_server.url) as http:
        headers = {"X-Request-ID": "from-afar-1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        reading = await read_stream(http, "POST", STREAM, headers=headers, json=brief(options={"tokens": 3}))
        assert reading.response.headers["X-Request-ID"] == "from-afar-1"
        task_id = reading.response.headers["X-Stream-Id"]
    for event in ("stream routed", "stream ended"):
        found = await line(json_server, event, task_id=task_id)
        assert (found["request_id"], found["trace_id"]) == ("from-afar-1", TRACE)
    access = await line(json_server, "request", request_id="from-afar-1")
    assert (access["method"], access["path"], access["status"]) == ("POST", STREAM, 200)
    assert access["task_id"] == task_id
    assert access["trace_id"] == TRACE
    ended = await line(json_server, "stream ended", task_id=task_id)
    assert access["duration_ms"] >= ended["total_ms"], "the line is written at the end of the stream"
    assert access["bytes"] > 300


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Request-ID": "two words"},
        {"X-Request-ID": "x" * 200},
        {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01-more"},
        {},
    ],
)
async def test_what_is_not_sane_is_not_taken(json_server: Server, headers: dict[str, str]):
    async with client(json_server.url) as http:
        answers = [await http.get("/stats", headers=headers) for _ in range(2)]
        answers.append(await http.post(STREAM, headers=headers, json={}))
        answers.append(await http.get("/nowhere", headers=headers))
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
    assert len(set(ids)) == 4
    found = await line(json_server, "request", request_id=ids[0])
    assert "trace_id" not in found or found["trace_id"] is None


async def test_neither_secrets_nor_prompts_are_in_the_log(json_server: Server):
    async with client(json_server.url) as http:
        secret = {"Authorization": f"Bearer {KEY}", "Cookie": "sessionid=crumbs"}
        refused = await http.get(f"/stats?key={KEY}", headers=secret)
        assert refused.status_code == 401
        reading = await generate(
            http, topic=PROMPT, user_id="me", options={"text": "words for me alone", "fail_after": 3}
        )
        assert reading.end.name == "error"
        request_id = reading.response.headers["X-Request-ID"]
        await eventually(lambda: _has(json_server, request_id, 3))
    log = log_of(json_server).read_text()
    for word in (KEY, "crumbs", PROMPT, "words for me alone"):
        assert word not in log
        assert word not in json_server.log()


async def _has(server: Server, text: str, count: int) -> bool:
    return log_of(server).read_text().count(text) >= count


async def test_who_calls_is_told_by_the_trusted_proxy_alone(json_server: Server, server: Server):
    forwarded = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "X-Request-ID": "by-proxy"}
    async with client(json_server.url) as http:
        assert (await http.get("/healthz", headers=forwarded)).status_code == 200
    found = await line(json_server, "request", request_id="by-proxy")
    assert found["client"] == "203.0.113.9"
    async with client(server.url) as http:
        # Nobody is trusted here: the peer is who calls, and as somebody may speak by it, it is not local.
        await http.get("/healthz", headers=forwarded)
        assert (await http.get("/stats", headers=forwarded)).status_code == 401
        assert (await http.get("/stats")).status_code == 200
    await eventually(lambda: _has(server, "client=127.0.0.1 request_id=by-proxy", 2))
    assert "client=203.0.113.9" not in log_of(server).read_text()


async def test_behind_a_trusted_proxy_nobody_is_local(tmp_path: Path):
    """Not even where it does not say for whom it speaks."""
    with running("serve", tmp_path, TRUSTED_PROXIES="127.0.0.1") as behind:
        async with client(behind.url) as http:
            assert (await http.get("/stats")).status_code == 401
            local = {"X-Forwarded-For": "127.0.0.1"}
            assert (await http.get("/stats", headers=local)).status_code == 401


async def test_lines_are_written_at_the_end_of_the_server_and_after_a_rotation(tmp_path: Path):
    with running("serve", tmp_path, LOG_FILE=str(tmp_path / "app.log")) as made:
        async with client(made.url) as http:
            await generate(http, options={"tokens": 1})
            await eventually(lambda: _has(made, "stream ended", 1))
            log_of(made).rename(tmp_path / "app.log.1")
            again = await generate(http, options={"tokens": 1})
        assert await asyncio.to_thread(made.stop, signal.SIGTERM, STOP_LIMIT) == 0
    text = log_of(made).read_text()
    assert again.response.headers["X-Stream-Id"] in text
    assert "stream ended" in text


async def test_a_log_file_that_cannot_be_written_stops_nothing(tmp_path: Path):
    with running("serve", tmp_path, LOG_FILE="/proc/nowhere/app.log") as made:
        async with client(made.url) as http:
            reading = await generate(http, options={"tokens": 1})
        assert reading.end.name == "complete"
        made.stop()
        assert "/proc/nowhere/app.log cannot be opened" in made.log()
        assert "stream ended" in made.log()


async def test_too_many_at_once_get_an_answer_and_come_back(tmp_path: Path):
    with running("serve", tmp_path, SERVER_LIMIT_CONCURRENCY="2", AGENT_POOL_PER_OWNER="9") as full:
        async with client(full.url) as http:
            open_streams: list[httpx2.Response] = []
            stack = [http.stream("POST", STREAM, json=brief(options={"hang_after": 1})) for _ in range(2)]
            for each in stack:
                open_streams.append(await each.__aenter__())
            place = open_streams[0].headers["Location"]
            refused = await http.post(STREAM, json=brief())
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_requests_open")
            assert refused.headers["Content-Type"] == "application/problem+json"
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.headers["X-Request-ID"]
            assert (await http.get("/healthz")).status_code == 200, "what watches the server is answered"
            follower = await read_stream(http, "GET", f"{place}/events")
            assert follower.response.status_code == 200, "EventSource gives up for good after a 503"
            assert [event.name for event in follower.events] == ["reconnect"]
            assert follower.retry is not None
            for each in stack:
                await each.__aexit__(None, None, None)

            async def room() -> bool:
                return (await http.get("/stats")).status_code == 200

            assert await eventually(room)
