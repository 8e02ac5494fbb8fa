"""The page at `/`: a brief, and the text as it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils.translation import get_language, gettext_lazy

from streaming.access import Caller, identify
from streaming.pages import page, show
from streaming.problems import Problem

from .providers import available_providers, default_provider, find_provider
from .upstream import warm

PRESETS: Final = {
    "zh": (
        {"name": "探店", "topic": "新开的咖啡店", "category": "美食探店", "tone": "活泼可爱"},
        {"name": "新品发布", "topic": "一款能记住水温的随行杯", "category": "数码科技", "tone": "专业"},
        {"name": "周末出行", "topic": "两天一夜的海边小城", "category": "旅行", "tone": "温暖治愈"},
        {"name": "读书笔记", "topic": "一本讲城市步行的书", "category": "读书", "tone": "文艺"},
    ),
    "en": (
        {
            "name": "Café visit",
            "topic": "the new café round the corner",
            "category": "food",
            "tone": "lively",
        },
        {
            "name": "Product launch",
            "topic": "a mug that keeps tea warm",
            "category": "tech",
            "tone": "professional",
        },
        {
            "name": "Weekend trip",
            "topic": "two days in a small seaside town",
            "category": "travel",
            "tone": "warm",
        },
        {
            "name": "Book notes",
            "topic": "a book about walking through cities",
            "category": "books",
            "tone": "literary",
        },
    ),
}
"""Briefs to begin with: each in the language that its page has."""

CATEGORIES: Final = {
    "zh": (
        "美食探店",
        "旅行",
        "数码科技",
        "家居",
        "美妆护肤",
        "穿搭",
        "健身",
        "亲子",
        "读书",
        "职场",
        "宠物",
    ),
    "en": (
        "food",
        "travel",
        "tech",
        "home",
        "beauty",
        "fashion",
        "fitness",
        "parenting",
        "books",
        "work",
        "pets",
    ),
}

TONES: Final = {
    "zh": ("活泼可爱", "专业", "温暖治愈", "幽默", "文艺", "种草"),
    "en": ("lively", "professional", "warm", "humorous", "literary", "persuasive"),
}


@dataclass(frozen=True, slots=True)
class Writer:
    """A provider and one of its models, as the page offers it."""

    provider: str
    model: str
    is_model: bool
    default: bool

    @property
    def label(self) -> str:
        """For people."""
        return self.model if self.is_model else str(_LABELS.get(self.provider, self.provider))

    @property
    def explanation(self) -> str:
        """What it means that no model writes."""
        return str(_EXPLANATIONS.get(self.provider, ""))


_LABELS: Final = {
    "offline": gettext_lazy("The offline writer"),
    "scripted": gettext_lazy("The script for tests"),
}
_EXPLANATIONS: Final = {
    "offline": gettext_lazy("templates and word banks: no model, no key, no network"),
    "scripted": gettext_lazy("numbered tokens at an even pace"),
}


@page
async def home(request: HttpRequest) -> HttpResponse:
    """`GET /`. Who may not write sees the page all the same, with the way to sign in."""
    # Who opens the page will soon write.
    warm()
    language = "zh" if (get_language() or "").startswith("zh") else "en"
    offered = _writers()
    context: dict[str, Any] = {
        "presets": PRESETS[language],
        "categories": CATEGORIES[language],
        "tones": TONES[language],
        "writers": offered,
        "writer": next(each for each in offered if each.default),
    }
    return await show(request, "contentgen/home.html", await _caller(request), **context)


async def _caller(request: HttpRequest) -> Caller | None:
    try:
        return await identify(request)
    except Problem as problem:
        if problem.status != 401:
            raise
        return None


def _writers() -> list[Writer]:
    """Who may write, the default first."""
    default = default_provider()
    offered = [
        Writer(name, model, provider.is_model, name == default.name and model == default.default_model())
        for name in available_providers()
        for provider in [find_provider(name)]
        for model in sorted(provider.models())
    ]
    return sorted(offered, key=lambda each: not each.default)
