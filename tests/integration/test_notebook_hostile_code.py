"""Cells that print what they should not, too much of it, or kill what runs them: real kernels behind a real
server, which goes on."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil
import pytest

from tests.support.client import Reading, client, eventually, read_events
from tests.support.notebooks import (
    OPERATION,
    answer,
    ask,
    call,
    end,
    key_of,
    make_people,
    notebook_server,
    outputs,
    printed,
)
from tests.support.postgresql import Cluster
from tests.support.servers import Server, environment, started

pytestmark = pytest.mark.server

MEBIBYTE: Final = 2**20


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "KERNEL_MAX_KERNELS": "20",
        "KERNEL_PER_OWNER": "0",
        "KERNEL_POOL_PER_OWNER": "10",
        "KERNEL_POOL_MAX_WORKERS": "10",
    }
    with notebook_server(tmp_path_factory.mktemp("hostile"), **settings) as made:
        yield made


@pytest.fixture
async def http(house: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(house.url, headers=key_of("ada")) as made:
        yield made


async def run(http: httpx2.AsyncClient, code: str, notebook: str = "one", **members: Any) -> Reading:
    """A cell, in the notebook that most tests share."""
    reading = await ask(http, {}, notebook, "execute", code=code, **members)
    assert reading.response.status_code == 200, reading.response.text
    return reading


async def usable(http: httpx2.AsyncClient, notebook: str = "one") -> bool:
    reading = await run(http, "print('usable')", notebook)
    return (printed(reading), end(reading)["type"]) == ("usable\n", "complete")


async def kept(http: httpx2.AsyncClient, cell_id: str, notebook: str = "one") -> list[dict[str, Any]]:
    """The outputs of a cell in the record."""
    shown = (await http.get(f"/notebooks/{notebook}")).json()
    found = next(cell for cell in shown["cells"] if cell["cell_id"] == cell_id)
    return list(found["outputs"])


# What ends well


async def test_odd_text_arrives_as_it_was_printed(http: httpx2.AsyncClient) -> None:
    text = "中文 👩‍👩‍👧‍👦 שלום\u202e e\u0301\u2028\u0085 \x1b[31mred\x1b[0m data: x\n\nevent: complete\r\x07"
    reading = await run(http, f"print({text!r}, end='')", cell_id="odd")
    assert printed(reading) == text
    assert [each["text"] for each in await kept(http, "odd")] == [text]


async def test_what_is_not_unicode_does_not_end_the_stream(http: httpx2.AsyncClient) -> None:
    code = (
        "import subprocess, sys\n"
        "print('a\\x00b')\n"
        "sys.stdout.flush()\n"
        "subprocess.run([sys.executable, '-c', "
        "'import sys; sys.stdout.buffer.write(bytes(range(256)))'])\n"
        "sys.stdout.flush()\n"
        "display({'text/plain': '\\x00', 'text/html': '\\x00'}, raw=True)\n"
        "print('after')"
    )
    reading = await run(http, code, cell_id="bytes")
    assert end(reading)["finish_reason"] == "stop", outputs(reading)
    assert printed(reading).startswith("a")
    # What a process writes comes over a pipe, so perhaps behind what the cell itself says next.
    assert "after\n" in printed(reading)
    assert "~" in printed(reading)
    # The record can be read, and exported.
    assert await kept(http, "bytes")
    assert (await http.get("/notebooks/one.ipynb")).status_code == 200


async def test_raw_bytes_have_no_way_out_but_the_cell_says_so(http: httpx2.AsyncClient) -> None:
    reading = await run(http, "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe')")
    assert end(reading)["type"] == "complete"
    assert await usable(http)


async def test_who_asks_for_input_is_told_at_once(http: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(30):
        reading = await run(http, "print('before')\nname = input('name? ')\nprint('never')")
    assert printed(reading) == "before\n"
    assert end(reading)["finish_reason"] == "error"


async def test_displays_are_updated_and_cleared(http: httpx2.AsyncClient) -> None:
    code = (
        "from IPython.display import clear_output, display\n"
        "handle = display('one', display_id='d')\n"
        "for k in range(5): print('step', k, end='\\r', flush=True)\n"
        "handle.update('two')\n"
    )
    reading = await run(http, code, cell_id="bar")
    assert printed(reading) == "".join(f"step {k}\r" for k in range(5))
    first, second = outputs(reading)
    assert [first["display_id"], second["display_id"]] == ["d", "d"]
    shown, _ = await kept(http, "bar")
    assert shown["data"] == {"text/plain": "'two'"}
    reading = await run(http, "print('old')\nclear_output(wait=True)\nprint('new')", cell_id="clear")
    assert outputs(reading) == [{"type": "output", "output_type": "clear_output", "wait": True}]
    assert [each["text"] for each in await kept(http, "clear")] == ["new\n"]


TABLE: Final = """
class Table:
    def _repr_html_(self): return "<table><tr><td>1</td></tr></table><script>alert(1)</script>"
    def __repr__(self): return "1"
