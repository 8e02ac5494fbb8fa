"""Rounds of the doctor: one, or one after the other for ever, which makes it a latency monitor."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from streaming.core.diagnosis import Diagnosis, Observation, Severity, diagnose, failed

from .client import Target, observe, pools_of
from .words import sentence

logger = logging.getLogger(__name__)

Report = Callable[[float, str], object]
"""Told after each round how bad it was (0 fine, 1 slow or suspicious, 2 broken) and the worst finding's
sentence, in a thread that may wait."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One observation, and what it means."""

    seen: Observation
    diagnosis: Diagnosis


async def examine(target: Target) -> Round:
    """Stream once, ask for the pools, and diagnose. What came in bunches and compressed is streamed again
    without compression, to know which of both it is. Raises nothing: an answer that nobody foresaw is a
    finding and a line in the log, so that a monitor goes on."""
    try:
        return await _examined(target)
    except Exception as error:
        logger.exception("an error of the doctor's own")
        seen = Observation(target=target.kind)
        return Round(seen=seen, diagnosis=failed(seen, type(error).__name__))


async def _examined(target: Target) -> Round:
    seen = await observe(target)
    pools = {} if seen.status is None else await pools_of(target)
    seen = msgspec.structs.replace(seen, pools=pools)
    diagnosis = diagnose(seen)
    if seen.encoding and "buffered_by_proxy" in diagnosis.codes:
        diagnosis = diagnose(seen, await observe(target, compressed=False))
    return Round(seen=seen, diagnosis=diagnosis)


class Monitor:
    """Round after round. A change to the worse is a warning in the log, one back to fine an info; each round
    goes to `report` and, where there is one, into the file for Prometheus' textfile collector."""

    def __init__(
        self, target: Target, every: float, metrics_file: Path | None = None, report: Report | None = None
    ) -> None:
        self._target = target
        self._every = every
        self._metrics_file = metrics_file
        self._report = report
        self._codes: list[str] = []
        self._rounds = 0

    async def run(self, tell: Callable[[Round], None], stop: asyncio.Event) -> Severity:
        """Until `stop` is set, which also ends a round; returns how bad the last whole one was. `tell` gets
        each. Rounds begin `every` seconds apart, or at once after one that took longer."""
        loop = asyncio.get_running_loop()
        severity = Severity.INFO
        stopped = asyncio.create_task(stop.wait())
        due = loop.time()
        while not stop.is_set():
            examination = asyncio.create_task(examine(self._target))
            await asyncio.wait([examination, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not examination.done():
                examination.cancel()
                await asyncio.wait([examination])
                break
            made = examination.result()
            severity = made.diagnosis.severity
            self._note(made)
            tell(made)
            if self._report is not None:
                try:
                    await asyncio.to_thread(self._report, float(severity), self._words(made))
                except Exception:
                    logger.exception("the round could not be reported")
            due = max(due + self._every, loop.time())
            await asyncio.wait([stopped], timeout=due - loop.time())
        stopped.cancel()
        return severity

    def _note(self, made: Round) -> None:
        self._rounds += 1
        bad = [each for each in made.diagnosis.findings if each.severity]
        codes = [each.code for each in bad]
        if bad and codes != self._codes:
            logger.warning("%s: %s", ", ".join(codes), self._words(made))
        elif self._codes and not bad:
            logger.info("%s: fine again", self._target.base)
        self._codes = codes
        if self._metrics_file is not None:
            try:
                replace_file(self._metrics_file, metrics_of(self._target, made, self._rounds))
            except OSError as error:
                logger.warning("the metrics could not be written: %s", error)

    def _words(self, made: Round) -> str:
        return f"{self._target.base}: {sentence(made.diagnosis.findings[0])}"


def metrics_of(target: Target, made: Round, rounds: int) -> bytes:
    """The last round in Prometheus' text format; times in seconds."""
    registry = CollectorRegistry()
    measures, severity = made.diagnosis.measures, made.diagnosis.severity

    def gauge(name: str, help_text: str, value: float | None) -> None:
        if value is not None:
            made_gauge = Gauge(f"sluice_doctor_{name}", help_text, ["url"], registry=registry)
            made_gauge.labels(target.base).set(value)

    gauge("rounds", "Rounds since the monitor began", rounds)
    gauge("severity", "The last round: 0 fine, 1 slow or suspicious, 2 broken", severity)
    gauge("first_content_seconds", "From the call to the first content", _seconds(measures.first_content))
    gauge("connect_seconds", "Connecting", _seconds(made.seen.connect))
    gauge("bunched_ratio", "Share of events that were sent apart and arrived together", measures.bunched)
    for name, help_text, histogram in (
        ("gap_seconds", "Between arrivals", measures.gaps),
        ("delay_seconds", "On the way, beyond the fastest event", measures.delays),
        ("late_seconds", "Late in the server", measures.late),
    ):
        # Not "quantile", which is a summary's alone.
        percentiles = Gauge(f"sluice_doctor_{name}", help_text, ["url", "percentile"], registry=registry)
        for percent in (50, 95, 99):
            value = _seconds(histogram.percentile(percent))
            if value is not None:
                percentiles.labels(target.base, str(percent)).set(value)
    found = Gauge("sluice_doctor_finding", "What the last round found", ["url", "code"], registry=registry)
    for code in made.diagnosis.codes:
        found.labels(target.base, code).set(1)
    return generate_latest(registry)


def replace_file(path: Path, content: bytes) -> None:
    """Write it so that nobody ever reads half of it. Raises `OSError`."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # Not only for us: the collector is another user.
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _seconds(value: float | None) -> float | None:
    return None if value is None else value / 1000
