"""The tree of errors: codes are public, so they are written down here a second time."""

from __future__ import annotations

import pytest

from streaming.core import errors
from streaming.core.errors import GenerationError, StreamError, generation_errors

# Code → may the same call succeed later. Programs rely on both.
ENDS = {
    "producer_failed": False,
    "interrupted": True,
    "queue_timeout": True,
    "run_timeout": False,
    "upstream_failed": True,
    "upstream_auth": False,
    "upstream_rate_limited": True,
    "upstream_rejected": False,
    "upstream_timeout": True,
    "upstream_truncated": True,
    "storage_full": True,
    "kernel_died": True,
    "kernel_stopped": False,
    "kernel_not_started": True,
    "too_many_kernels": True,
}
REFUSALS = {
    "stream_error": False,
    "refused": True,
    "bad_event_id": False,
    "ahead_of_stream": False,
    "events_pruned": False,
    "storage_unavailable": True,
    "redis_unavailable": True,
    "redis_full": True,
    "not_found": False,
    "too_many_followers": True,
    "draining": True,
    "not_finished": True,
    "idempotency_key_reused": False,
    "access_revoked": False,
    "permission_denied": False,
}
# Bases that only group; what they say about themselves is said by the named class.
SHARE_A_CODE = {"ProducerFailed": "GenerationError", "CursorError": "StreamError", "NotNow": "StreamError"}

TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StreamError)]
OF_A_TASK = [kind for kind in TREE if issubclass(kind, GenerationError)]
BEFORE_A_TASK = [kind for kind in TREE if not issubclass(kind, GenerationError)]


@pytest.mark.parametrize("kind", OF_A_TASK)
def test_an_end_has_its_documented_code_and_flag(kind):
    assert ENDS[kind.code] is kind.retryable


@pytest.mark.parametrize("kind", BEFORE_A_TASK)
def test_a_refusal_has_its_documented_code_and_flag(kind):
    assert REFUSALS[kind.code] is kind.retryable


def test_every_documented_code_has_its_error():
    assert {kind.code for kind in TREE} == ENDS.keys() | REFUSALS.keys()


def test_the_two_families_share_no_code():
    assert not {kind.code for kind in OF_A_TASK} & {kind.code for kind in BEFORE_A_TASK}


def test_every_code_names_one_class_besides_the_grouping_ones():
    named = [kind.code for kind in TREE if kind.__name__ not in SHARE_A_CODE]
    assert len(named) == len(set(named))


@pytest.mark.parametrize(("name", "base"), SHARE_A_CODE.items())
def test_a_grouping_class_shares_the_code_of_its_base(name, base):
    assert getattr(errors, name).code == getattr(errors, base).code


def test_the_ends_are_listed_once_each_in_the_order_of_definition():
    """Other modules may add subclasses; those follow, and never repeat a code."""
    listed = generation_errors()
    assert [kind.code for kind in listed if kind.__module__ == errors.__name__] == list(ENDS)
    assert len({kind.code for kind in listed}) == len(listed)


def test_every_upstream_fault_is_caught_as_one():
    caught = {kind.code for kind in OF_A_TASK if issubclass(kind, errors.UpstreamError)}
    assert caught == {code for code in ENDS if code.startswith("upstream_")}


def test_the_text_of_an_error_is_its_own():
    assert str(errors.Interrupted("process 7 is gone")) == "process 7 is gone"
