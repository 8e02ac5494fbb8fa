"""The locked requirements: whole, hashed, within pyproject.toml's ranges, without a machine's traces."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Nothing but this may stand in a requirements file, so no index, host or path can.
HEADER = "# Made by scripts/lock from pyproject.toml: do not edit."
LOCKED = re.compile(
    r"(?P<requirement>[a-z0-9][a-z0-9-]*(\[[a-z0-9,-]+\])?==[0-9][0-9a-z.+!]*( ; [a-z0-9_.()'<>=! -]+)?)"
    r"(?P<hashes>( --hash=sha256:[0-9a-f]{64})*)",
    re.IGNORECASE,
)


def logical_lines(path: Path) -> list[str]:
    """The lines with their continuations joined by one space."""
    return re.sub(r" *\\\n *", " ", path.read_text(encoding="utf-8")).splitlines()


def locked(name: str) -> dict[str, set[str]]:
    """Package → the versions locked for it (several where a marker chooses)."""
    versions: dict[str, set[str]] = {}
    for line in logical_lines(ROOT / "requirements" / f"{name}.txt")[1:]:
        requirement = Requirement(line.split(" --hash=")[0])
        version = str(requirement.specifier).removeprefix("==")
        versions.setdefault(canonicalize_name(requirement.name), set()).add(version)
    return versions


def declared(name: str) -> list[Requirement]:
    """What pyproject.toml asks for in the set."""
    groups = PROJECT["dependency-groups"]
    wanted = {
        "run": PROJECT["project"]["dependencies"],
        "test": [*PROJECT["project"]["dependencies"], *groups["test"], *groups["dev"]],
        "bench": [*PROJECT["project"]["dependencies"], *groups["test"], *groups["dev"], *groups["bench"]],
        "uv": groups["installer"],
    }[name]
    return [Requirement(text) for text in wanted if isinstance(text, str)]


def test_the_sets_are_these() -> None:
    assert [path.stem for path in FILES] == ["bench", "run", "test", "uv"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_host_no_path_and_a_hash_for_each(path: Path) -> None:
    header, *lines = logical_lines(path)
    assert header == HEADER
    assert lines
    for line in lines:
        match = LOCKED.fullmatch(line)
        assert match, f"{path.name}: not a plain pin: {line[:100]}"
        assert match["hashes"], f"{path.name}: no hash: {match['requirement']}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_everything_declared_is_locked_within_its_range(path: Path) -> None:
    versions = locked(path.stem)
    for requirement in declared(path.stem):
        pins = versions.get(canonicalize_name(requirement.name))
        assert pins, f"{requirement} is not in {path.name}: run `make lock`"
        for pin in pins:
            assert requirement.specifier.contains(pin), (
                f"{path.name} has {pin} for {requirement}: run `make lock`"
            )


@pytest.mark.parametrize(("larger", "smaller"), [("test", "run"), ("bench", "test")])
def test_a_set_holds_the_smaller_ones(larger: str, smaller: str) -> None:
    """scripts/bootstrap takes the test set for the run set as well, and the set of benchmarks for both."""
    expected, found = locked(smaller), locked(larger)
    assert {name: found.get(name) for name in expected} == expected
