"""The inline middleware answers as Django's own does, and visits no thread."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.http import HttpResponseBase
from django.test import AsyncClient, override_settings

pytestmark = pytest.mark.django_db(transaction=True)

ORIGINALS = {
    "streaming.middleware.SecurityMiddleware": "django.middleware.security.SecurityMiddleware",
    "streaming.middleware.SessionMiddleware": "django.contrib.sessions.middleware.SessionMiddleware",
    "streaming.middleware.LocaleMiddleware": "django.middleware.locale.LocaleMiddleware",
    "streaming.middleware.CommonMiddleware": "django.middleware.common.CommonMiddleware",
    "streaming.middleware.CsrfViewMiddleware": "django.middleware.csrf.CsrfViewMiddleware",
    "streaming.middleware.AuthenticationMiddleware": (
        "django.contrib.auth.middleware.AuthenticationMiddleware"
    ),
    "streaming.middleware.MessageMiddleware": "django.contrib.messages.middleware.MessageMiddleware",
    "streaming.middleware.XFrameOptionsMiddleware": "django.middleware.clickjacking.XFrameOptionsMiddleware",
}

TOKEN = "t" * 32

# A name, the requests one after the other with the same client, and settings.
Step = tuple[str, str, dict[str, str]]
CASES: dict[str, tuple[list[Step], dict[str, Any]]] = {
    "plain": ([("GET", "/plain/", {})], {}),
    "head": ([("HEAD", "/plain/", {})], {}),
    "missing slash": ([("GET", "/plain", {})], {}),
    "unknown": ([("GET", "/nowhere/", {})], {}),
    "a stream of another app": ([("GET", "/chunks/", {})], {}),
    "chinese": ([("GET", "/plain/", {"accept-language": "zh-CN"})], {}),
    "unknown language": ([("GET", "/plain/", {"accept-language": "xx"})], {}),
    "foreign host": ([("GET", "/plain/", {"host": "evil.example"})], {}),
    "to tls": ([("GET", "/plain/", {})], {"SECURE_SSL_REDIRECT": True}),
    "with www": ([("GET", "/plain/", {})], {"PREPEND_WWW": True}),
    "policies": (
        [("GET", "/plain/", {})],
        {"SECURE_REFERRER_POLICY": "no-referrer", "X_FRAME_OPTIONS": "SAMEORIGIN"},
    ),
    "unwanted agent": (
        [("GET", "/plain/", {"user-agent": "BadBot"})],
        {"DISALLOWED_USER_AGENTS": [re.compile("BadBot")]},
    ),
    "post without token": ([("POST", "/plain/", {})], {}),
    "post with token": ([("POST", "/plain/", {"x-csrftoken": TOKEN, "cookie": f"csrftoken={TOKEN}"})], {}),
    "post with a wrong token": (
        [("POST", "/plain/", {"x-csrftoken": "u" * 32, "cookie": f"csrftoken={TOKEN}"})],
        {},
    ),
    "nobody": ([("GET", "/whoever/", {})], {}),
    "somebody": ([("LOGIN", "", {}), ("GET", "/whoever/", {}), ("GET", "/plain/", {})], {}),
    "a session is kept": ([("GET", "/remember/", {}), ("GET", "/remember/", {}), ("GET", "/plain/", {})], {}),
    "a session is always saved": (
        [("GET", "/remember/", {}), ("GET", "/plain/", {})],
        {"SESSION_SAVE_EVERY_REQUEST": True},
    ),
    "a broken session": ([("GET", "/whoever/", {"cookie": "sessionid=nonsense"})], {}),
    "messages": ([("GET", "/say/", {}), ("GET", "/hear/", {}), ("GET", "/hear/", {})], {}),
    "messages in the session": (
        [("GET", "/say/", {}), ("GET", "/plain/", {}), ("GET", "/hear/", {}), ("GET", "/hear/", {})],
        {"MESSAGE_STORAGE": "django.contrib.messages.storage.session.SessionStorage"},
    ),
    "the admin's door": ([("GET", "/admin/login/", {})], {}),
}


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    with override_settings(ROOT_URLCONF="tests.django.urls", ALLOWED_HOSTS=["testserver"]):
        yield


@pytest.mark.parametrize("case", CASES)
async def test_it_answers_as_djangos_own_does(case: str):
    steps, changes = CASES[case]
    ours = settings.MIDDLEWARE
    assert set(ORIGINALS) <= set(ours)
    djangos = [ORIGINALS.get(name, name) for name in ours]
    with override_settings(**changes):
        with override_settings(MIDDLEWARE=djangos):
            expected = await _answers(steps, "first")
        assert await _answers(steps, "second") == expected


@pytest.mark.parametrize("name", ORIGINALS)
async def test_each_class_alone_stands_in_for_its_original(name: str):
    """Ours among Django's: no class relies on another of ours."""
    mixed = [each if each == name else ORIGINALS.get(each, each) for each in settings.MIDDLEWARE]
    steps: list[Step] = [("GET", "/remember/", {}), ("GET", "/whoever/", {}), ("POST", "/plain/", {})]
    with override_settings(MIDDLEWARE=[ORIGINALS.get(each, each) for each in settings.MIDDLEWARE]):
        expected = await _answers(steps, "first")
    with override_settings(MIDDLEWARE=mixed):
        assert await _answers(steps, "second") == expected


async def _answers(steps: list[Step], suffix: str) -> list[Any]:
    client = AsyncClient(enforce_csrf_checks=True)
    seen = []
    for method, path, headers in steps:
        if method == "LOGIN":
            user = await get_user_model().objects.acreate(username=f"reader {suffix}")
            await client.aforce_login(user)
            continue
        response = await client.generic(method, path, headers=headers)
        seen.append(await _comparable(response, suffix))
    return seen


async def _comparable(response: HttpResponseBase, suffix: str) -> Any:
    """Status, headers, cookies and body, without what is random."""
    headers = {name: value for name, value in response.items() if name not in ("Last-Modified", "Expires")}
    cookies = {
        name: {key: value for key, value in morsel.items() if key != "expires"}
        for name, morsel in response.cookies.items()
    }
    pieces = [each async for each in response] if response.streaming else [response.content]  # type: ignore[attr-defined]
    body = b"".join(pieces)
    length = headers.pop("Content-Length", None)
    if b"csrfmiddlewaretoken" in body:
        return response.status_code, headers, cookies, length
    return response.status_code, headers, cookies, body.replace(suffix.encode(), b"")
