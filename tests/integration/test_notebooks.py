"""Notebooks as people and programs use them: a real server, real kernels."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.client import client, eventually, read_stream
from tests.support.notebooks import OPERATION, Headers, answer, ask, begin, call, end, outputs, printed
from tests.support.servers import ROOT, Server, environment, running

pytestmark = pytest.mark.server

MAKE_RUNNERS = """
import asyncio, django, json
django.setup()
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from streaming import keys
User = get_user_model()
may = Permission.objects.get(codename="run_code")
found = {}
for name in ("ada", "grace", "reader"):
    user = User.objects.create_user(name)
    if name != "reader":
        user.user_permissions.add(may)
    found[name] = keys.issue(user)[1]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "KERNELS_ENABLED": "true",
        "KERNELS_WITHOUT_SANDBOX": "true",
        "KERNEL_MAX_KERNELS": "30",
        "KERNEL_PER_OWNER": "0",
        "KERNEL_POOL_PER_OWNER": "10",
        "KERNEL_OUTPUT_LIMIT": "200000",
    }
    with running("serve", tmp_path_factory.mktemp("notebooks"), **settings) as made:
        yield made


@pytest.fixture(scope="module")
def keys(house: Server) -> dict[str, Headers]:
    folder = house.database.parent
    done = subprocess.run(
        [sys.executable, "-c", MAKE_RUNNERS],
        cwd=ROOT,
        env=environment(folder, DJANGO_SETTINGS_MODULE="settings.settings"),
        check=True,
        capture_output=True,
        timeout=60,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: {"Authorization": f"Bearer {key}"} for name, key in found.items()}


