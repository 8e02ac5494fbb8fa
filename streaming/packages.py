"""Versions of packages that nobody shall serve with, and why: a floor that needs no network.

It holds what concerns this service and was known when it was written; `make check` asks the lists of known
vulnerabilities besides (scripts/audit.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Final

from django.utils.version import get_version_tuple

_DJANGO: Final = "CVE-2025-14550, CVE-2026-3902 (repeated headers, underscores), CVE-2026-5766"

FLOORS: Final = (
    ("django", "", "5.2.14", _DJANGO),
    ("django", "6.0", "6.0.5", _DJANGO),
    ("daphne", "", "4.2.2", "CVE-2026-44545 (unlimited messages), CVE-2026-44546 (smuggled headers)"),
    ("asgiref", "", "3.12.0", "all stands still when a client leaves at the wrong moment"),
    ("redis", "", "4.5.5", "CVE-2023-28858, CVE-2023-28859: a call may get the answer to another one"),
)
"""Package, its line (empty: all that is older), the first version that is good, what those before it have."""

HOSTILE: Final = {"litellm": (("1.82.7", "1.82.8"), "malicious releases that send keys and files away")}
"""Package → versions that do harm, and which."""


def faults(versions: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each of the packages (name in lower case → version) that is known to be bad."""
    for name, line, first, reason in FLOORS:
        version = versions.get(name, "")
        if version and get_version_tuple(line) <= get_version_tuple(version) < get_version_tuple(first):
            yield f"{name} {version} is older than {first}: {reason}"
    for name, (bad, reason) in HOSTILE.items():
        if versions.get(name) in bad:
            yield f"{name} {versions[name]}: {reason}"


def installed() -> dict[str, str]:
    """Those of the packages above that are installed here, with their versions."""
    found = {}
    for name in {*HOSTILE, *(name for name, *_ in FLOORS)}:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
