"""The benchmark of streams: what could go wrong in it unseen. Its figures are no test's affair."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.streams import client, run, scenarios, servers
from benchmarks.streams.catalogue import PEERS
from benchmarks.streams.client import STAMP, Failed
from benchmarks.streams.peers import script
from benchmarks.streams.scenarios import SCENARIOS, Case, Scenario, Sizes
from contentgen.brief import Brief
from contentgen.providers import scripted
from contentgen.script import ScriptedOptions
from streaming import Finish

NO_COMPILER = shutil.which(client.COMPILER) is None

compiles = pytest.mark.skipif(NO_COMPILER, reason="there is no C compiler")

METHOD = {"repetitions": 1}


def names(case):
    """Everybody who is measured in it."""
    return (*case.peers, *case.seldom)


# --- Requests, peers and scripts ----------------------------------------------------------------------


def test_a_request_says_its_length_and_leaves_room_for_the_moment_of_sending():
    head, body = client.request({"tokens": 3, "start_at": None}, {"Authorization": "Bearer x"}).split(
        b"\r\n\r\n"
    )
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Authorization: Bearer x" in head
    filled = json.loads(body.replace(STAMP.encode(), b"1700000000.000001"))
    assert filled["options"] == {"tokens": 3, "start_at": 1700000000.000001}


def test_scenarios_name_peers_that_there_are():
    named = {name for scenario in SCENARIOS.values() for case in scenario.cases for name in names(case)}
    assert named == set(PEERS)
    for scenario in SCENARIOS.values():
        assert all(len(names(case)) == len(set(names(case))) for case in scenario.cases)


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if "uvicorn" in peer.command])
def test_the_application_of_a_peer_is_there(name):
    place = next(piece for piece in PEERS[name].command if piece.endswith(":application"))
    source = (servers.ROOT / place.split(":")[0].replace(".", "/")).with_suffix(".py").read_text()
    defined = [node for node in ast.parse(source).body if isinstance(node, ast.Assign | ast.AsyncFunctionDef)]
    names = [
        node.name if isinstance(node, ast.AsyncFunctionDef) else ast.unparse(node.targets[0])
        for node in defined
    ]
    assert "application" in names


def provided(options: dict[str, Any]) -> AsyncIterator[str | Finish]:
    """What the scripted provider makes of a script."""
    brief = Brief(user_id="u", topic="t", options=ScriptedOptions(**options))
    return cast("AsyncIterator[str | Finish]", scripted.write(brief))


def scripted_by(options: dict[str, Any]) -> script.Script:
    """The same script, for peers."""
    return script.Script(json.dumps({"options": options}).encode())


async def test_peers_stream_what_the_scripted_provider_does():
    theirs = scripted_by({"tokens": 12, "interval": 0})
    produced = [part async for part in provided({"tokens": 12, "interval": 0})]
    assert produced[:-1] == [token async for token in script.tokens(theirs)]
    assert produced[:-1] == list(script.blocking_tokens(theirs))


@pytest.mark.parametrize("of_the_provider", [True, False])
async def test_a_step_suspends_once_for_each_token_and_a_burst_never(of_the_provider):
    for step, expected in ((True, 5), (False, 0)):
        # The provider's finish is one more.
        options = {"tokens": 4 if of_the_provider else 5, "interval": 0, "step": step}
        tokens = provided(options) if of_the_provider else script.tokens(scripted_by(options))
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            counting = group.create_task(count())
            async for _ in tokens:
                pass
            counting.cancel()
        assert turns == expected


def test_due_times_count_from_a_moment_that_the_caller_names(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    theirs = script.Script(b'{"options": {"start_at": 998.5, "start_delay": 0.25}}')
    assert theirs.due() == 5.75
    assert scripted._due(ScriptedOptions(start_at=998.5, start_delay=0.25)) == 5.75
    assert scripted._due(ScriptedOptions(start_delay=0.25)) == 7.25


# --- The search for the highest load ------------------------------------------------------------------


@pytest.mark.parametrize("limit", [50, 120, 300, 1000, 1040, 1999, 3950, 4000])
@pytest.mark.parametrize("first", [50, 1000, 3333, 9999])
def test_the_highest_load_that_holds_is_found_from_anywhere(limit, first):
    tried = []

    def measure(streams):
        tried.append(streams)
        return {"late_ms": {"p99": 99.0 if streams <= limit else 101.0}}

    assert scenarios.highest(measure, 100, first)["streams"] == limit // 50 * 50
    assert len(tried) == len(set(tried)) <= 12


def test_a_failed_load_is_too_high_and_no_load_at_all_is_a_failure():
    def measure(streams):
        if streams > 200:
            raise Failed("collapsed")
        return {"late_ms": {"p99": 1.0}}

    found = scenarios.highest(measure, 100, 1000)
    assert found["streams"] == 200
    assert found["late_ms_by_streams"]["250"] is None

    def refuse(streams):
        raise Failed("refused")

    with pytest.raises(Failed, match="not even 50"):
        scenarios.highest(refuse, 100, 1000)


# --- Runs ---------------------------------------------------------------------------------------------


@contextmanager
def no_server(peer, core):
    """In place of a server process."""
    yield type("Server", (), {"peer": peer, "cpu_seconds": lambda self: 0.0})()


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Run a scenario with a measurement of the test's own; returns the record."""
    monkeypatch.setattr(run, "started", no_server)

    def measure(function, repetitions=3, peers=None, resume=False, limit=1000, seldom=()):
        case = Case(load={"n": 1}, peers=("raw", "fastapi", "sluice"), seldom=seldom)
        scenario = Scenario(name="test", measure=function, cases=(case,), repetitions=limit)
        record = run.Record.begun(tmp_path / "out.json", METHOD, resume)
        run.Run(record, [scenario], peers, repetitions, Sizes(), False, 0, 1).all()
        return json.loads((tmp_path / "out.json").read_text())

    return measure


