"""`python -m tests.mutants [WORD...]`: break each law, or those with all these words, and run its tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from .laws import LAWS, Mutant

ROOT: Final = Path(__file__).parents[2]

COPIED: Final = ("streaming", "contentgen", "notebooks", "accounts", "settings", "tests")

TIME_LIMIT: Final = 120.0
"""Seconds for the tests of one law; who does not come back is as broken as who fails."""

FAILED: Final = 1
"""pytest's exit code where tests ran and some of them failed."""


def main(words: Sequence[str]) -> int:
    """Break what `words` choose (all without any); the exit code is 1 if a broken law was not noticed."""
    chosen = [each for each in LAWS if all(word in f"{each.law} {each.file}" for word in words)]
    begun = time.monotonic()
    copies: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        jobs = max(1, min(os.cpu_count() or 1, len(chosen)))
        for number in range(jobs):
            copies.put(_copy(Path(folder, str(number))))
        with ThreadPoolExecutor(jobs) as threads:
            verdicts = list(threads.map(lambda each: _tell(each, _verdict(each, copies)), chosen))
    survived = sum(verdict != "noticed" for verdict in verdicts)
    print(f"{len(chosen)} laws broken, {survived} of them unnoticed, in {time.monotonic() - begun:.0f} s")
    return 1 if survived or not chosen else 0


def _copy(folder: Path) -> Path:
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "manage.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def _verdict(mutant: Mutant, copies: SimpleQueue[Path]) -> str:
    copy = copies.get()
    file = copy / mutant.file
    whole = file.read_text()
    try:
        file.write_text(broken(mutant, whole))
        return _run(mutant, copy)
    finally:
        file.write_text(whole)
        copies.put(copy)


def broken(mutant: Mutant, whole: str) -> str:
    """The file's text with the law broken. Raises `ValueError` where the place is not there, or twice."""
    if whole.count(mutant.old) != 1:
        raise ValueError(f"{mutant.law}: {mutant.file} has {mutant.old!r} {whole.count(mutant.old)} times")
    return whole.replace(mutant.old, mutant.new)


def _run(mutant: Mutant, copy: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests.split()]
    # Without bytecode: two changes within a second, of one length, would look the same to the importer.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(
            command, cwd=copy, env=env, timeout=TIME_LIMIT, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        return "noticed"
    if ran.returncode == FAILED:
        return "noticed"
    return (
        "UNNOTICED"
        if ran.returncode == 0
        else f"ERROR {ran.returncode}\n{ran.stdout[-2000:]}{ran.stderr[-500:]}"
    )


def _tell(mutant: Mutant, verdict: str) -> str:
    print(f"{verdict:10} {mutant.file}: {mutant.law}", flush=True)
    return verdict


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
