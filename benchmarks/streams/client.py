"""The load client: compiled where it is needed, run on a processor core of its own, its output read."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent

CACHE: Final = HERE / ".cache"
"""Where the compiled client lies; git ignores it."""

COMPILER: Final = "cc"

STAMP: Final = "@" * 17
"""What the client replaces in a request by the moment of sending."""

PATH: Final = "/content/generate/stream/async"


class Failed(Exception):
    """A run that brought no figures; the text is the reason."""


def compiled() -> Path:
    """The program, newly compiled where its source has changed. Raises `Failed`."""
    source = HERE / "client.c"
    program = CACHE / f"client-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if program.exists():
        return program
    if shutil.which(COMPILER) is None:
        raise Failed(f"there is no C compiler ({COMPILER})")
    CACHE.mkdir(exist_ok=True)
    done = subprocess.run(
        [COMPILER, "-O2", "-Wall", "-Wextra", "-o", str(program.with_suffix(".new")), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"the client cannot be compiled:\n{done.stderr}")
    program.with_suffix(".new").rename(program)
    return program


def request(options: dict[str, Any], headers: dict[str, str], **members: Any) -> bytes:
    """The request of one stream. `options` is the script; its `start_at` becomes the moment of sending."""
    if "start_at" in options:
        options = {**options, "start_at": STAMP}
    brief = {
        "user_id": "benchmark",
        "category": "benchmarks",
        "topic": "How long the first token takes",
        "length": "medium",
        "provider": "scripted",
        **members,
        "options": options,
    }
    body = json.dumps(brief).replace(f'"{STAMP}"', STAMP).encode()
    head = {
        "Host": "127.0.0.1",
        "Accept": "text/event-stream",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode() + body


def run(
    port: int,
    core: int,
    sent: bytes,
    on_mark: Callable[[str], None] = lambda _: None,
    limit: float = 300,
    **options: object,
) -> dict[str, Any]:
    """Run the client to its end and return its result; `on_mark` is called at each of its marks.

    Raises `Failed` with the client's reason.
    """
    with tempfile.NamedTemporaryFile(prefix="request-") as file:
        file.write(sent)
        file.flush()
        arguments = {"port": port, "core": core, "request": file.name, **options}
        command = [str(compiled()), *(f"{name}={_text(value)}" for name, value in arguments.items())]
        with subprocess.Popen(
            ["timeout", str(limit), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            result: dict[str, Any] = {}
            try:
                for line in process.stdout:
                    result |= _take(line, on_mark, process.stdin.close)
            finally:
                process.terminate()
    if "opened" not in result:
        raise Failed(f"the client ended with {process.returncode} and no result")
    if result["failed"]:
        raise Failed(result["failed"])
    return result


def _take(line: str, on_mark: Callable[[str], None], let_go: Callable[[], None]) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(line)
    if (name := members.pop("mark", None)) is not None:
        on_mark(name)
        if name == "open":
            let_go()
    result: dict[str, Any] = members.get("result", members)
    return result


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
