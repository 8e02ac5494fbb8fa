"""System checks: every value that an operator can set, with a hint how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.urls import NoReverseMatch, reverse

from . import conf
from .proxies import networks, too_wide

HINT = "See docs/settings.md for names, units and ranges; unset the variable to get the default."


SERVING: Final = "serving"
"""Tag of checks that look into the database: servers run them at their start, and `check --database` does."""


@register("streaming")
def check_settings(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E001, E007, E012: a value of the wrong type or out of its range. The other ids are below."""
    found: list[CheckMessage] = [
        Error(text, hint=HINT, obj=setting, id="streaming.E001") for setting, text in conf.problems()
    ]
    found += [
        Error(text, hint="See docs/alerts.md.", obj=setting, id="streaming.E012")
        for setting, text in conf.alert_problems()
    ]
    found += [
        Error(text, hint=HINT, obj=name, id="streaming.E007")
        for name, text in getattr(settings, "ENVIRONMENT_PROBLEMS", ())
    ]
    if found:
        return found
    return [
        *_check_relations(),
        *_check_project(),
        *_check_names(),
        *_check_alerts(),
        *_check_proxies(),
        *_check_other_origins(),
    ]


def _check_relations() -> list[CheckMessage]:
    """E002-E003, W001-W002: values that are fine alone and wrong together, or allowed but unwise."""
    found: list[CheckMessage] = []
    events, text = conf.sse(), conf.buffer()
    if events.heartbeat_interval > events.connection_timeout:
        found.append(
            Error(
                "SSE_HEARTBEAT_INTERVAL is longer than SSE_CONNECTION_TIMEOUT",
                hint="A heartbeat must come before a silent connection is given up.",
                id="streaming.E002",
            )
        )
    try:
        conf.poll_schedule()
    except ValueError as error:
        hint = "For instance [[1, 0.5], [5, 1], [null, 2]]."
        found.append(Error(f"SSE_POLL_SCHEDULE: {error}", hint=hint, id="streaming.E003"))
    if text.max_flush_interval < text.flush_interval:
        found.append(
            Error(
                "BUFFER_MAX_FLUSH_INTERVAL is shorter than BUFFER_FLUSH_INTERVAL",
                hint="The interval may widen under load, never narrow below its base.",
                id="streaming.E004",
            )
        )
    if events.heartbeat_interval == 0:
        found.append(
            Warning(
                "heartbeats are off (SSE_HEARTBEAT_INTERVAL=0)",
                hint="A proxy will cut a silent stream, mostly after 60 s.",
                id="streaming.W001",
            )
        )
    elif events.heartbeat_interval >= 60:
        found.append(
            Warning(
                f"SSE_HEARTBEAT_INTERVAL is {events.heartbeat_interval} s",
                hint="Most proxies cut a connection that is silent for 60 s.",
                id="streaming.W002",
            )
        )
    return found


def _check_project() -> list[CheckMessage]:
    """E005-E006, W003-W004: settings of Django that break streams."""
    found: list[CheckMessage] = []
    try:
        key = settings.SECRET_KEY
    except ImproperlyConfigured:
        key = ""
    if not key:
        found.append(
            Error(
                "SECRET_KEY is not set",
                hint="`make run` writes a random one to .env once; elsewhere set the variable.",
                id="streaming.E006",
            )
        )
    if any(database.get("ATOMIC_REQUESTS") for database in settings.DATABASES.values()):
        found.append(
            Error(
                "ATOMIC_REQUESTS is on",
                hint="Django refuses it for asynchronous views; use transaction.atomic where it is needed.",
                id="streaming.E005",
            )
        )
    if any(database.get("CONN_MAX_AGE") for database in settings.DATABASES.values()):
        found.append(
            Warning(
                "CONN_MAX_AGE is set",
                hint="Under ASGI persistent connections pile up; use 0 and, if need be, a pool.",
                id="streaming.W003",
            )
        )
    try:
        reverse("stream-events", args=("0" * 32,))
    except NoReverseMatch:
        found.append(
            Warning(
                "streaming.urls is not in the URLconf",
                hint='Add path("", include("streaming.urls")) to resume and stop streams.',
                id="streaming.W005",
            )
        )
    if "django.middleware.gzip.GZipMiddleware" in settings.MIDDLEWARE:
        found.append(
            Warning(
                "GZipMiddleware is installed",
                hint="Sluice's own streams pass it untouched; other streams become many small gzip files.",
                id="streaming.W004",
            )
        )
    return found


