"""The documentation names what there is: settings, events, codes, endpoints, checks, commands, files.

What there is comes from the code itself; what is documented is what stands between backticks in a table or a
sentence of `docs/`, so that a word in prose does not count.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from django.conf import settings
from django.core.management import get_commands
from django.urls import get_resolver

import contentgen.brief
import contentgen.conf
import contentgen.script
from notebooks.kernels.limits import GatewayConfig, KernelLimits
from streaming import conf, problems
from streaming.core import errors, events, routing, states, strict_json
from streaming.core.diagnosis import Arrival, Observation, diagnose
from streaming.doctor.client import Target
from streaming.doctor.rounds import Round, metrics_of
from streaming.metrics.exposition import all_metrics
from streaming.shortcuts import Options

ROOT = Path(__file__).resolve().parents[2]
DOCS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES = {
    **{f"docs/{name}": text for name, text in DOCS.items()},
    "README.md": (ROOT / "README.md").read_text(encoding="utf-8"),
    "SECURITY.md": (ROOT / "SECURITY.md").read_text(encoding="utf-8"),
}

CONFIGS: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "SSE_CONFIG": ("SSE", conf.SSEConfig),
    "BUFFER_CONFIG": ("BUFFER", conf.BufferConfig),
    "SERVER_CONFIG": ("SERVER", conf.ServerConfig),
    "ACCESS_CONFIG": ("ACCESS", conf.AccessConfig),
    "CACHE_CONFIG": ("CACHE", conf.CacheConfig),
    "QUOTA_CONFIG": ("QUOTA", conf.QuotaConfig),
    "KERNEL_CONFIG": ("KERNEL", KernelLimits),
    "KERNEL_GATEWAY": ("KERNEL_GATEWAY", GatewayConfig),
    "METRICS_CONFIG": ("METRICS", conf.MetricsConfig),
    "ALERT_CONFIG": ("ALERT", conf.AlertConfig),
    "OPENAI_CONFIG": ("OPENAI", contentgen.conf.OpenAIConfig),
    "THREAD_CONFIG": ("AGENT_POOL", conf.PoolConfig),
}
ROUTED: list[routing.Reason] = [
    reason
    for reason in routing.Reason
    if reason not in (routing.Reason.QUEUE_FULL, routing.Reason.OWNER_LIMIT, routing.Reason.DRAINING)
    and reason not in routing.QUOTAS
]
"""Reasons that a reader can see; the others are refusals."""

KNOWN_FOLDERS = ("streaming/core", "streaming/runtime")
"""Where a file may be that is named without its folder."""

PROBLEM_CALLS = {"Problem": 1, "FieldError": 1}
"""Calls whose positional argument of that number is a code."""


# What the code has


def called_with_literal(source: str, calls: dict[str, int]) -> set[str]:
    """The literal strings at the given position of the calls, by the last part of the callee's name."""
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in calls and len(node.args) > calls[name]:
            argument = node.args[calls[name]]
            found |= {
                each.value
                for each in ast.walk(argument)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
    return found


def assigned_literals(source: str, name: str) -> set[str]:
    """The literal strings that are assigned to `name` (conditions left out)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == name for target in node.targets):
            values = (
                [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
            )
            found |= {
                value.value
                for value in values
                if isinstance(value, ast.Constant) and isinstance(value.value, str)
            }
    return found


def keyword_literals(source: str, keyword: str) -> set[str]:
    """The literal strings given as `keyword=…` in any call."""
    return {
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.keyword)
        and node.arg == keyword
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def env_variables(source: str) -> set[str]:
    """The variables that `env.kind("NAME", …)` and the functions of settings/environment.py read."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and READERS.fullmatch(ast.unparse(node.func))
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            found.add(node.args[0].value)
    return found


READERS = re.compile(r"env\.\w+|cookie_name|flag|number|one_of|origins|mail|database")


def sources(*packages: str) -> Iterator[str]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.read_text(encoding="utf-8")


def members(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


def setting_keys() -> set[str]:
    keys = {key for _, kind in CONFIGS.values() for key in members(kind)}
    for setting in ("SSE_CONFIG", "BUFFER_CONFIG", "SERVER_CONFIG", "PRIORITIES"):
        keys |= set(getattr(settings, setting))
    for name, pool in settings.THREAD_CONFIG.items():
        keys |= {name, *pool}
    return keys


def setting_variables() -> set[str]:
    variables = set().union(*map(env_variables, sources("settings")))
    for setting, (prefix, _) in CONFIGS.items():
        if setting != "THREAD_CONFIG":
            variables |= {f"{prefix}_{key}".upper() for key in getattr(settings, setting)}
    for name, pool in settings.THREAD_CONFIG.items():
        variables |= {f"{name}_{key}".upper() for key in pool}
    return variables


def problem_codes() -> set[str]:
    codes = set(problems.TITLES) | {error.code for error in cursor_errors()}
    codes |= set(get_args(strict_json.Code))
    for source in sources("streaming", "contentgen", "notebooks", "accounts"):
        codes |= called_with_literal(source, PROBLEM_CALLS)
        if "FieldError(" in source:
            codes |= assigned_literals(source, "code")
    return codes


def cursor_errors() -> list[type[errors.StreamError]]:
    return [*errors.CursorError.__subclasses__(), errors.TaskNotFound]


def error_codes() -> set[str]:
    return {error.code for error in errors.generation_errors()}


def event_members() -> set[str]:
    found = {name for kind in events.ALL for name in members(kind)}
    return found | members(events.Timing)


def check_ids() -> set[str]:
    found: set[str] = set()
    for app in ("streaming", "contentgen", "notebooks", "accounts"):
        for source in sources(app):
            found |= {
                text for text in keyword_literals(source, "id") if re.fullmatch(r"\w+\.[EW]\d{3}", text)
            }
    return found


def commands() -> set[str]:
    return {
        name
        for name, app in get_commands().items()
        if app in ("streaming", "contentgen", "notebooks", "accounts")
    }


@cache
def endpoints() -> set[str]:
    get_resolver().url_patterns  # noqa: B018 (loads the URLs, which add to the description)
    from streaming.api import api

    described: dict[str, Any] = api.get_openapi_schema(path_prefix="")
    return {
        f"{method.upper()} {path}"
        for path, operations in described["paths"].items()
        for method in operations
        if method != "head"
    }


# What the documentation has


def quoted(text: str) -> set[str]:
    """What stands in backticks, in prose and tables; fenced blocks are examples and do not count."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", prose))


def section(text: str, heading: str) -> str:
    """From the heading that begins with `heading` to the next of the same or a higher level."""
    match = re.search(rf"^(#+) {re.escape(heading)}.*$", text, flags=re.MULTILINE)
    if match is None:
        return ""
    rest = text[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, flags=re.MULTILINE)
    return rest[: end.start()] if end else rest


def undocumented(names: Iterable[str], text: str) -> list[str]:
    """The names that do not stand in backticks anywhere in `text`."""
    known = quoted(text)
    return sorted(set(names) - known)


def examples(text: str) -> list[dict[str, Any]]:
    """The events in fenced blocks, except those that were shortened."""
    found = []
    for block in re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            line = line.removeprefix("data: ")
            if line.startswith('{"') and "…" not in line:
                found.append(msgspec.json.decode(line))
    return found


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: str, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        path = (ROOT / page).parent / place if place else ROOT / page
        if not path.exists() or (
            anchor and path.suffix == ".md" and anchor not in anchors(path.read_text(encoding="utf-8"))
        ):
            broken.append(target)
    return broken


def missing_files(text: str) -> list[str]:
    """Names in backticks that look like files of this repository and are not there.

    In a row of a table that begins with a file, bare names beside it are its neighbours.
    """
    missing = []
    for line in text.splitlines():
        folder = ""
        for name in re.findall(r"`([^`\s]+)`", line):
            if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*/?", name):
                continue
            if not (name.endswith("/") or re.search(r"\.(py|md|svg|toml|txt)$", name)):
                continue
            candidates = [
                ROOT / name,
                ROOT / folder / name,
                *(ROOT / known / name for known in KNOWN_FOLDERS),
            ]
            found = next((path for path in candidates if path.exists()), None)
            if found is None:
                missing.append(name)
            elif "/" in name.rstrip("/") and found.is_relative_to(ROOT):
                folder = str(found.parent.relative_to(ROOT))
    return missing


# The comparison


@pytest.mark.parametrize(
    ("page", "heading", "found"),
    [
        ("settings.md", "", setting_keys),
        ("settings.md", "", setting_variables),
        ("settings.md", "Checks", check_ids),
        ("settings.md", "", lambda: {f"manage.py {name}" for name in commands()}),
        ("protocol.md", "Events", lambda: {kind.__struct_config__.tag for kind in events.ALL}),
        ("protocol.md", "Events", event_members),
        ("protocol.md", "Error codes", error_codes),
        ("protocol.md", "Problems", problem_codes),
        ("protocol.md", "Events", lambda: {reason.value for reason in ROUTED}),
        ("protocol.md", "HTTP calls", lambda: {state.value for state in states.State}),
        ("protocol.md", "HTTP calls", lambda: endpoints()),
        ("protocol.md", "The brief", lambda: members(contentgen.brief.Brief)),
        ("protocol.md", "The brief", lambda: members(contentgen.script.ScriptedOptions)),
        ("STREAM_THREADPOOL_GUIDE.md", "", lambda: {reason.value for reason in routing.Reason}),
        ("STREAM_THREADPOOL_GUIDE.md", "", lambda: {route.value for route in routing.Route}),
        ("django.md", "Options", lambda: set(inspect.signature(Options).parameters)),
    ],
)
def test_everything_is_documented(page, heading, found):
    names = found()
    assert names, "a check that looks at nothing finds nothing"
    text = section(DOCS[page], heading) if heading else DOCS[page]
    assert undocumented(names, text) == []


@pytest.mark.parametrize("kind", events.ALL, ids=events.event_name)
def test_each_event_has_its_members_in_its_own_section_and_an_example(kind):
    own = section(section(DOCS["protocol.md"], "Events"), f"`{events.event_name(kind)}`")
    assert undocumented(members(kind), own) == []
    assert [example["type"] for example in examples(own)] == [events.event_name(kind)]


def test_the_examples_are_what_the_code_understands():
    shown = [
        example for example in examples(DOCS["protocol.md"]) if "type" in example and "status" not in example
    ]
    assert len(shown) > 10
    for example in shown:
        example.pop("id", None)
        if example["type"] in {events.event_name(kind) for kind in events.ALL}:
            events.decode(msgspec.json.encode(example))


def test_the_statistics_of_the_guide_are_explained():
    from streaming.schema import Statistics

    text = section(DOCS["STREAM_THREADPOOL_GUIDE.md"], "What to look at")
    named = {word.split(".")[0] for word in quoted(text)}
    assert set(Statistics.model_fields) - named == set()


def test_defaults_in_the_reference_are_those_of_the_settings():
    rows = dict(
        re.findall(r"^\| `\w+` \| `([A-Z_]+)` \| ([\d.,]+) \|", DOCS["settings.md"], flags=re.MULTILINE)
    )
    assert len(rows) > 20
    for setting, (prefix, kind) in CONFIGS.items():
        for field in msgspec.structs.fields(kind):
            text = rows.get(f"{prefix}_{field.name}".upper())
            if text is not None:
                assert float(text.replace(",", "")) == field.default, (setting, field.name)


def test_ranges_in_the_reference_are_those_of_the_checks():
    rows = re.findall(r"^\| `\w+` \| ([^|]+) \| [^|]+ \| ([^|]+) \|", DOCS["settings.md"], flags=re.MULTILINE)
    bounds = {
        variable: {number.replace(",", "") for number in re.findall(r"\d[\d,.]*", unit)}
        for variables, unit in rows
        for variable in quoted(variables)
    }
    checked = 0
    for prefix, kind in CONFIGS.values():
        for field in msgspec.structs.fields(kind):
            meta = getattr(field.type, "__metadata__", None)
            if meta is None:
                continue
            limits = [meta[0].ge, meta[0].gt, meta[0].le]
            wanted = {f"{limit:g}" if limit < 1 else str(int(limit)) for limit in limits if limit}
            assert wanted <= bounds[f"{prefix}_{field.name}".upper()], field.name
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_exist(page):
    assert broken_links(page, PAGES[page]) == []
    assert missing_files(PAGES[page]) == []


def test_the_tests_that_prove_the_invariants_exist():
    rows = section(DOCS["design.md"], "Invariants").splitlines()
    proofs = [(name, line) for line in rows for name in re.findall(r"`(test_\w+)`", line)]
    assert len(proofs) >= 12
    for name, line in proofs:
        files = [ROOT / file for file in re.findall(r"`(tests/[\w/]+\.py)`", line)]
        assert any(f"def {name}(" in file.read_text(encoding="utf-8") for file in files), name


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\(docs/([\w.-]+\.md)", PAGES["README.md"]))
    assert linked == set(DOCS)


def test_every_dependency_has_its_reason():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["project"]["dependencies"] + [
        entry for group in project["dependency-groups"].values() for entry in group if isinstance(entry, str)
    ]
    names = {re.split(r"[><=]", entry)[0] for entry in wanted}
    assert undocumented(names, DOCS["dependencies.md"]) == []


@pytest.mark.parametrize("page", PAGES)
def test_no_path_of_a_machine(page):
    assert re.findall(r"/(?:home|Users|root|work)/\w+", PAGES[page]) == []


# The comparison itself works


def test_what_is_missing_is_noticed():
    """Planted: a name that is there, one only in an example, one only in prose, one nowhere."""
    page = "Say `heartbeat_interval`, and prose_only.\n```\n`example_only`\n```\n"
    names = {"heartbeat_interval", "example_only", "prose_only", "nowhere"}
    assert undocumented(names, page) == ["example_only", "nowhere", "prose_only"]


def test_what_is_removed_from_the_real_pages_is_noticed():
    text = DOCS["settings.md"].replace("`SSE_RETRY`", "SSE_RETRY")
    assert undocumented(setting_variables(), text) == ["SSE_RETRY"]
    text = DOCS["protocol.md"].replace("`kernel_died`", "a dead kernel")
    assert undocumented(error_codes(), text) == ["kernel_died"]
    text = DOCS["protocol.md"].replace("`GET /healthz`", "health")
    assert undocumented(endpoints(), text) == ["GET /healthz"]


def test_broken_links_and_files_are_noticed():
    page = "[a](nowhere.md) [b](settings.md#no-such-heading) [c](settings.md#checks) [d](https://example.org)"
    assert broken_links("docs/x.md", page) == ["nowhere.md", "settings.md#no-such-heading"]
    page = "`streaming/core/sse.py`, `ndjson.py`, `streaming/core/nothing.py`, `tests/nowhere/`"
    assert missing_files(page) == ["streaming/core/nothing.py", "tests/nowhere/"]


def test_the_parsers_find_what_is_planted():
    assert env_variables('a = env.str("PLANTED", default="")\nb = other.str("NOT")') == {"PLANTED"}
    source = 'Problem(400, "planted")\nproblems.FieldError("x", "code_b", "words")\nOther(1, "no")'
    assert called_with_literal(source, PROBLEM_CALLS) == {"planted", "code_b"}
    assert assigned_literals('code = "a" if x == "no" else "b"\ncode = "c"\nother = "no"', "code") == {
        "a",
        "b",
        "c",
    }
    assert keyword_literals('Error("text", id="streaming.E999")', "id") == {"streaming.E999"}
    assert section("# A\nx\n## B\ny\n# C\nz\n", "A") == "\nx\n## B\ny\n"


def metrics_of_the_doctor() -> set[str]:
    """What its monitor writes of a round in which everything could be measured."""
    arrivals = [
        Arrival(name="result", at=float(at), sent_at=float(at), sequence=number, late=0.0)
        for number, at in enumerate((1, 101, 201), 1)
    ]
    arrivals.append(Arrival(name="complete", at=202.0, sent_at=202.0))
    seen = Observation(
        target="probe",
        status=200,
        http_version="HTTP/1.1",
        headers={},
        arrivals=arrivals,
        reads=[(each.at, 100) for each in arrivals],
        outcome="ended",
        end={"type": "complete"},
        expected=3,
        total=202.0,
        connect=1.0,
    )
    text = metrics_of(Target(base="http://x"), Round(seen=seen, diagnosis=diagnose(seen)), 1).decode()
    return set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_metric_that_is_named_exists(page: str) -> None:
    named = set(re.findall(r"(?<![$@\w])sluice_[a-z_]+", PAGES[page]))
    bare = {name if name in all_metrics() else re.sub("_(bucket|sum|count)$", "", name) for name in named}
    assert bare <= set(all_metrics()) | metrics_of_the_doctor()


def test_every_metric_of_the_doctor_is_explained() -> None:
    assert metrics_of_the_doctor() <= set(re.findall(r"sluice_doctor_[a-z_]+", DOCS["doctor.md"]))
