"""Addresses of the network: what is this machine's own, and how a browser finds a listening server."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what somebody else listens on)


@lru_cache(maxsize=1024)
def is_loopback(address: str) -> bool:
    """Whether a numeric address, IPv4 or IPv6, never leaves this machine; names and nonsense do not count."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def url_of(host: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens on `host` (an address or a name)."""
    host = _ANY.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
