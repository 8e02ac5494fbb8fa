"""Rows K4, K5, K7, K9 and K11 of the bad-input catalogue: cells that say nothing, fail, ask, or show what no
page should run. One kernel takes them all, and stays usable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx2
import pytest

from notebooks.kernels.output import PIECE
from tests.integration.conftest import assert_clean
from tests.support.client import Reading, client
from tests.support.notebooks import ask, end, key_of, notebook_server, outputs, printed
from tests.support.servers import Server

pytestmark = pytest.mark.server

PATIENCE: Final = 60

LARGEST_EVENT: Final = 16_384
"""Bytes (docs/notebooks.md, "Events")."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with notebook_server(tmp_path_factory.mktemp("odd-cells")) as made:
        yield made
        assert_clean(made)


@pytest.fixture
async def http(house: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(house.url, headers=key_of("ada")) as made:
        yield made


_kernel: dict[str, str] = {}
"""The process of the kernel by server."""


async def ran(http: httpx2.AsyncClient, code: str, reason: str) -> Reading:
    """A cell that ends for that reason: small events, a record that can be read and exported, and a kernel
    that is the same as before."""
    async with asyncio.timeout(PATIENCE):
        reading = await ask(http, {}, "odd", "execute", code=code, cell_id="odd")
        assert reading.response.status_code == 200, reading.response.text
        assert (end(reading)["type"], end(reading).get("finish_reason")) == ("complete", reason), outputs(
            reading
        )
        assert max(len(json.dumps(each.data, ensure_ascii=False)) for each in reading.events) < LARGEST_EVENT
        for path in ("/notebooks/odd", "/notebooks/odd.ipynb"):
            kept = await http.get(path)
            assert kept.status_code == 200
            kept.content.decode("utf-8")
        same = await ask(http, {}, "odd", "execute", code="import os\nprint(os.getpid())", cell_id="same")
    assert printed(same) == _kernel.setdefault(str(http.base_url), printed(same))
    return reading


SILENT: Final = {
    "K4-empty": "",
    "K4-lines": "\n\n",
    "K4-only-a-comment": "# only a comment",
    "K4-comment-at-the-end": "x = 1  # 中文",
    "K4-pass": "pass",
    "K4-none": "None",
    "K4-line-separator": "\u2028",
    "K4-semicolon": "5;",
    "K7-debugger-without-a-terminal": "breakpoint()",
}


@pytest.mark.parametrize("code", SILENT.values(), ids=SILENT)
async def test_what_says_nothing_ends_well(http: httpx2.AsyncClient, code: str) -> None:
    reading = await ran(http, code, "stop")
    # On stderr IPython warns of separators that it does not know.
    assert (printed(reading), outputs(reading)) == ("", [])


NO_INPUT: Final = "StdinNotImplementedError"

FAULTS: Final = {
    "K5-syntax": ("def f(:\n  pass", "SyntaxError"),
    "K5-indentation": ("  x = 1\n y = 2", "IndentationError"),
    "K5-byte-order-mark": ("\ufeffx = 1", "SyntaxError"),
    "K5-escape": ("'\\x", "SyntaxError"),
    "K5-parentheses": ("(" * 5_000, "SyntaxError"),
    "K5-long-line": (f"x = '{'a' * 200_000}'; 1/0", "ZeroDivisionError"),
    "K5-text-of-a-megabyte": ("raise ValueError('x' * 1_000_000)", "ValueError"),
    "K5-text-of-a-megabyte-of-escapes": ("raise ValueError('\\x1b' * 1_000_000)", "ValueError"),
    "K5-name-of-a-megabyte": ("raise type('E' * 1_000_000, (Exception,), {})('x')", None),
    "K5-chain-of-900": (
        "e = None\nfor _ in range(900):\n    n = ValueError()\n    n.__cause__, e = e, n\nraise e",
        "ValueError",
    ),
    "K5-nul": ("raise ValueError('\\x00')", "ValueError"),
    "K5-lone-surrogate": ("raise ValueError('\\ud800')", "ValueError"),
    "K5-lone-surrogate-in-the-name": ("raise type('E\\udc80', (Exception,), {})('x')", "UnicodeEncodeError"),
    "K5-ansi": ("raise ValueError('\\x1b[31mred\\x1b]0;title\\x07')", "ValueError"),
    "K5-repr-raises": ("class R:\n    def __repr__(self): raise KeyError('no')\nR()", "KeyError"),
    "K5-repr-is-no-text": ("class R:\n    def __repr__(self): return 5\nR()", "TypeError"),
    "K5-repr-leaves": ("class R:\n    def __repr__(self): raise SystemExit\nR()", "SystemExit"),
    "K5-repr-interrupts": (
        "class R:\n    def __repr__(self): raise KeyboardInterrupt\nR()",
        "KeyboardInterrupt",
    ),
    "K5-str-raises": (
        "class E(Exception):\n    def __str__(self): raise KeyError('no')\nraise E()",
        "KeyError",
    ),
    "K5-too-many-digits": ("10**10_000", "ValueError"),
    "K5-recursion": ("def f(): f()\nf()", "RecursionError"),
    "K5-interrupts-itself": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "K5-base": ("raise BaseException('base')", "BaseException"),
    "K5-behind-an-await": ("await __import__('asyncio').sleep(0)\n1/0", "ZeroDivisionError"),
    "K7-input": ("input('name? ')", NO_INPUT),
    "K7-getpass": ("import getpass\ngetpass.getpass()", NO_INPUT),
    "K7-pdb": ("import pdb; pdb.set_trace()", NO_INPUT),
    "K7-help": ("help()", NO_INPUT),
}


@pytest.mark.parametrize(("code", "ename"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_is_output_of_bounded_size(
    http: httpx2.AsyncClient, code: str, ename: str | None
) -> None:
    reading = await ran(http, code, "error")
    # IPython shows some twice: the fault, and that of showing it.
    faults = [each for each in outputs(reading) if each["output_type"] == "error"]
    names = {each["ename"] for each in faults}
    assert names == {ename} if ename is not None else len(max(names, key=len)) <= 256
    codes = {each.get("code") for each in faults}
    assert codes == {"stdin_not_supported" if ename == NO_INPUT else None}


CHILD: Final = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', {code!r}])\nNone"

SURROGATES: Final = {
    "K5-printed": ("print('a\\ud800b')", "a\ufffdb\n"),
    "K5-child-in-latin-1": (
        CHILD.format(code="import sys; sys.stdout.buffer.write(b'caf\\xe9\\n')"),
        "caf\ufffd\n",
    ),
    "K5-child-of-half-a-character": (
        CHILD.format(code="import sys; sys.stdout.buffer.write(b'\\xe5\\x92\\n')"),
        "\ufffd\n",
    ),
    "K5-child-with-nul": (CHILD.format(code="print('a\\0b')"), "ab\n"),
    "K5-ansi-printed": ("print('\\x1b[31mred\\x1b[0m')", "\x1b[31mred\x1b[0m\n"),
    "K7-child-asks": (
        CHILD.format(code="try: input()\nexcept EOFError: print('nobody')"),
        "nobody\n",
    ),
    "K7-reads-standard-input": ("import sys\nprint(repr(sys.stdin.read()))", "''\n"),
}


@pytest.mark.parametrize(("code", "text"), SURROGATES.values(), ids=SURROGATES)
async def test_what_is_no_text_is_made_one(http: httpx2.AsyncClient, code: str, text: str) -> None:
    assert printed(await ran(http, code, "stop")) == text


BUNDLES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "K5-repr-surrogate": (
        "class R:\n    def __repr__(self): return 'a\\ud800b'\nR()",
        {"text/plain": "a\ufffdb"},
    ),
    "K5-mime-type-surrogate": ("display({'text/\\ud800': 'x'}, raw=True)", {"text/\ufffd": "x"}),
    "K5-json-surrogates": (
        "display({'application/json': {'\\ud800': ['\\udfff']}}, raw=True)",
        {"application/json": {"\ufffd": ["\ufffd"]}},
    ),
    "K9-image-of-50-mb": (
        "from IPython.display import Image\ndisplay(Image(data=bytes(50_000_000), format='png'))",
        {"text/plain": "[image/png, text/plain: 66666703 bytes, more than a cell may show]"},
    ),
    "K9-plain-text-of-50-mb": (
        "display({'text/plain': 'x' * 50_000_000}, raw=True)",
        {"text/plain": "[text/plain: 50000000 bytes, more than a cell may show]"},
    ),
}


@pytest.mark.parametrize(("code", "data"), BUNDLES.values(), ids=BUNDLES)
async def test_a_bundle_is_one_that_everybody_can_read(
    http: httpx2.AsyncClient, code: str, data: dict[str, Any]
) -> None:
    (shown,) = outputs(await ran(http, code, "stop"))
    assert shown["data"] == data


SCRIPT: Final = "<script>alert(1)</script>"

PAGES: Final = {
    "K11-html": (f"%%html\n{SCRIPT}", "text/html"),
    "K11-svg": (
        f"display({{'image/svg+xml': '<svg>{SCRIPT}</svg>', 'text/plain': 'drawing'}}, raw=True)",
        "image/svg+xml",
    ),
    "K11-javascript": (
        "from IPython.display import Javascript\nJavascript('alert(1)')",
        "application/javascript",
    ),
    "K11-old-name-of-javascript": (
        "display({'text/javascript': 'alert(1)', 'text/plain': 'program'}, raw=True)",
        "text/javascript",
    ),
}


@pytest.mark.parametrize(("code", "mime"), PAGES.values(), ids=PAGES)
async def test_what_a_page_could_run_travels_as_text_beside_a_plain_one(
    http: httpx2.AsyncClient, code: str, mime: str
) -> None:
    """And no answer with it is one that a browser opens as a page; what ours does: tests/browser."""
    reading = await ran(http, code, "stop")
    (shown,) = outputs(reading)
    assert set(shown["data"]) == {mime, "text/plain"}
    assert len(shown["data"]["text/plain"]) <= PIECE
    for path, kind in (
        ("/notebooks/odd", "application/json"),
        ("/notebooks/odd.ipynb", "application/x-ipynb+json"),
    ):
        answer = await http.get(path, headers={"Accept": "text/html"})
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert reading.response.headers["X-Content-Type-Options"] == "nosniff"
