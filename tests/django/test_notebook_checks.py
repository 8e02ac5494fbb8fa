"""The system checks of kernels, and that a server with an error does not start."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import OperationalError
from django.test import override_settings

from notebooks import checks, conf
from tests.support.servers import ROOT, environment, migrate, started

ON: dict[str, Any] = {"KERNELS_ENABLED": "true", "ALLOW_ANONYMOUS": "false", "DEBUG": True}


def kernels(**changes: Any) -> dict[str, Any]:
    return {"KERNEL_CONFIG": {**settings.KERNEL_CONFIG, **changes}}


def told(**changes: Any) -> list[tuple[str, str]]:
    with override_settings(**{**ON, **changes}):
        found = [*checks.check_kernels(None), *checks.check_who_runs_code(None, databases=["default"])]
    return [(str(message.id), message.msg) for message in found]


def ids(**changes: Any) -> list[str]:
    return [number for number, _ in told(**changes)]


@pytest.fixture
def runners(db: None) -> list[User]:
    """Two users who may run code."""
    may = Permission.objects.get(codename="run_code")
    users = [User.objects.create_user(name) for name in ("ada", "grace")]
    for user in users:
        user.user_permissions.add(may)
    return users


pytestmark = pytest.mark.django_db


def test_nothing_is_told_where_nobody_runs_code(runners: list[User]) -> None:
    assert ids(KERNELS_ENABLED="false", ALLOW_ANONYMOUS="true", DEBUG=False, THREAD_CONFIG={}) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"KERNELS_ENABLED": "yes"}, "KERNELS_ENABLED is 'yes'"),
        (kernels(max_kernels=0), "KERNEL_MAX_KERNELS"),
        (kernels(per_owner=-1), "KERNEL_PER_OWNER"),
        (kernels(nothing=1), "nothing"),
        (kernels(sandbox="env 'a"), "KERNEL_SANDBOX: No closing quotation"),
        (kernels(sandbox="{home}/run --"), "KERNEL_SANDBOX: {home} stands for nothing"),
        (kernels(sandbox="run {} --"), "KERNEL_SANDBOX: {} stands for nothing"),
    ],
)
def test_values_that_cannot_be_right(changes: dict[str, Any], words: str) -> None:
    ((number, text),) = told(**changes)
    assert number == "notebooks.E001"
    assert words in text


GATEWAY: dict[str, Any] = {"KERNEL_GATEWAY": {"url": "http://10.0.0.1:8888/hub", "token": "t0ken"}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"url": "ftp://host"}, "KERNEL_GATEWAY_URL is no address"),
        ({"url": "http://ada:secret@host"}, "KERNEL_GATEWAY_URL is no address"),
        ({"url": "http://host/?token=secret"}, "KERNEL_GATEWAY_URL is no address"),
        ({"url": "http://host:99999"}, "KERNEL_GATEWAY_URL is no address"),
        ({"token": "secret\n"}, "KERNEL_GATEWAY_TOKEN holds a blank"),
        ({"token": 5}, "KERNEL_GATEWAY_TOKEN must be text"),
        ({"kernel": "a b"}, "KERNEL_GATEWAY_KERNEL"),
        ({"connect_timeout": 0}, "KERNEL_GATEWAY_CONNECT_TIMEOUT"),
    ],
)
def test_values_of_a_jupyter_server_that_cannot_be_right(values: dict[str, Any], words: str) -> None:
    ((number, text),) = told(KERNEL_GATEWAY=values)
    assert number == "notebooks.E001"
    assert words in text
    assert "secret" not in text


def test_what_does_not_hold_on_a_jupyter_server_is_told() -> None:
    assert ids(**GATEWAY) == ["notebooks.W002"]
    assert ids(DEBUG=False, **GATEWAY) == ["notebooks.W002"]


def test_a_sandbox_of_this_machine_keeps_nobody_apart_elsewhere(runners: list[User]) -> None:
    assert "notebooks.E003" in ids(**GATEWAY, **kernels(sandbox="run --"))
    assert "notebooks.E003" not in ids(**GATEWAY, KERNELS_WITHOUT_SANDBOX=True)


def test_the_folder_may_stand_in_the_sandbox() -> None:
    assert told(DEBUG=False, **kernels(sandbox="run '{folder}/a b' --")) == []
    with override_settings(**kernels(sandbox="run '{folder}/a b' --")):
        assert conf.limits().sandbox_words == ["run", "{folder}/a b", "--"]


def test_cells_need_their_pool() -> None:
    assert ids(THREAD_CONFIG={"agent_pool": settings.THREAD_CONFIG["agent_pool"]}) == ["notebooks.E002"]


def test_code_is_not_for_the_unknown() -> None:
    assert ids(ALLOW_ANONYMOUS="true") == ["notebooks.E004"]
    assert ids(ALLOW_ANONYMOUS="loopback") == []


def test_kernels_without_a_sandbox_are_told_in_production() -> None:
    assert ids(DEBUG=False) == ["notebooks.W001"]
    assert ids(DEBUG=False, **kernels(sandbox="bwrap --")) == []


def test_several_users_need_a_sandbox_or_a_word(runners: list[User]) -> None:
    assert ids() == ["notebooks.E003"]
    assert ids(KERNELS_WITHOUT_SANDBOX=True) == []
    assert ids(**kernels(sandbox="bwrap --")) == []


def test_one_user_is_enough_and_superusers_count(runners: list[User]) -> None:
    runners[0].delete()
    assert ids() == []
    User.objects.create_superuser("root")
    assert ids() == ["notebooks.E003"]
    runners[1].is_active = False
    runners[1].save()
    assert ids() == []


def test_without_a_database_to_ask_nothing_is_asked(runners: list[User]) -> None:
    with override_settings(**ON):
        assert checks.check_who_runs_code(None) == []


def test_a_database_that_does_not_answer_is_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bool:
        raise OperationalError("it is down")

    monkeypatch.setattr(checks, "_several_run_code", fail)
    ((number, text),) = told()
    assert number == "notebooks.E003"
    assert "it is down" in text


def test_users_of_another_kind_count_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        _default_manager = object()

    monkeypatch.setattr(checks, "get_user_model", lambda: Other)
    assert ids() == ["notebooks.E003"]


@pytest.mark.django_db(transaction=True)
def test_it_can_be_asked_where_a_loop_runs(runners: list[User]) -> None:
    """As other servers load the application. The database of the tests is a file, so a thread sees it."""

    async def ask() -> list[str]:
        return ids()

    if "memory" in str(settings.DATABASES["default"]["NAME"]):
        pytest.skip("needs a database that a thread sees")
    assert asyncio.run(ask()) == ["notebooks.E003"]


# Servers

MAKE_RUNNER = """
INSERT INTO auth_user
    (username, password, email, first_name, last_name, is_superuser, is_staff, is_active, date_joined)
