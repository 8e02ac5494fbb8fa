"""On what something was measured: machine, system, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]

PACKAGES: Final = (
    *("django", "uvicorn", "uvloop", "httptools", "asgiref", "msgspec", "channels"),
    *("starlette", "sse-starlette", "fastapi", "django-eventstream", "psycopg"),
)


def machine() -> dict[str, Any]:
    """Processor, memory, system, and what else the machine did before."""
    return {
        "system": platform.platform(),
        "processor": _field("/proc/cpuinfo", "model name"),
        "processors": os.cpu_count(),
        "memory_kib": int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]),
        "load_average": os.getloadavg(),
    }


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Of Python, this project and the packages that are there."""
    found = {"python": platform.python_version(), "commit": commit()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """What is checked out; empty where git does not know."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _field(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
