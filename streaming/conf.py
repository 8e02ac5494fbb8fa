"""The settings of the streaming app, typed and validated.

A project needs none of them: what it leaves out has the default given here. Read at first use and
kept; Django's `override_settings` makes them be read again. `problems` lists
everything that is wrong, for the system checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.signals import setting_changed
from django.core.validators import validate_email
from msgspec import Meta

from streaming.core.alerts import Kind, Rule
from streaming.core.quota import QuotaLimits
from streaming.core.schedule import PollSchedule
from streaming.runtime.ledger import PoolLimits
from streaming.runtime.limits import StreamLimits

from .compression import ENCODERS, missing_package
from .proxies import networks

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
SecondsOrNever = Annotated[float, Meta(ge=0, le=86_400)]


class SSEConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SSE_CONFIG. Times in seconds, sizes in bytes; see docs/settings.md."""

    heartbeat_interval: Annotated[float, Meta(ge=0, le=3600)] = 30
    connection_timeout: Annotated[float, Meta(gt=0, le=3600)] = 60
    cleanup_interval: Annotated[float, Meta(ge=0.1, le=3600)] = 30
    poll_interval: Annotated[float, Meta(ge=0.01, le=10)] = 0.1
    poll_schedule: list[tuple[float | None, float]] = msgspec.field(
        default_factory=lambda: [(1, 0.5), (5, 1), (None, 2)]
    )
    status_message_interval: Annotated[float, Meta(ge=0, le=100_000)] = 50
    retry: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    disconnect_grace: SecondsOrNever = 30.0
    drain_grace: Annotated[float, Meta(ge=0, le=600)] = 4.0
    replay_ttl: Seconds = 600.0
    journal_flush_interval: Annotated[float, Meta(ge=0.01, le=10)] = 0.25
    max_journal_bytes: Annotated[int, Meta(ge=1_024, le=1_073_741_824)] = 8_388_608
    journal_memory: Annotated[int, Meta(ge=1_048_576, le=1_099_511_627_776)] = 268_435_456
    max_followers: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    idempotency_ttl: Seconds = 86_400
    retention_days: Annotated[float, Meta(gt=0, le=36_500)] = 30


class BufferConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """BUFFER_CONFIG. Sizes in code points, times in seconds."""

    flush_chars: Annotated[int, Meta(ge=0, le=16_384)] = 15
    flush_interval: Annotated[float, Meta(gt=0, le=1)] = 0.05
    buffer_size: Annotated[int, Meta(ge=1, le=16_384)] = 20
    max_flush_interval: Annotated[float, Meta(gt=0, le=5)] = 0.1


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pool of THREAD_CONFIG. Counts of tasks, times in seconds."""

    max_workers: Annotated[int, Meta(ge=1, le=100_000)] = 5
    queue_size: Annotated[int, Meta(ge=0, le=100_000)] = 30
    queue_timeout: Seconds = 300
    run_timeout: Seconds = 300
    per_owner: Annotated[int, Meta(ge=1, le=200_000)] = 3
    aging_seconds: Seconds = 30


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SERVER_CONFIG. Times in seconds, sizes in bytes."""

    timeout_keep_alive: Annotated[int, Meta(ge=1, le=3600)] = 75
    limit_concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    max_body_bytes: Annotated[int, Meta(ge=1_024, le=1_073_741_824)] = 1_048_576
    body_timeout: Annotated[float, Meta(gt=0, le=600)] = 30
    hot_door: bool = True
    stall_limit: Annotated[float, Meta(ge=0, le=60)] = 1.0


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """METRICS_CONFIG: who may read `/metrics`, by which token, and where processes share their numbers."""

    access: Literal["false", "loopback", "token", "true"] = "loopback"
    token: str = ""
    directory: str = ""


class AlertConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ALERT_CONFIG: how often rules are looked at, in seconds, and who is told."""

    interval: Annotated[float, Meta(ge=0, le=3600)] = 15
    timeout: Annotated[float, Meta(gt=0, le=60)] = 5
    emails: list[str] = []
    webhook_url: str = ""


class AlertRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule of ALERTS. Times in seconds, also thresholds of times; shares from 0 to 1. Without a
    threshold it is off."""

    kind: Kind
    threshold: Annotated[float, Meta(ge=0)] | None = None
    window: Annotated[float, Meta(ge=60, le=10_800)] = 300
    hold: Annotated[float, Meta(ge=0, le=86_400)] = msgspec.field(default=60, name="for")
    calm: Annotated[float, Meta(ge=1, le=86_400)] = 120
    severity: Literal["info", "warning", "critical"] = "warning"
    min_count: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    pool: str = ""


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CLUSTER_CONFIG. Times in seconds, counts of tasks."""

    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")] = "sluice"
    redis_timeout: Annotated[float, Meta(ge=0.05, le=30)] = 1.0
    on_lost: Literal["error", "restart"] = "error"
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    max_running: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    signed: bool = False


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CACHE_CONFIG. Times in seconds."""

    scope: Literal["off", "owner", "all"] = "off"
    ttl: Seconds = 600.0


class AccessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ACCESS_CONFIG: who calls, and for how long. Times in the unit of their names."""

    key_max_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    ticket_ttl: Annotated[float, Meta(gt=0, le=60)] = 60
    recheck_interval: Annotated[float, Meta(ge=1, le=60)] = 30


class QuotaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """QUOTA_CONFIG: of each owner, 0 for none. Counts of tasks over all pools, tokens, bytes, seconds."""

    streams: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    places: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    tokens_per_minute: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    bytes_per_minute: Annotated[int, Meta(ge=0, le=1_000_000_000_000)] = 0
    kernel_seconds_per_hour: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0


DEFAULT_ALERTS: Final[Mapping[str, Mapping[str, Any]]] = {
    # Cells of notebooks may work for minutes before they print something.
    "first_content": {"kind": "first_content", "threshold": 5, "pool": "agent_pool"},
    "error_share": {"kind": "error_share", "threshold": 0.05, "severity": "critical"},
    "rejected_share": {"kind": "rejected_share", "threshold": 0.05, "severity": "critical"},
    "oldest_wait": {"kind": "oldest_wait", "threshold": 60},
    "loop_lag": {"kind": "loop_lag", "threshold": 1, "for": 30},
    "no_heartbeat": {"kind": "no_heartbeat", "threshold": 10, "for": 10, "severity": "critical"},
    "doctor": {"kind": "reported", "threshold": 0, "for": 0},
}
DEFAULT_POOLS: Final = ("agent_pool", "kernel_pool")
DEFAULT_PRIORITIES: Final = {"interactive": 0, "normal": 1, "batch": 2}
MAX_RULE_NAME: Final = 200
"""Characters of the name of an alert's rule."""

_RULE_NAME: Final = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_RULE_NAME}}}")

MIN_METRICS_TOKEN: Final = 16
"""Characters of METRICS_TOKEN: fewer can be guessed."""

ANONYMOUS: Final = ("false", "loopback", "true")

Config = TypeVar("Config", bound=msgspec.Struct)


@cache
def sse() -> SSEConfig:
    """SSE_CONFIG. Raises `ImproperlyConfigured` on a wrong value, as all functions here do."""
    return _load("SSE_CONFIG", "SSE", SSEConfig)


@cache
def buffer() -> BufferConfig:
    """BUFFER_CONFIG."""
    return _load("BUFFER_CONFIG", "BUFFER", BufferConfig)


@cache
def server() -> ServerConfig:
    """SERVER_CONFIG."""
    return _load("SERVER_CONFIG", "SERVER", ServerConfig)


@cache
def reuse() -> CacheConfig:
    """CACHE_CONFIG."""
    return _load("CACHE_CONFIG", "CACHE", CacheConfig)


@cache
def access() -> AccessConfig:
    """ACCESS_CONFIG."""
    return _load("ACCESS_CONFIG", "ACCESS", AccessConfig)