@pytest.fixture
async def http(house: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(house.url) as made:
        yield made


@pytest.fixture
def ada(keys: dict[str, Headers]) -> Headers:
    return keys["ada"]


# Who may


async def test_the_ping_of_the_field_report_needs_nothing(http: httpx2.AsyncClient) -> None:
    reading = await ask(http, {}, "test", "ping")
    assert reading.response.status_code == 200
    assert answer(reading) == {"pong": True}
    assert end(reading)["type"] == "complete"
    assert reading.response.headers["x-stream-route"] == "direct"


@pytest.mark.parametrize(
    "type",
    ["execute", "interrupt", "restart", "shutdown", "status", "complete", "inspect", "list", "generate"],
)
async def test_all_else_needs_somebody(http: httpx2.AsyncClient, type: str) -> None:
    members = {"execute": {"code": "1"}, "complete": {"code": "1"}, "inspect": {"code": "1"}}
    body = call("test", type, **members.get(type, {"prompt": "x"} if type == "generate" else {}))
    refused = await http.post(OPERATION, json=body)
    assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")


@pytest.mark.parametrize("type", ["execute", "interrupt", "restart", "shutdown", "status", "complete"])
async def test_running_code_needs_the_permission(
    http: httpx2.AsyncClient, keys: dict[str, Headers], type: str
) -> None:
    body = call("test", type, **({"code": "1"} if type in ("execute", "complete") else {}))
    refused = await http.post(OPERATION, json=body, headers=keys["reader"])
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")


async def test_without_kernels_nobody_runs_code_and_ping_answers(server: Server) -> None:
    async with client(server.url) as http:
        assert answer(await ask(http, {}, "test", "ping")) == {"pong": True}


async def test_users_do_not_see_each_other(http: httpx2.AsyncClient, keys: dict[str, Headers]) -> None:
    await ask(http, keys["ada"], "mine", "execute", code="secret = 42")
    theirs = await ask(http, keys["grace"], "mine", "execute", code="print('secret' in globals())")
    assert printed(theirs) == "False\n"
    assert (await http.get("/notebooks/only-adas", headers=keys["grace"])).status_code == 404
    shown = await http.get("/notebooks/mine", headers=keys["grace"])
    assert "secret = 42" not in shown.text
    mine = await ask(http, keys["ada"], "mine", "execute", code="print(secret)")
    assert printed(mine) == "42\n"
    place = mine.response.headers["location"]
    assert (await http.get(f"{place}/events", headers=keys["grace"])).status_code == 404


# What is wrong


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"notebook_id": "t"}, 422, "operation"),
        ({"operation": {"type": "ping"}}, 422, "notebook_id"),
        ({"notebook_id": "t", "operation": {}}, 422, "operation.type"),
        ({"notebook_id": "t", "operation": {"type": "EXECUTE"}}, 422, "operation.type"),
        ({"notebook_id": "t", "operation": {"type": None}}, 422, "operation.type"),
        ({"notebook_id": "t", "operation": {"type": "execute"}}, 422, "operation.code"),
        ({"notebook_id": "t", "operation": {"type": "execute", "code": 5}}, 422, "operation.code"),
        ({"notebook_id": "t", "operation": {"type": "ping", "x": 1}}, 422, "operation.x"),
        ({"notebook_id": "t", "operation": {"type": "ping"}, "lang": "en_US; rm"}, 422, "lang"),
        ({"notebook_id": "t", "operation": {"type": "ping"}, "lang": 5}, 422, "lang"),
        ({"notebook_id": "../x", "operation": {"type": "ping"}}, 400, "notebook_id"),
        ({"notebook_id": "a/b", "operation": {"type": "ping"}}, 400, "notebook_id"),
        ({"notebook_id": "", "operation": {"type": "ping"}}, 400, "notebook_id"),
        ({"notebook_id": "x" * 1024, "operation": {"type": "ping"}}, 400, "notebook_id"),
        ({"notebook_id": "t\n", "operation": {"type": "ping"}}, 400, "notebook_id"),
        ({"notebook_id": "t\x00", "operation": {"type": "ping"}}, 400, "notebook_id"),
        ({"notebook_id": "📓", "operation": {"type": "ping"}}, 400, "notebook_id"),
        (
            {"notebook_id": "t", "operation": {"type": "complete", "code": "a", "cursor": 9}},
            422,
            "operation.cursor",
        ),
    ],
)
async def test_what_is_wrong_is_told_by_field(
    http: httpx2.AsyncClient, body: dict[str, Any], status: int, field: str
) -> None:
    refused = await http.post(OPERATION, json=body)
    assert refused.status_code == status, refused.text
    assert [each["field"] for each in refused.json()["errors"]] == [field]


async def test_an_unknown_operation_gets_the_list_in_its_language(http: httpx2.AsyncClient) -> None:
    refused = await http.post(OPERATION, json=call("t", "fly"))
    assert "execute" in refused.json()["detail"]


# Cells


async def test_a_cell_streams_and_tells_its_number_and_duration(
    http: httpx2.AsyncClient, ada: Headers
) -> None:
    await ask(http, ada, "cells", "restart")
    reading = await ask(http, ada, "cells", "execute", code="print('中文 👋')\n6 * 7")
    assert printed(reading) == "中文 👋\n"
    assert [each["data"]["text/plain"] for each in outputs(reading)] == ["42"]
    assert (end(reading)["finish_reason"], end(reading)["execution_count"]) == ("stop", 1)
    assert end(reading)["duration_ms"] > 0


async def test_an_exception_is_output_and_the_cell_completes(http: httpx2.AsyncClient, ada: Headers) -> None:
    reading = await ask(http, ada, "cells", "execute", code="1 / 0")
    (fault,) = outputs(reading)
    assert (fault["output_type"], fault["ename"]) == ("error", "ZeroDivisionError")
    assert (end(reading)["type"], end(reading)["finish_reason"]) == ("complete", "error")


