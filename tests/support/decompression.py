"""Content codings undone as a client undoes them: with what has come so far."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any

CODINGS = ("gzip", "br", "zstd")


def decoder(coding: str) -> Callable[[bytes], bytes]:
    """What makes the next bytes readable, as far as they can be read now."""
    if coding == "gzip":
        return zlib.decompressobj(31).decompress
    if coding == "br":
        brotli: Any = importlib.import_module("brotli")
        process: Callable[[bytes], bytes] = brotli.Decompressor().process
        return process
    zstandard: Any = importlib.import_module("zstandard")
    decompress: Callable[[bytes], bytes] = zstandard.ZstdDecompressor().decompressobj().decompress
    return decompress
