"""The concatenated deltas are the producer's text, to the code point, however anybody cuts the bytes."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from streaming.core import ndjson
from streaming.core.sse import Decoder
from tests.support.client import STREAM, brief, lines_of, read_stream

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log"), pytest.mark.every_variant]

TEXTS = {
    "chinese": "新开的咖啡店,就在巷子里。“真好喝!”——朋友说:下次还来……𠮷野家、𪚥",
    "emoji families": "👨‍👩‍👧‍👦👩🏽‍🚀🏳️‍🌈👩‍❤️‍💋‍👨🇨🇳🇬🇧🧑🏿‍🤝‍🧑🏻" * 3,
    "combining marks": "e" + "\u0301" * 10_000 + "x",
    "right to left": "abc \u202eקפה חדש\u202c عربي \u200f\u2067x\u2069",
    "unicode line ends": "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\x1dh\x1ei",
    "cr and lf": "a\rb\nc\r\nd\n\re\r\rf\n\ng\r\n\r\nh\n",
    "forged fields": "data: x\nevent: done\nid: 99\nretry: 1\n\n: ping\n\ndata: [DONE]\n\n",
    "forged ends": 'x\n\nid: 7\nevent: complete\ndata: {"type":"complete"}\n\n',
    "forged json": '"}\n{"type":"complete","id":9}\n\\u2028\\n\\"</script>\\',
    "blanks": "  \t leading, \u00a0\u3000inner   and trailing \t\n ",
    "controls": "".join(chr(code) for code in range(1, 32)) + "\x7f\x80\x9f\ufeff\ufffe\uffff\U0010ffff",
    "one character": "é",
    "nothing": "",
}

NDJSON = {"Accept": "application/x-ndjson"}


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_sse_is_exact_at_any_chunking(http: httpx2.AsyncClient, text: str, blocking: bool) -> None:
    body = (await http.post(f"{STREAM}?timing=1", json=scripted(text, blocking))).content
    for size in (1, 2, 3, 7, 64, len(body)):
        decoder = Decoder(max_line=1 << 20, max_event=1 << 20)
        pieces = (body[start : start + size] for start in range(0, len(body), size))
        events = [json.loads(event.data) for piece in pieces for event in decoder.feed(piece)]
        assert_exact(events, text)


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_ndjson_is_exact_at_any_chunking(http: httpx2.AsyncClient, text: str, blocking: bool) -> None:
    body = (await http.post(f"{STREAM}?timing=1", json=scripted(text, blocking), headers=NDJSON)).content
    assert_exact(lines_of(body), text)
    for size in (1, 3, 64):
        decoder = ndjson.Decoder()
        pieces = (body[start : start + size] for start in range(0, len(body), size))
        assert_exact([event for piece in pieces for event in decoder.feed(piece)], text)


def scripted(text: str, blocking: bool = False, interval: float = 0) -> dict[str, Any]:
    return brief(options={"text": text, "interval": interval, "blocking": blocking})


def assert_exact(events: list[dict[str, Any]], text: str) -> None:
    assert [event["type"] for event in events if event["type"] != "content"] == ["status", "complete"]
    deltas = [event["delta"] for event in events if event["type"] == "content"]
    assert "".join(deltas) == text
    assert all(deltas)
    assert events[-1]["content_length"] == len(text)
    assert events[-1]["chunks"] == len(deltas)
    assert all("sent_at" in event for event in events)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_a_naive_reader_sees_the_same(http: httpx2.AsyncClient, text: str) -> None:
    """Split at blank lines and with `splitlines`, as many clients do it."""
    body = (await http.post(STREAM, json=scripted(text))).text
    assert body.splitlines() == body.split("\n")[:-1]
    deltas = [
        json.loads(line.removeprefix("data: "))["delta"]
        for frame in body.split("\n\n")
        if "event: content\n" in frame
        for line in frame.splitlines()
        if line.startswith("data: ")
    ]
    assert "".join(deltas) == text


async def test_a_slow_pace_cuts_nothing(http: httpx2.AsyncClient) -> None:
    """At this pace every character is an event of its own, or nearly so."""
    text = "咖👨‍👩‍👧‍👦\r\n\u2028e\u0301\u202e啡"
    reading = await read_stream(http, "POST", STREAM, json=scripted(text, interval=0.06))
    assert reading.text == text
    assert len(reading.named("content")) > 3


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_record_whole_answer_and_replay_are_exact(http: httpx2.AsyncClient, text: str) -> None:
    whole = (await http.post("/content/generate", json=scripted(text))).json()
    assert (whole["text"], whole["content_length"]) == (text, len(text))
    assert (await http.get(f"/streams/{whole['task_id']}")).json()["text"] == text
    assert (await read_stream(http, "GET", f"/streams/{whole['task_id']}/events?after=0")).text == text


@pytest.mark.parametrize(
    "topic", [text for text in TEXTS.values() if text], ids=[name for name in TEXTS if TEXTS[name]]
)
async def test_any_topic_becomes_a_text(http: httpx2.AsyncClient, topic: str) -> None:
    body = {"user_id": "u", "topic": topic, "provider": "offline", "length": "short", "max_tokens": 3}
    reading = await read_stream(http, "POST", STREAM, json=body)
    assert reading.end.name == "complete"
    assert reading.text