VALUES (?, '!', '', '', '', 1, 1, 1, '2026-11-21')
"""

SERVE = ("manage.py", "serve", "--port", "0")
UVICORN = ("-m", "uvicorn", "settings.asgi:application", "--port", "0")


def refused(arguments: tuple[str, ...], env: dict[str, str]) -> str:
    """What a server says that does not start."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a server with kernels, and two superusers."""
    made = environment(tmp_path_factory.mktemp("checks"), KERNELS_ENABLED="true")
    migrate(made)
    with closing(sqlite3.connect(made["DATABASE_URL"].removeprefix("sqlite:///"))) as database, database:
        database.executemany(MAKE_RUNNER, [("ada",), ("grace",)])
    return made


@pytest.mark.server
@pytest.mark.parametrize("arguments", [SERVE, UVICORN], ids=["serve", "uvicorn"])
def test_no_server_starts_for_several_users_without_a_sandbox(
    arguments: tuple[str, ...], env: dict[str, str]
) -> None:
    said = refused(arguments, env)
    assert "several users may run code, and nothing keeps them apart" in said
    assert "KERNELS_WITHOUT_SANDBOX=true" in said


@pytest.mark.server
def test_no_server_shares_kernels_among_processes(env: dict[str, str]) -> None:
    said = refused((*SERVE, "--workers", "2"), env | {"KERNELS_WITHOUT_SANDBOX": "true"})
    assert re.search(r"^CommandError: kernels are on and --workers is 2: ", said, flags=re.MULTILINE)
    assert "serves at" not in said


@pytest.mark.server
def test_a_server_starts_where_it_is_said_in_so_many_words(env: dict[str, str], tmp_path: Path) -> None:
    with started("serve", tmp_path, env | {"KERNELS_WITHOUT_SANDBOX": "true"}) as server:
        assert "with the rights of the user of this server" in server.log()
