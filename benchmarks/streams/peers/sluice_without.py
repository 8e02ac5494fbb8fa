"""`manage.py` of this project with one part taken out, to see what the part costs.

    python -m benchmarks.streams.peers.sluice_without PART serve --port 8000

`records`: nothing is written to the database. `events`: rows are written, what tasks said is not.
`middleware`: all but the three that the admin asks for. `nothing-but-gzip`: everything is there, and Django's
GZipMiddleware with it. `switch-interval`: threads change as seldom as CPython lets them by itself.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core.management import execute_from_command_line

if TYPE_CHECKING:
    from streaming.storage.notes import Promise


def _no_records() -> None:
    from streaming.storage.records import DatabaseRecorder

    def keep_nothing(self: DatabaseRecorder, *_: Any, **__: Any) -> Promise:
        return _kept()

    for name in ("accepted", "started", "given_up", "appended", "ended", "refused"):
        setattr(DatabaseRecorder, name, keep_nothing)


def _kept() -> Promise:
    """A promise that came true."""
    import asyncio

    from streaming.storage.notes import Promise

    promise = Promise(asyncio.get_running_loop())
    promise.settle(True)
    return promise


def _no_events() -> None:
    from streaming.storage.records import DatabaseRecorder

    setattr(DatabaseRecorder, "appended", lambda self, task: None)  # noqa: B010 - a method, for mypy


def _default_switch_interval() -> None:
    from streaming.runtime import switch_interval

    setattr(switch_interval, "SWITCH_INTERVAL", sys.getswitchinterval())  # noqa: B010 - it is Final
    setattr(switch_interval, "MIN_SWITCH_INTERVAL", sys.getswitchinterval())  # noqa: B010


def _gzip() -> None:
    static = settings.MIDDLEWARE.index("servestatic.middleware.ServeStaticMiddleware") + 1
    before, behind = settings.MIDDLEWARE[:static], settings.MIDDLEWARE[static:]
    settings.MIDDLEWARE = [*before, "django.middleware.gzip.GZipMiddleware", *behind]


_BEFORE: Final = {"nothing-but-gzip": _gzip}
"""What is done before the apps are loaded."""

_AFTER: Final = {
    "records": _no_records,
    "switch-interval": _default_switch_interval,
    "events": _no_events,
}
"""What needs models."""


def main(part: str, arguments: list[str]) -> None:
    """Run a command of `manage.py`."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.settings")
    if part in _BEFORE:
        _BEFORE[part]()
    else:
        import django

        django.setup()
        _AFTER[part]()
    execute_from_command_line(["manage.py", *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
