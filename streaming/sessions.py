"""Sessions: by which a browser speaks for who signed in; looked up without touching the request's own."""

from __future__ import annotations

import hashlib
from datetime import datetime
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
)
from django.contrib.sessions.backends import cached_db, db
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import router
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from .identities import Credential

Place = tuple[type[AbstractBaseSession], str]
"""A session's row: its model and its key."""


def place_of(session: SessionBase) -> Place | None:
    """Where the session is kept, if whom it speaks for may be known without reading it; else None.

    Only where its end is seen: a row that is deleted. Not where a look into it does more (it lasts longer
    with each call, it holds the CSRF token), and not after this request has changed it.
    """
    key = session.session_key
    if (
        key is None
        or session.modified
        or settings.SESSION_SAVE_EVERY_REQUEST
        or settings.CSRF_USE_SESSIONS
        or not isinstance(session, db.SessionStore)
        # That one reads a copy, which outlives the row for a moment.
        or isinstance(session, cached_db.SessionStore)
    ):
        return None
    return session.model, key


def key_in_database(session: SessionBase) -> str | None:
    """The key of a session that is kept in the database, where it can be looked up by that; else None."""
    return session.session_key if isinstance(session, db.SessionStore) else None


def place_of_key(key: str) -> Place | None:
    """Where the session is whose key `key_in_database` gave."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    return (store.get_model_class(), key) if issubclass(store, db.SessionStore) else None


def credential(place: Place) -> Credential:
    """The session, for the memory of who calls."""
    model, key = place
    return "session", router.db_for_read(model), hashlib.sha256(key.encode()).hexdigest()


def name(kind: type[SessionBase], key: str, place: Place | None) -> Credential:
    """The same of any session; without a `place` nothing is remembered of it."""
    if place is not None:
        return credential(place)
    return "session", kind.__module__, hashlib.sha256(key.encode()).hexdigest()


async def find(place: Place) -> tuple[Any, datetime] | None:
    """The user for whom the session speaks, and until when, by two queries; None where it speaks for nobody
    as it stands. `aget_user` has the last word then: it also ends sessions, and renews their hashes."""
    model, key = place
    row = await model.objects.filter(session_key=key, expire_date__gt=timezone.now()).afirst()
    if row is None:
        return None
    user = await _user(row.get_decoded())
    return None if user is None else (user, row.expire_date)


async def user_of(kind: type[SessionBase], key: str) -> Any:
    """The user for whom the session with this key speaks now, None for nobody: what `aget_user` would find,
    and nothing is ended or renewed."""
    return await _user(await kind(key).aload(), fallbacks=True)


async def _user(data: dict[str, Any], *, fallbacks: bool = False) -> Any:
    """As `django.contrib.auth.aget_user`. `fallbacks`: also by SECRET_KEY_FALLBACKS."""
    path = data.get(BACKEND_SESSION_KEY, "")
    if SESSION_KEY not in data or path not in settings.AUTHENTICATION_BACKENDS:
        return None
    pk = get_user_model()._meta.pk.to_python(data[SESSION_KEY])
    user = await load_backend(path).aget_user(pk)
    if user is None or not user.is_authenticated:
        return None
    if not hasattr(user, "get_session_auth_hash"):
        return user
    told = data.get(HASH_SESSION_KEY, "")
    right = constant_time_compare(told, user.get_session_auth_hash())
    if not right and fallbacks:
        right = any(constant_time_compare(told, each) for each in user.get_session_auth_fallback_hash())
    return user if right else None