def _check_names() -> list[CheckMessage]:
    """W015: variables of the environment that nothing reads."""
    return [
        Warning(
            f"{name} is set, and no setting has that name",
            hint=f"Perhaps {nearest} is meant." if nearest else "See docs/settings.md for the names.",
            obj=name,
            id="streaming.W015",
        )
        for name, nearest in getattr(settings, "ENVIRONMENT_UNKNOWN", ())
    ]


def _check_alerts() -> list[CheckMessage]:
    """W016-W017: alerts that can never be raised, or get stuck on the way."""
    found: list[CheckMessage] = [
        Warning(
            f"ALERTS[{rule.name!r}] is about the pool {rule.pool!r}, which is not in THREAD_CONFIG",
            hint="It will never be raised; leave the pool out for all of them.",
            obj="ALERTS",
            id="streaming.W016",
        )
        for rule in conf.alert_rules().values()
        if rule.pool and hasattr(settings, "ALERTS") and rule.pool not in conf.pools()
    ]
    if (conf.alerting().emails or settings.ADMINS) and _mail_may_hang():
        found.append(
            Warning(
                "mails have no time limit (EMAIL_TIMEOUT; with MAILERS the option timeout)",
                hint="A mail server that hangs would hold up all further alerts; 10 is a good value.",
                id="streaming.W017",
            )
        )
    return found


def _mail_may_hang() -> bool:
    """Whether the mail server has for ever to answer."""
    smtp = "django.core.mail.backends.smtp.EmailBackend"
    mailers = getattr(settings, "MAILERS", None)
    if mailers is not None:  # Django 6.1; then EMAIL_… must not be asked for
        mailer = mailers.get("default", {})
        return mailer.get("BACKEND", smtp) == smtp and mailer.get("OPTIONS", {}).get("timeout") is None
    return smtp == settings.EMAIL_BACKEND and settings.EMAIL_TIMEOUT is None


def _check_proxies() -> list[CheckMessage]:
    """W018: proxies among which strangers may be."""
    return [
        Warning(
            f"TRUSTED_PROXIES has {network}, much of the internet",
            hint="Anybody there says who calls, in X-Forwarded-For: list the addresses of your proxies.",
            obj="TRUSTED_PROXIES",
            id="streaming.W018",
        )
        for network in networks(conf.trusted_proxies())
        if too_wide(network)
    ]


def _check_other_origins() -> list[CheckMessage]:
    """E030: pages of strangers that act as whoever looks at them."""
    anybody = bool(getattr(settings, "CORS_ALLOW_ALL_ORIGINS", False)) or "*" in getattr(
        settings, "CORS_ALLOWED_ORIGINS", ()
    )
    if anybody and getattr(settings, "CORS_ALLOW_CREDENTIALS", False):
        return [
            Error(
                "pages of any origin may call with the cookies of whoever looks at them",
                hint="Name the origins in CORS_ALLOWED_ORIGINS, or set CORS_ALLOW_CREDENTIALS = False.",
                obj="CORS_ALLOW_ALL_ORIGINS",
                id="streaming.E030",
            )
        ]
    return []


@register("streaming", deploy=True)
def check_deployment(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """W006-W007: for `check --deploy`, what Django's own checks do not see behind our middleware."""
    found: list[CheckMessage] = []
    if not settings.SECURE_SSL_REDIRECT and not conf.trusted_proxies():
        found.append(
            Warning(
                "SECURE_SSL_REDIRECT is off",
                hint="Turn it on, or let a proxy redirect plain HTTP and name it in TRUSTED_PROXIES.",
                id="streaming.W006",
            )
        )
    if not settings.SECURE_HSTS_SECONDS:
        found.append(
            Warning(
                "SECURE_HSTS_SECONDS is 0",
                hint="Once TLS works for good, tell browsers so: 31536000 is a year.",
                id="streaming.W007",
            )
        )
    return found


def ensure_sound() -> None:
    """Raise `ImproperlyConfigured` with every error and its hint; for servers that run no checks."""
    # No database for the rest: a server may import its application on its event loop.
    found = [*run_checks(databases=[]), *run_checks(tags=[SERVING], databases=list(connections))]
    errors = [message for message in found if message.is_serious() and not message.is_silenced()]
    if errors:
        lines = "\n".join(f"  {message.msg}\n      {message.hint}" for message in errors)
        raise ImproperlyConfigured(f"the settings are not sound:\n{lines}")
