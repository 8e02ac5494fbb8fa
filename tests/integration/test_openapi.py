"""The description of the API, and its page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from contentgen.brief import schema
from notebooks.operations import OPERATIONS

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("clean_log")]

OWED = {
    "/content/generate/stream/async": {"post"},
    "/content/generate": {"post"},
    "/content/generate/async": {"post"},
    "/streams": {"get"},
    "/streams/{task_id}": {"get", "delete"},
    "/streams/{task_id}/events": {"get"},
    "/send_operation": {"post"},
    "/notebooks/{notebook_id}": {"get", "put", "delete"},
    "/notebooks/{notebook_id}.ipynb": {"get", "put"},
    "/stats": {"get"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}


@pytest.fixture
async def described(http: httpx2.AsyncClient) -> dict[str, Any]:
    response = await http.get("/openapi.json")
    assert response.status_code == 200
    described: dict[str, Any] = response.json()
    return described


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    methods = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
    for path, item in described["paths"].items():
        for method in methods:
            if method in item:
                yield path, method, item[method]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


async def test_it_is_openapi_3_1(described: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", described["openapi"])
    assert described["info"]["title"]
    assert described["info"]["version"]
    known = {
        "openapi",
        "info",
        "servers",
        "paths",
        "components",
        "security",
        "tags",
        "externalDocs",
        "webhooks",
    }
    assert set(described) <= known | {"jsonSchemaDialect"}


async def test_every_owed_call_is_described(described: dict[str, Any]) -> None:
    found: dict[str, set[str]] = {}
    for path, method, _ in operations(described):
        found.setdefault(path, set()).add(method)
    assert {path: found.get(path, set()) & methods for path, methods in OWED.items()} == OWED


async def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    for reference in set(references(described)):
        place: Any = described
        assert reference.startswith("#/"), reference
        for step in reference[2:].split("/"):
            assert step in place, reference
            place = place[step]


async def test_operation_ids_are_unique(described: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(names) == len(set(names))


async def test_responses_are_well_formed(described: dict[str, Any]) -> None:
    for path, method, operation in operations(described):
        assert operation["responses"], (path, method)
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5](\d\d|XX)|default", str(status)), (path, method)
            assert response["description"], (path, method, status)


async def test_parameters_are_well_formed(described: dict[str, Any]) -> None:
    for path, method, operation in operations(described):
        parameters = operation.get("parameters", [])
        assert all(
            each["in"] in ("path", "query", "header", "cookie") and "schema" in each for each in parameters
        )
        declared = {each["name"] for each in parameters if each["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path)), (path, method)
        assert all(each["required"] is True for each in parameters if each["in"] == "path")


async def test_the_brief_is_the_one_that_is_checked(described: dict[str, Any]) -> None:
    reference, components = schema()
    assert {name: described["components"]["schemas"][name] for name in components} == components
    for path in ("/content/generate/stream/async", "/content/generate", "/content/generate/async"):
        body = described["paths"][path]["post"]["requestBody"]
        assert body["content"]["application/json"]["schema"] == reference


async def test_the_example_is_accepted(http: httpx2.AsyncClient, described: dict[str, Any]) -> None:
    body = described["paths"]["/content/generate"]["post"]["requestBody"]
    example = body["content"]["application/json"]["example"] | {"max_tokens": 2}
    assert (await http.post("/content/generate", json=example)).status_code == 200


def operation_schema(described: dict[str, Any]) -> dict[str, Any]:
    """The schema of what `POST /send_operation` takes, with all that it refers to."""
    import jsonschema  # late: it takes seconds, in each process that collects tests

    body = described["paths"]["/send_operation"]["post"]["requestBody"]["content"]["application/json"]
    jsonschema.Draft202012Validator.check_schema(body["schema"])
    return {**body["schema"], "components": described["components"]}


async def test_every_operation_is_described_and_told_apart_by_its_type(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    operation = schemas["NotebookCall"]["properties"]["operation"]
    assert operation["discriminator"]["propertyName"] == "type"
    assert set(operation["discriminator"]["mapping"]) == set(OPERATIONS)
    for name, place in operation["discriminator"]["mapping"].items():
        kind = schemas[place.rpartition("/")[2]]
        assert kind["properties"]["type"] == {"enum": [name]}
        assert {*kind["properties"]} - {"type"} == {*OPERATIONS[name].__struct_fields__}


async def test_names_that_events_share_with_operations_are_still_the_events(
    described: dict[str, Any],
) -> None:
    schemas = described["components"]["schemas"]
    assert "duration_ms" in schemas["Complete"]["properties"]
    assert "elapsed_seconds" in schemas["Ping"]["properties"]


@pytest.mark.parametrize(
    ("body", "sound"),
    [
        ({"notebook_id": "t", "operation": {"type": "ping"}}, True),
        ({"notebook_id": "t", "operation": {"type": "ping"}, "lang": None}, True),
        ({"notebook_id": "t", "operation": {"type": "fly"}}, False),
        ({"notebook_id": "t", "operation": {"type": "ping", "more": 1}}, False),
        ({"notebook_id": "t", "operation": {"type": "execute", "code": 5}}, False),
        ({"notebook_id": "t", "operation": {"type": "complete", "code": "x", "cursor": -1}}, False),
        ({"notebook_id": "a/b", "operation": {"type": "ping"}}, False),
        ({"notebook_id": "t", "operation": {"type": "ping"}, "lang": "de"}, False),
        ({"notebook_id": "t"}, False),
    ],
)
async def test_the_description_of_operations_says_what_the_server_does(
    http: httpx2.AsyncClient, described: dict[str, Any], body: dict[str, Any], sound: bool
) -> None:
    import jsonschema  # late: it takes seconds, in each process that collects tests

    validator = jsonschema.Draft202012Validator(operation_schema(described))
    assert validator.is_valid(body) is sound
    answer = await http.post("/send_operation", json=body)
    assert (answer.status_code == 200) is sound, answer.text


async def test_the_page_loads_nothing_from_elsewhere(http: httpx2.AsyncClient) -> None:
    page = await http.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)["']""", page.text)
    assert loaded
    assert all(place.startswith("/") and not place.startswith("//") for place in loaded)
    assert not re.search(r"https?://|@import", page.text)


async def test_what_the_page_loads_is_there(http: httpx2.AsyncClient) -> None:
    page = await http.get("/docs")
    for place in set(re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)["']""", page.text)):
        assert (await http.get(place)).status_code == 200, place
