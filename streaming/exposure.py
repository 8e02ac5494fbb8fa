"""System checks of a deployment: what is harmless on a developer's machine, and an open door elsewhere.

`manage.py check --deploy` runs them; `manage.py serve` does before it listens beyond this machine or behind
proxies that it trusts, and goes on after warnings only. Each bad setting has an id of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from . import conf, packages
from .addresses import is_loopback

SHORTEST_KEY: Final = 32
"""Characters of a secret that nobody guesses."""

FEWEST_CHARACTERS: Final = 8
"""Different ones in it."""

_PUBLISHED: Final = ("django-insecure", "only-for-tests", "change", "secret", "insecure", "your-", "example")
"""Beginnings of keys that are in documents, samples and repositories, so anybody knows them."""


@register("streaming", deploy=True)
def check_exposure(app_configs: Sequence[Any] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E008-E011, E031, W013-W014, W022, W030-W032."""
    return [*_open_doors(), *_bad_packages(), *_believed_strangers(), *_missing_caps()]


def _open_doors() -> Iterator[CheckMessage]:
    if settings.DEBUG:
        yield Error(
            "DEBUG is on",
            hint="Its pages show settings, code and requests to whoever causes an error: DEBUG=false.",
            id="streaming.E008",
        )
    if _is_known_key():
        yield Error(
            "SECRET_KEY is a sample, or too short",
            hint="Who knows it signs in as anybody. A new one: "
            "python -c 'import secrets; print(secrets.token_urlsafe(48))'",
            id="streaming.E009",
        )
    if "*" in settings.ALLOWED_HOSTS:
        yield Error(
            "ALLOWED_HOSTS has *",
            hint="Links and redirects would follow whatever Host a stranger sends: name the hosts.",
            id="streaming.E010",
        )
    cookies = [
        name for name in ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE") if not getattr(settings, name)
    ]
    if cookies:
        yield Error(
            f"{' and '.join(cookies)}: off",
            hint="Who listens on the way takes the session over: SECURE_COOKIES=true, and TLS in front.",
            id="streaming.E011",
        )
    if conf.allow_anonymous() == "true":
        yield Warning(
            "ALLOW_ANONYMOUS is true",
            hint="Anybody who reaches this server uses it, and its model; API keys tell callers apart.",
            id="streaming.W013",
        )


def _bad_packages() -> Iterator[CheckMessage]:
    for text in packages.faults(packages.installed()):
        yield Error(text, hint="Install the locked versions: requirements/run.txt.", id="streaming.E031")


def _believed_strangers() -> Iterator[CheckMessage]:
    """What lets pages of others, or whoever sends a header, pass for something better."""
    if settings.SECURE_PROXY_SSL_HEADER:
        yield Warning(
            "SECURE_PROXY_SSL_HEADER is set",
            hint="Anybody who sends that header is believed to have come over TLS: name the proxies in "
            "TRUSTED_PROXIES instead.",
            id="streaming.W030",
        )
    weak = [
        f"{name} has {origin}"
        for name in ("CSRF_TRUSTED_ORIGINS", "CORS_ALLOWED_ORIGINS")
        for origin in getattr(settings, name, ())
        if "*" in origin or _is_plain(origin)
    ]
    if weak:
        yield Warning(
            "; ".join(weak),
            hint="Who listens on the way, or has a name below yours, speaks for your users: name https:// "
            "origins, each whole.",
            id="streaming.W031",
        )
    if not settings.SESSION_COOKIE_HTTPONLY or settings.SESSION_COOKIE_SAMESITE not in ("Lax", "Strict"):
        yield Warning(
            "the session's cookie is seen by scripts, or goes along with calls of other sites",
            hint="SESSION_COOKIE_HTTPONLY = True and SESSION_COOKIE_SAMESITE = 'Lax' are Django's defaults.",
            id="streaming.W032",
        )


def _is_plain(origin: str) -> bool:
    """Whether it is http:// of another machine."""
    parts = urlsplit(origin)
    return parts.scheme == "http" and parts.hostname != "localhost" and not is_loopback(parts.hostname or "")


def _missing_caps() -> Iterator[CheckMessage]:
    for name, pool in conf.pools().items():
        if pool.per_owner >= pool.max_workers + pool.queue_size > 1:
            yield Warning(
                f"{name}: per_owner is {pool.per_owner}, so one caller may take all there is",
                hint=f"Of {pool.max_workers} running and {pool.queue_size} waiting tasks give it a part.",
                id="streaming.W014",
            )

    if not conf.quotas().set:
        yield Warning(
            "QUOTA_CONFIG sets no quota",
            hint="One caller may use all that pools let through: QUOTA_TOKENS_PER_MINUTE and others.",
            id="streaming.W022",
        )


def _is_known_key() -> bool:
    try:
        key = str(settings.SECRET_KEY)
    except ImproperlyConfigured:
        # E006 says so.
        return False
    weak = len(key) < SHORTEST_KEY or len(set(key)) < FEWEST_CHARACTERS
    return bool(key) and (weak or key.lower().startswith(_PUBLISHED))
