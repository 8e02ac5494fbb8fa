"""The Chinese catalogues: complete, compiled, and in step with the source."""

from __future__ import annotations

import ast
import gettext
import re
from pathlib import Path

import pytest
from django.utils import translation
from django.utils.translation.template import templatize

ROOT = Path(__file__).resolve().parents[2]
MARKERS = {"gettext", "gettext_lazy", "gettext_noop", "ngettext", "ngettext_lazy"}
PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[a-z]|\{\w*\}")

PROJECT = "."
"""The project's own catalogue, for its templates and settings."""

CATALOGUES = [
    ("streaming", "django"),
    ("streaming", "djangojs"),
    ("contentgen", "django"),
    ("contentgen", "djangojs"),
    ("notebooks", "django"),
    ("notebooks", "djangojs"),
    ("accounts", "django"),
    (PROJECT, "django"),
]

every_catalogue = pytest.mark.parametrize(("app", "domain"), CATALOGUES)


def catalogue(app: str, domain: str, kind: str) -> Path:
    return ROOT / app / "locale" / "zh_Hans" / "LC_MESSAGES" / f"{domain}.{kind}"


def entries(app: str, domain: str) -> dict[str, str]:
    """msgid → msgstr of a .po file without contexts; the header is the entry of ''."""
    found: dict[str, str] = {}
    for block in catalogue(app, domain, "po").read_text(encoding="utf-8").strip().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith("#")]
        # Chinese has one form for every number.
        id_part, text_part = re.split(r"\nmsgstr(?:\[0\])? ", "\n".join(lines))
        id_part = id_part.split("\nmsgid_plural ")[0]
        msgid, msgstr = (
            "".join(ast.literal_eval(line) for line in part.split("\n"))
            for part in (id_part.removeprefix("msgid "), text_part)
        )
        assert msgid not in found
        found[msgid] = msgstr
    return found


def translations(app: str, domain: str) -> dict[str, str]:
    return {msgid: msgstr for msgid, msgstr in entries(app, domain).items() if msgid}


def marked_strings(path: Path) -> set[str]:
    """The literals that a module marks for translation, under whatever name it imports the markers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "django.utils.translation"
        for alias in node.names
        if alias.name in MARKERS
    }
    return {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    }


def strings_of_template(path: Path) -> set[str]:
    """What a template marks, by Django's own reading of it."""
    marked = re.findall(r"gettext\(u?((['\"]).*?(?<!\\)\2)[,)]", templatize(path.read_text(encoding="utf-8")))
    return {ast.literal_eval(literal) for literal, _ in marked}


def strings_of_script(path: Path) -> set[str]:
    """The literals that a script marks."""
    marked = re.findall(r'gettext\(\s*("(?:[^"\\]|\\.)*")', path.read_text(encoding="utf-8"))
    return {ast.literal_eval(literal) for literal in marked}


def marked(app: str, domain: str) -> set[str]:
    """Everything in the source that this catalogue has to translate."""
    if domain == "djangojs":
        return set().union(*map(strings_of_script, (ROOT / app / "static").rglob("*.js")))
    folder = ROOT / app
    templates = [path for kind in ("*.html", "*.txt") for path in (folder / "templates").rglob(kind)]
    modules = (folder / "settings").glob("*.py") if app == PROJECT else folder.rglob("*.py")
    return set().union(*map(strings_of_template, templates), *map(marked_strings, modules))


@every_catalogue
def test_the_catalogue_holds_the_strings_of_the_source(app: str, domain: str) -> None:
    assert marked(app, domain)
    assert set(translations(app, domain)) == marked(app, domain)  # else: run makemessages


@every_catalogue
def test_every_string_is_translated(app: str, domain: str) -> None:
    assert "fuzzy" not in catalogue(app, domain, "po").read_text(encoding="utf-8")
    assert [msgid for msgid, msgstr in translations(app, domain).items() if not msgstr.strip()] == []


@every_catalogue
def test_placeholders_survive_translation(app: str, domain: str) -> None:
    for msgid, msgstr in translations(app, domain).items():
        assert sorted(PLACEHOLDER.findall(msgstr)) == sorted(PLACEHOLDER.findall(msgid)), msgid


@every_catalogue
def test_the_header_is_filled_in(app: str, domain: str) -> None:
    header = entries(app, domain)[""]
    assert "Language: zh_Hans\n" in header
    assert "charset=UTF-8\n" in header
    assert "Plural-Forms: nplurals=1; plural=0;\n" in header
    assert "@" not in header


@every_catalogue
def test_the_compiled_catalogue_is_up_to_date(app: str, domain: str) -> None:
    with catalogue(app, domain, "mo").open("rb") as file:
        compiled = vars(gettext.GNUTranslations(file))["_catalog"]
    found = {key[0] if isinstance(key, tuple) else key: text for key, text in compiled.items() if key}
    assert found == translations(app, domain)


@pytest.mark.parametrize("app", [app for app, domain in CATALOGUES if domain == "django"])
def test_django_finds_the_translations(app: str) -> None:
    """Catalogues of all apps share one table: nobody else's entry may hide ours."""
    with translation.override("zh-hans"):
        for msgid, msgstr in translations(app, "django").items():
            assert translation.gettext(msgid) == msgstr
