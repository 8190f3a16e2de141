"""``make demo``: the main job on one machine, by public commands, with a table at its end.

Exit status 0 only if every promise held. Interrupted or not, no process and no file stays behind.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from typing import Any, NoReturn

from demo.display import Display
from demo.parties import Stage, StepError
from demo.story import Story


def main() -> NoReturn:
    """Entry point."""
    parser = argparse.ArgumentParser(description="a sealed fine-tune, through a host that dies")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    as_json = parser.parse_args().json
    signal.signal(signal.SIGTERM, _interrupt)
    display = Display()
    status, report = 1, None
    with Stage() as stage:
        try:
            report = Story(stage, display).run()
            status = 0
        except StepError as error:
            display.note(f"failed: {error}")
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            display.note(f"failed: {type(error).__name__}: {error}")
        except KeyboardInterrupt:
            display.note("interrupted")
            status = 130
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one must not break the cleaning up
        if status == 1:
            _show_logs(stage, display)
        stage.stop(*reversed(stage.parties))
        if report is not None:
            for role, party in stage.parties.items():
                report["processes"][role]["exit"] = party.exit
    if report is not None:
        _summary(display, report)
        if as_json:
            print(json.dumps(report))
    sys.exit(status)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _show_logs(stage: Stage, display: Display) -> None:
    for role, party in stage.parties.items():
        lines = stage.log_tail(role).strip().splitlines()[-6:]
        display.note(f"--- {role} (exit {party.exit})")
        for line in lines:
            display.console.print(f"      {line}", markup=False)


def _summary(display: Display, report: dict[str, Any]) -> None:
    scores, resume = report["eval"], report["resume"]
    ledger, blindness = report["ledger"], report["blindness"]
    display.table(
        "Blindhost: a sealed fine-tune, through a host that died",
        {
            "held-out loss, base → tuned": f"{scores['loss_base']} → {scores['loss_tuned']}",
            "exact header, base → tuned": (
                f"{scores['exact_match_base']} → {scores['exact_match_tuned']}"
            ),
            "exact reply, tuned": scores["exact_whole_tuned"],
            "host killed at step → resumed from": (
                f"{resume['killed_at_step']} → {resume['resumed_from_step']}"
            ),
            "bit-identical to its twin": resume["bit_identical"],
            "searched for secrets": f"{blindness['bytes_searched']:,} bytes",
            "secrets found at hosts or market": blindness["hits"],
            "books balance": ledger["balanced"],
            "paid by buyer (microcredits)": f"{ledger['paid_by_buyer']:,}",
            "to hosts / owner / market": (
                f"{ledger['to_hosts']:,} / {ledger['to_owner']:,} / {ledger['to_market']:,}"
            ),
            "refunded": f"{ledger['refunded']:,}",
            "receipts settled / refused": (
                f"{report['receipts']['settled']} / {report['receipts']['refused']}"
            ),
            "seconds": report["seconds"],
        },
    )


if __name__ == "__main__":
    main()