async def test_output_comes_as_it_is_printed(http: httpx2.AsyncClient, ada: Headers) -> None:
    code = "import time\nfor k in range(40):\n    print(f'{time.time():.4f}')\n    time.sleep(0.05)"
    late = []
    async with http.stream(
        "POST", OPERATION, json=call("pace", "execute", code=code), headers=ada
    ) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: ") and '"delta"' in line:
                now = time.time()
                late += [now - float(each) for each in json.loads(line[6:])["delta"].split()]
    assert len(late) == 40
    # The promise is 30 ms; ten times it only ends a hang.
    assert sorted(late)[20] < 0.3


async def test_a_reader_that_is_cut_loses_nothing(http: httpx2.AsyncClient, ada: Headers) -> None:
    code = "import time\nfor k in range(30):\n    print(k)\n    time.sleep(0.03)"
    body = call("cut", "execute", code=code)
    seen, last, place = "", 0, ""
    async with http.stream("POST", OPERATION, json=body, headers=ada) as response:
        place = response.headers["location"]
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                last = int(line[4:])
            if line.startswith("data: ") and '"delta"' in line:
                seen += json.loads(line[6:])["delta"]
            if seen.count("\n") > 5:
                break
    rest = await read_stream(http, "GET", f"{place}/events", headers={**ada, "Last-Event-ID": str(last)})
    assert seen + printed(rest) == "".join(f"{k}\n" for k in range(30))


async def test_cells_of_a_notebook_run_in_order_and_wait_with_a_place(
    http: httpx2.AsyncClient, ada: Headers, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\nlog = ['first']"
    codes = [wait, "log.append('second')", "print(log)"]
    readings = [await begin(http, ada, "order", "execute", code=code) for code in codes]
    go.touch()
    first, second, third = await asyncio.gather(*readings)
    assert printed(third) == "['first', 'second']\n"
    status = next(each.data for each in second.events if each.name == "status")
    assert (status["status"], status["reason"], status["position"]) == ("queued", "earlier_one_active", 1)
    assert (status["message"], status.get("eta_seconds")) == ("Waiting in the queue: number 1.", None)
    assert first.response.headers["x-stream-route"] == "direct"


async def test_what_needs_no_permit_never_waits(http: httpx2.AsyncClient, ada: Headers) -> None:
    running = asyncio.create_task(ask(http, ada, "busy", "execute", code="import time\ntime.sleep(30)"))

    async def busy() -> bool:
        return bool(answer(await ask(http, ada, "busy", "status"))["state"] == "busy")

    assert await eventually(busy, 20)
    assert answer(await ask(http, ada, "busy", "list"))["notebooks"]
    assert answer(await ask(http, ada, "busy", "interrupt"))["interrupted"] is True
    reading = await running
    assert outputs(reading)[-1]["ename"] == "KeyboardInterrupt"


async def test_stopping_a_stream_stops_its_code_even_if_it_resists(
    http: httpx2.AsyncClient, ada: Headers
) -> None:
    code = (
        "import subprocess, time\n"
        "process = subprocess.Popen(['sleep', '1000'])\n"
        "print(process.pid, flush=True)\n"
        "while True:\n    try:\n        time.sleep(100)\n    except BaseException:\n        pass"
    )
    async with http.stream(
        "POST", OPERATION, json=call("resists", "execute", code=code), headers=ada
    ) as response:
        place = response.headers["location"]
        async for line in response.aiter_lines():
            if line.startswith("data: ") and '"delta"' in line:
                child = int(json.loads(line[6:])["delta"])
                break
        assert (await http.delete(place, headers=ada)).json()["state"] == "cancelled"

    async def dead() -> bool:
        return not psutil.pid_exists(child)

    assert await eventually(dead, 30)
    again = await ask(http, ada, "resists", "execute", code="print('new kernel')")
    assert printed(again) == "new kernel\n"


@pytest.mark.parametrize("code", ["import os; os._exit(1)", "import os, signal; os.kill(os.getpid(), 9)"])
async def test_a_dead_kernel_is_told_and_the_next_cell_works(
    http: httpx2.AsyncClient, ada: Headers, code: str
) -> None:
    reading = await ask(http, ada, "dies", "execute", code=code)
    assert (end(reading)["type"], end(reading)["code"]) == ("error", "kernel_died")
    assert printed(await ask(http, ada, "dies", "execute", code="print('again')")) == "again\n"


async def test_a_restart_ends_what_runs_and_what_waits(http: httpx2.AsyncClient, ada: Headers) -> None:
    running = await begin(http, ada, "anew", "execute", code="x = 1\nimport time\ntime.sleep(60)")
    waiting = await begin(http, ada, "anew", "execute", code="print('never')")

    async def busy() -> bool:
        return bool(answer(await ask(http, ada, "anew", "status"))["state"] == "busy")

    assert await eventually(busy, 60)
    assert answer(await ask(http, ada, "anew", "restart"))["state"] == "idle"
    assert [end(await each)["code"] for each in (running, waiting)] == ["kernel_stopped"] * 2
    reading = await ask(http, ada, "anew", "execute", code="print('x' in globals())")
    assert printed(reading) == "False\n"
    assert answer(await ask(http, ada, "anew", "shutdown")) == {
        "stopped": True,
        "state": "none",
        "execution_count": None,
    }


async def test_too_much_output_is_cut_with_the_number(http: httpx2.AsyncClient, ada: Headers) -> None:
    reading = await ask(http, ada, "flood", "execute", code="for _ in range(20): print('x' * 99_999)")
    (cell,) = (await http.get("/notebooks/flood", headers=ada)).json()["cells"]
    assert cell["dropped_chars"] == 20 * 100_000 - 200_000
    cuts = [each.data for each in reading.events if each.name == "truncated"]
    assert len(printed(reading)) == 200_000
    assert cuts[-1]["dropped_chars"] == 20 * 100_000 - 200_000
    assert all(len(json.dumps(each.data)) < 20_000 for each in reading.events)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Headers]]:
    """A server with room for one kernel, and who may use it."""
    folder = tmp_path_factory.mktemp("narrow")
    with running("serve", folder, KERNELS_ENABLED="true", KERNEL_MAX_KERNELS="1") as made:
        yield made, _key_of_the_only_runner(folder)


