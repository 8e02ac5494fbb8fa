"""Tickets without a server: for what they are good, for whom, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.core.management import call_command
from django.http import HttpRequest
from django.test import AsyncRequestFactory, Client, override_settings
from django.utils import timezone
from uvicorn.protocols.utils import get_path_with_query_string

from streaming import access_tickets, keys
from streaming.access import Caller, identify, identify_socket, make_ticket
from streaming.hidden_query import MARK, hide
from streaming.models import Ticket
from streaming.problems import Problem
from streaming.requests import query
from streaming.storage.pruning import prune_some_tickets

pytestmark = pytest.mark.django_db(transaction=True)

FACTORY = AsyncRequestFactory()
STREAM = access_tickets.for_stream("0123456789abcdef" * 2)
SOCKET = access_tickets.for_socket("ws/generate/")


class Alice:
    """A user with a key and a session."""

    def __init__(self) -> None:
        self.user: User = get_user_model().objects.create_user("alice", password="old")
        self.key, self.text = keys.issue(self.user)
        self.browser = Client()
        self.browser.force_login(self.user)
        self.session_key = self.browser.cookies["sessionid"].value

    def request(self, way: str) -> HttpRequest:
        """A call from afar, with a key or in a session."""
        if way == "key":
            return request(authorization=f"Bearer {self.text}")
        made = request()
        made.COOKIES["sessionid"] = self.session_key
        made.session = SessionStore(self.session_key)
        return made

    async def ticket(self, way: str = "key", resource: str = STREAM) -> str:
        """A new one."""
        asked = self.request(way)
        return await make_ticket(asked, Caller(str(self.user.pk), "203.0.113.9"), resource)


@pytest.fixture
def alice(transactional_db: None) -> Iterator[Alice]:
    with override_settings(ALLOW_ANONYMOUS="false"):
        yield Alice()


def request(*tickets: str, address: str = "203.0.113.9", **headers: str) -> HttpRequest:
    """A GET from afar, with these tickets in its query."""
    made = FACTORY.get("/?" + "&".join(f"ticket={each}" for each in tickets), headers=headers)
    made.META["REMOTE_ADDR"] = address
    return made


async def refused(call: HttpRequest, resource: str | None = STREAM, ask: Any = identify) -> tuple[int, str]:
    """Status and code of the refusal; 0 for none."""
    try:
        await ask(call, resource=resource)
    except Problem as problem:
        return problem.status, problem.code
    return 0, ""


NOT_VALID = (401, "invalid_ticket")


@pytest.mark.parametrize("way", ["key", "session"])
async def test_it_speaks_for_its_maker_once(alice: Alice, way: str):
    text = await alice.ticket(way)
    caller = await identify(request(text), resource=STREAM)
    assert (caller.account, caller.address) == (str(alice.user.pk), "203.0.113.9")
    assert await refused(request(text)) == NOT_VALID


async def test_of_a_ticket_only_the_digest_is_stored(alice: Alice):
    text = await alice.ticket()
    row = await Ticket.objects.values().aget()
    assert row["digest"] == keys.digest(text)
    assert text not in str(row)
    assert alice.text not in str(row)
    assert len(text) - len(MARK) == 43, "256 bits"


async def test_it_opens_what_it_was_made_for(alice: Alice):
    text = await alice.ticket()
    other = access_tickets.for_stream("f" * 32)
    for resource in (other, SOCKET, access_tickets.for_stream("\x00")):
        assert await refused(request(text), resource) == NOT_VALID
    assert await refused(request(text), resource=None) == (401, "not_authenticated")
    assert await refused(request(text)) == (0, "")


@pytest.mark.parametrize("text", ["", "x", "sluice_ticket_" + "a" * 43, "sluice_ticket_" + "é" * 43, "a%00"])
async def test_what_is_no_ticket_opens_nothing(alice: Alice, text: str):
    assert await refused(request(text)) in (NOT_VALID, (400, "bad_query"))


async def test_it_is_good_for_as_long_as_the_setting_says(alice: Alice):
    with override_settings(ACCESS_CONFIG={"ticket_ttl": 7}):
        before = timezone.now()
        text = await alice.ticket()
    left = (await Ticket.objects.aget()).expires_at - before
    assert timedelta(seconds=7) <= left < timedelta(seconds=60)
    await Ticket.objects.aupdate(expires_at=timezone.now())
    assert await refused(request(text)) == NOT_VALID


@pytest.mark.parametrize("ttl", [0, 60.1, -1])
def test_none_is_good_for_longer_than_a_minute(ttl: float):
    from streaming import conf

    with override_settings(ACCESS_CONFIG={"ticket_ttl": ttl}):
        assert [name for name, _ in conf.problems()] == ["ACCESS_CONFIG"]


# --- Its maker's credential ---------------------------------------------------------------------------


def _revoke(alice: Alice) -> None:
    keys.revoke(alice.key)


def _delete_key(alice: Alice) -> None:
    alice.key.delete()


def _sign_out(alice: Alice) -> None:
    alice.browser.logout()


def _new_password(alice: Alice) -> None:
    alice.user.set_password("new")
    alice.user.save()


def _deactivate(alice: Alice) -> None:
    alice.user.is_active = False
    alice.user.save()


def _delete_user(alice: Alice) -> None:
    alice.user.delete()


@pytest.mark.parametrize(
    ("way", "loss"),
    [
        ("key", _revoke),
        ("key", _delete_key),
        ("key", _deactivate),
        ("key", _delete_user),
        ("session", _sign_out),
        ("session", _new_password),
        ("session", _deactivate),
    ],
)
async def test_it_is_worth_nothing_when_its_makers_credential_is(
    alice: Alice, way: str, loss: Callable[[Alice], None]
):
    text = await alice.ticket(way)
    await sync_to_async(loss)(alice)
    assert await refused(request(text)) == NOT_VALID


async def test_a_revoked_key_takes_no_ticket_of_another_one_with_it(alice: Alice):
    text = await alice.ticket("session")
    await sync_to_async(_revoke)(alice)
    assert await refused(request(text)) == (0, "")


async def test_one_of_nobody_is_good_for_whom_would_do_without(alice: Alice):
    nobody = Caller(None, "127.0.0.1")
    with override_settings(ALLOW_ANONYMOUS="loopback"):
        text = await make_ticket(request(), nobody, STREAM)
        assert await refused(request(text)) == NOT_VALID, "it would bring somebody in from afar"
        text = await make_ticket(request(), nobody, STREAM)
        assert (await identify(request(text, address="127.0.0.1"), resource=STREAM)).account is None


async def test_a_session_that_nobody_else_can_look_up_gets_none(alice: Alice):
    asked = request()
    asked.session = CookieStore("x")
    with pytest.raises(Problem) as refusal:
        await make_ticket(asked, Caller(str(alice.user.pk), "203.0.113.9"), STREAM)
    assert (refusal.value.status, refusal.value.code) == (403, "permission_denied")


# --- Beside other credentials -------------------------------------------------------------------------


async def test_a_header_is_judged_alone_and_leaves_the_ticket(alice: Alice):
    text = await alice.ticket()
    wrong = request(text, authorization="Bearer sluice_" + "a" * 43)
    assert await refused(wrong) == (401, "invalid_key")
    assert await refused(request(text)) == (0, "")


async def test_a_ticket_is_judged_before_a_session(alice: Alice):
    text = await alice.ticket()
    await identify(request(text), resource=STREAM)
    used = alice.request("session")
    used.META["QUERY_STRING"] = f"ticket={text}"
    assert await refused(used) == NOT_VALID


async def test_two_are_refused_and_both_are_left(alice: Alice):
    one, other = [await alice.ticket() for _ in range(2)]
    for ask in (identify, identify_socket):
        assert await refused(request(one, other), ask=ask) == (400, "bad_query")
    assert await refused(request(one)) == await refused(request(other)) == (0, "")


async def test_on_a_socket_the_origin_counts_as_ever(alice: Alice):
    text = await alice.ticket(resource=SOCKET)
    evil = request(text, origin="https://evil.example")
    assert await refused(evil, SOCKET, identify_socket) == (403, "wrong_origin")
    with override_settings(CORS_ALLOWED_ORIGINS=["https://app.example"]):
        page = request(text, origin="https://app.example")
        page.COOKIES["sessionid"] = "somebody's"
        assert (await identify_socket(page, SOCKET)).account == str(alice.user.pk)
    assert await refused(request(text), SOCKET, identify_socket) == (403, "invalid_ticket")


# --- Many ---------------------------------------------------------------------------------------------


async def test_of_twenty_who_use_it_at_once_one_gets_in(alice: Alice):
    text = await alice.ticket()
    answers = await asyncio.gather(*(refused(request(text)) for _ in range(20)))
    assert sorted(answers) == [(0, ""), *[NOT_VALID] * 19]


async def test_nobody_hoards_them(alice: Alice, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access_tickets, "MAX_UNUSED", 2)
    first = await alice.ticket()
    await alice.ticket()
    with pytest.raises(Problem) as refusal:
        await alice.ticket("session")
    problem = refusal.value
    assert (problem.status, problem.code, problem.members) == (429, "too_many_tickets", {"limit": 2})
    assert problem.retry_after
    await make_ticket(request(), Caller(None, "203.0.113.9"), STREAM)
    await identify(request(first), resource=STREAM)
    await alice.ticket()
    await Ticket.objects.aupdate(expires_at=timezone.now())
    await alice.ticket()


async def test_old_ones_are_deleted(alice: Alice):
    for _ in range(3):
        await alice.ticket()
    await Ticket.objects.aupdate(expires_at=timezone.now())
    assert await sync_to_async(prune_some_tickets)(timezone.now()) == 3
    text = await alice.ticket()
    assert await sync_to_async(prune_some_tickets)(timezone.now()) == 0
    assert await Ticket.objects.values_list("pk", flat=True).aget() == keys.digest(text)
    await Ticket.objects.aupdate(expires_at=timezone.now())
    await sync_to_async(call_command)("prune", verbosity=0)
    assert not await Ticket.objects.aexists()


# --- In nobody's log ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        (b"ticket=sluice_ticket_1", b""),
        (b"after=3&ticket=sluice_ticket_1&timing=1", b"after=3&timing=1"),
        (b"%74icket=sluice_ticket_1&after=3", b"after=3"),
        (b"ticket=sluice_ticket_1&ticket=sluice_ticket_2", b""),
        (b"tickets=3&after=%41", b"tickets=3&after=%41"),
        (b"ticket=sluice%5Fticket_1", b""),
        # Another application's, such as a central sign-in's
        (b"next=/&ticket=ST-1-abc", b"next=/&ticket=ST-1-abc"),
        (b"after=3", b"after=3"),
        (b"", b""),
    ],
)
def test_at_the_door_it_is_taken_out_of_the_query(sent: bytes, left: bytes):
    scope: Any = {**FACTORY.generic("GET", "/x").scope, "query_string": sent}
    hide(scope)
    assert scope["query_string"] == left
    assert get_path_with_query_string(scope) == "/x" + (f"?{left.decode()}" if left else "")
    made = FACTORY.generic("GET", "/x")
    made.scope, made.META["QUERY_STRING"] = scope, left.decode()
    if sent.count(b"ticket=") == 2:
        with pytest.raises(Problem):
            query(made)
    elif sent != left:
        assert query(made)["ticket"] == "sluice_ticket_1"
