"""Where the time of a stream goes: py-spy's samples of a real `manage.py serve` under load.

Two phases: short streams (what a start and an end cost), then many open streams whose tokens come at a
pace (what a token costs). Production settings, an API key, the scripted provider. Each phase is sampled
twice in a row, once for the picture and once for the table, because py-spy writes one format at a time.

    .venv/bin/python -m benchmarks.hot_path_profile [--seconds 10] [--rate 250] [--out benchmarks/results]

Writes `profile-short.svg` and `profile-paced.svg` (flame graphs) and `profile.md` (shares by layer and
function).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from tests.support.client import STREAM, brief
from tests.support.servers import COMMANDS, ROOT, Server, environment, migrate, serving

RESULTS: Final = ROOT / "benchmarks" / "results"

SHORT_CONNECTIONS: Final = 16
SHORT_TOKENS: Final = 20

PACED_STREAMS: Final = 100
PACED_INTERVAL: Final = 0.02

WARM_UP: Final = 1.5
"""Seconds of load before the first sample."""

SHOWN: Final = 40
"""Functions in a table."""

# A server that lets any process of its user look into it: where the kernel allows that to parents only
# (Yama's ptrace_scope 1), py-spy could not.
ATTACHABLE: Final = (
    "import ctypes, os, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)\n"
    "os.environ['DJANGO_SETTINGS_MODULE'] = 'settings.settings'\n"
    "from django.core.management import execute_from_command_line\n"
    "execute_from_command_line(['manage.py', *sys.argv[1:]])"
)

LAYERS: Final = (
    ("core", "/streaming/core/"),
    ("runtime", "/streaming/runtime/"),
    ("storage", "/streaming/storage/"),
    ("storage", "/streaming/cluster/"),
    ("streaming edges", "/streaming/"),
    ("provider and views", "/contentgen/"),
    ("provider and views", "/accounts/"),
    ("provider and views", "/settings/"),
)
"""Layers by the part of a path inside of the project; the first that fits."""

SERVER_PACKAGES: Final = ("uvicorn/", "uvloop/", "httptools/")
SERVER_MODULES: Final = ("asyncio/", "selectors.py")

OTHER: Final = "other packages"


class ProfileError(Exception):
    """A profile could not be taken; the message says why in one line."""


@dataclass(frozen=True)
class Function:
    """One function as py-spy names it."""

    name: str
    path: str

    @property
    def layer(self) -> str:
        """Whose time its own time is."""
        return layer_of(self.path)

    @property
    def waits(self) -> bool:
        """Whether a thread that is here has nothing to do: py-spy does not always see that by itself."""
        name = self.name.rpartition(".")[2]
        return (name == "_worker" and "/concurrent/futures/" in self.path) or (
            name == "wait" and "/threading.py" in self.path
        )

    @property
    def place(self) -> str:
        """A short path: inside of the project, of a package or of the standard library."""
        for mark in ("/site-packages/", "/lib/python"):
            if mark in self.path:
                rest = self.path.rpartition(mark)[2]
                return rest if mark == "/site-packages/" else rest.partition("/")[2]
        return self.path.removeprefix(f"{ROOT}/")


@dataclass(frozen=True)
class Profile:
    """Samples by function. `own`: it ran itself (or something in C that it called); `total`: it was anywhere
    on the stack. `waiting`: samples of threads that only waited for work, which count in neither."""

    samples: int
    waiting: int
    own: Counter[Function]
    total: Counter[Function]

    def layers(self) -> list[tuple[str, float]]:
        """Each layer's share of the samples, the largest first."""
        by_layer: Counter[str] = Counter()
        for function, count in self.own.items():
            by_layer[function.layer] += count
        return [(layer, count / self.samples) for layer, count in by_layer.most_common()]


def layer_of(path: str) -> str:
    """The layer of a source file."""
    if "/site-packages/" in path:
        package = path.rpartition("/site-packages/")[2]
        if package.startswith(SERVER_PACKAGES):
            return "event loop and server"
        if package.startswith(("django/", "asgiref/", "corsheaders/", "servestatic/")):
            return "Django and middleware"
        return OTHER
    if path.startswith(f"{ROOT}/"):
        inside = path.removeprefix(str(ROOT))
        return next((layer for layer, part in LAYERS if inside.startswith(part)), OTHER)
    if "/lib/python" in path:
        module = path.rpartition("/lib/python")[2].partition("/")[2]
        return "event loop and server" if module.startswith(SERVER_MODULES) else "standard library"
    # Frozen modules and what is compiled have no path that says more.
    return "event loop and server" if "uvloop" in path else "standard library"


