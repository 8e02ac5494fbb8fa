"""A loop that closes without a farewell, as a WSGI server's after each request, leaves nothing behind."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from django.test import Client

from streaming.identities import IDENTITIES

pytestmark = pytest.mark.django_db(transaction=True)


def test_requests_that_have_a_loop_each_pile_nothing_up() -> None:
    client = Client(headers={"host": "localhost"})
    for _ in range(3):
        client.get(f"/streams/{'0' * 32}")
    listeners = len(IDENTITIES._listeners)
    threads = Counter(thread.name for thread in threading.enumerate())
    for _ in range(12):
        client.get(f"/streams/{'0' * 32}")
    assert len(IDENTITIES._listeners) <= listeners
    # A guard whose loop is closed notices that within a quarter of its limit.
    guards = [thread for thread in threading.enumerate() if thread.name == "loop guard"]
    for guard in guards[:-1]:
        guard.join(10)
    more = Counter(thread.name for thread in threading.enumerate()) - threads
    assert sum(more.values()) <= 2, more
