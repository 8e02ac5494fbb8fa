"""The project's ASGI application in a process of `manage.py serve`, with the process tuned for streams.

A module, as each of several processes imports its application by itself.
"""

from __future__ import annotations

import gc
from typing import Any, Final

from django.conf import settings
from django.utils.module_loading import import_string

from .signals import starting

DEFAULT: Final = "streaming.asgi.application"
"""What is served where a project names no ASGI_APPLICATION."""

COLLECT_AFTER: Final = (10_000, 20, 50)
"""New objects, and rounds, after which the garbage collector looks at each generation (CPython: 700, 10,
10)."""

application = import_string(getattr(settings, "ASGI_APPLICATION", DEFAULT))


async def tune(**kwargs: Any) -> None:
    """What exists now lives as long as the process: the garbage collector need not look at it again. And of
    what comes hardly anything is garbage that only it would find, so it looks less often: a look at all
    objects of a thousand streams holds each of them up."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


starting.connect(tune)
