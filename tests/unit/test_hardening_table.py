"""`docs/hardening.md` has every row, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Final

import pytest

from tests.support.servers import ROOT

PAGE: Final = (ROOT / "docs" / "hardening.md").read_text(encoding="utf-8")

COUNTS: Final = {"R": 33, "S": 25, "J": 19, "H": 11, "L": 8, "W": 8, "K": 13, "E": 7}
"""Rows of each family."""

ROWS: Final = dict(re.findall(r"^\| ([RSJHLWKE]\d+) (\|.*)$", PAGE, re.MULTILINE))


@cache
def known_in(path: str) -> set[str]:
    """The names of the tests in a file; none where there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")}


def unknown(text: str) -> list[str]:
    """The tests in backticks that do not exist; a file alone stands for its tests."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    return [
        f"{path}::{name}" for path, name in named if not (known_in(path) & {name} if name else known_in(path))
    ]


def test_every_row_is_there_once_and_in_order() -> None:
    found = re.findall(r"^\| ([RSJHLWKE]\d+) \|", PAGE, re.MULTILINE)
    assert found == [f"{family}{number + 1}" for family, count in COUNTS.items() for number in range(count)]


@pytest.mark.parametrize("row", ROWS)
def test_each_row_has_its_tests_or_says_why_not(row: str) -> None:
    assert "`tests/" in ROWS[row] or "not in `make test`" in ROWS[row]


def test_every_test_that_is_named_exists() -> None:
    assert unknown(PAGE) == []


def test_what_does_not_exist_is_noticed() -> None:
    page = (
        "`tests/unit/test_docs.py::test_no_such`, `tests/unit/test_docs.py`, `tests/unit/no_such.py::test_x`"
    )
    assert unknown(page) == ["tests/unit/test_docs.py::test_no_such", "tests/unit/no_such.py::test_x"]
