"""What `deploy/` ships for systemd and containers, as far as it can be tried without either."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming import conf
from tests.support.servers import ROOT, Server, environment, free_port, migrate, started

pytestmark = pytest.mark.server

DEPLOY = ROOT / "deploy"

UNIT = (DEPLOY / "sluice.service").read_text()

DOCKERFILE = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())

HOME = "/srv/sluice"
"""Where the project is, in the unit and in the image."""

TIME_LIMIT = 60


# --- systemd ------------------------------------------------------------------------------------------

systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd"
)


def _value(name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    assert len(found) == 1, (name, found)
    return str(found[0])


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, in a folder of its own, with a home that exists."""
    home = tmp_path / "home"
    (home / ".venv/bin").mkdir(parents=True)
    (home / ".venv/bin/python").symlink_to(sys.executable)
    path = tmp_path / "sluice.service"
    path.write_text(UNIT.replace(HOME, str(home)))
    return path


def _systemd_analyze(*arguments: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@systemd
def test_systemd_understands_the_unit(unit: Path) -> None:
    assert _systemd_analyze("verify", "--man=no", str(unit)) == ""


@systemd
def test_a_mistake_in_the_unit_would_be_noticed(unit: Path) -> None:
    unit.write_text(UNIT.replace("ProtectSystem=strict", "ProtectSystem=srtict"))
    with pytest.raises(AssertionError):
        assert _systemd_analyze("verify", "--man=no", str(unit)) == ""


@systemd
def test_the_exposure_is_what_the_page_says(unit: Path) -> None:
    try:
        table = _systemd_analyze("security", "--offline=true", str(unit))
    except AssertionError as error:
        if "unrecognized option" in str(error):
            pytest.skip("this systemd-analyze judges no files: it is older than 250")
        raise
    level = re.search(r"Overall exposure level for sluice\.service: ([\d.]+)", table)
    stated = re.search(r"exposure level of ([\d.]+)", (ROOT / "docs/deploy-systemd.md").read_text())
    assert level is not None
    assert stated is not None
    assert float(level[1]) <= float(stated[1]) + 0.2, "other versions count a little differently"


def test_the_unit_waits_as_long_as_the_server_drains() -> None:
    assert float(_value("TimeoutStopSec")) > 2 * (conf.SSEConfig().drain_grace + 7)
    assert int(_value("LimitNOFILE")) > 4 * conf.ServerConfig().limit_concurrency
    assert "PYTHONUNBUFFERED=1" in _value("Environment").split()


# --- The settings of the example ----------------------------------------------------------------------


def _checked_by_the_unit(folder: Path, *options: str, **changes: str) -> tuple[int, str]:
    """Exit code and errors of what the unit runs before it starts, with the example's settings."""
    (line,) = re.findall(r"^ExecStartPre=\S+/python (.* check .*)$", UNIT, re.MULTILINE)
    env = environment(folder)
    kept = {name: env[name] for name in ("SECRET_KEY", "DATABASE_URL", "PATH")}
    done = subprocess.run(
        [sys.executable, *shlex.split(line), *options],
        cwd=ROOT,
        env={**kept, "ENV_FILE": str(DEPLOY / "sluice.env.example"), **changes},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "changes",
    [{}, {"SECURE_SSL_REDIRECT": "true", "TRUSTED_PROXIES": ""}],
    ids=["the proxy redirects", "redirects itself"],
)
def test_the_settings_are_sound(tmp_path: Path, changes: dict[str, str]) -> None:
    """Not one warning, ours or Django's."""
    code, errors = _checked_by_the_unit(tmp_path, "--fail-level", "WARNING", **changes)
    assert code == 0, errors
    assert re.findall(r"\w+\.[EW]\d+", errors) == []


def test_the_unit_starts_nothing_that_is_an_open_door(tmp_path: Path) -> None:
    """Nor where the server listens on this machine alone, and nobody told it of a proxy."""
    code, errors = _checked_by_the_unit(tmp_path, DEBUG="true", TRUSTED_PROXIES="")
    assert code != 0
    assert "streaming.E008" in errors
    assert "streaming.E011" in errors


# --- The image ----------------------------------------------------------------------------------------


def _copied() -> list[tuple[str, str]]:
    """What the last stage takes from the project, and where to."""
    stage = DOCKERFILE.split("\nFROM ")[-1]
    found = re.findall(r"^COPY (?!--from)(\S+) (\S+)$", stage, re.MULTILINE)
    assert found, "a check that looks at nothing finds nothing"
    return [(source, target) for source, target in found]


def _commands(word: str) -> list[list[str]]:
    return [json.loads(each) for each in re.findall(rf"\b{word} (\[.*\])$", DOCKERFILE, re.MULTILINE)]


def _environment_of_the_image() -> dict[str, str]:
    (line,) = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    return dict(each.split("=", 1) for each in shlex.split(line))


def test_everything_that_is_copied_is_there_and_let_in() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines, "what is not named stays outside"
    sources = [source for source, _ in _copied()] + re.findall(
        r"^COPY (requirements\S+) ", DOCKERFILE, re.MULTILINE
    )
    for source in sources:
        assert (ROOT / source).exists(), source
    assert {line[1:] for line in lines if line.startswith("!")} == set(sources)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the image in their folder."""
    folder = tmp_path_factory.mktemp("image")
    for source, target in _copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / target)
        else:
            shutil.copy(ROOT / source, folder / target)
    return folder


@pytest.fixture(scope="module")
def running_image(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What the image runs, with nothing else of the project around it."""
    data = tmp_path_factory.mktemp("data")
    own = _environment_of_the_image()
    secrets = environment(data)
    env = {
        **own,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOST": "127.0.0.1",
        **{name: secrets[name] for name in ("SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL")},
    }
    migrate(env)
    port = free_port()
    (command,) = [each for each in _commands("CMD") if "serve" in each]
    assert command == ["python", "manage.py", "serve"]
    with started("serve", data, {**env, "PORT": str(port)}, image, port) as server:
        yield server


def test_the_image_holds_all_that_a_server_needs(running_image: Server) -> None:
    for path in ("/static/streaming/page/viewer.js", "/accounts/login/", "/docs"):
        done = subprocess.run(
            [
                "curl",
                "-s",
                "-o",
                os.devnull,
                "-w",
                "%{http_code}",
                "--noproxy",
                "*",
                running_image.url + path,
            ],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
        assert done.stdout == "200", path
    assert "Traceback" not in running_image.log()


def _healthy(command: list[str], port: int) -> bool:
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PORT": str(port)}
    done = subprocess.run(command, env=env, capture_output=True, timeout=TIME_LIMIT)
    return done.returncode == 0


def test_the_image_s_health_is_asked_for(running_image: Server) -> None:
    (command,) = [each for each in _commands("CMD") if "-c" in each]
    assert _healthy(command, running_image.port)
    assert not _healthy(command, free_port())


def test_the_unit_s_readiness_is_asked_for(running_image: Server) -> None:
    """With the address of what is always there, and without patience."""
    line = _value("ExecStartPost")
    assert line.endswith("/readyz")
    line = (
        line.replace("/readyz", "/healthz")
        .replace("--retry 60", "--retry 0")
        .replace("/usr/bin/curl", "curl")
    )
    for port, answer in ((running_image.port, True), (free_port(), False)):
        assert _healthy(shlex.split(line.replace("${PORT}", str(port))), port) is answer
