"""Scale, seed and figures of the fault scripts.

`make test` runs them short, `make faults` long (FAULTS=long). FAULTS_SEED chooses the seed. Each script
says its figures in one line; all lines stand together at the end.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pytest

from tests.support.scale import LONG_FAULTS

T = TypeVar("T")

FIGURES: Final = "figures"

SEED: Final = 2026
"""Where none is chosen: the same each time, so that a change of the code is what changes the result."""

LONG_LIMIT: Final = 3_600
"""Seconds for one long script."""


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    long: bool

    def __call__(self, short: T, long: T) -> T:
        """The one of the two that this run takes."""
        return long if self.long else short


@dataclass
class Figures:
    """Says what was measured, in one line for each script."""

    request: pytest.FixtureRequest
    seed: int

    def __call__(self, row: str, **numbers: Any) -> None:
        """Note the figures of `row`: words and numbers, times in seconds unless the name says otherwise."""
        case = self.request.node.name.partition("[")[2].rstrip("]")
        said = ", ".join(f"{name.replace('_', ' ')} {_written(value)}" for name, value in numbers.items())
        line = f"{row}{f' ({case})' if case else ''}: {said}; seed {self.seed}"
        self.request.node.user_properties.append((FIGURES, line))
        reporter = self.request.config.pluginmanager.get_plugin("terminalreporter")
        capture = self.request.config.pluginmanager.get_plugin("capturemanager")
        if reporter is not None and capture is not None:
            with capture.global_and_fixture_disabled():
                reporter.write_line("")
                reporter.write_line(line)


def _written(value: Any) -> str:
    return (
        f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )


@pytest.fixture(scope="session")
def scale() -> Scale:
    """Short or long."""
    return Scale(LONG_FAULTS)


@pytest.fixture(scope="session")
def seed() -> int:
    """Where chance begins."""
    return int(os.environ.get("FAULTS_SEED") or SEED)


@pytest.fixture
def dice(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Chance of this script alone: the same whichever others run."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture
def figures(seed: int, request: pytest.FixtureRequest) -> Callable[..., None]:
    """See `Figures`."""
    return Figures(request, seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long scripts may take long."""
    if LONG_FAULTS:
        for item in items:
            if "faults" in item.path.parts:
                item.add_marker(pytest.mark.timeout(LONG_LIMIT))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """All figures together."""
    lines = [
        line
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, line in report.user_properties
        if name == FIGURES
    ]
    if lines:
        terminalreporter.section("figures of the fault scripts")
        for line in lines:
            terminalreporter.write_line(line)
