"""`/ws/notebooks/<id>/`: operations as messages, several streams on one socket."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from django.urls import path

from streaming.scopes import Scope
from streaming.websocket import protocol
from streaming.websocket.consumers import MultiplexConsumer
from streaming.websocket.protocol import Kinds

from .operations import check_id, in_language, operation_of
from .work import CODE, work_of


class Operate(protocol.Named, frozen=True, kw_only=True, tag="operation"):
    """Do this with the notebook of the socket."""

    operation: dict[str, Any]
    lang: Literal["en", "zh"] | None = None


class NotebookConsumer(MultiplexConsumer):
    """Starts what operations ask for, and follows what there is."""

    opens_with: ClassVar[tuple[Scope, ...]] = (Scope.NOTEBOOKS, *MultiplexConsumer.opens_with)
    kinds: ClassVar[Kinds] = (Operate, *MultiplexConsumer.kinds)

    async def on_operation(self, message: Operate) -> None:
        """The same operations, checks and limits as `POST /send_operation`."""
        notebook = self.scope["url_route"]["kwargs"]["notebook_id"]
        with in_language(message.lang):
            check_id("notebook_id", notebook)
            operation = operation_of(message.operation)
            work = await work_of(self.request, self.caller, notebook, operation, message.lang)
        if work.source is None:
            assert work.arguments is not None
            await self.start(message.request_id, CODE, work.arguments, **work.options)
        else:
            await work.accepted(await self.stream(message.request_id, work.source, **work.options))


websocket_urlpatterns = [path("ws/notebooks/<str:notebook_id>/", NotebookConsumer.as_asgi())]
