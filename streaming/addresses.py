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


NETWORK: Final = 64
"""Bits of an IPv6 address that one customer of a network shares: the rest is the customer's to choose."""


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Who cannot be told apart by address: the address itself, of IPv6 its network, of this machine's own one
    for all; what is none as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    if mapped.is_loopback:
        return "127.0.0.1"
    if mapped.version == 4:
        return str(mapped)
    return str(ipaddress.ip_network((int(mapped), NETWORK), strict=False))


def url_of(host: str, port: int) -> str:
    """Where a browser on this machine finds a server that listens on `host` (an address or a name)."""
    host = _ANY.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
