"""What the in-process tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
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
