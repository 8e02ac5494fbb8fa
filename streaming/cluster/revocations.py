"""Waiting until every process knows that something was revoked."""

from __future__ import annotations

import time
from typing import Final

from streaming import revocation
from streaming.models import Process

from .processes import gone

_LOOK: Final = 0.05
"""Seconds between two looks."""


def wait_until_known(seconds: float) -> int:
    """Wait until all processes have forgotten whom they knew before this call, for so many seconds at most.

    Returns how many have not told so by then; they may be dead. Visits the database and blocks.
    """
    number, end = revocation.count(), time.monotonic() + seconds
    while True:
        late = list(Process.objects.filter(revocations__lt=number).defer("statistics"))
        waiting = len(late) - len(gone(late))
        if not waiting or time.monotonic() >= end:
            return waiting
        time.sleep(_LOOK)
