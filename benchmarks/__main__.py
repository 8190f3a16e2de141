"""``python -m benchmarks NAME``: one JSON line for each figure, on stdout; progress on stderr."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from benchmarks import end_to_end, overhead, release, sealing, serve, tcb, tui, verify

Figures = Callable[[int], Iterable[dict[str, Any]]]

FIGURES: Final[dict[str, Figures]] = {
    "overhead": overhead.figures,
    "end_to_end": end_to_end.figures,
    "release": release.figures,
    "serve": serve.figures,
    "sealing": sealing.figures,
    "tcb": tcb.figures,
    "tui": tui.figures,
    "verify": verify.figures,
}
RUNS: Final = {"end_to_end": 3}
"""Blocks or pairs of each arm, where not `RUNS_USUAL`."""
RUNS_USUAL: Final = 7


def main() -> None:
    """Entry point. SIGTERM ends it as Ctrl-C does: no process and no file stays behind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=sorted(FIGURES))
    parser.add_argument("--runs", type=int, help=f"blocks of each arm; {RUNS_USUAL}, or {RUNS}")
    parser.add_argument("--precision", choices=sorted(serve.DTYPES), help="of serve; fp32")
    arguments = parser.parse_args()
    figures = FIGURES[arguments.name]
    if arguments.precision is not None:
        if arguments.name != "serve":
            parser.error("--precision is for serve")
        figures = partial(serve.figures, precision=arguments.precision)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    runs = RUNS.get(arguments.name, RUNS_USUAL) if arguments.runs is None else arguments.runs
    if runs < 1:
        parser.error("at least one run")
    for figure in figures(runs):
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
