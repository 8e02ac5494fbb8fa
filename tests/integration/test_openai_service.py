"""The whole service with a model behind it: a real Sluice process, and a model service that misbehaves."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import pytest_asyncio

from tests.integration.conftest import assert_clean, idle
from tests.support.client import STREAM, client, eventually, read_stream, row
from tests.support.servers import ROOT, Server, environment, running
from tests.support.upstream import BEHAVIOURS, KEY, TEXT, ModelService, model_service

pytestmark = [pytest.mark.server, pytest.mark.asyncio(loop_scope="module")]

BEGINNING = "你好，世界 "


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def fake() -> AsyncIterator[ModelService]:
    async with model_service() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sluice(
    fake: ModelService, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Server, httpx2.AsyncClient]]:
    """A server with a key set and nothing else said about providers, and a client of it."""
    settings = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_API_BASE": fake.base,
        "OPENAI_MODEL": "good",
        "OPENAI_MODELS": ",".join(BEHAVIOURS),
        "OPENAI_TOKEN_TIMEOUT": "0.4",
        "OPENAI_RETRIES": "0",
        "OPENAI_MAX_CONNECTIONS": "20",
        "AGENT_POOL_MAX_WORKERS": "20",
        "AGENT_POOL_PER_OWNER": "100",
        "SSE_MAX_JOURNAL_BYTES": "1048576",
    }
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("model")
        server = await asyncio.to_thread(stack.enter_context, running("serve", folder, **settings))
        async with client(server.url) as http:
            yield server, http
        assert await asyncio.to_thread(server.stop) == 0
        await fake.until(lambda: fake.open == 0)
        assert_clean(server)
        assert KEY not in server.log()


def brief(model: str | None = None, **members: Any) -> dict[str, Any]:
    return {"user_id": "u", "topic": "coffee", **({"model": model} if model else {}), **members}


async def generate(
    http: httpx2.AsyncClient, model: str | None = None, topic: str = "coffee", **options: Any
) -> Any:
    return await read_stream(http, "POST", STREAM, json=brief(model, topic=topic), **options)


async def test_with_a_key_the_model_writes_and_the_server_says_which(fake, sluice):
    server, http = sluice
    assert f"Text by the model good at 127.0.0.1:{fake.port}." in server.log()
    await fake.until(lambda: bool(fake.requests))
    assert [request.path for request in fake.requests] == ["/v1/models"], "warmed before the first text"
    reading = await generate(http)
    assert reading.text == TEXT
    assert reading.end.name == "complete"
    assert reading.end.data["model"] == "fake-1"
    assert reading.end.data["usage"] == {"prompt_tokens": 7, "completion_tokens": 6}
    assert fake.opened == 1, "the first text used the warm connection"


async def test_without_a_key_the_offline_writer_is_announced(tmp_path: Path):
    with ExitStack() as stack:
        server = await asyncio.to_thread(stack.enter_context, running("serve", tmp_path))
        assert "Text by the offline writer: no model, no key, no network" in server.log()


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        (["manage.py", "serve", "--port", "0"], "ALL_PROXY", "socks5://127.0.0.1:1080"),
        (["-m", "daphne", "-p", "0"], "HTTP_PROXY", "ftp://proxy.test"),
        (["manage.py", "serve", "--port", "0"], "SSL_CERT_FILE", "/nonexistent.pem"),
    ],
)
async def test_no_server_starts_where_no_connection_can_be_made(
    tmp_path: Path, command: list[str], variable: str, value: str
):
    settings = {"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": "https://models.test/v1", variable: value}
    if "daphne" in command:
        command = [*command, "settings.asgi:application"]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(tmp_path, **settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "no client of the model service can be made" in done.stderr
    assert variable in done.stderr
    assert KEY not in done.stderr


async def test_reasoning_is_a_channel_of_its_own(sluice):
    _, http = sluice
    reading = await generate(http, "reasoning")
    thoughts = [event.data["delta"] for event in reading.named("content") if "channel" in event.data]
    assert ("".join(thoughts), reading.text) == ("let me think", TEXT)


@pytest.mark.parametrize(
    ("model", "text", "code", "retryable", "status"),
    [
        ("cut-mid-way", BEGINNING, "upstream_truncated", True, 502),
        ("hang-in-the-middle", BEGINNING, "upstream_timeout", True, 504),
        ("broken-json", BEGINNING, "upstream_failed", True, 502),
        ("redirect", "", "upstream_failed", True, 502),
        ("status-401", "", "upstream_auth", False, 502),
        ("status-404", "", "upstream_rejected", False, 502),
        ("status-429", "", "upstream_rate_limited", True, 502),
    ],
)
async def test_a_reader_learns_the_code_and_no_more(sluice, model, text, code, retryable, status):
    server, http = sluice
    failures = await _failures(http, code)
    reading = await generate(http, model, headers={"Accept-Language": "en"})
    assert reading.text == text
    assert (reading.end.name, reading.end.data["code"]) == ("error", code)
    assert reading.end.data["retryable"] is retryable
    assert reading.end.data["message"].startswith("The model service ")
    whole = await http.post("/content/generate", json=brief(model))
    assert (whole.status_code, whole.json()["code"]) == (status, code)
    record = row(server, "id", reading.response.headers["x-stream-id"])
    for told in (str(reading.end.data), whole.text, str(record)):
        assert KEY not in told
        assert "127.0.0.1" not in told
    assert await _failures(http, code) == failures + 2


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("repeats-the-prompt", "status 400: content_policy_violation, invalid_request_error"),
        ("repeats-the-prompt-at-once", "upstream_failed: the service reports an error"),
        ("repeats-the-prompt-as-header", "upstream_failed: no answer: RemoteProtocolError"),
    ],
)
async def test_a_prompt_that_the_model_service_repeats_is_in_no_log(sluice, model, said):
    server, http = sluice
    reading = await generate(http, model, topic="GEHEIMTHEMA")
    assert reading.end.name == "error"
    task_id = reading.response.headers["x-stream-id"]

    async def logged() -> bool:
        return f"task {task_id}: " in server.log()

    await eventually(logged)
    (line,) = [line for line in server.log().splitlines() if f"task {task_id}: " in line]
    assert said in line
    record = row(server, "id", task_id)
    assert record is not None
    assert "GEHEIMTHEMA" in record["error_detail"], "who may read contents finds it there"
    assert "GEHEIMTHEMA" not in str(reading.end.data) + record["error_message"]
    public = (await http.get(f"/streams/{task_id}")).text
    assert "GEHEIMTHEMA" not in public
    assert (await http.delete(f"/streams/{task_id}?purge=true")).status_code == 204
    purged = row(server, "id", task_id)
    assert purged is not None
    assert purged["error_detail"] == ""
    assert "GEHEIMTHEMA" not in server.log()


async def _failures(http: httpx2.AsyncClient, code: str) -> float:
    """How many requests to the model service have failed so, by `/metrics`."""
    text = (await http.get("/metrics")).text
    return float(text.partition(f'sluice_upstream_failures_total{{code="{code}"}} ')[2].partition("\n")[0])


async def test_an_unknown_model_is_not_found(sluice):
    _, http = sluice
    answer = await http.post(STREAM, json=brief("somebody-elses"))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")


async def test_a_delete_closes_the_connection_to_the_model(fake, sluice):
    _, http = sluice
    before = fake.left_early
    reading = await read_stream(http, "POST", STREAM, json=brief("endless"), until=5)
    answer = await http.delete(f"/streams/{reading.response.headers['x-stream-id']}")
    assert answer.json()["state"] == "cancelled"
    await fake.until(lambda: fake.left_early == before + 1, 1)


async def test_an_answer_of_a_hundred_megabytes_ends_by_length(fake, sluice):
    server, http = sluice
    process = psutil.Process(server.process.pid)
    before, early = process.memory_info().rss, fake.left_early
    reading = await generate(http, "hundred-megabytes")
    assert reading.named("truncated")
    assert (reading.end.name, reading.end.data["finish_reason"]) == ("complete", "length")
    assert len(reading.text) < 1_048_576
    await fake.until(lambda: fake.left_early == early + 1, 1)
    assert process.memory_info().rss - before < 50_000_000


@pytest.mark.load
async def test_a_storm_of_cancels_leaves_no_permit_behind(fake, sluice):
    _, http = sluice
    chance = random.Random(31)

    async def start_and_cancel() -> None:
        reading = await read_stream(http, "POST", STREAM, json=brief("slow-start"), until=1)
        await asyncio.sleep(chance.uniform(0, 0.02))
        await http.delete(f"/streams/{reading.response.headers['x-stream-id']}")

    for _ in range(25):
        await asyncio.gather(*(start_and_cancel() for _ in range(20)))
    await idle(http)

    await fake.until(lambda: fake.open <= 20)
    readings = await asyncio.gather(*(generate(http, "slow-start") for _ in range(20)))
    assert [reading.text for reading in readings] == [TEXT] * 20
    assert all(reading.named("status")[0].data["route"] == "direct" for reading in readings)
