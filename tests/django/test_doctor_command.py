"""`manage.py doctor` and `manage.py loadtest`: what they do not take, and never show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from django.core.management import CommandError, call_command

from streaming.doctor.client import Target, observe
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