Table()
"""


async def test_tables_are_bundles_with_a_plain_text(http: httpx2.AsyncClient) -> None:
    (shown,) = outputs(await run(http, TABLE))
    assert shown["data"]["text/plain"] == "1"
    assert shown["data"]["text/html"].startswith("<table>")


async def test_figures_are_images(http: httpx2.AsyncClient) -> None:
    pytest.importorskip("matplotlib")
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    reading = await run(http, code, cell_id="figure")
    (shown,) = outputs(reading)
    assert shown["data"]["image/png"].startswith("iVBOR")
    assert "Figure" in shown["data"]["text/plain"]


async def test_tables_of_pandas_are_shown(http: httpx2.AsyncClient) -> None:
    pytest.importorskip("pandas")
    (shown,) = outputs(await run(http, "import pandas\npandas.DataFrame({'a': [1]})"))
    assert "<table" in shown["data"]["text/html"]


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "[{'x': float('nan')}]"])
async def test_numbers_that_json_has_not_do_not_spoil_the_record(
    http: httpx2.AsyncClient, value: str
) -> None:
    code = f"display({{'application/json': {value}, 'text/plain': 'number'}}, raw=True)"
    reading = await run(http, code, cell_id="number")
    assert end(reading)["type"] == "complete", end(reading)
    shown = (await kept(http, "number"))[0]
    assert shown["data"]["text/plain"] == "number"
    assert (await http.get("/notebooks/one.ipynb")).status_code == 200


# Too much


def memory(server: Server) -> int:
    """Bytes that a server holds in memory now."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param(
            "for _ in range(100): print('x' * 999_999)", 100_000_000, id="lines", marks=pytest.mark.long
        ),
        pytest.param(
            "import sys\nfor _ in range(200): sys.stdout.write('y' * 1_000_000)",
            200_000_000,
            id="no line end",
        ),
        pytest.param("print('z' * 50_000_000)", 50_000_001, id="at once", marks=pytest.mark.long),
    ],
)
async def test_floods_are_cut_with_the_number_and_cost_no_memory(
    house: Server, http: httpx2.AsyncClient, code: str, said: int
) -> None:
    assert await usable(http)
    before = memory(house)
    reading = await run(http, code)
    cuts = reading.named("truncated")
    assert len(printed(reading)) == MEBIBYTE
    assert cuts[-1].data == {"type": "truncated", "dropped_chars": said - MEBIBYTE, "limit": MEBIBYTE}
    assert all(len(each.data.get("delta", "")) <= 16_384 for each in reading.events)
    assert end(reading)["finish_reason"] == "stop"
    assert memory(house) - before <= 50 * MEBIBYTE
    assert await usable(http)


async def test_a_flood_of_displays_is_cut(house: Server, http: httpx2.AsyncClient) -> None:
    assert await usable(http)
    before = memory(house)
    reading = await run(http, "for _ in range(1_500): display({'text/plain': 'x' * 8_000}, raw=True)")
    # Where there is no room for one, there is for some words of it.
    assert len(outputs(reading)) <= MEBIBYTE // 8_000 + 40
    assert reading.named("truncated")[-1].data["dropped_chars"] >= 10_000_000
    assert end(reading)["finish_reason"] == "stop"
    assert memory(house) - before <= 50 * MEBIBYTE
    assert await usable(http)