def read_stacks(lines: Iterable[str]) -> Profile:
    """A profile from py-spy's `raw` format: `outermost (path);…;innermost (path) count` a line.

    Raises `ProfileError` for lines that are not of it, and if there is no sample at all.
    """
    own: Counter[Function] = Counter()
    total: Counter[Function] = Counter()
    samples = waiting = 0
    for line in lines:
        stack, _, number = line.strip().rpartition(" ")
        if not stack:
            continue
        if not number.isdigit():
            raise ProfileError(f"this is no line of py-spy's raw format: {line.strip()[:80]}")
        functions = [_function(frame) for frame in stack.split(";")]
        count = int(number)
        if functions[-1].waits:
            waiting += count
            continue
        samples += count
        own[functions[-1]] += count
        for function in set(functions):
            total[function] += count
    if not samples:
        raise ProfileError("py-spy saw no sample")
    return Profile(samples, waiting, own, total)


def _function(frame: str) -> Function:
    name, _, path = frame.rpartition(" (")
    return Function(name or frame, path.removesuffix(")") if name else "")


def render(profiles: dict[str, Profile], titles: dict[str, str], facts: Sequence[str]) -> str:
    """The page of tables; `facts`: lines about machine and method."""
    lines = ["# Profile of the hot path", "", *(f"- {fact}" for fact in facts), ""]
    lines += [
        "*Self* is time in the function itself and in what it calls in C (the kernel's `send`, SQLite,",
        "msgspec), *total* also what it calls in Python: shares of the samples in which a thread worked, of",
        "all threads. The flame graphs also show threads that wait for work (`_worker`, `Condition.wait`).",
        "",
    ]
    for phase, profile in profiles.items():
        samples = f"{profile.samples} samples, and {profile.waiting} of threads that waited"
        lines += [f"## {titles[phase]}", "", f"[Flame graph](profile-{phase}.svg); {samples}."]
        lines += ["", "| layer | self |", "| --- | ---: |"]
        lines += [f"| {layer} | {share:.1%} |" for layer, share in profile.layers()]
        lines += ["", *_functions(profile), ""]
    return "\n".join(lines).rstrip() + "\n"


def _functions(profile: Profile) -> list[str]:
    """The functions with the most time of their own, by layer."""
    most = profile.own.most_common(SHOWN)
    lines = ["| layer | function | where | self | total |", "| --- | --- | --- | ---: | ---: |"]
    for layer, _ in profile.layers():
        for function, count in most:
            if function.layer == layer:
                shares = f"{count / profile.samples:.1%} | {profile.total[function] / profile.samples:.1%}"
                lines.append(f"| {layer} | `{function.name}` | {function.place} | {shares} |")
    return lines


def retitled(svg: str, title: str) -> str:
    """py-spy's flame graph with another title than the command, which names paths of this machine."""
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', lambda match: match[1] + escape(title), svg, count=1)


# Taking it


