"""The page of a stream in somebody else's project."""

from __future__ import annotations

import pytest
from django.test import AsyncClient, override_settings

pytestmark = pytest.mark.django_db(transaction=True)


@override_settings(ROOT_URLCONF="tests.django.bare_urls", ALLOW_ANONYMOUS="true")
async def test_the_page_of_a_stream_needs_nothing_but_the_apps_urls() -> None:
    client = AsyncClient()
    started = await client.get("/letters")
    [_ async for _ in started.streaming_content]  # type: ignore[attr-defined]
    page = await client.get(f"{started['Location']}/view")
    assert page.status_code == 200
    content = page.content.decode()
    assert f'data-place="{started["Location"]}/view"' in content
    for absent in ("Sign in", "Admin", 'name="next"'):
        assert absent not in content
