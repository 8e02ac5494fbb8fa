"""Reading the environment, for settings.py: each value as it stands, and what is wrong with it noted.

No function raises: a server shall start for no wrong value, and say so by a system check.
"""

import difflib
import json
import os
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import django
import environ
from django.conf import global_settings

PROBLEMS: list[tuple[str, str]] = []
"""What nobody can make sense of: a safe value stands in, and a system check reports it, so that no server
starts with it. (Name, what is wrong with it.)"""


KNOWN: set[str] = set()
"""The variables that settings have asked for."""

_OURS = ("SSE_", "BUFFER_", "AGENT_POOL_", "KERNEL_", "KERNELS_", "PRIORITY_")
"""Beginnings that nobody else uses."""

_SIMILAR = 0.85
"""How much a name must resemble one of ours (0 to 1) to be a slip of the hand."""


class _Environment(environ.Env):  # type: ignore[misc]
    """Values as they stand. Its base takes `$NAME` for the value of NAME, and a key may begin so."""

    def get_value(self, var: str, cast: Any = None, **options: Any) -> Any:
        """The value of `var` as `cast`, else the default."""
        KNOWN.add(var)
        text = self.ENVIRON.get(var, "")
        return (
            self.parse_value(text, cast) if text.startswith("$") else super().get_value(var, cast, **options)
        )


env = _Environment()


def read_file(default: Path) -> None:
    """Read the file that ENV_FILE names, else `default`, if it is there; what is in the environment wins.

    ENV_FILE is empty: none is read.
    """
    name = env.str("ENV_FILE", default=str(default))
    if name and Path(name).is_file():
        env.read_env(name)


def unknown() -> list[tuple[str, str]]:
    """Variables that look like ours and are not read, each with the nearest that is, or nothing. To be called
    when all settings are there."""
    found = []
    for name in sorted(set(os.environ) - KNOWN):
        if "_" in name and not name.startswith(("OTEL_", "PYTHON", "DJANGO_")):
            nearest = [known for known in KNOWN if sorted(known.split("_")) == sorted(name.split("_"))]
            nearest = nearest or difflib.get_close_matches(name, KNOWN, n=1, cutoff=_SIMILAR)
            if not nearest and name.startswith(_OURS):
                nearest = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.5) or [""]
            found += [(name, each) for each in nearest]
    return found


