"""A kernel of a real Jupyter Server: it behaves as one of this machine does, and whatever happens to the way
there or to the server, a cell ends, and says no more and no less than was said."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from notebooks.kernels.gateway import Gateway, KernelGone
from notebooks.kernels.limits import GatewayConfig, KernelLimits
from notebooks.kernels.output import CellOutput
from notebooks.kernels.remote import RemoteKernel
from streaming.core.errors import Interrupted, KernelDied, KernelNotStarted, KernelStopped, RunTimeout
from tests.support.jupyter import JupyterServer
from tests.support.scale import ALL

from .conftest import limits
from .test_kernel import (  # noqa: F401 - these run here too, on this module's `kernel`
    outputs,
    run,
    test_a_cell_prints_and_has_a_number,
    test_a_display_is_updated_and_cleared,
    test_an_endless_cell_is_interrupted_and_its_kernel_stays,
    test_late_output_goes_to_its_own_cell,
    test_of_very_many_messages_none_is_lost_while_their_reader_is_away,
    test_what_is_printed_comes_while_the_cell_runs,
    test_who_stops_reading_stops_the_code,
    text,
)

if ALL:
    from .test_kernel import (  # noqa: F401 - and these in longer runs
        test_a_fault_in_the_code_is_output,
        test_a_hundred_megabytes_are_cut_and_the_kernel_stays,
        test_values_figures_and_tables_are_bundles,
        test_what_processes_write_belongs_to_the_cell_that_started_them,
        test_what_processes_write_keeps_its_characters,
    )


@asynccontextmanager
async def gateway_to(jupyter: JupyterServer, **changes: Any) -> AsyncIterator[Gateway]:
    values = {"url": jupyter.url, "token": jupyter.token} | changes
    made = Gateway(GatewayConfig(**values), limits().output_limit)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def kernel_of(
    jupyter: JupyterServer, bounds: KernelLimits | None = None
) -> AsyncIterator[RemoteKernel]:
    async with gateway_to(jupyter) as gateway:
        bounds = bounds or limits()
        made = await RemoteKernel.attached(bounds, gateway, await gateway.start())
        try:
            yield made
        finally:
            await made.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _gateway(jupyter: JupyterServer) -> AsyncIterator[Gateway]:
    async with gateway_to(jupyter) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _usable(_gateway: Gateway) -> AsyncIterator[list[RemoteKernel]]:
    """What the test before left usable."""
    kernels: list[RemoteKernel] = []
    yield kernels
    for kernel in kernels:
        await kernel.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def kernel(_gateway: Gateway, _usable: list[RemoteKernel]) -> AsyncIterator[RemoteKernel]:
    """An empty kernel: that of the test before, if it lives."""
    if not _usable:
        _usable.append(await RemoteKernel.attached(limits(), _gateway, await _gateway.start()))
    made = _usable.pop()
    yield made
    if not made.lives() or made.busy:
        await made.stop()
        return
    made.listen(lambda tag, output: None)
    await run(made, "get_ipython().reset()", "reset")
    _usable.append(made)


async def connections_cut(kernel: RemoteKernel) -> None:
    """The way to the kernel breaks, as where a proxy in between goes down."""
    assert kernel.socket is not None
    kernel.socket.transport.abort()


COUNTING = "import time\nprint('on', flush=True)\ntime.sleep(0.5)\nfor k in range(9): print(k, flush=True)"
"""Says nothing while the way to it breaks, and much until that is there again."""


def return_late(kernel: RemoteKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has lost the way finds it again only after a second."""
    channels = kernel._gateway.channels

    async def late(*args: Any) -> Any:
        await asyncio.sleep(1)
        return await channels(*args)

    monkeypatch.setattr(kernel._gateway, "channels", late)