async def test_an_image_that_is_too_large_is_told(house: Server, http: httpx2.AsyncClient) -> None:
    assert await usable(http)
    before = memory(house)
    code = (
        "from IPython.display import Image\nimport os\n"
        "display(Image(b'\\x89PNG\\r\\n\\x1a\\n' + os.urandom(20_000_000), format='png'))\nprint('after')"
    )
    reading = await run(http, code)
    (shown,) = outputs(reading)
    assert list(shown["data"]) == ["text/plain"]
    assert "image/png" in shown["data"]["text/plain"]
    assert printed(reading) == "after\n"
    # The message itself is there once, in several copies.
    assert memory(house) - before <= 150 * MEBIBYTE
    assert await usable(http)


# Ends


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(3)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.string_at(0)",
        "import os, signal; os.kill(os.getppid(), signal.SIGKILL); import time; time.sleep(60)",
        "import os, signal; os.killpg(0, signal.SIGTERM); import time; time.sleep(60)",
    ],
    ids=["_exit", "kill", "segfault", "keeper", "group"],
)
async def test_a_kernel_that_kills_itself_is_told_with_its_last_words(
    http: httpx2.AsyncClient, code: str
) -> None:
    async with asyncio.timeout(60):
        # What is flushed leaves the process a moment later, by a thread.
        words = "print('last words', flush=True)\nimport time\ntime.sleep(0.2)\n"
        reading = await run(http, words + code, "dies", cell_id="dies")
    assert (end(reading)["type"], end(reading)["code"]) == ("error", "kernel_died")
    assert printed(reading) == "last words\n"
    assert [each["text"] for each in await kept(http, "dies", "dies")] == ["last words\n"]
    assert await usable(http, "dies")


@pytest.mark.parametrize("code", ["raise SystemExit", "import sys; sys.exit(3)"])
async def test_a_system_exit_is_an_exception_like_others(http: httpx2.AsyncClient, code: str) -> None:
    reading = await run(http, code)
    assert outputs(reading)[0]["ename"] == "SystemExit"
    assert end(reading)["finish_reason"] == "error"
    assert await usable(http)


# Stops


STUBBORN: Final = (
    "print('on', flush=True)\nimport time\n"
    "while True:\n    try:\n        time.sleep(100)\n    except BaseException:\n        pass"
)


async def begin(
    http: httpx2.AsyncClient, notebook: str, code: str, *, until: str = "on"
) -> tuple[str, asyncio.Task[list[dict[str, Any]]]]:
    """A cell that runs: where its stream is, and who reads it to the end. Returns when it has printed `until`
    (if that is not empty)."""
    begun, place, seen = asyncio.Event(), "", [""]

    async def reading() -> list[dict[str, Any]]:
        nonlocal place
        events = []
        body = call(notebook, "execute", code=code)
        async with http.stream("POST", OPERATION, json=body) as response:
            place = response.headers["location"]
            if not until:
                begun.set()
            async for event in read_events(response):
                events.append(event.data)
                seen[0] += event.data.get("delta", "")
                if until in seen[0]:
                    begun.set()
        return events

    task = asyncio.create_task(reading())
    await begun.wait()
    return place, task


ON: Final = "print('on', flush=True)\n"

STANDS_STILL: Final = """
import os, signal, time
try:
    time.sleep(0.3)  # in which what was printed leaves
finally:
    os.kill(os.getpid(), signal.SIGSTOP)
"""

ONE_STEP = """
import itertools, time
try:
    # What was printed leaves by a thread, which gets no turn after this.
    time.sleep(0.3)
except KeyboardInterrupt:
    pass
sum(itertools.repeat(0, 10**12))
"""
"""Deaf to an interrupt: one operation of C, which holds Python's lock."""

