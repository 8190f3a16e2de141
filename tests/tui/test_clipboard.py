"""What `y` copies arrives in a real tmux, hostile text does not; a crash leaves a sane terminal."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tui.rig import USUAL
from tests.tui.scenes.money import ENTRIES
from tests.tui.strange import CANARY
from tests.tui.terminal import Terminal
from tui.replay import encode

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 30.0
needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux on this machine")


class Tmux:
    """A tmux server of its own, which takes OSC 52 into its buffers, with one command in it."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self._socket = str(folder / "tmux.sock")
        (folder / "tmux.conf").write_text("set -g set-clipboard on\nset -g escape-time 0\n")
        line = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(command)}"
        self.run(
            "-f", str(folder / "tmux.conf"), "new-session", "-d", "-x", "100", "-y", "30", line
        )

    def run(self, *arguments: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C.UTF-8"}
        done = subprocess.run(
            ["tmux", "-S", self._socket, *arguments],
            capture_output=True, text=True, check=False, timeout=30, env=environment,
        )  # fmt: skip
        return done.stdout

    def keys(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def until(self, *wanted: str) -> None:
        end, words = time.monotonic() + WAIT_SECONDS, ""
        while time.monotonic() < end:
            words = self.run("capture-pane", "-p")
            if all(each in words for each in wanted):
                return
            time.sleep(0.1)
        raise AssertionError(f"{wanted} never came:\n{words}")

    def buffer(self, *, seconds: float) -> str:
        """The newest buffer, once there is one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.run("list-buffers"):
                return self.run("show-buffer")
            time.sleep(0.1)
        return ""

    def end(self) -> None:
        self.run("kill-server")


@pytest.fixture
def opened(tmp_path) -> Iterator[list[Tmux]]:
    found: list[Tmux] = []
    yield found
    for each in found:
        each.end()


@needs_tmux
def test_an_id_that_is_copied_arrives_in_the_terminals_buffer(tmp_path, opened):
    recording = tmp_path / "facts.jsonl"
    recording.write_text("\n".join(encode(each) for each in (*USUAL, *ENTRIES)), "utf-8")
    command = [sys.executable, "-m", "tui", "--home", str(tmp_path / "home"), "--replay"]
    tmux = Tmux(tmp_path, [*command, str(recording), "money"])
    opened.append(tmux)
    tmux.until("Free 41.2000 cr", "paid in")
    assert not tmux.buffer(seconds=0.5)
    tmux.keys("y")
    assert tmux.buffer(seconds=10) == ENTRIES[-1].transfer
    tmux.until("the transfer's id sent to")


@needs_tmux
def test_hostile_words_put_nothing_into_it_and_a_hostile_id_arrives_defused(tmp_path, opened):
    tmux = Tmux(tmp_path, [sys.executable, "-m", "tests.tui.strange", "hostile"])
    opened.append(tmux)
    tmux.until("Rent a GPU")
    for key, words in (("2", "of 20,000"), ("3", "jobs"), ("5", "Free")):
        tmux.keys(key)
        tmux.until(words)
    assert not tmux.buffer(seconds=1.0), "a host has written the clipboard"
    tmux.keys("y")
    copied = tmux.buffer(seconds=10)
    assert copied.startswith(ENTRIES[-1].transfer[:8])
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e]", copied)


def test_the_probe_itself_would_see_it(tmp_path, opened):
    """Without the window's walls the same sequence does write tmux's buffer."""
    if shutil.which("tmux") is None:
        pytest.skip("no tmux on this machine")
    tmux = Tmux(tmp_path, ["sh", "-c", r"printf '\033]52;c;QUJDREVG\007ready'; sleep 60"])
    opened.append(tmux)
    tmux.until("ready")
    assert tmux.buffer(seconds=10) == "ABCDEF"


def test_a_crash_leaves_the_terminal_as_it_was_and_tells_no_secret():
    made = Terminal.__new__(Terminal)
    made.start([sys.executable, "-m", "tests.tui.strange", "crash"], columns=100, rows=30)
    try:
        made.until("Rent a GPU")
        made.send("\x1b[20~")  # F9
        assert made.end() != 0
        assert made.settings() == made.before
        for restored in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?1000l"):  # screen, cursor, mouse
            assert made.raw.rindex(restored) > made.raw.index(b"Rent a GPU")
        assert "ended by a fault of its own" in made.words
        assert "in action_crash" in made.words
        assert CANARY.encode() not in made.raw
    finally:
        made.close()
