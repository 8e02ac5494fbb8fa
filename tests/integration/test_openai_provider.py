"""The provider `openai` over real connections to a model service that misbehaves in every known way."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.test import override_settings

from contentgen.brief import Brief
from contentgen.conf import service
from contentgen.providers import openai
from contentgen.secrecy import tells
from contentgen.upstream import Upstream, close_upstream, upstream, warm
from streaming import Content, Finish
from streaming.core.errors import GenerationError
from tests.support.servers import free_port
from tests.support.upstream import BEHAVIOURS, KEY, TEXT, ModelService, model_service

LIMITS: dict[str, Any] = {
    "connect_timeout": 2,
    "first_token_timeout": 2,
    "token_timeout": 0.6,
    "max_connections": 5,
    "keepalive": 60,
    "retries": 2,
}


@pytest.fixture
async def fake() -> AsyncIterator[ModelService]:
    """A model service, and the settings that lead to it."""
    async with model_service() as made:
        with settings_for(made.base):
            yield made
            await close_upstream()
            await made.until(lambda: made.open == 0)


def settings_for(base: str, **config: Any) -> override_settings:
    return override_settings(
        OPENAI_API_KEY=KEY,
        OPENAI_API_BASE=base,
        OPENAI_MODEL="good",
        OPENAI_MODELS=list(BEHAVIOURS),
        OPENAI_CONFIG=LIMITS | config,
    )


def brief(model: str = "good", **members: Any) -> Brief:
    return Brief(user_id="u", topic="咖啡", language="zh", provider="openai", model=model, **members)


def way() -> Upstream:
    found = upstream()
    assert found is not None
    return found


async def read(model: str = "good", **members: Any) -> list[Any]:
    return [part async for part in openai.write(brief(model, **members))]


async def read_failing(model: str) -> tuple[str, str, GenerationError]:
    """Text that came, its error's code, and the error."""
    parts: list[Any] = []
    with pytest.raises(GenerationError) as caught:
        await collect(openai.write(brief(model)), parts)
    return text_of(parts), caught.value.code, caught.value


async def collect(source: AsyncIterator[Any], parts: list[Any]) -> None:
    async for part in source:
        parts.append(part)


