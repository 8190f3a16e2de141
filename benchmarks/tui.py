"""The window, beside a bare textual app and `DataTable`, in the same run.

- `tui.start_vs_bare`: from starting the process to words on a real pseudo-terminal (Offers, from a
  recording), ÷ the same of an app of textual's that shows one `Static`. `live`: to the first words
  of Start in an empty home, over the real client.
- `tui.first_paint_100k_s`: a table of 100,000 rows, from being asked for to its first words being
  drawn, in process; `data_table` is what textual's own takes for the same rows.
- `tui.key_p99_ms`: from a key on the pseudo-terminal until what it changes came back, in a table
  of 100,000 rows; `while_streaming`: the same in Chat, while two replies stream 50 words a second.
- `tui.idle_cpu_percent`: processor time of the process over 10 s of nobody doing anything.
- `tui.memory_mb`: its resident memory then, with 100,000 offers known to be on the book, and all of
  the client loaded.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROWS: Final = 100_000
KEYS: Final = 200
IDLE_SECONDS: Final = 10.0
PAINT_SECONDS_MAX: Final = 60.0
TICKS_PER_SECOND: Final = 100

BARE: Final = """
from textual.app import App
from textual.widgets import Static

class Bare(App):
    def compose(self):
        yield Static("words of a bare app")

