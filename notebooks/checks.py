"""System checks of kernels: what is wrong, and what is dangerous."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, connections

from streaming.checks import HINT, SERVING
from streaming.conf import allow_anonymous

from . import conf
from .access import RUN_CODE

CAPS: Final = ("per_owner", "memory_limit", "file_limit", "cpu_limit", "processes")
"""Limits of which 0 means none."""


@register("notebooks")
def check_kernels(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """E001: a value that cannot be right. E002: a pool that is not there. E004: nobody need sign in, from
    anywhere. W001: kernels are on outside of development. W002: what bounds kernels here does not bound those
    of a Jupyter server."""
    found: list[CheckMessage] = [
        Error(text, hint=HINT, obj=setting, id="notebooks.E001") for setting, text in conf.problems()
    ]
    if found or not conf.has_kernels():
        return found
    if "kernel_pool" not in getattr(settings, "THREAD_CONFIG", {"kernel_pool": {}}):
        found.append(
            Error(
                "THREAD_CONFIG has no kernel_pool",
                hint="Cells wait for its permits.",
                id="notebooks.E002",
            )
        )
    if allow_anonymous() == "true":
        found.append(
            Error(
                "kernels are on and ALLOW_ANONYMOUS is true",
                hint="Code is for people who are known: set ALLOW_ANONYMOUS=false.",
                id="notebooks.E004",
            )
        )
    if conf.gateway().url:
        found.append(
            Warning(
                "kernels run on a Jupyter server: memory_limit, file_limit, cpu_limit, processes, "
                "prestarted, python, sandbox and environment of KERNEL_CONFIG do not hold there",
                hint="Bound and separate them where they run: see docs/notebooks.md.",
                id="notebooks.W002",
            )
        )
    elif not settings.DEBUG and not conf.limits().sandbox:
        found.append(
            Warning(
                "kernels are on, without a sandbox",
                hint="Code runs with the rights of the server's user: see docs/notebooks.md.",
                id="notebooks.W001",
            )
        )
    return found


@register("notebooks", deploy=True)
def check_caps(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """W003: kernels that may take all there is."""
    if list(conf.problems()) or not conf.has_kernels() or conf.gateway().url:
        return []
    limits = conf.limits()
    endless = [name for name in CAPS if getattr(limits, name) == 0]
    if not endless:
        return []
    return [
        Warning(
            f"kernels are on, and {', '.join(endless)} of KERNEL_CONFIG: 0, no limit",
            hint="One cell could take the machine from everybody: see docs/settings.md for the defaults.",
            id="notebooks.W003",
        )
    ]


@register("notebooks", SERVING, Tags.database)
def check_who_runs_code(
    app_configs: Sequence[Any] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """E003: several users share the server's own user, or nobody knows. Looks into the database, so only
    where that is asked for: as servers do, and `check --database`."""
    if not databases or not conf.has_kernels() or conf.without_sandbox() or list(conf.problems()):
        return []
    elsewhere = bool(conf.gateway().url)
    if conf.limits().sandbox and not elsewhere:
        return []
    try:
        several = _outside_of_the_loop(_several_run_code)
        text = "several users may run code, and nothing keeps them apart"
    except DatabaseError as error:
        several = True
        text = f"kernels are on without a sandbox, and the database does not say who may run code: {error}"
    if not several:
        return []
    hint = (
        "Set KERNEL_SANDBOX (docs/notebooks.md), or KERNELS_WITHOUT_SANDBOX=true if they trust each other, "
        "and this server's data to each of them."
    )
    if elsewhere:
        hint = "Set KERNELS_WITHOUT_SANDBOX=true if the Jupyter server keeps their kernels apart."
    return [Error(text, hint=hint, id="notebooks.E003")]


def _several_run_code() -> bool:
    users = get_user_model()
    if not hasattr(users._default_manager, "with_perm"):
        # A user model of the project's own. Nobody knows, so it may be.
        return True
    who = users._default_manager.with_perm(RUN_CODE, backend="django.contrib.auth.backends.ModelBackend")
    try:
        return len(who[:2]) > 1
    except DatabaseError:
        # Before the first migration there are no users either.
        connection = connections[who.db]
        connection.rollback()
        if users._meta.db_table in connection.introspection.table_names():
            raise
        return False


def _outside_of_the_loop(look: Callable[[], bool]) -> bool:
    """What it says; where an event loop runs, which Django keeps from databases, in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return look()

    def look_and_leave() -> bool:
        try:
            return look()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(look_and_leave).result()
