"""``python -m benchmarks NAME``: one JSON line for each figure, on stdout."""

from __future__ import annotations

import argparse
import json

from benchmarks import overhead, tcb

FIGURES = {"overhead": overhead.figures, "tcb": tcb.figures}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=sorted(FIGURES))
    parser.add_argument("--runs", type=int, default=7, help="alternating blocks of each arm")
    arguments = parser.parse_args()
    for figure in FIGURES[arguments.name](arguments.runs):
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
