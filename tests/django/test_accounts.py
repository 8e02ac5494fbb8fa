"""Signing in: the page, one-time links, the first administrator, what `serve` says about it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from threading import Barrier
from typing import Any
from urllib.parse import urlencode

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command, load_command_class
from django.db import connection
from django.test import Client, override_settings
from django.utils import timezone

from accounts import links
from accounts.models import SigninLink
from streaming.management.commands.serve import Command as Serve
from streaming.signals import serving
from streaming.telemetry.lines import LineFormatter

pytestmark = pytest.mark.django_db

URLENCODED = "application/x-www-form-urlencoded"


@pytest.fixture(autouse=True)
def _plain_http() -> Iterator[None]:
    with override_settings(SESSION_COOKIE_SECURE=False, ALLOWED_HOSTS=["testserver"]):
        yield


@pytest.fixture
def alice() -> User:
    return get_user_model().objects.create_user("alice", password="correct horse")


@pytest.fixture
def root() -> User:
    return get_user_model().objects.create_superuser("root")


def _who(client: Client) -> str | None:
    """The primary key of the user who is signed in."""
    return client.session.get("_auth_user_id")


def _post(client: Client, form: dict[str, str], **options: Any) -> Any:
    """As browsers send it; Django's client would send multipart."""
    return client.post("/accounts/login/", urlencode(form), content_type=URLENCODED, **options)


# --- The page -----------------------------------------------------------------------------------------


def test_name_and_password_sign_in_and_lead_home(client: Client, alice: User):
    answer = _post(client, {"username": "alice", "password": "correct horse"})
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert _who(client) == str(alice.pk)


