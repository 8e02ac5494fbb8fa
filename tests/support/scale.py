"""How much of everything this run takes, as its environment says."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.support.postgresql import find_programs

ALL: Final = os.environ.get("TESTS") == "all"
"""`make test-all`: also what has the mark `long`, and all examples of properties."""

LONG_FAULTS: Final = os.environ.get("FAULTS") == "long"
"""`make faults`: fault scripts at full length."""

SERVERS: Final = ("serve", pytest.param("daphne", marks=pytest.mark.long))
"""The kinds of servers that tests take by turns: Daphne in longer runs, and where the mark `every_variant`
says that what is looked at is decided in front of Django."""

DATABASES: Final = (
    pytest.param("sqlite", marks=[pytest.mark.long] if find_programs() else []),
    "postgresql",
)
"""The databases that processes share: PostgreSQL where there is one; SQLite, too, in longer runs and where
the mark `every_variant` says so."""

TOGETHER: Final = ("serve", "daphne") if ALL else ("serve",)
"""The same for tests whose servers all run at once."""
