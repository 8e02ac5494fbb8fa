"""Alerts of real servers: load that crosses a threshold and goes, told once by mail and webhook, whichever
process looks, whatever happens to receivers and processes."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import client, eventually, generate
from tests.support.servers import ROOT, environment, migrate, serving

pytestmark = pytest.mark.server

SECRET = "/T0P-S3CRET"

LIMITS = {
    "AGENT_POOL_MAX_WORKERS": "2",
    "AGENT_POOL_PER_OWNER": "50",
    "ALERT_INTERVAL": "0.2",
    # Off, but for the one that a test is about.
    **{f"ALERT_{name}_THRESHOLD": "null" for name in ("FIRST_CONTENT", "ERROR_SHARE", "REJECTED_SHARE")},
    **{f"ALERT_{name}_THRESHOLD": "null" for name in ("OLDEST_WAIT", "LOOP_LAG", "NO_HEARTBEAT")},
}

# A wait, a late first text, and failures: at once, and calm after a second.
RULES = {
    "ALERT_OLDEST_WAIT_THRESHOLD": "0.5",
    "ALERT_FIRST_CONTENT_THRESHOLD": "1.4",
    "ALERT_ERROR_SHARE_THRESHOLD": "0.3",
    **{
        f"ALERT_{name}_{key}": value
        for name in ("OLDEST_WAIT", "FIRST_CONTENT", "ERROR_SHARE")
        for key, value in {"FOR": "0.3", "CALM": "1", "MIN_COUNT": "2"}.items()
    },
}

ALL = {"oldest_wait", "first_content", "error_share"}


class Receiver:
    """Where alerts are posted. `status`: what it answers; `hang`: it does not."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.hang = threading.Event()
        self.url = ""

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(body["event"], body["rule"]) for body in self.bodies]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with _receiving() as made:
        yield made


@contextmanager
def _receiving() -> Iterator[Receiver]:
    made = Receiver()
    made.hang.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.hang.wait(30)
            if self.path == SECRET:
                made.bodies.append(json.loads(body))
            self.send_response(made.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}{SECRET}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        made.hang.set()
        server.shutdown()
        thread.join()
        server.server_close()


def mails(folder: Path) -> list[str]:
    """The subjects."""
    texts = [
        path.read_text() for path in sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime_ns)
    ]
    return [
        line.removeprefix("Subject: ")
        for text in texts
        for line in text.splitlines()
        if line.startswith("Subject: ")
    ]


def check_alerts(env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", "check_alerts", *options]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def alerts(folder: Path) -> list[tuple[str, int]]:
    """Rule and notices of each alert."""
    with closing(
        sqlite3.connect(f"file:{folder / 'test.sqlite3'}?mode=ro", uri=True, timeout=20)
    ) as database:
        return database.execute(
            "SELECT rule, (SELECT COUNT(*) FROM streaming_alertnotice WHERE alert_id = alert.id) "
            "FROM streaming_alert AS alert"
        ).fetchall()


async def test_two_processes_tell_once_of_bad_streams_and_once_of_their_end(
    tmp_path: Path, receiver: Receiver
):
    letters = tmp_path / "mail"
    env = environment(
        tmp_path,
        **LIMITS | RULES,
        ALERT_WEBHOOK_URL=receiver.url,
        ALERT_EMAILS="ops@example.org",
        EMAIL_URL=f"filemail:///{letters}",
    )
    migrate(env)
    async with serving("serve", tmp_path, env) as one, serving("serve", tmp_path, env) as other:
        async with client(one.url) as http:
            # Two workers: one of three waits for the others, and two of three fail.
            fails = {"tokens": 2, "interval": 0.01, "start_delay": 1.5, "fail_after": 1}
            works = {"tokens": 2, "interval": 0.01, "start_delay": 1.5}
            readings = await asyncio.gather(*(generate(http, options=each) for each in (fails, fails, works)))
            assert sorted(reading.end.name for reading in readings) == ["complete", *2 * ["error"]]

            async def told() -> bool:
                return {rule for event, rule in receiver.events if event == "raised"} == ALL

            assert await eventually(told, 20), (receiver.events, one.log(), other.log())
            done = await asyncio.to_thread(check_alerts, env, "--json")
            assert done.returncode == 1
            assert {each["rule"] for each in json.loads(done.stdout)} >= {"first_content", "error_share"}
            # So many good ones that one in twenty is good, too.
            quick = {"tokens": 1, "interval": 0}
            for _ in range(16):
                await asyncio.gather(*(generate(http, options=quick) for _ in range(4)))

        async def over() -> bool:
            return len(receiver.bodies) >= 6 and len(mails(letters)) >= 6

        assert await eventually(over, 20), (receiver.events, mails(letters), one.log(), other.log())
        # Some more looks of both, which find nothing to tell.
        await asyncio.sleep(0.6)
        for rule in ALL:
            assert [event for event, about in receiver.events if about == rule] == ["raised", "resolved"]
        subjects = [f"[Sluice] {word}: {rule}" for rule in ALL for word in ("Alert", "Resolved")]
        assert sorted(mails(letters)) == sorted(subjects)
        assert sorted(alerts(tmp_path)) == sorted((rule, 4) for rule in ALL)
        log = one.log() + other.log()
        assert log.count(" raised: ") == log.count(" resolved after ") == 3
        assert "S3CRET" not in log
        assert "Traceback" not in log


@pytest.mark.long
async def test_a_killed_process_is_told_of_by_the_next_and_a_dead_receiver_harms_nobody(
    tmp_path: Path, receiver: Receiver
):
    receiver.hang.clear()
    rule = {"ALERT_NO_HEARTBEAT_THRESHOLD": "1", "ALERT_NO_HEARTBEAT_FOR": "0"}
    env = environment(tmp_path, **LIMITS | rule, ALERT_WEBHOOK_URL=receiver.url, ALERT_TIMEOUT="1")
    migrate(env)
    async with serving("serve", tmp_path, env) as victim:
        async with client(victim.url) as http:
            assert (await generate(http, options={"tokens": 2})).end.name == "complete"
        victim.stop(signal.SIGKILL)
    async with serving("serve", tmp_path, env) as server, client(server.url) as http:

        async def raised() -> bool:
            return "alert no_heartbeat raised" in server.log()

        assert await eventually(raised, 20)
        # The receiver hangs now.
        reading = await generate(http, options={"tokens": 50, "interval": 0.01})
        assert reading.text == "".join(f"{number} " for number in range(50))

        async def tried() -> bool:
            return "webhook not sent, attempt 1 of 5: no answer within 1 s" in server.log()

        assert await eventually(tried, 20), server.log()
        assert f"({victim.process.pid})" in server.log()
        assert alerts(tmp_path) == [("no_heartbeat", 1)]
        assert await asyncio.to_thread(server.stop) == 0
        assert "S3CRET" not in server.log()
