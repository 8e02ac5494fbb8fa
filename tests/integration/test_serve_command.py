"""`manage.py serve`: what it says, where it listens, and what it refuses; and that plain servers refuse
the same settings."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

import psutil
import pytest

from tests.support.servers import ROOT, STOP_LIMIT, environment, free_port, migrate

pytestmark = pytest.mark.server

START_LIMIT = 60.0

REPLACE_LIMIT = 20.0
"""Seconds: ten times what a start takes, and well below uvicorn's patience with a process that is silent."""

SERVE = ("manage.py", "serve")
UVICORN = ("-m", "uvicorn", "settings.asgi:application", "--port", "0")
DAPHNE = ("-m", "daphne", "-p", "0", "settings.asgi:application")

WRONG_VALUES = {
    "AGENT_POOL_MAX_WORKERS": "0",
    "AGENT_POOL_QUEUE_SIZE": "-1",
    "KERNEL_POOL_MAX_WORKERS": "abc",
    "KERNEL_POOL_QUEUE_SIZE": "1000000",
    "AGENT_POOL_PER_OWNER": "1.5",
    "BUFFER_FLUSH_INTERVAL": "10",
    "SSE_RETRY": "NaN",
    "SERVER_MAX_BODY_BYTES": "null",
    "ALLOW_ANONYMOUS": "perhaps",
}

UNSAFE = {
    "DEBUG": "true",
    "SECRET_KEY": "only-for-tests-" + "x" * 40,
    "ALLOWED_HOSTS": "*",
    "SECURE_COOKIES": "false",
    "ALLOW_ANONYMOUS": "true",
}
"""Fine on a developer's own machine."""

EXPECTED_RANGES = {
    "AGENT_POOL_MAX_WORKERS": ">= 1",
    "AGENT_POOL_QUEUE_SIZE": ">= 0",
    "KERNEL_POOL_MAX_WORKERS": "Expected `int`",
    "KERNEL_POOL_QUEUE_SIZE": "<= 100000",
    "AGENT_POOL_PER_OWNER": "Expected `int`",
    "BUFFER_FLUSH_INTERVAL": "<= 1",
    "SSE_RETRY": "Expected `float`",
    "SERVER_MAX_BODY_BYTES": "Expected `int`",
    "ALLOW_ANONYMOUS": "false, loopback, true",
}