ENDLESS: Final = {
    "K6-loop": ON + "while True: pass",
    "K6-interrupt-proof": STUBBORN,
    "K6-no-step-of-python": ON + ONE_STEP,
    "K6-traceback": ON + "class E(Exception):\n    def __str__(self): raise self\nraise E",
    "K6-stands-still": ON + STANDS_STILL,
}


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
async def test_stops_are_idempotent_and_the_next_cell_works(http: httpx2.AsyncClient, code: str) -> None:
    """Also of what does not hear an interrupt: one long operation of C, IPython's own endless attempts to
    show a fault, a process that stands still."""
    place, reading = await begin(http, "stubborn", code)
    answers = await asyncio.gather(*(http.delete(place) for _ in range(3)))
    assert {each.status_code for each in answers} == {200}
    # Straight after it, whatever becomes of the old kernel.
    assert await usable(http, "stubborn")
    assert (await reading)[-1] == {"type": "cancelled", "reason": "client"}
    again = await http.delete(place)
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")


async def test_a_stop_after_the_end_changes_nothing(http: httpx2.AsyncClient) -> None:
    reading = await run(http, "print('whole')")
    place = reading.response.headers["location"]
    answers = [await http.delete(place) for _ in range(2)]
    assert [(each.status_code, each.json()["state"]) for each in answers] == [(200, "complete")] * 2
    assert await usable(http)


async def test_a_cell_is_stopped_while_its_kernel_starts(http: httpx2.AsyncClient) -> None:
    place, reading = await begin(http, "starting", "print('never')", until="")
    assert (await http.delete(place)).status_code == 200
    events = await reading
    assert events[-1] == {"type": "cancelled", "reason": "client"}
    assert not any(each.get("delta") for each in events)
    assert await usable(http, "starting")


@pytest.mark.parametrize("operation", ["interrupt", "restart", "shutdown"])
async def test_what_is_asked_while_a_kernel_starts_and_twice(
    http: httpx2.AsyncClient, operation: str
) -> None:
    _, reading = await begin(http, f"early-{operation}", "print('ran')", until="")
    readings = await asyncio.gather(*(ask(http, {}, f"early-{operation}", operation) for _ in range(3)))
    assert all(end(each)["type"] == "complete" for each in readings)
    async with asyncio.timeout(60):
        last = (await reading)[-1]
    assert last.get("code", last["type"]) in ("complete", "kernel_stopped")
    assert await usable(http, f"early-{operation}")


async def test_a_cell_that_waits_is_stopped_before_it_runs(http: httpx2.AsyncClient) -> None:
    first, running = await begin(http, "queue", "print('on', flush=True)\nimport time\ntime.sleep(60)")
    second, waiting = await begin(http, "queue", "print('never')", until="")
    assert (await http.delete(second)).status_code == 200
    assert (await waiting)[-1]["type"] == "cancelled"
    status = answer(await ask(http, {}, "queue", "status"))
    assert status["state"] == "busy"
    await http.delete(first)
    assert (await running)[-1]["type"] == "cancelled"
    never = next(
        cell
        for cell in (await http.get("/notebooks/queue")).json()["cells"]
        if cell["source"] == "print('never')"
    )
    assert (never["outputs"], never["execution_count"], never["stream"]) == ([], None, None)


# Threads, and several at once


async def test_what_threads_say_late_is_kept_under_their_own_cell(http: httpx2.AsyncClient) -> None:
    code = (
        "import threading\n"
        "go = threading.Event()\n"
        "def later():\n    go.wait()\n    print('late')\n"
        "thread = threading.Thread(target=later)\nthread.start()\nprint('early')"
    )
    first = await run(http, code, cell_id="first")
    second = await run(http, "go.set()\nthread.join()\nprint('second')", cell_id="second")
    assert (printed(first), printed(second)) == ("early\n", "second\n")

    async def both() -> bool:
        return "late" in json.dumps(await kept(http, "first"))

    assert await eventually(both)
    assert "late" not in json.dumps(await kept(http, "second"))


