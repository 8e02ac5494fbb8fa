"""`make run` on a new checkout: an administrator is there, and one link signs in, once."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.scale import ALL
from tests.support.servers import ROOT, STOP_LIMIT, environment, migrate, started

pytestmark = pytest.mark.server

OURS = (
    "accounts",
    "contentgen",
    "locale",
    "notebooks",
    "scripts",
    "settings",
    "streaming",
    "templates",
    "manage.py",
)

SETTINGS_OF_TESTS = set(environment(Path(), ENV_FILE="")) - set(os.environ)
"""Variables that a test server has and a shell has not."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree without .env and database, with the packages that are here already."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in OURS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    _script(folder / "scripts/bootstrap", "exit 0")
    (folder / ".venv/bin").mkdir(parents=True)
    _script(folder / ".venv/bin/python", f'exec "{sys.executable}" "$@"')
    return folder


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)


@contextmanager
def _run(checkout: Path) -> Iterator[tuple[str, str]]:
    """What `scripts/run` prints until it says how to sign in, and where it serves; stopped by Ctrl-C once it
    has answered."""
    dropped = {*SETTINGS_OF_TESTS, "ENV_FILE", "SECRET_KEY", "DEBUG", "HOST", "PORT", "DATABASE_URL"}
    process = subprocess.Popen(
        ["scripts/run", "--port", "0"],
        cwd=checkout,
        env={name: value for name, value in os.environ.items() if name not in dropped},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        printed = ""
        for line in process.stdout:
            printed += line
            if "Sign in" in line:
                break
        url = re.search(r"serves at (http://127\.0\.0\.1:\d+)", printed)
        assert url is not None, printed
        assert httpx2.get(f"{url[1]}/healthz", trust_env=False, timeout=STOP_LIMIT).status_code == 200
        yield printed, url[1]
        process.send_signal(signal.SIGINT)
        process.wait(STOP_LIMIT)
    finally:
        process.kill()
        process.communicate()


def test_the_first_run_prints_a_link_that_signs_in_once_and_the_next_one_a_hint(checkout: Path) -> None:
    with _run(checkout) as (printed, url):
        assert "made the local administrator admin" in printed
        links = re.findall(rf"{url}/accounts/signin/[\w-]{{43}}/", printed)
        assert len(links) == 1
        with httpx2.Client(trust_env=False) as browser, httpx2.Client(trust_env=False) as late:
            assert browser.head(links[0]).status_code == 405
            opened = browser.get(links[0])
            assert (opened.status_code, opened.headers["location"]) == (302, "/")
            assert opened.headers.get("referrer-policy") == "same-origin"
            assert browser.get(f"{url}/admin/").status_code == 200, "an administrator"
            assert late.get(links[0]).status_code == 410
            assert late.get(f"{url}/admin/").status_code == 302, "nobody"

    if ALL:
        with _run(checkout) as (printed, _):
            assert "administrator" not in printed
            assert "/accounts/signin/" not in printed
            assert "manage.py signin_link" in printed


@pytest.fixture(scope="module")
def administered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder, and the environment of servers whose database has the local administrator."""
    folder = tmp_path_factory.mktemp("administered")
    env = environment(folder, DEBUG="false", SECRET_KEY=secrets.token_urlsafe(48))
    migrate(env)
    subprocess.run([sys.executable, "manage.py", "local_admin"], cwd=ROOT, env=env, check=True, timeout=60)
    return folder, env


@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("127.0.0.1", marks=pytest.mark.long)])  # noqa: S104
def test_no_link_is_printed_without_debug(administered: tuple[Path, dict[str, str]], host: str) -> None:
    """With it nothing is served in public."""
    folder, env = administered
    with started("serve", folder, env | {"HOST": host}) as server:
        server.stop()
    assert "Sluice serves at" in server.log()
    assert "/accounts/signin/" not in server.log()
    assert "Sign in" not in server.log()
