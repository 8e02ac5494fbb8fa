"""The pages, as plain HTTP: who sees what, and the finished text for them."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

from tests.support.client import brief, client, generate
from tests.support.servers import running

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]


async def ended(http: httpx2.AsyncClient) -> str:
    """The id of a task that has ended."""
    reading = await generate(http, options={"text": "# Title\n\n<b>x</b>", "interval": 0})
    task_id: str = reading.response.headers["x-stream-id"]
    return task_id


async def test_an_ended_text_is_rendered_and_clean(http: httpx2.AsyncClient) -> None:
    task_id = await ended(http)
    answer = await http.get(f"/streams/{task_id}/rendered")
    assert answer.status_code == 200
    assert answer.json()["id"] == task_id
    assert '<h1 dir="auto">Title</h1>' in answer.json()["html"]
    assert "&lt;b&gt;x&lt;/b&gt;" in answer.json()["html"]


async def test_what_still_grows_is_not_rendered(http: httpx2.AsyncClient) -> None:
    started = await http.post("/content/generate/async", json=brief(options={"tokens": 10_000}))
    place = started.headers["location"]
    answer = await http.get(f"{place}/rendered")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_finished")
    await http.delete(place)


async def test_a_purged_text_is_not_rendered_any_more(http: httpx2.AsyncClient) -> None:
    task_id = await ended(http)
    await http.get(f"/streams/{task_id}/rendered")
    await http.delete(f"/streams/{task_id}?purge=true")
    assert (await http.get(f"/streams/{task_id}/rendered")).json()["html"] == ""


@pytest.mark.parametrize("path", ["rendered", "view"])
async def test_absent_and_foreign_look_the_same(
    http: httpx2.AsyncClient, people: dict[str, dict[str, str]], path: str
) -> None:
    reading = await generate_as(http, people["alice"])
    mine = await http.get(f"/streams/{reading}/{path}", headers=people["alice"])
    foreign = await http.get(f"/streams/{reading}/{path}", headers=people["bob"])
    absent = await http.get(f"/streams/{'0' * 32}/{path}", headers=people["bob"])
    assert mine.status_code == 200
    assert foreign.status_code == absent.status_code == 404
    assert foreign.text.replace(reading, "") == absent.text.replace("0" * 32, "")


async def generate_as(http: httpx2.AsyncClient, headers: dict[str, str]) -> str:
    answer = await http.post(
        "/content/generate", json=brief(options={"tokens": 3, "interval": 0}), headers=headers
    )
    task_id: str = answer.json()["task_id"]
    return task_id


@pytest.mark.parametrize("path", ["/", "/accounts/login/"])
@pytest.mark.parametrize("language", ["en", "zh-hans"])
async def test_a_page_needs_nothing_from_elsewhere_and_no_inline_code(
    http: httpx2.AsyncClient, path: str, language: str
) -> None:
    page = await http.get(path, headers={"Accept-Language": language})
    assert page.status_code == 200
    assert f'<html lang="{language}">' in page.text
    assert not re.search(r'(src|href)="(https?:)?//', page.text)
    assert not re.search(r"<script(?![^>]*(src=|application/json))", page.text)
    assert not re.search(r"\son[a-z]+=|\sstyle=|<style|javascript:", page.text)


async def test_every_file_of_the_page_is_served(http: httpx2.AsyncClient) -> None:
    page = (await http.get("/")).text
    files = re.findall(r'(?:src|href)="(/(?:static|jsi18n)/[^"]*)"', page)
    assert len(files) > 5
    for file in files:
        assert (await http.get(file)).status_code == 200, file


async def test_pages_are_read_only(http: httpx2.AsyncClient) -> None:
    for path in ("/", f"/streams/{'0' * 32}/view"):
        assert (await http.request("PUT", path)).status_code in (403, 405)
    assert (await http.head("/")).status_code == 200


async def test_who_may_not_write_is_shown_the_way_in(tmp_path: Path) -> None:
    with running("serve", tmp_path, ALLOW_ANONYMOUS="false") as closed:
        async with client(closed.url) as http:
            page = await http.get("/")
            assert page.status_code == 200
            assert "fieldset disabled" in page.text
            assert 'href="/accounts/login/?next=/"' in page.text
            there = await http.get(f"/streams/{'0' * 32}/view")
            assert there.status_code == 302
            assert there.headers["location"] == f"/accounts/login/?next=/streams/{'0' * 32}/view"


async def test_a_server_with_a_key_says_which_model_writes(tmp_path: Path) -> None:
    model = {
        "OPENAI_API_KEY": "test",
        "OPENAI_API_BASE": "http://127.0.0.1:9/v1",
        "OPENAI_MODEL": "some-model",
    }
    with running("serve", tmp_path, **model) as keyed:
        async with client(keyed.url) as http:
            page = (await http.get("/")).text
            assert "The model <strong>some-model</strong> writes." in page
        assert "some-model" in keyed.log()
