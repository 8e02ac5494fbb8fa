"""Operations on notebooks over HTTP, what they answered, and people who may run code or not."""

from __future__ import annotations

import asyncio
import atexit
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.support.client import Reading, read_stream
from tests.support.servers import ROOT, Server, environment, migrate, started

OPERATION = "/send_operation"

Headers = dict[str, str]

_TOKEN = "c" * 32

_MAKE_PEOPLE = """
import django, json
django.setup()
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.test import Client
from streaming import keys
User = get_user_model()
may = Permission.objects.get(codename="run_code")
group = Group.objects.create(name="runners")
group.permissions.add(may)
found = {}
def speaking_for(name, user):
    caller = Client()
    caller.force_login(user)
    found[name] = [keys.issue(user)[1], caller.cookies["sessionid"].value]
for name in ("ada", "grace", "left", "reader", "member"):
    user = User.objects.create_user(name)
    if name in ("ada", "grace", "left"):
        user.user_permissions.add(may)
    if name == "member":
        user.groups.add(group)
    speaking_for(name, user)
speaking_for("root", User.objects.create_superuser("root", password="correct horse"))
key, text = keys.issue(User.objects.get(username="ada"))
keys.revoke(key)
found["revoked"] = [text, ""]
User.objects.filter(username="left").update(is_active=False)
print(json.dumps(found))
"""


def make_people(env: dict[str, str]) -> dict[str, list[str]]:
    """Make people in the database of `env`; how they call: key and session by name."""
    done = subprocess.run(
        [sys.executable, "-c", _MAKE_PEOPLE],
        cwd=ROOT,
        env={**env, "DJANGO_SETTINGS_MODULE": "settings.settings"},
        check=True,
        capture_output=True,
        timeout=60,
        text=True,
    )
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@cache
def _people() -> tuple[Path, dict[str, list[str]]]:
    """A database with people, to be copied, and how they call."""
    folder = Path(tempfile.mkdtemp(prefix="people-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    env = environment(folder)
    migrate(env)
    return folder / "test.sqlite3", make_people(env)


def key_of(name: str) -> Headers:
    """Headers with an API key: `ada`, `grace` and `member` (by a group) may run code, `root` everything,
    `reader` not; `left` is not active any more, and the key of `revoked` was revoked."""
    return {"Authorization": f"Bearer {_people()[1][name][0]}"}


def session_of(name: str, *, token: bool = True) -> Headers:
    """Headers of a browser in which that person is signed in, with the CSRF token or without."""
    session = {"Cookie": f"sessionid={_people()[1][name][1]}; csrftoken={_TOKEN}"}
    return session | ({"X-CSRFToken": _TOKEN} if token else {})


def prepare(folder: Path, **settings: str) -> dict[str, str]:
    """A database with those people in `folder`; the environment of servers over it."""
    folder.mkdir(parents=True, exist_ok=True)
    database, _ = _people()
    shutil.copyfile(database, folder / database.name)
    return environment(folder, **{"KERNELS_ENABLED": "true", "KERNELS_WITHOUT_SANDBOX": "true"} | settings)


@contextmanager
def notebook_server(folder: Path, **settings: str) -> Iterator[Server]:
    """A server on which those people may run code."""
    with started("serve", folder, prepare(folder, **settings)) as server:
        yield server


def call(notebook: str, type: str, lang: str = "en", **members: Any) -> dict[str, Any]:
    """The body of an operation."""
    return {"notebook_id": notebook, "operation": {"type": type, **members}, "lang": lang}


async def ask(
    http: httpx2.AsyncClient, headers: Headers, notebook: str, type: str, **members: Any
) -> Reading:
    """What an operation answers, to its end."""
    body = call(notebook, type, **members)
    return await read_stream(http, "POST", OPERATION, json=body, headers=headers)


async def begin(
    http: httpx2.AsyncClient, headers: Headers, notebook: str, type: str, **members: Any
) -> asyncio.Task[Reading]:
    """What an operation answers, to its end; returns when it is accepted."""
    accepted = asyncio.Event()
    body = call(notebook, type, **members)
    reading = read_stream(http, "POST", OPERATION, json=body, headers=headers, accepted=accepted)
    task = asyncio.create_task(reading)
    await accepted.wait()
    return task


def printed(reading: Reading, channel: str = "stdout") -> str:
    """What a cell printed."""
    return "".join(
        each.data["delta"] for each in reading.named("content") if each.data.get("channel") == channel
    )


def outputs(reading: Reading) -> list[dict[str, Any]]:
    """What a cell showed."""
    return [each.data for each in reading.named("output")]


def answer(reading: Reading) -> Any:
    """The result of an operation that answers once."""
    return reading.named("result")[0].data["data"]


def end(reading: Reading) -> dict[str, Any]:
    """How it ended."""
    return reading.end.data


def below(server: Server) -> set[psutil.Process]:
    """All processes that a server has started, and those that they have."""
    return set(psutil.Process(server.process.pid).children(recursive=True))
