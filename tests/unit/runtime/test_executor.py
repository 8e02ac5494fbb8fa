"""Threads only behind permits."""

from __future__ import annotations

import contextvars
import sys
import threading
from functools import partial
from typing import Any

import pytest

from streaming.core.routing import Route
from streaming.runtime.executor import WorkerPool
from streaming.runtime.ledger import PoolRefused
from streaming.runtime.switch_interval import SWITCH_INTERVAL

from .fakes import PATIENCE, pool_limits

variable = contextvars.ContextVar("variable", default="outside")


@pytest.fixture
def pool():
    before = sys.getswitchinterval()
    pool = WorkerPool(pool_limits(max_workers=3, queue_size=5))
    yield pool
    pool.close()
    sys.setswitchinterval(before)


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sluice-agent_pool")]


def test_no_thread_before_the_first_job(pool):
    pool.ledger.admit("a", 0, lambda: None)
    assert own_threads() == []


def test_no_thread_without_a_permit(pool):
    tickets = [pool.ledger.admit("a", 0, lambda: None) for _ in range(4)]
    with pytest.raises(RuntimeError, match="permit"):
        pool.run(tickets[3], contextvars.copy_context(), lambda: None)
    pool.ledger.release(tickets[0])  # the fourth has it now, the first has it no more
    with pytest.raises(RuntimeError, match="permit"):
        pool.run(tickets[0], contextvars.copy_context(), lambda: None)
    pool.run(tickets[3], contextvars.copy_context(), lambda: None).result(PATIENCE)


def test_context_variables_reach_the_job_and_stay_there(pool):
    ticket = pool.ledger.admit("a", 0, lambda: None)
    context = contextvars.copy_context()
    context.run(variable.set, "inside")
    seen = []

    def job():
        seen.append((variable.get(), threading.current_thread().name))
        variable.set("changed")

    pool.run(ticket, context, job).result(PATIENCE)
    assert seen[0][0] == "inside"
    assert seen[0][1].startswith("sluice-agent_pool")
    assert variable.get() == "outside"
    assert context[variable] == "changed"


def test_two_jobs_do_not_share_a_context(pool):
    tickets = [pool.ledger.admit("a", 0, lambda: None) for _ in range(2)]
    barrier = threading.Barrier(2, timeout=PATIENCE)
    seen = {}

    def job(name):
        variable.set(name)
        barrier.wait()
        seen[name] = variable.get()

    futures = [
        pool.run(ticket, contextvars.Context(), lambda name=name: job(name))
        for name, ticket in zip("xy", tickets, strict=True)
    ]
    for future in futures:
        future.result(PATIENCE)
    assert seen == {"x": "x", "y": "y"}


def test_never_more_jobs_than_permits(pool):
    """Every job that gets a permit starts at once: nothing waits behind the executor's own queue."""
    lock = threading.Lock()
    running, most = 0, 0
    gates, started, futures = {}, {}, {}
    tickets: list[Any] = []

    def start(index):
        gates[index], started[index] = threading.Event(), threading.Event()

        def job():
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            started[index].set()
            assert gates[index].wait(PATIENCE)
            with lock:
                running -= 1

        futures[index] = pool.run(tickets[index], contextvars.Context(), job)

    for index in range(12):
        try:
            tickets.append(pool.ledger.admit("a", 0, lambda index=index: start(index)))
        except PoolRefused:
            break
        if tickets[index].decision.route is Route.DIRECT:
            start(index)
    assert len(tickets) == 8
    for index in range(len(tickets)):
        assert started[index].wait(PATIENCE)
        assert len(own_threads()) <= 3
        gates[index].set()
        futures[index].result(PATIENCE)
        pool.ledger.release(tickets[index])
    assert most == 3
    assert (pool.ledger.running, pool.ledger.waiting, running) == (0, 0, 0)


def test_busy_threads_share_the_switch_interval_and_give_it_back(pool):
    sys.setswitchinterval(0.005)
    gates = [threading.Event() for _ in range(3)]
    seen: list[float] = []
    futures = []
    for gate in gates:
        begun = threading.Event()
        ticket = pool.ledger.admit("a", 0, lambda: None)
        futures.append(pool.run(ticket, contextvars.Context(), partial(hold, begun, gate)))
        assert begun.wait(PATIENCE)
        seen.append(sys.getswitchinterval())
    assert seen == pytest.approx([SWITCH_INTERVAL, SWITCH_INTERVAL / 2, SWITCH_INTERVAL / 3], rel=0.01)
    for gate, future in zip(gates, futures, strict=True):
        gate.set()
        future.result(PATIENCE)
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_a_shorter_switch_interval_of_the_project_stays(pool):
    sys.setswitchinterval(0.0002)
    ticket = pool.ledger.admit("a", 0, lambda: None)
    seen: list[float] = []
    pool.run(ticket, contextvars.Context(), lambda: seen.append(sys.getswitchinterval())).result(PATIENCE)
    assert seen == pytest.approx([0.0002])
    assert sys.getswitchinterval() == pytest.approx(0.0002)


def test_the_switch_interval_does_not_drift(pool):
    sys.setswitchinterval(0.005)
    for _ in range(20):
        ticket = pool.ledger.admit("a", 0, lambda: None)
        pool.run(ticket, contextvars.Context(), lambda: None).result(PATIENCE)
        pool.ledger.release(ticket)
    assert sys.getswitchinterval() == pytest.approx(0.005)


def hold(begun, gate):
    begun.set()
    gate.wait(PATIENCE)


def test_close_waits_for_nobody_and_idle_threads_go(pool):
    tickets = [pool.ledger.admit("a", 0, lambda: None) for _ in range(2)]
    gate, busy = threading.Event(), threading.Event()

    def job():
        busy.set()
        gate.wait(PATIENCE)

    future = pool.run(tickets[0], contextvars.Context(), job)
    pool.run(tickets[1], contextvars.Context(), lambda: None).result(PATIENCE)
    assert busy.wait(PATIENCE)
    pool.close()
    assert not future.done()
    threads = own_threads()
    gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert own_threads() == []
    pool.close()
