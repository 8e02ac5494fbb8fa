"""System checks of the providers and of the model service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from streaming.conf import pools

from . import conf
from .prompts import broken_prompts
from .providers import ProviderUnavailable, available_providers, find_provider

TEXT_POOL: Final = "agent_pool"


@register("contentgen")
def check_providers(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E001: an unknown default provider. W001: the scripted provider outside of development."""
    found: list[CheckMessage] = []
    try:
        find_provider(settings.CONTENT_PROVIDER)
    except ProviderUnavailable:
        found.append(
            Error(
                f"CONTENT_PROVIDER is {settings.CONTENT_PROVIDER!r}, which is unknown or switched off",
                hint=f"Available: {', '.join(available_providers())}.",
                id="contentgen.E001",
            )
        )
    if settings.ALLOW_SCRIPTED_PROVIDER and not settings.DEBUG:
        found.append(
            Warning(
                "the scripted provider is on",
                hint="It lets callers burn processor time; unset ALLOW_SCRIPTED_PROVIDER on a public server.",
                id="contentgen.W001",
            )
        )
    return found


@register("contentgen")
def check_model_service(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E002-E004: a key, an address or a value that cannot be right; the provider is off until it is. E005:
    the environment lets no client be made. E006: a prompt that cannot be rendered. W002-W004: allowed, but
    unwise."""
    found: list[CheckMessage] = [
        *_errors(conf.key_faults, id="contentgen.E002"),
        *_errors(conf.base_faults, id="contentgen.E003"),
        *_errors(conf.value_faults, id="contentgen.E004"),
    ]
    if not found and conf.is_set_without_key():
        found.append(
            Warning(
                "OPENAI_API_BASE is set, but OPENAI_API_KEY is not: the provider openai is off",
                hint="A service that needs no key takes any word: OPENAI_API_KEY=none.",
                id="contentgen.W002",
            )
        )
    service = conf.service()
    if service is None:
        return found
    return [*found, *_impossible(service), *_broken_prompts(), *_unwise(service)]


def _errors(faults: Callable[[], Iterator[conf.Fault]], **options: Any) -> Iterator[Error]:
    for fault in faults():
        yield Error(fault.message, hint=fault.hint, obj=fault.setting, **options)


def _impossible(service: conf.Service) -> Iterator[CheckMessage]:
    # The client takes a quarter second to import, so who has no service does without.
    from .client import ClientFault, make_client

    try:
        make_client(service)
    except ClientFault as fault:
        yield Error(
            f"no client of the model service can be made: {fault}",
            hint="Mend or unset the variable. Proxies are http:// or https:// and a host; socks5:// needs a "
            "further package.",
            id="contentgen.E005",
        )


def _broken_prompts() -> Iterator[CheckMessage]:
    for name, reason in broken_prompts():
        yield Error(
            f"the prompt {name} cannot be rendered: {reason}",
            hint="Mend the file of that name in the project's templates, or take it away to get ours.",
            id="contentgen.E006",
        )


def _unwise(service: conf.Service) -> Iterator[CheckMessage]:
    if service.base.startswith("http:") and not service.is_local:
        yield Warning(
            "OPENAI_API_BASE is plain http:// to another machine",
            hint="Key and texts can be read on the way; use https://.",
            id="contentgen.W003",
        )
    workers = _workers()
    if service.config.max_connections < workers:
        yield Warning(
            f"OPENAI_MAX_CONNECTIONS is below AGENT_POOL_MAX_WORKERS, which is {workers}",
            hint="Tasks that run would wait for a connection; let the pool be the smaller one.",
            id="contentgen.W004",
        )


def _workers() -> int:
    """Tasks that may write at once; 0 while nobody knows, for then another check speaks."""
    try:
        return pools()[TEXT_POOL].max_workers
    except (ImproperlyConfigured, LookupError):
        return 0
