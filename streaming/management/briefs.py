"""Briefs that are given to a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def brief_of(text: str) -> dict[str, Any]:
    """A JSON object, or the one in the file of that name. Raises `ValueError` in words for people."""
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"--brief: neither a JSON object nor a file: {error}") from error
    try:
        brief = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--brief: {error}") from error
    if not isinstance(brief, dict):
        raise ValueError("--brief: expected a JSON object")
    return brief
