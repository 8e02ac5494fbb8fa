"""Scopes: what an API key may be used for. A key never gives more than its user may do."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from django.db import models
from django.utils.translation import gettext_lazy as _


class Scope(models.TextChoices):
    """One of them; docs/protocol.md has the table of calls that need it."""

    GENERATE = "generate", _("generate: start streams, and read their answers")
    READ = "read", _("read: follow, list and read streams and notebooks")
    CANCEL = "cancel", _("cancel: end streams, and delete what they wrote")
    NOTEBOOKS = "notebooks", _("notebooks: change notebooks; with “generate”, run their code")
    OPERATE = "operate", _("operate: what only staff may read, such as statistics")


ALL: Final = tuple(Scope)

USUAL: Final = tuple(scope for scope in Scope if scope is not Scope.OPERATE)
"""Those of a key for which none are named: what a program needs that works for one user."""


def text_of(scopes: Iterable[str]) -> str:
    """Scopes as they are stored, and as RFC 6750 (section 3) writes them: names with spaces between."""
    return " ".join(scope.value for scope in Scope if scope in set(scopes))


@lru_cache(maxsize=256)
def scopes_of(text: str) -> frozenset[str]:
    """What `text_of` wrote."""
    return frozenset(text.split())