TAGGED: Final = """
import sys, threading, time
def say(thread):
    for number in range({count}):
        print(f"{tag} {{thread}} {{number}}\\n", end="")
        if number % 50 == 0:
            time.sleep(0.001)
threads = [threading.Thread(target=say, args=(thread,)) for thread in range(5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


async def test_of_ten_thousand_messages_none_goes_astray(http: httpx2.AsyncClient) -> None:
    """Two people, two notebooks each, two cells one after the other in each, five threads in each cell."""
    count = 250
    cells = [
        (person, notebook, f"{person}/{notebook}/{cell}")
        for person in ("ada", "grace")
        for notebook in ("tagged-a", "tagged-b")
        for cell in ("x", "y")
    ]
    readings = await asyncio.gather(
        *(
            ask(http, key_of(person), notebook, "execute", code=TAGGED.format(tag=tag, count=count))
            for person, notebook, tag in cells
        )
    )
    for (_, _, tag), reading in zip(cells, readings, strict=True):
        lines = printed(reading).splitlines()
        assert sorted(lines) == sorted(
            f"{tag} {thread} {number}" for thread in range(5) for number in range(count)
        )


# Secrets


async def test_a_kernel_sees_nothing_of_the_servers_environment_and_files(
    house: Server, http: httpx2.AsyncClient
) -> None:
    code = (
        "import os, json\n"
        "def environment(pid):\n"
        "    try: return open(f'/proc/{pid}/environ').read().split('\\0')\n"
        "    except PermissionError: return []\n"
        "def parent_of(pid): return int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])\n"
        "print(json.dumps({\n"
        "    'own': [*os.environ], 'parent': environment(os.getppid()),\n"
        "    'server': environment(parent_of(os.getppid())),\n"
        "    'files': [os.readlink(f'/proc/self/fd/{each}') for each in os.listdir('/proc/self/fd')\n"
        "              if os.path.islink(f'/proc/self/fd/{each}')],\n"
        "    'modes': [oct(os.stat(each).st_mode & 0o777) for each in ('.', '..')],\n"
        "}))"
    )
    seen = json.loads(printed(await run(http, code)))
    for each in (*seen["own"], *seen["parent"], *seen["server"]):
        assert not re.match("SECRET_KEY|DATABASE_URL|DJANGO|REDIS|OPENAI|ENV_FILE|ALLOW", each), each
    database = str(house.database)
    for each in seen["files"]:
        assert not each.startswith(database), each
        assert not each.endswith(".log") or "sluice-" in each, each
    assert seen["modes"] == ["0o700", "0o700"]


FORGED: Final = """
import os, zmq
from jupyter_client.session import Session
kernel = get_ipython().kernel
iopub, parent = kernel.iopub_socket, kernel.get_parent()
stranger = Session(key=b"not the key")
for text in ("forged", "again"):
    stranger.send(iopub, "stream", {"name": "stdout", "text": text}, parent=parent)
iopub.send_multipart([b"garbage"])
iopub.send_multipart([b"stream", b"<IDS|MSG>", b"", b"{", b"{}", b"{}", b"{}"])
send = kernel.session.send
for content in ({}, {"name": "stdout"}, {"text": "x"}):
    send(iopub, "stream", content, parent=parent)
for content in ({"data": []}, {"data": "x"}, {"data": 5}):
    send(iopub, "display_data", content, parent=parent)