async def test_too_many_kernels_are_told(narrow: tuple[Server, Headers]) -> None:
    server, headers = narrow
    async with client(server.url) as http:
        await ask(http, headers, "one", "execute", code="1")
        refused = await ask(http, headers, "two", "execute", code="1")
        assert (end(refused)["code"], end(refused)["retryable"]) == ("too_many_kernels", True)
        await ask(http, headers, "one", "shutdown")
        assert end(await ask(http, headers, "two", "execute", code="1"))["type"] == "complete"
        await ask(http, headers, "two", "shutdown")


def _key_of_the_only_runner(folder: Path) -> Headers:
    done = subprocess.run(
        [sys.executable, "-c", MAKE_RUNNERS.replace('("ada", "grace", "reader")', '("ada",)')],
        cwd=ROOT,
        env=environment(folder, DJANGO_SETTINGS_MODULE="settings.settings"),
        check=True,
        capture_output=True,
        text=True,
    )
    return {"Authorization": f"Bearer {json.loads(done.stdout.splitlines()[-1])['ada']}"}


async def test_what_could_not_run_leaves_the_cell_as_it_was(narrow: tuple[Server, Headers]) -> None:
    server, headers = narrow
    async with client(server.url) as http:
        await ask(http, headers, "kept", "execute", code="print('said')", cell_id="one")
        await ask(http, headers, "kept", "shutdown")
        await ask(http, headers, "other", "execute", code="1")
        refused = await ask(http, headers, "kept", "execute", code="print('new')", cell_id="one")
        assert end(refused)["code"] == "too_many_kernels"
        (cell,) = (await http.get("/notebooks/kept", headers=headers)).json()["cells"]
        assert (cell["outputs"][0]["text"], cell["execution_count"], cell["stream"]) == ("said\n", 1, None)
        await ask(http, headers, "other", "shutdown")


