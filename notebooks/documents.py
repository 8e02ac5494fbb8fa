"""Notebooks as documents: what the page shows and saves, and `.ipynb` files (nbformat 4.5).

Synchronous; called in threads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
import nbformat
from django.db import transaction
from django.utils.translation import gettext as _
from msgspec import Meta

from streaming.problems import FieldError, Problem
from streaming.validation import cleaned, faults_of, invalid

from .kernels.output import count_of
from .models import MAX_ID, Cell, Notebook
from .operations import MAX_CODE, check_id
from .store import new_cell_id, next_version, notebook_of

MAX_CELLS: Final = 1_000
"""Cells of a notebook."""

_BAD_IN_ID: Final = re.compile(r"[^A-Za-z0-9_-]|^[_-]")


class CellDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cell as the page saves it. Its outputs stay as they are, but for `clear`."""

    cell_id: str
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


def exported(notebook: Notebook) -> str:
    """The text of an `.ipynb` file, valid for nbformat."""
    document = nbformat.v4.new_notebook(
        metadata={
            **notebook.metadata,
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        },
        cells=[_exported_cell(cell) for cell in notebook.cells.all()],
    )
    if notebook.title:
        document.metadata["title"] = notebook.title
    nbformat.validate(document)
    return str(nbformat.writes(document))


def imported(owner: str, slug: str, values: dict[str, Any]) -> Notebook:
    """A notebook with what an `.ipynb` file says, in place of what it was. Raises `Problem` 422."""
    _give_ids(values)
    try:
        document = nbformat.reads(json.dumps(values), as_version=4)
        nbformat.validate(document)
    except nbformat.ValidationError as error:
        reason = str(error).partition("\n")[0][:300]
        message = _("This is not a notebook: %s") % reason
        raise Problem(422, "not_a_notebook", message) from error
    except Exception as error:
        # nbformat looks into some values before it validates them.
        raise Problem(422, "not_a_notebook", _("This is not a notebook.")) from error
    if len(document.cells) > MAX_CELLS:
        message = _("At most %d cells.") % MAX_CELLS
        raise invalid([FieldError("cells", "too_long", message)])
    metadata = dict(document.metadata)
    title = str(metadata.pop("title", ""))[:200]
    for ours in ("kernelspec", "language_info"):
        metadata.pop(ours, None)
    with transaction.atomic():
        notebook = notebook_of(owner, slug)
        next_version(notebook)
        notebook.title, notebook.metadata = title, cleaned(metadata)
        notebook.save(update_fields=["title", "metadata"])
        notebook.cells.all().delete()
        Cell.objects.bulk_create(_imported_cells(notebook, document.cells))
    return notebook


def _exported_cell(cell: Cell) -> Any:
    common = {"id": cell.cell_id, "metadata": cell.metadata}
    if cell.attachments:
        common["attachments"] = cell.attachments
    if cell.kind == Cell.Kind.MARKDOWN:
        return nbformat.v4.new_markdown_cell(cell.source, **common)
    if cell.kind == Cell.Kind.RAW:
        return nbformat.v4.new_raw_cell(cell.source, **common)
    outputs = [nbformat.from_dict(_exported_output(output)) for output in cell.outputs]
    return nbformat.v4.new_code_cell(
        cell.source, outputs=outputs, execution_count=cell.execution_count, **common
    )


def _exported_output(output: dict[str, Any]) -> dict[str, Any]:
    late = output.get("late", False)
    plain = {name: value for name, value in output.items() if name not in ("late", "display_id")}
    if late and "metadata" in plain:
        plain["metadata"] = {**plain["metadata"], "late": True}
    return plain


def _give_ids(values: dict[str, Any]) -> None:
    """Cells of a file without usable ids of their own get some: nbformat would only warn, into the log."""
    cells = values.get("cells")
    taken: set[str] = set()
    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict):
            cell_id = _BAD_IN_ID.sub("", str(cell.get("id", "")))[:MAX_ID]
            cell["id"] = cell_id if cell_id and cell_id not in taken else new_cell_id()
            taken.add(cell["id"])
    if taken and values.get("nbformat") == 4:
        # The first format in which cells have ids.
        minor = values.get("nbformat_minor")
        values["nbformat_minor"] = max(5, minor) if isinstance(minor, int) else minor


def _imported_cells(notebook: Notebook, cells: Iterable[Any]) -> Iterable[Cell]:
    for position, cell in enumerate(cells):
        yield Cell(
            notebook=notebook,
            cell_id=cell.get("id") or new_cell_id(),
            kind=cell.cell_type,
            position=position,
            source=cleaned(cell.source),
            outputs=cleaned(cell.get("outputs", [])),
            execution_count=count_of(cell),
            metadata=cleaned(dict(cell.metadata)),
            attachments=cleaned(dict(cell.get("attachments", {}))),
        )


def _parse_cell(within: str, values: Any) -> CellDraft:
    if not isinstance(values, dict):
        raise invalid([FieldError(within[:-1], "wrong_type", _("A cell is an object."))])
    try:
        return msgspec.convert(values, CellDraft)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise invalid(faults_of(values, CellDraft, within=within)) from None
