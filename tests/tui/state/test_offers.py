"""Offers' state: any facts in any order; pages of one book; a ladder that says why."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from tests.tui.rig import NOW
from tests.tui.scenes.offers import EMPTY, FAILED, FUNNEL, PREVIEWS, QUERY, offer, page
from tests.tui.state.any_facts import built, facts
from tui.facts import Funnel, OfferPage, PolicyPreview, QueryError, Would
from tui.state import offer_words as words
from tui.state import offers
from tui.state.offers import State


def told(*said, state: State | None = None) -> State:
    state = state or State()
    for each in said:
        state = offers.apply(state, each, NOW)
    return state


def asked(query: str = QUERY, sort: str = "price") -> State:
    return offers.asked(State(), query=query, sort=sort, command="c1", now=NOW)


OURS = st.one_of(
    facts(),
    facts(QueryError, PolicyPreview),
    built(OfferPage).map(lambda each: dataclasses.replace(each, query=QUERY, sort="price")),
    built(Funnel).map(lambda each: dataclasses.replace(each, query=QUERY)),
    st.sampled_from([page(QUERY), page(QUERY, start=200), page(QUERY, start=-7)]),
)


@given(st.lists(OURS, max_size=30), st.booleans())
def test_any_facts_in_any_order_are_taken_and_pages_are_of_one_book(said, online):
    state = told(*said, state=asked())
    assert len(state.pages) <= offers.PAGES_MAX
    assert len({(each.query, each.sort, each.version) for each in state.pages}) <= 1
    starts = [each.start for each in state.pages]
    assert starts == sorted(set(starts))
    lines = words.plain(state, NOW, online=online)
    assert all(isinstance(each, str) for each in lines)
    for at in range(3):
        found = offers.offer_at(state, at)
        words.panel(state, found, NOW)
        words.strip(state, found, NOW)
        assert found is None or len(words.row_of(state, found, NOW).cells) == 9
    words.ladder(state.funnel)
    words.tightest(state)


def test_an_answer_to_an_earlier_question_is_not_shown():
    state = told(page("gpu=A100"), state=asked())
    assert state.pages == ()
    state = told(page(QUERY, sort="-price"), state=asked())
    assert state.pages == ()


def test_a_newer_book_takes_the_place_of_all_pages_and_an_older_one_of_none():
    state = told(page(QUERY), page(QUERY, start=200), state=asked())
    newer = dataclasses.replace(page(QUERY, start=400, total=900), version="8", as_of=NOW + 5)
    older = dataclasses.replace(page(QUERY), version="6", as_of=NOW - 5)
    assert [each.start for each in told(newer, state=state).pages] == [400]
    assert told(older, state=state) == state


def test_three_pages_are_kept_those_nearest_to_the_newest():
    said = [page(QUERY, start=start, total=2000) for start in (0, 200, 1000, 1200, 1400)]
    state = told(*said, state=asked())
    assert [each.start for each in state.pages] == [1000, 1200, 1400]
    assert offers.offer_at(state, 0) is None
    assert offers.offer_at(state, 1399) == offer(1399)
    assert offers.pages_wanted(state, 190, 30) == (0, 200)
    assert offers.pages_wanted(state, 1100, 200) == ()


def test_a_page_that_came_empty_is_not_asked_for_again():
    hollow = dataclasses.replace(page(QUERY, total=1000), rows=())
    assert offers.pages_wanted(told(hollow, state=asked()), 0, 40) == ()


def test_after_an_error_the_last_good_page_stays_and_is_called_old():
    state = told(page(QUERY), state=asked())
    state = offers.asked(state, query="regoin=eu", sort="price", command="c2", now=NOW)
    error = QueryError(
        as_of=NOW, query="regoin=eu", text="no field 'regoin'", at=3, suggestion="region"
    )
    state = told(error, state=state)
    assert state.total == 361
    assert words.summary(state, NOW, online=True)[0].text.startswith("old: 361 of 20,000 fit")
    mark, fault = words.error_lines(state)
    assert mark.text == "   ▲"
    assert fault.text == "column 4: no field 'regoin'; did you mean region?"
    assert words.error_lines(told(error, state=asked())) == []  # of another query


def test_a_wide_glyph_before_the_fault_moves_its_mark_two_cells():
    error = QueryError(as_of=NOW, query="日x", text="no", at=1, suggestion="")
    state = told(error, state=asked("日x"))
    assert words.error_lines(state)[0].text == "  ▲"


def test_one_refusal_greys_an_offer_and_names_the_check_and_unknown_is_no_pass():
    state = told(page(QUERY), *PREVIEWS, state=asked())
    cells = [words.row_of(state, offer(at), NOW).cells[7].text for at in range(4)]
    assert cells == ["would release", "not asked", "REFUSED: tcb-floor", "not known"]
    passes = dataclasses.replace(PREVIEWS[2], custodian="aa", would=Would.PASS)
    state = told(passes, state=state)
    assert words.keys_words(words.previews_of(state, offer(2).id)).text.startswith("REFUSED")


def test_the_ladder_says_what_each_clause_took_and_what_a_looser_one_brings():
    funnel = dataclasses.replace(FUNNEL, query=QUERY)
    lines = [each.text for each in words.ladder(funnel)]
    assert "20,000  all offers" in lines[0]
    assert "takes nothing" in lines[2]
    assert lines[4].endswith("⏎ price<=2.20: +212, cheapest 2.0100")
    state = told(page(QUERY), funnel, state=asked())
    assert words.tightest(state) == "tightest: price<=2.00 (3,977 to 361)"
    assert words.miss_words(EMPTY) == "nearest miss: 0.939 cr/h"


def test_a_looser_clause_takes_the_place_of_its_own_and_of_no_longer_one():
    funnel = dataclasses.replace(FUNNEL, query=QUERY)
    assert words.loosened(QUERY, funnel, 3) == QUERY.replace("2.00", "2.20")
    assert words.loosened(QUERY, funnel, 1) == QUERY  # it has no looser one
    assert words.loosened(QUERY, funnel, 9) == QUERY
    longer = "price<=2.005 price<=2.00"
    assert words.loosened(longer, funnel, 3) == "price<=2.005 price<=2.20"
    otherwise = words.loosened("GPU = H100 price <= 2.00", funnel, 3)
    assert otherwise == "gpu=H100 vram>=80GiB tee in (sev-snp,tdx) price<=2.20"


def test_what_is_awaited_missing_or_failed_is_a_sentence():
    assert words.summary(State(), NOW, online=True)[0].text.startswith("no offers seen yet")
    waiting = words.summary(asked(), NOW + 3000, online=False)[0].text
    assert waiting == "asking the market for offers, 3.0 s; the market does not answer"
    failed = told(dataclasses.replace(FAILED, where="c1"), state=asked())
    assert words.summary(failed, NOW, online=True)[0].text == "FAILED busy: the market is busy"
    assert told(dataclasses.replace(FAILED, where="c2"), state=asked()).failure is None
    offline = words.summary(told(page(QUERY), state=asked()), NOW, online=False)[0].text
    assert offline.startswith("OFFLINE, last known: 361")


def test_four_offers_are_compared_and_the_oldest_goes():
    state = State()
    for at in range(5):
        state = offers.toggled(state, offer(at))
    assert [each.id for each in state.compared] == [offer(at).id for at in (1, 2, 3, 4)]
    assert len(offers.toggled(state, offer(2)).compared) == 3
    assert any("0.9620" in each.text for each in words.compare_lines(state, NOW))
