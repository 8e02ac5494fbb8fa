"""Which Python `make test-all` takes beside the locked one."""

from __future__ import annotations

from pathlib import Path

from scripts import make_newest_venv


def test_the_newest_that_runs_is_released_and_newer_than_this_one(tmp_path: Path) -> None:
    major, own = make_newest_venv.OWN

    def interpreter(name: str, says: str) -> str:
        """A command that answers so; nothing: it fails, as a switched-off one of pyenv."""
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{f'echo {says}' if says else 'exit 127'}\n", encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    same = interpreter("same", f"{major} {own} 99 True")
    newer = interpreter("newer", f"{major} {own + 1} 4 True")
    newest = interpreter("newest", f"{major} {own + 2} 0 True")
    unreleased = interpreter("unreleased", f"{major} {own + 3} 0 False")
    broken = interpreter("broken", "")
    absent = str(tmp_path / "absent")

    found = make_newest_venv.newest(iter([same, newest, newer, unreleased, broken, absent]))
    assert found == (newest, (major, own + 2, 0))
    assert make_newest_venv.newest(iter([same, unreleased, broken, absent])) is None
