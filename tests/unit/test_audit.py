"""The audit of packages: what it does with each answer of a list of vulnerabilities. No network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts import audit

SAFE: dict[str, Any] = {"name": "django", "version": "5.2.19", "vulns": []}
UNSAFE: dict[str, Any] = {
    "name": "django",
    "version": "3.2.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3.2.1"]}],
}
SKIPPED: dict[str, Any] = {"name": "uv", "skip_reason": "not found"}


def answering(control: dict[str, Any], *entries: dict[str, Any], down: tuple[str, ...] = ()) -> audit.Audit:
    """A service that says `control` of the control and `entries` of all else; who is `down` does not."""

    def ask(service: str, path: Path) -> Any:
        if service in down:
            raise audit.Unavailable("does not answer (ConnectionError)")
        return {"dependencies": [control] if path.name == "control.txt" else list(entries)}

    return ask


def test_what_a_list_names_is_told_with_the_version_that_mends_it():
    assert [*audit.vulnerabilities(answering(UNSAFE, SAFE, UNSAFE))] == [
        "django 3.2.0: PYSEC-1, CVE-1; versions without it: 3.2.1"
    ]


def test_a_list_that_names_none_is_a_clean_answer(capsys):
    assert [*audit.vulnerabilities(answering(UNSAFE, SAFE))] == []
    assert capsys.readouterr().out == "audit: pypi was asked for 1 locked packages\n"


def test_packages_that_it_does_not_know_are_told(capsys):
    assert [*audit.vulnerabilities(answering(UNSAFE, SAFE, SKIPPED))] == []
    assert "audit: it does not know uv\n" in capsys.readouterr().out


def test_where_one_is_down_the_next_is_asked(capsys):
    assert len([*audit.vulnerabilities(answering(UNSAFE, UNSAFE, down=("pypi",)))]) == 1
    assert "osv was asked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (answering(UNSAFE, UNSAFE, down=("pypi", "osv")), "does not answer (ConnectionError)"),
        # A mirror of packages: it answers, and knows of nothing.
        (answering(SAFE, SAFE), "names no vulnerability of a version that has some"),
        (answering(SKIPPED, SKIPPED), "names no vulnerability of a version that has some"),
    ],
)
def test_where_nobody_knows_one_line_says_so_and_nothing_fails(capsys, ask, words):
    assert [*audit.vulnerabilities(ask)] == []
    (line,) = capsys.readouterr().out.splitlines()
    assert "were NOT looked up" in line
    assert f"pypi (pypi.org) {words}" in line
    assert f"osv (api.osv.dev) {words}" in line


def test_our_own_table_finds_nothing_in_the_project():
    assert [*audit.known_faults()] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("django==5.2.13 \\", "django 5.2.13 is older than 5.2.14"),
        ("daphne==4.2.1 ; python_full_version < '3.12' \\", "daphne 4.2.1 is older than 4.2.2"),
        ("redis[hiredis]==4.5.4 \\", "redis 4.5.4 is older than 4.5.5"),
        ("litellm==1.99.0 \\", "litellm: a gateway"),
    ],
)
def test_it_would_find_them_there(monkeypatch, tmp_path, line, words):
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/run.txt").write_text(f"{line}\n    --hash=sha256:00\n", encoding="utf-8")
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    (found,) = audit.known_faults()
    assert found.startswith(f"run.txt: {words}")