async def test_an_interrupt_reaches_what_waits_for_a_kernel(http: httpx2.AsyncClient, ada: Headers) -> None:
    running = asyncio.create_task(ask(http, ada, "early", "execute", code="while True: pass"))

    async def starting() -> bool:
        return bool(answer(await ask(http, ada, "early", "status"))["state"] == "starting")

    assert await eventually(starting, 20)
    assert answer(await ask(http, ada, "early", "interrupt"))["interrupted"] is True
    assert end(await running)["finish_reason"] == "aborted"
    assert printed(await ask(http, ada, "early", "execute", code="print('next')")) == "next\n"


async def test_a_display_is_updated_from_another_cell(http: httpx2.AsyncClient, ada: Headers) -> None:
    import nbformat  # late: it takes seconds, in each process that collects tests

    await ask(http, ada, "bar", "execute", code="h = display('10 %', display_id='bar')", cell_id="one")
    reading = await ask(http, ada, "bar", "execute", code="h.update('20 %')", cell_id="two")
    assert [each["output_type"] for each in outputs(reading)] == ["update_display_data"]
    one, two = (await http.get("/notebooks/bar", headers=ada)).json()["cells"]
    assert (one["outputs"][0]["data"], two["outputs"]) == ({"text/plain": "'20 %'"}, [])
    document = nbformat.reads((await http.get("/notebooks/bar.ipynb", headers=ada)).text, as_version=4)
    nbformat.validate(document)


async def test_completion_and_inspection_answer_once(http: httpx2.AsyncClient, ada: Headers) -> None:
    await ask(http, ada, "help", "execute", code="apple = 1")
    assert "apple" in answer(await ask(http, ada, "help", "complete", code="app"))["matches"]
    assert answer(await ask(http, ada, "help", "inspect", code="apple"))["found"] is True


async def test_code_is_written_and_not_run(http: httpx2.AsyncClient, keys: dict[str, Headers]) -> None:
    reading = await ask(http, keys["reader"], "wish", "generate", prompt="print a plot of a sine")
    assert "matplotlib" in reading.text
    compile(reading.text, "cell", "exec")
    assert answer(await ask(http, keys["reader"], "wish", "list"))["notebooks"] == []


# The record


async def test_a_notebook_is_kept_exported_and_opened_again(http: httpx2.AsyncClient, ada: Headers) -> None:
    import nbformat  # late: it takes seconds, in each process that collects tests

    await ask(http, ada, "book", "execute", code="print('hello')\n1 + 1", cell_id="one")
    await ask(http, ada, "book", "execute", code="raise ValueError('é')", cell_id="two")
    shown = (await http.get("/notebooks/book", headers=ada)).json()
    assert [cell["cell_id"] for cell in shown["cells"]] == ["one", "two"]
    assert [each["output_type"] for each in shown["cells"][0]["outputs"]] == ["stream", "execute_result"]
    exported = await http.get("/notebooks/book.ipynb", headers=ada)
    document = nbformat.reads(exported.text, as_version=4)
    nbformat.validate(document)
    assert document.cells[1].outputs[0].ename == "ValueError"
    put = await http.put(
        "/notebooks/copy.ipynb",
        content=exported.text,
        headers={**ada, "Content-Type": exported.headers["Content-Type"]},
    )
    assert put.status_code == 204, put.text
    copy = (await http.get("/notebooks/copy", headers=ada)).json()
    assert [cell["source"] for cell in copy["cells"]] == [cell["source"] for cell in shown["cells"]]
    assert copy["cells"][0]["outputs"] == shown["cells"][0]["outputs"]


