"""Checks of a deployment: each unsafe setting has its own id and hint; a sound one has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import django
import pytest
from django.conf import settings
from django.core.checks import ERROR, run_checks
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import override_settings

from settings import environment
from settings import settings as file
from streaming import packages
from streaming.management.commands.serve import stays_here
from tests.support import servers

SOUND = {
    "DEBUG": False,
    "SECRET_KEY": "k9Vw3-xQ7_tL2mZ8rB5nC1yF6hJ4pD0s" + "aGeIoU",
    "ALLOWED_HOSTS": ["sluice.example"],
    "SESSION_COOKIE_SECURE": True,
    "CSRF_COOKIE_SECURE": True,
    "ALLOW_ANONYMOUS": "false",
    "SECURE_SSL_REDIRECT": True,
    "SECURE_HSTS_SECONDS": 31_536_000,
    "TRUSTED_PROXIES": ["127.0.0.1", "10.0.0.0/8"],
    "ENVIRONMENT_UNKNOWN": [],
    "QUOTA_CONFIG": {"tokens_per_minute": 100_000},
    # Tests have one that keeps mails (Django 6.1 has a check for it).
    **({"MAILERS": vars(file)["MAILERS"]} if django.VERSION >= (6, 1) else {}),
}

SANDBOXED = {"KERNELS_ENABLED": "true", "KERNEL_CONFIG": {"sandbox": "run --"}}

POOL = {"max_workers": 5, "queue_size": 30}


def ids(**changes):
    """What `check --deploy` says of our own ids, and of errors of anybody."""
    with override_settings(**SOUND | changes):
        found = run_checks(include_deployment_checks=True)
    counted = {str(message.id): message for message in found if _counts(message)}
    assert all(message.hint for message in counted.values())
    return set(counted)


def _counts(message):
    return message.id.startswith(("streaming.", "notebooks.")) or message.level >= ERROR


@pytest.mark.django_db
def test_a_sound_deployment_has_none():
    assert ids() == set()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"DEBUG": True}, "streaming.E008"),
        ({"SECRET_KEY": "django-insecure-k9Vw3xQ7tL2mZ8rB5nC1yF6hJ4pD0s"}, "streaming.E009"),
        ({"SECRET_KEY": "only-for-tests-and-checks-0123456789-abcdefghijklmnop"}, "streaming.E009"),
        ({"SECRET_KEY": "k9Vw3-xQ7"}, "streaming.E009"),
        ({"SECRET_KEY": "abab" * 20}, "streaming.E009"),
        ({"ALLOWED_HOSTS": ["sluice.example", "*"]}, "streaming.E010"),
        ({"SESSION_COOKIE_SECURE": False}, "streaming.E011"),
        ({"CSRF_COOKIE_SECURE": False}, "streaming.E011"),
        ({"ALLOW_ANONYMOUS": "true"}, "streaming.W013"),
        ({"THREAD_CONFIG": {"agent_pool": POOL | {"per_owner": 35}, "kernel_pool": {}}}, "streaming.W014"),
        ({"QUOTA_CONFIG": {}}, "streaming.W022"),
        ({"ENVIRONMENT_UNKNOWN": [("SSE_RETRIES", "SSE_RETRY")]}, "streaming.W015"),
        ({"TRUSTED_PROXIES": ["*"]}, "streaming.E001"),
        ({"TRUSTED_PROXIES": ["proxy.example"]}, "streaming.E001"),
        ({"TRUSTED_PROXIES": ["127.0.0.1", "0.0.0.0/0"]}, "streaming.E001"),
        ({"TRUSTED_PROXIES": ["::/0"]}, "streaming.E001"),
        ({"TRUSTED_PROXIES": ["8.0.0.0/8"]}, "streaming.W018"),
        ({"SECURE_SSL_REDIRECT": False, "TRUSTED_PROXIES": []}, "streaming.W006"),
        ({"SECURE_HSTS_SECONDS": 0}, "streaming.W007"),
        ({"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}, "streaming.W030"),
        ({"CSRF_TRUSTED_ORIGINS": ["http://app.example"]}, "streaming.W031"),
        ({"CSRF_TRUSTED_ORIGINS": ["https://*.example"]}, "streaming.W031"),
        ({"CORS_ALLOWED_ORIGINS": ["http://192.0.2.1:3000"]}, "streaming.W031"),
        ({"SESSION_COOKIE_HTTPONLY": False}, "streaming.W032"),
        ({"SESSION_COOKIE_SAMESITE": "None"}, "streaming.W032"),
        ({"CORS_ALLOW_ALL_ORIGINS": True, "CORS_ALLOW_CREDENTIALS": True}, "streaming.E030"),
        ({"KERNELS_ENABLED": "true", "KERNEL_CONFIG": {}}, "notebooks.W001"),
        (SANDBOXED | {"ALLOW_ANONYMOUS": "true"}, {"notebooks.E004", "streaming.W013"}),
        (SANDBOXED | {"KERNEL_CONFIG": {"sandbox": "run --", "memory_limit": 0}}, "notebooks.W003"),
    ],
)
def test_each_bad_setting_has_its_own(changes, check):
    assert ids(**changes) == ({check} if isinstance(check, str) else check)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "changes",
    [
        # The proxy redirects, and says who came over TLS.
        {"SECURE_SSL_REDIRECT": False},
        {"CORS_ALLOWED_ORIGINS": ["https://app.example", "http://localhost:3000", "http://127.0.0.1:8080"]},
        {"CORS_ALLOW_ALL_ORIGINS": True},
        {"KERNELS_ENABLED": "true", "KERNEL_CONFIG": {"sandbox": "run --"}},
    ],
)
def test_a_sound_variant_has_none(changes):
    assert ids(**changes) == set()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "version", "bad"),
    [
        ("django", "5.2.13", True),
        ("django", "5.2.14", False),
        ("django", "6.0.4", True),
        ("django", "6.1", False),
        ("daphne", "4.2.1", True),
        ("asgiref", "3.11.9", True),
        ("redis", "4.5.4", True),
        ("litellm", "1.82.7", True),
        ("litellm", "1.90.0", False),
    ],
)
def test_a_package_that_is_known_to_be_bad_has_its_own(monkeypatch, name, version, bad):
    monkeypatch.setattr(packages, "installed", lambda: {name: version})
    assert ids() == ({"streaming.E031"} if bad else set())


@pytest.mark.parametrize(("secure", "problems"), [(True, []), (False, ["SESSION_COOKIE_NAME"])])
def test_a_cookie_that_browsers_hold_to_this_host_needs_tls(monkeypatch, secure, problems):
    monkeypatch.setattr(environment, "PROBLEMS", [])
    monkeypatch.setenv("SESSION_COOKIE_NAME", "__Host-sessionid")
    found = environment.cookie_name("SESSION_COOKIE_NAME", "sessionid", secure=secure)
    assert found == "__Host-sessionid"
    assert [name for name, _ in environment.PROBLEMS] == problems


@pytest.mark.django_db
def test_at_home_none_of_it_counts():
    """Without --deploy."""
    with override_settings(**SOUND | {"DEBUG": True, "ALLOWED_HOSTS": ["*"], "SESSION_COOKIE_SECURE": False}):
        assert [each for each in run_checks() if _counts(each)] == []


@pytest.mark.parametrize(
    ("host", "stays"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("192.0.2.1", False),
    ],
)
def test_what_is_reached_from_elsewhere(host, stays):
    assert stays_here(host) is stays


@pytest.mark.parametrize("name", [":memory:", "file:shared?mode=memory"])
def test_several_processes_need_a_database_that_they_share(monkeypatch, name):
    monkeypatch.setitem(settings.DATABASES, "default", {"ENGINE": "django.db.backends.sqlite3", "NAME": name})
    with pytest.raises(CommandError, match="in the memory of one process"):
        call_command("serve", "--workers", "2", "--host", "nowhere.invalid", skip_checks=True)


# --- Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SSE_HEARTBEAT_INTERVALL", "SSE_HEARTBEAT_INTERVAL"),
        ("BUFFER_FLUSH_CHAR", "BUFFER_FLUSH_CHARS"),
        ("AGENT_POOL_WORKERS", "AGENT_POOL_MAX_WORKERS"),
        ("ALLOW_ANONYMUS", "ALLOW_ANONYMOUS"),
        ("SECRT_KEY", "SECRET_KEY"),
        ("SERVER_KEEP_ALIVE_TIMEOUT", "SERVER_TIMEOUT_KEEP_ALIVE"),
        ("LOG_FILES", "LOG_FILE"),
    ],
)
def test_a_slip_of_the_hand_is_told_with_the_nearest_name(monkeypatch, name, nearest):
    for other, _ in environment.unknown():
        monkeypatch.delenv(other)
    monkeypatch.setenv(name, "1")
    assert environment.unknown() == [(name, nearest)]


@pytest.mark.parametrize(
    "name", ["PATH", "OTEL_SERVICE_NAME", "LOG_DIR", "SERVER_SOFTWARE", "HOSTS", "PORTS"]
)
def test_what_belongs_to_others_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert name not in dict(environment.unknown())


def test_the_command_says_so(tmp_path: Path):
    env = servers.environment(tmp_path, SSE_HEARTBEAT_INTERVALL="5")
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=servers.ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "streaming.W015" in done.stderr
    assert "Perhaps SSE_HEARTBEAT_INTERVAL is meant." in done.stderr
