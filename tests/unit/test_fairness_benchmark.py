"""The fairness simulation: a tiny run is whole, and what the page says is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import fairness
from benchmarks.fairness import (
    CLASSES,
    LONGEST,
    SCENARIOS,
    SHORTEST,
    Crowd,
    Scenario,
    arrivals_of,
    jain,
    max_min_shares,
)
from benchmarks.fairness_plot import plot
from streaming.conf import PoolConfig
from tests.support.simulation import NEVER, Arrival, Visit, simulate

ROOT = Path(__file__).resolve().parents[2]
STORED = json.loads((ROOT / "benchmarks" / "results" / "fairness.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "fairness.md").read_text(encoding="utf-8")

TINY = {
    "classes": SCENARIOS["classes"],
    "crowds": Scenario(
        "Two crowds",
        "crowd",
        (Crowd("many", 3, 0, 0.6), Crowd("one", 1, 0, 0.3)),
        {"FIFO": fairness.fifo, "Sluice": fairness.sluice()},
    ),
}


@pytest.fixture(scope="module")
def tiny():
    """Ten minutes, two seeds, as it is stored."""
    return json.loads(json.dumps(fairness.run(TINY, 600.0, [7, 8])))


# --- The simulation -----------------------------------------------------------------------------------


def test_a_task_is_served_for_its_time_and_the_next_one_waits_as_long():
    arrivals = [Arrival(0.0, "a", 0, 4.0), Arrival(1.0, "a", 0, 2.0), Arrival(9.0, "a", 0, 1.0)]
    visits = simulate(fairness.sluice(max_workers=1), arrivals)
    assert [visit.wait for visit in visits] == [0.0, 3.0, 0.0]


@pytest.mark.parametrize("open_pool", [fairness.fifo, fairness.sluice(per_owner=100)], ids=["FIFO", "Sluice"])
def test_five_run_thirty_wait_and_the_rest_is_refused(open_pool):
    visits = simulate(open_pool, [Arrival(0.0, "a", 0, 10.0)] * 40)
    assert [visit.refused for visit in visits] == [None] * 35 + ["queue_full"] * 5
    assert [visit.wait for visit in visits[:35]] == [10.0 * (number // 5) for number in range(35)]


def test_with_one_owner_and_one_class_the_ledger_is_a_plain_queue():
    """So the two differ by their order only, not by how they are simulated."""
    scenario = Scenario("", "class", (Crowd("only", 1, 0, 0.7),), {})
    arrivals = arrivals_of(scenario, 2000.0, 3)
    plain, fair = (
        simulate(pool, arrivals)
        for pool in (fairness.fifo, fairness.sluice(per_owner=100, aging_seconds=NEVER))
    )
    assert [(each.refused, each.granted) for each in plain] == [(each.refused, each.granted) for each in fair]
    assert any(each.refused for each in plain)


def test_arrivals_are_those_of_the_seed():
    scenario = SCENARIOS["flood"]
    assert arrivals_of(scenario, 100.0, 1) == arrivals_of(scenario, 100.0, 1)
    assert arrivals_of(scenario, 100.0, 1) != arrivals_of(scenario, 100.0, 2)


def test_the_pool_is_the_one_that_is_shipped():
    shipped = PoolConfig()
    for name in ("max_workers", "queue_size", "per_owner", "aging_seconds"):
        assert getattr(fairness.SHIPPED, name) == getattr(shipped, name), name


# --- Figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "index"), [([3, 3, 3], 1.0), ([1, 0, 0, 0], 0.25), ([1, 1, 0, 0], 0.5), ([0, 0], 1.0)]
)
def test_the_index_of_jain_chiu_and_hawe(shares, index):
    assert jain(shares) == pytest.approx(index)


def test_max_min_shares():
    """Nobody gets more than asked for; what the modest leave, the others share."""
    assert max_min_shares({"a": 1, "b": 10, "c": 10}, 9) == {"a": 1, "b": 4, "c": 4}
    assert max_min_shares({"a": 2, "b": 3}, 5) == {"a": 2, "b": 3}


def test_a_summary():
    arrival = Arrival(10.0, "a", 0, 1.0)
    visits = [Visit(arrival, granted=10.0 + wait, promised=4.0) for wait in (1, 2, 3, 4)]
    figures = fairness.summary([*visits, Visit(arrival, refused="queue_full")])
    assert (figures["asked"], figures["served"], figures["refused"]) == (5, 4, {"queue_full": 1})
    assert (figures["median"], figures["p95"], figures["max"]) == (2, 4, 4)
    assert figures["eta_error_median"] == 1.5


# --- A run --------------------------------------------------------------------------------------------


def test_a_result_tells_how_it_was_made(tiny):
    assert (tiny["seeds"], tiny["simulated_seconds_each"]) == ([7, 8], 600.0)
    assert set(tiny["versions"]) == {"python", "commit"}
    assert tiny["pool"]["max_workers"] == 5


def test_a_result_has_every_line_and_group(tiny):
    for name, scenario in TINY.items():
        stored = tiny["scenarios"][name]
        assert list(stored["lines"]) == list(scenario.lines)
        asked = {
            line: sum(each["asked"] for each in measured["by_class"].values())
            for line, measured in stored["lines"].items()
        }
        came = sum(len(arrivals_of(scenario, 600.0, seed)) for seed in (7, 8))
        assert set(asked.values()) == {came}, "the same arrivals for every line, each counted"
    assert tiny["scenarios"]["classes"]["groups"] == list(CLASSES)
    assert set(tiny["scenarios"]["crowds"]["lines"]["Sluice"]["by_owner"]) == {
        "many #0",
        "many #1",
        "many #2",
        "one",
    }


def test_who_was_not_refused_was_served_and_is_in_the_histogram(tiny):
    for scenario in tiny["scenarios"].values():
        for measured in scenario["lines"].values():
            for name, figures in measured["by_class"].items():
                assert figures["served"] + sum(figures["refused"].values()) == figures["asked"]
                assert sum(measured["histogram_by_class"][name].values()) == figures["served"]
                assert 0 <= figures["median"] <= figures["p95"] <= figures["max"]


def test_the_same_seeds_give_the_same_result(tiny):
    again = json.loads(json.dumps(fairness.run(TINY, 600.0, [7, 8])))
    assert again["scenarios"] == tiny["scenarios"]


def test_the_command_stores_result_and_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fairness, "SCENARIOS", TINY)
    monkeypatch.setattr(
        "sys.argv", ["fairness.py", "--seeds", "1", "--hours", "0.1", "--results", str(tmp_path)]
    )
    fairness.main()
    stored = json.loads((tmp_path / "fairness.json").read_text())
    assert list(stored["scenarios"]) == list(TINY)
    assert plot(stored) == (tmp_path / "fairness.svg").read_text()
    assert fairness.table(stored["scenarios"]["crowds"]) in capsys.readouterr().out


def test_the_picture_shows_every_group_line_and_figure(tiny):
    drawn = ElementTree.fromstring(plot(tiny))  # noqa: S314 - our own
    words = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    for scenario in tiny["scenarios"].values():
        assert scenario["title"] in words
        assert set(scenario["groups"]) | set(scenario["lines"]) <= set(words)
    assert sum("refused" in (each or "") for each in words) == 1 + 3 * 3 + 2 * 2


# --- What is stored and told --------------------------------------------------------------------------


def test_the_stored_result_is_of_these_scenarios():
    for name, scenario in SCENARIOS.items():
        stored = STORED["scenarios"][name]
        assert stored["title"] == scenario.title
        assert list(stored["lines"]) == list(scenario.lines)
    assert (ROOT / "benchmarks" / "results" / "fairness.svg").read_text(encoding="utf-8") == plot(STORED)


@pytest.mark.parametrize("name", SCENARIOS)
def test_with_the_default_settings_nobody_waited_longer_than_ten_services(name):
    """R20: a flood of low priority, and of high, and everything else that is simulated."""
    waits = [group["max"] for group in STORED["scenarios"][name]["lines"]["Sluice"]["by_class"].values()]
    assert max(waits) <= 10 * (SHORTEST + LONGEST) / 2


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_page_shows_the_stored_figures(name):
    assert fairness.table(STORED["scenarios"][name]) in PAGE
