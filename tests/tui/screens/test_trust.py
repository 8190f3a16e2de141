"""Trust, by keys and once by mouse: what did not pass stands first, each word says whose it is."""

from __future__ import annotations

import dataclasses

from tests.tui.rig import NOW, OFFLINE, USUAL
from tests.tui.scenes.jobs import HEAD, HEADS, JOB, WAITS
from tests.tui.scenes.trust import PASSED, REFUSED, SCENES
from tests.tui.screens.looking import looking
from tui.commands import Export, Kind, Look, Subject, Verify
from tui.facts import Exported
from tui.widgets.checks import CheckTable


async def test_what_nobody_checked_stands_first_and_releases_say_whose_word_they_are():
    async with looking(SCENES["normal"], size=(200, 60)) as rig:
        await rig.until_words("PASSED, 2 checks not made", "? NOT CHECKED", "▾ cpu (5)")
        for each in (
            "8 passed   0 failed   2 not checked   2 not demanded",
            "Keys were released to this enclave by you and 1 other custodian.",
            "its own word, signed; not ours",
            "our own record: your broker's log",
            "a GPU that is not in confidential mode shows",
            "NOT PROTECTED",
        ):
            assert each in rig.words, each
        lines = rig.words.split("\n")
        first = next(at for at, each in enumerate(lines) if "NOT CHECKED" in each)
        assert all("✓ passed" not in each for each in lines[:first])
        assert rig.hub.of(Look)[-1].subject == Subject(kind=Kind.TRUST, of=JOB)


async def test_enter_explains_a_check_and_opens_a_group_and_a_double_click_does():
    async with looking(SCENES["normal"]) as rig:
        await rig.until_words("▾ cpu (5)")
        await rig.press("enter")
        await rig.until_words("If it were skipped: a GPU", f"trust show {JOB[:20]}")
        await rig.press("escape", "down", "down", "enter")
        await rig.until_words("▸ cpu (5)")
        assert "cpu: guest-debug" not in rig.words
        await rig.press("enter")
        await rig.until_words("▾ cpu (5)", "cpu: guest-debug")
        await rig.pilot.click(CheckTable, offset=(20, 4), times=2)
        await rig.until_words("check report-format", "1184 bytes of a known version")


async def test_a_verdict_that_changed_is_said_as_was_and_is():
    async with looking(SCENES["normal"]) as rig:
        await rig.until_words("PASSED, 2 checks not made")
        await rig.press("r")
        await rig.until(lambda: bool(rig.hub.of(Verify)))
        [asked] = rig.hub.of(Verify)
        assert (asked.job, asked.generation) == (JOB, 2)
        await rig.until_words("verifying again, now, on this machine")
        await rig.tell(REFUSED)
        await rig.until_words(
            "REFUSED at measurement", "changed: was PASSED", "measurement: was passed, is FAILED"
        )
        await rig.until_words("2 of 48 bytes differ", "the host starts another program")


async def test_f_leaves_what_did_not_pass_and_d_compares_and_p_goes_back():
    async with looking(SCENES["refused"]) as rig:
        await rig.until_words("✗ FAILED", "cpu (5)")
        await rig.press("f")
        await rig.until(lambda: "cpu (5)" not in rig.words)
        assert "image: measurement" in rig.words
        await rig.press("d")
        await rig.until_words("measurement: passed → FAILED", "generation 1: PASSED")
        await rig.press("escape", "p")
        await rig.until_words("gen 1", "PASSED, 2 checks not made")


async def test_at_80_columns_releases_are_a_second_page_and_a_transcript_is_written():
    async with looking(SCENES["normal"], size=(80, 24)) as rig:
        await rig.until_words("? NOT CHECKED", "found   none looked at", "wanted  anything")
        assert "RELEASED BY" not in rig.words
        await rig.press("tab")
        await rig.until_words("RELEASED BY", "its own word, signed; not ours")
        await rig.press("escape")
        await rig.until_words("? NOT CHECKED")
        await rig.press("x")
        await rig.until_words("No key stands in it", "transcript-b0b0b0b0b0b0-2.json")
        await rig.press("enter")
        await rig.until(lambda: bool(rig.hub.of(Export)))
        [asked] = rig.hub.of(Export)
        await rig.tell(Exported(as_of=NOW, command=asked.id, path="t.json", words="written"))
        await rig.until_words("written: t.json")


async def test_before_there_is_evidence_it_says_whom_it_waits_for_and_then_what_stays():
    async with looking(SCENES["empty"]) as rig:
        await rig.until_words("asking the market for your jobs")
        await rig.tell(HEAD)
        await rig.until_words("NOT YET", "no evidence yet: the host has not answered")
        await rig.tell(*SCENES["error"][1])
        await rig.until_words("not read: its policy is not in this home", "NOT CHECKED")
        await rig.tell(dataclasses.replace(OFFLINE, as_of=NOW + 1))
        await rig.until_words("OFFLINE: as of", "r verifies what is stored here", "NOT CHECKED")


async def test_without_a_link_the_newest_job_that_is_not_over_is_shown():
    async with looking((("trust",), (*USUAL, *HEADS))) as rig:
        await rig.until_words("NOT YET", WAITS[:12])
        assert rig.hub.of(Look)[-1].subject == Subject(kind=Kind.TRUST, of=WAITS)


async def test_an_unknown_link_names_the_nearest():
    link, facts = ("trust", "bb"), (*SCENES["loading"][1], PASSED)
    async with looking((link, facts)) as rig:
        await rig.until_words("no job of yours begins with 'bb'. Nearest: b0b0")
        rig.app.screen.open_link("b0")
        await rig.tell(PASSED)
        await rig.until_words("PASSED, 2 checks not made")
        assert any(JOB in each for each in rig.app.screen.plain())