send(iopub, "error", {"traceback": [1, None]}, parent=parent)
send(iopub, "status", {}, parent=parent)
send(iopub, "unheard of", {}, parent=parent)
send(iopub, "stream", {"name": "stdout", "text": "of nobody"}, parent={"msg_id": "nobody"})
print("after")
"""


async def test_forged_messages_are_dropped_and_the_stream_lives(
    house: Server, http: httpx2.AsyncClient
) -> None:
    before = len(house.log())
    reading = await run(http, FORGED, "forges", cell_id="forged")
    assert end(reading)["type"] == "complete", end(reading)
    assert printed(reading).endswith("after\n")
    for text in ("forged", "again", "of nobody"):
        assert text not in printed(reading)

    async def logged() -> bool:
        return "messages of a kernel are not understood" in house.log()[before:]

    assert await eventually(logged)
    assert await usable(http, "forges")
    assert answer(await ask(http, {}, "forges", "status"))["state"] == "idle"
    assert (await http.get("/notebooks/forges")).status_code == 200
    assert (await http.get("/notebooks/forges.ipynb")).status_code == 200


KNOCK: Final = """
import json, os, zmq
path = "../connection.json"
info = json.load(open(path))
context = zmq.Context()
for name in ("shell_port", "control_port", "stdin_port"):
    socket = context.socket(zmq.DEALER)
    socket.connect(f"ipc://{info['ip']}-{info[name]}")
    socket.send_multipart([b"<IDS|MSG>", b"wrong", b'{"msg_type":"shutdown_request"}', b"{}", b"{}", b"{}"])
    socket.send_multipart([b"garbage"])
    socket.send(b"")
