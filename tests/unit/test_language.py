from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contentgen.language import detect


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (("周末探店",), "zh"),
        (("iPhone 手机测评",), "zh"),
        (("", "新手", "coffee"), "zh"),
        (("繁體中文也算",), "zh"),
        (("A weekend in Lisbon",), "en"),
        (("The word 茶 means tea, and tea is what this long text is about",), "en"),
        (("コーヒーを飲みに行きましょう",), "en"),
        (("커피 이야기",), "en"),
        (("123 !? 🎉",), "en"),
        ((), "en"),
    ],
)
def test_detects_the_language(texts: tuple[str, ...], language: str) -> None:
    assert detect(*texts) == language


@given(st.lists(st.text(), max_size=3))
def test_any_text_has_a_language(texts: list[str]) -> None:
    assert detect(*texts) in ("zh", "en")