@cache
def quotas() -> QuotaLimits:
    """QUOTA_CONFIG."""
    config = _load("QUOTA_CONFIG", "QUOTA", QuotaConfig)
    return QuotaLimits(**msgspec.structs.asdict(config))


@cache
def cluster() -> ClusterConfig:
    """CLUSTER_CONFIG."""
    return _load("CLUSTER_CONFIG", "CLUSTER", ClusterConfig)


@cache
def redis_url() -> str:
    """REDIS_URL: what processes share; empty where they share the database only."""
    return str(getattr(settings, "REDIS_URL", ""))


def stream_engine() -> str:
    """STREAM_ENGINE: who runs tasks that wait, `local` or `celery`."""
    return str(getattr(settings, "STREAM_ENGINE", "local"))


@cache
def metrics() -> MetricsConfig:
    """METRICS_CONFIG."""
    return _load("METRICS_CONFIG", "METRICS", MetricsConfig)


@cache
def alerting() -> AlertConfig:
    """ALERT_CONFIG."""
    return _load("ALERT_CONFIG", "ALERT", AlertConfig)


@cache
def alert_rules() -> dict[str, Rule]:
    """ALERTS: the rules that are on, by name."""
    for _, text in alert_problems():
        raise ImproperlyConfigured(text)
    loaded: dict[str, Rule] = {}
    for name, values in _rule_values().items():
        rule = msgspec.convert(values, AlertRule)
        if rule.threshold is not None:
            loaded[name] = Rule(name, **msgspec.structs.asdict(rule))
    return loaded


@cache
def pools() -> dict[str, PoolLimits]:
    """THREAD_CONFIG: the pools by name."""
    loaded: dict[str, PoolLimits] = {}
    for name, values in _pool_values().items():
        pool = _convert(f"THREAD_CONFIG[{name!r}]", name, PoolConfig, values)
        loaded[name] = PoolLimits(name=name, **msgspec.structs.asdict(pool))
    return loaded


def priorities() -> dict[str, int]:
    """PRIORITIES: class names and their numbers, 0 the highest."""
    values: dict[str, int] = getattr(settings, "PRIORITIES", DEFAULT_PRIORITIES)
    return values


@cache
def allow_anonymous() -> str:
    """ALLOW_ANONYMOUS: `false`, `loopback` or `true`."""
    value = str(getattr(settings, "ALLOW_ANONYMOUS", "false")).lower()
    if value not in ANONYMOUS:
        raise ImproperlyConfigured(f"ALLOW_ANONYMOUS is {value!r}: expected one of {', '.join(ANONYMOUS)}")
    return value


@cache
def stream_compression() -> tuple[str, ...]:
    """STREAM_COMPRESSION: content codings of streams, the one we like best first; none: they are not
    compressed."""
    for text in _compression_problems():
        raise ImproperlyConfigured(text)
    return tuple(getattr(settings, "STREAM_COMPRESSION", ()))


@cache
def stream_limits() -> StreamLimits:
    """What the runtime needs of SSE_CONFIG, BUFFER_CONFIG and CLUSTER_CONFIG."""
    events, text, processes = sse(), buffer(), cluster()
    return StreamLimits(
        heartbeat_interval=events.heartbeat_interval,
        connection_timeout=events.connection_timeout,
        cleanup_interval=events.cleanup_interval,
        status_interval=events.status_message_interval * events.poll_interval,
        retry=events.retry,
        replay_ttl=events.replay_ttl,
        max_journal_bytes=events.max_journal_bytes,
        journal_memory=events.journal_memory,
        max_followers=events.max_followers,
        flush_chars=text.flush_chars,
        flush_interval=text.flush_interval,
        buffer_size=text.buffer_size,
        max_flush_interval=text.max_flush_interval,
        restarts=processes.on_lost == "restart",
        max_attempts=processes.max_attempts,
    )


