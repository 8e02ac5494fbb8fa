"""Workers without a broker: what starts one, what is refused, what is signed, what is fetched."""

from __future__ import annotations

import pytest
from celery.app.utils import find_app
from celery.exceptions import Reject
from django.core.management import CommandError, call_command

from streaming import conf
from streaming.worker import app as worker
from streaming.worker.consuming import QueuesWithRoom
from streaming.worker.host import HOST
from streaming.worker.messages import TASK, is_signed, pool_of, queue_of, signature
from streaming.worker.slots import SLOTS, Slots

TASK_ID = "0123456789abcdef" * 2
POOL = "agent_pool"


# --- The command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "broker", "arguments", "reason"),
    [
        ("local", "redis://127.0.0.1/1", [], "STREAM_ENGINE"),
        ("celery", "", [], "CELERY_BROKER_URL"),
        ("celery", "redis://127.0.0.1/1", ["--concurrency", "0"], "expected at least 1"),
        ("celery", "redis://127.0.0.1/1", ["--pools", "agent_pool,nonesuch"], "nonesuch"),
    ],
)
def test_a_worker_that_could_not_work_is_refused(settings, engine, broker, arguments, reason):
    settings.STREAM_ENGINE, settings.CELERY_BROKER_URL = engine, broker
    with pytest.raises(CommandError, match=reason):
        call_command("worker", *arguments, skip_checks=True)


def test_celery_finds_the_application():
    """What `celery -A settings` looks for."""
    found = find_app("settings")
    assert found is worker.app
    assert TASK in found.tasks


def test_nothing_but_json_is_read_and_nobody_gives_orders():
    assert worker.app.conf.accept_content == ["json"]
    assert worker.app.conf.task_serializer == "json"
    assert not worker.app.conf.worker_enable_remote_control
    assert worker.app.conf.result_backend is None


def test_a_message_outlives_the_longest_run():
    longest = max(pool.run_timeout for pool in conf.pools().values())
    assert worker.broker_options()["visibility_timeout"] > longest


# --- Signatures ---------------------------------------------------------------------------------------


def test_a_signature_is_of_this_pool_this_task_and_this_installation(settings):
    signed = signature(POOL, TASK_ID)
    assert is_signed(POOL, TASK_ID, signed)
    assert not is_signed("kernel_pool", TASK_ID, signed)
    assert not is_signed(POOL, TASK_ID[::-1], signed)
    assert not is_signed(POOL, TASK_ID, "")
    assert not is_signed(POOL, TASK_ID, "é" * 64)
    assert not is_signed(POOL, TASK_ID, "\ud800" * 64)
    assert not is_signed(POOL, "\ud800", signed)
    settings.CLUSTER_CONFIG = {**settings.CLUSTER_CONFIG, "prefix": "another"}
    assert not is_signed(POOL, TASK_ID, signed)


def test_a_key_can_be_changed(settings):
    signed, old = signature(POOL, TASK_ID), settings.SECRET_KEY
    settings.SECRET_KEY = "new" * 20
    assert not is_signed(POOL, TASK_ID, signed)
    settings.SECRET_KEY_FALLBACKS = [old]
    assert is_signed(POOL, TASK_ID, signed)


@pytest.fixture
def ran(monkeypatch):
    """Ids of the tasks that were run."""
    found: list[str] = []
    monkeypatch.setattr(HOST, "run", lambda pool, task_id: found.append(task_id))
    return found


@pytest.mark.parametrize("demanded", [True, False])
def test_only_what_is_signed_is_run_where_that_is_demanded(settings, ran, demanded):
    settings.CLUSTER_CONFIG = {**settings.CLUSTER_CONFIG, "signed": demanded}
    worker.run(POOL, TASK_ID, "forged")
    worker.run(POOL, TASK_ID)
    assert ran == ([] if demanded else [TASK_ID, TASK_ID])
    worker.run(POOL, TASK_ID, signature(POOL, TASK_ID))
    assert ran[-1:] == [TASK_ID]


@pytest.mark.parametrize(
    "message", [(), (POOL,), (POOL, 5), ({}, TASK_ID), ("nopool", TASK_ID), (None, None, None)]
)
def test_a_message_that_is_none_of_ours_runs_nothing(ran, message):
    worker.run(*message)
    worker.run(POOL, TASK_ID, more=True)
    assert ran == []


def test_a_process_that_goes_down_puts_messages_back(ran, monkeypatch):
    monkeypatch.setattr(SLOTS, "closed", True)
    with pytest.raises(Reject) as raised:
        worker.run(POOL, TASK_ID, signature(POOL, TASK_ID))
    assert raised.value.requeue
    assert ran == []


# --- Slots --------------------------------------------------------------------------------------------


def test_queues_are_named_by_prefix_and_pool():
    assert queue_of(POOL) == "sluice.agent_pool"
    assert pool_of(queue_of("a.pool")) == "a.pool"


def test_slots_are_taken_and_given_back():
    slots = Slots()
    assert not slots.has_room(POOL), "a web offers nothing"
    slots.offer({POOL: 2})
    assert slots.sum == 2
    for _ in range(2):
        assert slots.has_room(POOL)
        slots.take(POOL)
    assert not slots.has_room(POOL)
    assert not slots.has_room("kernel_pool")
    slots.give_back(POOL)
    assert slots.has_room(POOL)
    slots.close()
    assert not slots.has_room(POOL)


def test_what_is_offered_is_what_the_process_runs_at_once():
    slots = Slots()
    assert slots.applied_to(conf.pools()) == conf.pools()
    slots.offer({POOL: 17})
    applied = slots.applied_to(conf.pools())
    assert applied[POOL].max_workers == 17
    assert applied["kernel_pool"] == conf.pools()["kernel_pool"]


def test_only_queues_with_a_free_slot_are_asked(monkeypatch):
    slots = Slots()
    monkeypatch.setattr("streaming.worker.consuming.SLOTS", slots)
    slots.offer({POOL: 1, "kernel_pool": 1})
    queues = QueuesWithRoom([queue_of(POOL), queue_of("kernel_pool")])
    assert queues.consume(2) == ["sluice.agent_pool", "sluice.kernel_pool"]
    slots.take(POOL)
    assert queues.consume(2) == ["sluice.kernel_pool"]
    slots.take("kernel_pool")
    assert queues.consume(2) == []
