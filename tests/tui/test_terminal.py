"""The real command in a real pseudo-terminal: it starts, bears a storm, and leaves it as it was."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from tests.client.test_cli import init, market
from tests.tui.rig import USUAL
from tests.tui.scenes.money import ENTRIES, receipt
from tests.tui.terminal import Terminal
from tui.replay import encode

__all__ = ["market"]  # a fixture

pytestmark = pytest.mark.slow
HOSTILE = "\x1b]52;c;QUJD\x07\x1b[2J\x9b31m\u202e"


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "facts.jsonl"
    facts = (*USUAL, *ENTRIES, receipt(1))
    path.write_text("\n".join(encode(each) for each in facts) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def terminal(recording, tmp_path):
    made = Terminal(["--home", str(tmp_path / "home"), "--replay", str(recording), "money"])
    yield made
    made.close()


def test_it_starts_bears_a_resize_storm_and_leaves_the_terminal_as_it_was(terminal):
    terminal.until("Free 41.2000 cr", "paid in")
    for columns, rows in ((200, 60), (40, 12), (60, 16), (100, 30), (80, 24), (100, 30)):
        terminal.resize(columns, rows)
        terminal.read(0.15)
    terminal.until("Free 41.2000 cr", "paid in")
    terminal.send("q")
    assert terminal.end() == 0
    assert terminal.settings() == terminal.before
    assert b"\x1b[?1049l" in terminal.raw, "the alternate screen was left"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(terminal, number):
    terminal.until("Free 41.2000 cr")
    terminal.process.send_signal(number)
    terminal.end()
    assert terminal.settings() == terminal.before
    assert b"\x1b[?1049l" in terminal.raw


def test_the_command_over_a_real_market_goes_about_and_ends_in_order(market, tmp_path):
    """What ``make demo ARGS=--tui`` puts in front, on a market without a job."""
    home = tmp_path / "buyer"
    init(home, market["url"], market["identity"])
    made = Terminal(["jobs", "--home", str(home)])
    try:
        made.until("online", "3 Jobs")
        made.send("2")
        made.until("nothing is listed now")
        made.send("5")
        made.until("Free 0.0000 cr")
        made.send("q")
        assert made.end() == 0
        assert made.settings() == made.before
    finally:
        made.close()


def test_hostile_words_of_a_recording_do_not_reach_the_terminal(recording, tmp_path):
    lines = recording.read_text(encoding="utf-8").replace("paid in", "paid HOSTILE in")
    recording.write_text(
        lines.replace("HOSTILE", HOSTILE.encode("unicode_escape").decode().replace("\\x", "\\u00")),
        encoding="utf-8",
    )
    made = Terminal(["--home", str(tmp_path / "home"), "--replay", str(recording), "money"])
    try:
        made.until("Free 41.2000 cr", "paid")
        assert b"\x1b]52" not in made.raw
        assert "\u202e".encode() not in made.raw
        assert not re.search(rb"\xc2[\x80-\x9f]", made.raw)
    finally:
        made.close()


def test_help_needs_no_textual():
    code = (
        "import sys\n"
        "sys.argv = ['blindhost-tui', '--help']\n"
        "import tui.__main__ as m\n"
        "try:\n    m.main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', sorted(n for n in sys.modules if n.split('.')[0] in "
        "('textual', 'rich', 'aiohttp', 'client', 'numpy')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "the buyer's window" in done.stdout
    assert "LOADED []" in done.stdout


def test_the_window_loads_no_market_but_its_wire_no_enclave_and_no_tensors():
    code = (
        "import sys, tui.app, tui.hub, tui.launch\n"
        "for name in ('start','offers','jobs','job','trust','money','chat','keys','new_job'):\n"
        "    __import__(f'tui.screens.{name}')\n"
        "bad = [n for n in sys.modules if n.split('.')[0] in ('enclave_runtime', 'scheduler', "
        "'provider_agent', 'ray', 'torch', 'numpy', 'sqlmodel', 'sqlalchemy')]\n"
        "market = [n for n in sys.modules if n.startswith('marketplace.')]\n"
        "bad += [n for n in market if n not in ('marketplace.wire', 'marketplace.wire_hosts')]\n"
        "print('BAD', bad)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "BAD []" in done.stdout


def test_plain_prints_the_screen_as_lines_without_boxes(recording, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tui", "--home", str(tmp_path / "home"), "--plain",
         "--replay", str(recording), "money"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Free 41.2000 cr" in done.stdout
    assert "paid in: +47.2000 cr" in done.stdout
    assert not re.search("[\u2500-\u25ff\u2800-\u28ff\x1b]", done.stdout)
