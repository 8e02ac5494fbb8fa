"""Which encoding a reader gets, and that each write can be read when it is there."""

from __future__ import annotations

import zlib
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming import compression
from streaming.compression import ENCODERS, LONGEST_HEADER, encoded, negotiate
from tests.support.decompression import CODINGS, decoder

ALL = ("zstd", "br", "gzip")


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", "br"),
        ("gzip;q=1.0, identity; q=0.5, *;q=0", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip ; Q=0.5", "gzip"),
        ("*", "zstd"),
        ("*;q=0.5, zstd;q=0", "br"),
        ("zstd;q=0.5, br;q=0.50, gzip;q=0.500", "zstd"),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0, br;q=0, *;q=0", None),
        ("deflate", None),
        ("identity;q=0", None),
        ("identity;q=0, gzip", "gzip"),
        ("gzip;q=2", None),
        ("gzip;q=nan", None),
        ("gzip;q=", None),
        ("gzip;level=9", None),
        ("gzip;q=0.0001", None),
        (",, ,gzip,", "gzip"),
        ("gzip" + " " * LONGEST_HEADER, None),
    ],
)
def test_the_reader_s_wish_decides_and_then_the_order(accepted, chosen):
    assert negotiate(accepted, ALL) == chosen


@pytest.mark.parametrize("offered", [*permutations(CODINGS)])
def test_among_equals_the_first_one_offered_is_taken(offered):
    assert negotiate("gzip, br, zstd", offered) == offered[0]
    assert negotiate("gzip, br, zstd", offered[1:]) == offered[1]


def test_what_is_not_offered_is_not_given():
    assert negotiate("br", ("gzip",)) is None
    assert negotiate("gzip", ()) is None


@given(st.text("gzipbrstd*;q=01., \t", max_size=60))
def test_any_header_is_answered(accepted):
    assert negotiate(accepted, ALL) in (*ALL, None)


@given(st.sampled_from(CODINGS), st.lists(st.binary(min_size=1, max_size=400), max_size=12))
def test_whatever_was_written_can_be_read_at_once(coding, writes):
    encode, read = ENCODERS[coding](), decoder(coding)
    for write in writes:
        assert read(encode(write, False)) == write
    assert read(encode(b"the end", True)) == b"the end"


@pytest.mark.parametrize("coding", CODINGS)
def test_what_repeats_itself_costs_little(coding):
    """Frames share nearly all they say; an encoding that began anew with each would make them longer."""
    frame = 'id: {0}\nevent: content\ndata: {{"type":"content","delta":"{0} "}}\n\n'
    frames = [frame.format(k).encode() for k in range(99)]
    encode = ENCODERS[coding]()
    assert sum(len(encode(frame, False)) for frame in frames) < sum(map(len, frames)) / 2


def test_a_gzip_stream_is_one_member():
    """Of several, many a client reads the first one only."""
    encode = ENCODERS["gzip"]()
    whole = encode(b"a", False) + encode(b"b", False) + encode(b"", True)
    reader = zlib.decompressobj(31)
    assert reader.decompress(whole) == b"ab"
    assert reader.eof
    assert reader.unused_data == b""


async def test_any_handler_s_chunks_are_encoded_one_by_one():
    made = []

    async def chunks() -> Any:
        try:
            for chunk in (b"one", b"two"):
                made.append(chunk)
                yield chunk
        finally:
            made.append(b"closed")

    read = decoder("gzip")
    stream = encoded(chunks(), "gzip")
    assert read(await anext(stream)) == b"one"
    assert made == [b"one"]
    assert read(await anext(stream)) == b"two"
    assert [read(chunk) async for chunk in stream] == [b""]
    assert made == [b"one", b"two", b"closed"]
    left = encoded(chunks(), "gzip")
    await anext(left)
    await left.aclose()
    assert made[-1] == b"closed"


def test_a_package_that_is_missing_is_named(monkeypatch):
    assert [compression.missing_package(coding) for coding in CODINGS] == [None] * 3
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [compression.missing_package(coding) for coding in CODINGS] == [None, "brotli", "zstandard"]
