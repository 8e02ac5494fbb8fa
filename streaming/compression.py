"""Compression of streams without delay: one encoder for each reader, emptied with each write.

Whatever was put in so far can be read from what has come out: each write ends with a flush, so a reader sees
event k before event k + 1 is made. (Django's `GZipMiddleware` makes a gzip file of each write instead, and
many a client reads the first one only.) The price is processor time and memory for each reader, so it is off
unless STREAM_COMPRESSION says otherwise.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from functools import cache, lru_cache
from typing import Any, Final

Encode = Callable[[bytes, bool], bytes]
"""Bytes in, encoded bytes out: all of them, and with True the end of the encoding, too."""

WINDOW_BITS: Final = 13
"""8 KiB to look back into: some eighty events, which have everything that repeats itself. Twice the window is
twice the memory of each reader."""

LONGEST_HEADER: Final = 256
"""Characters of an `Accept-Encoding`; who sends more gets no encoding."""


def _gzip() -> Encode:
    # 64 KiB: 2 ** (window + 2) + 2 ** (memory level + 9).
    packer = zlib.compressobj(3, zlib.DEFLATED, 16 + WINDOW_BITS, 6)

    def encode(data: bytes, last: bool) -> bytes:
        return packer.compress(data) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)

    return encode


def _brotli() -> Encode:
    brotli: Any = importlib.import_module("brotli")
    packer = brotli.Compressor(mode=brotli.MODE_TEXT, quality=5, lgwin=WINDOW_BITS)

    def encode(data: bytes, last: bool) -> bytes:
        out: bytes = packer.process(data) + (packer.finish() if last else packer.flush())
        return out

    return encode


def _zstd() -> Encode:
    zstandard: Any = importlib.import_module("zstandard")
    # With a context of its own each: one is for one stream at a time.
    packer = zstandard.ZstdCompressor(compression_params=_zstd_parameters()).compressobj()

    def encode(data: bytes, last: bool) -> bytes:
        end = zstandard.COMPRESSOBJ_FLUSH_FINISH if last else zstandard.COMPRESSOBJ_FLUSH_BLOCK
        out: bytes = packer.compress(data) + packer.flush(end)
        return out

    return encode


@cache
def _zstd_parameters() -> Any:
    zstandard: Any = importlib.import_module("zstandard")
    return zstandard.ZstdCompressionParameters.from_level(3, window_log=WINDOW_BITS)


ENCODERS: Final[dict[str, Callable[[], Encode]]] = {"gzip": _gzip, "br": _brotli, "zstd": _zstd}
"""Content codings by the names that HTTP has for them."""

PACKAGES: Final = {"br": "brotli", "zstd": "zstandard"}
"""What a coding needs beside the standard library."""


def missing_package(coding: str) -> str | None:
    """The package that a coding needs and that is not installed."""
    package = PACKAGES.get(coding)
    return package if package is not None and importlib.util.find_spec(package) is None else None


@lru_cache(maxsize=256)
def negotiate(accepted: str, offered: tuple[str, ...]) -> str | None:
    """The coding for a reader with that `Accept-Encoding` (RFC 9110, 12.5.3); None: as it is.

    The best quality wins, and among equals the one that is `offered` first. A reader who says nothing gets no
    encoding, nor does one who likes `identity` better, or refuses all that there is: a stream can always be
    read as it is.
    """
    if not accepted or len(accepted) > LONGEST_HEADER:
        return None
    wishes = dict(_wishes(accepted))
    others = wishes.get("*", 0.0)
    best = max(offered, key=lambda coding: wishes.get(coding, others), default="")
    quality = wishes.get(best, others)
    return best if quality > 0 and quality >= wishes.get("identity", 0.0) else None


_WISH: Final = re.compile(r"\s*([\w!#$%&'*+.^`|~-]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.\d{0,3})?)\s*)?", re.ASCII)


def _wishes(accepted: str) -> Iterator[tuple[str, float]]:
    """Codings and how much they are liked; what is no such pair is not there."""
    for each in accepted.lower().split(","):
        found = _WISH.fullmatch(each)
        if found is not None:
            # Its old name (RFC 9110, 8.4.1.3).
            coding = "gzip" if found[1] == "x-gzip" else found[1]
            yield coding, float(found[2] or 1)


async def encoded(chunks: AsyncGenerator[bytes, None], coding: str) -> AsyncGenerator[bytes, None]:
    """`chunks` as they come, each readable at once."""
    encode = ENCODERS[coding]()
    async with aclosing(chunks):
        async for chunk in chunks:
            yield encode(chunk, False)
    yield encode(b"", True)
