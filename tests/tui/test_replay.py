"""A recording reads back as it was told, and a broken line is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from tests.tui.rig import BALANCE, NOW
from tests.tui.state.any_facts import facts
from tui.facts import Failure
from tui.replay import Replay, ReplayError, decode, encode


@given(facts())
def test_a_fact_reads_back_as_it_was_but_for_what_would_act_on_a_terminal(fact):
    [(after, again)] = list(decode([encode(fact, after=7)]))
    assert after == 7
    assert type(again) is type(fact)
    assert again.key.isprintable() or "\0" in again.key or "\n" in again.key
    [(_, once_more)] = list(decode([encode(again)]))
    assert once_more == again


@pytest.mark.parametrize(
    "line",
    [
        "nothing",
        "[]",
        '{"fact": "Balance", "after": 0}',
        '{"fact": "Nonsense", "after": 0}',
        encode(BALANCE).replace('"free":41200000', '"free":"41"'),
        encode(BALANCE).replace('"free":41200000', '"free":true'),
        encode(BALANCE).replace('"free"', '"fre"'),
    ],
)
def test_a_broken_line_is_named(line):
    with pytest.raises(ReplayError, match="line 2"):
        list(decode([encode(BALANCE), line]))


async def test_a_recording_says_that_it_did_nothing():
    from tui.commands import LockKeys

    told: list = []
    hub = Replay([(0, BALANCE)])
    hub.start(told.append)
    hub.post(LockKeys(id="c1"))
    await hub.stop()
    [failure] = [each for each in told if isinstance(each, Failure)]
    assert failure.where == "c1"
    assert "nothing was done" in failure.words
    assert json.loads(encode(failure))["as_of"] == NOW
