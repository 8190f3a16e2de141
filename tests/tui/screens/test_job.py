"""One job, on words: by keys, once by mouse, at three sizes, in its waits and its ends."""

from __future__ import annotations

import dataclasses

from tests.tui.rig import NOW, OFFLINE
from tests.tui.scenes.job import EVENTS, SCENES
from tests.tui.scenes.jobs import HEAD, JOB
from tests.tui.screens.looking import looking
from tui.commands import CloseJob, FetchResult, Kind, Look, Subject
from tui.facts import Failure
from tui.screens.job import JobScreen
from tui.screens.job_lines import JobLinesScreen
from tui.widgets.loss_plot import LossPlot
from tui.widgets.stage_line import StageLine


async def test_a_running_job_answers_in_one_look_at_200_columns():
    async with looking(SCENES["normal"], size=(200, 60)) as rig:
        await rig.until_words("RUNNING on its 2nd host", "SIMULATED", "✓ release", "● train")
        for each in (
            "step       1,180 of 2,400",
            "speed      5,210 tok/s",
            "cost       1.8421 of at most 6.0000 cr",
            "at the end about 3.7200",
            "safe       step 1,150, sealed 38 s ago",
            "▲host lost, resumed at 600",
            "HOST LOST, generation 1",
            "only you see this",
            "resumed at step 600 on a second host",
        ):
            assert each in rig.words, each
        assert rig.hub.of(Look)[-1].subject == Subject(kind=Kind.JOB, of=JOB)


async def test_at_80_columns_the_same_answers_are_there_in_strips():
    async with looking(SCENES["normal"], size=(80, 24)) as rig:
        await rig.until_words("stage 7 of 9: train, 18 m", "RUNNING, 2nd host")
        for each in (
            "next: receipt",
            "1,180 of 2,400, 5,210 tok/s",
            "1.8421 of 6.0000 cr, about 3.7200",
            "step 1,150, sealed 38 s ago",
            "▲resumed at 600",
            "resumed at step 600",
            "t Trust",
            "e Events",
        ):
            assert each in rig.words, each


async def test_keys_go_to_a_stage_and_a_click_does_and_it_is_explained():
    async with looking(SCENES["empty"]) as rig:
        await rig.until_words("waiting for qwen-labs' broker, 4 m", "qwen-labs acts (release")
        assert not rig.app.screen.query_one(LossPlot).display
        await rig.press("right")
        await rig.until_words("stage 6 of 9: release. Each custodian seals its share")
        await rig.press("left", "left", "left")
        await rig.until_words("stage 3 of 9: match", "decided: leas_01hzy4")
        await rig.pilot.click(StageLine, offset=(2, 0))
        await rig.until_words("stage 1 of 9: seal.", "done in 0.8 s by you")
        await rig.press("escape")
        await rig.until(lambda: "stage 1 of 9" not in rig.words)
        await rig.press("escape")
        await rig.until(lambda: not isinstance(rig.app.screen, JobScreen))


async def test_closing_asks_first_and_no_is_the_default():
    async with looking(SCENES["normal"]) as rig:
        await rig.until_words("c Close job")
        await rig.press("c")
        await rig.until_words("for good: step 1,150 stays sealed", "about 4.1579 cr come back")
        await rig.press("enter")
        await rig.until_words("RUNNING on its 2nd host")
        assert not rig.hub.of(CloseJob)
        await rig.press("c")
        await rig.until_words("Close it")
        await rig.press("right", "enter")
        await rig.until(lambda: bool(rig.hub.of(CloseJob)))
        [asked] = rig.hub.of(CloseJob)
        assert asked.job == JOB
        said = Failure(as_of=NOW, where=asked.id, code="held", words="not now", retry_in=None)
        await rig.tell(said)
        assert rig.app.screen.state.said == "not done: not now (held)"


async def test_events_are_searched_full_screen():
    async with looking(SCENES["normal"]) as rig:
        await rig.until_words("e Events")
        await rig.press("e")
        await rig.until_words("8 events of job b0b0b0b0b0b0…")
        await rig.press("slash", *"host 02", "enter")
        await rig.until_words("1 have 'host 02'")
        screen = rig.app.screen
        assert isinstance(screen, JobLinesScreen)
        assert screen.lines.row.offset == 5
        await rig.press("enter")
        await rig.until_words("number 5", "matched host 0202020202020202 for rank 0")
        await rig.press("escape", "escape")
        more = dataclasses.replace(EVENTS[0], offset=9, words="one more thing")
        await rig.tell(more)
        await rig.until_words("9 events", "one more thing")
        await rig.press("escape")
        await rig.until_words("RUNNING on its 2nd host", "one more thing")