def _environment(folder: Path) -> dict[str, str]:
    """With a database of its own, and without PYTHONUNBUFFERED: the command must see to that by itself."""
    made = environment(folder)
    del made["PYTHONUNBUFFERED"]
    migrate(made)
    return made


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return _environment(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def served(env: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What `serve` with HOST and PORT from the environment printed to a pipe, and the URL it serves at."""
    port = free_port()
    public = {
        "HOST": "0.0.0.0",  # noqa: S104 (what a container uses)
        "PORT": str(port),
        "ALLOW_ANONYMOUS": "true",
        "AGENT_POOL_PER_OWNER": "100000",
        "SERVER_TIMEOUT_KEEP_ALIVE": "1",
    }
    process = _start(SERVE, env | public)
    try:
        yield _read_until(process, "curl"), f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP_LIMIT)
        _output(process).close()


def test_it_listens_at_host_and_port_of_the_environment(served: tuple[str, str]):
    printed, url = served
    assert url in printed
    assert urllib.request.urlopen(f"{url}/healthz").status == 200  # noqa: S310


def test_it_warns_of_what_is_allowed_and_unwise_in_public(served: tuple[str, str]):
    lines = served[0].splitlines()
    for check in ("streaming.W013", "streaming.W014"):
        assert len([line for line in lines if check in line]) == 1


def test_an_idle_connection_is_kept_for_its_time_and_closed_after_it(served: tuple[str, str]):
    connection = http.client.HTTPConnection(served[1].removeprefix("http://"), timeout=START_LIMIT)
    with closing(connection):
        asked = time.monotonic()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        assert connection.sock is not None, "it is kept"
        assert connection.sock.recv(1) == b"", "nothing more comes"
        assert time.monotonic() - asked >= 1, "not before"


def test_it_says_which_event_loop_runs(served: tuple[str, str]):
    assert re.search(r"uvicorn, httptools, (uvloop|asyncio) event loop", served[0])


def test_its_curl_line_works(served: tuple[str, str]):
    printed, url = served
    line = next(line for line in printed.splitlines() if line.strip().startswith("curl"))
    words = shlex.split(line)
    assert words[:2] == ["curl", "-N"]
    target = next(word for word in words if word.startswith("http"))
    assert target == f"{url}/content/generate/stream/async"
    body = words[words.index("-d") + 1].encode()
    name, value = words[words.index("-H") + 1].split(": ")
    request = urllib.request.Request(target, body, {name: value})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        beginning = response.read(600).decode(errors="ignore")
    assert beginning.startswith("retry: 2000\n\nevent: status\n")
    assert "event: content" in beginning


def test_an_option_beats_the_environment_and_any_port_will_do(env: dict[str, str]):
    process = _start((*SERVE, "--port", "0"), env | {"PORT": "1"})
    try:
        printed = _read_until(process, "curl")
        url = re.search(r"http://127\.0\.0\.1:(\d+)", printed)
        assert url is not None
        assert int(url[1]) > 1024
        assert urllib.request.urlopen(f"{url[0]}/healthz").status == 200  # noqa: S310
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_LIMIT) == 0, "Ctrl-C is no failure"
        assert "Traceback" not in _output(process).read().decode()
    finally:
        process.kill()
        process.wait(STOP_LIMIT)
        _output(process).close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_the_first_line_is_not_lost(env: dict[str, str], number: int):
    process = _start((*SERVE, "--port", "0"), env)
    try:
        _read_until(process, "Sluice serves")
        process.send_signal(number)
        assert process.wait(STOP_LIMIT) == 0
    finally:
        process.kill()
        process.wait(STOP_LIMIT)
        _output(process).close()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """What `serve --workers 2` printed at its start, and where it serves. At last it ends in order.

    Its output goes to a file: it goes on while its lines of access fill more than a pipe that nobody reads,
    and a process that waits for room in a pipe hears no signal.
    """
    folder = tmp_path_factory.mktemp("several")
    output = folder / "output"
    with output.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, *SERVE, "--port", "0", "--workers", "2"],
            cwd=ROOT,
            env=_environment(folder) | {"SSE_DRAIN_GRACE": "30"},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + START_LIMIT
        while not re.search(r"curl.*\n", output.read_text()):
            assert time.monotonic() < until, output.read_text()
            assert process.poll() is None, output.read_text()
            time.sleep(0.05)
        printed = output.read_text()
        url = re.search(r"http://127\.0\.0\.1:\d+", printed)
        assert url is not None
        yield printed, url[0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_LIMIT) == 0
        assert "Traceback" not in output.read_text()
    finally:
        if process.poll() is None:
            # Killed, it would leave its processes behind.
            children = psutil.Process(process.pid).children()
            process.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.wait(STOP_LIMIT)


def test_several_processes_share_the_port_and_one_that_dies_is_replaced(several: tuple[str, str]):
    printed, url = several
    assert "2 processes: workers are of each" in printed
    first = _pids(url, set())
    os.kill(min(first), signal.SIGKILL)
    second = _pids(url, {min(first)})
    assert max(first) in second


def test_one_process_is_replaced_while_its_readers_go_on(several: tuple[str, str]):
    """A process that is told to stop sends its readers to the others; the one that replaces it is ready."""
    brief = {"user_id": "reader", "topic": "restart", "provider": "scripted"}
    script = {"options": {"tokens": 60, "interval": 0.05}}
    _, url = several
    first = _pids(url, set())
    body = json.dumps(brief | script).encode()
    call = urllib.request.Request(  # noqa: S310
        f"{url}/content/generate/stream/async", body, {"Content-Type": "application/json"}
    )
    streams = [urllib.request.urlopen(call, timeout=60) for _ in range(2)]  # noqa: S310
    os.kill(min(first), signal.SIGTERM)
    second = _pids(url, {min(first)})
    assert max(first) in second
    for stream in streams:
        with stream:
            assert b"event: complete" in stream.read()


TUNED = """
import asyncio, gc, os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings.settings"
from streaming import served
from streaming.management.commands.serve import _config
from streaming.signals import starting
config = _config(2)
config.load()
asyncio.run(starting.asend(None, http=True))
print(config.app, gc.get_threshold() == served.COLLECT_AFTER, gc.get_freeze_count() > 10_000)
"""


def test_each_of_several_processes_is_tuned(env: dict[str, str]):
    """What each of them imports, and then hears."""
    code, printed = _run(("-c", TUNED), env)
    assert (code, printed.splitlines()[-1]) == (0, "streaming.served:application True True")


def test_a_process_that_ends_is_missed_at_once(several: tuple[str, str]):
    """Also by a parent that asks it for a sign of life in that very moment."""
    _, url = several
    now = _pids(url, set())
    for _ in range(4):
        gone = min(now)
        os.kill(gone, signal.SIGTERM)
        now = _pids(url, {gone}, REPLACE_LIMIT)


def _pids(url: str, dead: set[int], seconds: float = START_LIMIT) -> set[int]:
    """The two processes that serve there, once none of them is one of the dead."""
    until = time.monotonic() + seconds
    found: set[int] = set()
    while time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(f"{url}/stats", timeout=5) as answer:  # noqa: S310
            found = {each["pid"] for each in json.load(answer)["processes"]}
            if len(found) == 2 and not found & dead:
                return found
        time.sleep(0.1)
    raise AssertionError(f"{found} and not two processes but {dead}")


ONE_BY_ONE = """
import contextlib, io, json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings.settings"
from django.core.management import execute_from_command_line
seen = {}
for name, options in json.loads(sys.argv[1]).items():
    code, told = 0, io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            execute_from_command_line(["manage.py", "serve", *options])
        except SystemExit as exit:
            code = exit.code
    seen[name] = [code, told.getvalue()]
print(json.dumps(seen))
"""
"""`manage.py serve` with each of several options, all in one process: exit codes, and what was printed."""


def test_what_it_refuses(env: dict[str, str]):
    """All of these end by themselves, so they run side by side."""
    with socket.socket() as taken, ThreadPoolExecutor(3) as pool:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        relation = env | {"SSE_HEARTBEAT_INTERVAL": "90", "SSE_CONNECTION_TIMEOUT": "60"}
        behind = {"TRUSTED_PROXIES": "127.0.0.1"}
        options = {
            "taken port": ("--port", port),
            "impossible port": ("--port", "70000"),
            "no workers": ("--workers", "0"),
            "unknown host": ("--host", "nowhere.invalid"),
        }
        runs = {
            "unsafe": pool.submit(_run, (*SERVE, "--host", "0.0.0.0"), env | UNSAFE),  # noqa: S104
            "unsafe behind a proxy": pool.submit(_run, SERVE, env | UNSAFE | behind),
        }
        one_by_one = pool.submit(_run, ("-c", ONE_BY_ONE, json.dumps(options)), env)
        runs["serve, relation"] = pool.submit(_run, SERVE, relation)
        for name, command in (("serve", SERVE), ("uvicorn", UVICORN), ("daphne", DAPHNE)):
            runs[f"{name}, values"] = pool.submit(_run, command, env | WRONG_VALUES)
        seen = {name: run.result() for name, run in runs.items()}
        code, printed = one_by_one.result()
        assert code == 0, printed
        seen |= {name: tuple(each) for name, each in json.loads(printed.splitlines()[-1]).items()}

    for name, (code, printed) in seen.items():
        assert code != 0, (name, printed)
        if not name.startswith(("uvicorn", "daphne")):
            assert code == 1, (name, printed)
            assert "Traceback" not in printed, (name, printed)
        if "values" in name:
            for variable, value in WRONG_VALUES.items():
                line = next((each for each in printed.splitlines() if variable in each), None)
                assert line is not None, (name, variable, printed)
                assert EXPECTED_RANGES[variable] in line, (name, line)
                assert value in line or value in ("NaN", "null"), (name, line)
            assert "docs/settings.md" in printed
        if "relation" in name:
            assert "SSE_HEARTBEAT_INTERVAL" in printed, (name, printed)
            assert "SSE_CONNECTION_TIMEOUT" in printed, (name, printed)
    assert f"cannot listen on 127.0.0.1:{port}" in seen["taken port"][1]
    assert "70000" in seen["impossible port"][1]
    assert "nowhere.invalid" in seen["unknown host"][1]
    assert "expected at least 1" in seen["no workers"][1]
    for name in ("unsafe", "unsafe behind a proxy"):
        for check in ("streaming.E008", "streaming.E009", "streaming.E010", "streaming.E011"):
            assert check in seen[name][1]
        assert "streaming.W013" not in seen[name][1], "a warning is no reason to refuse"
    assert "TRUSTED_PROXIES" in seen["unsafe behind a proxy"][1]


def _start(command: tuple[str, ...], env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _run(command: tuple[str, ...], env: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=START_LIMIT,
        check=False,
    )
    return done.returncode, done.stdout.decode()


def _output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def _read_until(process: subprocess.Popen[bytes], word: str) -> str:
    """What a server prints to its pipe while it runs, up to the line with `word`."""
    output = _output(process)
    os.set_blocking(output.fileno(), False)
    printed = b""
    deadline = time.monotonic() + START_LIMIT
    while word.encode() not in printed or not printed.endswith(b"\n"):
        assert time.monotonic() < deadline, printed
        assert process.poll() is None, printed
        printed += output.read() or b""
        time.sleep(0.02)
    os.set_blocking(output.fileno(), True)
    return printed.decode()
