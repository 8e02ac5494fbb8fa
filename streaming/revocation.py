"""Taking away takes effect: what a process does to keys, users and sessions empties its memory of who calls
(see `identities`) at once, and that of other processes by a number in the database, which each reads twice a
second.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import Any, Final

from django.apps import apps
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import DatabaseError, InterfaceError, transaction
from django.db.models import F
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.utils import timezone

from . import sessions
from .identities import IDENTITIES, MAX_AGE
from .models import ApiKey, RevocationCount

logger = logging.getLogger(__name__)

_ONLY_ROW: Final = 1


def count() -> int:
    """How often somebody has lost something; visits the database."""
    return RevocationCount.objects.filter(pk=_ONLY_ROW).values_list("number", flat=True).first() or 0


def announce(using: str | None = None) -> None:
    """Somebody may have lost something, in the transaction that is open on the database `using`, if one is.

    Until it is committed the old state can be read, so what is looked up meanwhile is forgotten then, too.
    """
    IDENTITIES.forget_all()
    transaction.on_commit(_announce, using=using)


def _announce() -> None:
    IDENTITIES.forget_all()
    try:
        row = RevocationCount.objects.filter(pk=_ONLY_ROW)
        if not row.update(number=F("number") + 1):
            RevocationCount.objects.bulk_create([RevocationCount(pk=_ONLY_ROW)], ignore_conflicts=True)
            row.update(number=F("number") + 1)
    except (DatabaseError, InterfaceError) as error:
        logger.warning("other processes notice a revocation within %d s only: %s", MAX_AGE, error)


def connect() -> None:
    """Notice what happens to rows, their proxies and children included."""
    for model in apps.get_models():
        if issubclass(model, AbstractBaseSession):
            post_save.connect(_session_saved, sender=model)
            post_delete.connect(_session_deleted, sender=model)
        elif issubclass(model, (get_user_model(), ApiKey)):
            post_save.connect(_saved, sender=model)
            post_delete.connect(_deleted, sender=model)
        elif issubclass(model, (Group, Permission)):
            # What goes with it goes without a signal of its own.
            post_delete.connect(_deleted, sender=model)
    for model in (get_user_model(), Group):
        for relation in model._meta.many_to_many:
            m2m_changed.connect(_related, sender=relation.remote_field.through)


def _saved(created: bool, update_fields: Collection[str] | None, using: str, **kwargs: Any) -> None:
    # What is new is known to nobody, and signing in takes nothing away.
    if not created and set(update_fields or ()) != {"last_login"}:
        announce(using)


def _deleted(using: str, **kwargs: Any) -> None:
    announce(using)


def _related(action: str, using: str, **kwargs: Any) -> None:
    """Groups of users, permissions of both."""
    if action in ("post_remove", "post_clear"):
        announce(using)


def _session_saved(instance: AbstractBaseSession, created: bool, using: str, **kwargs: Any) -> None:
    if not created:
        forget = partial(IDENTITIES.forget, sessions.credential((type(instance), instance.session_key)))
        forget()
        transaction.on_commit(forget, using=using)


def _session_deleted(instance: AbstractBaseSession, using: str, **kwargs: Any) -> None:
    # A job deletes those that have expired, many at once, and nobody goes by them any more.
    if instance.expire_date > timezone.now() and SESSION_KEY in instance.get_decoded():
        announce(using)
