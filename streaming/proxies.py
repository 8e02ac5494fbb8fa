"""Proxies that are trusted to say who calls: TRUSTED_PROXIES, addresses and networks.

From anybody else `X-Forwarded-For` and `X-Forwarded-Proto` are words of a stranger: they change nothing, but
for telling that the caller may be somebody else (see `access.is_local`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

VIA: Final = "streaming.via_proxy"
"""In the ASGI scope of what came from a trusted proxy: who calls from there is never this machine, also where
the proxy does not say who it is."""

_SCHEMES: Final = {
    "http": {"http": "http", "https": "https"},
    "websocket": {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"},
}

WIDEST: Final = {4: 12, 6: 24}
"""Shortest prefix of a public network that can be somebody's proxies, by version."""

Scope = dict[str, Any]


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks as networks. Raises `ValueError` for anything else, `*` among it, and for what
    is everybody, in one piece or in several."""
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise ValueError(f"{text!r} is no address and no network") from None
    for version in (4, 6):
        of_version: list[Any] = [network for network in found if network.version == version]
        if any(network.prefixlen == 0 for network in ipaddress.collapse_addresses(of_version)):
            listed = ", ".join(map(str, of_version))
            raise ValueError(f"{listed} is everybody, so anybody could say who calls")
    return tuple(found)


def too_wide(network: Network) -> bool:
    """Whether a network holds so many addresses of the internet that strangers are among them: the widest
    that proxies for hire publish are /13 and /29. Private networks may be of any size."""
    return network.is_global and network.prefixlen < WIDEST[network.version]


class Proxies:
    """Those that are trusted. Raises `ValueError` as `networks`."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = networks(trusted)
        self._trusts = lru_cache(maxsize=4096)(self._look)

    def apply(self, scope: Scope) -> None:
        """Put into the scope who calls, and whether by TLS, where a trusted proxy says so."""
        peer = scope.get("client")
        if peer is None or not self._trusts(peer[0]):
            return
        scope[VIA] = True
        forwarded: list[str] = []
        scheme = ""
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                forwarded += value.decode("latin1").split(",")
            elif name == b"x-forwarded-proto":
                # Each proxy adds behind what it got: the last word is that of the one we know.
                scheme = value.decode("latin1").rpartition(",")[2].strip().lower()
        caller = self._caller(forwarded)
        if caller is not None:
            scope["client"] = (caller, 0)
        known = _SCHEMES[scope["type"]].get(scheme)
        if known is not None:
            scope["scheme"] = known

    def _caller(self, forwarded: list[str]) -> str | None:
        """From the last entry back, the first that is no proxy of ours: what is before it anybody may have
        written. An entry that is no address ends the search, and the proxy before it counts."""
        caller = None
        for entry in reversed(forwarded):
            address = _address(entry)
            if address is None:
                break
            caller = str(address)
            if not self._trusts(caller):
                break
        return caller

    def _look(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    """`192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`; without zone."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if getattr(found, "scope_id", None):
        return None
    return getattr(found, "ipv4_mapped", None) or found
