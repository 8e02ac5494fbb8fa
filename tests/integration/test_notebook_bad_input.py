"""What is wrong with an operation or a notebook is told by field, starts nothing, and changes nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx2
import pytest

from notebooks.documents import MAX_CELLS
from notebooks.operations import MAX_CODE, OPERATIONS
from tests.integration.conftest import assert_clean
from tests.support.client import client
from tests.support.notebooks import OPERATION, Headers, below, call, key_of, notebook_server
from tests.support.servers import Server

pytestmark = pytest.mark.server

SOUND: Final = {"notebook_id": "t", "operation": {"type": "status"}, "lang": "en"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """No kernel starts here: nothing must get that far."""
    folder = tmp_path_factory.mktemp("bad-input")
    with notebook_server(folder, KERNEL_PYTHON="/bin/false") as made:
        before = below(made)
        yield made
        assert below(made) == before
        assert_clean(made)


@pytest.fixture
async def http(house: Server) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(house.url, headers=key_of("ada")) as made:
        yield made


def odd(*values: Any) -> tuple[Any, ...]:
    """Values of different types."""
    return values


def fields(answer: httpx2.Response) -> list[str]:
    return [each["field"] for each in answer.json()["errors"]]


# Operations


@pytest.mark.parametrize("value", ["fly", "", "EXECUTE", " execute", "execute\n", "еxecute", "__class__"])
@pytest.mark.parametrize("language", ["en", "zh-hans"])
async def test_an_unknown_type_is_told_with_the_known_ones(
    http: httpx2.AsyncClient, value: str, language: str
) -> None:
    refused = await http.post(OPERATION, json=call("t", value), headers={"Accept-Language": language})
    assert (refused.status_code, fields(refused)) == (422, ["operation.type"])
    assert all(name in refused.json()["errors"][0]["message"] for name in OPERATIONS)


@pytest.mark.parametrize("value", [None, 5, True, [], {}, ["execute"], {"type": "execute"}])
async def test_a_type_that_is_no_text_is_told_with_the_known_ones(
    http: httpx2.AsyncClient, value: Any
) -> None:
    refused = await http.post(OPERATION, json=SOUND | {"operation": {"type": value}})
    assert (refused.status_code, fields(refused)) == (422, ["operation.type"])
    assert all(name in refused.json()["errors"][0]["message"] for name in OPERATIONS)


@pytest.mark.parametrize(
    "value",
    [
        *("../x", "a/b", "..", ".", "", " ", "x" * 65, "x" * 1024, "t\n", "t\r", "\nt", "t t", "t\x00"),
        *("t\ud800", "📓", "ｔ", "é", "-t", "_t", "t.ipynb", "t%00", "%2e%2e", "٣"),
    ],
)
@pytest.mark.parametrize("where", ["notebook_id", "operation.cell_id"])
async def test_an_id_is_not_mended(http: httpx2.AsyncClient, where: str, value: str) -> None:
    body: dict[str, Any] = call("t", "execute", code="1")
    if where == "notebook_id":
        body["notebook_id"] = value
    else:
        body["operation"]["cell_id"] = value
    refused = await http.post(OPERATION, content=json.dumps(body), headers=JSON)
    assert (refused.status_code, refused.json()["code"], fields(refused)) == (400, "invalid_id", [where])


JSON: Final = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *(({"notebook_id": value}, "notebook_id") for value in odd(None, 5, True, 1.5, [], {}, ["t"])),
        *(({"lang": value}, "lang") for value in odd("en_US; rm", "EN", "", "de", 5, True, [], {})),
        *(({"operation": value}, "operation") for value in odd(None, 5, "ping", [], ["ping"], True)),
        ({"more": 1}, "more"),
        ({"__proto__": {}}, "__proto__"),
        ({"id": "t"}, "id"),
    ],
)
async def test_a_wrong_member_is_told(http: httpx2.AsyncClient, changes: dict[str, Any], field: str) -> None:
    refused = await http.post(OPERATION, json=SOUND | changes)
    assert (refused.status_code, fields(refused)) == (422, [field])


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        *(({"type": "execute", "code": value}, "code") for value in odd(None, 5, True, [], {}, ["1"])),
        *(({"type": "execute", "code": "1", "cell_id": value}, "cell_id") for value in odd(5, True, [], {})),
        ({"type": "execute", "code": "x" * (MAX_CODE + 1)}, "code"),
        ({"type": "execute", "code": "1", "silent": True}, "silent"),
        ({"type": "execute"}, "code"),
        *(
            ({"type": kind, "code": "abc", "cursor": value}, "cursor")
            for kind in ("complete", "inspect")
            for value in odd(-1, 4, 2**31, 1.0, 1.5, True, "1", [], {})
        ),
        ({"type": "complete", "code": "📓", "cursor": 2}, "cursor"),
        ({"type": "inspect", "cursor": 0}, "code"),
        *(
            ({"type": "generate", "prompt": value}, "prompt")
            for value in odd(None, 5, "", " \n", "\u200b", [])
        ),
        ({"type": "generate", "prompt": "x" * 20_001}, "prompt"),
        ({"type": "generate"}, "prompt"),
        *(({"type": kind, "code": "1"}, "code") for kind in ("ping", "status", "list", "restart")),
    ],
)
async def test_a_wrong_member_of_an_operation_is_told(
    http: httpx2.AsyncClient, operation: dict[str, Any], field: str
) -> None:
    refused = await http.post(OPERATION, json=SOUND | {"operation": operation})
    assert (refused.status_code, fields(refused)) == (422, [f"operation.{field}"])


async def test_all_wrong_members_are_told_at_once(http: httpx2.AsyncClient) -> None:
    refused = await http.post(OPERATION, json={"lang": 5, "more": 1, "operation": []})
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    assert sorted(fields(refused)) == ["lang", "more", "notebook_id", "operation"]


NO_OBJECTS: Final[list[tuple[bytes, int, str]]] = [
    (b"", 400, "invalid_json"),
    (b"ping", 400, "invalid_json"),
    (b'{"notebook_id":"t","operation":{"type":"ping"}', 400, "invalid_json"),
    (b'{"notebook_id":"t","operation":{"type":"ping"}} x', 400, "invalid_json"),
    (b'{"notebook_id":"t","operation":{"type":"execute","code":"a\nb"}}', 400, "invalid_json"),
    (b'{"notebook_id":NaN}', 400, "invalid_json"),
    (b'{"notebook_id":"a","notebook_id":"b","operation":{"type":"ping"}}', 400, "duplicate_key"),
    (b'{"notebook_id":"t","operation":{"type":"ping","type":"execute","code":"1"}}', 400, "duplicate_key"),
    (b"[]", 400, "object_expected"),
    (b'"ping"', 400, "object_expected"),
    (b"null", 400, "object_expected"),
    (b'{"operation":' + b"[" * 100_000, 400, "too_deep"),
    (b'{"operation":' + b'{"a":' * 40 + b"1" + b"}" * 41, 400, "too_deep"),
    (b'{"notebook_id":"\xe9"}', 400, "not_utf8"),
    ('{"notebook_id":"t"}'.encode("utf-16"), 400, "not_utf8"),
    (b'{"notebook_id":"t","operation":{"type":"complete","code":"a","cursor":1e400}}', 422, "out_of_range"),
    (b'{"a":' + b"9" * 5_000 + b"}", 422, "out_of_range"),
]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", OPERATION), ("PUT", "/notebooks/bad"), ("PUT", "/notebooks/bad.ipynb")],
)
@pytest.mark.parametrize(
    ("body", "status", "code"), NO_OBJECTS, ids=[f"{code}-{body[:24]!r}" for body, _, code in NO_OBJECTS]
)
async def test_what_is_no_object_is_refused_everywhere(
    http: httpx2.AsyncClient, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    refused = await http.request(method, path, content=body, headers=JSON)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", OPERATION), ("PUT", "/notebooks/bad"), ("PUT", "/notebooks/bad.ipynb")],
)
async def test_other_types_and_too_much_are_refused_everywhere(
    http: httpx2.AsyncClient, method: str, path: str
) -> None:
    sound = json.dumps(SOUND)
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=gbk"},
        {"Content-Type": ""},
        {**JSON, "Content-Encoding": "gzip"},
    ):
        refused = await http.request(method, path, content=sound, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type"), headers


async def test_a_body_of_more_than_a_mebibyte_is_refused(http: httpx2.AsyncClient) -> None:
    code = "#" * (2**20 + 1)
    refused = await http.post(OPERATION, json=call("t", "execute", code=code))
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    cells = {"cells": [{"cell_id": "a", "source": code}]}
    refused = await http.put("/notebooks/bad", json=cells)
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (OPERATION, {"POST"}),
        ("/notebooks/t", {"GET", "PUT", "DELETE"}),
        ("/notebooks/t.ipynb", {"GET", "PUT"}),
    ],
)
async def test_other_methods_are_refused_with_the_known_ones(
    http: httpx2.AsyncClient, path: str, methods: set[str]
) -> None:
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - methods:
        refused = await http.request(method, path)
        assert refused.status_code == 405, method
        assert set(refused.headers["Allow"].split(", ")) == methods


# Notebooks


@pytest.mark.parametrize(
    "name", ["-t", "_t", "x" * 65, "%F0%9F%93%93", "t%00", "t%0A", "%2e%2e%2fx", "t%20t"]
)
@pytest.mark.parametrize("suffix", ["", ".ipynb"])
async def test_a_notebook_of_no_possible_name(http: httpx2.AsyncClient, name: str, suffix: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        if method == "DELETE" and suffix:
            continue
        body: dict[str, Any] | None = {"cells": []} if method == "PUT" else None
        refused = await http.request(method, f"/notebooks/{name}{suffix}", json=body)
        assert refused.status_code in (400, 404), (method, refused.text)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, ["cells"]),
        ({"cells": None}, 422, ["cells"]),
        ({"cells": {}}, 422, ["cells"]),
        ({"cells": "x"}, 422, ["cells"]),
        ({"cells": [5]}, 422, ["cells.0"]),
        ({"cells": [[]]}, 422, ["cells.0"]),
        ({"cells": [None]}, 422, ["cells.0"]),
        ({"cells": [{}]}, 422, ["cells.0.cell_id"]),
        ({"cells": [{"cell_id": None}]}, 422, ["cells.0.cell_id"]),
        ({"cells": [{"cell_id": 5}]}, 422, ["cells.0.cell_id"]),
        ({"cells": [{"cell_id": ""}]}, 400, ["cells.0.cell_id"]),
        ({"cells": [{"cell_id": "../x"}]}, 400, ["cells.0.cell_id"]),
        ({"cells": [{"cell_id": "a"}, {"cell_id": "a"}]}, 422, ["cells.1.cell_id"]),
        ({"cells": [{"cell_id": "a", "kind": "html"}]}, 422, ["cells.0.kind"]),
        ({"cells": [{"cell_id": "a", "kind": None}]}, 422, ["cells.0.kind"]),
        ({"cells": [{"cell_id": "a", "source": None}]}, 422, ["cells.0.source"]),
        ({"cells": [{"cell_id": "a", "source": ["x"]}]}, 422, ["cells.0.source"]),
        ({"cells": [{"cell_id": "a", "source": "x" * (MAX_CODE + 1)}]}, 422, ["cells.0.source"]),
        ({"cells": [{"cell_id": "a", "clear": "yes"}]}, 422, ["cells.0.clear"]),
        ({"cells": [{"cell_id": "a", "clear": 1}]}, 422, ["cells.0.clear"]),
        ({"cells": [{"cell_id": "a", "outputs": []}]}, 422, ["cells.0.outputs"]),
        ({"cells": [], "title": None}, 422, ["title"]),
        ({"cells": [], "title": 5}, 422, ["title"]),
        ({"cells": [], "title": "x" * 201}, 422, ["title"]),
        ({"cells": [], "owner": 2}, 422, ["owner"]),
        ({"cells": [], "kernel": {}}, 422, ["kernel"]),
        ({"cells": [{"cell_id": f"c{number}"} for number in range(MAX_CELLS + 1)]}, 422, ["cells"]),
    ],
)
async def test_a_wrong_notebook_changes_nothing(
    http: httpx2.AsyncClient, body: dict[str, Any], status: int, field: list[str]
) -> None:
    kept = {"title": "kept", "cells": [{"cell_id": "one", "source": "1"}]}
    assert (await http.put("/notebooks/kept", json=kept)).status_code == 200
    refused = await http.put("/notebooks/kept", json=body)
    assert (refused.status_code, fields(refused)) == (status, field), refused.text
    shown = (await http.get("/notebooks/kept")).json()
    assert (shown["title"], [cell["source"] for cell in shown["cells"]]) == ("kept", ["1"])


async def test_odd_text_in_a_notebook_is_kept_as_databases_can(http: httpx2.AsyncClient) -> None:
    """A NUL goes, a lone surrogate becomes U+FFFD, a pair of them its character; all else is exact."""
    import nbformat  # late: it takes seconds, in each process that collects tests

    source = "a\u2028\u0085\r\n\t'\"\\ 中文 👩‍👩‍👧 \u202e e\u0301 \x1b[31m"
    text = r"\u0000 \ud800 \ud83d\udcd3"
    body = json.dumps({"cells": [{"cell_id": "a", "source": source + "@"}], "title": "@"})
    saved = await http.put("/notebooks/odd", content=body.replace("@", text), headers=JSON)
    assert saved.status_code == 200, saved.text
    shown = (await http.get("/notebooks/odd")).json()
    assert shown["cells"][0]["source"] == source + " \ufffd 📓"
    assert shown["title"] == " \ufffd 📓"
    exported = await http.get("/notebooks/odd.ipynb")
    assert nbformat.reads(exported.text, as_version=4).cells[0].source == source + " \ufffd 📓"


# Files


def file(*cells: Any, **members: Any) -> dict[str, Any]:
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [*cells], **members}


def cell(**members: Any) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": "a",
        "metadata": {},
        "source": "1",
        "outputs": [],
        "execution_count": None,
        **members,
    }


def output(**members: Any) -> dict[str, Any]:
    return cell(outputs=[{"output_type": "display_data", "metadata": {}, "data": {}, **members}])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"cells": 5},
        {"nbformat": 4},
        file(nbformat=2),
        file(nbformat=99),
        file(nbformat="4"),
        file(nbformat=None),
        file(nbformat=-1),
        file(nbformat=4.5),
        file(nbformat=[]),
        file(nbformat_minor=None),
        file(cells=None),
        file(cells={}),
        file(metadata=[]),
        file(metadata=None),
        file(5),
        file(None),
        file([]),
        file({}),
        file({"cell_type": "code"}),
        file(cell(cell_type="html")),
        file(cell(cell_type=5)),
        file(cell(source=5)),
        file(cell(source=None)),
        file(cell(outputs=5)),
        file(cell(outputs=[5])),
        file(cell(outputs=[{}])),
        file(cell(outputs=[{"output_type": "widget"}])),
        file(cell(execution_count="1")),
        file(cell(execution_count=-1)),
        file(output(data=5)),
        file(output(data={"image/png": 5})),
        file(*(cell(id=f"c{number}") for number in range(MAX_CELLS + 1))),
        {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": 5},
        {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [5]},
        {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": [{}]}]},
    ],
    ids=lambda body: json.dumps(body)[:60],
)
async def test_a_broken_file_changes_nothing(http: httpx2.AsyncClient, body: dict[str, Any]) -> None:
    kept = {"title": "kept", "cells": [{"cell_id": "one", "source": "1"}]}
    assert (await http.put("/notebooks/kept", json=kept)).status_code == 200
    refused = await http.put("/notebooks/kept.ipynb", json=body)
    assert refused.status_code == 422, refused.text
    shown = (await http.get("/notebooks/kept")).json()
    assert (shown["title"], [each["source"] for each in shown["cells"]]) == ("kept", ["1"])


async def round_trip(http: httpx2.AsyncClient, body: dict[str, Any]) -> Any:
    """The file that comes back, valid for nbformat."""
    import nbformat  # late: it takes seconds, in each process that collects tests

    taken = await http.put("/notebooks/file.ipynb", json=body)
    assert taken.status_code == 204, taken.text
    exported = await http.get("/notebooks/file.ipynb")
    document = nbformat.reads(exported.text, as_version=4)
    nbformat.validate(document)
    return document


async def test_an_old_file_is_read(http: httpx2.AsyncClient) -> None:
    old = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {"name": "old"},
        "worksheets": [
            {
                "metadata": {},
                "cells": [
                    {"cell_type": "heading", "level": 2, "metadata": {}, "source": ["Title"]},
                    {
                        "cell_type": "code",
                        "collapsed": False,
                        "input": ["print('one')\n", "2"],
                        "language": "python",
                        "metadata": {},
                        "outputs": [
                            {"output_type": "stream", "stream": "stdout", "text": ["one\n"]},
                            {"output_type": "pyout", "prompt_number": 3, "text": ["2"], "metadata": {}},
                        ],
                        "prompt_number": 3,
                    },
                ],
            }
        ],
    }
    document = await round_trip(http, old)
    assert [each.cell_type for each in document.cells] == ["markdown", "code"]
    assert document.cells[1].source == "print('one')\n2"
    assert [each.output_type for each in document.cells[1].outputs] == ["stream", "execute_result"]
    assert document.cells[1].execution_count == 3


async def test_what_jupyter_keeps_is_kept(http: httpx2.AsyncClient) -> None:
    """Metadata, attachments, raw cells, texts in lines."""
    body = file(
        cell(id="same", metadata={"tags": ["parameters"], "collapsed": True}, source=["a = 1\n", "a"]),
        {
            "cell_type": "markdown",
            "id": "text",
            "metadata": {"slideshow": {"slide_type": "slide"}},
            "source": "![](attachment:a.png)",
            "attachments": {"a.png": {"image/png": "iVBORw0KGgo="}},
        },
        {"cell_type": "raw", "id": "raw", "metadata": {"format": "text/html"}, "source": "<b>"},
        cell(
            id="shown",
            outputs=[
                {
                    "output_type": "display_data",
                    "metadata": {"image/png": {"width": 5}},
                    "data": {"image/png": "iVBORw0KGgo=\n", "text/plain": ["<Figure", ">"]},
                }
            ],
        ),
        metadata={"title": "题目", "authors": [{"name": "A"}]},
    )
    document = await round_trip(http, body)
    assert [each.cell_type for each in document.cells] == ["code", "markdown", "raw", "code"]
    assert document.metadata["title"] == "题目"
    assert document.metadata["authors"] == [{"name": "A"}]
    assert document.cells[0].metadata == {"tags": ["parameters"], "collapsed": True}
    assert document.cells[0].source == "a = 1\na"
    assert document.cells[1].metadata == {"slideshow": {"slide_type": "slide"}}
    assert document.cells[2].metadata == {"format": "text/html"}
    assert document.cells[3].outputs[0].data == {"image/png": "iVBORw0KGgo=\n", "text/plain": "<Figure>"}
    assert document.cells[3].outputs[0].metadata == {"image/png": {"width": 5}}


async def test_a_file_of_a_later_minor_format_is_read(http: httpx2.AsyncClient) -> None:
    document = await round_trip(http, file(cell(), nbformat_minor=9, more="x"))
    assert document.cells[0].source == "1"


async def test_a_file_has_many_values_and_not_any_number(http: httpx2.AsyncClient) -> None:
    document = await round_trip(http, file(cell(), metadata={"figure": [0] * 50_000}))
    assert len(document.metadata["figure"]) == 50_000
    refused = await http.put("/notebooks/file.ipynb", json=file(metadata={"figure": [0] * 200_000}))
    assert (refused.status_code, refused.json()["code"]) == (400, "too_many_values")
    kept = (await http.get("/notebooks/file.ipynb")).json()
    assert len(kept["metadata"]["figure"]) == 50_000


# What is another's


async def test_what_is_anothers_is_not_there(http: httpx2.AsyncClient) -> None:
    grace: Headers = key_of("grace")
    made = {"title": "hers", "cells": [{"cell_id": "a", "source": "secret"}]}
    assert (await http.put("/notebooks/hers", json=made, headers=grace)).status_code == 200
    for method, path in (
        ("GET", "/notebooks/hers"),
        ("GET", "/notebooks/hers.ipynb"),
        ("DELETE", "/notebooks/hers"),
    ):
        refused = await http.request(method, path)
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found"), method
    # The same name is another notebook.
    assert (await http.put("/notebooks/hers", json={"cells": []})).status_code == 200
    assert (await http.put("/notebooks/hers.ipynb", json=file(cell()))).status_code == 204
    shown = (await http.get("/notebooks/hers", headers=grace)).json()
    assert (shown["title"], shown["cells"][0]["source"]) == ("hers", "secret")
    assert (await http.delete("/notebooks/hers")).status_code == 204
    assert (await http.get("/notebooks/hers", headers=grace)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/notebooks/t"),
        ("PUT", "/notebooks/t"),
        ("DELETE", "/notebooks/t"),
        ("GET", "/notebooks/t.ipynb"),
        ("PUT", "/notebooks/t.ipynb"),
    ],
)
async def test_notebooks_are_for_people_who_are_known(house: Server, method: str, path: str) -> None:
    async with client(house.url) as http:
        refused = await http.request(method, path, json={"cells": []} if method == "PUT" else None)
        assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")


async def test_a_number_that_no_database_keeps_is_no_fault_of_the_server(http: httpx2.AsyncClient) -> None:
    for number in (2**31, 10**19):
        answer = await http.put("/notebooks/number.ipynb", json=file(cell(execution_count=number)))
        assert answer.status_code in (204, 422), answer.text


async def test_ids_that_are_no_ids_are_new_ones(http: httpx2.AsyncClient) -> None:
    cells = (cell(id="a", source="1"), cell(id="a", source="2"), cell(source="3"))
    del cells[2]["id"]
    document = await round_trip(http, file(*cells))
    assert [each.source for each in document.cells] == ["1", "2", "3"]
    assert len({each.id for each in document.cells}) == 3


async def test_pictures_in_texts_are_kept(http: httpx2.AsyncClient) -> None:
    text = {
        "cell_type": "markdown",
        "id": "text",
        "metadata": {},
        "source": "![](attachment:a.png)",
        "attachments": {"a.png": {"image/png": "iVBORw0KGgo="}},
    }
    document = await round_trip(http, file(text))
    assert document.cells[0].attachments == {"a.png": {"image/png": "iVBORw0KGgo="}}


async def test_a_notebook_with_figures_is_taken(http: httpx2.AsyncClient) -> None:
    """Ten figures of half a megabyte."""
    picture = base64.b64encode(bytes(range(256)) * 1_500).decode()
    cells = [{**output(data={"image/png": picture}), "id": f"c{number}"} for number in range(10)]
    document = await round_trip(http, file(*cells))
    assert [each.outputs[0].data["image/png"] for each in document.cells] == [picture] * 10


async def test_answers_are_as_they_are_described(http: httpx2.AsyncClient) -> None:
    import jsonschema  # late: it takes seconds, in each process that collects tests

    described = (await http.get("/openapi.json")).json()
    item = described["paths"]["/notebooks/{notebook_id}"]
    saved = await http.put("/notebooks/described", json={"cells": [{"cell_id": "a", "source": "1"}]})
    shown = await http.get("/notebooks/described")
    for method, answer in (("put", saved), ("get", shown)):
        schema = item[method]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), {**schema, "components": described["components"]})
