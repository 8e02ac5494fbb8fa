"""R32, short: rounds of random faults over two processes. `make chaos` runs as many as one likes, over a
cluster, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults import kinds
from tests.chaos.house import house
from tests.chaos.plan import Scale, draw
from tests.chaos.rounds import play, tell
from tests.faults.conftest import Figures
from tests.support.postgresql import Cluster
from tests.support.scale import LONG_FAULTS

pytestmark = pytest.mark.server

SHORT = Scale(clients=15, seconds=2.0, faults=1, herd=40)

ONLY = ("kill-web", "cut-all-lines") if LONG_FAULTS else ("kill-web",)
"""What is over soon, and yet ends something: the others take the time of a restart each."""


@pytest.mark.load
async def test_random_faults_break_no_rule(
    postgresql: Cluster, tmp_path: Path, seed: int, figures: Figures
) -> None:
    async with house("processes", tmp_path, postgresql) as home:
        for number, fault in enumerate(ONLY, 1):
            plan = draw("processes", seed, number, kinds("processes", [fault]), len(home.webs), SHORT)
            report = await play(home, plan)
            again = f"scripts/faults -k chaos, with FAULTS_SEED={seed}"
            assert report.violations == [], tell(report, again)
            figures("R32 " + fault, seconds=report.seconds, **report.figures)
