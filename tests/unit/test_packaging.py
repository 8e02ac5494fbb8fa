"""What an installed package holds: the apps, and all their files that are no modules."""

from __future__ import annotations

import tomllib
from pathlib import Path

from django.conf import settings

ROOT = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]

FOR_DEVELOPERS = {".po", ".py", ".pyc"}
"""Endings of sources of translations, and of modules, which come by themselves."""


def apps() -> set[str]:
    """Our apps in the settings."""
    return {name for name in settings.INSTALLED_APPS if (ROOT / name).is_dir()}


def data_files(app: str) -> set[Path]:
    """The app's files that must be named to be packaged."""
    found = {path for path in (ROOT / app).rglob("*") if path.is_file()}
    return {path for path in found if path.suffix not in FOR_DEVELOPERS}


def packaged(app: str) -> set[Path]:
    """The app's files that the patterns name."""
    return {path for pattern in SETUPTOOLS["package-data"]["*"] for path in (ROOT / app).glob(pattern)}


def test_each_app_is_packaged_and_nothing_else():
    assert {f"{name}*" for name in apps()} == set(SETUPTOOLS["packages"]["find"]["include"])
    assert "streaming" in apps()


def test_templates_static_files_and_translations_come_along():
    for app in apps():
        assert data_files(app) - packaged(app) == set()
    names = {path.relative_to(ROOT).as_posix() for path in packaged("streaming")}
    assert {
        "streaming/locale/zh_Hans/LC_MESSAGES/django.mo",
        "streaming/static/streaming/page/viewer.js",
        "streaming/templates/streaming/admin/task.html",
    } <= names


def test_each_folder_with_modules_is_a_package():
    for app in apps():
        folders = {path.parent for path in (ROOT / app).rglob("*.py")}
        assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []
