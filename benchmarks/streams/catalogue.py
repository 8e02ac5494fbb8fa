"""The peers by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from .peers.django_project import DATABASE
from .servers import ROOT, UVICORN, Peer

_HERE: Final = "benchmarks.streams.peers"


def _application(name: str, **more: object) -> Peer:
    module = name.replace("-", "_")
    return Peer(name=name, command=(*UVICORN, f"{_HERE}.{module}:application"), **more)  # type: ignore[arg-type]


def _signed_in(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """The cookie of a session in a new database."""
    return {"Cookie": _output("-m", f"{_HERE}.django_auth", environment=environment)}


def _with_key(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """An API key in a new database, made as administrators make one."""
    _output("manage.py", "migrate", "--verbosity", "0", environment=environment)
    user = "from django.contrib.auth.models import User; User.objects.create_user('bench')"
    _output("manage.py", "shell", "--verbosity", "0", "-c", user, environment=environment)
    key = _output("manage.py", "create_api_key", "bench", environment=environment)
    return {"Authorization": f"Bearer {key}"}


def _output(*command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout.strip()


SLUICE: Final = {
    "ENV_FILE": "",
    "SECRET_KEY": "only-for-benchmarks-" + "x" * 40,
    "DEBUG": "false",
    "ALLOWED_HOSTS": "127.0.0.1",
    "ALLOW_ANONYMOUS": "false",
    "ALLOW_SCRIPTED_PROVIDER": "true",
    "DATABASE_URL": "sqlite:///{folder}/db.sqlite3",
    # Bounds that the loads would reach; nothing is switched off.
    "AGENT_POOL_MAX_WORKERS": "20000",
    "AGENT_POOL_PER_OWNER": "20000",
    "SERVER_LIMIT_CONCURRENCY": "20000",
}
"""Production settings: `docs/settings.md`."""


def _sluice(name: str, **more: object) -> Peer:
    settings = {**SLUICE, **more.pop("settings", {})}  # type: ignore[dict-item]
    arguments = {"prepare": _with_key, **more}
    return Peer(
        name=name,
        command=("manage.py", "serve", "--port", "{port}"),
        environment=settings,
        **arguments,  # type: ignore[arg-type]
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
        _sluice("sluice", coalesces=True),
        _sluice("sluice-uncoalesced", settings={"BUFFER_FLUSH_CHARS": "1"}),
        _sluice("sluice-blocking", coalesces=True, options={"blocking": True}),
    )
}