def test_the_page_leads_back_to_where_one_came_from_on_this_site_only(client: Client, alice: User):
    form = {"username": "alice", "password": "correct horse"}
    for wanted, place in (
        ("/docs", "/docs"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("javascript:alert(1)", "/"),
    ):
        answer = _post(Client(), form | {"next": wanted})
        assert answer["Location"] == place
    page = client.get("/accounts/login/?next=/docs").content.decode()
    assert re.search(r'name="next" value="/docs"', page)


def test_a_wrong_password_is_told_in_words_that_belong_to_the_form(client: Client, alice: User):
    answer = _post(client, {"username": "alice", "password": "wrong"})
    assert answer.status_code == 200
    page = answer.content.decode()
    described = re.search(r'<form class="card"[^>]* aria-describedby="([\w-]+)"', page)
    assert described is not None
    assert re.search(rf'id="{described[1]}"[^>]*>\s*<p>[^<]*correct', page)
    assert _who(client) is None


def test_every_field_of_the_page_has_a_label(client: Client):
    page = client.get("/accounts/login/").content.decode()
    fields = re.findall(r'<input type="(?:text|password)"[^>]* id="(\w+)"', page)
    assert len(fields) == 2
    assert all(f'<label for="{field}"' in page for field in fields)
    assert 'autocomplete="current-password"' in page


def test_who_is_signed_in_is_not_asked_again(client: Client, alice: User):
    client.force_login(alice)
    answer = client.get("/accounts/login/?next=/docs")
    assert (answer.status_code, answer["Location"]) == (302, "/docs")


def test_signing_in_needs_the_csrf_token_and_our_own_origin(alice: User):
    client = Client(enforce_csrf_checks=True)
    form = {"username": "alice", "password": "correct horse"}
    assert _post(client, form).status_code == 403
    page = client.get("/accounts/login/").content.decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert token is not None
    form["csrfmiddlewaretoken"] = token[1]
    for origin in ("null", "http://testserver.evil.example", "http://testserver:81", "http://TESTSERVER"):
        assert _post(client, form, headers={"origin": origin}).status_code == 403
    assert _post(client, form, headers={"origin": "http://testserver"}).status_code == 302


def test_signing_out_is_a_post(client: Client, alice: User):
    client.force_login(alice)
    assert client.get("/accounts/logout/").status_code == 405
    assert _who(client) == str(alice.pk)
    assert client.post("/accounts/logout/")["Location"] == "/"
    assert _who(client) is None


# --- Links --------------------------------------------------------------------------------------------


def test_a_link_signs_in_once(client: Client, alice: User):
    place = f"/accounts/signin/{links.make(alice)}/"
    answer = client.get(place)
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert "no-store" in answer["Cache-Control"]
    assert _who(client) == str(alice.pk)

    other = Client()
    refused = other.get(place)
    assert refused.status_code == 410
    assert "no-store" in refused["Cache-Control"]
    assert _who(other) is None


def test_signing_in_by_a_link_changes_the_session(client: Client, alice: User):
    client.get("/accounts/login/")
    before = client.session
    before["seen"] = True
    before.save()
    client.cookies["sessionid"] = str(before.session_key)
    client.get(f"/accounts/signin/{links.make(alice)}/")
    assert client.session.session_key != before.session_key


def test_used_expired_and_unknown_links_get_the_same_page_which_tells_what_to_do(client: Client, alice: User):
    used = links.make(alice)
    client.get(f"/accounts/signin/{used}/")
    bodies = {_refused(used)}
    expired = links.make(alice)
    SigninLink.objects.update(expires_at=timezone.now())
    bodies |= {_refused(expired), _refused("x" * 43), _refused("%00é")}
    # What differs is the address, in the hidden field that leads back after a change of language.
    assert len(bodies) == 1
    assert "manage.py signin_link" in bodies.pop()


def _refused(token: str) -> str:
    client = Client()
    answer = client.get(f"/accounts/signin/{token}/")
    assert answer.status_code == 410
    assert _who(client) is None
    main = re.search(r"<main.*</main>", answer.content.decode(), re.DOTALL)
    assert main is not None
    return main[0]


def test_a_link_of_an_inactive_user_signs_nobody_in(alice: User):
    token = links.make(alice)
    get_user_model().objects.update(is_active=False)
    assert links.use(token) is None
    get_user_model().objects.update(is_active=True)
    assert links.use(token) == alice, "it was not used up"


@pytest.mark.parametrize("method", ["head", "options", "post", "put", "delete"])
def test_only_opening_a_link_uses_it(client: Client, alice: User, method: str):
    token = links.make(alice)
    assert getattr(client, method)(f"/accounts/signin/{token}/").status_code == 405
    assert links.use(token) == alice


def test_a_link_lives_ten_minutes(alice: User):
    links.make(alice)
    link = SigninLink.objects.get()
    assert link.expires_at - link.created_at == timedelta(minutes=10)


def test_each_link_of_a_user_works_once(alice: User, root: User):
    first, second, other = links.make(alice), links.make(alice), links.make(root)
    assert links.use(second) == alice
    assert links.use(second) is None
    assert links.use(first) == alice
    assert links.use(other) == root


def test_old_links_are_deleted_when_new_ones_are_made(alice: User, root: User):
    links.make(alice)
    SigninLink.objects.update(expires_at=timezone.now())
    links.make(root)
    assert [link.user for link in SigninLink.objects.all()] == [root]


def test_a_token_is_random_and_not_stored(alice: User, root: User):
    token = links.make(alice)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert token != links.make(root)
    assert token not in str(list(SigninLink.objects.values()))


@pytest.mark.django_db(transaction=True)
def test_of_two_clicks_at_once_one_signs_in(alice: User):
    clicks = 8
    token, together = links.make(alice), Barrier(clicks)

    def click(_: int) -> User | None:
        together.wait(10)
        try:
            return links.use(token)
        finally:
            connection.close()

    with ThreadPoolExecutor(clicks) as threads:
        users = list(threads.map(click, range(clicks)))
    assert users.count(alice) == 1
    assert users.count(None) == clicks - 1


def test_the_log_tells_who_and_never_the_token(client: Client, alice: User):
    heard = StringIO()
    handler = logging.StreamHandler(heard)
    formatters: Any = settings.LOGGING["formatters"]
    handler.setFormatter(LineFormatter("console", formatters["line"]["hide"]))
    loggers = [logging.getLogger(name) for name in ("accounts", "django")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        token = links.make(alice)
        client.head(f"/accounts/signin/{token}/")
        client.get(f"/accounts/signin/{token}/")
        client.get(f"/accounts/signin/{token}/")
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    log = heard.getvalue()
    assert "alice signed in by a one-time link" in log
    assert "Method Not Allowed (HEAD): /accounts/signin/[cut]/" in log
    assert token not in log


# --- manage.py signin_link ----------------------------------------------------------------------------


def _run(*words: str) -> tuple[str, str]:
    """What a command prints to standard output and to standard error."""
    out, err = StringIO(), StringIO()
    call_command(*words, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def _token_of(url: str) -> str:
    found = re.search(r"/accounts/signin/([\w-]+)/$", url.strip())
    assert found is not None, url
    return found[1]


def test_the_help_says_that_earlier_links_go_on_working():
    words = " ".join(load_command_class("accounts", "signin_link").help.split())
    assert "Earlier links of that user are not touched" in words


@override_settings(HOST="127.0.0.1", PORT=8000)
def test_the_command_prints_a_whole_url_and_nothing_else(alice: User):
    out, err = _run("signin_link", "alice")
    assert re.fullmatch(r"http://127\.0\.0\.1:8000/accounts/signin/[\w-]{43}/\n", out)
    assert links.use(_token_of(out)) == alice
    assert "alice" in err


@pytest.mark.parametrize(
    ("host", "base"),
    [("0.0.0.0", "http://127.0.0.1:9"), ("::", "http://[::1]:9"), ("localhost", "http://localhost:9")],  # noqa: S104
)
def test_the_url_is_where_the_server_listens(root: User, host: str, base: str):
    with override_settings(HOST=host, PORT=9):
        assert _run("signin_link")[0].startswith(f"{base}/accounts/signin/")


@pytest.mark.parametrize("url", ["https://sluice.example", "https://sluice.example/"])
def test_the_url_can_be_given(root: User, url: str):
    assert _run("signin_link", "--url", url)[0].startswith("https://sluice.example/accounts/signin/")


def test_without_a_name_it_is_for_the_first_active_administrator(alice: User):
    users = get_user_model().objects
    users.create_superuser("gone", is_active=False)
    first = users.create_superuser("first")
    users.create_superuser("second")
    assert links.use(_token_of(_run("signin_link")[0])) == first


def test_a_link_for_nobody_is_refused_with_a_hint(alice: User):
    with pytest.raises(CommandError, match=r"no user 'mallory'.*createsuperuser"):
        _run("signin_link", "mallory")
    with pytest.raises(CommandError, match=r"no active administrator.*local_admin"):
        _run("signin_link")
    get_user_model().objects.update(is_active=False)
    with pytest.raises(CommandError, match="not active"):
        _run("signin_link", "alice")
    assert not SigninLink.objects.exists()


def test_a_place_that_is_none_is_refused(root: User):
    with pytest.raises(CommandError, match="http"):
        _run("signin_link", "--url", "sluice.example")
    with override_settings(PORT=0), pytest.raises(CommandError, match="--url"):
        _run("signin_link")
    assert not SigninLink.objects.exists()


def test_it_warns_where_the_session_would_not_be_kept(root: User):
    with override_settings(SESSION_COOKIE_SECURE=True):
        assert "SECURE_COOKIES" in _run("signin_link", "--url", "http://127.0.0.1")[1]
        assert "SECURE_COOKIES" not in _run("signin_link", "--url", "https://sluice.example")[1]


# --- manage.py local_admin ----------------------------------------------------------------------------


def test_a_new_installation_gets_an_administrator_without_a_password():
    out, _ = _run("local_admin")
    made = get_user_model().objects.get()
    assert (made.username, made.is_superuser, made.is_staff, made.is_active) == ("admin", True, True, True)
    assert not made.has_usable_password()
    assert len(out.splitlines()) == 1
    assert "admin" in out


def test_where_anybody_is_nobody_is_made(alice: User):
    assert _run("local_admin") == ("", "")
    assert list(get_user_model().objects.all()) == [alice]


def test_it_makes_one_administrator_however_often_it_runs():
    _run("local_admin")
    assert _run("local_admin") == ("", "")
    assert get_user_model().objects.count() == 1


# --- What serve says ----------------------------------------------------------------------------------


def _announced(host: str = "127.0.0.1") -> str:
    answers = serving.send(Serve, url="http://127.0.0.1:8123", host=host)
    return "\n".join(line for _, lines in answers for line in lines or () if "ign in" in line)


@pytest.mark.django_db(transaction=True)
@override_settings(DEBUG=True)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_new_administrator_gets_a_link_at_the_start(root: User, host: str):
    said = _announced(host)
    assert "root" in said
    link = re.search(r"http://127\.0\.0\.1:8123/accounts/signin/[\w-]+/", said)
    assert link is not None
    assert links.use(_token_of(link[0])) == root


@pytest.mark.django_db(transaction=True)
@override_settings(DEBUG=True)
def test_who_can_sign_in_already_gets_a_hint(client: Client, root: User):
    client.get(f"/accounts/signin/{links.make(root)}/")
    assert "manage.py signin_link" in _announced()
    get_user_model().objects.update(last_login=None)
    root.set_password("correct horse")
    root.save()
    assert "manage.py signin_link" in _announced()
    assert not SigninLink.objects.filter(used_at=None).exists()


@pytest.mark.parametrize(
    ("debug", "host"),
    [(False, "127.0.0.1"), (True, "0.0.0.0"), (True, "::"), (True, "192.0.2.1"), (True, "2001:db8::1")],  # noqa: S104
)
def test_in_public_and_without_debug_nothing_is_said(root: User, debug: bool, host: str):
    with override_settings(DEBUG=debug):
        assert _announced(host) == ""
    assert not SigninLink.objects.exists()