async def test_success_is_a_page_and_the_adapter_is_asked_for_into_a_folder():
    async with looking(SCENES["succeeded"], size=(80, 24)) as rig:
        await rig.until_words("SUCCEEDED", "base 2.31 / tuned 1.61", "g Get adapter")
        assert "Close job" not in rig.words
        await rig.press("g")
        await rig.until_words("opened on this machine", "adapter-b0b0b0b0b0b0")
        await rig.press(*"-x", "enter")
        await rig.until(lambda: bool(rig.hub.of(FetchResult)))
        [asked] = rig.hub.of(FetchResult)
        assert (asked.job, asked.path) == (JOB, "adapter-b0b0b0b0b0b0-x")


async def test_a_crowd_of_facts_is_drawn_a_few_times_and_not_once_for_each(monkeypatch):
    drawn = []
    draw = JobScreen.draw
    monkeypatch.setattr(JobScreen, "draw", lambda self: (drawn.append(1), draw(self)))
    async with looking(SCENES["loading"]) as rig:
        await rig.until_words("RUNNING")
        before = len(drawn)
        await rig.tell(*(dataclasses.replace(EVENTS[0], offset=n) for n in range(1, 3001)))
        await rig.until(lambda: len(rig.app.screen.state.events) == 3000)
        assert len(drawn) - before < 30


async def test_without_braille_the_plot_is_blocks_or_words():
    async with looking(SCENES["normal"]) as rig:
        await rig.until_words("⣀")
        rig.app.theme = "ansi-dark"
        rig.app.screen.redraw()
        await rig.until_words("█")
        assert not any("⠀" <= each <= "⣿" for each in rig.words)
        rig.app.plain = True
        rig.app.screen.redraw()
        await rig.until_words("loss at step 1: ", "at step 600: host lost, resumed at 600")


async def test_a_failure_is_a_page_with_its_class_and_offers_no_adapter():
    async with looking(SCENES["failed"], size=(80, 24)) as rig:
        await rig.until_words("FAILED", "class     host", "change    open Trust", "0.0000 cr")
        assert "Get adapter" not in rig.words
        assert "Close job" not in rig.words
        await rig.press("y", "t")
        await rig.until(lambda: rig.app.current_mode == "trust")
        assert rig.app.clipboard == JOB
        await rig.until(lambda: rig.hub.of(Look)[-1].subject == Subject(kind=Kind.TRUST, of=JOB))


async def test_log_plain_and_enlarged_and_what_can_not_be_done_says_why():
    async with looking(SCENES["normal"]) as rig:
        await rig.until_words("RUNNING", "5,210 tok/s")
        plain = "\n".join(rig.app.screen.plain())
        assert "stage 7 of 9, train: the enclave acts" in plain
        assert "loss at step 1: " in plain
        assert "host lost, resumed at 600" in plain
        assert not any("\u2500" <= each <= "\u28ff" and each not in "▸▾✓✗" for each in plain)
        await rig.press("z")
        await rig.until(lambda: "5,210" not in rig.words)
        await rig.press("escape", "l")
        await rig.until_words("records, opened with your key", "gen 2 step 1,180  loss 1.4")
        await rig.press("escape", "u")
        await rig.until_words("The cap can't be raised: it stands in the manifest that you signed")
        await rig.press("escape", "s")
        await rig.until_words("There are no samples to show")


async def test_a_failed_read_and_an_outage_are_said_and_the_last_good_words_stay():
    async with looking(SCENES["error"]) as rig:
        await rig.until_words("not read: no answer in 10 s (timeout); old below", "1,180 of 2,400")
        await rig.tell(dataclasses.replace(OFFLINE, as_of=NOW + 1))
        await rig.until_words("OFFLINE: last heard", "resumed at 600", "1,180 of 2,400")


async def test_a_head_that_ends_while_one_looks_turns_into_its_page():
    async with looking(SCENES["normal"]) as rig:
        await rig.until_words("c Close job")
        await rig.tell(dataclasses.replace(HEAD, state="exhausted", as_of=NOW + 1))
        await rig.until_words("EXHAUSTED", "the cap that you signed is used up")
        assert "c Close job" not in rig.words
        await rig.pilot.resize_terminal(50, 12)
        await rig.until_words("wanted: at least 60x16", "EXHAUSTED", "1,180 of 2,400")
