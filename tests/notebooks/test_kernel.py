"""One kernel, for real: what it prints comes as it prints it, and whatever happens to it ends in order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from typing import Any

import psutil
import pytest

from notebooks.kernels.kernel import Kernel as AnyKernel
from notebooks.kernels.local import LocalKernel as Kernel
from notebooks.kernels.output import CellEnd, CellOutput
from streaming.core.errors import KernelDied, KernelNotStarted, RunTimeout
from streaming.core.events import Content, Output, Truncated
from tests.support.client import eventually

from .conftest import limits


async def run(
    kernel: AnyKernel,
    code: str,
    tag: str = "cell",
    limit: int = 1_048_576,
    begun: asyncio.Event | None = None,
) -> tuple[list[Any], CellEnd]:
    """What a cell says, and how it ends. `begun` is set when it has said something."""
    output = CellOutput(limit)
    found = []
    async with asyncio.timeout(60), aclosing(kernel.execute(code, output, tag)) as parts:
        async for part in parts:
            found.append(part)
            if begun is not None:
                begun.set()
    output.take()
    assert isinstance(found[-1], CellEnd)
    return found[:-1], found[-1]


def text(parts: list[Any], channel: str = "stdout") -> str:
    return "".join(part.delta for part in parts if isinstance(part, Content) and part.channel == channel)


def outputs(parts: list[Any]) -> list[Output]:
    return [part for part in parts if isinstance(part, Output)]


def family(kernel: Kernel) -> list[psutil.Process]:
    """The keeper and everything below it."""
    assert kernel.pid is not None
    keeper = psutil.Process(kernel.pid)
    return [keeper, *keeper.children(recursive=True)]


async def gone(processes: list[psutil.Process], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
            return True
        await asyncio.sleep(0.02)
    return False


async def test_a_cell_prints_and_has_a_number(kernel: Kernel) -> None:
    parts, end = await run(kernel, "import sys\nprint('中文 👩‍👩‍👧‍👦 שלום')\nprint('oops', file=sys.stderr)")
    assert (text(parts), text(parts, "stderr")) == ("中文 👩‍👩‍👧‍👦 שלום\n", "oops\n")
    assert end.status == "ok"
    assert end.execution_count is not None
    assert (await run(kernel, "1 + 1"))[1].execution_count == end.execution_count + 1


async def test_what_is_printed_comes_while_the_cell_runs(kernel: Kernel) -> None:
    code = "import time\nfor k in range(20):\n    print(f'{time.time():.4f}')\n    time.sleep(0.05)"
    late = []
    async with aclosing(kernel.execute(code, CellOutput(10_000), "cell")) as parts:
        async for part in parts:
            if isinstance(part, Content):
                late += [time.time() - float(line) for line in part.delta.split()]
    assert len(late) == 20
    # A hang of ipykernel's own interval (0.2 s) would be ten times the promise.
    assert sorted(late)[10] < 0.15


async def test_values_figures_and_tables_are_bundles(kernel: Kernel) -> None:
    parts, _ = await run(
        kernel,
        "from IPython.display import display, HTML, Image\n"
        "print('before')\n"
        "display(HTML('<b>bold</b>'))\n"
        "print('after')\n"
        "{'a': 1}",
    )
    kinds = [part.channel if isinstance(part, Content) else part.output_type for part in parts]
    assert kinds == ["stdout", "display_data", "stdout", "execute_result"]
    shown, result = outputs(parts)
    assert shown.data is not None
    assert shown.data["text/html"] == "<b>bold</b>"
    assert result.data == {"text/plain": "{'a': 1}"}


async def test_a_display_is_updated_and_cleared(kernel: Kernel) -> None:
    parts, _ = await run(
        kernel,
        "from IPython.display import display, clear_output\n"
        "handle = display('one', display_id='d')\nhandle.update('two')\n"
        "clear_output(wait=True)\nprint('three')",
    )
    assert [part.output_type for part in outputs(parts)] == [
        "display_data",
        "update_display_data",
        "clear_output",
    ]
    assert [part.display_id for part in outputs(parts)][:2] == ["d", "d"]
    assert outputs(parts)[2].wait
    assert text(parts) == "three\n"


@pytest.mark.parametrize(
    ("code", "ename"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
        ("input('?')", "StdinNotImplementedError"),
        ("import getpass; getpass.getpass()", "StdinNotImplementedError"),
        ("class R:\n    def __repr__(self): raise ValueError('no')\nR()", "ValueError"),
        ("raise ValueError('x' * 10**6)", "ValueError"),
    ],
)
async def test_a_fault_in_the_code_is_output(kernel: Kernel, code: str, ename: str) -> None:
    parts, _ = await run(kernel, code)
    faults = [part for part in outputs(parts) if part.output_type == "error"]
    assert [fault.ename for fault in faults] == [ename] or ename in text(parts, "stderr")
    assert (await run(kernel, "print('still here')"))[1].status == "ok"


async def test_a_hundred_megabytes_are_cut_and_the_kernel_stays(kernel: Kernel) -> None:
    before = psutil.Process().memory_info().rss
    parts, end = await run(kernel, "for _ in range(100): print('x' * 1_000_000)", limit=100_000)
    cuts = [part for part in parts if isinstance(part, Truncated)]
    assert len(text(parts)) == 100_000
    assert cuts[-1].dropped_chars == 100 * 1_000_001 - 100_000
    assert end.status == "ok"
    assert psutil.Process().memory_info().rss - before < 150 * 2**20
    assert text((await run(kernel, "print('usable')"))[0]) == "usable\n"


async def test_an_endless_cell_is_interrupted_and_its_kernel_stays(kernel: Kernel) -> None:
    begun = asyncio.Event()
    running = asyncio.create_task(run(kernel, "print('on', flush=True)\nwhile True: pass", begun=begun))
    await begun.wait()
    await kernel.interrupt()
    parts, end = await running
    assert (end.status, outputs(parts)[-1].ename) == ("error", "KeyboardInterrupt")
    assert kernel.alive


async def test_who_stops_reading_stops_the_code(kernel: Kernel) -> None:
    began = time.monotonic()
    async with aclosing(
        kernel.execute("print('on', flush=True)\nwhile True: pass", CellOutput(99), "c")
    ) as parts:
        async for _ in parts:
            break
    assert time.monotonic() - began < 30
    assert (kernel.alive, kernel.busy) == (True, False)
    assert (await run(kernel, "1"))[1].status == "ok"


async def test_code_that_ignores_interrupts_goes_with_its_kernel_and_all_its_children(kernel: Kernel) -> None:
    code = (
        "import subprocess, time\n"
        "subprocess.Popen(['sleep', '1000'])\n"
        "subprocess.Popen(['setsid', 'sleep', '1000'])\n"
        "while True:\n"
        # An interrupt comes as soon as this is heard, so it must be heard from in here.
        "    try:\n        print('on', flush=True)\n        time.sleep(1000)\n"
        "    except BaseException:\n        pass\n"
    )
    async with aclosing(kernel.execute(code, CellOutput(99), "c")) as parts:
        async for _ in parts:
            processes = family(kernel)
            assert len(processes) >= 4
            break
    assert not kernel.alive
    assert await gone(processes)


@pytest.mark.parametrize("code", ["import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)", "exit()"])
async def test_a_kernel_that_ends_says_so_at_once(kernel: Kernel, code: str) -> None:
    processes = family(kernel)
    began = time.monotonic()
    with pytest.raises(KernelDied):
        await run(kernel, f"print('last words', flush=True)\n{code}")
    assert time.monotonic() - began < 10
    assert await gone(processes)
    assert not kernel.lives()


async def test_a_kernel_that_says_more_than_any_message_may_hold_is_ended(kernel: Kernel) -> None:
    code = (
        "kernel = get_ipython().kernel\n"
        "kernel.session.send(kernel.iopub_socket, 'stream', {'name': 'stdout', 'text': 'x' * 50_000_000},"
        " parent=kernel.get_parent())"
    )
    before = psutil.Process().memory_info().rss
    with pytest.raises(KernelDied):
        await run(kernel, code)
    assert psutil.Process().memory_info().rss - before < 40_000_000


async def test_a_kernel_that_is_killed_from_outside_is_noticed(kernel: Kernel) -> None:
    begun = asyncio.Event()
    code = "import time\nprint('on', flush=True)\ntime.sleep(100)"
    running = asyncio.create_task(run(kernel, code, begun=begun))
    await begun.wait()
    family(kernel)[1].send_signal(signal.SIGKILL)
    with pytest.raises(KernelDied):
        await running


async def test_a_keeper_that_is_killed_takes_its_kernel_along(kernel: Kernel) -> None:
    processes = family(kernel)
    processes[0].kill()
    with pytest.raises(KernelDied):
        await run(kernel, "import time; time.sleep(100)")
    assert await gone(processes)


async def test_a_cell_has_a_time_limit() -> None:
    kernel = await Kernel.started(limits(execution_timeout=0.5))
    try:
        with pytest.raises(RunTimeout):
            await run(kernel, "while True: print('x')")
        assert kernel.alive
    finally:
        await kernel.stop()


async def test_memory_is_limited() -> None:
    kernel = await Kernel.started(limits(memory_limit=1_073_741_824))
    try:
        parts, _ = await run(kernel, "x = bytearray(4 * 2**30)")
        assert outputs(parts)[-1].ename == "MemoryError"
        parts, _ = await run(kernel, "print('fine')")
        assert text(parts) == "fine\n"
    finally:
        await kernel.stop()


async def test_files_are_limited() -> None:
    kernel = await Kernel.started(limits(file_limit=1_000_000))
    try:
        parts, _ = await run(kernel, "open('big', 'wb').write(b'x' * 2_000_000)")
        assert outputs(parts)[-1].ename == "OSError"
    finally:
        await kernel.stop()


async def test_processes_are_limited() -> None:
    kernel = await Kernel.started(limits(processes=12))
    try:
        processes = family(kernel)
        with pytest.raises(KernelDied):
            await run(
                kernel,
                "import subprocess, time\n"
                "for _ in range(40): subprocess.Popen(['sleep', '99'])\n"
                "time.sleep(60)",
            )
        assert await gone(processes)
    finally:
        await kernel.stop()


async def test_the_environment_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    monkeypatch.setenv("DATABASE_URL", "postgres://secret")
    monkeypatch.setenv("ALLOWED", "yes")
    kernel = await Kernel.started(limits(environment=["ALLOWED"]))
    try:
        parts, _ = await run(
            kernel,
            "import os\nprint(sorted(os.environ))\n"
            "print(os.environ['ALLOWED'], os.getcwd() == os.environ['HOME'])\n"
            "print(oct(os.stat('.').st_mode & 0o777), oct(os.stat('..').st_mode & 0o777))",
        )
        said = text(parts)
        assert "SECRET_KEY" not in said
        assert "DATABASE_URL" not in said
        assert "yes True\n0o700 0o700" in said
    finally:
        await kernel.stop()


async def test_nothing_is_left_behind(kernel: Kernel) -> None:
    processes, work = family(kernel), kernel.work
    await run(kernel, "open('file', 'w').write('x')")
    parts, _ = await run(kernel, "print(open('file').read())")
    assert text(parts) == "x\n"
    await kernel.stop()
    await kernel.stop()
    assert await gone(processes)
    with pytest.raises(FileNotFoundError):
        os.stat(work)


async def test_late_output_goes_to_its_own_cell(kernel: Kernel) -> None:
    late: list[tuple[str, Any]] = []
    kernel.listen(lambda tag, output: late.append((tag, output.take())))
    await run(
        kernel,
        "import threading, time\n"
        "def later():\n    time.sleep(0.5)\n    print('late')\n"
        "threading.Thread(target=later).start()",
        "first",
    )
    parts, _ = await run(kernel, "time.sleep(1.2)\nprint('second')", "second")
    assert text(parts) == "second\n"
    assert [(tag, said["text"]) for tag, outputs in late for said in outputs] == [("first", "late\n")]


async def test_a_pool_prints_for_the_cell_that_gave_it_the_work(kernel: Kernel) -> None:
    await run(
        kernel,
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1)\npool.submit(print, 'one').result()",
        "first",
    )
    parts, _ = await run(kernel, "pool.submit(print, 'two').result()", "second")
    assert text(parts) == "two\n"


async def test_what_processes_write_belongs_to_the_cell_that_started_them(kernel: Kernel) -> None:
    late: dict[str, str] = {}

    def keep(tag: str, output: CellOutput) -> None:
        late[tag] = output.take()[-1]["text"]

    kernel.listen(keep)
    parts, _ = await run(
        kernel,
        "import os, subprocess\n"
        "os.system('echo at once')\n"
        "after = 'read word; echo $word'\n"
        "process = subprocess.Popen(['sh', '-c', after], stdin=subprocess.PIPE, text=True)",
        "first",
    )
    assert text(parts) == "at once\n"
    parts, _ = await run(kernel, "_ = process.communicate('late')\nprint('second')", "second")
    assert text(parts) == "second\n"

    async def told() -> bool:
        return bool(late)

    await eventually(told)
    assert late == {"first": "late\n"}


async def test_what_processes_write_keeps_its_characters(kernel: Kernel) -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', \"print('中文😀' * 9_999)\"])"
    parts, _ = await run(kernel, code)
    assert text(parts) == "中文😀" * 9_999 + "\n"
    parts, _ = await run(kernel, "subprocess.run(['echo', 'ä'], stdout=sys.stdout)\nNone")
    assert text(parts) == "ä\n"
    parts, _ = await run(kernel, "subprocess.run(['printf', r'\\377\\000\\n'])\nNone")
    assert text(parts) == "\ufffd\n"


async def test_processes_print_also_where_code_closed_the_standard_files(kernel: Kernel) -> None:
    await run(kernel, "import os\nos.close(1)\nos.close(2)")
    parts, _ = await run(kernel, "os.system('echo out; echo err >&2')\nNone")
    assert (text(parts), text(parts, "stderr")) == ("out\n", "err\n")
    await kernel.stop()


async def test_a_forked_process_prints(kernel: Kernel) -> None:
    code = (
        "import multiprocessing\n"
        "forked = multiprocessing.get_context('fork').Process(target=print, args=('forked',))\n"
        "forked.start()\nforked.join()"
    )
    parts, _ = await run(kernel, code)
    assert text(parts) == "forked\n"


async def test_a_process_that_never_stops_writing_does_not_keep_its_cell(kernel: Kernel) -> None:
    parts, end = await run(kernel, "import subprocess\nnoise = subprocess.Popen(['yes'])")
    assert end.status == "ok"
    parts, end = await run(kernel, "noise.kill()\nprint('quiet')")
    assert text(parts) == "quiet\n"


async def test_of_very_many_messages_none_is_lost_while_their_reader_is_away(kernel: Kernel) -> None:
    output = CellOutput(10_000_000)
    shown = 0
    code = "for k in range(1_200):\n    display(k)\n    print(k, flush=True)"
    async for part in kernel.execute(code, output, "many"):
        shown += isinstance(part, Output)
        if shown == 10:
            time.sleep(1)  # noqa: ASYNC251 - the whole loop is away
    printed = "".join(each["text"] for each in output.take() if each["output_type"] == "stream")
    assert shown == 1_200
    assert printed == "".join(f"{k}\n" for k in range(1_200))


async def test_a_lost_word_of_the_end_is_asked_for(kernel: Kernel) -> None:
    code = (
        "kernel = get_ipython().kernel\n"
        "publish, said = kernel._publish_status, []\n"
        "def lose_once(status, *args, **kwargs):\n"
        "    if said or status != 'idle':\n"
        "        return publish(status, *args, **kwargs)\n"
        "    said.append(status)\n"
        "kernel._publish_status = lose_once"
    )
    _, end = await run(kernel, code)
    assert end.status == "ok"
    parts, _ = await run(kernel, "print(said)")
    assert text(parts) == "['idle']\n"
    await kernel.stop()


async def test_a_text_without_any_end_of_line_costs_no_memory(kernel: Kernel) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    parts, end = await run(kernel, "print('x' * 200_000_000)\nprint('y' * 100, end='')")
    assert end.status == "ok"
    assert len(text(parts)) == limits().output_limit
    assert process.memory_info().rss - before < 50_000_000
    parts, _ = await run(kernel, "print('usable')")
    assert text(parts) == "usable\n"


async def test_an_image_that_is_too_large_does_not_leave_the_kernel(kernel: Kernel) -> None:
    code = "from IPython.display import Image\ndisplay(Image(data=bytes(30_000_000), format='png'))"
    parts, _ = await run(kernel, code)
    (shown,) = outputs(parts)
    assert shown.data is not None
    assert "more than a cell may show" in shown.data["text/plain"]


async def test_completion_and_inspection(kernel: Kernel) -> None:
    await run(kernel, "apple = 1")
    answer = await kernel.ask("complete", "app", 3)
    assert "apple" in answer["matches"]
    answer = await kernel.ask("inspect", "len", 3)
    assert answer["found"]


async def test_answers_that_come_while_something_is_sent_are_heard(kernel: Kernel) -> None:
    for _ in range(3):
        asked = asyncio.create_task(kernel.ask("complete", "prin", 4))
        await asyncio.sleep(0)
        # The answer comes while the loop is away, and the next question leaves before anybody can look.
        time.sleep(0.3)  # noqa: ASYNC251
        parts, _ = await run(kernel, "print('heard')")
        assert text(parts) == "heard\n"
        assert (await asked)["matches"]


async def test_an_interpreter_that_does_not_start_says_why() -> None:
    with pytest.raises(KernelNotStarted, match="could not be started"):
        await Kernel.started(limits(python="/nowhere/python"))


async def test_no_process_is_left_of_what_did_not_start() -> None:
    before = {each.pid for each in psutil.Process().children()}
    with pytest.raises(KernelNotStarted):
        await Kernel.started(limits(python="/bin/false"))
    assert {each.pid for each in psutil.Process().children()} <= before


A_SERVER = """
import asyncio, os, sys
sys.path.insert(0, os.getcwd())
from notebooks.kernels.local import LocalKernel as Kernel
from notebooks.kernels.output import CellOutput
from tests.notebooks.conftest import limits

CODE = '''
import subprocess
subprocess.Popen(["setsid", "sleep", "1000"])
print("on", flush=True)
while True: pass
'''

async def main():
    kernel = await Kernel.started(limits())
    async for part in kernel.execute(CODE, CellOutput(99), "c"):
        print(kernel.pid, flush=True)

asyncio.run(main())
"""


def test_a_server_that_is_killed_leaves_nothing() -> None:
    server = subprocess.Popen([sys.executable, "-c", A_SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server.stdout:
        pid = int(server.stdout.readline())
    keeper = psutil.Process(pid)
    processes = [keeper, *keeper.children(recursive=True)]
    assert len(processes) >= 3
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    assert asyncio.run(gone(processes, 10))
