"""The Chinese catalogues: complete, compiled, and in step with the source."""

from __future__ import annotations

import ast
import gettext
import re
from pathlib import Path

import pytest
from django.utils import translation

ROOT = Path(__file__).resolve().parents[2]
MARKERS = {"gettext", "gettext_lazy", "gettext_noop"}
PLACEHOLDER = re.compile(r"%(?:\(\w+\))?[a-z]|\{\w*\}")

TEMPLATES = "."
"""The project's own catalogue, beside its templates."""

every_catalogue = pytest.mark.parametrize("app", ["streaming", "contentgen", TEMPLATES])


def catalogue(app: str, kind: str) -> Path:
    return ROOT / app / "locale" / "zh_Hans" / "LC_MESSAGES" / f"django.{kind}"


def entries(app: str) -> dict[str, str]:
    """msgid → msgstr of a .po file without plurals and contexts; the header is the entry of ''."""
    found: dict[str, str] = {}
    for block in catalogue(app, "po").read_text(encoding="utf-8").strip().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith("#")]
        id_part, text_part = "\n".join(lines).split("\nmsgstr ")
        msgid, msgstr = (
            "".join(ast.literal_eval(line) for line in part.split("\n"))
            for part in (id_part.removeprefix("msgid "), text_part)
        )
        assert msgid not in found
        found[msgid] = msgstr
    return found


def translations(app: str) -> dict[str, str]:
    return {msgid: msgstr for msgid, msgstr in entries(app).items() if msgid}


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


@every_catalogue
def test_the_catalogue_holds_the_strings_of_the_source(app: str) -> None:
    if app == TEMPLATES:
        pages = [path.read_text(encoding="utf-8") for path in (ROOT / "templates").rglob("*.html")]
        marked = {text for page in pages for text in re.findall(r'{% translate "(.*?)" %}', page)}
    else:
        marked = set().union(*map(marked_strings, (ROOT / app).rglob("*.py")))
    assert marked
    assert set(translations(app)) == marked  # else: run makemessages


@every_catalogue
def test_every_string_is_translated(app: str) -> None:
    assert "fuzzy" not in catalogue(app, "po").read_text(encoding="utf-8")
    assert [msgid for msgid, msgstr in translations(app).items() if not msgstr.strip()] == []


@every_catalogue
def test_placeholders_survive_translation(app: str) -> None:
    for msgid, msgstr in translations(app).items():
        assert sorted(PLACEHOLDER.findall(msgstr)) == sorted(PLACEHOLDER.findall(msgid)), msgid


@every_catalogue
def test_the_header_is_filled_in(app: str) -> None:
    header = entries(app)[""]
    assert "Language: zh_Hans\n" in header
    assert "charset=UTF-8\n" in header
    assert "Plural-Forms: nplurals=1; plural=0;\n" in header
    assert "@" not in header


@every_catalogue
def test_the_compiled_catalogue_is_up_to_date(app: str) -> None:
    with catalogue(app, "mo").open("rb") as file:
        compiled = vars(gettext.GNUTranslations(file))["_catalog"]
    assert {msgid: msgstr for msgid, msgstr in compiled.items() if msgid} == translations(app)


@every_catalogue
def test_django_finds_the_translations(app: str) -> None:
    """Catalogues of all apps share one table: nobody else's entry may hide ours."""
    with translation.override("zh-hans"):
        for msgid, msgstr in translations(app).items():
            assert translation.gettext(msgid) == msgstr
