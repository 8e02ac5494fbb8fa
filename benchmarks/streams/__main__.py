"""The command line: `python -m benchmarks.streams --help`."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from .catalogue import PEERS
from .client import Failed, compiled
from .run import Record, Run, cores
from .scenarios import QUICK, SCENARIOS, Sizes
from .servers import ROOT

RESULT: Final = ROOT / "benchmarks" / "results" / "streams.json"


def main() -> int:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="only this one; may be repeated"
    )
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this one; may be repeated")
    parser.add_argument("--repetitions", type=int, help="default: 5, with --quick 3")
    parser.add_argument("--quick", action="store_true", help="fewer loads, shorter windows")
    parser.add_argument("--resume", action="store_true", help="go on with the file of a run that was cut")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the raw results go")
    arguments = parser.parse_args()
    repetitions = arguments.repetitions or (3 if arguments.quick else 5)
    sizes = QUICK if arguments.quick else Sizes()
    server_core, client_core = cores()
    # So that the servers go, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    method = {
        "repetitions": repetitions,
        "server_core": server_core,
        "client_core": client_core,
        "quick": arguments.quick,
        "sizes": asdict(sizes),
    }
    try:
        compiled()
        record = Record.begun(arguments.out, method, arguments.resume)
    except (Failed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    Run(
        record=record,
        scenarios=[SCENARIOS[name] for name in arguments.scenario or SCENARIOS],
        peers=arguments.peer,
        repetitions=repetitions,
        sizes=sizes,
        quick=arguments.quick,
        server_core=server_core,
        client_core=client_core,
    ).all()
    print(f"raw results: {arguments.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
