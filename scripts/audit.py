"""Look for packages with known faults: `scripts/check audit`.

First what needs no network: the versions in requirements/ and those that are installed, beside our own table
(streaming/packages.py). Then pip-audit asks a list of known vulnerabilities for what is locked. Where no list
can be asked it says so and goes on, because offline is not a fault of the code; where a list names one of the
versions, it fails.

A mirror of packages may answer without knowing of any vulnerability, and pip-audit then finds none. So each
service is first asked for a version that every list names, and is believed only if it does, too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from streaming import packages  # noqa: E402 - the folder must be known first

SETS: Final = ("bench", "uv")
"""The locked sets that hold all others."""

NEVER: Final = {"litellm": "a gateway that holds all keys; two releases of it were malicious"}
"""Package → why it must not be among ours in any version."""

SERVICES: Final = {"pypi": "pypi.org", "osv": "api.osv.dev"}
"""pip-audit's names of lists of vulnerabilities, in the order in which they are asked, and where they are."""

CONTROL: Final = "django==3.2.0"
"""What every list names."""

TIME_LIMIT: Final = 300.0
"""Seconds for all questions to one service."""

Audit = Callable[[str, Path], Any]
"""Asks a service for a file of requirements: pip-audit's report. Raises `Unavailable`."""


class Unavailable(Exception):
    """The service did not answer; why."""


def main() -> int:
    """Say what is known of the packages; 1 if something bad is."""
    found = [*known_faults(), *vulnerabilities(pip_audit)]
    for line in found:
        print(f"audit: {line}", file=sys.stderr)
    return 1 if found else 0


# Without network


def known_faults() -> Iterator[str]:
    """What our own table says of the locked and of the installed versions."""
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for name, version in locked(path.read_text(encoding="utf-8")):
            reasons = [*packages.faults({name: version})]
            if name in NEVER:
                reasons.append(f"{name}: {NEVER[name]}")
            yield from (f"{path.name}: {reason}" for reason in reasons)
    yield from (f"installed: {reason}" for reason in packages.faults(packages.installed()))


def locked(text: str) -> list[tuple[str, str]]:
    """Names and versions in a locked file; a package may have several, for several systems."""
    return re.findall(r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==([^\s;]+)", text, re.MULTILINE)


# With it


def vulnerabilities(audit: Audit) -> Iterator[str]:
    """What a list of vulnerabilities names of the locked versions; nothing where no list can be asked."""
    refusals = []
    for service, host in SERVICES.items():
        try:
            if not knows_the_control(audit, service):
                raise Unavailable("names no vulnerability of a version that has some")
            reports = [audit(service, ROOT / "requirements" / f"{name}.txt") for name in SETS]
        except Unavailable as error:
            refusals.append(f"{service} ({host}) {error}")
            continue
        entries = {
            (entry["name"], entry.get("version", "")): entry
            for report in reports
            for entry in report["dependencies"]
        }
        unknown = [name for (name, _), entry in entries.items() if "skip_reason" in entry]
        print(f"audit: {service} was asked for {len(entries) - len(unknown)} locked packages")
        if unknown:
            print(f"audit: it does not know {', '.join(unknown)}")
        for (name, version), entry in entries.items():
            for each in entry.get("vulns", ()):
                better = ", ".join(each["fix_versions"]) or "none yet"
                names = ", ".join([each["id"], *each.get("aliases", ())])
                yield f"{name} {version}: {names}; versions without it: {better}"
        return
    print(f"audit: known vulnerabilities were NOT looked up, nobody can be asked: {'; '.join(refusals)}")


def knows_the_control(audit: Audit, service: str) -> bool:
    """Whether the service names what every list names."""
    with tempfile.TemporaryDirectory(prefix="sluice-audit-") as folder:
        path = Path(folder) / "control.txt"
        path.write_text(f"{CONTROL} --hash=sha256:{'0' * 64}\n", encoding="utf-8")
        report = audit(service, path)
    return any(entry.get("vulns") for entry in report["dependencies"])


def pip_audit(service: str, path: Path) -> Any:
    """Its report of the pins in a file, which are not resolved or fetched anew."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    options = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--aliases", "on"]
    try:
        done = subprocess.run(
            [*command, *options, "--desc", "off", "--timeout", "10", "--requirement", str(path)],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"took more than {TIME_LIMIT:g} s") from None
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        raise Unavailable(f"does not answer ({last.split(':')[0]})") from None


if __name__ == "__main__":
    sys.exit(main())
