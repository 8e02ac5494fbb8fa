"""Whose kernel it is: light, because views name kernels also where none ever runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """Whose notebook it is, and which."""

    owner: str
    notebook: str
