"""Notebooks in the database: what cells said is kept, a whole notebook is replaced, and read again.

Synchronous; called in threads.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Case, Count, F, Max, Value, When
from django.utils import timezone

from .models import Cell, Notebook


def new_cell_id() -> str:
    """An id as Jupyter gives them."""
    return uuid.uuid4().hex[:12]


def notebook_of(owner: str, slug: str) -> Notebook:
    """The owner's notebook of that name; made if there is none."""
    found = find(owner, slug)
    if found is None:
        user = get_user_model().objects.get(pk=owner)
        found, _ = Notebook.objects.get_or_create(owner=user, slug=slug)
    return found


def find(owner: str, slug: str) -> Notebook | None:
    """The owner's notebook of that name."""
    return Notebook.objects.filter(owner__pk=owner, slug=slug).first()


def delete(owner: str, slug: str) -> bool:
    """Delete the owner's notebook of that name; False if there is none."""
    return bool(Notebook.objects.filter(owner__pk=owner, slug=slug).delete()[0])


def begin_cell(owner: str, slug: str, cell_id: str, source: str, stream: str) -> None:
    """A cell is about to run, as `stream`: its source is kept, also if nobody hears of it again."""
    with transaction.atomic():
        notebook = notebook_of(owner, slug)
        cell = Cell.objects.filter(notebook=notebook, cell_id=cell_id).first()
        if cell is None or cell.source != source:
            next_version(notebook)
        if cell is None:
            last = notebook.cells.aggregate(last=Max("position"))["last"]
            cell = Cell(notebook=notebook, cell_id=cell_id, position=0 if last is None else last + 1)
        cell.source, cell.stream = source, stream
        cell.save()


def end_cell(
    owner: str,
    slug: str,
    cell_id: str,
    stream: str,
    *,
    updates: Mapping[str, dict[str, Any]] | None = None,
    **result: Any,
) -> None:
    """What became of the run `stream`: fields of the cell, none if nothing ran. A cell that was deleted
    meanwhile stays so. `updates`: new contents of what other cells show, by display id."""
    if updates:
        _update_displays(owner, slug, updates)
    cells = Cell.objects.filter(notebook__owner__pk=owner, notebook__slug=slug, cell_id=cell_id)
    # If it is to run once more already, that run's outputs are still to come.
    awaited = Case(When(stream=stream, then=Value("")), default=F("stream"))
    cells.update(**result, stream=awaited, updated_at=timezone.now())


def _update_displays(owner: str, slug: str, updates: Mapping[str, dict[str, Any]]) -> None:
    with transaction.atomic():
        cells = Cell.objects.select_for_update(of=("self",))
        for cell in cells.filter(notebook__owner__pk=owner, notebook__slug=slug):
            shown = [each for each in cell.outputs if each.get("display_id") in updates]
            for output in shown:
                output.update(updates[output["display_id"]])
            if shown:
                cell.save(update_fields=["outputs", "updated_at"])


def add_late(owner: str, slug: str, cell_id: str, outputs: Iterable[dict[str, Any]]) -> None:
    """What a cell's threads said after its end."""
    with transaction.atomic():
        cells = Cell.objects.select_for_update(of=("self",))
        cell = cells.filter(notebook__owner__pk=owner, notebook__slug=slug, cell_id=cell_id).first()
        if cell is None:
            return
        for output in outputs:
            last = cell.outputs[-1] if cell.outputs else {}
            if "text" in output and last.get("late") and last.get("name") == output["name"]:
                last["text"] += output["text"]
            else:
                cell.outputs.append({**output, "late": True})
        cell.save(update_fields=["outputs", "updated_at"])


def next_version(notebook: Notebook, expected: int | None = None) -> bool:
    """The notebook has changed; False if its version is not the `expected` one, so that it may not."""
    found = Notebook.objects.filter(pk=notebook.pk)
    if expected is not None:
        found = found.filter(version=expected)
    if not found.update(version=F("version") + 1, updated_at=timezone.now()):
        return False
    notebook.refresh_from_db(fields=["version", "updated_at"])
    return True


def listed(owner: str) -> list[dict[str, Any]]:
    """The owner's notebooks, the last changed first."""
    notebooks = Notebook.objects.filter(owner__pk=owner).annotate(size=Count("cells"))
    return [
        {
            "notebook_id": notebook.slug,
            "title": notebook.title,
            "cells": notebook.size,
            "updated_at": notebook.updated_at.isoformat(),
        }
        for notebook in notebooks
    ]
