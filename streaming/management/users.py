"""Users, as the commands name them."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError


def active_user(name: str, otherwise: str) -> Any:
    """The user of this name, of whatever model the project has.

    Raises `CommandError` if there is none, or one who is not active; `otherwise` says what that means:
    "… is not active, so …".
    """
    users = get_user_model()
    try:
        user = users._default_manager.get_by_natural_key(name)
    except users.DoesNotExist as error:
        raise CommandError(
            f"There is no user {name!r}. Make one in the admin, or with: manage.py createsuperuser"
        ) from error
    if not user.is_active:
        raise CommandError(f"The user {name!r} is not active, {otherwise}. See the admin.")
    return user