def order(record):
    """Repetition and peer of each measurement."""
    return [(m["repetition"], m["peer"]) for m in record["measurements"]]


def test_peers_take_turns_and_each_repetition_begins_with_another(measured):
    record = measured(lambda subject, load: {"value": 1})
    assert order(record) == [
        *[(1, "raw"), (1, "fastapi"), (1, "sluice")],
        *[(2, "fastapi"), (2, "sluice"), (2, "raw")],
        *[(3, "sluice"), (3, "raw"), (3, "fastapi")],
    ]
    assert record["finished"]
    assert record["measurements"][0] == {
        "scenario": "test",
        "load": {"n": 1},
        "peer": "raw",
        "repetition": 1,
        "figures": {"value": 1},
        "failed": None,
    }


def test_a_failure_is_no_figure_and_is_not_repeated_for_ever(measured):
    def measure(subject, load):
        if subject.server.peer.name == "fastapi":
            raise Failed("it fell")
        return {"value": 1}

    record = measured(measure)
    failed = [m for m in record["measurements"] if m["failed"]]
    assert [(m["peer"], m["figures"], m["failed"]) for m in failed] == [
        ("fastapi", {}, "it fell")
    ] * run.GIVE_UP
    assert len(record["measurements"]) == 6 + run.GIVE_UP


def test_a_run_that_was_cut_goes_on(measured):
    def cut(subject, load):
        if subject.server.peer.name == "sluice":
            raise KeyboardInterrupt
        return {"value": 1}

    with pytest.raises(KeyboardInterrupt):
        measured(cut, repetitions=1)
    record = measured(lambda subject, load: {"value": 2}, repetitions=1, resume=True)
    assert [m["figures"]["value"] for m in record["measurements"]] == [1, 1, 2]


def test_only_what_was_measured_in_the_same_way_goes_on(measured, tmp_path):
    measured(lambda subject, load: {}, repetitions=1)
    with pytest.raises(ValueError, match="another way"):
        run.Record.begun(tmp_path / "out.json", {"repetitions": 9}, resume=True)


def test_peers_and_repetitions_can_be_fewer(measured):
    record = measured(lambda subject, load: {}, peers=["sluice"], limit=2)
    assert order(record) == [(1, "sluice"), (2, "sluice")]


def test_some_are_measured_seldom(measured):
    record = measured(lambda subject, load: {}, repetitions=5, seldom=("channels",))
    assert [repetition for repetition, peer in order(record) if peer == "channels"] == [1, 2, 3]
    assert len(record["measurements"]) == 5 * 3 + 3


def test_a_server_that_does_not_start_is_a_failure(measured, monkeypatch):
    @contextmanager
    def broken(peer, core):
        raise RuntimeError("no such module")
        yield

    monkeypatch.setattr(run, "started", broken)
    record = measured(lambda subject, load: {}, repetitions=1)
    assert all("no such module" in m["failed"] for m in record["measurements"])


