"""Who is let in: loopback, proxies, sessions, CSRF; and who shares with whom."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.http import HttpRequest
from django.test import AsyncClient, AsyncRequestFactory, override_settings

from streaming.access import Caller, identify, require_operator
from streaming.problems import Problem

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
    assert "WWW-Authenticate" in problem.headers


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
