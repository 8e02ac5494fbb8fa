"""`/ws/generate/`: briefs as messages, several streams on one socket."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from django.urls import path

from streaming.scopes import Scope
from streaming.websocket import protocol
from streaming.websocket.consumers import MultiplexConsumer
from streaming.websocket.protocol import Kinds

from .producers import CONTENT, options_of
from .validation import parse


class Start(protocol.Named, frozen=True, kw_only=True, tag="start"):
    """Write what the brief asks for."""

    brief: dict[str, Any]


class GenerateConsumer(MultiplexConsumer):
    """Starts what briefs ask for, and follows what there is."""

    kinds: ClassVar[Kinds] = (Start, *MultiplexConsumer.kinds)

    async def on_start(self, message: Start) -> None:
        """The same brief, checks and limits as `POST /content/generate/stream/async`."""
        self.caller.require(Scope.GENERATE)
        brief = parse(message.brief)
        await self.start(message.request_id, CONTENT, msgspec.to_builtins(brief), **options_of(brief))


websocket_urlpatterns = [path("ws/generate/", GenerateConsumer.as_asgi())]
