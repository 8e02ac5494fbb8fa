"""What the soak takes for growth, and for left behind."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.soak.levels import MEGABYTE, Allowed, Level, grown, left_behind, slope

REST = Level(0.0, 100 * MEGABYTE, threads=10, files=20, connections=1, tasks=0, readers=0, lag=0.0)


def levels(bytes_a_second: float, noise: int = 0, count: int = 120) -> list[Level]:
    dice = random.Random(1)
    return [
        replace(
            REST, at=5.0 * k, memory=int(REST.memory + 5 * k * bytes_a_second + dice.uniform(-noise, noise))
        )
        for k in range(count)
    ]


@pytest.mark.parametrize("megabytes", [0.0, 0.5, 3.0, -2.0])
def test_a_trend_is_seen_through_noise(megabytes: float) -> None:
    assert slope(levels(megabytes * MEGABYTE / 600, noise=MEGABYTE // 4)) / MEGABYTE == pytest.approx(
        megabytes, abs=0.2
    )


def test_single_peaks_are_no_trend() -> None:
    peaks = [
        replace(each, memory=each.memory + 50 * MEGABYTE) if k > 100 and k % 7 == 0 else each
        for k, each in enumerate(levels(0.0))
    ]
    assert grown(peaks, Allowed()) == []


def test_growth_is_told() -> None:
    (told,) = grown(levels(3 * MEGABYTE / 600), Allowed())
    assert told.startswith("memory: +3.0 MB in ten minutes")


def test_few_samples_say_nothing() -> None:
    assert slope(levels(9_999, count=5)) == 0.0


@pytest.mark.parametrize("name", ["threads", "files", "connections", "tasks", "readers"])
def test_what_is_left_is_told_by_name(name: str) -> None:
    allowed = getattr(Allowed(), name)
    was = getattr(REST, name)
    assert left_behind(REST, replace(REST, **{name: was + allowed}), Allowed()) == []
    (told,) = left_behind(REST, replace(REST, **{name: was + allowed + 1}), Allowed())
    assert told == f"{name}: {was} before the load, {was + allowed + 1} after it"
