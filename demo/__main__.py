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

SHOWN = 3  # questions whose answers are shown side by side


def main() -> NoReturn:
    """Entry point."""
    parser = argparse.ArgumentParser(description="a sealed fine-tune, through a host that dies")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--tui", action="store_true", help="watch it in the buyer's window")
    arguments = parser.parse_args()
    as_json = arguments.json
    if arguments.tui and not (sys.stdin.isatty() and sys.stdout.isatty()):
        parser.error("--tui wants a terminal")
    signal.signal(signal.SIGTERM, _interrupt)
    display = Display()
    status, report = 1, None
    with Stage() as stage:
        window = Window(stage, display)
        story = Story(stage, display, window.open if arguments.tui else lambda: None)
        try:
            report = story.run()
            status = 0
            window.wait()
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
        for said in story.spoken.shown[:SHOWN]:
            display.table(said["question"], {"base": said["base"], "tuned": said["tuned"]})
        if as_json:
            print(json.dumps(report))
    sys.exit(status)


class Window:
    """The buyer's window over the running demo; what the demo says goes to a file meanwhile."""

    def __init__(self, stage: Stage, display: Display) -> None:
        self._stage, self._display = stage, display
        self._process: subprocess.Popen[str] | None = None

    def open(self) -> None:
        """Give the terminal to `blindhost-tui`, in the buyer's home."""
        log = self._stage.root / "demo.log"
        self._display.note(f"the window opens; the demo goes on, and writes to {log}")
        self._display.write_to(log.open("w", encoding="utf-8"))
        home = str(self._stage.home("buyer"))
        self._process = self._stage.in_front("blindhost-tui", "jobs", "--home", home)

    def wait(self) -> None:
        """Everybody stays until the window is closed; then the terminal is ours again."""
        if self._process is not None:
            self._process.wait()
            self._display.write_to(sys.stderr)


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
    ledger, blindness, receipts = report["ledger"], report["blindness"], report["receipts"]
    chat = report["chat"]
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
            "of it on Ray's own connections": _ray_bytes(blindness["ray"]),
            "secrets found at hosts or market": blindness["hits"],
            "books balance": ledger["balanced"],
            "paid by buyer (microcredits)": f"{ledger['paid_by_buyer']:,}",
            "to hosts / owner / market": (
                f"{ledger['to_hosts']:,} / {ledger['to_owner']:,} / {ledger['to_market']:,}"
            ),
            "refunded": f"{ledger['refunded']:,}",
            "receipts settled": receipts["settled"],
            "asked of base and tuned model": (
                f"{chat['requests']} requests, {chat['tokens']} tokens, "
                f"{chat['tokens_per_second']} tokens/s"
            ),
            "a host's own sealed request": "refused" if chat["refused_unsigned"] else "ANSWERED",
            "receipts forged or replayed → refused": (
                f"{receipts['forged']} → {receipts['refused']}"
            ),
            "seconds": report["seconds"],
        },
    )


def _ray_bytes(ray: dict[str, Any]) -> str:
    """What the recorder of loopback heard; what it did not is said too."""
    if not ray["recorded"]:
        return f"not recorded: {ray['why']}"
    lost = ray["lost_bytes"] or ray["lost_segments"]
    return f"{ray['bytes']:,} bytes" + (", some lost" if lost else "")


if __name__ == "__main__":
    main()
