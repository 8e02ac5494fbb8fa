"""The table of a profile: samples counted once, by function and layer, waiting threads left out."""

from __future__ import annotations

import pytest

from benchmarks.hot_path_profile import Function, ProfileError, layer_of, read_stacks, render, retitled
from tests.support.servers import ROOT

LIB = "/usr/lib/python3.11"
SITE = f"{LIB}/site-packages"

STACKS = [
    f"run ({SITE}/uvicorn/server.py:60);take ({ROOT}/streaming/runtime/follower.py:130) 6",
    f"run ({SITE}/uvicorn/server.py:60);take ({ROOT}/streaming/runtime/follower.py:130);"
    f"take ({ROOT}/streaming/runtime/follower.py:130);frame ({ROOT}/streaming/core/sse.py:49) 3",
    f"run ({SITE}/uvicorn/server.py:60) 1",
    f"_bootstrap ({LIB}/threading.py:1);_worker ({LIB}/concurrent/futures/thread.py:69) 40",
    f"write ({ROOT}/streaming/storage/records.py:9);Condition.wait ({LIB}/threading.py:295) 50",
    "",
]

RUN = Function("run", f"{SITE}/uvicorn/server.py:60")
TAKE = Function("take", f"{ROOT}/streaming/runtime/follower.py:130")


def test_self_is_the_innermost_and_total_counts_a_function_once():
    profile = read_stacks(STACKS)
    assert (profile.samples, profile.waiting) == (10, 90)
    assert (profile.own[RUN], profile.total[RUN]) == (1, 10)
    assert (profile.own[TAKE], profile.total[TAKE]) == (6, 9)
    assert profile.layers() == [("runtime", 0.6), ("core", 0.3), ("event loop and server", 0.1)]


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        (f"{ROOT}/streaming/core/sse.py:1", "core"),
        (f"{ROOT}/streaming/runtime/pump.py:1", "runtime"),
        (f"{ROOT}/streaming/storage/records.py:1", "storage"),
        (f"{ROOT}/streaming/cluster/processes.py:1", "storage"),
        (f"{ROOT}/streaming/handler.py:1", "streaming edges"),
        (f"{ROOT}/contentgen/views.py:1", "provider and views"),
        (f"{SITE}/django/core/handlers/asgi.py:1", "Django and middleware"),
        (f"{ROOT}/.venv/lib/python3.11/site-packages/asgiref/sync.py:1", "Django and middleware"),
        (f"{SITE}/msgspec/json.py:1", "other packages"),
        (f"{LIB}/asyncio/tasks.py:1", "event loop and server"),
        (f"{LIB}/json/encoder.py:1", "standard library"),
        ("uvloop/loop.pyx:1", "event loop and server"),
        ("<frozen abc>:117", "standard library"),
    ],
)
def test_each_file_has_its_layer(path, layer):
    assert layer_of(path) == layer


def test_the_page_names_layers_and_functions_without_paths_of_the_machine():
    page = render({"short": read_stacks(STACKS)}, {"short": "Short streams"}, ["a fact"])
    assert "- a fact" in page
    assert "## Short streams" in page
    assert "| runtime | 60.0% |" in page
    assert "| runtime | `take` | streaming/runtime/follower.py:130 | 60.0% | 90.0% |" in page
    assert "| event loop and server | `run` | uvicorn/server.py:60 | 10.0% | 100.0% |" in page
    assert str(ROOT) not in page
    assert "_worker` |" not in page


@pytest.mark.parametrize("lines", [[], [""], [STACKS[3]]])
def test_nothing_seen_is_a_failure(lines):
    with pytest.raises(ProfileError, match="no sample"):
        read_stacks(lines)


def test_another_format_is_a_failure():
    with pytest.raises(ProfileError, match="raw format"):
        read_stacks(["<svg version='1.1'>"])


def test_a_flame_graph_does_not_name_the_command():
    svg = '<text id="title" x="50%">/somewhere/py-spy record</text><text id="details">x</text>'
    assert retitled(svg, "A & B") == '<text id="title" x="50%">A &amp; B</text><text id="details">x</text>'
