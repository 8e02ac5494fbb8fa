"""`manage.py doctor` and `manage.py loadtest`: what they do not take, and never show."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from django.core.management import CommandError, call_command

from streaming.core.diagnosis import Observation, Severity
from streaming.doctor import rounds
from streaming.doctor.client import Target, observe
from streaming.doctor.rounds import Monitor, examine
from streaming.management.arguments import key_of

NOWHERE = "http://127.0.0.1:1"


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """The address of somebody who answers every call with just that."""
    gone = asyncio.Event()

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        gone.set()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await gone.wait()


@pytest.mark.parametrize(
    "key", ["slc_SECRET\rx", "slc_SECRET x", "slc_SECRET\0", "ключ-SECRET", "SECRET\x7f"]
)
@pytest.mark.parametrize("command", ["doctor", "loadtest"])
def test_a_key_that_no_header_may_carry_is_refused_and_not_shown(command, key):
    with pytest.raises(CommandError) as refused:
        call_command(command, NOWHERE, key=key)
    assert "--key" in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_white_space_around_a_key_is_the_shells():
    assert key_of(" slc_x\r\n") == "slc_x"
    assert key_of("") == ""


async def test_what_could_not_be_sent_is_not_told():
    async with answering(b"") as url:
        seen = await observe(Target(base=url, key="SECRET\r", patience=5.0))
    assert seen.failure is not None
    assert seen.failure.detail == "LocalProtocolError"
    assert "SECRET" not in repr(seen)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e9])
@pytest.mark.parametrize("option", ["every", "timeout"])
def test_seconds_are_finite_and_bounded(option, value):
    with pytest.raises(CommandError, match=f"--{option}"):
        call_command("doctor", NOWHERE, watch=True, **{option: value})


def stream(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream", b"Connection: close", *headers]
    return b"\r\n".join([*lines, b"", body])


@pytest.mark.parametrize(
    "data",
    [
        b"[1,2]",
        b"7",
        b"null",
        b"hello",
        b"[" * 50_000,
        b'{"sent_at":"x"}',
        b'{"sent_at":true}',
        b'{"sent_at":1e308}',
        b'{"sent_at":1,"data":[]}',
        b'{"sent_at":1,"data":{"sequence":1,"of":2,"late_ms":0}}',
        b'{"sent_at":1,"data":{"sequence":1,"of":2,"late_ms":"x","made_at":1}}',
        b'{"sent_at":1,"data":{"sequence":1,"of":1000000000000,"late_ms":1,"made_at":1}}',
        b'{"timing":"x"}',
        b'{"timing":{"first_content_ms":[]}}',
    ],
)
async def test_an_event_that_no_sluice_sends_is_not_sluice(data):
    name = b"complete" if b"timing" in data else b"result"
    async with answering(stream(b"event: " + name + b"\ndata: " + data + b"\n\n")) as url:
        made = await examine(Target(base=url, patience=10.0))
    assert (made.diagnosis.codes, made.diagnosis.severity) == (["not_sluice"], Severity.BROKEN)


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip", b"deflate", b"rot13"])
async def test_what_is_not_encoded_as_it_says_is_undecodable(encoding):
    body = stream(b"not encoded at all, not at all", b"Content-Encoding: " + encoding)
    async with answering(body) as url:
        made = await examine(Target(base=url, patience=10.0))
    assert (made.diagnosis.codes, made.diagnosis.severity) == (["undecodable"], Severity.BROKEN)


async def test_a_monitor_goes_on_after_an_error_of_its_own(monkeypatch, caplog):
    async def observed(target: Target, **_options: object) -> Observation:
        raise RuntimeError("planted")

    def report(value: float, words: str) -> None:
        reported.append((value, words))
        raise RuntimeError("planted, too")

    monkeypatch.setattr(rounds, "observe", observed)
    told: list[list[str]] = []
    reported: list[tuple[float, str]] = []
    stop = asyncio.Event()

    def tell(made: rounds.Round) -> None:
        told.append(made.diagnosis.codes)
        if len(told) == 2:
            stop.set()

    # It logs three tracebacks, which nobody needs to see.
    monkeypatch.setattr(rounds.logger, "propagate", False)
    monkeypatch.setattr(rounds.logger, "handlers", [caplog.handler])
    with caplog.at_level(logging.ERROR):
        severity = await Monitor(Target(base=NOWHERE), 0.01, report=report).run(tell, stop)
    assert severity is Severity.BROKEN
    assert told == [["doctor_failed"]] * 2
    assert reported[0][0] == 2
    assert "RuntimeError" in reported[0][1]
    assert caplog.text.count("an error of the doctor's own") == 2
