"""The laws that `scripts/mutants` breaks are there to be broken, and tests are named for each."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.__main__ import ROOT, broken
from tests.mutants.laws import LAWS, Mutant


@pytest.mark.parametrize("mutant", LAWS, ids=lambda each: each.law)
def test_each_law_can_be_broken_in_one_place(mutant: Mutant) -> None:
    whole = (ROOT / mutant.file).read_text()
    changed = broken(mutant, whole)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(whole))
    for test in mutant.tests.split():
        assert (ROOT / test).is_file(), test


def test_each_law_has_a_name_of_its_own() -> None:
    assert len({each.law for each in LAWS}) == len(LAWS)
