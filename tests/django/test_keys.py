"""API keys: made, found, revoked; and the commands for that."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.test import AsyncRequestFactory
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from streaming import keys, revocation
from streaming.access import identify
from streaming.cluster.processes import Registry
from streaming.last_uses import LAST_USES, LastUses
from streaming.models import ApiKey
from streaming.scopes import ALL

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


# --- Scopes and ends ----------------------------------------------------------------------------------


def test_a_key_is_for_all_but_operating_and_never_ends_unless_it_is_said(alice: User):
    row, _ = keys.issue(alice)
    assert row.scopes == "generate read cancel notebooks"
    assert (row.expires_at, row.last_used_at, row.replaces) == (None, None, None)
    row, _ = keys.issue(alice, scopes=["operate", "read"], lifetime=timedelta(days=3))
    row.refresh_from_db()
    assert row.scopes == "read operate"
    assert row.expires_at == row.created_at + timedelta(days=3)


@pytest.mark.parametrize(
    "wishes",
    [
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": ["read", ""]},
        {"lifetime": timedelta(0)},
        {"lifetime": timedelta(seconds=-1)},
        {"lifetime": timedelta.max},
        {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
def test_what_no_key_can_be_is_refused(alice: User, wishes: dict[str, Any]):
    with pytest.raises(keys.KeyRefused):
        keys.issue(alice, **wishes)
    assert not ApiKey.objects.exists()


def test_the_longest_life_holds_for_every_new_key(alice: User, settings: Any):
    eternal, _ = keys.issue(alice)
    settings.ACCESS_CONFIG = {"key_max_days": 30}
    row, _ = keys.issue(alice)
    assert row.expires_at == row.created_at + timedelta(days=30)
    keys.issue(alice, lifetime=timedelta(days=30))
    with pytest.raises(keys.KeyRefused, match="30 days at most"):
        keys.issue(alice, lifetime=timedelta(days=30, seconds=1))
    assert eternal.state == ApiKey.State.VALID, "what there is stays"
    heir, _ = keys.rotate(eternal)
    assert heir.expires_at == heir.created_at + timedelta(days=30)


def test_a_key_ends_by_itself(alice: User, monkeypatch: pytest.MonkeyPatch):
    row, text = keys.issue(alice, lifetime=timedelta(hours=1))
    assert row.expires_at is not None
    for moment, state in ((timedelta(milliseconds=-1), "valid"), (timedelta(0), "expired")):
        monkeypatch.setattr(timezone, "now", lambda at=row.expires_at + moment: at)
        assert (row.state, find(text) is not None) == (state, state == "valid")
    keys.revoke(row)
    assert row.state == ApiKey.State.REVOKED


# --- Rotation -----------------------------------------------------------------------------------------


def test_rotation_lets_both_speak_for_a_while(alice: User, monkeypatch: pytest.MonkeyPatch):
    old, old_text = keys.issue(alice, "nightly", scopes=["read", "cancel"], lifetime=timedelta(days=90))
    new, new_text = keys.rotate(old)
    assert (new.user, new.name, new.scopes, new.replaces) == (alice, "nightly", "read cancel", old)
    assert new.expires_at == new.created_at + timedelta(days=90)
    assert old.expires_at is not None
    assert timedelta(hours=23) < old.expires_at - timezone.now() <= timedelta(hours=24)
    assert ApiKey.objects.get(pk=old.pk).expires_at == old.expires_at
    assert [find(text) is not None for text in (old_text, new_text)] == [True, True]
    monkeypatch.setattr(timezone, "now", lambda: old.expires_at)
    assert [find(text) is not None for text in (old_text, new_text)] == [False, True]


def test_without_overlap_the_old_key_ends_at_once(alice: User):
    old, old_text = keys.issue(alice)
    new, new_text = keys.rotate(old, timedelta(0))
    assert [find(text) is not None for text in (old_text, new_text)] == [False, True]
    assert new.expires_at is None


def test_rotation_does_not_prolong_the_old_key(alice: User):
    old, _ = keys.issue(alice, lifetime=timedelta(minutes=5))
    end = old.expires_at
    keys.rotate(old)
    assert ApiKey.objects.get(pk=old.pk).expires_at == end


def test_who_has_a_successor_is_rotated_again_only_where_that_was_revoked(alice: User):
    old, _ = keys.issue(alice)
    lost, _ = keys.rotate(old)
    with pytest.raises(keys.KeyRefused, match=re.escape(f"replaced by {lost} already")):
        keys.rotate(old)
    keys.revoke(lost)
    again, _ = keys.rotate(old)
    assert (again.replaces, again.expires_at) == (old, None), "as long a life as the first one had"
    assert list(old.successors.order_by("pk")) == [lost, again]


def test_who_speaks_for_nobody_has_no_successor(alice: User):
    revoked, _ = keys.issue(alice)
    keys.revoke(revoked)
    expired, _ = keys.issue(alice)
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    for key in (revoked, expired):
        with pytest.raises(keys.KeyRefused, match="for nobody any more"):
            keys.rotate(key)
    with pytest.raises(keys.KeyRefused, match="from now on"):
        keys.rotate(keys.issue(alice)[0], timedelta(-1))


# --- Last use -----------------------------------------------------------------------------------------


class Wall:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_the_last_use_is_written_once_a_minute_by_whichever_process(
    alice: User, django_assert_num_queries: DjangoAssertNumQueries
):
    row, _ = keys.issue(alice)
    wall = Wall()
    here, there = LastUses(wall), LastUses(wall)

    def written() -> float:
        row.refresh_from_db()
        return 0.0 if row.last_used_at is None else row.last_used_at.timestamp() - 1_800_000_000

    before = revocation.count()
    here.write()
    assert row.last_used_at is None
    moments = []
    for second in range(181):
        wall.now = 1_800_000_000.0 + second
        for each in (here, there):
            each.note(row.pk)
            each.write()
        moments.append(written())
    assert sorted(set(moments)) == [0, 60, 120, 180], "of either, and exact to a minute"
    assert revocation.count() == before, "nobody has lost anything"
    here.note(row.pk)
    with django_assert_num_queries(0):
        here.write()


def test_a_use_is_not_lost_with_the_database(alice: User, monkeypatch: pytest.MonkeyPatch):
    row, _ = keys.issue(alice)
    uses = LastUses(Wall())
    uses.note(row.pk)
    with monkeypatch.context() as patch:
        patch.setattr("streaming.last_uses._write", raising(OperationalError("away")))
        with pytest.raises(OperationalError):
            uses.write()
    uses.write()
    row.refresh_from_db()
    assert row.last_used_at is not None


def raising(error: Exception) -> Callable[..., Any]:
    """A function that raises it."""

    def function(*args: Any) -> Any:
        raise error

    return function


def test_a_key_that_is_gone_disturbs_nobody(alice: User):
    row, _ = keys.issue(alice)
    uses = LastUses(Wall())
    for key in (row.pk + 1, row.pk):
        uses.note(key)
    uses.write()
    row.refresh_from_db()
    assert row.last_used_at is not None


@pytest.mark.django_db(transaction=True)
async def test_the_housekeeper_writes_what_calls_have_noted(alice: User, monkeypatch: pytest.MonkeyPatch):
    # Keys of tests before this one had the same numbers.
    monkeypatch.setattr(LAST_USES, "_written", {})
    row, text = await sync_to_async(keys.issue)(alice)
    registry = Registry("c" * 32)
    tick = sync_to_async(registry.tick)
    await tick(0.0, able=True)
    request = AsyncRequestFactory().get("/streams", headers={"authorization": f"Bearer {text}"})
    await identify(request)
    await tick(0.5, able=True)
    await row.arefresh_from_db()
    assert row.last_used_at is not None
    # From memory, too.
    await ApiKey.objects.aupdate(last_used_at=None)
    LAST_USES._written.clear()
    await identify(request)
    await sync_to_async(registry.leave)()
    await row.arefresh_from_db()
    assert row.last_used_at is not None


# --- The other commands -------------------------------------------------------------------------------


def test_a_key_is_made_with_scopes_and_an_end(alice: User):
    _, err = _run("create_api_key", "alice", "--scope", "operate", "--scope", "read", "--expires-in", "90d")
    row = ApiKey.objects.get()
    assert row.scopes == "read operate"
    assert row.expires_at == row.created_at + timedelta(days=90)
    assert "read operate" in err
    assert f"{row.expires_at:%Y-%m-%d %H:%M} UTC" in err


@pytest.mark.parametrize("wrong", ["", "90", "-1d", "1y", "1.5h", "٣d", "9999999d", "0", "0d"])
def test_a_life_that_is_none_is_refused(alice: User, wrong: str):
    with pytest.raises(CommandError):
        _run("create_api_key", "alice", f"--expires-in={wrong}")
    assert not ApiKey.objects.exists()


def test_a_key_is_rotated_by_its_beginning(alice: User):
    old, old_text = keys.issue(alice)
    out, err = _run("rotate_api_key", old.prefix, "--overlap", "30m")
    new = ApiKey.objects.get(replaces=old)
    assert new.digest == keys.digest(out.strip())
    assert f"in the place of {old}" in err
    assert out.strip() not in err
    old.refresh_from_db()
    assert old.expires_at is not None
    assert old.expires_at - timezone.now() <= timedelta(minutes=30)
    assert find(old_text) is not None
    with pytest.raises(CommandError, match="already"):
        _run("rotate_api_key", old.prefix)


def test_keys_are_listed_with_their_state(alice: User):
    bob = get_user_model().objects.create(username="bob")
    old, text = keys.issue(alice, "nightly", scopes=["read"])
    keys.rotate(old, timedelta(0))
    keys.revoke(keys.issue(bob)[0])
    lines = [line.split("\t") for line in _run("list_api_keys")[0].splitlines()]
    assert [(line[0], line[2], line[3], line[-1]) for line in lines] == [
        ("revoked", "bob", "generate,read,cancel,notebooks", ""),
        ("valid", "alice", "read", "nightly"),
        ("expired", "alice", "read", "nightly"),
    ]
    assert lines[1][4:7] == ["used never", "ends never", f"replaces {old}"]
    assert text not in str(lines)
    assert len(_run("list_api_keys", "alice")[0].splitlines()) == 2
    assert len(_run("list_api_keys", "--valid")[0].splitlines()) == 1
    assert _run("list_api_keys", "mallory")[0] == ""


# --- Upgrading ----------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_keys_from_before_there_were_scopes_keep_all_of_them(alice: User):
    latest = MigrationExecutor(connection).loader.graph.leaf_nodes("streaming")
    executor = MigrationExecutor(connection)
    before = executor.migrate([("streaming", "0014_attempts")])
    try:
        old = before.apps.get_model("streaming", "ApiKey")
        columns = [field.column for field in old._meta.concrete_fields if field.name != "id"]
        old.objects.create(user_id=alice.pk, prefix="sluice_old", digest="0" * 64)
        MigrationExecutor(connection).migrate(latest)
        kept = ApiKey.objects.get()
        # A server of the older version makes one meanwhile: it does not name the new columns.
        known: dict[str, Any] = {"digest": "1" * 64, "name": "", "prefix": "sluice_new"}
        known |= {"user_id": alice.pk, "created_at": timezone.now()}
        values = [known.get(name) for name in columns]
        with connection.cursor() as cursor:
            places = ", ".join(["%s"] * len(columns))
            cursor.execute(
                f"INSERT INTO streaming_apikey ({', '.join(columns)}) VALUES ({places})",  # noqa: S608 (ours)
                values,
            )
    finally:
        MigrationExecutor(connection).migrate(latest)
    made = ApiKey.objects.get(prefix="sluice_new")
    for key in (kept, made):
        assert set(key.scopes.split()) == set(ALL)
        assert (key.state, key.expires_at) == (ApiKey.State.VALID, None)
