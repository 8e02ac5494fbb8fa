"""Who calls, behind proxies: only those that are listed are believed, and from the last entry back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.proxies import VIA, Proxies, networks, too_wide

TRUSTED = ["10.0.0.0/8", "192.0.2.1", "::1", "2001:db8::/32"]


def applied(peer, *, forwarded=(), proto=(), kind="http", trusted=TRUSTED):
    scope = {
        "type": kind,
        "scheme": "ws" if kind == "websocket" else "http",
        "client": (peer, 5000) if peer else None,
        "headers": [
            *((b"x-forwarded-for", value.encode("latin1")) for value in forwarded),
            *((b"x-forwarded-proto", value.encode("latin1")) for value in proto),
        ],
    }
    Proxies(trusted).apply(scope)
    return scope


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("10.1.2.3", ["203.0.113.9"], "203.0.113.9"),
        ("::1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.1.2.3", ["203.0.113.9"], "203.0.113.9"),
        # What is before the first stranger anybody may have written.
        ("10.1.2.3", ["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["127.0.0.1", "203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["198.51.100.7, 203.0.113.9, 10.9.9.9, 192.0.2.1"], "203.0.113.9"),
        ("10.1.2.3", ["10.9.9.9, 192.0.2.1"], "10.9.9.9"),
        ("10.1.2.3", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.1.2.3", ["[2001:db9::5]:4711"], "2001:db9::5"),
        ("10.1.2.3", ["2001:DB9:0::5"], "2001:db9::5"),
        ("10.1.2.3", ["::ffff:203.0.113.9"], "203.0.113.9"),
        # Nonsense ends the search: the last that made sense counts, else the proxy itself.
        ("10.1.2.3", ["203.0.113.9, unknown"], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.9, evil, 192.0.2.1"], "192.0.2.1"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["fe80::1%eth0"], "10.1.2.3"),
        # Nobody else is believed.
        ("203.0.113.1", ["198.51.100.7"], "203.0.113.1"),
        ("127.0.0.1", ["198.51.100.7"], "127.0.0.1"),
        ("testclient", ["198.51.100.7"], "testclient"),
    ],
)
def test_who_calls(peer, forwarded, caller):
    assert applied(peer, forwarded=forwarded)["client"][0] == caller


def test_without_an_address_of_the_peer_nothing_changes():
    assert applied(None, forwarded=["198.51.100.7"])["client"] is None


@pytest.mark.parametrize(
    ("peer", "proto", "kind", "scheme"),
    [
        ("10.1.2.3", ["https"], "http", "https"),
        ("10.1.2.3", ["https"], "websocket", "wss"),
        ("10.1.2.3", ["http, https"], "http", "https"),
        ("10.1.2.3", ["https", "http"], "http", "http"),
        ("10.1.2.3", ["gopher"], "http", "http"),
        ("10.1.2.3", [], "http", "http"),
        ("203.0.113.1", ["https"], "http", "http"),
    ],
)
def test_whether_by_tls(peer, proto, kind, scheme):
    assert applied(peer, proto=proto, kind=kind)["scheme"] == scheme


def test_what_came_by_a_proxy_is_marked():
    assert applied("10.1.2.3")[VIA]
    assert VIA not in applied("203.0.113.1", forwarded=["10.1.2.3"])


@given(st.lists(st.text(alphabet='0123456789abcdef.:, []"%x', max_size=40), max_size=4))
def test_whatever_is_sent_the_caller_is_an_address(forwarded):
    caller = applied("10.1.2.3", forwarded=forwarded)["client"][0]
    assert networks([caller])


@pytest.mark.parametrize("wrong", ["*", "", "proxy.example", "10.0.0.0/33", "10.0.0.1:80"])
def test_a_list_with_anything_else_is_refused(wrong):
    with pytest.raises(ValueError, match="is no address and no network"):
        Proxies(["10.0.0.1", wrong])


@pytest.mark.parametrize(
    "everybody",
    [
        ["0.0.0.0/0"],
        ["::/0"],
        ["192.0.2.1/0"],
        ["10.0.0.1", "::0/0"],
        ["0.0.0.0/1", "128.0.0.0/1"],
        ["::/1", "10.0.0.1", "8000::/1"],
    ],
)
def test_everybody_is_nobody_to_trust(everybody):
    with pytest.raises(ValueError, match="is everybody"):
        Proxies(everybody)


@pytest.mark.parametrize(
    ("network", "wide"),
    [
        ("128.0.0.0/1", True),
        ("8.0.0.0/8", True),
        ("104.0.0.0/11", True),
        ("104.16.0.0/12", False),
        ("203.0.113.9", False),
        ("2000::/3", True),
        ("2400::/23", True),
        ("2a06:98c0::/29", False),
        # Private ones, and those of providers' own.
        ("10.0.0.0/8", False),
        ("100.64.0.0/10", False),
        ("127.0.0.0/8", False),
        ("fc00::/7", False),
        # More than private.
        ("8.0.0.0/5", True),
    ],
)
def test_which_networks_hold_strangers(network, wide):
    (parsed,) = networks([network])
    assert too_wide(parsed) is wide