context.destroy(linger=500)
print("knocked")
"""


async def test_unsigned_requests_do_nothing(http: httpx2.AsyncClient) -> None:
    reading = await run(http, KNOCK)
    assert printed(reading) == "knocked\n"
    assert await usable(http)


POISON: Final = (
    "print('a\\x00b')\n"
    "display({'text/plain': '\\x00', 'application/json': {'\\x00': ['\\x00']}}, raw=True)\n"
    "raise ValueError('\\x00')"
)


@pytest.mark.long
async def test_on_postgresql_odd_text_is_kept_as_it_can_be(postgresql: Cluster, tmp_path: Path) -> None:
    """It refuses NUL in texts and in JSON."""
    url = postgresql.migrated()
    env = environment(tmp_path, DATABASE_URL=url, KERNELS_ENABLED="true", KERNELS_WITHOUT_SANDBOX="true")
    headers = {"Authorization": f"Bearer {make_people(env)['ada'][0]}"}
    with started("serve", tmp_path, env) as server:
        async with client(server.url, headers=headers) as http:
            reading = await run(http, POISON, cell_id="poison")
            assert (end(reading)["type"], end(reading)["finish_reason"]) == ("complete", "error")
            kinds = [each["output_type"] for each in await kept(http, "poison")]
            assert kinds == ["stream", "display_data", "error"]


# Odd values in outputs, and in what the kernel says of itself


SEND: Final = (
    "k = get_ipython().kernel\n"
    "def say(kind, content): k.session.send(k.iopub_socket, kind, content, parent=k.get_parent())\n"
)


async def test_lone_surrogates_do_not_swallow_what_is_around_them(http: httpx2.AsyncClient) -> None:
    reading = await run(http, "print('before')\nprint('a\\ud800b')\nprint('after')", cell_id="surrogate")
    assert printed(reading) == "before\na\ufffdb\nafter\n"
    assert printed(reading, "stderr") == ""
    reading = await run(http, "raise ValueError('\\ud800')")
    assert [each["ename"] for each in outputs(reading)] == ["ValueError"]
    assert (await http.get("/notebooks/one.ipynb")).status_code == 200


@pytest.mark.parametrize("code", ["exit()", pytest.param("quit()", marks=pytest.mark.long)])
async def test_leaving_ends_the_kernel_and_the_next_cell_has_a_new_one(
    http: httpx2.AsyncClient, code: str
) -> None:
    for _ in range(3):
        await run(http, "x = 1", "leaves")
        assert end(await run(http, code, "leaves"))["code"] == "kernel_died"
        # Not in the one that is about to go, and with it everything that the next cells make.
        reading = await run(http, "print('x' in globals())", "leaves")
        assert (printed(reading), end(reading)["type"]) == ("False\n", "complete")


async def test_an_idle_kernel_that_is_killed_from_outside_is_replaced(
    house: Server, http: httpx2.AsyncClient
) -> None:
    reading = await run(http, "import os\nprint(os.getpid())", "outside")
    os.kill(int(printed(reading)), signal.SIGKILL)

    async def noticed() -> bool:
        return bool(answer(await ask(http, {}, "outside", "status"))["state"] == "none")

    assert await eventually(noticed)
    reading = await run(http, "print('os' in globals())", "outside")
    assert (printed(reading), end(reading)["type"]) == ("False\n", "complete")


@pytest.mark.parametrize(
    "code",
    [
        "display({'text/plain': {'a': 1}}, raw=True)",
        "display({'text/plain': None, 'image/png': [1]}, raw=True)",
        "a = []\nfor _ in range(900): a = [a]\ndisplay({'application/json': a}, raw=True)",
        SEND + "say('execute_result', {'data': {'text/plain': 'b'}, 'metadata': {}, 'execution_count': 'x'})",
        SEND + "say('stream', {'name': 5, 'text': 5})",
    ],
)
async def test_a_bundle_of_a_wrong_kind_does_not_spoil_the_notebook(
    http: httpx2.AsyncClient, code: str
) -> None:
    reading = await run(http, code, "spoilt", cell_id="spoilt")
    assert end(reading)["type"] == "complete", end(reading)
    assert {each.data.get("channel") for each in reading.named("content")} <= {"stdout", "stderr"}
    exported = await http.get("/notebooks/spoilt.ipynb")
    assert exported.status_code == 200, exported.text


@pytest.mark.parametrize(
    "number",
    [
        "10**30",
        "None",
        pytest.param("-5", marks=pytest.mark.long),
        pytest.param("2**31", marks=pytest.mark.long),
        pytest.param("'x'", marks=pytest.mark.long),
    ],
)
async def test_a_cell_whose_number_is_none_is_kept(http: httpx2.AsyncClient, number: str) -> None:
    """The counter is the kernel's, and its user's."""
    await run(http, f"get_ipython().kernel.shell.execution_count = {number}", "numbers", cell_id="a")
    reading = await run(http, "print('kept')", "numbers", cell_id="b")
    assert end(reading).get("code") != "producer_failed"
    assert [each["text"] for each in await kept(http, "b", "numbers")] == ["kept\n"]
    assert (await http.get("/notebooks/numbers.ipynb")).status_code == 200
    await ask(http, {}, "numbers", "shutdown")


@pytest.mark.parametrize(
    "code",
    [
        "raise type('E' * 100_000, (Exception,), {})('x')",
        "display(1, display_id='d' * 3_000_000)",
        "display({'x' * 3_000_000: 'y'}, raw=True)",
        "display({'text/plain': 'x'}, metadata={'m': 'y' * 3_000_000}, raw=True)",
        "display({'application/json': {'a': 'y' * 3_000_000}}, raw=True)",
    ],
)
async def test_nothing_of_an_output_gets_past_the_limits(http: httpx2.AsyncClient, code: str) -> None:
    reading = await run(http, code, "sizes", cell_id="sizes")
    assert end(reading)["type"] == "complete"
    assert max(len(json.dumps(each.data)) for each in reading.events) < 100_000
    assert len((await http.get("/notebooks/sizes")).content) < 200_000


async def test_the_stream_of_a_cell_is_named_only_while_it_runs(http: httpx2.AsyncClient) -> None:
    await run(http, "1", cell_id="over")
    shown = (await http.get("/notebooks/one")).json()
    assert {cell["cell_id"]: cell["stream"] for cell in shown["cells"]} == dict.fromkeys(
        (cell["cell_id"] for cell in shown["cells"]), None
    )


GARBAGE: Final = """
iopub = get_ipython().kernel.iopub_socket
for _ in range(5_000): iopub.send_multipart([b"garbage"])
print("after")
"""


async def test_a_flood_of_garbage_does_not_fill_the_log(house: Server, http: httpx2.AsyncClient) -> None:
    before = len(house.log())
    assert printed(await run(http, GARBAGE)) == "after\n"
    assert len(house.log()) - before < 100_000
