"""The page's event-stream decoder against ours, which is proved against the HTML standard."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest

from streaming.core import sse
from tests.support.browser import Visit

CASES = {
    "byte order mark": b"\xef\xbb\xbfdata:1\n\n\xef\xbb\xbfdata:2\n\ndata:3\n\n",
    "line ends": b"data:1\r\rdata:2\n\ndata:3\r\n\r\ndata:4\n\rdata:5\r\n\n",
    "comments": b"data:1\r:\0\n:\r\ndata:2\n:a comment\rdata:3\n:data:fail\r:\ndata:4\n\n",
    "no colon": b"data\n\ndata\ndata\n\ndata:test\n\n",
    "spaces": b"data: a\ndata:  b\ndata:\tc\n\n",
    "unknown fields": b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacomment\n\n",
    "names": b"event:one\ndata:x\n\ndata:x\n\nevent:\ndata:y\n\nevent:only\n\ndata:z\n\n",
    "ids": b"id: 1\ndata:a\n\ndata:b\n\nid\ndata:c\n\nid:3\0\ndata:d\n\nid: 4\n\ndata:e\n\n",
    "retry": b"retry:1000\nretry:x\nretry: 12a\ndata:x\n\n",
    "unfinished": b"data:whole\n\ndata:cut",
    "broken UTF-8": b"data:\xff\xe4\xbd\n\ndata:\xe5\x92\x96\n\n",
    "many scripts": "data:咖啡 👨‍👩‍👧‍👦 שלום\u2028x\u0085y\n\n".encode(),
}

DECODE = """async (chunks) => {
    const { EventDecoder } = await import("/static/streaming/page/sse.js");
    const events = [];
    const decoder = new EventDecoder({ onEvent: ({ type, data, id }) => events.push([type, data, id]) });
    for (const chunk of chunks) decoder.feed(Uint8Array.from(atob(chunk), (c) => c.charCodeAt(0)));
    return events;
}"""


def ours(whole: bytes) -> list[list[Any]]:
    return [[event.event, event.data, event.id] for event in sse.Decoder().feed(whole)]


def pieces(whole: bytes, seed: int) -> list[bytes]:
    """`whole`, cut at random; seed 0 cuts after each byte."""
    if seed == 0:
        return [whole[k : k + 1] for k in range(len(whole))]
    chance = random.Random(seed)
    points = sorted(chance.choices(range(len(whole) + 1), k=4))
    return [whole[a:b] for a, b in zip([0, *points], [*points, len(whole)], strict=True)]


@pytest.mark.parametrize("case", CASES)
async def test_it_reads_what_ours_reads_however_the_bytes_are_cut(resting: Visit, case: str) -> None:
    whole = CASES[case]
    expected = ours(whole)
    assert expected
    for chunks in [[whole], *(pieces(whole, seed) for seed in range(6))]:
        encoded = [base64.b64encode(chunk).decode() for chunk in chunks]
        assert await resting.page.evaluate(DECODE, encoded) == expected, chunks
