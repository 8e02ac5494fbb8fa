"""Notebooks as `.ipynb` files (nbformat 4.5), out and in.

Synchronous; called in threads. Imported where it is used, because nbformat and what it needs take a tenth of
a server's start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

import nbformat
from django.db import transaction
from django.utils.translation import gettext as _

from streaming.problems import FieldError, Problem
from streaming.validation import cleaned, invalid

from .documents import MAX_CELLS
from .kernels.output import count_of
from .models import MAX_ID, Cell, Notebook
from .store import new_cell_id, next_version, notebook_of

_BAD_IN_ID: Final = re.compile(r"[^A-Za-z0-9_-]|^[_-]")


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
    if not isinstance(values.get("nbformat"), int):
        # nbformat takes it for its first version, in which there is nothing where the cells are now.
        raise Problem(422, "not_a_notebook", _("This is not a notebook."))
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
