"""A small project around the app, for the tests in this folder: its own URLs before the project's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from streaming import Finish, current_stream_id, start_and_wait, start_in_background, stream


async def letters() -> AsyncIterator[str]:
    for letter in "abc":
        await asyncio.sleep(0)
        yield letter


def blocking_letters() -> Iterator[str]:
    yield from "abc"


async def own_id() -> AsyncIterator[str]:
    yield current_stream_id()


def blocking_own_id() -> Iterator[str]:
    yield current_stream_id()


async def summarise(request: HttpRequest) -> HttpResponseBase:
    """The three lines of the README."""
    return await stream(request, letters(), kind="summary")


async def with_an_untellable_end() -> AsyncIterator[Any]:
    yield "a"
    yield Finish(usage={"tokens": object()})


async def unkeepable(request: HttpRequest) -> HttpResponseBase:
    return await start_in_background(request, "content", {"when": object()})


async def form(request: HttpRequest) -> HttpResponseBase:
    assert request.POST["a"] == "1"
    return await stream(request, letters())


async def whole(request: HttpRequest) -> HttpResponseBase:
    return await start_and_wait(request, "numbered", {"a": 1})


async def identified(request: HttpRequest) -> HttpResponseBase:
    work = {"topic": request.GET["topic"]}
    return await start_and_wait(request, "numbered", request.GET.dict(), identity=work)


async def later(request: HttpRequest) -> HttpResponseBase:
    return await start_in_background(request, "numbered", {"a": 1})


SOURCES: dict[str, Any] = {
    "untellable": with_an_untellable_end,
    "async": letters,
    "sync": blocking_letters,
    "list": lambda: ["a", "b", "c"],
    "number": lambda: 7,
    "text": lambda: "abc",
    "numbers": lambda: [1, 2],
    "own_id": own_id,
    "blocking_own_id": blocking_own_id,
}


async def any_source(request: HttpRequest, name: str) -> HttpResponseBase:
    return await stream(request, SOURCES[name]())


async def forever(request: HttpRequest) -> HttpResponseBase:
    async def numbers() -> AsyncIterator[str]:
        for number in range(1_000_000):
            yield f"{number} "
            await asyncio.sleep(0.01)

    return await stream(request, numbers(), on_disconnect="cancel")


async def wrong_option(request: HttpRequest) -> HttpResponseBase:
    return await stream(request, letters(), knid="typo")


async def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain text")


async def whoever(request: HttpRequest) -> HttpResponse:
    user = await request.auser()
    return HttpResponse(user.get_username() or "nobody")


async def remember(request: HttpRequest) -> HttpResponse:
    await request.session.aset("seen", True)
    return HttpResponse("kept")


async def say(request: HttpRequest) -> HttpResponse:
    messages.info(request, "hello")
    return HttpResponse("said")


def hear(request: HttpRequest) -> HttpResponse:
    return HttpResponse(", ".join(str(each) for each in messages.get_messages(request)))


async def chunks(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(letters())


class Closing:
    """Content that remembers in which thread it was closed."""

    closed_in: ClassVar[list[str]] = []

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"x"])

    def close(self) -> None:
        self.closed_in.append(threading.current_thread().name)


async def closing(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(Closing())


urlpatterns = [
    path("unkeepable", unkeepable),
    path("form", csrf_exempt(form)),
    path("whole", whole),
    path("identified", identified),
    path("later", later),
    path("summarise", csrf_exempt(summarise)),
    path("source/<str:name>", any_source),
    path("forever", forever),
    path("wrong-option", wrong_option),
    path("plain/", plain),
    path("whoever/", whoever),
    path("remember/", remember),
    path("say/", say),
    path("hear/", hear),
    path("chunks/", chunks),
    path("closing/", closing),
    path("", include("settings.urls")),
]
