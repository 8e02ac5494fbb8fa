"""Make .venv-newest: the newest Python that this machine has, with the newest packages that pyproject.toml's
ranges admit, Django above all. Called by scripts/test-newest; ends with 3 where there is nothing newer.

Nothing is downloaded but packages, and these are resolved anew each time: what is locked is tested elsewhere.
Interpreters are those on PATH and pyenv's; NEWEST_PYTHON names another one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import make_venv

VENV: Final = os.path.join(make_venv.ROOT, ".venv-newest")

NOTHING_NEWER: Final = 3
"""The exit code where there is none."""

OWN: Final = sys.version_info[:2]

EXTRAS: Final = ("postgresql", "cluster", "compression", "opentelemetry")

# Not a version before its release: packages have no wheels for it.
_ASK: Final = (
    "import sys, ensurepip, ssl, sqlite3\n"
    "v = sys.version_info\n"
    "print(v[0], v[1], v[2], v.releaselevel == 'final')"
)


def main() -> int:
    """Make it, or say why not."""
    uv = shutil.which("uv", path=os.path.join(make_venv.ROOT, ".venv", "bin"))
    if uv is None:
        return _skip("uv could not be installed")
    found = newest(candidates())
    if found is None:
        return _skip(f"no Python newer than {OWN[0]}.{OWN[1]} as python3.x or in pyenv (NEWEST_PYTHON)")
    python, version = found
    environment = make_venv.uv_environment()
    name = ".".join(map(str, version))
    with make_venv.step(f"making .venv-newest with Python {name}"):
        make_venv.call([uv, "venv", "--quiet", "--clear", "--python", python, VENV], environment)
        extras = [word for extra in EXTRAS for word in ("--extra", extra)]
        where = ["--python", os.path.join(VENV, "bin", "python")]
        what = ["--upgrade", "-r", "pyproject.toml", *extras, "--group", "test"]
        make_venv.call([uv, "pip", "install", "--no-progress", *where, *what], environment)
    django = make_venv.output_of(where[1], "-c", "import django; print(django.__version__)").strip()
    print(f"test-newest: Python {name}, Django {django}", flush=True)
    return 0


def _skip(reason: str) -> int:
    print(f"test-newest: SKIPPED: {reason}", file=sys.stderr)
    return NOTHING_NEWER


def candidates() -> Iterator[str]:
    """Interpreters that may be here, each by its path."""
    if named := os.environ.get("NEWEST_PYTHON"):
        yield shutil.which(named) or named
        return
    for minor in range(OWN[1] + 1, OWN[1] + 20):
        if found := shutil.which(f"python3.{minor}"):
            yield found
    if shutil.which("pyenv"):
        done = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False)
        for path in Path(done.stdout.strip() or os.devnull).glob("versions/3.*/bin/python"):
            yield str(path)


def newest(paths: Iterator[str]) -> tuple[str, tuple[int, int, int]] | None:
    """The newest of them that is whole and newer than this one, with its version. A command of pyenv's may
    stand for an interpreter that is switched off: only what runs counts."""
    best: tuple[str, tuple[int, int, int]] | None = None
    for path in paths:
        try:
            answer = make_venv.output_of(path, "-c", _ASK).split()
        except (OSError, subprocess.CalledProcessError):
            continue
        version = (int(answer[0]), int(answer[1]), int(answer[2]))
        if answer[3] == "True" and version[:2] > OWN and (best is None or version > best[1]):
            best = path, version
    return best


if __name__ == "__main__":
    try:
        sys.exit(main())
    except make_venv.Failed as failure:
        print(f"{failure}\ntest-newest: the environment could not be made", file=sys.stderr)
        sys.exit(1)
