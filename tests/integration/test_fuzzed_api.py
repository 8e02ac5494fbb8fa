"""Each operation of the API, called as its own OpenAPI description says, and not quite as it says: whatever
comes, the answer is one that is described there, and none is a fault of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.integration.conftest import assert_clean
from tests.support.notebooks import key_of, notebook_server
from tests.support.scale import ALL
from tests.support.servers import Server

if TYPE_CHECKING:
    from tests.support.described import Examiner

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("default")]

COVERING, DRAWN = (100, 30) if ALL else (8, 2)
"""Cases of each operation: of the borders of its description, at most; and random ones, of each kind."""

OPERATIONS = (
    *("POST /content/generate/stream/async", "POST /content/generate", "POST /content/generate/async"),
    *("GET /streams", "GET /streams/{task_id}", "DELETE /streams/{task_id}"),
    *("GET /streams/{task_id}/events", "GET /streams/{task_id}/rendered"),
    *("GET /streams/probe", "GET /streams/probe/report", "GET /stats"),
    *("GET /healthz", "GET /readyz", "GET /metrics"),
    *("POST /tickets", "POST /send_operation"),
    *(f"{method} /notebooks/{{notebook_id}}" for method in ("GET", "PUT", "DELETE")),
    *(f"{method} /notebooks/{{notebook_id}}.ipynb" for method in ("GET", "PUT")),
)

DRAFT = {
    "title": "Kept",
    "cells": [
        {"cell_id": "one", "kind": "code", "source": "1 + 1"},
        {"cell_id": "two", "kind": "markdown", "source": "# 中文"},
    ],
}


@pytest.fixture(
    scope="module",
    params=["no kernel starts", pytest.param("kernels start", marks=pytest.mark.long)],
)
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the providers of a fresh installation, and little room for kernels (if any)."""
    settings = {
        "AGENT_POOL_MAX_WORKERS": "20",
        "AGENT_POOL_PER_OWNER": "50",
        "AGENT_POOL_RUN_TIMEOUT": "5",
        "ALLOW_SCRIPTED_PROVIDER": "false",
        "KERNEL_MAX_KERNELS": "2",
        "KERNEL_POOL_RUN_TIMEOUT": "5",
        "KERNEL_PYTHON": "/bin/false" if request.param == "no kernel starts" else "",
    }
    with notebook_server(tmp_path_factory.mktemp("fuzzed"), **settings) as made:
        yield made
        assert_clean(made)


@pytest.fixture(scope="module", params=["nobody", "ada"])
def examiner(request: pytest.FixtureRequest, house: Server) -> Examiner:
    """Who calls: anybody on this machine, or somebody by an API key, who has streams and notebooks."""
    from tests.support.described import Examiner

    headers = key_of("ada") if request.param == "ada" else {}
    with httpx2.Client(base_url=house.url, headers=headers, trust_env=False, timeout=60) as http:

        def task(**members: Any) -> str:
            brief = {"user_id": "u", "topic": "t", **members}
            return str(http.post("/content/generate/async", json=brief).json()["task_id"])

        tasks = [task(max_tokens=3) for _ in range(3)] + [task()]
        if not headers:
            return Examiner(house.url, headers, tasks)
        assert http.put("/notebooks/kept", json=DRAFT).status_code == 200
        # The first one loads nbformat.
        assert http.get("/notebooks/kept.ipynb").status_code == 200
    return Examiner(house.url, headers, tasks, ["kept"])


def test_all_that_is_described_is_called(examiner: Examiner) -> None:
    assert examiner.operations == set(OPERATIONS)


@pytest.mark.timeout(3600 if ALL else 120)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_one_that_is_described(examiner: Examiner, operation: str) -> None:
    complaints = examiner.examine(operation, covering=COVERING, drawn=DRAWN)
    assert not complaints, "\n\n".join(complaints[:5])


def test_calls_have_succeeded_and_were_refused(examiner: Examiner) -> None:
    """Else the answers above would say little."""
    if missing := set(OPERATIONS) - examiner.examined:
        pytest.skip(f"says something of all operations together; not run here: {len(missing)}")
    print(f"calls: {examiner.sent}, statuses: {sorted(examiner.statuses)}")  # noqa: T201 - with -rP
    assert examiner.statuses >= {200, 202, 204, 400, 404, 422}
