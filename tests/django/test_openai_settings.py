"""Settings of the model service: each fault has its check, and keeps the provider off."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest
from django.test import override_settings

from contentgen import __version__
from contentgen.announcement import who_writes
from contentgen.checks import check_model_service, check_providers
from contentgen.conf import OpenAIConfig, service
from contentgen.providers import available_providers, default_provider, openai
from tests.django.test_settings import NEVER_RIGHT
from tests.support.servers import ROOT

KEY = "sk-test"


def ids(**values: Any) -> list[str]:
    with override_settings(**{"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": "https://models.test/v1", **values}):
        return [message.id or "" for message in check_model_service(None)]


def is_on(**values: Any) -> bool:
    with override_settings(**{"OPENAI_API_KEY": KEY, "OPENAI_API_BASE": "https://models.test/v1", **values}):
        return "openai" in available_providers()


def test_sound_settings_switch_the_provider_on():
    assert ids() == []
    assert is_on()
    assert not is_on(OPENAI_API_KEY="")


@pytest.mark.parametrize(
    "key",
    ["sk\n", " sk", "sk key", '"sk"', "'sk'", "sk'", "schlüssel", "sk\x00", "sk\x7f", "\ud800", "k" * 5_000],
)
def test_a_key_that_no_header_can_carry(key: str):
    assert ids(OPENAI_API_KEY=key) == ["contentgen.E002"]
    assert not is_on(OPENAI_API_KEY=key)


def test_a_check_does_not_show_the_key():
    with override_settings(OPENAI_API_KEY='"sk-0123"'):
        assert "0123" not in str(check_model_service(None))


@pytest.mark.parametrize(
    "base",
    [
        "",
        "api.openai.com/v1",
        "//api.openai.com/v1",
        "file:///etc/passwd",
        "ftp://models.test/v1",
        "https://",
        "https:///v1",
        "https://user:password@models.test/v1",
        "https://user@models.test/v1",
        "https://models.test/v1?key=1",
        "https://models.test/v1#x",
        "https://models.test:99999/v1",
        "https://models.test:x/v1",
        "https://[::1/v1",
        "https://models.test/v 1",
        "https://models.test/v1\n",
        "https://modèles.test/v1",
    ],
)
def test_a_base_that_is_no_address_of_a_service(base: str):
    assert ids(OPENAI_API_BASE=base) == ["contentgen.E003"]
    assert not is_on(OPENAI_API_BASE=base)


def test_a_check_does_not_show_a_password():
    with override_settings(OPENAI_API_KEY=KEY, OPENAI_API_BASE="https://user:hunter2@models.test/v1"):
        assert "hunter2" not in str(check_model_service(None))


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "socksio"),
        ("HTTP_PROXY", "ftp://user:hunter2@proxy.test", "no address of a proxy"),
        ("https_proxy", "http://user:hunter2", "no address of a proxy"),
        ("SSL_CERT_FILE", "/nonexistent/hunter2.pem", "No such file"),
    ],
)
def test_an_environment_without_a_client_is_named_and_no_secret_is_told(
    variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, value)
    with override_settings(OPENAI_API_KEY=KEY, OPENAI_API_BASE="https://models.test/v1"):
        (error,) = check_model_service(None)
        assert error.id == "contentgen.E005"
        assert variable.upper() in error.msg
        assert reason in error.msg
        assert "hunter2" not in str(error)
        assert error.hint


def test_a_proxy_does_not_matter_to_a_service_on_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    assert ids(OPENAI_API_BASE="https://127.0.0.1:8443/v1") == []


def test_certificates_matter_to_a_service_on_this_machine_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    assert ids(OPENAI_API_BASE="https://127.0.0.1:8443/v1") == ["contentgen.E005"]
    assert ids(OPENAI_API_BASE="http://127.0.0.1:8443/v1") == [], "without TLS they are not read"


@pytest.mark.parametrize("wrong", NEVER_RIGHT, ids=repr)
@pytest.mark.parametrize("name", OpenAIConfig.__struct_fields__)
def test_a_wrong_value_is_named_with_its_variable(name: str, wrong: Any):
    with override_settings(OPENAI_API_KEY=KEY, OPENAI_CONFIG={name: wrong}):
        (error,) = check_model_service(None)
        assert error.id == "contentgen.E004"
        assert f"OPENAI_{name}".upper() in error.msg
        assert service() is None


@pytest.mark.parametrize(
    "values",
    [
        {"OPENAI_CONFIG": {"retires": 3}},
        {"OPENAI_CONFIG": None},
        {"OPENAI_MODEL": ""},
        {"OPENAI_MODEL": "a model"},
        {"OPENAI_MODELS": ["fine", "not fine"]},
    ],
)
def test_other_values_that_cannot_be_right(values: dict[str, Any]):
    assert ids(**values) == ["contentgen.E004"]
    assert not is_on(**values)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"OPENAI_API_KEY": ""}, ["contentgen.W002"]),
        ({"OPENAI_API_KEY": "", "OPENAI_API_BASE": "https://api.openai.com/v1"}, []),
        ({"OPENAI_API_BASE": "http://models.test/v1"}, ["contentgen.W003"]),
        ({"OPENAI_API_BASE": "http://127.0.0.1:11434/v1"}, []),
        ({"OPENAI_API_BASE": "http://[::1]:8080/v1"}, []),
        ({"OPENAI_API_BASE": "http://localhost/v1"}, []),
        ({"OPENAI_CONFIG": {"max_connections": 2}}, ["contentgen.W004"]),
    ],
)
def test_what_is_unwise_is_a_warning(values: dict[str, Any], found: list[str]):
    assert ids(**values) == found


def test_the_default_provider_needs_its_key():
    with override_settings(CONTENT_PROVIDER="openai", OPENAI_API_KEY=""):
        assert [message.id for message in check_providers(None)] == ["contentgen.E001"]
        assert who_writes() == "Text by nobody: CONTENT_PROVIDER is unknown or switched off."


def test_the_file_s_values_are_the_app_s_defaults():
    from settings import settings as file

    assert msgspec.convert(file.OPENAI_CONFIG, OpenAIConfig) == OpenAIConfig()


def test_the_version_that_services_are_told_is_the_project_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert __version__ == project["project"]["version"]


def test_models_that_an_operator_allows():
    with override_settings(
        OPENAI_API_KEY=KEY, OPENAI_MODEL="a", OPENAI_MODELS=["b/c:7"], CONTENT_PROVIDER="openai"
    ):
        provider = default_provider()
        assert provider.is_model
        assert provider.default_model() == "a"
        assert provider.models() == {"a", "b/c:7"}


def test_who_writes():
    with override_settings(OPENAI_API_KEY="", CONTENT_PROVIDER="offline"):
        assert who_writes().startswith("Text by the offline writer: no model, no key, no network")
    with override_settings(
        OPENAI_API_KEY=KEY,
        OPENAI_API_BASE="https://models.test/v1/",
        OPENAI_MODEL="m",
        CONTENT_PROVIDER="openai",
    ):
        assert who_writes() == "Text by the model m at models.test."


@pytest.mark.parametrize(
    ("base", "name"),
    [("https://api.openai.com/v1", "max_completion_tokens"), ("http://127.0.0.1:11434/v1", "max_tokens")],
)
def test_the_limit_has_the_name_that_the_service_knows(base: str, name: str):
    from contentgen.brief import Brief

    with override_settings(OPENAI_API_KEY=KEY, OPENAI_API_BASE=base):
        found = service()
        assert found is not None
        request = openai.chat_request(Brief(user_id="u", topic="t", language="en", max_tokens=9), found)
    assert request[name] == 9
