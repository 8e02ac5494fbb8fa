"""R32, short: rounds of random faults over two processes, and over one. `make chaos` runs as many as one
likes, over a cluster, too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.faults import kinds
from tests.chaos.house import house
from tests.chaos.plan import Mode, Scale, draw
from tests.chaos.rounds import play, tell
from tests.faults.conftest import Figures
from tests.support.postgresql import Cluster
from tests.support.scale import LONG_FAULTS

pytestmark = pytest.mark.server

SHORT = Scale(clients=15, seconds=2.0, faults=1, herd=40)

ONLY = ("kill-web", "cut-all-lines") if LONG_FAULTS else ("kill-web",)
"""What is over soon, and yet ends something: the others take the time of a restart each."""

CALLERS = ("freeze-readers", "leave-early", "flood", "fail-upstream", "burden-loop")

ALONE = ("kill-web", "drain-web", "cut-all-lines", "starve-files", "fill-disk", *CALLERS)


@pytest.mark.load
async def test_random_faults_break_no_rule(
    postgresql: Cluster, tmp_path: Path, seed: int, figures: Figures
) -> None:
    await _play("processes", ONLY, tmp_path, seed, figures, postgresql)


@pytest.mark.load
@pytest.mark.long
async def test_random_faults_break_no_rule_where_there_is_one_process(
    tmp_path: Path, seed: int, figures: Figures
) -> None:
    """As `make run` has it: nobody takes over, and the next process finds what the last one left."""
    await _play("embedded", ALONE, tmp_path, seed, figures)


async def _play(
    mode: Mode,
    faults: Sequence[str],
    folder: Path,
    seed: int,
    figures: Figures,
    database: Cluster | None = None,
) -> None:
    async with house(mode, folder, database) as home:
        for number, fault in enumerate(faults, 1):
            plan = draw(mode, seed, number, kinds(mode, [fault]), len(home.webs), SHORT)
            report = await play(home, plan)
            again = f"scripts/faults -k chaos, with FAULTS_SEED={seed}"
            assert report.violations == [], tell(report, again)
            figures("R32 " + fault, seconds=report.seconds, **report.figures)
