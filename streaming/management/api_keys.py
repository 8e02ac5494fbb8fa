"""API keys, as the commands name and print them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, OutputWrapper

from streaming import keys
from streaming.cluster.revocations import wait_until_known
from streaming.identities import MAX_AGE
from streaming.models import ApiKey

IMPATIENCE = 1.0
"""Seconds of waiting for the servers before that is said."""

PATIENCE = 6.0
"""Seconds of waiting altogether: a process that has not shown life for five is dead."""


def key_named(prefix: str) -> ApiKey:
    """The key that begins so, or is this. Raises `CommandError` where the prefix names none, or several."""
    if not prefix:
        raise CommandError("The prefix is empty. The admin lists all keys.")
    found = keys.named(prefix)
    # What was given may be a key, and errors are logged: only what is shown anyway is repeated.
    shown = prefix[: keys.SHOWN]
    if not found and len(prefix) > keys.SHOWN:
        raise CommandError(
            f"No key is the one given ({shown}…). Give the whole key, or its first {keys.SHOWN} characters."
        )
    if not found:
        raise CommandError(f"No key begins with {shown!r}. The admin lists all keys.")
    if len(found) > 1:
        raise CommandError(f"Several keys begin with {shown!r}: give more characters.")
    return found[0]


def print_new(key: ApiKey, text: str, out: OutputWrapper) -> None:
    """Write the text of a new key, alone. Raises `CommandError` where that fails; then the key is revoked,
    for nobody has it."""
    try:
        out.write(text)
        out.flush()
    except (OSError, ValueError) as error:
        keys.revoke(key)
        raise CommandError(f"The key could not be written ({error}), so it was revoked.") from error


def moment(value: datetime | None, otherwise: str) -> str:
    """A moment for people who look after servers; `otherwise`: for none."""
    return otherwise if value is None else f"{value:%Y-%m-%d %H:%M} UTC"


def wait_for_servers(err: Any) -> None:
    """Until they refuse what was taken away; mostly half a second."""
    if not wait_until_known(IMPATIENCE):
        return
    err.write("Waiting until the server processes know…")
    silent = wait_until_known(PATIENCE - IMPATIENCE)
    if silent:
        err.write(
            f"Server processes that have not answered: {silent}. If they live, they refuse the key "
            f"within {MAX_AGE:.0f} seconds."
        )
