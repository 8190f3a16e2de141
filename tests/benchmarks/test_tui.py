"""What the benchmark of the window measures is what one sees: offers, and words that stream."""

from __future__ import annotations

import asyncio

from benchmarks import tui as benchmark
from benchmarks.streaming import Streaming
from tests.tui.rig import NOW, USUAL, window
from tests.tui.scenes.chat import BASE, TUNED, head
from tui.commands import Ask
from tui.facts import Delta
from tui.replay import decode


async def test_the_recording_answers_what_the_offers_screen_asks(tmp_path):
    recording = benchmark._record(tmp_path)
    with recording.open(encoding="utf-8") as lines:
        facts = [fact for _, fact in decode(lines)]
    async with window(facts=facts, link=("offers",)) as rig:
        await rig.until_words("offr_", "100,000 of 100,000 fit", "H100")
        assert "FAILED" not in rig.words


async def test_two_replies_stream_while_a_prompt_is_typed():
    hub, told = Streaming((*USUAL, head(BASE), head(TUNED))), []
    hub.start(told.append)
    for model in (BASE, TUNED):
        hub.post(
            Ask(id=model, turn="t1", model=model, messages=(), temperature="0", tokens_max=None)
        )
    for _ in range(500):
        if sum(isinstance(each, Delta) for each in told) >= 6:
            break
        await asyncio.sleep(0.02)
    await hub.stop()
    assert {each.model for each in told if isinstance(each, Delta)} == {BASE, TUNED}
    assert all(each.as_of == NOW for each in told if isinstance(each, Delta))
