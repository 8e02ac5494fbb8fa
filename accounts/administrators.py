"""Administrators: the first one of a new installation, and whom a sign-in link is for."""

from __future__ import annotations

from typing import Final

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import QuerySet

LOCAL_NAME: Final = "admin"
"""Name of the administrator that a new installation begins with."""


def first() -> User | None:
    """The active superuser who has been here longest; None if there is none."""
    return _active().first()


def newcomer() -> User | None:
    """The first active superuser who has no password and has never signed in, so needs a link; or None."""
    return next((user for user in _active().filter(last_login=None) if not user.has_usable_password()), None)


def make_local() -> User | None:
    """A superuser without a password, where there is no user at all; None where there is."""
    users = get_user_model().objects
    with transaction.atomic():
        if users.exists():
            return None
        return users.create_superuser(LOCAL_NAME)


def _active() -> QuerySet[User]:
    return get_user_model().objects.filter(is_superuser=True, is_active=True).order_by("pk")
