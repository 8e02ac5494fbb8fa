"""The messages that say "this task is a worker's": where they go, and by whom they are signed.

A message names a pool and a task and holds no content. Its signature is an HMAC with a key that is derived
from SECRET_KEY, which all processes have anyway. (Celery's own `auth` serializer wants a certificate and a
private key in files of each machine, and the package `cryptography`.) A message that is sent again does no
harm: the database lets a task begin once.
"""

from __future__ import annotations

from typing import Final

from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

from streaming import conf

TASK: Final = "sluice.run"
"""The one task that workers know, and that nobody else is asked to do."""

_SALT: Final = "streaming.worker"


def queue_of(pool: str) -> str:
    """The name of the broker's queue for the pool."""
    return f"{conf.cluster().prefix}.{pool}"


def pool_of(queue: str) -> str:
    """The pool whose queue it is."""
    return queue.removeprefix(f"{conf.cluster().prefix}.")


def signature(pool: str, task_id: str, secret: str | None = None) -> str:
    """What only who has `secret` (SECRET_KEY) can make of the two."""
    text = "\0".join((conf.cluster().prefix, pool, task_id))
    return salted_hmac(_SALT, text, secret=secret, algorithm="sha256").hexdigest()


def is_signed(pool: str, task_id: str, signed: str) -> bool:
    """Whether one of ours has sent it; keys of SECRET_KEY_FALLBACKS count, so that keys can be changed."""
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    try:
        return any(constant_time_compare(signature(pool, task_id, each), signed) for each in secrets)
    except UnicodeEncodeError:
        # Lone surrogates, which JSON can carry.
        return False
