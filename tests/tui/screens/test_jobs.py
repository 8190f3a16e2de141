"""The list of jobs, by keys and by mouse."""

from __future__ import annotations

import dataclasses

from tests.tui.rig import NOW, OFFLINE
from tests.tui.scenes.jobs import JOB, SCENES, SECOND, WAITS
from tests.tui.screens.looking import looking
from tui.commands import Kind, Look
from tui.screens.job import JobScreen
from tui.screens.job_lines import JobLinesScreen
from tui.screens.jobs import JobTable
from tui.screens.registry import open_link


async def test_each_job_says_for_whom_it_waits_and_enter_or_a_double_click_opens_one():
    async with looking(SCENES["normal"]) as rig:
        await rig.until_words(
            "5 of 5 jobs, 3 not over", "waiting for qwen-labs' broker", "1.8421/6.0000"
        )
        assert rig.hub.of(Look)[-1].subject.kind is Kind.JOBS
        await rig.press("home", "enter")
        await rig.until(lambda: isinstance(rig.app.screen, JobScreen))
        assert rig.app.screen.state.job == WAITS
        await rig.until_words("日本語の返信", "waiting for qwen-labs' broker")
        await rig.press("escape")
        await rig.until_words("5 of 5 jobs")
        await rig.pilot.click(JobTable, offset=(5, 3), times=2)
        await rig.until(lambda: isinstance(rig.app.screen, JobScreen))
        assert rig.app.screen.state.job == JOB
        await rig.press("escape")
        await rig.until_words("5 of 5 jobs")
        await rig.pilot.click(JobTable, offset=(5, 2), times=2)
        await rig.until(lambda: rig.app.current_mode == "chat")


async def test_the_filter_and_the_states_leave_what_was_asked_for():
    async with looking(SCENES["normal"], size=(80, 24)) as rig:
        await rig.until_words("5 of 5 jobs")
        await rig.press("f", "f")
        await rig.until_words("2 of 5 jobs", "shown: over", "first try")
        await rig.press("slash", *"tone", "enter")
        await rig.until_words("1 of 5 jobs", "support-tone-v2", "with 'tone'")
        await rig.press("escape", "f", "f")
        await rig.until_words("5 of 5 jobs")


async def test_a_link_opens_by_prefix_and_an_unknown_one_names_the_nearest():
    async with looking((("job", "b0"), SCENES["normal"][1])) as rig:
        await rig.until(lambda: isinstance(rig.app.screen, JobScreen))
        assert rig.app.screen.state.job == JOB
        await rig.press("e")
        await rig.until(lambda: isinstance(rig.app.screen, JobLinesScreen))
        open_link(rig.app, ("job", "b1"))
        await rig.until(lambda: isinstance(rig.app.screen, JobScreen))
        assert rig.app.screen.state.job == SECOND
        assert len(rig.app.screen_stack) == 2
    async with looking(SCENES["unknown"]) as rig:
        await rig.until_words("no job of yours begins with 'bb'. Nearest: b")
        assert rig.words.count("b0b0b0b0b0b0b0b0…") == 1
        rig.app.screen.open_link("b")
        await rig.until_words("2 jobs begin with 'b'", "Choose one")
        assert not isinstance(rig.app.screen, JobScreen)


async def test_none_is_said_as_none_offline_as_offline_and_a_refusal_as_one():
    async with looking(SCENES["empty"]) as rig:
        await rig.until_words("asking the market for your jobs")
        rig.app.screen._since -= 9_000
        rig.app.screen.redraw()
        await rig.until_words("no job yet: n begins one")
        await rig.tell(*SCENES["error"][1])
        await rig.until_words("not read: an answer of the market", "support-tone-v3")
        await rig.tell(dataclasses.replace(OFFLINE, as_of=NOW + 1))
        await rig.until_words("OFFLINE: as of", "support-tone-v3")
        assert any("waiting for qwen-labs" in each for each in rig.app.screen.plain())
