"""Imports go one way: apps → edges of `streaming` → `streaming/runtime` → `streaming/core`, never back.

Every import counts, also one inside a function or under `TYPE_CHECKING`: a type is a dependency, too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APPS = ("contentgen", "notebooks", "accounts")

# Threads, clocks, chance and I/O of the standard library: to the core they come as arguments, if at all.
IMPURE = {
    "asyncio",
    "concurrent",
    "http",
    "multiprocessing",
    "queue",
    "random",
    "sched",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "urllib",
}
THIRD_PARTY = {
    "core": {"msgspec"},
    "runtime": {"msgspec", "redis", "celery"},
}
# Behind the public API: an app that needs one of these needs a better API.
PRIVATE = ("streaming.runtime", "streaming.models", "streaming.storage", "streaming.cluster")


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def layer(name: str) -> str:
    """The layer of a module, or of a name in it; "outside" for all that is not ours."""
    if inside(name, "streaming.core"):
        return "core"
    if inside(name, "streaming.runtime"):
        return "runtime"
    if inside(name, "streaming"):
        return "edge"
    return "app" if inside(name, *APPS) else "outside"


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything imported; `from a import b` is `a.b`, be `b` a module or not."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def fault(module: str, imported: str) -> str | None:
    """Why `module` must not import `imported`; None if it may."""
    here, there = layer(module), layer(imported)
    top = imported.partition(".")[0]
    if here == "app":
        return "is behind the public API" if inside(imported, *PRIVATE) else None
    if there == "app":
        return "is an app, and streaming knows none"
    if here == "edge":
        return None
    allowed = {"core": {"core"}, "runtime": {"core", "runtime"}}[here]
    if there != "outside":
        return None if there in allowed else f"is of a layer above {here}"
    if here == "core" and top in IMPURE:
        return "is no part of a pure core"
    if top in sys.stdlib_module_names or top in THIRD_PARTY[here]:
        return None
    return f"is no dependency of {here}"


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    return [
        f"{module}:{line}: {name} {reason}"
        for line, name in imports(source, module, is_package)
        if (reason := fault(module, name))
    ]


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {}
    for package in ("streaming", *APPS):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_layer_and_below(module):
    path = MODULES[module]
    assert faults(path.read_text(encoding="utf-8"), module, path.stem == "__init__") == []


def test_the_modules_are_found():
    """A check that looks at nothing finds nothing."""
    assert {"streaming.core", "streaming.core.sse", "streaming.runtime.ledger"} <= MODULES.keys()
    assert {layer(module) for module in MODULES} >= {"core", "runtime", "app"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("streaming.core.x", "import django"),
        ("streaming.core.x", "from django.conf import settings"),
        ("streaming.core.x", "import httpx2"),
        ("streaming.core.x", "import redis"),
        ("streaming.core.x", "import asyncio"),
        ("streaming.core.x", "from time import monotonic"),
        ("streaming.core.x", "import json, numpy"),
        ("streaming.core.x", "from streaming.runtime.ledger import Ledger"),
        ("streaming.core.x", "from streaming import runtime"),
        ("streaming.core.x", "from streaming import stream"),
        ("streaming.core.x", "import streaming"),
        ("streaming.core.x", "from streaming import *"),
        ("streaming.core.x", "from ..runtime import ledger"),
        ("streaming.core.x", "from .. import runtime"),
        ("streaming.core.x", "from ..conf import limits"),
        ("streaming.core.x", "from ...contentgen import brief"),
        ("streaming.core.x", "def f():\n    import django"),
        ("streaming.core.x", "if TYPE_CHECKING:\n    from streaming.runtime import task"),
        ("streaming.core.x", "try:\n    import orjson\nexcept ImportError:\n    import json"),
        ("streaming.runtime.x", "from django.db import connection"),
        ("streaming.runtime.x", "import httpx2"),
        ("streaming.runtime.x", "from asgiref.sync import sync_to_async"),
        ("streaming.runtime.x", "from streaming import conf"),
        ("streaming.runtime.x", "from streaming.storage.records import save"),
        ("streaming.runtime.x", "from ..models import StreamTask"),
        ("streaming.runtime.journals.x", "from ... import models"),
        ("streaming.views", "import contentgen"),
        ("streaming.views", "from contentgen.brief import Brief"),
        ("streaming.management.commands.x", "from notebooks import sessions"),
        ("streaming.runtime.x", "from contentgen import brief"),
        ("contentgen.views", "from streaming.runtime import supervisor"),
        ("contentgen.views", "import streaming.runtime.ledger"),
        ("contentgen.views", "from streaming import models"),
        ("contentgen.views", "from streaming.models import StreamTask"),
        ("contentgen.providers.x", "from streaming.storage.records import save"),
        ("notebooks.views", "from streaming import storage"),
    ],
)
def test_a_planted_import_in_the_wrong_direction_is_caught(module, source):
    assert len(faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("streaming.core.x", "from __future__ import annotations\nimport math, msgspec"),
        ("streaming.core.x", "from . import events\nfrom .errors import BadCursor"),
        ("streaming.core.x", "from streaming.core import sse"),
        ("streaming.core.x", "import streaming.core.sse"),
        ("streaming.runtime.x", "import asyncio, threading, msgspec, redis"),
        ("streaming.runtime.x", "from celery.app import Celery"),
        ("streaming.runtime.x", "from ..core.states import State\nfrom .ledger import Ledger"),
        ("streaming.runtime.journals.x", "from .. import ports\nfrom .base import Journal"),
        ("streaming.views", "import django, ninja\nfrom .runtime import supervisor\nfrom . import models"),
        ("streaming.management.commands.x", "from streaming.models import StreamTask"),
        ("contentgen.views", "import django\nfrom streaming import start, stream\nfrom . import brief"),
        ("contentgen.views", "from streaming.core.events import Finish\nfrom streaming.views import View"),
        ("contentgen.views", "from streaming.records_of_something_else import x"),
    ],
)
def test_an_import_in_the_right_direction_passes(module, source):
    assert faults(source, module) == []


def test_a_package_resolves_relative_imports_from_itself():
    assert list(imports("from . import a\nfrom .b import c", "streaming.core", is_package=True)) == [
        (1, "streaming.core.a"),
        (2, "streaming.core.b.c"),
    ]


def test_a_fault_names_its_place():
    (message,) = faults("import json\nimport django\n", "streaming.core.x")
    assert message == "streaming.core.x:2: django is no dependency of core"
