"""Arguments that several commands take, checked before anything is done with them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from django.core.management.base import CommandError

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def duration_of(name: str, text: str) -> timedelta:
    """A time such as `90d`, `12h` or `30m`; a bare 0 is none. Raises `CommandError`."""
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text, re.ASCII)
    if found is not None:
        return timedelta(**{_UNITS[found.group(2)]: int(found.group(1))})
    if text == "0":
        return timedelta(0)
    raise CommandError(f"{name}: a whole number of days, hours or minutes, such as 90d, 12h or 30m")


def key_of(text: str) -> str:
    """An API key as a header may carry it, without the white space around it; empty for none. Raises
    `CommandError`, which does not show it: what a key is not meant for may still be one."""
    key = text.strip()
    if not all("!" <= character <= "~" for character in key):
        raise CommandError("--key (or its variable): an API key is of visible ASCII characters only")
    return key


def seconds_of(name: str, value: float, least: float, most: float) -> float:
    """A number of seconds within its bounds. Raises `CommandError`; also for what is no number (`nan`)."""
    if not least <= value <= most:
        raise CommandError(f"{name}: seconds, {least:g} to {most:g}")
    return value
