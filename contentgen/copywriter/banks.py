"""The shapes of the word banks; the words themselves live in one set of modules per language.

Fragments in the banks (details, scenes, angles, ...) carry no final full stop: the voice ends them. English
fragments start in lower case so that a voice can put a lead-in before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Category:
    """What there is to say about one field of life."""

    tags: tuple[str, ...]
    scenes: tuple[str, ...]
    aspects: Mapping[str, tuple[str, ...]]
    """A singular noun phrase, and clauses that describe it and can stand alone."""
    tips: tuple[str, ...]
    steps: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Voice:
    """How one tone says it."""

    titles: tuple[str, ...]
    openings: tuple[str, ...]
    audience: tuple[str, ...]
    requirement: tuple[str, ...]
    frames: tuple[str, ...]
    """Lead-ins and tails around a clause (slot ``x``); each is used once in a piece."""
    endings: tuple[str, ...]
    """What ends a fragment without punctuation of its own; used in turn."""
    angles: tuple[str, ...]
    answers: tuple[str, ...]
    """Lead-ins of answers; each is used once in a piece."""
    closings: tuple[str, ...]
    tips_heading: str
    plan_heading: str
    questions_heading: str
    mark: str
    """Goes before headings and list items: an emoji and a space, or nothing."""
    good: str
    like: str
    personal: bool = True
    """Whether this tone tells of own experience."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """Sentence patterns with slots for an aspect, a second one (``other``) and a situation (``when``)."""

    angles: tuple[str, ...]
    moments: tuple[str, ...]
    pairs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bank:
    """All the words of one language."""

    joiner: str
    """Stands between two sentences of a paragraph."""
    capitals: bool
    """Whether a sentence begins with a capital letter."""
    density: float
    """Characters that say as much as one Chinese character; scales the thresholds of the layout."""
    untitled: str
    """Stands for an empty topic."""
    full_topic: str
    whens: tuple[str, ...]
    neutral: Patterns
    personal: Patterns
    """In the first person; for voices that are ``personal``."""
    more_headings: tuple[str, ...]
    note: str
    short_note: str
    categories: Mapping[str, Category]
    voices: Mapping[str, Voice]
