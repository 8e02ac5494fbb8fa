"""Arguments that several commands take, checked before anything is done with them."""

from __future__ import annotations

from django.core.management.base import CommandError


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
