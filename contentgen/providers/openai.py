"""A model behind any service that speaks OpenAI's chat completions. Off without OPENAI_API_KEY."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from contentgen import conf
from contentgen.brief import Brief
from contentgen.chat_protocol import Part
from contentgen.conf import Service
from contentgen.prompts import code_messages, messages
from contentgen.upstream import upstream
from streaming import Finish

from . import CodeRequest, Provider, ProviderUnavailable


async def write(brief: Brief) -> AsyncGenerator[Part | Finish, None]:
    """What the model writes. Raises what `Upstream.write` raises; `ProviderUnavailable` when switched off."""
    async with aclosing(_chat(lambda service: chat_request(brief, service))) as parts:
        async for part in parts:
            yield part


async def write_code(wanted: CodeRequest) -> AsyncGenerator[Part | Finish, None]:
    """The code that the model writes. Raises as `write`."""
    chat = code_messages(wanted.prompt, wanted.language)
    async with aclosing(_chat(lambda service: {"model": service.model, "messages": chat})) as parts:
        async for part in parts:
            yield part


async def _chat(request: Callable[[Service], dict[str, Any]]) -> AsyncGenerator[Part | Finish, None]:
    service, way = conf.service(), upstream()
    if service is None or way is None:
        raise ProviderUnavailable("openai")
    async with aclosing(way.write(request(service))) as parts:
        async for part in parts:
            yield part


def chat_request(brief: Brief, service: Service) -> dict[str, Any]:
    """The body of the request, without what concerns its transport."""
    request: dict[str, Any] = {"model": brief.model or service.model, "messages": messages(brief)}
    if brief.max_tokens is not None:
        # OpenAI's reasoning models refuse the old name, most other services do not know the new one.
        request["max_completion_tokens" if service.is_openai else "max_tokens"] = brief.max_tokens
    return request


def _models() -> frozenset[str]:
    service = conf.service()
    return frozenset() if service is None else service.models


def _default_model() -> str:
    service = conf.service()
    return "" if service is None else service.model


PROVIDER: Final = Provider(
    name="openai",
    write=write,
    models=_models,
    default_model=_default_model,
    is_model=True,
    enabled=lambda: conf.service() is not None,
    write_code=write_code,
)
