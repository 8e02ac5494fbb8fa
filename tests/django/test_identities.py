"""Who has called is remembered, and each way of losing a right holds from the very next call on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import SESSION_KEY, get_user_model, user_logged_out
from django.contrib.auth.models import User, update_last_login
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import transaction
from django.db.backends.utils import CursorWrapper
from django.http import HttpRequest
from django.test import AsyncClient, AsyncRequestFactory, Client, override_settings
from django.utils import timezone

from streaming import identities, keys, revocation
from streaming.access import identify, identify_socket, require_operator
from streaming.cluster.processes import Registry, machine
from streaming.cluster.revocations import wait_until_known
from streaming.identities import IDENTITIES, MAX_AGE
from streaming.models import ApiKey, Process, RevocationCount
from streaming.problems import Problem
from streaming.scopes import ALL

pytestmark = pytest.mark.django_db(transaction=True)

FACTORY = AsyncRequestFactory()
MINE, OTHER = "a" * 32, "b" * 32


@pytest.fixture(autouse=True)
def watched(transactional_db: None) -> None:
    """As the writer's thread watches in a process that serves."""
    IDENTITIES.watch(revocation.count())


class Queries:
    """All that any thread asks of the database."""

    def __init__(self) -> None:
        self.count = 0


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> Queries:
    counted, execute = Queries(), CursorWrapper.execute

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        counted.count += 1
        return execute(self, *args, **kwargs)

    monkeypatch.setattr(CursorWrapper, "execute", counting)
    return counted


class Alice:
    """A user of staff with a key and a session."""

    def __init__(self) -> None:
        self.user: User = get_user_model().objects.create(username="alice", is_staff=True)
        self.key, self.text = keys.issue(self.user, scopes=ALL)
        self.browser = Client()
        self.browser.force_login(self.user)
        self.session_key = self.browser.cookies["sessionid"].value

    def request(self, way: str) -> HttpRequest:
        """A call from afar by one of WAYS."""
        if way == "key":
            request = FACTORY.get("/streams", headers={"authorization": f"Bearer {self.text}"})
        else:
            request = FACTORY.get("/streams")
            request.COOKIES["sessionid"] = self.session_key
            request.session = SessionStore(self.session_key)
        request.META["REMOTE_ADDR"] = "203.0.113.9"
        return request


WAYS = ("key", "session")


@pytest.fixture
def alice(watched: None) -> Iterator[Alice]:
    with override_settings(ALLOW_ANONYMOUS="false"):
        yield Alice()


async def refused(request: HttpRequest, ask: Any = identify) -> int:
    """The status of the refusal; 0 for none."""
    try:
        await ask(request)
    except Problem as problem:
        return problem.status
    return 0


# --- A call that is one of many -----------------------------------------------------------------------


@pytest.mark.parametrize(("way", "visits"), [("key", 1), ("session", 2)])
async def test_the_first_call_visits_the_database_and_the_next_waits_for_nothing(
    alice: Alice, queries: Queries, way: str, visits: int
):
    first = await identify(alice.request(way))
    assert queries.count == visits
    assert (first.account, first.staff) == (str(alice.user.pk), True)
    with pytest.raises(StopIteration) as end:
        identify(alice.request(way)).send(None)
    assert end.value.value == first
    assert queries.count == visits


async def test_sockets_and_requests_share_what_is_known(alice: Alice, queries: Queries):
    await identify(alice.request("key"))
    with pytest.raises(StopIteration):
        identify_socket(alice.request("key")).send(None)
    assert queries.count == 1


async def test_a_session_is_neither_read_nor_changed(alice: Alice):
    for _ in range(2):
        request = alice.request("session")
        await identify(request)
        assert not request.session.accessed
        assert not request.session.modified


async def test_a_known_session_still_needs_the_csrf_token(alice: Alice):
    client = AsyncClient(enforce_csrf_checks=True)
    client.cookies["sessionid"] = alice.session_key
    assert (await client.get("/streams")).status_code == 200
    answer = await client.delete("/streams/" + "0" * 32)
    assert (answer.status_code, answer.json()["code"]) == (403, "csrf_failed")


