"""What the doctor finds it can say, and what it says needs no evidence that a finding lacks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from streaming.core import diagnosis
from streaming.core.diagnosis import Arrival, Failure, Finding, Hold, Observation, Severity, diagnose
from streaming.doctor.client import Target
from streaming.doctor.rounds import Round, metrics_of
from streaming.doctor.words import REMEDIES, SENTENCES, remedy, sentence

SOURCE = Path(diagnosis.__file__).read_text(encoding="utf-8")

PRODUCTS = {product for product, _ in diagnosis._PRODUCTS} | {"unknown"}

NO_FAULT = {"fine", "not_measured", "unfinished", "compressed", "reader_busy"}

ELSEWHERE = {
    "buffered_by_proxy": "buffering",
    "compressed_without_flush": "compression",
    "compressed_too": "compression",
    "cut": "cut:flowing",
}
"""Where the remedies of a finding have another name than its code."""


def test_every_code_has_a_sentence_and_every_sentence_a_code():
    named = set(re.findall(r'"([a-z_0-9]+)"', SOURCE))
    assert {part for key in SENTENCES for part in key.split(":")} - named == set()
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


@pytest.mark.parametrize("code", sorted({key.partition(":")[0] for key in SENTENCES} - NO_FAULT))
def test_what_is_not_fine_has_a_remedy(code):
    # Some have one for each kind, and one for those that nobody foresaw.
    key = ELSEWHERE.get(code, code)
    texts = {remedy(Finding(code=code, severity=Severity.BROKEN, remedy=each)) for each in (key, f"{key}:x")}
    assert texts - {""}


def test_the_fallback_of_a_remedy_is_the_general_one():
    for code in ("unreachable", "tls_failed", "no_answer", "task_failed", "provider_failed"):
        assert remedy(Finding(code=code, severity=Severity.BROKEN, remedy=f"{code}:never heard of"))


@pytest.mark.parametrize("kind", ["timeout", "closed", "other"])
def test_a_failure_without_words_is_told_by_its_kind(kind):
    failure = Failure(phase="answer", kind=kind)
    found = diagnose(Observation(target="probe", failure=failure)).findings[0]
    assert f"({kind})" in sentence(found)
    assert remedy(found)


@pytest.mark.parametrize("product", sorted(PRODUCTS))
@pytest.mark.parametrize("kind", ["buffering", "compression"])
def test_every_proxy_that_is_known_by_name_has_its_remedy(kind, product):
    key = f"{kind}:{product}"
    assert remedy(Finding(code="x", severity=Severity.BROKEN, remedy=key))
    assert kind == "compression" or key in REMEDIES


@pytest.mark.parametrize("how", get_args(Hold)[1:])
def test_how_events_are_held_is_told(how):
    told = sentence(Finding(code="buffered_by_proxy", severity=Severity.SUSPICIOUS, evidence={"how": how}))
    assert told.startswith("A proxy is buffering")
    assert (told == sentence(Finding(code="buffered_by_proxy", severity=Severity.SUSPICIOUS))) == (
        how == "bunches"
    )


def test_percentiles_are_gauges_that_promtool_takes():
    arrivals = [Arrival(name="result", at=each, sent_at=each, late=0.0) for each in (1.0, 2.0, 3.0)]
    seen = Observation(target="probe", arrivals=arrivals)
    text = metrics_of(Target(base="http://x"), Round(seen=seen, diagnosis=diagnose(seen)), 1).decode()
    assert 'sluice_doctor_gap_seconds{percentile="95",url="http://x"}' in text
    # Only a summary may have a quantile.
    assert "quantile" not in text


def test_no_remedy_is_for_nothing():
    for key in REMEDIES:
        code, _, product = key.partition(":")
        assert code in SENTENCES or product in PRODUCTS, key
