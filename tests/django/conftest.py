"""What the in-process tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management.commands import flush
from django.core.management.sql import emit_post_migrate_signal, sql_flush
from django.test import override_settings
from django.utils import translation

from streaming import service as service_module
from streaming.identities import IDENTITIES

QUICK = {
    # The real hash takes a good part of a second by intention.
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
    # Each client would look through all static files. They are asked for in tests with servers.
    "SERVESTATIC_USE_FINDERS": False,
    "SERVESTATIC_USE_STATIC_ROOT": False,
    # Alerts are looked at by the tests that are about them.
    "ALERT_CONFIG": {"interval": 0},
}


@pytest.fixture(scope="session", autouse=True)
def _quick() -> Iterator[None]:
    """What costs time with each user and each client."""
    with override_settings(**QUICK):
        yield


def _known(database: str) -> list[list[tuple[Any, ...]]]:
    """What Django writes itself into a database with all tables: nothing else is there at the beginning."""
    found: list[Any] = [ContentType.objects, Permission.objects]
    return [list(each.using(database).order_by("pk").values_list()) for each in found]


@pytest.fixture(scope="session", autouse=True)
def _flush_keeps_what_is_unchanged() -> Iterator[None]:
    """A test with transactions of its own empties all tables after it. Content types and permissions stay if
    they are still as Django wrote them: to write them anew costs more than most such tests."""
    written: dict[str, Any] = {}
    kept = (ContentType._meta.db_table, Permission._meta.db_table)
    unchanged = False

    def statements(style: Any, connection: Any, **options: Any) -> list[str]:
        nonlocal unchanged
        alias = connection.alias
        unchanged = alias in written and _known(alias) == written[alias]
        if not unchanged:
            return sql_flush(style, connection, **options)
        tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
        emptied = [table for table in tables if table not in kept]
        found: list[str] = connection.ops.sql_flush(style, emptied, **options)
        return found

    def write(verbosity: int, interactive: bool, database: str, **options: Any) -> None:
        if not unchanged:
            emit_post_migrate_signal(verbosity, interactive, database, **options)
            written[database] = _known(database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "sql_flush", statements)
        patch.setattr(flush, "emit_post_migrate_signal", write)
        yield


@pytest.fixture(autouse=True)
def _no_service_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Its writer's thread would beat on in the next test's database, where nobody is whom it knew."""
    if request.node.get_closest_marker("django_db") or "transactional_db" in request.fixturenames:
        # First, so that it is the last to go: what is still noted is written when the service closes.
        request.getfixturevalue("_django_db_helper")
    yield
    for service in service_module._services.values():
        service.recorder.close(20.0)
    service_module._services.clear()
    IDENTITIES.unwatch()


@pytest.fixture(autouse=True)
def _own_language() -> Iterator[None]:
    """A page in Chinese leaves its language to whoever comes next in this thread."""
    yield
    translation.deactivate()