async def test_no_secret_is_kept(alice: Alice):
    for way in WAYS:
        await identify(alice.request(way))
    kept = repr(list(IDENTITIES._known))
    assert kept.count("default") == 2
    assert alice.text not in kept
    assert alice.session_key not in kept


@pytest.mark.parametrize(
    "changes",
    [
        {"SESSION_SAVE_EVERY_REQUEST": True},
        {"CSRF_USE_SESSIONS": True},
    ],
)
async def test_sessions_that_have_to_be_read_are_read(
    alice: Alice, queries: Queries, changes: dict[str, Any]
):
    with override_settings(**changes):
        await identify(alice.request("session"))
        queries.count = 0
        await identify(alice.request("session"))
    assert queries.count == 2


@pytest.mark.parametrize("engine", ["cache", "cached_db", "file"])
async def test_sessions_whose_end_is_not_seen_are_read(alice: Alice, queries: Queries, engine: str):
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}"):
        client = AsyncClient()
        await client.aforce_login(alice.user)
        for _ in range(2):
            queries.count = 0
            assert (await client.get("/streams")).status_code == 200
        assert queries.count > 1, "who it is, and the streams"
        await client.alogout()
        assert (await client.get("/streams")).status_code == 401


@pytest.mark.parametrize("way", WAYS)
async def test_where_nobody_watches_each_call_asks(alice: Alice, queries: Queries, way: str):
    IDENTITIES.unwatch()
    await identify(alice.request(way))
    once = queries.count
    await identify(alice.request(way))
    assert queries.count == 2 * once > 0


# --- Losing it ----------------------------------------------------------------------------------------


def deactivate(alice: Alice) -> None:
    alice.user.is_active = False
    alice.user.save()


def change_password(alice: Alice) -> None:
    alice.user.set_unusable_password()
    alice.user.save()


def revoke_by_command(alice: Alice) -> None:
    call_command("revoke_api_key", alice.key.prefix, stdout=StringIO())


def leave_empty(alice: Alice) -> None:
    session = SessionStore(alice.session_key)
    del session[SESSION_KEY]
    session.save()


LOSSES: list[tuple[str, Callable[[Alice], object]]] = [
    ("key", lambda alice: keys.revoke(alice.key)),
    ("key", revoke_by_command),
    ("key", lambda alice: alice.key.delete()),
    ("key", lambda alice: ApiKey.objects.all().delete()),
    ("key", deactivate),
    ("key", lambda alice: alice.user.delete()),
    ("session", lambda alice: alice.browser.logout()),
    ("session", lambda alice: SessionStore(alice.session_key).flush()),
    ("session", lambda alice: SessionStore(alice.session_key).cycle_key()),
    ("session", lambda alice: Session.objects.all().delete()),
    ("session", leave_empty),
    ("session", deactivate),
    ("session", change_password),
    ("session", lambda alice: alice.user.delete()),
]


@pytest.mark.parametrize(("way", "lose"), LOSSES)
async def test_what_was_taken_away_is_refused_at_the_very_next_call(
    alice: Alice, way: str, lose: Callable[[Alice], object]
):
    assert await refused(alice.request(way)) == 0
    await sync_to_async(lose)(alice)
    assert await refused(alice.request(way)) == 401


async def test_who_calls_while_logging_out_is_gone_afterwards(alice: Alice):
    """`user_logged_out` is sent before the session's row goes."""

    def call(**kwargs: Any) -> None:
        assert async_to_sync(refused)(alice.request("session")) == 0

    user_logged_out.connect(call)
    try:
        await sync_to_async(alice.browser.logout)()
    finally:
        user_logged_out.disconnect(call)
    assert await refused(alice.request("session")) == 401