async def test_what_comes_late_is_marked_under_its_own_cell(http: httpx2.AsyncClient, ada: Headers) -> None:
    import nbformat  # late: it takes seconds, in each process that collects tests

    code = (
        "import threading\n"
        "go = threading.Event()\n"
        "def later():\n"
        "    go.wait()\n"
        "    for k in range(3): print('late', k, flush=True)\n"
        "    display('shown')\n"
        "thread = threading.Thread(target=later)\nthread.start()\nprint('now')"
    )
    await ask(http, ada, "late", "execute", code=code, cell_id="one")
    second = await ask(http, ada, "late", "execute", code="go.set()\nthread.join()\nprint(2)", cell_id="two")
    assert printed(second) == "2\n"

    async def told() -> list[dict[str, Any]]:
        first, _ = (await http.get("/notebooks/late", headers=ada)).json()["cells"]
        found: list[dict[str, Any]] = first["outputs"]
        return found if len(found) == 3 else []

    now, late, shown = await eventually(told)
    assert now == {"output_type": "stream", "name": "stdout", "text": "now\n"}
    assert late == now | {"text": "late 0\nlate 1\nlate 2\n", "late": True}
    assert (shown["data"], shown["late"]) == ({"text/plain": "'shown'"}, True)
    document = nbformat.reads((await http.get("/notebooks/late.ipynb", headers=ada)).text, as_version=4)
    nbformat.validate(document)
    assert document.cells[0].outputs[2].metadata.late is True


async def test_a_cell_that_runs_is_found_by_its_stream(http: httpx2.AsyncClient, ada: Headers) -> None:
    async def cells() -> dict[str, dict[str, Any]]:
        found = (await http.get("/notebooks/found", headers=ada)).json()
        return {cell["cell_id"]: cell for cell in found.get("cells", [])}

    async def both_have_streams() -> bool:
        found = await cells()
        return len(found) == 2 and all(cell["stream"] for cell in found.values())

    codes = {"runs": "import time\nprint('begun', flush=True)\ntime.sleep(60)", "waits": "print('never')"}
    body = call("found", "execute", code=codes["runs"], cell_id="runs")
    async with http.stream("POST", OPERATION, json=body, headers=ada) as response:
        async for line in response.aiter_lines():
            if "begun" in line:
                break
    waiting = asyncio.create_task(ask(http, ada, "found", "execute", code=codes["waits"], cell_id="waits"))
    assert await eventually(both_have_streams)
    found = await cells()
    assert {cell_id: cell["source"] for cell_id, cell in found.items()} == codes
    await http.delete(f"/streams/{found['waits']['stream']}", headers=ada)
    await http.delete(f"/streams/{found['runs']['stream']}", headers=ada)
    assert end(await waiting)["type"] == "cancelled"

    async def written_down() -> bool:
        return bool((await cells())["runs"]["outputs"])

    assert await eventually(written_down)
    found = await cells()
    assert found["runs"]["outputs"][0]["text"] == "begun\n"
    assert [cell["stream"] for cell in found.values()] == [None, None]


async def test_who_saves_what_was_changed_elsewhere_is_told(http: httpx2.AsyncClient, ada: Headers) -> None:
    async def put(source: str, tag: str | None) -> httpx2.Response:
        headers = ada if tag is None else {**ada, "If-Match": tag}
        body = {"cells": [{"cell_id": "a", "source": source}]}
        return await http.put("/notebooks/two-windows", json=body, headers=headers)

    first = await put("1", None)
    tag = first.headers["ETag"]
    assert tag == f'"{first.json()["version"]}"'
    second = await put("2", tag)
    assert second.json()["version"] > first.json()["version"]
    refused = await put("3", tag)
    assert (refused.status_code, refused.json()["code"]) == (412, "changed_meanwhile")
    assert (await http.get("/notebooks/two-windows", headers=ada)).json()["cells"][0]["source"] == "2"
    await ask(http, ada, "two-windows", "execute", code="5", cell_id="new")
    assert (await put("4", second.headers["ETag"])).status_code == 412, "a program has added a cell"
    assert (await put("4", None)).status_code == 200
    assert (await put("4", "nonsense")).json()["code"] == "bad_entity_tag"


