"""Runs: repetitions outside, peers in turn inside each scenario, every figure written down at once."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine, versions

from .catalogue import PEERS
from .client import Failed
from .scenarios import SELDOM, Case, Figures, Load, Scenario, Sizes, Subject
from .servers import Peer, Server, rest, started

GIVE_UP: Final = 2
"""Failures after which a peer is not tried again under the same load."""


def now() -> str:
    """The time, for people."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Record:
    """The raw results and their file."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def begun(cls, path: Path, method: dict[str, Any], resume: bool) -> Record:
        """A new record, or the one in the file. Raises `ValueError` where that was made in another way."""
        if resume and path.exists():
            content = json.loads(path.read_text())
            if content["method"] != method:
                raise ValueError(f"{path} was measured in another way: {content['method']}")
            return cls(path, {**content, "finished": None})
        content = {
            "started": now(),
            "finished": None,
            "machine": machine(),
            "versions": versions(),
            "method": method,
            "measurements": [],
        }
        return cls(path, content)

    def of(self, scenario: str, load: Load, peer: str) -> list[dict[str, Any]]:
        """What has been measured of a peer under a load."""
        key = (scenario, load, peer)
        return [m for m in self.content["measurements"] if (m["scenario"], m["load"], m["peer"]) == key]

    def wanted(self, scenario: str, load: Load, peer: str, repetition: int) -> bool:
        """Whether it is still to be measured: not yet, and the peer has not failed too often."""
        done = self.of(scenario, load, peer)
        failures = sum(m["failed"] is not None for m in done)
        return failures < GIVE_UP and all(m["repetition"] != repetition for m in done)

    def add(
        self, scenario: str, load: Load, peer: str, repetition: int, figures: Figures, failed: str | None
    ) -> None:
        """Write a measurement down."""
        self.content["measurements"].append(
            {
                "scenario": scenario,
                "load": load,
                "peer": peer,
                "repetition": repetition,
                "figures": figures,
                "failed": failed,
            }
        )
        self.write()

    def write(self) -> None:
        """Replace the file as a whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".json.tmp")
        new.write_text(json.dumps(self.content, indent=1) + "\n")
        new.replace(self.path)


@dataclass
class House:
    """Servers that are kept while a scenario needs them."""

    core: int
    settings: Mapping[str, str]
    _running: dict[str, tuple[ExitStack, Server]] = field(default_factory=dict)

    def server(self, peer: Peer) -> Server:
        """The peer's server; started if there is none. Raises `Failed`."""
        if peer.name not in self._running:
            stack = ExitStack()
            try:
                self._running[peer.name] = (stack, stack.enter_context(started(self._set(peer), self.core)))
            except (RuntimeError, OSError) as error:
                raise Failed(f"the server did not start: {error}") from error
        return self._running[peer.name][1]

    def rest(self) -> None:
        """Wait until none of them is busy."""
        rest([server for _, server in self._running.values()])

    def _set(self, peer: Peer) -> Peer:
        return replace(peer, environment={**peer.environment, **self.settings})

    def close(self, name: str) -> None:
        """End the server of that peer."""
        if name in self._running:
            self._running.pop(name)[0].close()

    def close_all(self) -> None:
        """End all of them."""
        for name in list(self._running):
            self.close(name)


def rotated(names: Sequence[str], repetition: int) -> list[str]:
    """The order of a repetition (from 1): each begins with another one."""
    first = (repetition - 1) % len(names) if names else 0
    return [*names[first:], *names[:first]]


@dataclass
class Run:
    """What shall be measured."""

    record: Record
    scenarios: Sequence[Scenario]
    peers: Sequence[str] | None
    repetitions: int
    sizes: Sizes
    quick: bool
    server_core: int
    client_core: int

    def all(self) -> None:
        """Measure everything that is not in the record yet."""
        for repetition in range(1, self.repetitions + 1):
            for scenario in self.scenarios:
                if repetition <= scenario.repetitions:
                    self._one(scenario, repetition)
        self.record.content["finished"] = now()
        self.record.write()

    def _one(self, scenario: Scenario, repetition: int) -> None:
        house = House(self.server_core, scenario.settings)
        try:
            for case in self._cases(scenario):
                for name in rotated(self._names(case, repetition), repetition):
                    if self.record.wanted(scenario.name, case.load, name, repetition):
                        self._measure(scenario, case.load, name, repetition, house)
        finally:
            house.close_all()

    def _cases(self, scenario: Scenario) -> Iterator[Case]:
        return (case for case in scenario.cases if case.quick or not self.quick)

    def _names(self, case: Case, repetition: int) -> list[str]:
        names = (*case.peers, *case.seldom) if repetition <= SELDOM else case.peers
        return [name for name in names if not self.peers or name in self.peers]

    def _measure(self, scenario: Scenario, load: Load, name: str, repetition: int, house: House) -> None:
        earlier = [m["figures"] for m in self.record.of(scenario.name, load, name) if not m["failed"]]
        began = time.monotonic()
        figures: Figures = {}
        failed = None
        try:
            subject = Subject(
                house.server(PEERS[name]), self.client_core, self.sizes, earlier[-1] if earlier else {}
            )
            house.rest()
            figures = scenario.measure(subject, load)
        except Failed as reason:
            failed = str(reason)
        self.record.add(scenario.name, load, name, repetition, figures, failed)
        if failed or not scenario.together:
            house.close(name)
        line = f"{repetition} {scenario.name} {_short(load)} {name}: {failed or summary(figures)}"
        print(f"{line}  [{time.monotonic() - began:.1f} s]", file=sys.stderr)


def summary(figures: Figures) -> str:
    """A measurement in a line."""
    parts = []
    for name, value in figures.items():
        if isinstance(value, dict):
            if "p50" in value:
                parts.append(f"{name} p50 {value['p50']:.6g} p99 {value['p99']:.6g}")
        else:
            parts.append(f"{name} {value:.6g}")
    return ", ".join(parts)


def _short(load: Load) -> str:
    return " ".join(f"{name}={value}" for name, value in load.items())


def cores() -> tuple[int, int]:
    """One for the server, another for the client; the same where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 if len(allowed) > 1 else 0]
