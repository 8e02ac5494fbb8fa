"""The locked requirements: whole, hashed, within pyproject.toml's ranges, without a machine's traces."""

import re
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import audit, make_venv
from streaming import packages

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
    groups, extras = PROJECT["dependency-groups"], PROJECT["project"]["optional-dependencies"]
    wanted = {
        "run": [*PROJECT["project"]["dependencies"], *extras["postgresql"], *extras["cluster"]],
        "full": [*PROJECT["project"]["dependencies"], *(each for extra in extras.values() for each in extra)],
        "test": [*PROJECT["project"]["dependencies"], *groups["test"], *groups["dev"]],
        "bench": [*PROJECT["project"]["dependencies"], *groups["test"], *groups["dev"], *groups["bench"]],
        "uv": groups["installer"],
    }[name]
    return [Requirement(text) for text in wanted if isinstance(text, str)]


def test_the_sets_are_these() -> None:
    assert [path.stem for path in FILES] == ["bench", "full", "run", "test", "uv"]


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


@pytest.mark.parametrize(("larger", "smaller"), [("full", "run"), ("test", "full"), ("bench", "test")])
def test_a_set_holds_the_smaller_ones(larger: str, smaller: str) -> None:
    """scripts/bootstrap takes a larger set for the smaller ones, too."""
    expected, found = locked(smaller), locked(larger)
    assert {name: found.get(name) for name in expected} == expected


# --- Where they are installed -------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["", "uv", "pip_as_well"])
def test_the_scripts_install_nothing_without_hashes(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """Neither with uv nor, where that fails, with pip."""
    commands: list[list[str]] = []

    def call(command: list[str], environment: dict[str, str]) -> None:
        commands.append(command)
        if broken and (command[0].endswith("/uv") or broken != "uv"):
            raise make_venv.Failed("broken")

    monkeypatch.setattr(make_venv, "call", call)
    monkeypatch.setattr(make_venv, "pip_configuration", dict)
    with suppress(make_venv.Failed):
        make_venv.install("run")
    assert len(commands) >= 2
    assert all("--require-hashes" in command for command in commands)


def test_the_image_is_built_with_hashes_and_has_the_packages_of_every_setting() -> None:
    (line,) = re.findall(r"^RUN .*pip install.*$", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    assert "--require-hashes" in line
    assert line.endswith("full.txt")


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("deploy-*.md")), ids=lambda path: path.stem)
def test_no_page_of_a_deployment_installs_by_another_way(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if "pip install" in line:
            assert "--require-hashes" in line, line


@pytest.mark.parametrize(("package", "line", "first", "reason"), packages.FLOORS)
def test_no_range_admits_what_is_known_to_be_bad(package: str, line: str, first: str, reason: str) -> None:
    """Of a line that a range has at all, the releases before the first good one."""
    extras = PROJECT["project"]["optional-dependencies"]
    texts = [*PROJECT["project"]["dependencies"], *(each for extra in extras.values() for each in extra)]
    (ours,) = [found for found in map(Requirement, texts) if found.name == package]
    *front, last = first.split(".")
    bad = [line or "1.0", *(".".join([*front, str(patch)]) for patch in range(int(last)))]
    assert [version for version in bad if ours.specifier.contains(version)] == []


def test_no_package_holds_all_keys() -> None:
    for path in FILES:
        assert not locked(path.stem).keys() & audit.NEVER.keys()