def overridden(prefix: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """`defaults`, each replaced by the variable PREFIX_KEY where it is set.

    A value that cannot be read as its default's kind is kept as text, for the system check to name.
    """
    values = dict(defaults)
    for key in defaults:
        text = env.str(f"{prefix}_{key}".upper(), default=None)
        if text is not None:
            try:
                values[key] = json.loads(text)
            except ValueError:
                values[key] = text
    return values


def flag(name: str, default: bool) -> bool:
    """A variable that is on or off."""
    text = env.str(name, default=str(default)).lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off", ""):
        return False
    PROBLEMS.append((name, f"{name} is {text!r}: expected true or false"))
    return default


def number(name: str, default: int, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    text = env.str(name, default=str(default))
    if text.isascii() and text.isdigit() and low <= int(text) <= high:
        return int(text)
    PROBLEMS.append((name, f"{name} is {text!r}: expected a number from {low} to {high}"))
    return default


def one_of(name: str, default: str, choices: Collection[str]) -> str:
    """One of a few words."""
    text: str = env.str(name, default=default)
    if text in choices:
        return text
    known = ", ".join(sorted(choices)) if len(choices) < 10 else "a name of the IANA time zone database"
    PROBLEMS.append((name, f"{name} is {text!r}: expected {known}"))
    return default


def cookie_name(name: str, plain: str, secure: bool) -> str:
    """`plain`, or that with a prefix by which browsers hold the cookie to this host, or to TLS (RFC 6265bis,
    4.1.3). They refuse such a cookie unless it is `secure`."""
    found = one_of(name, plain, (plain, f"__Secure-{plain}", f"__Host-{plain}"))
    if found != plain and not secure:
        PROBLEMS.append((name, f"{name} is {found!r}: browsers take it over TLS only (SECURE_COOKIES=true)"))
    return found


def origins(name: str) -> list[str]:
    """Origins as browsers write them, separated by commas."""
    origins = [origin.strip() for origin in env.str(name, default="").split(",") if origin.strip()]
    wrong = [each for each in origins if not _is_origin(each)]
    if wrong:
        PROBLEMS.append(
            (
                name,
                f"{name} has {', '.join(wrong)}: expected scheme://host[:port] as browsers send it, in lower "
                "case, without a path, the port from 1 to 65535 and not the scheme's own (80, 443)",
            )
        )
    return [each for each in origins if each not in wrong]


def _is_origin(text: str) -> bool:
    """Whether a browser may send it as the origin of a page (RFC 6454, 6.2)."""
    found = re.fullmatch(
        r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?", text
    )
    if found is None:
        return False
    scheme, port = found.groups()
    # The origin of a file is "null".
    return scheme != "file" and int(port or 1) < 65_536 and (scheme, port) not in _OWN_PORTS


_OWN_PORTS = {("http", "80"), ("https", "443")}


def words(name: str) -> list[str]:
    """Words, separated by commas."""
    return [word.strip() for word in env.str(name, default="").split(",") if word.strip()]


def spans_to() -> str:
    """Where OpenTelemetry's own variables say that spans go."""
    if flag("OTEL_SDK_DISABLED", default=False):
        return "none"
    ends = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    default = "otlp" if any(env.str(name, default="") for name in ends) else "none"
    return one_of("OTEL_TRACES_EXPORTER", default, ("none", "otlp", "console"))


def database(name: str, default: dict[str, Any]) -> dict[str, Any]:
    """A database by its URL."""
    text = env.str(name, default="")
    try:
        with warnings.catch_warnings():
            # An unknown engine is only warned of, with the password in the warning.
            warnings.simplefilter("error")
            found: dict[str, Any] = environ.Env.db_url_config(text) if text else default
        known = "." in str(found["ENGINE"])
    except Exception:
        known = False
    if not known:
        PROBLEMS.append((name, f"{name} is not a URL of a database, such as postgres://user@host/name"))
        return default
    return found


def mail(name: str, timeout: int) -> dict[str, Any]:
    """Django's settings of mail by a URL, Django's defaults where none is given; `timeout` in s."""
    text = env.str(name, default="")
    found: dict[str, Any] = {}
    if text:
        try:
            found = environ.Env.email_url_config(text)
        except Exception:
            # Its words may hold the password.
            PROBLEMS.append(
                (name, f"{name} is not a URL of a mail server, such as smtp+tls://user:password@host:587")
            )
    given = {key: value for key, value in found.items() if value}
    if django.VERSION >= (6, 1):
        return {"MAILERS": {"default": _mailer(given, timeout)}}
    return given | {"EMAIL_TIMEOUT": timeout}


def _mailer(given: dict[str, Any], timeout: int) -> dict[str, Any]:
    """The same as an entry of MAILERS, which took the place of EMAIL_… with Django 6.1."""
    backend = given.get("EMAIL_BACKEND", global_settings.EMAIL_BACKEND)
    options = {option: given[key] for key, option in _MAIL_OPTIONS.items() if key in given}
    if backend == global_settings.EMAIL_BACKEND:
        options = {"host": global_settings.EMAIL_HOST, "timeout": timeout} | options
    return {"BACKEND": backend, "OPTIONS": options}


_MAIL_OPTIONS = {
    "EMAIL_HOST": "host",
    "EMAIL_PORT": "port",
    "EMAIL_HOST_USER": "username",
    "EMAIL_HOST_PASSWORD": "password",
    "EMAIL_USE_TLS": "use_tls",
    "EMAIL_USE_SSL": "use_ssl",
    "EMAIL_FILE_PATH": "file_path",
}
