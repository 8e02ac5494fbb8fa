"""API keys: made, found, revoked; and the commands for that."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from pytest_django import DjangoAssertNumQueries

from streaming import keys
from streaming.models import ApiKey

pytestmark = pytest.mark.django_db

find = async_to_sync(keys.find)


@pytest.fixture
def alice() -> User:
    return get_user_model().objects.create(username="alice")


# --- Keys ---------------------------------------------------------------------------------------------


def test_a_key_is_long_random_and_not_stored(alice: User):
    row, text = keys.issue(alice, "nightly job")
    _, other = keys.issue(alice)
    assert re.fullmatch(r"sluice_[A-Za-z0-9_-]{43}", text)
    assert text != other
    assert (row.user, row.name, row.revoked_at) == (alice, "nightly job", None)
    assert row.digest == hashlib.sha256(text.encode()).hexdigest()
    stored = " ".join(str(value) for value in ApiKey.objects.filter(pk=row.pk).values_list().get())
    assert text[len(row.prefix) :] not in stored
    assert text.startswith(row.prefix)
    assert len(text) - len(row.prefix) >= 32, "what is shown leaves the key unguessable"


def test_a_key_is_found_with_its_user_by_one_query(
    alice: User, django_assert_num_queries: DjangoAssertNumQueries
):
    _, text = keys.issue(alice)
    with django_assert_num_queries(1):
        found = find(text)
        assert found is not None
        assert found.user == alice


def test_a_revoked_key_is_not_found(alice: User):
    row, text = keys.issue(alice)
    keys.revoke(row)
    assert row.revoked_at is not None
    assert find(text) is None


def test_revoking_again_keeps_the_first_time(alice: User):
    row, _ = keys.issue(alice)
    keys.revoke(row)
    first = ApiKey.objects.get(pk=row.pk).revoked_at
    keys.revoke(row)
    assert ApiKey.objects.get(pk=row.pk).revoked_at == first


def test_a_key_of_an_inactive_user_is_not_found(alice: User):
    _, text = keys.issue(alice)
    alice.is_active = False
    alice.save()
    assert find(text) is None


def test_an_unknown_key_is_not_found(alice: User):
    _, text = keys.issue(alice)
    swapped = text[:-1] + ("A" if text[-1] != "A" else "B")
    assert find(swapped) is None


MALFORMED = [
    "",
    " ",
    "sluice_",
    "sluice_" + "a" * 42,
    "sluice_" + "a" * 44,
    "SLUICE_" + "a" * 43,
    "sluice_" + "é" * 43,
    "sluice_" + "٣" * 43,
    "sluice_" + "a" * 42 + "=",
    "sluice_" + "a" * 43 + "\n",
    " sluice_" + "a" * 43,
    "sluice_" + "a" * 43 + ",Bearer sluice_" + "a" * 43,
    "x" * 1_000_000,
]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_what_cannot_be_a_key_is_not_looked_up(text: str, django_assert_num_queries: DjangoAssertNumQueries):
    with django_assert_num_queries(0):
        assert find(text) is None


# --- Commands -----------------------------------------------------------------------------------------


def _run(*words: str) -> tuple[str, str]:
    """What a command prints to standard output and to standard error."""
    out, err = StringIO(), StringIO()
    call_command(*words, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def test_the_command_prints_the_key_and_nothing_else(alice: User):
    out, err = _run("create_api_key", "alice", "--name", "nightly job")
    assert re.fullmatch(keys.MARK + r"[A-Za-z0-9_-]{43}\n", out)
    row = ApiKey.objects.get()
    assert (row.user, row.name) == (alice, "nightly job")
    assert row.digest == hashlib.sha256(out.strip().encode()).hexdigest()
    assert "not shown again" in err
    assert out.strip() not in err


def test_a_key_that_nobody_could_see_is_revoked(alice: User):
    full = Path("/dev/full").open("w")  # noqa: SIM115 (closing it fails once more)
    with pytest.raises(CommandError, match=r"could not be written.*revoked"):
        call_command("create_api_key", "alice", stdout=full, stderr=StringIO(), no_color=True)
    with suppress(OSError):
        full.close()
    assert ApiKey.objects.get().revoked_at is not None


def test_a_key_for_nobody_is_refused_with_a_hint():
    with pytest.raises(CommandError, match=r"no user 'mallory'.*createsuperuser"):
        _run("create_api_key", "mallory")


def test_a_key_for_an_inactive_user_is_refused(alice: User):
    alice.is_active = False
    alice.save()
    with pytest.raises(CommandError, match="not active"):
        _run("create_api_key", "alice")
    assert not ApiKey.objects.exists()


def test_a_name_that_does_not_fit_is_refused(alice: User):
    with pytest.raises(CommandError, match="longer than 100"):
        _run("create_api_key", "alice", "--name", "x" * 101)


def test_a_key_is_revoked_by_its_beginning(alice: User):
    row, text = keys.issue(alice)
    other, _ = keys.issue(alice)
    out, _ = _run("revoke_api_key", row.prefix)
    assert row.prefix in out
    assert find(text) is None
    assert ApiKey.objects.get(pk=other.pk).revoked_at is None
    out, _ = _run("revoke_api_key", text)
    assert "already" in out
    assert text not in out


def test_what_only_begins_like_a_key_revokes_nothing(alice: User):
    _, text = keys.issue(alice)
    for wrong in (text[:-1] + ("A" if text[-1] != "A" else "B"), text[:16], text[:-1], text + "A"):
        with pytest.raises(CommandError, match="whole key") as caught:
            _run("revoke_api_key", wrong)
        assert wrong[16:] not in str(caught.value) or not wrong[16:], "it may be a key"
    assert find(text) is not None


def test_a_beginning_must_name_one_key(alice: User):
    for _ in range(2):
        keys.issue(alice)
    for prefix, reason in (("sluice_", "Several"), ("sluice_?", "No key"), ("", "empty")):
        with pytest.raises(CommandError, match=reason):
            _run("revoke_api_key", prefix)
    assert not ApiKey.objects.exclude(revoked_at=None).exists()
