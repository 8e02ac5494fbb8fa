"""Calls that the API's own OpenAPI description gives rise to, sent to a real server and judged by it.

Imported late: schemathesis takes seconds, in each process that collects tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import cycle
from typing import Any, Final

import hypothesis
import requests
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.specs.openapi import checks

PATIENCE: Final = 30.0
"""Seconds without a byte after which a call hangs. Two are what is promised; a busy machine needs more."""

STREAM_BYTES: Final = 65_536
"""What is read of a stream, at most."""

STREAM_SECONDS: Final = 0.3
"""For how long a stream is read, at most; then its task is cancelled."""

CHECKS: Final = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
    checks.allow_header_conformance,
)
"""What schemathesis looks at. `not_a_server_error` and `positive_data_acceptance` are done here: a 503 may be
meant, and some reasons for a 422 are no matter of types."""

REFUSED: Final = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "429", "503"]
"""Statuses with which a call may be refused that is not as described."""

SAID_BY_503: Final = ("GET /readyz", "GET /streams/probe/report")
"""Calls whose answer is that the server is not well: nobody knows for how long."""

ANY_TEXT: Final = (
    *("GET /healthz", "GET /readyz", "GET /metrics", "GET /stats"),
    *("GET /streams/{task_id}", "GET /streams/{task_id}/rendered"),
)
"""Calls that cannot be got wrong: without parameters, or with an id that any text may be."""

REASONS: Final = {
    "provider": "which there are is a setting",
    "model": "likewise",
    "priority": "likewise",
    "options": "of the scripted provider alone",
    "topic": "there must be something to see",
    "operation.prompt": "likewise",
    "operation.cursor": "not behind the end of the code",
    "cell_id": "one cell of each id",
    "socket": "there must be one at that path",
}
"""Fields whose value may be refused although it fits its schema, and why."""


@schemathesis.deserializer("application/x-ndjson")
def _lines(context: object, response: Response) -> list[Any]:
    return [json.loads(line) for line in response.content.split(b"\n") if line]


class Examiner:
    """One caller of the server at `url`. `tasks` and `notebooks`: ids of things that it may see."""

    def __init__(
        self, url: str, headers: Mapping[str, str], tasks: Sequence[str], notebooks: Sequence[str] = ()
    ) -> None:
        self.sent = 0
        self.statuses: set[int] = set()
        self.examined: set[str] = set()
        self._url = url
        self._headers = dict(headers)
        self._formats = cycle(("text/event-stream", "application/x-ndjson"))
        known = {"task_id": tasks, "notebook_id": notebooks}
        self._known = {name: cycle(["", *ids]) for name, ids in known.items() if ids}
        self._session = requests.Session()
        self._session.trust_env = False
        self._schema = _description(url)
        self._operations = {
            found.label: found for found in (result.ok() for result in self._schema.get_all_operations())
        }

    @property
    def operations(self) -> set[str]:
        """All that is described: method and path."""
        return set(self._operations)

    def examine(self, label: str, *, covering: int, drawn: int) -> list[str]:
        """What is wrong with the answers of an operation. `covering`: cases out of those that schemathesis
        makes for each border of the description; `drawn`: random ones, fitting and not fitting."""
        complaints: list[str] = []
        operation = self._operations[label]

        def judge(case: Case) -> None:
            complaints.extend(f"{why}\n{case.as_curl_command()[:1000]}" for why in self._faults(case))

        made = list(
            self._schema.iter_coverage_cases(
                operation,
                generation_modes=list(GenerationMode),
                generation_config=self._schema.config.generation_for(operation=operation),
            )
        )
        for case in made[:: max(1, len(made) // covering)]:
            judge(case)
        _draw(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), drawn, judge)
        if label not in ANY_TEXT:
            _draw(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), drawn, judge)
        self.examined.add(label)
        return complaints

    def _faults(self, case: Case) -> Iterator[str]:
        _tame(case.body)
        for name, ids in self._known.items():
            if name in (case.path_parameters or {}) and (known := next(ids)):
                case.path_parameters[name] = known
        try:
            response = self._send(case)
        except requests.RequestException as error:
            yield f"no answer: {error}"
            return
        self.sent += 1
        self.statuses.add(response.status_code)
        if response.status_code >= 500 and not self._is_deliberate(case, response):
            yield f"{response.status_code}: {response.text[:500]}"
        if _is_refused_in_vain(case, response):
            yield f"fits its description, but {response.status_code}: {response.text[:500]}"
        for check in CHECKS:
            if check is checks.negative_data_rejection and _is_overruled(case):
                continue
            try:
                case.validate_response(response, checks=[check], headers=self._headers)
            except (Exception, FailureGroup) as error:
                yield f"{check.__name__}, {response.status_code}: {error}\n{response.text[:500]}"

    def _send(self, case: Case) -> Response:
        """The answer; of a stream that does not end, its beginning."""
        accept = {"Accept": next(self._formats)} if _streams(case) else {}
        transport = case.operation.schema.transport
        call = transport.serialize_case(case, base_url=self._url, headers={**self._headers, **accept})
        begun = time.monotonic()
        answer = self._session.request(**call, stream=True, timeout=PATIENCE, allow_redirects=False)
        with answer:
            cut, content = False, b""
            for chunk in answer.iter_content(None):
                content += chunk
                if task := answer.headers.get("X-Stream-Id"):
                    cut = len(content) > STREAM_BYTES or time.monotonic() - begun > STREAM_SECONDS
                    if cut:
                        break
            headers = {name: answer.raw.headers.getlist(name) for name in answer.raw.headers}
        if cut:
            whole = b"\n\n" if answer.headers["Content-Type"].startswith("text/event-stream") else b"\n"
            content = content[: content.rfind(whole) + len(whole)]
            url = f"{self._url}/streams/{task}"
            self._session.delete(url, headers=self._headers, timeout=PATIENCE).close()
        return Response(
            answer.status_code,
            headers,
            content,
            answer.request,
            time.monotonic() - begun,
            verify=True,
            message=answer.reason,
            encoding=answer.encoding,
            stream_cut_short=cut,
        )

    def _is_deliberate(self, case: Case, response: Response) -> bool:
        known = "retry-after" in response.headers or case.operation.label in SAID_BY_503
        return response.status_code == 503 and known


@cache
def _description(url: str) -> Any:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.base_url = url
    schema.config.checks.negative_data_rejection.expected_statuses = REFUSED
    return schema


def _draw(strategy: Any, count: int, judge: Callable[[Case], None]) -> None:
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def draw(case: Case) -> None:
        judge(case)

    draw()


def _streams(case: Case) -> bool:
    return any("text/event-stream" in response.definition.get("content", {}) for response in _of_200(case))


def _of_200(case: Case) -> Iterable[Any]:
    found = case.operation.responses.get("200")
    return () if found is None else (found,)


def _tame(body: Any) -> None:
    """What would take long, or run just any code: a few words are enough, and one harmless line."""
    if not isinstance(body, dict):
        return
    limit = body.get("max_tokens", 32_768)
    if "user_id" in body and (limit is None or (isinstance(limit, int) and 3 < limit <= 32_768)):
        body["max_tokens"] = 3
    operation = body.get("operation")
    if isinstance(operation, dict) and operation.get("type") == "execute":
        code = operation.get("code")
        operation |= {"code": "1 + 1"} if isinstance(code, str) else {}


def _is_overruled(case: Case) -> bool:
    """Whether a parameter is not looked at: a `Last-Event-ID` is newer than `after` (see `core.cursor`)."""
    return "Last-Event-ID" in (case.headers or {}) and "after" in (case.query or {})


def _is_refused_in_vain(case: Case, response: Response) -> bool:
    """Whether a call that fits the description was told that it does not."""
    parts = case.meta.components.values() if case.meta is not None else ()
    fits = all(part.mode is GenerationMode.POSITIVE for part in parts)
    if not fits or case.method != case.operation.method.upper():
        return False
    if response.status_code not in (400, 406, 413, 415, 422):
        return False
    told = json.loads(response.content)
    faults = told.get("errors", ())
    if faults and all(fault["message"].endswith("got a decimal number.") for fault in faults):
        # To JSON Schema 3.0 is an integer. Here nothing is coerced.
        return False
    if told["code"] == "bad_event_id" and case.method == "POST":
        # With an Idempotency-Key it must be one; without it says nothing.
        return False
    fields = {fault["field"] for fault in faults}
    reasons = {*fields, *(field.rpartition(".")[2] for field in fields)} & REASONS.keys()
    if case.operation.label == "PUT /notebooks/{notebook_id}.ipynb":
        # That is nbformat's own schema; and a file may hold anything, but for what no JSON may.
        return told["code"] not in ("not_a_notebook", "out_of_range", "too_deep")
    return not reasons
