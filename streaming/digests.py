"""Digests by which the same call, or the same work, is recognised."""

from __future__ import annotations

import json
from typing import Any

from django.utils.crypto import salted_hmac


def digest(values: Any) -> str:
    """64 hex digits for JSON values, whatever the order of their members. Keyed with the project's secret, so
    that nobody finds an address or a short text in the table by trying them all."""
    text = json.dumps(values, sort_keys=True)
    return salted_hmac("streaming.digests", text, algorithm="sha256").hexdigest()
