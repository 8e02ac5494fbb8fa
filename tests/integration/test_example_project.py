"""Any Django project can use `streaming`: the two files of `docs/example`, as they stand, and nothing else of
ours. They run in a copy, with `streaming` where an installed package would be."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.integration.conftest import assert_clean
from tests.support.client import Reading, client, read_events, read_stream
from tests.support.servers import ROOT, Server, environment, started
from tests.support.sockets import opened

pytestmark = pytest.mark.server

EXAMPLE = ROOT / "docs/example"

PATIENCE = 60

COUNTED = "".join(f"{number} " for number in range(1, 31))

PASSWORD = "correct horse"

WITHOUT_MUCH = """
from manage import *

INSTALLED_APPS = [name for name in INSTALLED_APPS if name != "ninja"]
MIDDLEWARE = [
    path for path in MIDDLEWARE if not path.endswith(("CsrfViewMiddleware", "XFrameOptionsMiddleware"))
] + ["django.middleware.clickjacking.XFrameOptionsMiddleware"]
LOGIN_URL = "/nowhere/"
ASGI_APPLICATION = "djangos_own.application"
"""

DJANGOS_OWN = """
from django.core.asgi import get_asgi_application

application = get_asgi_application()
"""


class Project:
    """A copy of the example, and an environment that knows of nothing but it and `streaming`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        shutil.copytree(EXAMPLE, self.folder, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3*"))
        self.database = self.folder / "db.sqlite3"
        packages = folder / "packages"
        packages.mkdir()
        (packages / "streaming").symlink_to(ROOT / "streaming")
        ours = {*environment(folder), "DJANGO_SETTINGS_MODULE"} - {"PATH", "HOME"}
        inherited = {name: value for name, value in os.environ.items() if name not in ours}
        self.env = inherited | {
            "PYTHONPATH": str(packages),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "default",
        }

    def manage(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `manage.py` to its end, whatever that is."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self.env | variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def succeed(self, *arguments: str, **variables: str) -> str:
        """What a command prints that has to work."""
        done = self.manage(*arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The example with its tables and an administrator, made as its documentation says."""
    made = Project(tmp_path_factory.mktemp("example"))
    made.succeed("migrate")
    shutil.copy(made.database, made.folder / "empty.sqlite3")
    made.succeed(
        *("createsuperuser", "--noinput", "--username", "boss", "--email", "boss@example.org"),
        DJANGO_SUPERUSER_PASSWORD=PASSWORD,
    )
    return made


@pytest.fixture(scope="module")
def example(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`python manage.py serve` in the copy; at its end it has complained of nothing."""
    with started("serve", tmp_path_factory.mktemp("logs"), project.env, project.folder) as made:
        yield made
        assert made.stop(signal.SIGTERM) == 0
        assert_clean(made)


@pytest.fixture
async def visitor(example: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the example, with the cookies of a browser."""
    async with client(example.url) as made:
        yield made


@pytest.fixture(scope="module")
def key(project: Project) -> dict[str, str]:
    """The header of an API key that a command made."""
    return {"Authorization": f"Bearer {project.succeed('create_api_key', 'boss', '--name', 'test').strip()}"}


# The project


def test_it_is_two_files_and_the_documentation_shows_them_as_they_are() -> None:
    files = sorted(EXAMPLE.rglob("*.py"))
    assert [path.name for path in files] == ["manage.py", "urls.py"]
    page = (ROOT / "docs/django.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    for path in files:
        assert path.read_text(encoding="utf-8") in shown, path.name


def test_nothing_else_of_ours_is_there(project: Project) -> None:
    look = "import importlib.util; print([importlib.util.find_spec(n) for n in ('accounts', 'contentgen')])"
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=project.folder, env=project.env, capture_output=True, check=True
    )
    assert done.stdout.strip() == b"[None, None]"
    text = (EXAMPLE / "manage.py").read_text(encoding="utf-8")
    assert [name for name in ("contentgen", "accounts", "unfold", "corsheaders") if name in text] == []


def test_its_checks_have_nothing_to_say(project: Project) -> None:
    # One process for both commands.
    both = (
        "from django.core.management import call_command\n"
        "call_command('check', fail_level='INFO')\n"
        "call_command('makemigrations', check_changes=True, dry_run=True)\n"
    )
    printed = project.succeed("shell", "--command", both)
    assert "no issues" in printed
    assert "No changes" in printed


@pytest.mark.parametrize(
    "command", [pytest.param(["check"], marks=pytest.mark.long), ["serve", "--port", "0"]], ids=" ".join
)
def test_a_wrong_value_is_named_by_check_and_refused_by_serve(project: Project, command: list[str]) -> None:
    wrong = "from manage import *\n\nSSE_CONFIG = {'retry': -1}\n"
    (project.folder / "wrong.py").write_text(wrong, encoding="utf-8")
    done = project.manage(*command, DJANGO_SETTINGS_MODULE="wrong")
    assert done.returncode == 1
    assert "streaming.E001" in done.stderr
    assert "SSE_CONFIG['retry']" in done.stderr


def test_what_the_project_lacks_is_named(project: Project) -> None:
    (project.folder / "lacking.py").write_text(WITHOUT_MUCH, encoding="utf-8")
    (project.folder / "djangos_own.py").write_text(DJANGOS_OWN, encoding="utf-8")
    done = project.manage("check", "--tag", "streaming", DJANGO_SETTINGS_MODULE="lacking")
    assert done.returncode == 0, done.stderr
    told = re.findall(r"\((streaming\.\w+)\) (.*)", done.stderr)
    assert [number for number, _ in sorted(told)] == [f"streaming.W{number:03}" for number in range(8, 13)]
    for word in ("CsrfViewMiddleware is", "clickjacking", '"ninja"', "/nowhere/", "djangos_own.application"):
        assert sum(word in text for _, text in told) == 1, word


# Its streams


@pytest.mark.parametrize("path", ["/count", "/count/thread"])
async def test_a_stream_comes_at_once_and_goes_on_where_a_reader_left_it(
    visitor: httpx2.AsyncClient, path: str
) -> None:
    beginning = await read_stream(visitor, "GET", path, until=4)
    headers = beginning.response.headers
    assert (beginning.response.status_code, headers["x-stream-route"]) == (200, "direct")
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["location"] == f"/streams/{headers['x-stream-id']}"
    assert (await visitor.get(headers["location"])).json()["state"] == "running", "read before it was written"

    rest = await read_stream(
        visitor, "GET", f"{headers['location']}/events", headers={"Last-Event-ID": beginning.end.id}
    )
    assert beginning.text + rest.text == COUNTED
    assert beginning.ids + rest.ids == sorted({*beginning.ids, *rest.ids})
    assert rest.end.name == "complete"
    record = (await visitor.get(headers["location"])).json()
    assert (record["state"], record["text"]) == ("complete", COUNTED)


async def test_a_stream_goes_on_over_a_socket(visitor: httpx2.AsyncClient, example: Server) -> None:
    beginning = await read_stream(visitor, "GET", "/count", until=4)
    place = f"/ws{beginning.response.headers['location']}/?after={beginning.end.id}"
    async with opened(example, place) as socket:
        rest = await socket.rest()
    text = "".join(each["delta"] for each in rest if each["type"] == "content")
    assert beginning.text + text == COUNTED
    assert rest[-1]["type"] == "complete"


async def test_delete_stops_a_stream(visitor: httpx2.AsyncClient) -> None:
    async with visitor.stream("GET", "/count") as response:
        events = read_events(response)
        while (await anext(events)).name != "content":
            pass
        stopped = await visitor.delete(response.headers["location"])
        assert (stopped.status_code, stopped.json()["state"]) == (200, "cancelled")
        *_, end = [event async for event in events]
    assert (end.name, end.data["reason"]) == ("cancelled", "client")


async def test_an_api_key_speaks_for_its_user(visitor: httpx2.AsyncClient, key: dict[str, str]) -> None:
    beginning = await read_stream(visitor, "GET", "/count", until=2, headers=key)
    place = beginning.response.headers["location"]
    own = (await visitor.get("/streams", headers=key)).json()
    assert beginning.response.headers["x-stream-id"] in [task["id"] for task in own["items"]]
    assert (await visitor.get(place)).status_code == 404, "nobody else's"
    wrong = await visitor.get("/streams", headers={"Authorization": "Bearer sluice_wrong"})
    assert (wrong.status_code, wrong.json()["code"]) == (401, "invalid_key")
    assert (await visitor.delete(place, headers=key)).status_code == 200


# Its pages


async def test_a_stream_has_its_page_with_all_that_it_needs(visitor: httpx2.AsyncClient) -> None:
    beginning = await read_stream(visitor, "GET", "/count", until=2)
    page = await visitor.get(f"{beginning.response.headers['location']}/view")
    assert page.status_code == 200
    assert beginning.response.headers["x-stream-id"] in page.text
    needed = re.findall(r'(?:src|<link[^>]* href)="([^"]+)"', page.text)
    assert len(needed) > 5
    for place in needed:
        assert place.startswith("/"), "from this server"
        assert (await visitor.get(place)).status_code == 200, place
    # Answered on the same connection, so the server is done with the last file, too: who leaves as soon as
    # the last byte is here makes ServeStatic leave it to Python to close the file.
    await visitor.get("/healthz")


async def test_who_must_sign_in_is_taken_to_the_admin(visitor: httpx2.AsyncClient) -> None:
    page = await visitor.get(f"/streams/{'0' * 32}/view", headers={"X-Forwarded-For": "192.0.2.1"})
    assert (page.status_code, page.headers["location"].split("?")[0]) == (302, "/admin/login/")


async def test_the_description_of_the_api_needs_no_other_host(visitor: httpx2.AsyncClient) -> None:
    page = await visitor.get("/docs")
    assert page.status_code == 200
    assert re.findall(r'(?:src|href)="((?:https?:)?//[^"]+)"', page.text) == []
    described = (await visitor.get("/openapi.json")).json()
    assert "/streams/{task_id}/events" in described["paths"]
    assert [path for path in described["paths"] if "content" in path] == []


async def test_djangos_own_admin_shows_tasks_and_keys(
    visitor: httpx2.AsyncClient, key: dict[str, str]
) -> None:
    stream = await read_stream(visitor, "GET", "/count", until=2, headers=key)
    await _sign_in(visitor)
    tasks = await visitor.get("/admin/streaming/streamtask/")
    assert tasks.status_code == 200
    task_id = stream.response.headers["x-stream-id"]
    assert task_id in tasks.text
    assert "unfold" not in tasks.text
    one = await visitor.get(f"/admin/streaming/streamtask/{task_id}/change/")
    assert (one.status_code, "stream-facts" in one.text) == (200, True)
    own = await visitor.get(stream.response.headers["location"])
    assert own.status_code == 200, "the session speaks for the key's user, too"
    keys = await visitor.get("/admin/streaming/apikey/")
    assert "sluice_" in keys.text


async def _sign_in(visitor: httpx2.AsyncClient) -> None:
    await visitor.get("/admin/login/")
    answer = await visitor.post(
        "/admin/login/?next=/admin/",
        data={
            "username": "boss",
            "password": PASSWORD,
            "csrfmiddlewaretoken": visitor.cookies["csrftoken"],
        },
    )
    assert (answer.status_code, answer.headers.get("location")) == (302, "/admin/"), answer.text


# Its servers


def test_serve_announces_what_the_project_has_and_nothing_else(example: Server) -> None:
    first, *lines = example.log().splitlines()
    assert first.startswith(f"Sluice serves at {example.url} (")
    assert lines[:2] == [f"  API description: {example.url}/docs", f"  Admin: {example.url}/admin/"]
    assert "curl" not in example.log()


@pytest.mark.parametrize(
    "kind",
    [
        "serve",
        pytest.param("runserver", marks=pytest.mark.long),
        pytest.param("uvicorn without an own application", marks=pytest.mark.long),
    ],
)
async def test_a_signal_ends_streams_first_and_then_the_server(
    project: Project, tmp_path: Path, kind: str
) -> None:
    own = Project(tmp_path)
    shutil.copy(project.folder / "empty.sqlite3", own.database)
    env = own.env | {"DJANGO_SETTINGS_MODULE": "manage"}
    with started(kind, tmp_path, env, own.folder) as server:
        async with client(server.url) as http, http.stream("GET", "/count/thread") as response:
            reading = Reading(response)
            async for event in read_events(response):
                if event.name == "content" and not reading.named("content"):
                    server.process.send_signal(signal.SIGTERM)
                reading.events.append(event)
        assert reading.end.name in ("complete", "error"), "no stream is cut without a word"
        if reading.end.name == "error":
            assert reading.end.data["code"] == "interrupted"
        assert server.stop() == 0, server.log()
        assert_clean(server)
