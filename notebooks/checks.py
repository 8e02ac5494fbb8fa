"""System checks of kernels: what is wrong, and what is dangerous."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error, Warning, register
from django.db import DatabaseError

from streaming.checks import HINT
from streaming.conf import allow_anonymous

from . import conf
from .access import RUN_CODE


@register("notebooks")
def check_kernels(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E001: a value that cannot be right. E002: a pool that is not there. W001: kernels are on outside of
    development."""
    found: list[CheckMessage] = [
        Error(text, hint=HINT, obj=setting, id="notebooks.E001") for setting, text in conf.problems()
    ]
    if not conf.has_kernels():
        return found
    if "kernel_pool" not in getattr(settings, "THREAD_CONFIG", {"kernel_pool": {}}):
        found.append(
            Error(
                "THREAD_CONFIG has no kernel_pool",
                hint="Cells wait for its permits.",
                id="notebooks.E002",
            )
        )
    if not settings.DEBUG and not conf.limits().sandbox:
        found.append(
            Warning(
                "kernels are on, without a sandbox",
                hint="Code runs with the rights of the server's user: see docs/notebooks.md.",
                id="notebooks.W001",
            )
        )
    return found


@register("notebooks", "database")
def check_who_runs_code(
    app_configs: Sequence[Any] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """E003: several users share the server's own user. E004: nobody need sign in, from anywhere."""
    if not conf.has_kernels() or not databases:
        return []
    found: list[CheckMessage] = []
    if allow_anonymous() == "true":
        found.append(
            Error(
                "kernels are on and ALLOW_ANONYMOUS is true",
                hint="Code is for people who are known: set ALLOW_ANONYMOUS=false.",
                id="notebooks.E004",
            )
        )
    if not conf.limits().sandbox and not conf.without_sandbox() and _several_run_code():
        found.append(
            Error(
                "several users may run code, and nothing keeps them apart",
                hint="Set KERNEL_SANDBOX (docs/notebooks.md), or KERNELS_WITHOUT_SANDBOX=true if they trust "
                "each other, and this server's data to each of them.",
                id="notebooks.E003",
            )
        )
    return found


def _several_run_code() -> bool:
    try:
        users = get_user_model().objects.with_perm(
            RUN_CODE, backend="django.contrib.auth.backends.ModelBackend"
        )
        return len(users[:2]) > 1
    except DatabaseError:
        # Before the first migration there are no users either.
        return False