async def test_what_is_said_while_the_way_is_broken_is_neither_lost_nor_repeated(
    kernel: RemoteKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    return_late(kernel, monkeypatch)
    begun = asyncio.Event()
    running = asyncio.create_task(run(kernel, COUNTING, begun=begun))
    await begun.wait()
    await connections_cut(kernel)
    parts, end = await running
    assert text(parts) == "on\n" + "".join(f"{k}\n" for k in range(9))
    assert end.status == "ok"


async def test_where_somebody_else_listened_the_server_keeps_nothing_and_that_is_told(
    kernel: RemoteKernel, jupyter: JupyterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_to(jupyter) as gateway:
        other = await RemoteKernel.attached(limits(), gateway, kernel.id)
        return_late(kernel, monkeypatch)
        begun = asyncio.Event()
        running = asyncio.create_task(run(kernel, COUNTING, begun=begun))
        await begun.wait()
        await connections_cut(kernel)
        with pytest.raises(Interrupted):
            await running
        await other.detach()
    assert (await run(kernel, "print('usable')"))[1].status == "ok"


@pytest.mark.long
async def test_a_kernel_without_the_binary_form_is_understood_too(
    jupyter: JupyterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notebooks.kernels.gateway.V1", "none.of.them")
    async with kernel_of(jupyter) as kernel:
        parts, end = await run(
            kernel, "print('中文 👩‍👩‍👧‍👦')\ndisplay({'application/json': {'a': 1}}, raw=True)"
        )
        assert (text(parts), end.status) == ("中文 👩‍👩‍👧‍👦\n", "ok")
        assert outputs(parts)[0].data == {"application/json": {"a": 1}}


async def test_questions_are_answered(kernel: RemoteKernel) -> None:
    await run(kernel, "naïve = 1")
    assert "naïve" in (await kernel.ask("complete", "naï", 3))["matches"]
    assert (await kernel.ask("inspect", "print", 5))["found"]


async def test_a_kernel_whose_process_is_killed_has_died(jupyter: JupyterServer) -> None:
    async with kernel_of(jupyter) as kernel:
        with pytest.raises(KernelDied):
            await run(kernel, "import os\nprint('last words', flush=True)\nos.kill(os.getpid(), 9)")
        assert not kernel.lives()


@pytest.mark.long
async def test_a_kernel_that_leaves_has_died_at_once(jupyter: JupyterServer) -> None:
    async with kernel_of(jupyter) as kernel:
        with pytest.raises(KernelDied):
            await run(kernel, "exit()")


async def test_a_kernel_that_somebody_ends_on_the_server_is_noticed(jupyter: JupyterServer) -> None:
    async with kernel_of(jupyter) as kernel, gateway_to(jupyter) as gateway:
        begun = asyncio.Event()
        code = "import time\nprint('on', flush=True)\ntime.sleep(100)"
        running = asyncio.create_task(run(kernel, code, begun=begun))
        await begun.wait()
        await gateway.delete(kernel.id)
        with pytest.raises(KernelDied):
            await running
        with pytest.raises(KernelGone):
            await RemoteKernel.attached(limits(), gateway, kernel.id)


async def test_a_cell_has_a_time_limit(jupyter: JupyterServer) -> None:
    async with kernel_of(jupyter, limits(execution_timeout=0.5)) as kernel:
        with pytest.raises(RunTimeout):
            await run(kernel, "while True: pass")
        assert kernel.alive


@pytest.mark.long
async def test_code_that_ignores_interrupts_goes_with_its_kernel(jupyter: JupyterServer) -> None:
    code = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(1, flush=True)\nwhile True: pass"
    )
    async with kernel_of(jupyter) as kernel:
        async with aclosing(kernel.execute(code, CellOutput(99), "c")) as parts:
            async for _ in parts:
                break
        assert not kernel.alive
        assert kernel.id not in [each["id"] for each in jupyter.kernels()]


async def test_who_ends_it_is_told_apart_from_its_death(jupyter: JupyterServer) -> None:
    async with kernel_of(jupyter) as kernel:
        begun = asyncio.Event()
        running = asyncio.create_task(run(kernel, "print(1, flush=True)\nwhile True: pass", begun=begun))
        await begun.wait()
        await kernel.stop()
        with pytest.raises(KernelStopped):
            await running


@pytest.mark.long
async def test_a_message_larger_than_any_may_be_ends_the_kernel(jupyter: JupyterServer) -> None:
    code = (
        "kernel = get_ipython().kernel\n"
        "kernel.session.send(kernel.iopub_socket, 'stream', {'name': 'stdout', 'text': 'x' * 50_000_000},"
        " parent=kernel.get_parent())"
    )
    async with kernel_of(jupyter) as kernel:
        with pytest.raises(KernelDied):
            await run(kernel, code)


# The server


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": "wrong"}, "refuses KERNEL_GATEWAY_TOKEN"),
        ({"kernel": "nothing"}, "says 5|says 4"),
        ({"url": "http://127.0.0.1:1"}, "does not answer"),
    ],
)
async def test_why_no_kernel_starts_is_said_at_once(
    jupyter: JupyterServer, changes: dict[str, str], words: str
) -> None:
    began = time.monotonic()
    async with gateway_to(jupyter, **changes) as gateway:
        with pytest.raises(KernelNotStarted, match=words) as refused:
            await gateway.start()
    assert refused.value.retryable
    assert jupyter.token not in str(refused.value)
    assert time.monotonic() - began < 10


async def test_a_server_that_is_frozen_does_not_hold_who_asks(jupyter: JupyterServer) -> None:
    jupyter.freeze()
    try:
        async with gateway_to(jupyter, connect_timeout=0.3) as gateway, asyncio.timeout(5):
            with pytest.raises(KernelNotStarted, match="does not answer"):
                await gateway.start()
    finally:
        jupyter.thaw()


async def test_the_token_is_in_no_address(jupyter: JupyterServer) -> None:
    assert jupyter.token not in jupyter.log()


async def test_a_server_that_is_killed_and_comes_back_leaves_no_cell_without_an_end(
    jupyter: JupyterServer,
) -> None:
    async with gateway_to(jupyter) as gateway:
        kernel = await RemoteKernel.attached(limits(), gateway, await gateway.start())
        begun = asyncio.Event()
        running = asyncio.create_task(run(kernel, "print(1, flush=True)\nwhile True: pass", begun=begun))
        await begun.wait()
        below = jupyter.processes()
        jupyter.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(jupyter.process.wait)
        await asyncio.to_thread(jupyter.start)
        with pytest.raises(KernelDied):
            await running
        await kernel.stop()
        for each in below:
            if each.is_running():
                each.kill()
        again = await RemoteKernel.attached(limits(), gateway, await gateway.start())
        assert text((await run(again, "print('again')"))[0]) == "again\n"
        await again.stop()
