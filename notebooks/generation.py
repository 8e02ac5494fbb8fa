"""Code for the next cell, by whoever writes text here. Nothing of it runs by itself."""

from __future__ import annotations

from typing import Any, Final

PRODUCER: Final = "code"
"""The registered producer, of whichever app; it is known by its name only."""


def arguments(prompt: str, language: str) -> dict[str, Any]:
    """What the producer is called with. `language`: of comments."""
    return {"prompt": prompt, "language": "zh" if language.startswith("zh") else "en"}
