"""Notebooks as documents: what the page shows and saves.

Synchronous; called in threads.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from django.db import transaction
from django.utils.translation import gettext as _
from msgspec import Meta

from streaming.problems import FieldError, Problem
from streaming.validation import cleaned, faults_of, invalid

from .models import Cell, Notebook
from .operations import ID_PATTERN, MAX_CODE, check_id
from .store import next_version, notebook_of

MAX_CELLS: Final = 1_000
"""Cells of a notebook."""


class CellDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cell as the page saves it. Its outputs stay as they are, but for `clear`."""

    cell_id: Annotated[str, Meta(extra_json_schema={"pattern": ID_PATTERN})]
    kind: Literal["code", "markdown", "raw"] = "code"
    source: Annotated[str, Meta(max_length=MAX_CODE)] = ""
    clear: bool = False


class Draft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole notebook as the page saves it: cells that are not in it are deleted."""

    title: Annotated[str, Meta(max_length=200)] = ""
    cells: Annotated[list[Any], Meta(max_length=MAX_CELLS)]


def parse_draft(values: dict[str, Any]) -> tuple[str, list[CellDraft]]:
    """Title and cells. Raises `Problem` 400 for an unusable id, 422 naming every wrong field."""
    values = {key: cleaned(value) for key, value in values.items()}
    try:
        draft = msgspec.convert(values, Draft)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise invalid(faults_of(values, Draft)) from None
    cells = [_parse_cell(f"cells.{number}.", cleaned(cell)) for number, cell in enumerate(draft.cells)]
    ids = [cell.cell_id for cell in cells]
    for number, cell_id in enumerate(ids):
        check_id(f"cells.{number}.cell_id", cell_id)
        if cell_id in ids[:number]:
            message = _("Another cell has that id.")
            raise invalid([FieldError(f"cells.{number}.cell_id", "not_unique", message)])
    return draft.title, cells


def save(
    owner: str, slug: str, title: str, cells: list[CellDraft], expected_version: int | None = None
) -> None:
    """Replace titles, sources and order. Raises `Problem` 412 when the notebook is not of the
    `expected_version`: then it was changed elsewhere."""
    with transaction.atomic():
        notebook = notebook_of(owner, slug)
        if not next_version(notebook, expected_version):
            raise Problem(412, "changed_meanwhile", _("The notebook was changed in another window."))
        notebook.title = title
        notebook.save(update_fields=["title"])
        known = {cell.cell_id: cell for cell in notebook.cells.all()}
        for position, draft in enumerate(cells):
            cell = known.pop(draft.cell_id, None) or Cell(notebook=notebook, cell_id=draft.cell_id)
            cell.position, cell.kind, cell.source = position, draft.kind, draft.source
            if draft.clear:
                cell.outputs, cell.execution_count, cell.dropped_chars = [], None, 0
            cell.save()
        Cell.objects.filter(pk__in=[cell.pk for cell in known.values()]).delete()


def shown(notebook: Notebook) -> dict[str, Any]:
    """For the page."""
    return {
        "notebook_id": notebook.slug,
        "title": notebook.title,
        "version": notebook.version,
        "cells": [
            {
                "cell_id": cell.cell_id,
                "kind": cell.kind,
                "source": cell.source,
                "outputs": cell.outputs,
                "dropped_chars": cell.dropped_chars,
                "execution_count": cell.execution_count,
                "stream": cell.stream or None,
            }
            for cell in notebook.cells.all()
        ],
    }


def _parse_cell(within: str, values: Any) -> CellDraft:
    if not isinstance(values, dict):
        raise invalid([FieldError(within[:-1], "wrong_type", _("A cell is an object."))])
    try:
        return msgspec.convert(values, CellDraft)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise invalid(faults_of(values, CellDraft, within=within)) from None