# --- The client ---------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(*pieces: bytes) -> bytes:
    """A chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@contextmanager
def answering(answer: bytes, size: int) -> Iterator[int]:
    """A server that answers each request with `answer`, `size` bytes at a time."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while connection.recv(65536):
                    for start in range(0, len(answer), size):
                        connection.sendall(answer[start : start + size])
                    if not answer.startswith(OK) or not answer.endswith(b"0\r\n\r\n"):
                        break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def read(answer: bytes, size: int = 1 << 16) -> dict[str, Any]:
    """What the client makes of an answer that shall hold three tokens."""
    with answering(answer, size) as port:
        sent = client.request({"tokens": 3}, {})
        return client.run(port, -1, sent, mode="start", samples=2, tokens=3, pause=0, patience=5)


EVENTS = (
    b": a comment\n\nretry: 2000\n\n",
    b'event: status\ndata: {"type":"status"}\n\n',
    b'id: 1\nevent: content\ndata: {"type":"content","delta":"0 1 "}\n\n',
    b'event: content\r\ndata: {"type": "content", "delta": "2 "}\r\n\r\n',
    b'event: complete\ndata: {"type":"complete"}\n\n',
)


@compiles
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize("joined", [False, True])
def test_the_client_reads_whatever_the_pieces_are(size, joined):
    body = chunks(b"".join(EVENTS)) if joined else chunks(*EVENTS)
    result = read(OK + body, size)
    assert (result["finished"], result["total_tokens"], result["statuses"]) == (2, 6, 2)
    assert result["first_content_us"]["count"] == 2


@compiles
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"HTTP/1.1 429 Full\r\nContent-Length: 4\r\n\r\nfull", "status 429"),
        (b"not HTTP at all\r\n\r\n", "no HTTP"),
        (OK.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + chunks(*EVENTS), "encoded"),
        (OK + chunks(*EVENTS[:2], *EVENTS[3:]), "token 0 was expected"),
        (OK + chunks(*EVENTS[:3], EVENTS[2]), "token 2 was expected"),
        (OK + chunks(*EVENTS[:3], EVENTS[4]), "complete after 2 of 3"),
        (OK + chunks(*EVENTS[:4]), "without `complete`"),
        (OK + chunks(*EVENTS)[:-60], "closed by the server"),
        (OK + chunks(EVENTS[2], b"event: error\ndata: {}\n\n"), "event error after token 2"),
    ],
)
def test_whatever_is_not_whole_is_a_failure(answer, reason):
    with pytest.raises(Failed, match=reason):
        read(answer)


@compiles
@pytest.mark.server
def test_the_raw_peer_is_measured():
    server_core, client_core = run.cores()
    with servers.started(PEERS["raw"], server_core) as server:
        subject = scenarios.Subject(
            server, client_core, Sizes(window=0.5, full_speed=0.2, samples=5, warmup=1)
        )
        meter = scenarios.Meter(server)
        figures = scenarios.start(subject, {"keep_alive": False})
        assert 0 < figures["first_content_us"]["p50"] <= figures["first_content_us"]["max"]
        # Counts only: what arrives within a window depends on what else the machine does.
        paced: dict[str, Any] = {"tokens": 40, "interval": 0.02}
        result = subject.run(
            paced | {"start_at": None},
            **paced,
            mode="paced",
            connections=4,
            settle=0.2,
            seconds=0.5,
            on_mark=meter,
        )
        assert (result["finished"], result["total_tokens"]) == (4, 160)
        assert result["late_ms"]["count"] in range(4 * 24, 4 * 26 + 1)
        assert 0 <= result["late_ms"]["p50"] <= result["late_ms"]["max"]
        assert meter.cpu > 0
        burst = {"tokens": 20, "interval": 0}
        result = subject.run(burst, tokens=20, mode="loop", connections=2, seconds=0.2)
        assert result["finished"] == result["opened"] >= 2
        assert result["total_tokens"] == 20 * result["finished"]
        figures = scenarios.memory(subject, {"streams": 50})
        assert figures["pss_kib"] > 1000
        assert figures["kib_per_stream"] > 0


def test_processor_time_is_that_of_the_process_and_its_children():
    burn = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    child = f"subprocess.Popen([sys.executable, '-c', {burn + 'input()'!r}], stdin=subprocess.PIPE)"
    source = f"import subprocess, sys\n{burn}child = {child}\nprint('ready', flush=True)\ninput()\n"
    source += "child.communicate(b'x')\n"
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        server = servers.Server(PEERS["raw"], 0, process, Path(os.devnull), {})
        assert process.stdout is not None
        process.stdout.readline()
        while server.cpu_seconds() < 0.4:
            assert process.poll() is None
        assert server.pss_kib() > 1000
        process.communicate(b"\n", timeout=10)
