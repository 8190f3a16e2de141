"""Chat's state: words join, ends are final, and nothing is repeated that was cut."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from tests.tui.rig import NOW
from tests.tui.scenes.chat import BASE, TUNED, head
from tests.tui.state.any_facts import facts
from tui.facts import ChatHead, Delta, TurnEnd, TurnWhy
from tui.state import chat
from tui.state.chat import State


def delta(text: str, *, turn: str = "t1", model: str = TUNED) -> Delta:
    return Delta(as_of=NOW, turn=turn, model=model, text=text)


def end(why: TurnWhy = TurnWhy.STOP, *, turn: str = "t1", model: str = TUNED) -> TurnEnd:
    return TurnEnd(
        as_of=NOW, turn=turn, model=model, why=why, words="cut off", tokens=4, milliseconds=100
    )


def both(*said: object) -> State:
    state = State()
    for each in (head(BASE), head(TUNED)):
        state = chat.apply(state, each, NOW)
    state = chat.say(state, "t1", "Where is my order?", NOW)
    for each in said:
        state = chat.apply(state, each, NOW)
    return state


@given(st.lists(facts(ChatHead, Delta, TurnEnd), max_size=60), st.integers(0, 5))
def test_any_facts_in_any_order_are_taken(said, at):
    state = State()
    for number, each in enumerate(said):
        if number == at:
            state = chat.say(state, "owner", "hello", NOW)
        state = chat.apply(state, each, NOW)
    assert all(isinstance(line, str) for line in chat.plain(state, NOW))
    assert len(state.chosen) <= 2


def test_base_stands_beside_tuned_without_being_chosen():
    assert both().chosen == (BASE, TUNED)
    alone = chat.apply(State(), head(BASE), NOW)
    assert alone.chosen == (BASE,)


def test_words_join_in_their_own_turn_and_model_and_stop_at_the_end():
    state = both(delta("We "), delta("will", model=BASE), delta("help."), end(), delta(" more"))
    turn = state.newest
    assert turn.reply(TUNED).text == "We help."
    assert turn.reply(BASE).text == "will"
    assert turn.running


def test_a_second_end_of_a_reply_changes_nothing():
    state = both(end(TurnWhy.CUT), end(TurnWhy.STOP))
    assert state.newest.reply(TUNED).end.why is TurnWhy.CUT


def test_a_reply_that_was_cut_is_marked_and_is_not_said_again_to_the_model():
    state = both(delta("half a"), end(TurnWhy.CUT))
    assert any("half a ([CUT] cut off)" in line for line in chat.plain(state, NOW))
    assert chat.messages(state, TUNED, "again") == (("user", "again"),)
    whole = both(delta("whole"), end())
    assert chat.messages(whole, TUNED, "again") == (
        ("user", "Where is my order?"),
        ("assistant", "whole"),
        ("user", "again"),
    )


def test_blind_hides_both_names_until_one_is_preferred():
    state = both(end(), end(model=BASE))
    state = dataclasses.replace(state, blind=True)
    lines = "\n".join(chat.plain(state, NOW))
    assert TUNED not in lines
    assert sorted(chat.panes(state)) == sorted((BASE, TUNED))
    voted = chat.vote(state, 0)
    assert not voted.blind
    assert voted.votes["t1"] == chat.panes(state)[0]


def test_a_vote_waits_for_both_replies():
    state = dataclasses.replace(both(end()), blind=True)
    assert chat.vote(state, 0) is state


def test_an_endless_reply_is_held_up_to_its_maximum():
    state = both(*[delta("x" * 65_536) for _ in range(6)])
    assert len(state.newest.reply(TUNED).text) == chat.REPLY_CHARACTERS_MAX


def test_blank_forgets_all_that_was_said():
    state = chat.blank(both(delta("secret"), end()))
    assert "secret" not in "\n".join(chat.plain(state, NOW))
    assert "Where is my order" not in repr(both(delta("secret")))


def test_a_pane_says_that_nothing_is_sent_before_its_enclave_is_verified():
    state = chat.apply(State(), head(BASE, verified=False), NOW)
    words = chat.seal_words(state, BASE, NOW)
    assert words == "nothing is sent before its enclave is verified"
    assert "sealed to chip 9c1e4f" in chat.seal_words(both(), TUNED, NOW)