def main() -> None:
    """Take both profiles. Ends with one line and status 1 where that is not possible."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=10, help="of each recording; there are four")
    parser.add_argument("--rate", type=int, default=250, help="samples a second")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the pictures and the table")
    arguments = parser.parse_args()
    try:
        files = asyncio.run(_profile(arguments.seconds, arguments.rate))
    except ProfileError as error:
        sys.exit(f"profile: {error}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (arguments.out / name).write_text(text)


async def _profile(seconds: int, rate: int) -> dict[str, str]:
    """The pictures and the page of tables, by file name. Raises `ProfileError`."""
    spy = _find_spy()
    titles = {
        "short": f"Short streams: {SHORT_CONNECTIONS} connections, {SHORT_TOKENS} tokens each at full speed",
        "paced": f"Open streams: {PACED_STREAMS}, a token each {PACED_INTERVAL * 1000:g} ms, coalesced",
    }
    profiles: dict[str, Profile] = {}
    files: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with _server(folder) as (server, key):
            for phase, load in (("short", _short), ("paced", _paced)):
                readers = [asyncio.create_task(each) for each in load(server, key)]
                try:
                    await asyncio.sleep(WARM_UP)
                    await _record(spy, server, seconds, rate, folder / f"{phase}.svg", "flamegraph")
                    await _record(spy, server, seconds, rate, folder / f"{phase}.raw", "raw")
                    _check_readers(readers)
                finally:
                    for reader in readers:
                        reader.cancel()
                    await asyncio.gather(*readers, return_exceptions=True)
                profiles[phase] = read_stacks((folder / f"{phase}.raw").read_text().splitlines())
                files[f"profile-{phase}.svg"] = retitled((folder / f"{phase}.svg").read_text(), titles[phase])
                print(f"{titles[phase]}: {profiles[phase].samples} samples", file=sys.stderr)
    facts = [
        f"Taken on {datetime.now(UTC):%Y-%m-%d} by `make profile` with py-spy {version('py-spy')}: {rate} "
        f"samples a second, {seconds} s a phase; the picture and the table are two recordings in a row.",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python "
        f"{platform.python_version()}, Django {version('django')}, uvicorn {version('uvicorn')}.",
        "`manage.py serve`, production settings, calls with an API key, records in SQLite.",
    ]
    return files | {"profile.md": render(profiles, titles, facts)}


def _find_spy() -> str:
    """py-spy's program. Raises `ProfileError` where there is none."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise ProfileError("py-spy is not installed: .venv/bin/python -m pip install py-spy")
    return found


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[tuple[Server, str]]:
    """A server with production settings and room for the load, and an API key for it."""
    env = environment(
        folder, ALLOW_ANONYMOUS="false", AGENT_POOL_MAX_WORKERS="1000", AGENT_POOL_PER_OWNER="1000"
    )
    migrate(env)
    make_user = "from django.contrib.auth.models import User; User.objects.create_user('profile')"
    _manage(env, "shell", "--verbosity", "0", "-c", make_user)
    key = _manage(env, "create_api_key", "profile")
    COMMANDS["serve, open to a profiler"] = ["-c", ATTACHABLE, "serve", "--port", "{port}"]
    async with serving("serve, open to a profiler", folder, env) as server:
        yield server, key


def _manage(env: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProfileError(f"manage.py {arguments[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


async def _record(spy: str, server: Server, seconds: int, rate: int, target: Path, form: str) -> None:
    """One recording. Raises `ProfileError` with py-spy's own words if it fails."""
    pid = str(server.process.pid)
    options = ["--duration", str(seconds), "--rate", str(rate), "--format", form, "--output", str(target)]
    if form == "raw":
        options += ["--function", "--full-filenames"]
    process = await asyncio.create_subprocess_exec(
        *(spy, "record", "--pid", pid, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        words = " ".join(output.decode(errors="replace").split())
        raise ProfileError(f"py-spy failed (it may need more rights): {words[-300:]}")


def _check_readers(readers: list[asyncio.Task[None]]) -> None:
    for reader in readers:
        if reader.done():
            raise ProfileError(f"a client ended: {reader.exception()!r}")


# The load


def _short(server: Server, key: str) -> list[Coroutine[Any, Any, None]]:
    request = _request(key, tokens=SHORT_TOKENS, interval=0)
    return [_again_and_again(server.port, request) for _ in range(SHORT_CONNECTIONS)]


def _paced(server: Server, key: str) -> list[Coroutine[Any, Any, None]]:
    request = _request(key, tokens=1_000_000, interval=PACED_INTERVAL)
    return [_again_and_again(server.port, request) for _ in range(PACED_STREAMS)]


def _request(key: str, **script: float) -> bytes:
    body = json.dumps(brief(options=script, on_disconnect="cancel")).encode()
    head = (
        f"POST {STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _again_and_again(port: int, request: bytes) -> None:
    """Send the request and read its answer to the last chunk, until cancelled, on one kept connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise ProfileError(f"the server answered {head[:80]!r}")
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
    finally:
        writer.close()


if __name__ == "__main__":
    main()
