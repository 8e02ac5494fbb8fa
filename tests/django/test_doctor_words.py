"""What the doctor finds it can say, and what it says needs no evidence that a finding lacks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streaming.core import diagnosis
from streaming.core.diagnosis import Finding, Severity
from streaming.doctor.words import REMEDIES, SENTENCES, remedy, sentence

SOURCE = Path(diagnosis.__file__).read_text(encoding="utf-8")

PRODUCTS = {product for product, _ in diagnosis._PRODUCTS} | {"unknown"}


def test_every_code_has_a_sentence_and_every_sentence_a_code():
    named = set(re.findall(r'"([a-z_0-9]+)"', SOURCE))
    assert set(SENTENCES) - named == set()
    told = set(re.findall(r'(?:_broken|_suspicious)\(\s*"(\w+)"|code(?: =|=) ?"(\w+)"', SOURCE))
    codes = {code for pair in told for code in pair if code}
    assert len(codes) > 25
    assert codes - set(SENTENCES) == set()


@pytest.mark.parametrize("code", sorted(SENTENCES))
def test_a_sentence_is_one_also_without_evidence(code):
    text = sentence(Finding(code=code, severity=Severity.BROKEN))
    assert text
    assert "%(" not in text
    assert "%%" not in text


@pytest.mark.parametrize("product", sorted(PRODUCTS))
@pytest.mark.parametrize("kind", ["buffering", "compression"])
def test_every_proxy_that_is_known_by_name_has_its_remedy(kind, product):
    key = f"{kind}:{product}"
    assert remedy(Finding(code="x", severity=Severity.BROKEN, remedy=key))
    assert kind == "compression" or key in REMEDIES


def test_no_remedy_is_for_nothing():
    for key in REMEDIES:
        code, _, product = key.partition(":")
        assert code in SENTENCES or product in PRODUCTS, key