async def test_who_logs_out_over_http_is_gone(alice: Alice):
    client = AsyncClient()
    client.cookies["sessionid"] = alice.session_key
    assert (await client.get("/streams")).status_code == 200
    token = "x" * 32
    client.cookies["csrftoken"] = token
    assert (await client.post("/accounts/logout/", headers={"x-csrftoken": token})).status_code == 302
    client.cookies["sessionid"] = alice.session_key
    assert (await client.get("/streams")).status_code == 401


@pytest.mark.parametrize("way", WAYS)
async def test_who_is_staff_no_more_is_no_operator_at_the_very_next_call(alice: Alice, way: str):
    assert await refused(alice.request(way), require_operator) == 0
    alice.user.is_staff = False
    await alice.user.asave()
    assert await refused(alice.request(way), require_operator) == 403


async def test_a_session_is_known_until_it_expires_and_not_longer(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
):
    soon = timezone.now() + timedelta(seconds=MAX_AGE / 2)
    await Session.objects.aupdate(expire_date=soon)
    assert await refused(alice.request("session")) == 0
    await Session.objects.aupdate(expire_date=timezone.now())
    clock = IDENTITIES._clock
    monkeypatch.setattr(IDENTITIES, "_clock", lambda: clock() + MAX_AGE / 2)
    assert await refused(alice.request("session")) == 401


async def test_a_key_is_known_until_it_expires_and_not_longer(alice: Alice, monkeypatch: pytest.MonkeyPatch):
    lifetime = timedelta(seconds=MAX_AGE / 2)
    _, text = await sync_to_async(keys.issue)(alice.user, lifetime=lifetime)
    request = FACTORY.get("/streams", headers={"authorization": f"Bearer {text}"})
    assert await refused(request) == 0
    clock, wall = IDENTITIES._clock, timezone.now
    with monkeypatch.context() as patch:
        patch.setattr(keys, "find", _no_look)
        patch.setattr(IDENTITIES, "_renew_soon", lambda credential, look_up: None)
        patch.setattr(IDENTITIES, "_clock", lambda: clock() + MAX_AGE / 2 - 1)
        assert await refused(request) == 0
    with monkeypatch.context() as patch:
        # Nobody renews what is asked for all the time: it ends all the same.
        patch.setattr(IDENTITIES, "_clock", lambda: clock() + MAX_AGE / 2)
        patch.setattr(timezone, "now", lambda: wall() + lifetime)
        assert await refused(request) == 401


async def _no_look(text: str) -> None:
    raise AssertionError("looked up")


async def test_the_successor_is_known_and_the_old_key_forgotten_at_its_new_end(alice: Alice):
    assert await refused(alice.request("key")) == 0
    _, text = await sync_to_async(keys.rotate)(alice.key, timedelta(0))
    assert await refused(alice.request("key")) == 401
    request = FACTORY.get("/streams", headers={"authorization": f"Bearer {text}"})
    assert await refused(request) == 0


async def test_what_nobody_announced_holds_when_the_memory_is_too_old(
    alice: Alice, monkeypatch: pytest.MonkeyPatch
):
    assert await refused(alice.request("key")) == 0
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    clock = IDENTITIES._clock
    monkeypatch.setattr(IDENTITIES, "_clock", lambda: clock() + MAX_AGE)
    IDENTITIES.watch(await sync_to_async(revocation.count)())
    assert await refused(alice.request("key")) == 401


@pytest.mark.parametrize("lose", [deactivate, lambda alice: keys.revoke(alice.key)])
async def test_what_was_looked_up_while_the_change_was_not_yet_committed_is_forgotten(
    alice: Alice, lose: Callable[[Alice], object]
):
    def change() -> None:
        with transaction.atomic():
            lose(alice)
            credential = keys.credential(alice.text)
            old = identities._Known(identities.Identity(str(alice.user.pk), True), IDENTITIES._clock())
            IDENTITIES._known[credential] = old

    await sync_to_async(change)()
    assert await refused(alice.request("key")) == 401


