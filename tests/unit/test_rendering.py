"""Finished text as HTML: what is Markdown becomes a tag, what is not stays text."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming import rendering
from streaming.rendering import MAX_CHARACTERS, RenderedTexts, to_html

SCRIPTS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "[a](javascript:alert(1))",
    "[a](data:text/html,<script>alert(1)</script>)",
    "[a](JaVaScRiPt:alert(1))",
    "<javascript:alert(1)>",
    '![a](x"onerror="alert(1))',
    '[a](http://x "onmouseover=alert(1)")',
    "```\n<iframe src=javascript:alert(1)>\n```",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<a href='javascript:alert(1)'>x</a>",
    "[a]: javascript:alert(1)\n[a]",
    "<style>*{background:url(http://x)}</style>",
]
TAG = re.compile(r"<(/?[a-zA-Z][^>]*)>")
ALLOWED = re.compile(
    r"/?(h[1-6]|p|br|hr|blockquote|pre|code|em|strong|s|ul|ol|li|table|thead|tbody|tr|th|td|a)"
    r'( (dir="auto"|target="_blank"|start="\d+"|rel="[a-z ]+"|title="[^"]*"'
    r'|href="(https?:|mailto:|[^:"]*")[^"]*"?))*'
)


def assert_harmless(html: str) -> None:
    for tag in TAG.findall(html):
        assert ALLOWED.fullmatch(tag), tag


def test_markdown_becomes_html() -> None:
    html = to_html("# 标题\n\n一 **二**\n三\n\n- a\n- b\n\n|x|y|\n|-|-|\n|1|2|")
    for piece in ('<h1 dir="auto">标题</h1>', "<strong>二</strong><br>", "<li", "<table>", "<td"):
        assert piece in html


@pytest.mark.parametrize("text", SCRIPTS)
def test_nothing_that_runs_comes_through(text: str) -> None:
    assert_harmless(to_html(text))
    assert_harmless(to_html(f"> - {text}\n\n**{text}**"))


PIECES = [*SCRIPTS, "\n\n", "`", "* ", "<", ">", '"', "[", "](", "\0"]


@given(st.lists(st.sampled_from(PIECES) | st.text()).map("".join))
@settings(deadline=None, database=None)
def test_nothing_that_runs_comes_through_in_any_mixture(text: str) -> None:
    assert_harmless(to_html(text))


def test_links_open_elsewhere_and_tell_nothing() -> None:
    html = to_html("[a](https://example.com/)")
    assert 'target="_blank"' in html
    assert 'rel="noopener noreferrer nofollow ugc"' in html


def test_images_are_not_fetched() -> None:
    assert "<img" not in to_html("![cat](https://example.com/cat.png)")


def test_raw_html_is_shown_not_swallowed() -> None:
    assert "&lt;b&gt;x&lt;/b&gt;" in to_html("<b>x</b>")


async def test_a_text_is_rendered_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []
    threads: set[int] = set()

    def counting(text: str) -> str:
        rendered.append(text)
        threads.add(threading.get_ident())
        return f"<p>{text}</p>"

    monkeypatch.setattr(rendering, "to_html", counting)
    texts = RenderedTexts()
    answers = await asyncio.gather(*(texts.html("a", "x") for _ in range(5)))
    assert answers == ["<p>x</p>"] * 5
    assert rendered == ["x"]
    assert threading.get_ident() not in threads


async def test_a_purged_text_is_forgotten() -> None:
    texts = RenderedTexts()
    assert "old" in str(await texts.html("a", "old"))
    texts.forget("a")
    assert "new" in str(await texts.html("a", "new"))


async def test_only_so_many_are_kept() -> None:
    texts = RenderedTexts(keep=2)
    for task_id in ("a", "b", "c"):
        await texts.html(task_id, "old")
    assert "new" in str(await texts.html("a", "new"))
    assert "old" in str(await texts.html("c", "new"))


async def test_a_very_long_text_stays_plain() -> None:
    assert await RenderedTexts().html("a", "x" * (MAX_CHARACTERS + 1)) is None
