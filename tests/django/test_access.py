"""Who is let in: loopback, proxies, sessions, CSRF; and who shares with whom."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import AsyncClient, AsyncRequestFactory, override_settings
from django.utils import timezone

from streaming import keys
from streaming.access import Caller, identify, require_operator
from streaming.models import ApiKey
from streaming.problems import Problem
from streaming.scopes import ALL, USUAL, Scope

FACTORY = AsyncRequestFactory()


def _request(address: str | None = "127.0.0.1", **headers: str) -> HttpRequest:
    request = FACTORY.get("/stats", headers=headers)
    if address is None:
        request.META.pop("REMOTE_ADDR", None)
    else:
        request.META["REMOTE_ADDR"] = address
    return request


async def _refusal(request: HttpRequest, ask: Any = identify) -> Problem:
    with pytest.raises(Problem) as refusal:
        await ask(request)
    return refusal.value


# --- Anonymous callers --------------------------------------------------------------------------------


@override_settings(ALLOW_ANONYMOUS="loopback")
@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_is_let_in(address: str):
    assert await identify(_request(address)) == Caller(None, address)


@override_settings(ALLOW_ANONYMOUS="loopback")
@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "192.168.1.1",
        "128.0.0.1",
        "::2",
        "fe80::1",
        "::ffff:10.0.0.1",
        "0.0.0.0",  # noqa: S104 (a peer, not a place to listen)
        "",
        "localhost",
        None,
    ],
)
async def test_no_other_machine_is(address: str | None):
    problem = await _refusal(_request(address))
    assert (problem.status, problem.code) == (401, "not_authenticated")
    assert problem.headers["WWW-Authenticate"] == 'Bearer realm="sluice"', "no error where nobody tried"


FORWARDING_HEADERS = [
    "Forwarded",
    "Via",
    "X-Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Original-Forwarded-For",
    "X-Real-IP",
    "X-Client-IP",
    "True-Client-IP",
    "Fly-Client-IP",
    "Fastly-Client-IP",
    "X-Cluster-Client-IP",
    "CF-Connecting-IP",
    "X-Envoy-External-Address",
    "Forwarded-For",
    "X-ProxyUser-Ip",
    "X-Appengine-User-IP",
    "X-Azure-ClientIP",
    "X-Azure-SocketIP",
    "CDN-Loop",
    "CF-Ray",
    "CF-IPCountry",
]


@override_settings(ALLOW_ANONYMOUS="loopback")
@pytest.mark.parametrize("header", FORWARDING_HEADERS)
@pytest.mark.parametrize("value", ["127.0.0.1", "for=127.0.0.1", ""])
async def test_who_comes_through_a_proxy_is_not_local(header: str, value: str):
    problem = await _refusal(_request(**{header.lower(): value}))
    assert problem.status == 401


@override_settings(ALLOW_ANONYMOUS="false")
async def test_false_lets_nobody_in():
    assert (await _refusal(_request())).status == 401


@override_settings(ALLOW_ANONYMOUS="true")
async def test_true_lets_everybody_in():
    assert await identify(_request("203.0.113.9")) == Caller(None, "203.0.113.9")
    assert (await identify(_request("127.0.0.1", **{"x-forwarded-for": "1.2.3.4"}))).account is None


@override_settings(ALLOW_ANONYMOUS="true", ALLOWED_HOSTS=["example.org"])
async def test_a_foreign_host_name_is_refused():
    problem = await _refusal(_request())
    assert (problem.status, problem.code) == (400, "bad_host")


def _at(host: str, **headers: str) -> HttpRequest:
    request = _request(**headers)
    request.META["HTTP_HOST"] = host
    return request


@override_settings(ALLOW_ANONYMOUS="true", ALLOWED_HOSTS=["example.org"], USE_X_FORWARDED_HOST=True)
async def test_a_right_host_is_no_pass_for_a_wrong_one_that_a_proxy_names():
    for _ in range(2):
        assert (await identify(_at("example.org"))).account is None
        forwarded = _at("example.org", **{"x-forwarded-host": "evil.example"})
        assert (await _refusal(forwarded)).code == "bad_host"


@override_settings(ALLOW_ANONYMOUS="true", ALLOWED_HOSTS=["example.org"])
async def test_a_host_that_was_right_is_asked_for_again_when_settings_change():
    for _ in range(2):
        assert (await identify(_at("example.org"))).account is None
        assert (await _refusal(_at("evil.example"))).code == "bad_host"
    with override_settings(ALLOWED_HOSTS=["example.com"]):
        assert (await _refusal(_at("example.org"))).code == "bad_host"


# --- Operators ----------------------------------------------------------------------------------------


@override_settings(ALLOW_ANONYMOUS="true")
async def test_an_operator_is_local_or_staff():
    assert (await require_operator(_request("127.0.0.1"))).account is None
    assert (await _refusal(_request("203.0.113.9"), require_operator)).status == 403
    proxied = _request("127.0.0.1", **{"x-real-ip": "127.0.0.1"})
    assert (await _refusal(proxied, require_operator)).status == 403


# --- Shares -------------------------------------------------------------------------------------------


def test_shares_of_an_account_are_per_end_user():
    mine, yours = Caller("1", "10.0.0.1"), Caller("2", "10.0.0.1")
    assert mine.share_key("a") == Caller("1", "10.9.9.9").share_key("a"), "from wherever"
    assert len({mine.share_key("a"), mine.share_key("b"), yours.share_key("a")}) == 3


@override_settings(ALLOW_ANONYMOUS="loopback")
def test_shares_on_this_machine_are_per_end_user():
    caller = Caller(None, "127.0.0.1")
    assert caller.share_key("a") != caller.share_key("b")


@override_settings(ALLOW_ANONYMOUS="true")
def test_shares_of_strangers_are_per_address_whatever_user_they_claim_to_be():
    caller = Caller(None, "203.0.113.9")
    assert caller.share_key("a") == caller.share_key("b")
    assert caller.share_key("a") != Caller(None, "203.0.113.10").share_key("a")


def test_an_account_never_shares_with_a_stranger():
    with override_settings(ALLOW_ANONYMOUS="true"):
        assert Caller("203.0.113.9", "x").share_key("") != Caller(None, "203.0.113.9").share_key("")


def test_owned_streams_are_for_their_owner_alone():
    assert Caller("1", "").may_read("1")
    assert Caller("1", "").may_read(None)
    assert not Caller("2", "").may_read("1")
    assert not Caller(None, "").may_read("1")


# --- Sessions -----------------------------------------------------------------------------------------


@pytest.fixture
def signed_in(transactional_db: None) -> AsyncClient:
    user = get_user_model().objects.create(username="reader")
    client = AsyncClient(enforce_csrf_checks=True)
    client.force_login(user)
    return client


@override_settings(ALLOW_ANONYMOUS="false")
async def test_a_session_speaks_for_its_user(signed_in: AsyncClient):
    answer = await signed_in.get("/streams")
    assert answer.status_code == 200
    assert answer.json() == {"items": [], "next": None}
    assert (await signed_in.get("/stats")).status_code == 403, "no staff"


@override_settings(ALLOW_ANONYMOUS="loopback", ALLOW_SCRIPTED_PROVIDER=True)
async def test_with_a_session_changes_need_the_csrf_token(signed_in: AsyncClient):
    brief = {"user_id": "u", "topic": "t", "provider": "scripted", "options": {"tokens": 1, "interval": 0}}
    refused = await signed_in.post("/content/generate", brief, content_type="application/json")
    assert (refused.status_code, refused.json()["code"]) == (403, "csrf_failed")

    token = "x" * 32
    signed_in.cookies["csrftoken"] = token
    headers = {"x-csrftoken": token}
    accepted = await signed_in.post(
        "/content/generate", brief, content_type="application/json", headers=headers
    )
    assert accepted.status_code == 200, accepted.content
    assert accepted.json()["text"] == "0 "

    wrong = {"x-csrftoken": "y" * 32}
    refused = await signed_in.post("/content/generate", brief, content_type="application/json", headers=wrong)
    assert refused.status_code == 403


@override_settings(ALLOW_ANONYMOUS="loopback", ALLOW_SCRIPTED_PROVIDER=True)
async def test_a_foreign_origin_cannot_use_the_session(signed_in: AsyncClient):
    token = "x" * 32
    signed_in.cookies["csrftoken"] = token
    headers = {"x-csrftoken": token, "origin": "https://evil.example"}
    answer = await signed_in.delete("/streams/" + "0" * 32, headers=headers)
    assert answer.status_code == 403


@override_settings(ALLOW_ANONYMOUS="loopback")
async def test_an_anonymous_change_needs_no_token(transactional_db: None):
    answer = await AsyncClient(enforce_csrf_checks=True).delete("/streams/" + "0" * 32)
    assert answer.status_code == 404


@override_settings(ALLOW_ANONYMOUS="false")
async def test_a_session_of_nobody_is_anonymous(transactional_db: None):
    client = AsyncClient()
    client.cookies["sessionid"] = "0" * 32
    assert (await client.get("/streams")).status_code == 401


ORIGINS = [
    "null",
    "http://testserver.evil.example",
    "http://testserver:8080",
    "http://TESTSERVER",
    "https://testserver",
    "http://eviltestserver",
    "",
]


@override_settings(ALLOW_ANONYMOUS="loopback")
@pytest.mark.parametrize("origin", ORIGINS)
async def test_an_origin_that_is_not_ours_to_the_letter_cannot_use_the_session(
    signed_in: AsyncClient, origin: str
):
    token = "x" * 32
    signed_in.cookies["csrftoken"] = token
    path, headers = "/streams/" + "0" * 32, {"x-csrftoken": token}
    assert (await signed_in.delete(path, headers=headers | {"origin": origin})).status_code == 403
    assert (
        await signed_in.delete(path, headers=headers | {"origin": "http://testserver"})
    ).status_code == 404


# --- Keys ---------------------------------------------------------------------------------------------


@pytest.fixture
def alice(transactional_db: None) -> User:
    return get_user_model().objects.create(username="alice")


@pytest.fixture
def key(alice: User) -> str:
    return keys.issue(alice)[1]


@pytest.fixture
def key_for_all(alice: User) -> str:
    return keys.issue(alice, scopes=ALL)[1]


RIGHT = ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}", "Bearer {} ", "Bearer {}\t ", " \tBearer {}"]


@override_settings(ALLOW_ANONYMOUS="false")
@pytest.mark.parametrize("value", RIGHT)
async def test_a_key_speaks_for_its_user_from_anywhere(alice: User, key: str, value: str):
    """Blanks around the value are none of it, and several may come before the key (RFC 9110, 5.5, 11.4)."""
    request = _request("203.0.113.9", authorization=value.format(key))
    caller = Caller(str(alice.pk), "203.0.113.9", scopes=frozenset(USUAL))
    assert await identify(request) == caller


@override_settings(ALLOW_ANONYMOUS="false")
async def test_a_key_of_staff_opens_what_staff_may_see_if_it_is_for_that(
    alice: User, key: str, key_for_all: str
):
    usual = _request("203.0.113.9", authorization=f"Bearer {key}")
    whole = _request("203.0.113.9", authorization=f"Bearer {key_for_all}")
    for request in (usual, whole):
        refused = await _refusal(request, require_operator)
        assert (refused.status, refused.code) == (403, "permission_denied"), "no scope would help"
    alice.is_staff = True
    await alice.asave()
    assert (await require_operator(whole)).staff
    assert (await _refusal(usual, require_operator)).code == "insufficient_scope"


@override_settings(ALLOW_ANONYMOUS="false", ALLOW_SCRIPTED_PROVIDER=True)
async def test_with_a_key_changes_need_no_csrf_token(key: str):
    client, headers = AsyncClient(enforce_csrf_checks=True), {"authorization": f"Bearer {key}"}
    brief = {"user_id": "u", "topic": "t", "provider": "scripted", "options": {"tokens": 1, "interval": 0}}
    accepted = await client.post("/content/generate", brief, content_type="application/json", headers=headers)
    assert accepted.status_code == 200, accepted.content
    assert (await client.delete("/streams/" + "0" * 32, headers=headers)).status_code == 404


async def test_what_a_key_is_not_for_is_refused_with_the_scope_that_it_lacks(alice: User):
    _, text = await sync_to_async(keys.issue)(alice, scopes=["cancel"])
    request = _request(authorization=f"Bearer {text}")
    assert (await identify(request, Scope.CANCEL)).scopes == frozenset({"cancel"})
    refused = await _refusal(request, lambda asked: identify(asked, Scope.NOTEBOOKS, Scope.GENERATE))
    response = refused.response()
    assert (response.status_code, refused.code) == (403, "insufficient_scope")
    assert response["WWW-Authenticate"] == (
        'Bearer realm="sluice", error="insufficient_scope", scope="generate notebooks"'
    )
    assert refused.document["scope"] == "generate notebooks"


@pytest.mark.parametrize("caller", [Caller(None, ""), Caller("1", ""), Caller("1", "", True)])
def test_who_comes_without_a_key_lacks_no_scope(caller: Caller):
    caller.require(*Scope)
    assert all(map(caller.may, Scope))


def test_a_key_that_is_for_nothing_known_may_nothing():
    caller = Caller("1", "", scopes=frozenset({"fly"}))
    assert not any(map(caller.may, Scope))


WRONG_KEYS = [
    "Bearer",
    "Bearer ",
    "Bearer \t{key}",
    "Bearer {key}\u00a0",
    "Bearer {key},Bearer {key}",
    "Bearer {key}, Bearer {key}",
    "Bearer {key}{key}",
    "Bearer sluice_" + "a" * 43,
    "Bearer \u00e9",
    "Bearer " + "x" * 1_000_000,
]
OTHER_SCHEMES = ["", "{key}", "Basic {key}", "Token {key}", "Bearer\t{key}", "Bearer,{key}", "\u00e9"]


@override_settings(ALLOW_ANONYMOUS="true")
@pytest.mark.parametrize("value", WRONG_KEYS, ids=range(len(WRONG_KEYS)))
async def test_a_wrong_key_is_refused_where_nobody_in_particular_would_be_let_in(key: str, value: str):
    problem = await _refusal(_request(authorization=value.format(key=key)))
    assert (problem.status, problem.code) == (401, "invalid_key")
    assert problem.headers["WWW-Authenticate"] == 'Bearer realm="sluice", error="invalid_token"'
    assert key not in problem.detail


@override_settings(ALLOW_ANONYMOUS="true")
@pytest.mark.parametrize("value", OTHER_SCHEMES)
async def test_another_scheme_is_refused(key: str, value: str):
    problem = await _refusal(_request(authorization=value.format(key=key)))
    assert (problem.status, problem.code) == (401, "not_authenticated")
    assert problem.headers["WWW-Authenticate"] == 'Bearer realm="sluice"'


@override_settings(ALLOW_ANONYMOUS="true")
async def test_unknown_revoked_and_inactive_look_alike(alice: User, key: str):
    unknown = (await _refusal(_request(authorization="Bearer sluice_" + "a" * 43))).response()
    alice.is_active = False
    await alice.asave()
    inactive = (await _refusal(_request(authorization=f"Bearer {key}"))).response()
    alice.is_active = True
    await alice.asave()
    await ApiKey.objects.aupdate(revoked_at=timezone.now())
    revoked = (await _refusal(_request(authorization=f"Bearer {key}"))).response()
    assert unknown.content == inactive.content == revoked.content
    assert unknown.headers == inactive.headers == revoked.headers


@override_settings(ALLOW_ANONYMOUS="true")
async def test_a_wrong_key_does_not_fall_back_to_the_session(signed_in: AsyncClient):
    headers = {"authorization": "Bearer sluice_" + "a" * 43}
    assert (await signed_in.get("/streams", headers=headers)).status_code == 401


@override_settings(ALLOW_ANONYMOUS="false")
async def test_a_key_beats_a_session_of_somebody_else(signed_in: AsyncClient, alice: User, key: str):
    request = _request(authorization=f"Bearer {key}")
    request.COOKIES.update({name: each.value for name, each in signed_in.cookies.items()})
    assert (await identify(request)).account == str(alice.pk)


@pytest.mark.parametrize("value", ["Basic x", "Bearer", "Bearer x", "Bearer " + "x" * 1_000_000])
async def test_what_cannot_be_a_key_costs_no_visit_to_the_database(value: str):
    # Without the fixture of a database any visit fails this test.
    assert (await _refusal(_request(authorization=value))).status == 401
