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
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import router, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from . import conf, revocation
from .identities import Credential
from .models import ApiKey
from .scopes import USUAL, Scope, text_of

logger = logging.getLogger(__name__)

MARK: Final = "sluice_"
"""How every key begins, so that people and scanners for leaked secrets know one when they see it."""

SHOWN: Final = len(MARK) + 8
"""Characters of a key that are kept to tell it from others: 48 bits of its 256 are then no secret."""

_KEY: Final = re.compile(MARK + r"[A-Za-z0-9_-]{43}", re.ASCII)


OVERLAP: Final = timedelta(hours=24)
"""How long a key that was rotated is good beside its successor, if nothing else is said."""


class KeyRefused(ValueError):
    """No such key is made; the text says why, to people."""


def issue(
    user: Any,
    name: str = "",
    *,
    scopes: Iterable[str] = USUAL,
    expires_at: datetime | None = None,
    lifetime: timedelta | None = None,
    replaces: ApiKey | None = None,
) -> tuple[ApiKey, str]:
    """A new key for `user`: its row and its text, which cannot be had again.

    It ends at `expires_at`, or after `lifetime`; with neither after ACCESS_CONFIG's `key_max_days`, or
    never. Raises `KeyRefused` for scopes that there are not, and an end that is past or too far away.
    """
    now = timezone.now()
    if expires_at is None:
        expires_at = _end_of(lifetime, now)
    expires_at = allowed_end(expires_at, now)
    wanted = frozenset(scopes)
    if not wanted or not wanted.issubset(Scope.values):
        raise KeyRefused(_("A key needs at least one scope of: %s.") % ", ".join(Scope.values))
    text = MARK + secrets.token_urlsafe(32)
    key = ApiKey.objects.create(
        user=user,
        name=name,
        prefix=text[:SHOWN],
        digest=digest(text),
        scopes=text_of(wanted),
        created_at=now,
        expires_at=expires_at,
        replaces=replaces,
    )
    logger.info("API key %s was made for user %s, for: %s", key.prefix, key.user_id, key.scopes)
    return key, text


def _end_of(lifetime: timedelta | None, now: datetime) -> datetime | None:
    if lifetime is None:
        return None
    try:
        return now + lifetime
    except OverflowError as error:
        raise KeyRefused(_("No key lives for so long.")) from error


def allowed_end(expires_at: datetime | None, now: datetime) -> datetime | None:
    """When a key that is made now ends; None: never. Raises `KeyRefused`."""
    days = conf.access().key_max_days
    latest = now + timedelta(days=days) if days else None
    if expires_at is None:
        return latest
    if expires_at <= now:
        raise KeyRefused(_("The key would have expired already."))
    if latest is not None and expires_at > latest:
        text = ngettext(
            "Keys live for %d day at most (ACCESS_KEY_MAX_DAYS).",
            "Keys live for %d days at most (ACCESS_KEY_MAX_DAYS).",
            days,
        )
        raise KeyRefused(text % days)
    return expires_at


def rotate(key: ApiKey, overlap: timedelta = OVERLAP) -> tuple[ApiKey, str]:
    """A new key in the place of `key`, for the same user, scopes and length of life; the old one ends after
    `overlap`, if it does not end before. The new row (`replaces` is the old one) and its text.

    Raises `KeyRefused` for a key that speaks for nobody any more, or has a successor already: that is the one
    to rotate, or, where its text was lost, to revoke first.
    """
    if overlap < timedelta(0):
        raise KeyRefused(_("The overlap is a time from now on."))
    using = router.db_for_write(ApiKey)
    with transaction.atomic(using=using):
        # Whoever rotates the same key at the same time waits here, and finds its successor.
        old = ApiKey.objects.using(using).select_for_update().get(pk=key.pk)
        if old.state != ApiKey.State.VALID:
            raise KeyRefused(_("The key %s speaks for nobody any more.") % old)
        successor = ApiKey.objects.using(using).filter(replaces=old).first()
        if successor is not None and successor.revoked_at is None:
            raise KeyRefused(
                _("The key %(old)s was replaced by %(new)s already: rotate that one, or revoke it first.")
                % {"old": old, "new": successor}
            )
        # A successor that was revoked has taken the old one's length of life, which was shortened then.
        like = successor or old
        lifetime = None if like.expires_at is None else like.expires_at - like.created_at
        days = conf.access().key_max_days
        if lifetime is not None and days:
            lifetime = min(lifetime, timedelta(days=days))
        made = issue(old.user, old.name, scopes=old.scopes.split(), lifetime=lifetime, replaces=old)
        end = _end_of(overlap, timezone.now())
        if old.expires_at is None or (end is not None and end < old.expires_at):
            ApiKey.objects.using(using).filter(pk=old.pk).update(expires_at=end)
            key.expires_at = old.expires_at = end
            # Who writes a row without its object is told by no signal.
            revocation.announce(using)
    logger.info("API key %s of user %s was replaced by %s", key.prefix, key.user_id, made[0].prefix)
    return made


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
    return credential_of(digest(text))


def credential_of(stored: str) -> Credential:
    """The same, by what is stored of the key."""
    return "key", router.db_for_read(ApiKey), stored


async def find(text: str) -> ApiKey | None:
    """The key with its user, by one query; None where it speaks for nobody (malformed, unknown, revoked,
    expired, of an inactive user). What cannot be a key is not looked up."""
    return await find_digest(digest(text)) if is_well_formed(text) else None


async def find_digest(stored: str) -> ApiKey | None:
    """`find`, by what is stored of the key."""
    valid = ApiKey.objects.select_related("user").filter(valid_at(timezone.now()))
    found = await valid.filter(digest=stored).afirst()
    return found if found is not None and found.user.is_active else None


def valid_at(moment: datetime) -> Q:
    """The keys that are neither revoked nor expired then."""
    return Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=moment))


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
