"""A recording reads back as it was told, and a broken line is named."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given

from tests.tui.rig import BALANCE, NOW
from tests.tui.state.any_facts import facts
from tui.facts import Failure, OfferPage
from tui.replay import Replay, ReplayError, decode, encode

PAGE = OfferPage(
    as_of=NOW, query="", sort="price", total=0, listed=0, start=0, rows=(), version="1"
)


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
        encode(PAGE).replace('"rows":[]', '"rows":[[]]'),
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


async def test_a_search_is_answered_by_the_page_that_was_recorded_and_no_other_is():
    from tui.commands import Search

    told: list = []
    hub = Replay([(0, PAGE)])
    hub.start(told.append)
    asked = Search(id="c1", query="", sort="price", start=0, rows=9, explain=False)
    hub.tell(PAGE)
    hub.post(asked)
    assert told == [PAGE, PAGE]
    hub.post(dataclasses.replace(asked, id="c2", query="gpu=H100"))
    await hub.stop()
    assert [each.where for each in told if isinstance(each, Failure)] == ["c2"]
