"""Settings: every one is checked by name, the file's values are the app's defaults, overriding works."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from streaming import conf
from streaming.checks import check_settings, ensure_sound
from tests.support.servers import ROOT, environment

GROUPS: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "SSE_CONFIG": ("SSE", conf.SSEConfig),
    "BUFFER_CONFIG": ("BUFFER", conf.BufferConfig),
    "SERVER_CONFIG": ("SERVER", conf.ServerConfig),
}

# What no setting takes: below and above every range, wrong kinds, and what JSON lets slip through.
NEVER_RIGHT = [-1, 10**15, "abc", None, True, [], float("nan"), float("inf"), float("-inf")]


def _every_setting() -> list[Any]:
    found = []
    for setting, (prefix, kind) in GROUPS.items():
        for name in kind.__struct_fields__:
            found.append(pytest.param(setting, name, f"{prefix}_{name}".upper(), id=f"{setting}-{name}"))
    return found


def _errors() -> list[str]:
    return [message.msg for message in check_settings(None) if message.is_serious()]


# --- Every value is checked ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", NEVER_RIGHT, ids=repr)
@pytest.mark.parametrize(("setting", "name", "variable"), _every_setting())
def test_a_wrong_value_is_named_with_its_variable(setting: str, name: str, variable: str, wrong: Any):
    if isinstance(wrong, bool) and name == "hot_door":
        pytest.skip("the one setting of these for which it is right")
    with override_settings(**{setting: {name: wrong}}):
        (error,) = _errors()
        assert variable in error
        with pytest.raises(ImproperlyConfigured, match=variable):
            ensure_sound()


@pytest.mark.parametrize("wrong", NEVER_RIGHT, ids=repr)
@pytest.mark.parametrize("name", conf.PoolConfig.__struct_fields__)
@pytest.mark.parametrize("pool", conf.DEFAULT_POOLS)
def test_a_wrong_value_of_a_pool_is_named_with_its_variable(pool: str, name: str, wrong: Any):
    with override_settings(THREAD_CONFIG={"agent_pool": {}, "kernel_pool": {}, pool: {name: wrong}}):
        (error,) = _errors()
        assert f"{pool}_{name}".upper() in error


@pytest.mark.parametrize(
    ("setting", "name", "wrong", "part"),
    [
        ("BUFFER_CONFIG", "flush_interval", 10, "<= 1"),
        ("BUFFER_CONFIG", "flush_interval", 0, "> 0"),
        ("BUFFER_CONFIG", "flush_chars", 20_000, "<= 16384"),
        ("BUFFER_CONFIG", "buffer_size", 0, ">= 1"),
        ("SSE_CONFIG", "connection_timeout", 0, "> 0"),
        ("SSE_CONFIG", "max_journal_bytes", 10, ">= 1024"),
        ("SSE_CONFIG", "poll_schedule", "every second", "array"),
        ("BUFFER_CONFIG", "flush_interval", 10, "above 0 up to 1"),
        ("SSE_CONFIG", "retry", "soon", "from 0 up to 3,600"),
        ("SERVER_CONFIG", "max_body_bytes", 1.5, "int"),
        ("CLUSTER_CONFIG", "prefix", "a b", "matching regex"),
        ("CLUSTER_CONFIG", "prefix", "", "matching regex"),
        ("CLUSTER_CONFIG", "redis_timeout", 0, ">= 0.05"),
        ("CLUSTER_CONFIG", "redis_timeout", 31, "<= 30"),
        ("CLUSTER_CONFIG", "on_lost", "retry", "'retry'"),
        ("CLUSTER_CONFIG", "max_attempts", 0, ">= 1"),
        ("CLUSTER_CONFIG", "max_attempts", 101, "<= 100"),
        ("CLUSTER_CONFIG", "max_running", -1, ">= 0"),
        ("CLUSTER_CONFIG", "signed", "maybe", "bool"),
        ("CLUSTER_CONFIG", "attempts", 3, "attempts"),
    ],
)
def test_the_range_is_told(setting: str, name: str, wrong: Any, part: str):
    with override_settings(**{setting: {name: wrong}}):
        (error,) = _errors()
        assert part in error


@pytest.mark.parametrize("wrong", [0, -1, "abc", 1_000_000])
def test_no_pool_of_a_senseless_size(wrong: Any):
    with override_settings(THREAD_CONFIG={"agent_pool": {"max_workers": wrong}}):
        (error,) = _errors()
        assert "AGENT_POOL_MAX_WORKERS" in error
        assert "from 1 up to 100,000" in error
        with pytest.raises(ImproperlyConfigured, match="AGENT_POOL_MAX_WORKERS"):
            conf.pools()


def test_all_errors_are_told_at_once():
    wrong = {"SSE_CONFIG": {"retry": -1, "replay_ttl": 0}, "BUFFER_CONFIG": {"flush_chars": -1}}
    with override_settings(**wrong), pytest.raises(ImproperlyConfigured) as refusal:
        ensure_sound()
    for variable in ("SSE_RETRY", "SSE_REPLAY_TTL", "BUFFER_FLUSH_CHARS"):
        assert variable in str(refusal.value)


@pytest.mark.parametrize("setting", [*GROUPS, "THREAD_CONFIG"])
def test_an_unknown_key_is_an_error(setting: str):
    values = {"agent_pool": {"wormers": 1}} if setting == "THREAD_CONFIG" else {"wormers": 1}
    with override_settings(**{setting: values}):
        (error,) = _errors()
        assert "wormers" in error
        assert setting in error


@pytest.mark.parametrize("setting", [*GROUPS, "THREAD_CONFIG", "PRIORITIES"])
@pytest.mark.parametrize("wrong", [None, 5, "text", []], ids=repr)
def test_something_else_than_a_dictionary_is_an_error(setting: str, wrong: Any):
    with override_settings(**{setting: wrong}):
        errors = _errors()
        assert errors
        assert all(setting in error for error in errors)


@pytest.mark.parametrize(
    "wrong",
    [
        {"interactive": 0, "normal": 1},
        {"interactive": 0, "normal": 1, "batch": -1},
        {"interactive": 0, "normal": 1, "batch": 101},
        {"interactive": 0, "normal": "1", "batch": 2},
        {"interactive": 0, "normal": 1, "batch": 1.5},
    ],
    ids=repr,
)
def test_wrong_priorities_are_named(wrong: dict[str, Any]):
    with override_settings(PRIORITIES=wrong):
        (error,) = _errors()
        assert "PRIORITIES" in error


@pytest.mark.parametrize("wrong", ["perhaps", "", None, 1, "loopback "], ids=repr)
def test_a_wrong_policy_for_anonymous_callers_is_named(wrong: Any):
    with override_settings(ALLOW_ANONYMOUS=wrong):
        (error,) = _errors()
        assert "ALLOW_ANONYMOUS" in error
        assert "false, loopback, true" in error


@pytest.mark.parametrize(("value", "meaning"), [("TRUE", "true"), (True, "true"), (False, "false")])
def test_a_policy_may_be_written_as_a_boolean(value: Any, meaning: str):
    with override_settings(ALLOW_ANONYMOUS=value):
        assert _errors() == []
        assert conf.allow_anonymous() == meaning


# --- Relations ----------------------------------------------------------------------------------------


def _ids(**changes: Any) -> set[str | None]:
    with override_settings(**changes):
        return {message.id for message in run_checks(tags=["streaming"])}


def test_a_heartbeat_comes_before_the_connection_is_given_up():
    assert "streaming.E002" in _ids(SSE_CONFIG={"heartbeat_interval": 61, "connection_timeout": 60})
    assert "streaming.E002" not in _ids(SSE_CONFIG={"heartbeat_interval": 60, "connection_timeout": 60})


@pytest.mark.parametrize("schedule", [[], [(1, 0)], [(5, 1), (1, 1), (None, 2)], [(1, 1)]], ids=repr)
def test_a_poll_schedule_must_make_sense(schedule: list[Any]):
    assert _ids(SSE_CONFIG={"poll_schedule": schedule}) & {"streaming.E001", "streaming.E003"}


def test_the_flush_interval_widens_only():
    assert "streaming.E004" in _ids(BUFFER_CONFIG={"flush_interval": 0.2, "max_flush_interval": 0.1})


def test_what_is_allowed_but_unwise_is_a_warning():
    assert "streaming.W001" in _ids(SSE_CONFIG={"heartbeat_interval": 0})
    assert "streaming.W002" in _ids(SSE_CONFIG={"heartbeat_interval": 60})
    assert "streaming.W004" in _ids(MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"])


def test_settings_of_django_that_break_streams_are_named(monkeypatch: pytest.MonkeyPatch):
    assert "streaming.E006" in _ids(SECRET_KEY="")
    for key, value, check in (("ATOMIC_REQUESTS", True, "E005"), ("CONN_MAX_AGE", 60, "W003")):
        with monkeypatch.context() as changed:
            changed.setitem(settings.DATABASES["default"], key, value)
            assert f"streaming.{check}" in _ids()
        assert f"streaming.{check}" not in _ids()


@override_settings(ROOT_URLCONF="django.contrib.auth.urls")
def test_a_project_without_our_urls_is_named():
    assert "streaming.W005" in _ids()


def test_the_project_as_it_is_has_no_errors():
    assert _errors() == []
    ensure_sound()


# --- Defaults -----------------------------------------------------------------------------------------


def _literals() -> dict[str, Any]:
    """The literal defaults in settings/settings.py, whatever this environment overrides."""
    tree = ast.parse((ROOT / "settings" / "settings.py").read_text())
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in GROUPS:
                found[name] = _defaults_of_call(node.value)
            elif name == "THREAD_CONFIG":
                assert isinstance(node.value, ast.Dict)
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    assert isinstance(key, ast.Constant)
                    found[str(key.value)] = _defaults_of_call(value)
            elif name == "PRIORITIES":
                found[name] = _defaults_of_call(node.value)
    return found


def _defaults_of_call(node: ast.expr) -> Any:
    assert isinstance(node, ast.Call)
    return ast.literal_eval(node.args[1])


@pytest.mark.parametrize("setting", GROUPS)
def test_the_settings_file_names_every_setting_with_its_default(setting: str):
    kind = GROUPS[setting][1]
    literals = _literals()[setting]
    assert set(literals) == set(kind.__struct_fields__)
    assert msgspec.convert(literals, kind) == kind()


def test_the_settings_file_names_every_setting_of_a_pool():
    literals = _literals()
    assert msgspec.convert(literals["agent_pool"], conf.PoolConfig) == conf.PoolConfig()
    for pool in conf.DEFAULT_POOLS:
        assert set(literals[pool]) == set(conf.PoolConfig.__struct_fields__)
        msgspec.convert(literals[pool], conf.PoolConfig)


def test_the_settings_file_has_the_default_priorities():
    assert _literals()["PRIORITIES"] == conf.DEFAULT_PRIORITIES


# --- Overriding ---------------------------------------------------------------------------------------


def test_a_value_that_begins_with_a_dollar_is_taken_as_it_stands(tmp_path: Path):
    names = ["OPENAI_API_KEY", "OPENAI_API_BASE", "SECRET_KEY", "OPENAI_MODEL"]
    values = {name: f"$HOME-{name}" for name in names} | {"ALLOWED_HOSTS": "$a,b"}
    code = f"from settings import settings as s; print(*[getattr(s, n) for n in {names}], *s.ALLOWED_HOSTS)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(tmp_path, **values),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == [*(values[name] for name in names), "$a", "b"], done.stderr


def everything() -> tuple[Any, ...]:
    """All settings as they are read now."""
    return (
        conf.sse(),
        conf.buffer(),
        conf.server(),
        conf.pools(),
        conf.stream_limits(),
        conf.allow_anonymous(),
    )


def test_an_override_is_seen_at_once_and_ends():
    before = everything()
    with override_settings(
        SSE_CONFIG={"retry": 9.0, "status_message_interval": 10, "poll_interval": 0.2},
        BUFFER_CONFIG={"flush_chars": 3},
        SERVER_CONFIG={"max_body_bytes": 2048},
        THREAD_CONFIG={"agent_pool": {"max_workers": 2}, "other_pool": {}},
        PRIORITIES={"interactive": 0, "normal": 1, "batch": 2, "last": 9},
        ALLOW_ANONYMOUS="true",
    ):
        assert conf.sse().retry == 9.0
        assert conf.buffer().flush_chars == 3
        assert conf.server().max_body_bytes == 2048
        assert conf.pools()["agent_pool"].max_workers == 2
        assert conf.pools()["other_pool"].max_workers == conf.PoolConfig().max_workers
        assert conf.stream_limits().retry == 9.0
        assert conf.stream_limits().status_interval == 2.0
        assert conf.stream_limits().flush_chars == 3
        assert conf.priorities()["last"] == 9
        assert conf.allow_anonymous() == "true"
    assert everything() == before