async def test_a_notebook_with_figures_is_opened(http: httpx2.AsyncClient, ada: Headers) -> None:
    import nbformat  # late: it takes seconds, in each process that collects tests

    figure = nbformat.v4.new_output("display_data", {"image/png": "A" * 3_000_000})
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("plot()", outputs=[figure])])
    headers = {**ada, "Content-Type": "application/json"}
    put = await http.put("/notebooks/figures.ipynb", content=nbformat.writes(document), headers=headers)
    assert put.status_code == 204, put.text
    assert len((await http.get("/notebooks/figures.ipynb", headers=ada)).text) > 3_000_000
    too_large = b'{"x": "' + b"A" * 33_554_433 + b'"}'
    refused = await http.put("/notebooks/figures.ipynb", content=too_large, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    elsewhere = await http.put("/notebooks/figures", content=b"{" + b" " * 2_000_000, headers=headers)
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (413, "body_too_large")


async def test_a_notebook_is_saved_in_a_new_order(http: httpx2.AsyncClient, ada: Headers) -> None:
    cells = [{"cell_id": name, "source": f"# {name}"} for name in ("a", "b", "c")]
    saved = await http.put("/notebooks/draft", json={"title": "题目", "cells": cells}, headers=ada)
    assert saved.status_code == 200, saved.text
    again = [cells[2], cells[0]]
    shown = (await http.put("/notebooks/draft", json={"title": "t", "cells": again}, headers=ada)).json()
    assert [cell["cell_id"] for cell in shown["cells"]] == ["c", "a"]
    twice = await http.put("/notebooks/draft", json={"cells": [cells[0], cells[0]]}, headers=ada)
    assert (twice.status_code, twice.json()["errors"][0]["field"]) == (422, "cells.1.cell_id")
    assert (await http.delete("/notebooks/draft", headers=ada)).status_code == 204
    assert (await http.get("/notebooks/draft", headers=ada)).status_code == 404


async def test_refusals_are_in_the_language_of_the_call(http: httpx2.AsyncClient, ada: Headers) -> None:
    refused = await http.post(OPERATION, json=call("t", "nope", lang="zh"), headers=ada)
    assert (refused.status_code, "可选值" in refused.json()["detail"]) == (422, True)
    body = {"notebook_id": "t", "operation": "ping"}
    refused = await http.post(OPERATION, json=body, headers=ada)
    assert refused.json()["detail"] == "operation: Expected an object, got text."
    refused = await http.put("/notebooks/t", json={"cells": [5]}, headers=ada)
    assert refused.json()["errors"][0]["field"] == "cells.0"


@pytest.mark.parametrize("member", [{"metadata": []}, {"nbformat_minor": "x"}, {"nbformat": None}])
async def test_what_nbformat_stumbles_over_is_refused_in_words(
    http: httpx2.AsyncClient, ada: Headers, member: dict[str, Any]
) -> None:
    document = {"cells": [{"cell_type": "raw", "source": "", "metadata": {}}], "metadata": {}, "nbformat": 4}
    refused = await http.put(
        "/notebooks/bad.ipynb", json=document | {"nbformat_minor": 5} | member, headers=ada
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "not_a_notebook")
    assert "argument" not in refused.json()["detail"]
    assert "instances" not in refused.json()["detail"]


async def test_a_file_that_names_no_format_is_not_taken_for_an_empty_one(
    http: httpx2.AsyncClient, ada: Headers
) -> None:
    cells: list[Any] = [
        {"cell_type": "code", "source": "1", "metadata": {}, "outputs": [], "execution_count": None}
    ]
    refused = await http.put("/notebooks/bare.ipynb", json={"cells": cells, "metadata": {}}, headers=ada)
    assert (refused.status_code, refused.json()["code"]) == (422, "not_a_notebook")


async def test_what_is_no_notebook_is_refused(http: httpx2.AsyncClient, ada: Headers) -> None:
    refused = await http.put("/notebooks/bad.ipynb", json={"cells": 5}, headers=ada)
    assert (refused.status_code, refused.json()["code"]) == (422, "not_a_notebook")