def trusted_proxies() -> tuple[str, ...]:
    """TRUSTED_PROXIES: addresses and networks."""
    return tuple(getattr(settings, "TRUSTED_PROXIES", ()))


def poll_schedule() -> PollSchedule:
    """The adaptive schedule for what only polling can see."""
    config = sse()
    return PollSchedule(config.poll_interval, config.poll_schedule)


def _forget(**kwargs: Any) -> None:
    for function in (
        sse,
        buffer,
        server,
        access,
        reuse,
        quotas,
        cluster,
        redis_url,
        metrics,
        alerting,
        alert_rules,
        pools,
        allow_anonymous,
        stream_compression,
        stream_limits,
    ):
        function.cache_clear()


setting_changed.connect(_forget)


def problems() -> Iterator[tuple[str, str]]:
    """Everything wrong with the settings: the setting's name, and what is wrong with it."""
    for setting, prefix, kind in (
        ("SSE_CONFIG", "SSE", SSEConfig),
        ("BUFFER_CONFIG", "BUFFER", BufferConfig),
        ("SERVER_CONFIG", "SERVER", ServerConfig),
        ("ACCESS_CONFIG", "ACCESS", AccessConfig),
        ("CACHE_CONFIG", "CACHE", CacheConfig),
        ("QUOTA_CONFIG", "QUOTA", QuotaConfig),
        ("CLUSTER_CONFIG", "CLUSTER", ClusterConfig),
        ("METRICS_CONFIG", "METRICS", MetricsConfig),
        ("ALERT_CONFIG", "ALERT", AlertConfig),
    ):
        yield from problems_of(setting, prefix, kind, getattr(settings, setting, {}))
    values_by_pool = _pool_values()
    if isinstance(values_by_pool, Mapping):
        for name, values in values_by_pool.items():
            yield from problems_of(f"THREAD_CONFIG[{name!r}]", name, PoolConfig, values)
    else:
        yield "THREAD_CONFIG", "THREAD_CONFIG must be a dictionary"
    yield from _token_problems()
    yield from _priority_problems()
    try:
        networks(trusted_proxies())
    except ValueError as error:
        yield "TRUSTED_PROXIES", f"TRUSTED_PROXIES: {error}"
    try:
        allow_anonymous()
    except ImproperlyConfigured as error:
        yield "ALLOW_ANONYMOUS", str(error)
    for text in _compression_problems():
        yield "STREAM_COMPRESSION", text


def has_alert_rule(name: str) -> bool:
    """Whether ALERTS has the name, also for a rule that is off."""
    return name in _rule_values()


def alert_problems() -> Iterator[tuple[str, str]]:
    """Everything wrong with rules of alerts, and with those who are told."""
    rules = _rule_values()
    if isinstance(rules, Mapping):
        for name, values in rules.items():
            yield from problems_of(f"ALERTS[{name!r}]", f"ALERT_{name}", AlertRule, values)
            if isinstance(values, Mapping) and "kind" not in values:
                yield f"ALERTS[{name!r}]", f"ALERTS[{name!r}] lacks 'kind': one of {', '.join(Kind)}"
            if not _RULE_NAME.fullmatch(str(name)):
                yield "ALERTS", f"ALERTS has {name!r}: expected a name of at most {MAX_RULE_NAME} characters"
    else:
        yield "ALERTS", "ALERTS must be a dictionary"
    config = getattr(settings, "ALERT_CONFIG", {})
    if isinstance(config, Mapping):
        # Never the address itself: it may hold a secret.
        if (url := config.get("webhook_url")) and not _is_web_address(str(url)):
            yield (
                "ALERT_CONFIG",
                "ALERT_WEBHOOK_URL is no address of a receiver: expected https://host/path or http://host/path",
            )
        emails = config.get("emails", [])
        for each in emails if isinstance(emails, list) else []:
            try:
                validate_email(each)
            except ValidationError:
                yield "ALERT_CONFIG", f"ALERT_EMAILS has {each!r}: expected addresses such as ops@example.org"


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        sound = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = re.fullmatch(r"[!-~]+", text) is not None
    return sound and plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _rule_values() -> Mapping[str, Any]:
    values: Mapping[str, Any] = getattr(settings, "ALERTS", DEFAULT_ALERTS)
    return values


