"""The HTTP client of the model service, and what of the environment makes it impossible."""

from __future__ import annotations

import os
from typing import Final

import httpx2

from . import __version__
from .conf import Service

_PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
_CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class ClientFault(Exception):
    """No client can be made. Says why, without the value of a variable, which may hold a password."""


def make_client(service: Service) -> httpx2.AsyncClient:
    """A client for `service`, in no event loop yet. Raises `ClientFault`."""
    try:
        return _client(service)
    except ImportError as error:
        reason = f"{_set(_PROXIES)}: {error}"
    except OSError as error:
        reason = f"{_set(_CERTIFICATES)}: {error.strerror or type(error).__name__}"
    except Exception as error:
        reason = f"{_set(_PROXIES)}: no address of a proxy ({type(error).__name__})"
    raise ClientFault(reason)


def _client(service: Service) -> httpx2.AsyncClient:
    config = service.config
    plain_and_near = service.is_local and service.base.startswith("http:")
    return httpx2.AsyncClient(
        headers={
            "Authorization": f"Bearer {service.key}",
            "Accept-Encoding": "identity",
            "User-Agent": f"Sluice/{__version__}",
        },
        limits=httpx2.Limits(
            max_connections=config.max_connections,
            max_keepalive_connections=config.max_connections,
            keepalive_expiry=config.keepalive,
        ),
        timeout=httpx2.Timeout(None, connect=config.connect_timeout),
        follow_redirects=False,
        # A proxy of the environment has no business between us and our own machine.
        trust_env=not service.is_local,
        # The environment's certificates count there, too. Without TLS they need not be read, which takes a
        # tenth of a second.
        verify=httpx2.create_ssl_context(verify=not plain_and_near),
    )


def _set(names: tuple[str, ...]) -> str:
    """Those of the variables that are set, for people."""
    found = [name for name in names if os.environ.get(name) or os.environ.get(name.lower())]
    return ", ".join(found) or "the environment"
