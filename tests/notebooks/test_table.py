"""All kernels of a process: one for each notebook, within their numbers, ended when idle, not at work."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator

import psutil
import pytest

from notebooks.kernels.key import Key
from notebooks.kernels.local import LocalKernel as Kernel
from notebooks.kernels.output import CellOutput
from notebooks.kernels.table import Kernels
from streaming.core.errors import KernelNotStarted, TooManyKernels
from tests.support.client import eventually

from .conftest import limits
from .test_kernel import gone, run, text

ADA, GRACE = Key("1", "book"), Key("2", "book")


def nobody_listens(tag: str, output: CellOutput) -> None:
    """What comes late is of no interest."""


@pytest.fixture
async def kernels(request: pytest.FixtureRequest) -> AsyncIterator[Kernels]:
    made = Kernels(limits(**getattr(request, "param", {})))
    yield made
    await made.close()


async def get(kernels: Kernels, key: Key) -> Kernel:
    return await kernels.get(key, nobody_listens)


async def test_a_notebook_has_one_kernel_and_nobody_else_has_it(kernels: Kernels) -> None:
    first, again, other = await asyncio.gather(*(get(kernels, key) for key in (ADA, ADA, GRACE)))
    assert first is again
    assert first is not other
    await run(first, "secret = 'ada'")
    parts, _ = await run(other, "print('secret' in globals())")
    assert text(parts) == "False\n"
    assert kernels.find(ADA) is first


@pytest.mark.parametrize("kernels", [{"max_kernels": 2, "per_owner": 1}], indirect=True)
async def test_kernels_are_counted_for_each_user_and_for_all(kernels: Kernels) -> None:
    await asyncio.gather(get(kernels, ADA), get(kernels, GRACE))
    with pytest.raises(TooManyKernels, match="1"):
        await get(kernels, Key("1", "second"))
    with pytest.raises(TooManyKernels, match="2"):
        await get(kernels, Key("3", "book"))
    assert len(kernels) == 2
    await kernels.stop(ADA)
    await get(kernels, Key("1", "second"))


@pytest.mark.parametrize("kernels", [{"python": "/bin/false"}], indirect=True)
async def test_a_start_that_fails_after_its_client_has_left_leaves_no_trace_in_the_log(
    kernels: Kernels, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = asyncio.create_task(get(kernels, ADA))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await eventually(lambda: asyncio.sleep(0, not kernels.starting(ADA)))
    del waiting
    gc.collect()
    assert [line.message for line in caplog.records if line.levelname == "ERROR"] == []


@pytest.mark.parametrize("kernels", [{"idle_timeout": 100.0}], indirect=True)
async def test_idle_kernels_end_and_those_at_work_stay(kernels: Kernels) -> None:
    idle, busy = await asyncio.gather(get(kernels, ADA), get(kernels, GRACE))
    working = asyncio.create_task(run(busy, "import time\ntime.sleep(2)"))
    await eventually(lambda: asyncio.sleep(0, busy.busy))
    await kernels.cull(time.monotonic() + 90)
    assert (kernels.find(ADA), kernels.find(GRACE)) == (idle, busy)
    await kernels.cull(time.monotonic() + 200)
    assert (kernels.find(ADA), kernels.find(GRACE)) == (None, busy)
    assert (await working)[1].status == "ok"


async def test_in_place_of_a_kernel_that_died_idle_a_new_one_starts(kernels: Kernels) -> None:
    former = await get(kernels, ADA)
    await run(former, "x = 1")
    for process in psutil.Process(former.pid).children(recursive=True):
        process.kill()
    assert await gone([psutil.Process(former.pid)])
    kernel = await get(kernels, ADA)
    assert kernel is not former
    parts, _ = await run(kernel, "print('x' in globals())")
    assert text(parts) == "False\n"


@pytest.mark.parametrize("kernels", [{"prestarted": 1, "max_kernels": 2}], indirect=True)
async def test_a_kernel_that_is_ready_beforehand_goes_to_the_first_and_is_replaced(kernels: Kernels) -> None:
    kernels.warm_up()
    assert len(kernels) == 1
    first = await get(kernels, ADA)
    assert kernels.find(ADA) is first
    assert len(kernels) == 2, "another one is on its way"
    second = await get(kernels, GRACE)
    assert second is not first
    assert len(kernels) == 2
    with pytest.raises(TooManyKernels):
        await get(kernels, Key("3", "book"))


async def test_who_shuts_down_while_a_kernel_starts_leaves_none(kernels: Kernels) -> None:
    starting = asyncio.create_task(get(kernels, ADA))
    await eventually(lambda: asyncio.sleep(0, kernels.starting(ADA)))
    assert await kernels.stop(ADA) is True
    kernel = await starting
    assert not kernel.lives()
    assert len(kernels) == 0


async def test_at_the_end_nothing_is_left_also_of_what_starts() -> None:
    others = set(psutil.Process().children(recursive=True))
    kernels = Kernels(limits())
    await get(kernels, ADA)
    starting = asyncio.create_task(get(kernels, GRACE))
    await eventually(lambda: asyncio.sleep(0, kernels.starting(GRACE)))
    below = [each for each in psutil.Process().children(recursive=True) if each not in others]
    await kernels.close()
    with pytest.raises(KernelNotStarted):
        await starting
    assert await gone(below)


@pytest.mark.parametrize("kernels", [{"max_kernels": 4, "per_owner": 0}], indirect=True)
async def test_what_many_threads_of_many_kernels_say_reaches_its_own_cell(kernels: Kernels) -> None:
    code = (
        "import sys, threading\n"
        "def say(name):\n"
        "    for k in range(500): sys.stdout.write(f'{name} {k}\\n')\n"
        "threads = [threading.Thread(target=say, args=('{tag}',)) for _ in range(5)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()"
    )

    async def client(key: Key) -> None:
        kernel = await get(kernels, key)
        for cell in ("first", "second"):
            tag = f"{key.owner}-{key.notebook}-{cell}"
            parts, _ = await run(kernel, code.replace("{tag}", tag), tag)
            said = [line.split()[0] for line in text(parts).splitlines()]
            assert len(said) == 2_500
            assert set(said) == {tag}

    keys = [Key(owner, notebook) for owner in ("1", "2") for notebook in ("a", "b")]
    await asyncio.gather(*(client(key) for key in keys))
