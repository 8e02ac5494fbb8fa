from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from itertools import combinations, product
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contentgen.copywriter import CopyRequest, compose
from contentgen.copywriter.keywords import CATEGORIES, TONES, recognise
from contentgen.copywriter.pieces import clean, clusters, shorten, split_natural

Language = Literal["zh", "en"]

TOPICS: dict[Language, str] = {"zh": "周末的小事", "en": "a slow weekend"}
CATEGORY_NAMES = ["美食探店", "travel", "护肤", "fashion", "家居", "pets", "数码", "fitness"]
CATEGORY_NAMES += ["亲子", "books", "职场", "?"]
TONE_NAMES = ["", "活泼", "professional", "温暖", "humorous", "文艺", "marketing"]
LANGUAGES: list[Language] = ["zh", "en"]
ROOT = Path(__file__).resolve().parents[2]

# Any code points, lone surrogates included.
any_text = st.text(st.characters(exclude_categories=()), max_size=80)


def text_of(language: Language, characters: int = 600, topic: str | None = None, **brief: str) -> str:
    return compose(CopyRequest(topic or TOPICS[language], language, characters, **brief)).text


def sentences_of(text: str) -> list[str]:
    """The sentences of a post without markup and emoji, cut by rules of the test's own."""
    lines = re.sub(r"(?m)^(#+|-|\d+\.) +", "", text)
    parts = re.split(r"[.!?。！？…～\n]+", lines)
    plain = ("".join(char for char in part if char.isalnum()) for part in parts)
    return [part for part in plain if part]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("characters", [150, 240, 700, 1500, 3000])
def test_length_is_near_the_target_and_no_sentence_comes_twice(language: Language, characters: int) -> None:
    for category, tone in product(CATEGORY_NAMES, TONE_NAMES):
        text = text_of(language, characters, category=category, tone=tone)
        assert abs(len(text) - characters) <= characters * 0.2, (category, tone)
        found = sentences_of(text)
        assert len(found) == len(set(found)), (category, tone)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("tone", TONE_NAMES)
def test_the_longest_text_reaches_its_target_without_repetition(language: Language, tone: str) -> None:
    text = text_of(language, 20_000, tone=tone)
    assert abs(len(text) - 20_000) <= 1000
    found = sentences_of(text)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_and_tones_differ_clearly(language: Language) -> None:
    bodies = {}
    for category, tone in product(CATEGORY_NAMES, TONE_NAMES):
        piece = compose(CopyRequest(TOPICS[language], language, 800, category, tone))
        prose = [block for block in piece.paragraphs if not block.startswith("#")]
        bodies[category, tone] = set(sentences_of("\n".join(prose)))
    for (one, first), (other, second) in combinations(bodies.items(), 2):
        shared = len(first & second) / min(len(first), len(second))
        assert shared <= (0.5 if one[0] == other[0] else 1 / 3), (one, other)


@pytest.mark.parametrize("language", LANGUAGES)
def test_tones_show_in_the_prose(language: Language) -> None:
    lively, professional = (text_of(language, 900, tone=tone) for tone in ("lively", "professional"))
    assert len(re.findall("[!！～]", lively)) > 5
    assert not re.findall("[!！～]", professional)
    assert any(unicodedata.category(char) == "So" for char in lively)
    assert not any(unicodedata.category(char) == "So" for char in professional)


