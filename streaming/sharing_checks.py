"""System checks of what processes share: REDIS_URL, STREAM_ENGINE, and the Redis itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from . import conf
from .addresses import is_loopback
from .checks import SERVING

SCHEMES: Final = ("redis", "rediss", "unix")

TIMEOUT: Final = 2.0
"""Seconds that Redis has for an answer to a check."""

OLDEST: Final = (6, 2)
"""The oldest version of Redis that trims streams by ids (XTRIM … MINID)."""


@register("streaming")
def check_sharing(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E013-E014, W020-W021: settings that do not go together."""
    url = conf.redis_url()
    if not url:
        if conf.stream_engine() != "celery":
            return []
        hint = "The queue of what waits for workers is in Redis: REDIS_URL=redis://127.0.0.1:6379/0."
        text = "STREAM_ENGINE is celery and REDIS_URL is not set"
        return [Error(text, hint=hint, obj="STREAM_ENGINE", id="streaming.E013")]
    found: list[CheckMessage] = []
    if trouble := _trouble_with(url):
        hint = "redis://[user:password@]host[:port]/number, rediss:// with TLS, or unix:///path."
        found.append(Error(f"REDIS_URL {trouble}", hint=hint, obj="REDIS_URL", id="streaming.E014"))
    elif urlsplit(url).password is None and not _stays_here(urlsplit(url).hostname):
        hint = "Whoever reaches it reads and forges streams: give it a password, or an ACL, and TLS."
        text = "REDIS_URL has no password, and is not on this machine"
        found.append(Warning(text, hint=hint, obj="REDIS_URL", id="streaming.W020"))
    if any(each["ENGINE"].endswith("sqlite3") for each in settings.DATABASES.values()):
        hint = "Several machines need PostgreSQL: DATABASE_URL=postgres://…"
        text = "REDIS_URL is set, and the database is SQLite: all processes must run on this machine"
        found.append(Warning(text, hint=hint, obj="DATABASE_URL", id="streaming.W021"))
    return found


@register(SERVING, Tags.database)
def check_redis(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E015: a Redis that would lose what it is given. One that does not answer is no error: work is refused
    until it does."""
    url = conf.redis_url()
    if not url or _trouble_with(url):
        return []
    return [
        Error(f"Redis {fault}", hint=hint, obj="REDIS_URL", id="streaming.E015")
        for fault, hint in _faults(url)
    ]


def _stays_here(host: str | None) -> bool:
    """Whether that is this machine; None is a socket in its file system."""
    return host is None or host == "localhost" or is_loopback(host)


def _trouble_with(url: str) -> str:
    """What is wrong with it, without repeating what may be a password; empty if nothing is."""
    if find_spec("redis") is None:
        return "is set, and the package redis is not installed: pip install sluice[cluster]"
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            return f"does not begin with one of {', '.join(SCHEMES)}"
        if parts.port is None or parts.port > 0:
            if not parts.hostname and not parts.path:
                return "names no host"
            import redis

            # It reads options from the query, each as what it has to be.
            redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
            return ""
    return "is no URL, or has an option of a wrong kind"


def _faults(url: str) -> Iterator[tuple[str, str]]:
    """Why nothing should start on that Redis, and what helps."""
    import redis

    with redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT) as client:
        try:
            version = str(client.info("server")["redis_version"])
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
        except (redis.RedisError, OSError):
            # Nobody answers, or nobody may ask.
            return
    if tuple(int(each) for each in version.split(".")[:2]) < OLDEST:
        yield f"is version {version}", f"{'.'.join(map(str, OLDEST))} or newer is needed."
    if policy != "noeviction":
        yield (
            f"has the maxmemory-policy {policy}: with its memory full it would drop events and the queue",
            "Set maxmemory-policy to noeviction.",
        )
