"""One-time links: whoever opens one within ten minutes is signed in, once.

A token is 256 bits of chance; only its digest is stored (one round of SHA-256 is enough, see
`streaming.keys`).
"""

from __future__ import annotations

import logging
import secrets
from datetime import timedelta
from typing import Final

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from streaming.keys import digest

from .models import SigninLink

logger = logging.getLogger(__name__)

LIFETIME: Final = timedelta(minutes=10)
"""How long a link can be used."""


def make(user: User) -> str:
    """The token of a new link for `user`. Expired links are deleted."""
    now = timezone.now()
    SigninLink.objects.filter(expires_at__lte=now).delete()
    token = secrets.token_urlsafe(32)
    SigninLink.objects.create(
        user_id=user.pk, digest=digest(token), created_at=now, expires_at=now + LIFETIME
    )
    logger.info("a one-time sign-in link was made for %s", user)
    return token


def make_url(user: User, base: str) -> str:
    """The whole URL of a new link for `user`, at the server that answers at `base`."""
    return base.rstrip("/") + reverse("signin-link", args=(make(user),))


def use(token: str) -> User | None:
    """The user whom the link signs in, this once. None: it is used, expired or unknown, or its user inactive.

    One UPDATE decides, so that of two clicks at once one signs in. Its conditions are on the link's own row
    (a join would become a subquery, which PostgreSQL does not look at again after it waited for the other).
    """
    now = timezone.now()
    active = get_user_model().objects.filter(is_active=True)
    links = SigninLink.objects.filter(digest=digest(token), user__in=active.values("pk"))
    if not links.filter(used_at=None, expires_at__gt=now).update(used_at=now):
        logger.info("a one-time sign-in link was refused: used, expired or unknown")
        return None
    user = SigninLink.objects.select_related("user").get(digest=digest(token)).user
    logger.info("%s signed in by a one-time link", user)
    return user