def test_languages_differ() -> None:
    chinese, english = (text_of(language, topic="X") for language in LANGUAGES)
    assert sum("\u4e00" <= char <= "\u9fff" for char in chinese) > 300
    assert not any("\u4e00" <= char <= "\u9fff" for char in english)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_brief_gives_the_same_text_in_another_process(language: Language) -> None:
    code = (
        "import sys; from contentgen.copywriter import CopyRequest, compose; "
        "sys.stdout.buffer.write(compose(CopyRequest('tea 茶', sys.argv[1], 900, tone='warm')).text.encode())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, language],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout.decode()
        for seed in ("1", "2")
    }
    assert outputs == {text_of(language, 900, topic="tea 茶", tone="warm")}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_brief_is_heard(language: Language) -> None:
    text = text_of(language, 600, audience="AUDIENCE", requirements='say “hello” and "bye"')
    assert TOPICS[language] in text
    assert "AUDIENCE" in text
    assert "“say ‘hello’ and ’bye’”" in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_note_is_honest_and_ends_the_text(language: Language) -> None:
    for characters in (20, 100, 400, 2000):
        piece = compose(CopyRequest("tea", language, characters))
        assert "模型" in piece.note or "model" in piece.note
        assert piece.text.endswith(f"\n\n*{piece.note}*")
        assert piece.text.startswith(f"# {piece.title}\n\n")
        assert piece.paragraphs


def test_a_long_topic_is_used_in_full_once_at_most() -> None:
    topic = "how a quiet morning by the river can change a whole week of work"
    assert text_of("en", 2000, topic=topic).count(topic) == 1
    assert text_of("en", 150, topic=topic * 30).count(topic * 30) == 0


@settings(max_examples=60, deadline=None)
@given(any_text, any_text, any_text, st.sampled_from(LANGUAGES), st.integers(20, 3000))
def test_no_brief_breaks_it(topic: str, one: str, other: str, language: Language, characters: int) -> None:
    piece = compose(CopyRequest(topic, language, characters, one, other, one, other))
    piece.text.encode()
    assert "\n" not in piece.title
    assert len(piece.text) <= max(characters * 1.25, 190)
    assert not any(unicodedata.bidirectional(char) in ("RLO", "LRO", "RLI") for char in piece.text)


@pytest.mark.parametrize(
    "topic",
    ["a\nb", "data:x\r\n\r\ny", "{topic} {0}", "**[x](y)**", "שלום", "👩‍👩‍👧‍👦" * 30, "e\u0301" * 2000, ""],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_strange_topics(topic: str, language: Language) -> None:
    text = text_of(language, 400, topic=topic)
    assert abs(len(text) - 400) <= 80
    if topic and len(topic) <= 40:
        assert clean(topic) in text


@pytest.mark.parametrize("characters", [19, 20_001])
def test_lengths_out_of_range_are_refused(characters: int) -> None:
    with pytest.raises(ValueError, match="20 to 20000"):
        CopyRequest("tea", "en", characters)


@pytest.mark.parametrize(
    ("text", "key"),
    [("美食探店", "food"), ("My cats", "pets"), ("category", None), ("AI手机", "tech"), ("", None)],
)
def test_categories_are_recognised(text: str, key: str | None) -> None:
    assert recognise(text, CATEGORIES) == key


@pytest.mark.parametrize(
    ("text", "key"),
    [("活泼可爱", "lively"), ("a bit Funny", "humorous"), ("funnel", None)],
)
def test_tones_are_recognised(text: str, key: str | None) -> None:
    assert recognise(text, TONES) == key


@given(any_text, st.sampled_from(LANGUAGES))
def test_split_natural_loses_nothing(text: str, language: Language) -> None:
    parts = list(split_natural(text, language))
    assert "".join(parts) == text
    assert all(parts)
    ends = {0}
    for cluster in clusters(text):
        ends.add(max(ends) + len(cluster))
    position = 0
    for part in parts:
        position += len(part)
        assert position in ends


def test_split_natural_follows_the_language() -> None:
    assert list(split_natural("One two,  three.\n\nFour", "en")) == ["One ", "two,  ", "three.\n\n", "Four"]
    assert all(len(part) <= 3 for part in split_natural("今天说说手冲咖啡，慢慢来。", "zh"))
    assert list(clusters("e\u0301👩‍👧🇩🇪🇫🇷👍🏽\r\n")) == ["e\u0301", "👩‍👧", "🇩🇪", "🇫🇷", "👍🏽", "\r\n"]


@given(any_text, st.integers(1, 40))
def test_shortened_text_fits_and_ends_between_clusters(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    if short != text:
        assert short.endswith("…")
        assert text.startswith(short[:-1])