async def test_what_was_taken_back_is_no_loss(alice: Alice):
    def change() -> None:
        with suppress(ZeroDivisionError), transaction.atomic():
            deactivate(alice)
            raise ZeroDivisionError

    before = await sync_to_async(revocation.count)()
    await sync_to_async(change)()
    assert await sync_to_async(revocation.count)() == before
    assert await refused(alice.request("key")) == 0


QUIET: list[Callable[[Alice], object]] = [
    lambda alice: update_last_login(None, alice.user),  # type: ignore[arg-type]
    lambda alice: keys.issue(alice.user),
    lambda alice: get_user_model().objects.create(username="bob"),
    lambda alice: Client().force_login(alice.user),
    lambda alice: SessionStore().save(),
    lambda alice: Session.objects.exclude(pk=alice.session_key).delete(),
]


@pytest.mark.parametrize("do", QUIET)
async def test_what_takes_nothing_away_empties_nothing(
    alice: Alice, queries: Queries, do: Callable[[Alice], object]
):
    empty = SessionStore()
    await empty.asave()
    await identify(alice.request("key"))
    before = await sync_to_async(revocation.count)()
    await sync_to_async(do)(alice)
    queries.count = 0
    await identify(alice.request("key"))
    assert queries.count == 0
    assert await sync_to_async(revocation.count)() == before


# --- Other processes ----------------------------------------------------------------------------------


async def test_what_another_process_takes_away_is_refused_after_a_look_at_the_number(alice: Alice):
    registry = Registry(MINE)
    look = sync_to_async(registry.tick)
    await look(0, able=True)
    assert await refused(alice.request("key")) == 0
    # As another process does: nothing here is told.
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    assert await refused(alice.request("key")) == 0
    await RevocationCount.objects.aupdate_or_create(pk=1, defaults={"number": 41})
    await look(0.5, able=True)
    assert await refused(alice.request("key")) == 401
    assert (await Process.objects.aget(pk=MINE)).revocations == 41
    await sync_to_async(registry.leave)()


def test_each_loss_is_counted(alice: Alice):
    assert revocation.count() == 0
    keys.revoke(alice.key)
    assert revocation.count() == 1
    alice.browser.logout()
    assert revocation.count() == 2
    deactivate(alice)
    assert revocation.count() == 3


def test_who_waits_until_all_know_waits_for_those_that_live_and_remember():
    RevocationCount.objects.create(pk=1, number=5)
    assert wait_until_known(60) == 0
    Process.objects.create(id="1" * 32, machine="elsewhere", pid=1, revocations=5)
    Process.objects.create(id="2" * 32, machine="elsewhere", pid=1, revocations=None)
    assert wait_until_known(60) == 0
    late = Process.objects.create(id="3" * 32, machine="elsewhere", pid=1, revocations=4)
    assert wait_until_known(0) == 1
    Process.objects.filter(pk=late.pk).update(revocations=6)
    assert wait_until_known(60) == 0


@pytest.mark.skipif(not machine(), reason="this system does not tell its processes' home")
def test_who_waits_does_not_wait_for_the_dead():
    RevocationCount.objects.create(pk=1, number=5)
    Process.objects.create(id=OTHER, machine=machine(), pid=2**22 + 1, revocations=4)
    assert wait_until_known(60) == 0


def test_the_command_says_who_has_not_answered(alice: Alice, monkeypatch: pytest.MonkeyPatch):
    from streaming.management import api_keys

    monkeypatch.setattr(api_keys, "IMPATIENCE", 0.0)
    monkeypatch.setattr(api_keys, "PATIENCE", 0.0)
    Process.objects.create(id=OTHER, machine="elsewhere", pid=1, revocations=0)
    out, err = StringIO(), StringIO()
    call_command("revoke_api_key", alice.key.prefix, stdout=out, stderr=err, no_color=True)
    assert "is revoked" in out.getvalue()
    assert "have not answered: 1" in err.getvalue()
    assert "within 30 seconds" in err.getvalue()
