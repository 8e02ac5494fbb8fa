"""The numbers of processes that share a port: a scrape reaches one of them, and must show the sum of all.

Each process writes its numbers to a file of its own, once a second and before it answers a scrape, and holds
a lock as long as it lives, which the kernel takes away however it dies. Who answers a scrape first moves what
is lasting of the dead to one file for all of them. Only what was written is ever shown, so no number falls
when a process dies; what one that is killed has counted in its last second is lost.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from streaming.core.metering import Metric, Samples, decoded, encoded, lasting, merged

logger = logging.getLogger(__name__)

DIRECTORY: Final = "SLUICE_METRICS_DIRECTORY"
"""By this variable `manage.py serve` tells its processes where they share their numbers."""

_NUMBERS, _LIFE = ".numbers", ".life"


class _Departed(msgspec.Struct):
    """What is left of the dead: `numbers`, and the names of those in it whose files may still be there."""

    numbers: msgspec.Raw = msgspec.Raw(b"[]")
    names: tuple[str, ...] = ()


class Board:
    """This process, `name`, among those that write to `directory`. Its methods block, for milliseconds, and
    raise `OSError` where the directory cannot be used. To be used by one thread at a time."""

    def __init__(self, directory: Path, name: str, metrics: Mapping[str, Metric]) -> None:
        self._directory = directory
        self._name = name
        self._metrics = metrics
        self._life: int | None = None

    def publish(self, samples: Samples) -> None:
        """Show the numbers of this process, in place of those that it showed before."""
        if self._life is None:
            # Not closed: the lock goes with the process.
            path = self._directory / (self._name + _LIFE)
            self._life = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._life, fcntl.LOCK_EX)
        self._write(self._name + _NUMBERS, encoded(samples))

    def together(self) -> Samples:
        """The numbers of all processes, living and dead."""
        with self._alone():
            departed = self._departed()
            living: dict[str, Samples] = {}
            dead: dict[str, Samples] = {}
            for path in self._directory.glob("*" + _NUMBERS):
                if path.stem not in departed.names and (samples := self._read(path)) is not None:
                    (living if self._lives(path.stem) else dead)[path.stem] = samples
            numbers = decoded(departed.numbers)
            if dead or departed.names:
                numbers = merged(
                    self._metrics, [numbers, *(lasting(self._metrics, each) for each in dead.values())]
                )
                # Their names first, so that nobody is counted twice if this process dies in between.
                self._keep(numbers, dead)
                self._remove([*departed.names, *dead])
            return merged(self._metrics, list(living.values()), [numbers])

    def leave(self) -> None:
        """This process goes down and publishes no more; its last numbers stay."""
        if self._life is not None:
            os.close(self._life)
            self._life = None

    def _lives(self, name: str) -> bool:
        if name == self._name:
            return True
        try:
            with self._directory.joinpath(name + _LIFE).open("rb") as life:
                fcntl.flock(life, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process reads or moves numbers meanwhile."""
        with self._directory.joinpath("lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _departed(self) -> _Departed:
        try:
            return msgspec.json.decode(self._directory.joinpath("departed").read_bytes(), type=_Departed)
        except FileNotFoundError:
            return _Departed()

    def _keep(self, numbers: Samples, names: Mapping[str, object]) -> None:
        departed = _Departed(msgspec.Raw(encoded(numbers)), tuple(names))
        self._write("departed", msgspec.json.encode(departed))

    def _remove(self, names: list[str]) -> None:
        for name in names:
            for suffix in (_NUMBERS, _LIFE):
                self._directory.joinpath(name + suffix).unlink(missing_ok=True)

    def _read(self, path: Path) -> Samples | None:
        try:
            return decoded(path.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("the numbers of the process %s cannot be read: %s", path.stem, error)
            return None

    def _write(self, name: str, content: bytes) -> None:
        """At once, for whoever reads."""
        path = self._directory / name
        draft = path.with_name(name + ".draft")
        draft.write_bytes(content)
        draft.replace(path)


def directory_of_siblings() -> str:
    """Where processes that `serve` started share their numbers; empty if it did not start any."""
    return os.environ.get(DIRECTORY, "")


@contextmanager
def shared_directory(path: str) -> Iterator[None]:
    """Processes that are started inside share their numbers there."""
    os.environ[DIRECTORY] = path
    try:
        yield
    finally:
        with suppress(KeyError):
            del os.environ[DIRECTORY]
