"""Every text of every fact is hostile, past the first wall: nothing of it acts, anywhere."""

from __future__ import annotations

import re
import sys

import pytest
from textual.color import Color

from tests.tui.rig import Rig, window
from tests.tui.scenes.chat import BASE
from tests.tui.scenes.start import LOCKED
from tests.tui.strange import CANARY, facts
from tests.tui.terminal import Terminal
from tui.drafts import DraftFile
from tui.screens.chat import ChatScreen
from tui.screens.job import JobScreen
from tui.screens.new_job import NewJobScreen
from tui.screens.registry import MODES
from tui.screens.window import Window
from tui.widgets.passphrase_panel import UnlockPanel

ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TAIL = "long " * 200_000


def check(rig: Rig) -> None:
    """(1) It runs. (2) What reaches the terminal holds nothing that acts. (3) Nor does markup."""
    assert rig.app.is_running  # (1)
    assert rig.app._exception is None
    filters = rig.app.get_line_filters()
    for strip in rig.app.screen._compositor.render_strips():
        for each in filters:
            strip = strip.apply_filter(each, Color(0, 0, 0))  # noqa: PLW2901
        for segment in strip:
            assert not ACTS.search(segment.text), segment  # (2)
            meta = segment.style.meta if segment.style else {}
            assert "app.quit" not in repr(meta.get("@click")), segment  # (3)


@pytest.mark.parametrize(
    ("size", "tail"),
    [
        pytest.param((80, 24), "", marks=pytest.mark.slow),
        pytest.param((200, 60), "", marks=pytest.mark.full),
        pytest.param((100, 30), TAIL, marks=pytest.mark.full),
    ],
    ids=["80x24", "200x60", "a-megabyte"],
)
async def test_every_screen_bears_facts_whose_every_text_is_hostile(size, tail):
    told = facts(tail=tail)
    async with window(facts=told, link=("start",), size=size) as rig:
        for mode in MODES:
            rig.app.action_go(mode)
            await rig.until(lambda mode=mode: rig.app.current_mode == mode)
            await rig.tell(*told)
            await rig.pilot.pause(0.15)
            check(rig)
            screen = rig.app.screen
            assert isinstance(screen, Window)
            assert list(screen.plain())
        for link, kind in ((("job", "b0b0b0b0\x1b"), JobScreen), (("new",), NewJobScreen)):
            rig.app.open(link)
            await rig.until(lambda kind=kind: isinstance(rig.app.screen, kind))
            await rig.tell(*told)
            await rig.pilot.pause(0.15)
            check(rig)
        rig.app.open(("consent", "\x1b]52;c;QUJD\x07[@click=app.quit]x[/]"))
        await rig.pilot.pause(0.1)
        check(rig)


@pytest.mark.slow
def test_not_one_byte_of_it_reaches_a_real_terminal():
    made = Terminal.__new__(Terminal)
    made.start([sys.executable, "-m", "tests.tui.strange", "hostile"], columns=120, rows=40)
    try:
        made.until("Rent a GPU")
        for key, words in zip(
            "2345678", ("of 20,000", "jobs", "", "Free", "", "KEYS", "theme"), strict=True
        ):
            made.send(key if key != "7" else "\x1b")
            made.read_for(0.3)
            if key == "7":
                made.send(key)
            made.until(words)
            made.read_for(0.2)
        assert made.process.poll() is None, "no markup has quit it"
        made.send("q")
        assert made.end() == 0
    finally:
        made.close()
    assert b"52;c" in made.raw or b"@click" in made.raw, "hostile words were drawn"
    assert b"\x1b]52" not in made.raw
    assert b"\x1b\\\x1b[2J" not in made.raw
    assert b"QUJDREVG\x07" not in made.raw
    for bad in ("\u202e", "\u2066", "\x85", "\x9b", "\x9d"):
        assert bad.encode() not in made.raw, repr(bad)


async def test_no_canary_is_in_a_screenshot_a_file_or_a_crash(tmp_path, capsys):
    """A passphrase and a prompt are typed, settings and a draft written, and then it crashes."""
    prompt, row = "prompt-canary-5512", "row-canary-9901"

    async def through() -> None:
        async with window(facts=(LOCKED, *facts()), link=("start",)) as rig:
            rig.app.home, rig.app.drafts = tmp_path, DraftFile(tmp_path / "tui-draft.json")
            rig.app.push_screen(UnlockPanel())
            await rig.until(lambda: isinstance(rig.app.screen, UnlockPanel))
            await rig.pilot.pause()
            await rig.press(*CANARY)
            await rig.until_words("•••• typed")
            assert CANARY not in rig.app.export_screenshot()
            await rig.press("escape")
            rig.app.open(("new",))
            await rig.until(lambda: isinstance(rig.app.screen, NewJobScreen))
            rig.app.screen.query_one("#path").value = f"/home/ana/{row}.jsonl"
            rig.app.screen.query_one("#field-name Input").value = "tone"
            await rig.until_words("draft saved")
            rig.app.open(("settings",))
            await rig.until_words("theme:")
            await rig.press("down", "enter")
            rig.app.open(("chat", BASE))
            await rig.until(lambda: isinstance(rig.app.screen, ChatScreen))
            await rig.press(*prompt)

            def fail() -> None:
                words, secret = rig.app.screen, (CANARY, prompt, row)
                raise RuntimeError(f"{secret} {words}")

            rig.app.call_later(fail)
            await rig.pilot.pause(0.2)

    with pytest.raises(RuntimeError):
        await through()
    shown = "".join(capsys.readouterr())
    assert "ended by a fault of its own" in shown
    written = {each.name: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    assert {"tui.toml", "tui-draft.json"} <= set(written)
    for canary in (CANARY, prompt, row):
        assert canary not in shown
        assert all(canary.encode() not in content for content in written.values())