Bare().run()
"""

LOADED: Final = "import sys, tui.hub, tui.__main__; sys.exit(tui.__main__.main())"


def figures(runs: int) -> Iterator[dict[str, Any]]:
    """All five."""
    with tempfile.TemporaryDirectory(prefix="blindhost-tui-") as folder:
        recording = _record(Path(folder))
        home = str(Path(folder) / "home")
        arguments = ["-m", "tui", "--home", home, "--replay", str(recording), "offers"]
        live = ["-m", "tui", "--home", str(Path(folder) / "none"), "start"]
        starts: dict[str, list[float]] = {"ours": [], "bare": [], "live": []}
        for _ in range(runs):
            starts["bare"].append(_start(["-c", BARE], "words of a bare app"))
            starts["ours"].append(_start(arguments, "offr_"))
            starts["live"].append(_start(live, "none in this home yet"))
        seconds = {name: statistics.median(each) for name, each in starts.items()}
        yield {
            "figure": "tui.start_vs_bare",
            "value": round(seconds["ours"] / seconds["bare"], 3),
            "unit": "ratio",
            "better": "lower",
            "runs": runs,
            "seconds": {name: round(each, 3) for name, each in seconds.items()},
        }
        paints = [asyncio.run(_first_paint()) for _ in range(runs)]
        yield {
            "figure": "tui.first_paint_100k_s",
            "value": round(statistics.median(paints), 3),
            "unit": "s",
            "better": "lower",
            "runs": runs,
            "data_table": round(asyncio.run(_first_paint_of_data_table()), 2),
        }
        yield _keys(arguments)
        yield from _idle(["-c", LOADED, *arguments[2:]])


def _record(folder: Path) -> Path:
    from tests.tui.rig import USUAL
    from tui.clock import wall_clock
    from tui.facts import OfferPage
    from tui.replay import encode

    now = wall_clock()
    page = OfferPage(
        as_of=now,
        query="",
        sort="price",
        total=ROWS,
        listed=ROWS,
        start=0,
        rows=tuple(_offer(number, now) for number in range(200)),
        version="1",
    )
    path = folder / "facts.jsonl"
    path.write_text("\n".join(encode(each) for each in (*USUAL, page)) + "\n", encoding="utf-8")
    return path


def _offer(number: int, now: int) -> Any:
    from tui.facts import OfferRow

    return OfferRow(
        id=f"offr_{number:026d}",
        host=f"{number:064x}",
        platform="sev-snp",
        compute_class="h100",
        gpu_model="H100",
        gpus=1 + number % 8,
        memory_mib=81_920,
        ask=900_000 + number * 1_000,
        floor=None,
        ends_at=now + 86_400_000,
        state="listed",
        words="",
    )


def _terminal(arguments: list[str]) -> Any:
    from tests.tui.terminal import Terminal

    terminal = Terminal.__new__(Terminal)
    terminal.start([sys.executable, *arguments], columns=100, rows=30)
    return terminal


def _start(arguments: list[str], words: str) -> float:
    began = time.monotonic()
    terminal = _terminal(arguments)
    try:
        terminal.until(words)
        return time.monotonic() - began
    finally:
        terminal.close()


# --- a table of 100,000 rows ----------------------------------------------------------------------


async def _first_paint() -> float:
    from textual.app import App

    from tui.widgets.virtual_table import Column, Row, VirtualTable

    columns = (
        Column(id="id", label="offer", width=32, rank=0),
        Column(id="ask", label="cr/h", width=10, rank=0),
    )

    def row(at: int) -> Row:
        return Row(key=f"r{at}", cells=(f"offer {at}", f"{at}"))

    return await _painted(App, lambda: VirtualTable(columns), lambda t: t.show(ROWS, row, stamp=1))


async def _first_paint_of_data_table() -> float:
    from textual.app import App
    from textual.widgets import DataTable

    def fill(table: Any) -> None:
        table.add_columns("offer", "cr/h")
        for at in range(ROWS):
            table.add_row(f"offer {at}", str(at))

    return await _painted(App, DataTable, fill)


async def _painted(app_type: Any, make: Any, fill: Any) -> float:
    app = app_type()
    async with app.run_test(size=(100, 30)) as pilot:
        began = time.monotonic()
        table = make()
        await app.screen.mount(table)
        fill(table)
        while True:
            strips = app.screen._compositor.render_strips()  # noqa: SLF001 - what is drawn
            words = "".join(segment.text for strip in strips for segment in strip)
            if "offer 3" in words:
                return time.monotonic() - began
            if time.monotonic() - began > PAINT_SECONDS_MAX:
                raise RuntimeError(f"no row was drawn: {words[:400]}")
            await pilot.pause(0.001)


# --- keys -----------------------------------------------------------------------------------------


def _keys(arguments: list[str]) -> dict[str, Any]:
    terminal = _terminal(arguments)
    try:
        terminal.until("offr_")
        terminal.read(1.0)
        table = [_echo(terminal, "k" if number % 7 == 6 else "j") for number in range(KEYS)]
    finally:
        terminal.close()
    terminal = _terminal(["-m", "benchmarks.streaming"])
    try:
        terminal.until("ft:demo", "word")
        streaming = []
        for number in range(KEYS):
            letter = "abcdefghijklmnopqrstuvwxyz"[number % 26]
            began = time.monotonic()
            terminal.send(letter)
            first = max(number - number % 26, number - 4)  # a line begins anew with each alphabet
            typed = "".join(
                "abcdefghijklmnopqrstuvwxyz"[each % 26] for each in range(first, number + 1)
            )
            while typed not in terminal.words.replace("\n", ""):
                terminal.read(0.005)
                if time.monotonic() - began > 5:
                    raise RuntimeError(f"{typed!r} never came:\n{terminal.words}")
            streaming.append((time.monotonic() - began) * 1000)
            if number % 26 == 25:
                terminal.send("\x15")  # to the beginning of the line: deletes it
                terminal.read(0.1)
    finally:
        terminal.close()
    return {
        "figure": "tui.key_p99_ms",
        "value": round(_p99(table), 1),
        "unit": "ms",
        "better": "lower",
        "runs": KEYS,
        "median": round(statistics.median(table), 1),
        "while_streaming": round(_p99(streaming), 1),
        "while_streaming_median": round(statistics.median(streaming), 1),
    }


def _echo(terminal: Any, key: str) -> float:
    before = terminal.words
    began = time.monotonic()
    terminal.send(key)
    while terminal.words == before:
        terminal.read(0.005)
        if time.monotonic() - began > 5:
            raise RuntimeError(f"key {key!r} changed nothing:\n{before}")
    return (time.monotonic() - began) * 1000


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


# --- nobody does anything -------------------------------------------------------------------------


def _idle(arguments: list[str]) -> Iterator[dict[str, Any]]:
    terminal = _terminal(arguments)
    try:
        terminal.until("offr_")
        terminal.read(2.0)
        pid = terminal.process.pid
        before = _ticks(pid)
        sent = terminal.read_for(IDLE_SECONDS)
        percent = (_ticks(pid) - before) / TICKS_PER_SECOND / IDLE_SECONDS * 100
        memory = _resident_mb(pid)
    finally:
        terminal.close()
    shared = {"better": "lower", "runs": 1}
    yield {
        "figure": "tui.idle_cpu_percent", "value": round(percent, 2), "unit": "percent",
        "bytes_per_second": round(sent / IDLE_SECONDS), **shared,
    }  # fmt: skip
    yield {"figure": "tui.memory_mb", "value": round(memory, 1), "unit": "MB", **shared}


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (each for each in status.splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
