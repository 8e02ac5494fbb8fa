"""Finished text as HTML for people: Markdown by the CommonMark rules, cleaned by an allow-list.

Whole texts only, once per task, in a thread: rendering each new token again would cost the square of the
length. What leaves here is safe to insert: no scripts, handlers, styles, images or frames, links open
elsewhere and tell nobody where they were.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Final

import nh3

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

MAX_CHARACTERS: Final = 100_000
"""Longer texts stay plain: hardly anybody reads them formatted, and a hostile one takes 20 µs a character."""

KEPT: Final = 64
"""Rendered texts that are kept for the next reader."""

_TAGS: Final = {
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s"),
    *("ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "a"),
}

# Each block finds its own direction: a text may mix scripts.
_BLOCKS: Final = ("h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "blockquote", "td", "th")
_ATTRIBUTES: Final = {**{tag: {"dir": "auto"} for tag in _BLOCKS}, "a": {"target": "_blank"}}


@cache
def _markdown() -> MarkdownIt:
    """The reader of Markdown: sixty modules, loaded when somebody first wants to see a text."""
    from markdown_it import MarkdownIt

    # Raw HTML in the text is escaped, not passed on; line ends of a post are line ends; an image stays a
    # link, because fetching it would tell a stranger who reads.
    return (
        MarkdownIt("commonmark", {"html": False, "breaks": True})
        .enable(["table", "strikethrough"])
        .disable("image")
    )


def to_html(text: str) -> str:
    """`text`, read as Markdown, as clean HTML."""
    return nh3.clean(
        _markdown().render(text),
        tags=_TAGS,
        attributes={"a": {"href", "title"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow ugc",
        set_tag_attribute_values=_ATTRIBUTES,
    )


class RenderedTexts:
    """The HTML of the tasks that were asked for last; each is made once, however many ask at once."""

    def __init__(self, keep: int = KEPT) -> None:
        self._keep = keep
        self._made: OrderedDict[str, asyncio.Task[str]] = OrderedDict()

    async def html(self, task_id: str, text: str) -> str | None:
        """The HTML of an ended task's text; None if it is too long to be rendered."""
        if len(text) > MAX_CHARACTERS:
            return None
        making = self._made.get(task_id)
        if making is None:
            making = self._made[task_id] = asyncio.create_task(asyncio.to_thread(to_html, text))
            while len(self._made) > self._keep:
                self._made.popitem(last=False)
        self._made.move_to_end(task_id)
        # Who leaves must not take it from the others.
        return await asyncio.shield(making)

    def forget(self, task_id: str) -> None:
        """The task was purged."""
        self._made.pop(task_id, None)