def _pool_values() -> Mapping[str, Any]:
    values: Mapping[str, Any] = getattr(settings, "THREAD_CONFIG", {name: {} for name in DEFAULT_POOLS})
    return values


def _load(setting: str, prefix: str, kind: type[Config]) -> Config:
    return _convert(setting, prefix, kind, getattr(settings, setting, {}))


def _convert(setting: str, prefix: str, kind: type[Config], values: Any) -> Config:
    for _, text in problems_of(setting, prefix, kind, values):
        raise ImproperlyConfigured(text)
    return msgspec.convert(values, kind)


def problems_of(
    setting: str, prefix: str, kind: type[msgspec.Struct], values: Any
) -> Iterator[tuple[str, str]]:
    """What is wrong with a dictionary of settings: its name, and a sentence that names the variable."""
    if not isinstance(values, Mapping):
        yield setting, f"{setting} must be a dictionary"
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            yield setting, f"{setting} has no key {key!r}; known: {', '.join(sorted(fields))}"
            continue
        try:
            msgspec.convert(value, fields[key].type)
        except msgspec.ValidationError as error:
            variable = f"{prefix}_{key}".upper()
            reason = str(error).split(" - at")[0] + _range_of(fields[key].type)
            yield setting, f"{setting}[{key!r}] (environment: {variable}) is {value!r}: {reason}"


def _range_of(kind: Any) -> str:
    """The range of a number in words, to be put behind a sentence; nothing where there is none."""
    (meta,) = getattr(kind, "__metadata__", None) or (Meta(),)
    low = f"from {meta.ge:,}" if meta.ge is not None else f"above {meta.gt:,}" if meta.gt is not None else ""
    high = f"up to {meta.le:,}" if meta.le is not None else ""
    return f", {' '.join(filter(None, (low, high)))}" if low or high else ""


def _compression_problems() -> Iterator[str]:
    values = getattr(settings, "STREAM_COMPRESSION", ())
    if not isinstance(values, list | tuple) or not all(isinstance(each, str) for each in values):
        yield "STREAM_COMPRESSION must be a list of names"
        return
    for value in values:
        if value not in ENCODERS:
            yield f"STREAM_COMPRESSION has {value!r}; known: {', '.join(ENCODERS)}"
        elif package := missing_package(value):
            yield f"STREAM_COMPRESSION has {value!r}, and the package {package} is not installed"


def _token_problems() -> Iterator[tuple[str, str]]:
    values = getattr(settings, "METRICS_CONFIG", {})
    token = str(values.get("token", "")) if isinstance(values, Mapping) else ""
    sound = len(token) >= MIN_METRICS_TOKEN and re.fullmatch(r"[!-~]+", token)
    # Never the token itself: it is a secret.
    if token and not sound:
        yield (
            "METRICS_CONFIG",
            f"METRICS_TOKEN must have at least {MIN_METRICS_TOKEN} characters, visible ones of ASCII",
        )
    elif not token and isinstance(values, Mapping) and values.get("access") == "token":
        yield "METRICS_CONFIG", "METRICS_ACCESS is 'token', and METRICS_TOKEN is not set"


def _priority_problems() -> Iterator[tuple[str, str]]:
    values = getattr(settings, "PRIORITIES", DEFAULT_PRIORITIES)
    try:
        msgspec.convert(values, dict[str, Annotated[int, Meta(ge=0, le=100)]])
    except msgspec.ValidationError as error:
        yield "PRIORITIES", f"PRIORITIES must map names to classes from 0 (highest) to 100: {error}"
        return
    for name in DEFAULT_PRIORITIES:
        if name not in values:
            yield "PRIORITIES", f"PRIORITIES lacks the class {name!r}"
