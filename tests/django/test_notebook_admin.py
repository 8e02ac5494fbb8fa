"""Notebooks in the admin: who sees them, what of them, and who may delete them."""

from __future__ import annotations

from typing import Any, Final

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from notebooks.models import Cell, Notebook

pytestmark = pytest.mark.django_db

LIST: Final = "/admin/notebooks/notebook/"
SECRETS: Final = ("secret-source", "secret-output", "secret-metadata")


def person(name: str, *permissions: str, **values: Any) -> Client:
    """Somebody who is signed in."""
    user = get_user_model().objects.create(username=name, **values)
    found = Permission.objects.filter(codename__in=permissions)
    assert len(found) == len(permissions)
    user.user_permissions.set(found)
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def boss() -> Client:
    return person("boss", is_staff=True, is_superuser=True)


@pytest.fixture
def book() -> Notebook:
    return make("ada", "book", cells=3)


def make(owner: str, slug: str, cells: int) -> Notebook:
    user, _ = get_user_model().objects.get_or_create(username=owner)
    notebook = Notebook.objects.create(
        owner=user, slug=slug, title=f"题目 <b>{slug}</b>", metadata={"x": "secret-metadata"}
    )
    for number in range(cells):
        Cell.objects.create(
            notebook=notebook,
            cell_id=f"c{number}",
            position=number,
            source="secret-source",
            outputs=[{"output_type": "stream", "name": "stdout", "text": "secret-output"}],
        )
    return notebook


def test_the_list_tells_whose_they_are_and_how_large(boss: Client, book: Notebook) -> None:
    page = boss.get(LIST).content.decode()
    assert f"{LIST}{book.pk}/change/" in page
    assert "ada" in page
    assert "题目 &lt;b&gt;book&lt;/b&gt;" in page
    (row,) = boss.get(LIST).context["cl"].result_list
    assert row._size == 3


def test_what_is_in_them_is_shown_to_nobody(boss: Client, book: Notebook) -> None:
    for path in (LIST, f"{LIST}{book.pk}/change/", f"{LIST}{book.pk}/delete/", f"{LIST}{book.pk}/history/"):
        page = boss.get(path)
        assert page.status_code == 200, path
        assert not [secret for secret in SECRETS if secret in page.content.decode()], path


def test_what_is_not_shown_cannot_be_guessed_by_searching(boss: Client, book: Notebook) -> None:
    for secret in SECRETS:
        assert boss.get(f"{LIST}?q={secret}").context["cl"].result_count == 0
    for lookup in ("cells__source__contains", "cells__outputs__contains", "metadata__x", "owner__password"):
        assert boss.get(f"{LIST}?{lookup}=secret").status_code == 400, lookup


@pytest.mark.parametrize(("word", "found"), [("book", 1), ("题目", 1), ("ada", 1), ("nothing", 0)])
def test_they_are_found_by_name_title_and_owner(boss: Client, book: Notebook, word: str, found: int) -> None:
    assert boss.get(f"{LIST}?q={word}").context["cl"].result_count == found


def test_a_list_of_many_costs_as_many_queries_as_one_of_few(boss: Client, book: Notebook) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert boss.get(LIST).status_code == 200
        return len(seen)

    few = queries()
    for number in range(20):
        make(f"owner-{number}", f"other-{number}", cells=2)
    assert queries() == few


def test_who_may_not_sees_none(client: Client, book: Notebook) -> None:
    assert client.get(LIST).status_code == 302
    # The right to run code is none to look at what others wrote, nor is being staff.
    runner = person("runner", "run_code")
    assert runner.get(LIST).status_code == 302
    clerk = person("clerk", "run_code", is_staff=True)
    assert clerk.get(LIST).status_code == 403
    assert clerk.get(f"{LIST}{book.pk}/change/").status_code == 403
    viewer = person("viewer", "view_notebook", is_staff=True)
    assert viewer.get(f"{LIST}{book.pk}/change/").status_code == 200


def test_nobody_adds_or_changes_them(boss: Client, book: Notebook) -> None:
    assert boss.get(f"{LIST}add/").status_code == 403
    assert boss.post(f"{LIST}add/", {"slug": "x", "owner": 1}).status_code == 403
    assert boss.post(f"{LIST}{book.pk}/change/", {"title": "x", "slug": "x"}).status_code == 403
    book.refresh_from_db()
    assert (book.slug, book.title) == ("book", "题目 <b>book</b>")


def test_deleting_needs_its_permission_and_takes_the_cells_along(book: Notebook) -> None:
    viewer = person("viewer", "view_notebook", "change_notebook", is_staff=True)
    assert viewer.post(f"{LIST}{book.pk}/delete/", {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [book.pk], "post": "yes"}
    viewer.post(LIST, chosen)
    assert Notebook.objects.filter(pk=book.pk).exists()
    other = make("grace", "other", cells=1)
    cleaner = person("cleaner", "view_notebook", "delete_notebook", is_staff=True)
    assert cleaner.get(f"{LIST}{book.pk}/delete/").status_code == 200
    assert Notebook.objects.filter(pk=book.pk).exists()
    assert cleaner.post(f"{LIST}{book.pk}/delete/", {"post": "yes"}).status_code == 302
    assert list(Notebook.objects.all()) == [other]
    assert Cell.objects.count() == 1
    cleaner.post(LIST, {**chosen, "_selected_action": [other.pk]})
    assert not Notebook.objects.exists()


def test_a_user_that_is_removed_takes_the_notebooks_along(boss: Client, book: Notebook) -> None:
    make("grace", "other", cells=1)
    page = boss.post(f"/admin/auth/user/{book.owner.pk}/delete/", {"post": "yes"})
    assert page.status_code == 302
    assert [notebook.slug for notebook in Notebook.objects.all()] == ["other"]
    assert Cell.objects.count() == 1
