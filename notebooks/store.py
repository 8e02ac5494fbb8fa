"""Notebooks in the database: what cells said is kept, a whole notebook is replaced, and read again.

Synchronous; called in threads.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction
from django.db.models import Count, Max
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


def begin_cell(owner: str, slug: str, cell_id: str, source: str) -> None:
    """A cell is about to run: its source is kept, also if nobody hears of it again."""
    with transaction.atomic():
        notebook = notebook_of(owner, slug)
        changed = Cell.objects.filter(notebook=notebook, cell_id=cell_id).update(source=source)
        if not changed:
            last = notebook.cells.aggregate(last=Max("position"))["last"]
            position = 0 if last is None else last + 1
            Cell.objects.create(notebook=notebook, cell_id=cell_id, source=source, position=position)


def end_cell(
    owner: str, slug: str, cell_id: str, outputs: Sequence[dict[str, Any]], execution_count: int | None
) -> None:
    """What a cell said, and its number. A cell that was deleted meanwhile stays so."""
    cells = Cell.objects.filter(notebook__owner__pk=owner, notebook__slug=slug, cell_id=cell_id)
    cells.update(outputs=list(outputs), execution_count=execution_count, updated_at=timezone.now())


def add_late(owner: str, slug: str, cell_id: str, outputs: Iterable[dict[str, Any]], limit: int) -> None:
    """What a cell's threads said after its end; not more than `limit` outputs are kept."""
    with transaction.atomic():
        cells = Cell.objects.select_for_update(of=("self",))
        cell = cells.filter(notebook__owner__pk=owner, notebook__slug=slug, cell_id=cell_id).first()
        if cell is not None and len(cell.outputs) < limit:
            cell.outputs = [*cell.outputs, *outputs]
            cell.save(update_fields=["outputs"])


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
