"""The peers by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from .peers.django_project import DATABASE
from .servers import ROOT, UVICORN, Peer

_HERE: Final = "benchmarks.streams.peers"


def _application(name: str, called: str | None = None, **more: Any) -> Peer:
    module = name.replace("-", "_")
    return Peer(name=called or name, command=(*UVICORN, f"{_HERE}.{module}:application"), **more)


def _signed_in(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """The cookie of a session in a new database."""
    return {"Cookie": _output("-m", f"{_HERE}.django_auth", environment=environment)}


_migrated: list[tuple[bytes, str]] = []


def _with_key(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """An API key in a new database, made as administrators make one; later databases are copies."""
    database = folder / DATABASE_FILE
    if not _migrated:
        _output("manage.py", "migrate", "--verbosity", "0", environment=environment)
        user = "from django.contrib.auth.models import User; User.objects.create_user('bench')"
        _output("manage.py", "shell", "--verbosity", "0", "-c", user, environment=environment)
        key = _output("manage.py", "create_api_key", "bench", environment=environment)
        _migrated.append((database.read_bytes(), key))
    content, key = _migrated[0]
    database.write_bytes(content)
    return {"Authorization": f"Bearer {key}"}


def _for_anybody(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """The same database, and a client without a key."""
    _with_key(folder, environment)
    return {}


def _compressing(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """The same database, and a client that takes compressed answers."""
    return {**_with_key(folder, environment), "Accept-Encoding": "gzip"}


def _output(*command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout.strip()


DATABASE_FILE: Final = "db.sqlite3"

SLUICE: Final = {
    "ENV_FILE": "",
    "SECRET_KEY": "only-for-benchmarks-" + "x" * 40,
    "DEBUG": "false",
    "ALLOWED_HOSTS": "127.0.0.1",
    "ALLOW_ANONYMOUS": "false",
    "ALLOW_SCRIPTED_PROVIDER": "true",
    "DATABASE_URL": "sqlite:///{folder}/" + DATABASE_FILE,
    # Bounds that the loads would reach; nothing is switched off.
    "AGENT_POOL_MAX_WORKERS": "20000",
    "AGENT_POOL_PER_OWNER": "20000",
    "SERVER_LIMIT_CONCURRENCY": "20000",
}
"""Production settings: `docs/settings.md`."""


def _sluice(
    name: str, settings: dict[str, str] | None = None, without: str | None = None, **more: Any
) -> Peer:
    manage = ("manage.py",) if without is None else ("-m", f"{_HERE}.sluice_without", without)
    return Peer(
        name=name,
        command=(*manage, "serve", "--port", "{port}"),
        environment={**SLUICE, **(settings or {})},
        **{"prepare": _with_key, "coalesces": True, **more},
    )


PEERS: Final = {
    peer.name: peer
    for peer in (
        _application("raw"),
        _application("starlette"),
        _application("fastapi"),
        _application("channels"),
        _application("django-bare"),
        _application("django"),
        _application("django-auth", prepare=_signed_in, environment={DATABASE: "{folder}/db.sqlite3"}),
        _application("eventstream", keeps_alive=False),
        _application("polled", polls=True),
        _application("polled", called="polled-fast", polls=True, environment={"POLLS": "adaptive"}),
        _application("starlette-blocking"),
        _application("django-blocking"),
        _sluice("sluice"),
        _sluice("sluice-uncoalesced", {"BUFFER_FLUSH_CHARS": "1"}, coalesces=False),
        _sluice("sluice-blocking", options={"blocking": True}),
        _sluice("sluice-anonymous", {"ALLOW_ANONYMOUS": "true"}, prepare=_for_anybody),
        _sluice("sluice-no-records", without="records"),
        _sluice("sluice-no-events", without="events"),
        _sluice("sluice-one-door", {"SERVER_HOT_DOOR": "false"}),
        _sluice("sluice-default-switch", without="switch-interval"),
        _sluice("sluice-gzip", without="nothing-but-gzip", prepare=_compressing),
    )
}