def text_of(parts: list[Any]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


# --- Answers that are whole ----------------------------------------------------------------------------


WHOLE = [
    "good",
    "no-done",
    "done-only",
    "done-and-open",
    "finished-and-open",
    "finished-and-alive",
    "finished-and-cut",
    "one-byte",
    "events-as-json",
    "comment-as-json",
]


@pytest.mark.parametrize("model", WHOLE)
async def test_a_whole_answer_is_exact_and_says_how_it_ended(fake: ModelService, model: str):
    parts = await read(model)
    assert text_of(parts) == TEXT
    assert isinstance(parts[-1], Finish)
    assert (parts[-1].finish_reason, parts[-1].model) == ("stop", "fake-1")


@pytest.mark.parametrize("model", ["finished-and-open", "finished-and-alive"])
async def test_what_has_ended_is_not_waited_for(fake: ModelService, model: str):
    with settings_for(fake.base, token_timeout=3_600):
        async with asyncio.timeout(20):
            assert text_of(await read(model)) == TEXT
        await close_upstream()


async def test_a_service_that_names_no_model_used_the_one_that_was_asked_for(fake: ModelService):
    assert (await read("nameless"))[-1] == Finish(finish_reason="stop", model="nameless")


async def test_usage_comes_in_a_chunk_without_choices_and_is_counts_only(fake: ModelService):
    finish = (await read())[-1]
    assert finish.usage == {"prompt_tokens": 7, "completion_tokens": 6}


async def test_a_server_that_does_not_stream_is_understood(fake: ModelService):
    thought, text, finish = await read("no-stream")
    assert thought == Content(delta="hm", channel="reasoning")
    assert text == TEXT
    assert finish == Finish(finish_reason="stop", usage={"completion_tokens": 6}, model="fake-1")


async def test_reasoning_has_its_own_channel(fake: ModelService):
    parts = await read("reasoning")
    thoughts = [part.delta for part in parts if isinstance(part, Content) and part.channel == "reasoning"]
    assert (thoughts, text_of(parts)) == (["let me ", "think"], TEXT)


# --- The request ---------------------------------------------------------------------------------------


async def test_the_request_says_what_is_wanted(fake: ModelService):
    await read("good", max_tokens=77)
    (request,) = fake.chats
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["user-agent"].startswith("Sluice/")
    assert [message["role"] for message in request.body["messages"]] == ["system", "user"]
    assert "咖啡" in request.body["messages"][1]["content"]
    assert {name: value for name, value in request.body.items() if name != "messages"} == {
        "model": "good",
        "max_tokens": 77,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_server_that_does_not_know_stream_options_is_asked_without_them(fake: ModelService):
    assert text_of(await read("no-stream-options")) == TEXT
    assert text_of(await read("no-stream-options")) == TEXT
    assert ["stream_options" in request.body for request in fake.chats] == [True, False, False]


# --- One code for each failure -------------------------------------------------------------------------

BEGINNING = "你好，世界 "

FAILURES = {
    "no-end": (TEXT, "upstream_truncated"),
    "cut-mid-way": (BEGINNING, "upstream_truncated"),
    "reset-mid-way": (BEGINNING, "upstream_truncated"),
    "reset-before-header": ("", "upstream_failed"),
    "cut-before-token": ("", "upstream_failed"),
    "hang-in-the-middle": (BEGINNING, "upstream_timeout"),
    "redirect": ("", "upstream_failed"),
    "broken-json": (BEGINNING, "upstream_failed"),
    "broken-json-at-once": (BEGINNING, "upstream_failed"),
    "error-frame": (BEGINNING, "upstream_failed"),
    "error-frame-limit": (BEGINNING, "upstream_rate_limited"),
    "error-frame-auth": ("", "upstream_auth"),
    "huge-event": (BEGINNING, "upstream_failed"),
    "huge-whole": ("", "upstream_failed"),
    "html": ("", "upstream_failed"),
    "status-400": ("", "upstream_rejected"),
    "status-401": ("", "upstream_auth"),
    "status-403": ("", "upstream_auth"),
    "status-404": ("", "upstream_rejected"),
    "status-408": ("", "upstream_failed"),
    "status-409": ("", "upstream_failed"),
    "status-425": ("", "upstream_failed"),
    "status-520": ("", "upstream_failed"),
    "status-422": ("", "upstream_rejected"),
    "status-429": ("", "upstream_rate_limited"),
    "status-500": ("", "upstream_failed"),
    "status-503": ("", "upstream_failed"),
    "wait-an-hour": ("", "upstream_rate_limited"),
    "wait-for-years": ("", "upstream_failed"),
}


@pytest.mark.parametrize("model", FAILURES)
async def test_a_failure_has_one_code_and_what_came_before_is_delivered(fake: ModelService, model: str):
    with settings_for(fake.base, max_connections=1):
        text, code, error = await read_failing(model)
        assert (text, code) == FAILURES[model]
        assert KEY not in str(error)
        assert "\n" not in str(error)
        assert text_of(await read()) == TEXT, "the only connection is free again"
        await close_upstream()


@pytest.mark.parametrize("model", ["hang-before-header", "hang-before-token"])
async def test_a_hang_before_the_first_token_ends_at_its_limit(fake: ModelService, model: str):
    with settings_for(fake.base, first_token_timeout=0.3):
        assert (await read_failing(model))[:2] == ("", "upstream_timeout")
        assert len(fake.chats) == 1
        await fake.until(lambda: fake.open == 0)
        await close_upstream()


async def test_nobody_listens(fake: ModelService):
    with settings_for(f"http://127.0.0.1:{free_port()}/v1"):
        assert (await read_failing("good"))[:2] == ("", "upstream_failed")
        await close_upstream()


async def test_a_redirect_is_not_followed(fake: ModelService):
    _, _, error = await read_failing("redirect")
    assert "redirect" in str(error)
    assert [request.path for request in fake.requests] == ["/v1/chat/completions"]


async def test_the_words_of_a_refusal_are_kept_without_the_key(fake: ModelService):
    _, _, error = await read_failing("status-404")
    assert (str(error), error.detail) == ("status 404", "no: [key] line two")
    _, _, error = await read_failing("key-in-page")
    assert str(error).startswith("status 502: ")
    assert str(error).endswith(" bytes, text/html")
    assert error.detail == ""


async def test_a_service_that_speaks_no_http_is_not_quoted(fake: ModelService):
    _, code, error = await read_failing("repeats-the-prompt-as-header")
    assert (code, str(error)) == ("upstream_failed", "no answer: RemoteProtocolError")


@pytest.mark.parametrize("key", [KEY, "sk-proj-Ab/cD" + "0123456789Xy" * 12])
async def test_a_key_in_another_writing_is_nowhere(
    fake: ModelService, key: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    with settings_for(fake.base), override_settings(OPENAI_API_KEY=key):
        told = [
            f"{error} {error.detail}"
            for name in ("key-in-type", "key-in-page", "key-in-base64")
            for error in [(await read_failing(name))[2]]
        ]
        finish = (await read("key-in-names"))[-1]
        await close_upstream()
    assert finish == Finish(finish_reason="unknown", usage={"total_tokens": 2}, model="fake-1")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("contentgen")]
    for text in (*told, *ours):
        assert not tells(text, key), text


@pytest.mark.parametrize("model", ["repeats-the-key", "repeats-the-key-for-ever"])
@pytest.mark.parametrize("key", [KEY, "sk-" + "0123456789" * 40])
async def test_a_key_that_the_service_repeats_is_in_no_log(
    fake: ModelService, model: str, key: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    with settings_for(fake.base), override_settings(OPENAI_API_KEY=key):
        _, code, error = await read_failing(model)
        assert key not in repr(service())
        await close_upstream()
    assert code == "upstream_auth"
    assert "[key]" in error.detail or "more than 8192 bytes" in str(error)
    for text in (str(error), error.detail, caplog.text):
        assert key[:10] not in text


RETRIED = [
    ("status-500", 3),
    ("status-408", 3),
    ("status-409", 3),
    ("status-425", 3),
    ("status-520", 3),
    ("status-529", 3),
    ("status-404", 1),
    ("cut-mid-way", 1),
]

# --- Retries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["twice-429", "twice-500", "reset-twice"])
async def test_what_may_pass_is_tried_again(fake: ModelService, model: str):
    assert text_of(await read(model)) == TEXT
    assert len(fake.chats) == 3


@pytest.mark.parametrize(("model", "requests"), RETRIED)
async def test_tries_are_counted_and_stop_at_the_first_token(fake: ModelService, model: str, requests: int):
    await read_failing(model)
    assert len(fake.chats) == requests


@pytest.mark.parametrize("model", ["wait-an-hour", "wait-for-years"])
async def test_a_wait_beyond_the_limit_is_not_waited_for(fake: ModelService, model: str):
    await read_failing(model)
    assert len(fake.chats) == 1


async def test_without_retries_the_first_failure_counts(fake: ModelService):
    with settings_for(fake.base, retries=0):
        await read_failing("twice-500")
        await close_upstream()
    assert len(fake.chats) == 1


async def test_a_connection_that_went_stale_costs_no_try(fake: ModelService):
    with settings_for(fake.base, retries=0):
        assert text_of(await read("stale-once")) == TEXT
        await way().settled()
        assert text_of(await read("stale-once")) == TEXT
        assert [request.connection for request in fake.chats] == [1, 1, 2]
        await close_upstream()


# --- Connections ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["good", "no-done", "no-stream", "one-byte", "status-404"])
async def test_a_connection_is_used_again(fake: ModelService, model: str):
    for _ in range(3):
        if model in FAILURES:
            await read_failing(model)
        else:
            await read(model)
        await way().settled()
    assert (len(fake.chats), fake.opened) == (3, 1)


@pytest.mark.parametrize(
    "model", ["cut-mid-way", "broken-json", "error-frame", "huge-event", "done-and-open"]
)
async def test_a_connection_in_doubt_is_closed(fake: ModelService, model: str):
    if model in FAILURES:
        await read_failing(model)
    else:
        await read(model)
    await fake.until(lambda: fake.open == 0, 1)


async def test_warming_opens_the_connection_that_the_first_text_uses(fake: ModelService):
    warm()
    warm()
    await way().settled()
    assert (fake.opened, [request.path for request in fake.requests]) == (1, ["/v1/models"])
    await read()
    await way().settled()
    warm()
    await way().settled()
    assert fake.opened == 1
    assert len(fake.requests) == 2, "a fresh connection needs no warming"


async def test_warming_does_not_make_a_text_wait(fake: ModelService):
    fake.lists_models = False
    with settings_for(fake.base, max_connections=1, connect_timeout=60, first_token_timeout=20):
        warm()
        await fake.until(lambda: len(fake.requests) == 1)
        assert text_of(await read()) == TEXT
        await way().settled()
        assert text_of(await read()) == TEXT
        await close_upstream()


async def test_who_has_no_connection_to_spare_is_not_warmed(fake: ModelService):
    with settings_for(fake.base, max_connections=1):
        async with aclosing(openai.write(brief("endless"))) as parts:
            await anext(parts)
            warm()
            await asyncio.sleep(0)
        await way().settled()
        assert [request.path for request in fake.requests] == ["/v1/chat/completions"]
        await close_upstream()


async def test_warming_that_was_given_up_before_it_began_can_be_tried_again(
    fake: ModelService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("contentgen.upstream.WARM_FOR", 0.0)
    with settings_for(fake.base, max_connections=1, first_token_timeout=20):
        way()
        texts = [asyncio.create_task(read()) for _ in range(2)]
        warm()
        await asyncio.gather(*texts)
        await way().settled()
        assert len(fake.requests) == len(fake.chats) == 2
        warm()
        await way().settled()
        assert fake.requests[-1].path == "/v1/models"
        await close_upstream()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("HTTP_PROXY", "ftp://x"),
        ("SSL_CERT_FILE", "/nonexistent.pem"),
    ],
)
async def test_an_environment_without_a_client_stops_no_page_and_each_text_says_why(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, value)
    with settings_for("https://models.test/v1"):
        warm()
        _, code, error = await read_failing("good")
    assert code == "upstream_failed"
    assert variable in str(error)


async def test_a_service_on_this_machine_may_have_its_own_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    certificate = own_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")
    async with model_service(tls) as made:
        with settings_for(made.base):
            assert text_of(await read()) == TEXT
            await close_upstream()


def own_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody else signed, with its key, in one file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "own.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM) + key.private_bytes(*plain))
    return path


async def test_warming_tells_once_that_it_failed(fake: ModelService, caplog: pytest.LogCaptureFixture):
    with settings_for(f"http://127.0.0.1:{free_port()}/v1"):
        for _ in range(2):
            warm()
            await way().settled()
        await close_upstream()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "does not answer" in warnings[0].getMessage()


def test_warming_without_a_service_or_a_loop_does_nothing():
    warm()
    with settings_for("http://127.0.0.1:1/v1"):
        warm()


async def test_who_stops_reading_closes_the_connection(fake: ModelService):
    async with aclosing(openai.write(brief("endless"))) as parts:
        assert await anext(parts) == "word "
        assert fake.open == 1
    await fake.until(lambda: fake.open == 0, 1)
    assert fake.left_early == 1


@pytest.mark.parametrize("model", ["endless", "hang-before-header", "hang-before-token"])
async def test_a_cancel_closes_the_connection_at_once(fake: ModelService, model: str):
    with settings_for(fake.base, max_connections=1):
        task = asyncio.create_task(read(model))
        await fake.until(lambda: len(fake.chats) == 1)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        await fake.until(lambda: fake.open == 0, 1)
        assert text_of(await read()) == TEXT, "the only connection is free again"
        await close_upstream()


async def test_more_texts_than_connections_wait_for_each_other(fake: ModelService):
    with settings_for(fake.base, max_connections=2, first_token_timeout=20):
        texts = await asyncio.gather(*(read("slow-start") for _ in range(12)))
        assert [text_of(parts) for parts in texts] == [TEXT] * 12
        assert fake.opened <= 2
        await close_upstream()


async def test_two_loops_have_connections_of_their_own(fake: ModelService):
    def elsewhere() -> list[Any]:
        async def once() -> list[Any]:
            try:
                return await read()
            finally:
                await close_upstream()

        return asyncio.run(once())

    here = await read()
    there = await asyncio.to_thread(elsewhere)
    assert text_of(here) == text_of(there) == TEXT
    assert fake.opened == 2


@pytest.mark.load
@pytest.mark.timeout(180)
async def test_a_storm_of_cancels_loses_no_connection_and_no_permit(fake: ModelService):
    """R18: 20 tasks, 5 connections, 10,000 cancels at 0 to 20 ms, some of them twice."""
    chance = random.Random(18)
    left = 10_000

    async def churn() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            task = asyncio.create_task(read(chance.choice(["slow-start", "endless", "good"])))
            await asyncio.sleep(chance.uniform(0, 0.02))
            task.cancel()
            if chance.random() < 0.2:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait({task})
            assert task.cancelled() or task.exception() is None

    await asyncio.gather(*(churn() for _ in range(20)))
    await way().settled()
    texts = await asyncio.gather(*(read("slow-start") for _ in range(5)))
    assert [text_of(parts) for parts in texts] == [TEXT] * 5
    await way().settled()
    await fake.until(lambda: fake.open <= LIMITS["max_connections"])
    # All permits are there: as many texts as connections can be under way at once.
    before = len(fake.chats)
    running = [asyncio.create_task(read("hang-before-header")) for _ in range(LIMITS["max_connections"])]
    await fake.until(lambda: len(fake.chats) - before == LIMITS["max_connections"])
    for task in running:
        task.cancel()
    await asyncio.wait(running)
