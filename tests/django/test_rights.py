"""What open streams rest on, in the project: sessions of every kind, permissions, the statistics page; and
what it costs to ask again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.models import Session
from django.http import HttpRequest
from django.test import AsyncRequestFactory, Client, override_settings

from streaming import keys, revocation
from streaming.access import Caller, identify
from streaming.identities import IDENTITIES, MAX_AGE
from streaming.models import ApiKey
from streaming.scopes import Scope
from streaming.service import close_service
from streaming.standing import Standing
from tests.support.client import STREAM, brief

from .asgi_calls import Call

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = ("db", "cached_db", "cache", "signed_cookies")


@pytest.fixture(autouse=True)
async def _project() -> Any:
    pools = {"agent_pool": {"max_workers": 50, "per_owner": 50}, "kernel_pool": {}}
    with override_settings(
        ALLOW_ANONYMOUS="false",
        ALLOW_SCRIPTED_PROVIDER=True,
        ALLOWED_HOSTS=["testserver"],
        THREAD_CONFIG=pools,
    ):
        yield
        await close_service(0)


@pytest.fixture
def alice() -> Any:
    user = get_user_model().objects.create(username="alice")
    user.set_unusable_password()
    user.save()
    return user


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{request.param}"):
        IDENTITIES.watch(revocation.count())
        yield request.param


def signed_in(user: Any) -> str:
    browser = Client()
    browser.force_login(user)
    return browser.cookies["sessionid"].value


def request_with(session_key: str) -> HttpRequest:
    request = AsyncRequestFactory().get("/streams")
    request.COOKIES["sessionid"] = session_key
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    return request


async def standing_of(session_key: str) -> Standing:
    caller: Caller = await identify(request_with(session_key))
    assert caller.standing is not None
    return caller.standing


async def test_a_session_of_any_engine_is_asked_about_and_goes_on_as_it_is(engine: str, alice: Any):
    key = await sync_to_async(signed_in)(alice)
    standing = await standing_of(key)
    rows = await sync_to_async(lambda: [*Session.objects.values()])()
    for max_age in (0.0, MAX_AGE):
        assert await standing.holds(max_age)
    assert await sync_to_async(lambda: [*Session.objects.values()])() == rows


async def test_a_new_password_voids_a_session_of_any_engine(engine: str, alice: Any):
    standing = await standing_of(await sync_to_async(signed_in)(alice))
    alice.set_unusable_password()
    await alice.asave()
    assert not await standing.holds(MAX_AGE)


async def test_a_session_that_has_ended_speaks_for_nobody(engine: str, alice: Any):
    key = await sync_to_async(signed_in)(alice)
    standing = await standing_of(key)
    if engine == "signed_cookies":
        with override_settings(SESSION_COOKIE_AGE=-1):
            assert not await standing.holds(MAX_AGE)
    else:
        await request_with(key).session.aflush()
        assert not await standing.holds(MAX_AGE)


async def test_a_session_signed_by_an_older_secret_goes_on_and_is_not_renewed_behind_its_back(alice: Any):
    with override_settings(SECRET_KEY="old" * 20):
        key = await sync_to_async(signed_in)(alice)
        standing = await standing_of(key)
    with override_settings(SECRET_KEY_FALLBACKS=["old" * 20]):
        IDENTITIES.forget_all()
        assert await standing.holds(MAX_AGE)
        assert await Session.objects.filter(pk=key).aexists(), "the browser still has that key"
    IDENTITIES.forget_all()
    assert not await standing.holds(MAX_AGE)


# What counts as taken away


def _prepared(user: Any) -> tuple[Permission, Group]:
    right = Permission.objects.get(codename="view_streamtask")
    group = Group.objects.create(name="watchers")
    group.permissions.add(right)
    user.groups.add(group)
    user.user_permissions.add(right)
    return right, group


TAKEN: dict[str, Callable[[Any, Permission, Group], object]] = {
    "a permission": lambda user, right, group: user.user_permissions.remove(right),
    "all permissions": lambda user, right, group: user.user_permissions.clear(),
    "a group": lambda user, right, group: group.user_set.remove(user),
    "a permission of a group": lambda user, right, group: group.permissions.set([]),
    "a deleted group": lambda user, right, group: group.delete(),
    "a deleted permission": lambda user, right, group: right.delete(),
}


@pytest.mark.parametrize("what", TAKEN)
def test_permissions_and_groups_that_are_taken_away_are_announced(alice: Any, what: str):
    right, group = _prepared(alice)
    before = revocation.count()
    TAKEN[what](alice, right, group)
    assert revocation.count() > before


def test_what_is_given_is_not_announced(alice: Any):
    before = revocation.count()
    _prepared(alice)
    assert revocation.count() == before


# Streams


def cookies(user: Any) -> dict[str, str]:
    return {"cookie": f"sessionid={signed_in(user)}"}


@pytest.mark.parametrize("what", ["staff", "permission", "nothing"])
async def test_live_numbers_end_for_who_may_not_watch_any_more(alice: Any, what: str):
    def prepare() -> dict[str, str]:
        alice.is_staff = True
        alice.save()
        alice.user_permissions.add(Permission.objects.get(codename="view_streamtask"))
        return cookies(alice)

    def withdraw() -> None:
        if what == "staff":
            alice.is_staff = False
            alice.save()
        elif what == "permission":
            alice.user_permissions.clear()
        else:
            IDENTITIES.forget_all()

    call = Call("/admin/streaming/statistics/live/", headers=await sync_to_async(prepare)())
    await call.saw(b"event: result")
    await sync_to_async(withdraw)()
    if what == "nothing":
        await asyncio.sleep(0.5)
        assert not call.running.done()
        call.leave()
        await call.end()
        assert b"access_revoked" not in call.body
    else:
        await call.end()
        assert b'"code":"access_revoked"' in call.body


async def test_streams_of_one_key_cost_one_question_and_none_for_events(
    alice: Any, monkeypatch: pytest.MonkeyPatch
):
    _key, text = await sync_to_async(keys.issue)(alice)
    headers = {"authorization": f"Bearer {text}"}
    body = json.dumps(brief(options={"tokens": 400, "interval": 0.005})).encode()
    IDENTITIES.watch(await sync_to_async(revocation.count)())
    calls = [Call(STREAM, method="POST", body=body, headers=headers) for _ in range(20)]
    for call in calls:
        await call.saw(b'"delta"')
    found, asked = keys.find_digest, []

    async def counting(stored: str) -> Any:
        asked.append(stored)
        return await found(stored)

    monkeypatch.setattr(keys, "find_digest", counting)
    await asyncio.sleep(0.3)
    assert asked == [], "events ask nothing"
    IDENTITIES.forget_all()
    await asyncio.sleep(0.5)
    assert len(asked) == 1
    assert not any(call.running.done() for call in calls)
    await sync_to_async(keys.revoke)(await ApiKey.objects.aget())
    for call in calls:
        await call.end()
        assert call.body.count(b'"code":"access_revoked"') == 1
    assert len(asked) <= 3, "before the commit, perhaps, and after it"


@pytest.mark.parametrize("kept", ["read", "generate"])
async def test_a_key_that_loses_a_scope_ends_the_streams_of_calls_that_needed_it(alice: Any, kept: str):
    _row, key = await sync_to_async(keys.issue)(alice)
    request = HttpRequest()
    request.META = {"HTTP_HOST": "testserver", "HTTP_AUTHORIZATION": f"Bearer {key}"}
    callers = {need: await identify(request, need) for need in (Scope.READ, Scope.GENERATE)}
    await ApiKey.objects.filter(user=alice).aupdate(scopes=kept)
    IDENTITIES.forget_all()
    hold = {
        need: caller.standing is not None and await caller.standing.holds(MAX_AGE)
        for need, caller in callers.items()
    }
    assert hold == {Scope.READ: kept == "read", Scope.GENERATE: kept == "generate"}
