"""API keys: by which a program speaks for a user.

A key is 256 bits of chance, so it cannot be guessed from its digest either: one round of SHA-256 is enough
(slow hashes protect what people choose), and the digest can be looked up in an index, where how long a
comparison takes tells nothing.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from typing import Any, Final

from django.db import router
from django.utils import timezone

from . import revocation
from .identities import Credential
from .models import ApiKey

logger = logging.getLogger(__name__)

MARK: Final = "sluice_"
"""How every key begins, so that people and scanners for leaked secrets know one when they see it."""

SHOWN: Final = len(MARK) + 8
"""Characters of a key that are kept to tell it from others: 48 bits of its 256 are then no secret."""

_KEY: Final = re.compile(MARK + r"[A-Za-z0-9_-]{43}", re.ASCII)


def issue(user: Any, name: str = "") -> tuple[ApiKey, str]:
    """A new key for `user`: its row and its text, which cannot be had again."""
    text = MARK + secrets.token_urlsafe(32)
    key = ApiKey.objects.create(user=user, name=name, prefix=text[:SHOWN], digest=digest(text))
    logger.info("API key %s was made for user %s", key.prefix, key.user_id)
    return key, text


def revoke(key: ApiKey) -> None:
    """The key speaks for nobody from the next call on, in other processes half a second later; streams that
    are open by it end within a second or so (see `rechecks`). Again: no change."""
    now = timezone.now()
    if ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now):
        key.revoked_at = now
        # Who writes a row without its object is told by no signal.
        revocation.announce(router.db_for_write(ApiKey))
        logger.info("API key %s of user %s was revoked", key.prefix, key.user_id)


def is_well_formed(text: str) -> bool:
    """Whether it may be a key."""
    return _KEY.fullmatch(text) is not None


def credential(text: str) -> Credential:
    """The key, for the memory of who calls."""
    return "key", router.db_for_read(ApiKey), digest(text)


async def find(text: str) -> ApiKey | None:
    """The key with its user, by one query; None where it speaks for nobody (malformed, unknown, revoked, of
    an inactive user). What cannot be a key is not looked up."""
    return await find_digest(digest(text)) if is_well_formed(text) else None


async def find_digest(stored: str) -> ApiKey | None:
    """`find`, by what is stored of the key."""
    found = await ApiKey.objects.select_related("user").filter(digest=stored, revoked_at=None).afirst()
    return found if found is not None and found.user.is_active else None


def named(text: str) -> list[ApiKey]:
    """The keys that an operator may mean, two at most: the one with this text, or those that begin so.

    What is longer than a beginning and no key names none, for nobody knows how the keys go on.
    """
    rows = ApiKey.objects.select_related("user")
    if is_well_formed(text):
        return list(rows.filter(digest=digest(text)))
    return [] if len(text) > SHOWN else list(rows.filter(prefix__startswith=text)[:2])


def digest(text: str) -> str:
    """What is stored of a secret that is 256 bits of chance: its SHA-256, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()
