"""Metrics in process: those of apps, labels that stay few, and settings that are checked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.test import override_settings

from streaming import conf
from streaming.checks import check_settings
from streaming.core.metering import Kind, Samples
from streaming.metrics import apps, counter, gauge
from streaming.metrics.catalogue import METRICS
from streaming.metrics.collecting import kind_label
from streaming.metrics.exposition import all_metrics, exposed

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """What a test adds is gone after it."""
    with mock.patch.dict(apps._counters), mock.patch.dict(apps._gauges):
        yield


def told(samples: Samples) -> list[str]:
    text, _ = exposed(samples, "")
    return [line for line in text.decode().splitlines() if "bakery" in line and not line.startswith("#")]


# --- Metrics of apps ----------------------------------------------------------------------------------


def test_a_counter_of_an_app_begins_at_zero_and_counts():
    failures = counter("bakery_failures_total", "Ovens that went out.", cause=("gas", "fuse"))
    failures.add("gas")
    failures.add("gas", amount=2)
    failures.add("a mouse in oven 7")
    assert told(apps.app_samples()) == [
        'bakery_failures_total{cause="fuse"} 0.0',
        'bakery_failures_total{cause="gas"} 3.0',
        'bakery_failures_total{cause="other"} 1.0',
    ]


def test_threads_count_all():
    calls = counter("bakery_calls_total", "Calls.")

    def count() -> None:
        for _ in range(1000):
            calls.add()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(apps.app_samples()) == ["bakery_calls_total 4000.0"]


def test_a_broken_gauge_hides_nothing_else(caplog: pytest.LogCaptureFixture):
    @gauge("bakery_broken", "Always.")
    def _broken() -> float:
        raise RuntimeError("planted")

    @gauge("bakery_ovens", "Hot ones.")
    def _ovens() -> float:
        return 3

    assert told(apps.app_samples()) == ["bakery_ovens 3.0"]
    assert "bakery_broken" in caplog.text


@pytest.mark.parametrize("name", ["sluice_followers_total_of_mine", "bakery_calls"])
def test_a_counter_is_named_as_one(name: str):
    with pytest.raises(ValueError, match="_total"):
        counter(name, "")


def test_no_name_is_taken_twice():
    counter("bakery_calls_total", "")
    with pytest.raises(ValueError, match="bakery_calls_total"):
        counter("bakery_calls_total", "")
    with pytest.raises(ValueError, match="sluice_resumes_total"):
        counter("sluice_resumes_total", "")
    with pytest.raises(ValueError, match="sluice_followers"):
        gauge("sluice_followers", "")(lambda: 0)


# --- Names and labels ---------------------------------------------------------------------------------


def test_kinds_are_those_that_are_registered():
    assert kind_label("content") == "content"
    assert kind_label("whatever a view makes of its query") == "other"


def test_names_follow_the_rules_of_prometheus():
    for name, metric in all_metrics().items():
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER), name
        assert metric.help.endswith("."), name
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.bounds), name
        assert list(metric.bounds) == sorted(set(metric.bounds)), name
        assert not {"owner", "task", "path", "user"} & set(metric.labels), name
    assert len(METRICS) > 30


# --- Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "variable"),
    [
        ({"access": "yes"}, "METRICS_ACCESS"),
        ({"access": True}, "METRICS_ACCESS"),
        ({"access": "token"}, "METRICS_TOKEN"),
        ({"access": "token", "token": "short"}, "METRICS_TOKEN"),
        ({"access": "token", "token": "sixteen characters"}, "METRICS_TOKEN"),
        ({"token": "sesam-öffne-dich-bitte"}, "METRICS_TOKEN"),
        ({"tokem": TOKEN}, "tokem"),
    ],
)
def test_what_cannot_be_right_is_named_and_no_token_told(config: dict[str, Any], variable: str):
    with override_settings(METRICS_CONFIG=config):
        (error,) = (message.msg for message in check_settings(None) if message.is_serious())
    assert variable in error
    assert str(config.get("token", TOKEN)) not in error


@pytest.mark.parametrize("config", [{}, {"access": "false"}, {"access": "token", "token": TOKEN}])
def test_what_is_right_passes(config: dict[str, Any]):
    with override_settings(METRICS_CONFIG=config):
        assert not [message for message in check_settings(None) if message.is_serious()]
        assert conf.metrics().access == config.get("access", "loopback")
