"""Content Security Policy: what a browser may load and run on our pages (CSP Level 3, Trusted Types).

The names are those of Django 6, which brings the same built in: `SECURE_CSP` and `SECURE_CSP_REPORT_ONLY` are
dictionaries from a directive to its values, and `streaming.middleware.ContentSecurityPolicyMiddleware` sends
them. A view that needs another policy sets the header itself, and is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from django.apps import apps
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

Policy = Mapping[str, Iterable[str] | str | bool | None]
"""Directives and their values; True for a directive without values, False and None for none."""

HEADER: Final = "Content-Security-Policy"
REPORT_ONLY: Final = "Content-Security-Policy-Report-Only"

NONE: Final = ("'none'",)
SELF: Final = ("'self'",)

PAGES: Final[Policy] = {
    "default-src": NONE,
    "script-src": SELF,
    "style-src": SELF,
    # Pictures that a notebook's code has drawn come with its output.
    "img-src": ("'self'", "data:"),
    "font-src": SELF,
    "connect-src": SELF,
    # For a notebook's HTML, in a document with a stricter policy; no other page lets itself be framed.
    "frame-src": SELF,
    "manifest-src": SELF,
    "object-src": NONE,
    "base-uri": NONE,
    "form-action": SELF,
    "frame-ancestors": NONE,
    # Text becomes HTML at one place of our scripts (page/trusted.js), or nowhere.
    "require-trusted-types-for": ("'script'",),
    "trusted-types": ("sluice",),
}
"""The policy of all pages, unless `SECURE_CSP` says otherwise."""

_WITHOUT_TRUSTED_TYPES: Final[Policy] = {"require-trusted-types-for": None, "trusted-types": None}

_DOCUMENTS: Final = ("text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml")
"""Types in which a browser runs scripts. Others, as JSON and event streams, are sent with `nosniff`."""


def header_of(policy: Policy) -> str:
    """The value of the header."""
    found = []
    for directive, values in policy.items():
        if values is None or values is False:
            continue
        if values is True:
            found.append(directive)
        elif listed := _list(values):
            found.append(f"{directive} {' '.join(listed)}")
    return "; ".join(found)


def _list(values: Iterable[str] | str) -> list[str]:
    if isinstance(values, str):
        return [values]
    # A set has no order of its own, and the header should be the same each time.
    return sorted(values) if isinstance(values, set | frozenset) else [*values]


def protect(response: HttpResponseBase, request: HttpRequest | None = None) -> None:
    """Send the policy with a document that has none yet. `request`: what it answers, if that is known."""
    if not response.headers.get("Content-Type", "").startswith(_DOCUMENTS):
        return
    # The pages that Django shows to developers have scripts and styles of their own, as in Django 6.
    if settings.DEBUG and response.status_code in (404, 500):
        return
    match = getattr(request, "resolver_match", None)
    foreign = () if match is None else _FOREIGN.keys() & match.app_names
    policies = {
        HEADER: getattr(settings, "SECURE_CSP", None) or PAGES,
        REPORT_ONLY: getattr(settings, "SECURE_CSP_REPORT_ONLY", None),
    }
    for header, policy in policies.items():
        if policy:
            for name in foreign:
                policy = _FOREIGN[name](policy)
            response.headers.setdefault(header, header_of(policy))


def for_admin(policy: Policy) -> Policy:
    """`policy` with what the admin cannot do without: its jQuery writes HTML without Trusted Types; the
    theme, where it is installed, has inline styles, and expressions that Alpine.js evaluates."""
    changed = {**policy, **_WITHOUT_TRUSTED_TYPES}
    if apps.is_installed("unfold"):
        changed["script-src"] = _more(policy, "script-src", "'unsafe-eval'")
        changed["style-src"] = _more(policy, "style-src", "'unsafe-inline'")
    return changed


def for_api_page(policy: Policy) -> Policy:
    """`policy` without Trusted Types, which Swagger UI does not know."""
    return {**policy, **_WITHOUT_TRUSTED_TYPES}


_FOREIGN: Final[Mapping[str, Callable[[Policy], Policy]]] = {"admin": for_admin, "ninja": for_api_page}
"""Pages that are not ours, by the `app_name` of their URLs, and what becomes of the policy there."""


def _more(policy: Policy, directive: str, value: str) -> list[str]:
    known = policy.get(directive) or policy.get("default-src") or ()
    listed = [] if known is True else _list(known)
    return [*(each for each in listed if each not in (*NONE, value)), value]
