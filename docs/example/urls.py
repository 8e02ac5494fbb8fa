"""Two generators, the views that stream them, and the URLs."""

import asyncio
import time

from django.contrib import admin
from django.urls import include, path

from streaming import stream


async def count():
    """An asynchronous generator: it runs on the event loop."""
    for number in range(1, 31):
        yield f"{number} "
        await asyncio.sleep(0.1)


def count_in_a_thread():
    """A generator that blocks: it runs in a thread of the pool."""
    for number in range(1, 31):
        yield f"{number} "
        time.sleep(0.1)


async def counting(request):
    return await stream(request, count(), kind="count")


async def counting_in_a_thread(request):
    return await stream(request, count_in_a_thread(), kind="count in a thread")


urlpatterns = [
    path("count", counting),
    path("count/thread", counting_in_a_thread),
    path("admin/", admin.site.urls),
    path("", include("streaming.urls")),
]
