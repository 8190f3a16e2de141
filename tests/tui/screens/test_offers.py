"""Offers, by keys, by mouse, and on a book that fights back."""

from __future__ import annotations

import dataclasses

import pytest

from tests.tui.rig import NOW, OFFLINE, ONLINE, SIZES, USUAL, window
from tests.tui.scenes.offers import EMPTY, FAILED, FUNNEL, PREVIEWS, SCENES, offer, page
from tui.commands import Kind, Look, Search
from tui.facts import Link, QueryError
from tui.screens.new_job import NewJobScreen
from tui.screens.offers import OffersScreen
from tui.widgets.funnel import FunnelPanel


def searches(rig) -> list[Search]:
    return rig.hub.of(Search)


async def test_typing_asks_once_it_pauses_and_the_answer_of_the_last_query_is_shown():
    async with window(facts=USUAL, link=("offers",)) as rig:
        await rig.until_words("asking the market for offers")
        assert rig.hub.of(Look)[-1].subject.kind is Kind.OFFERS
        (first,) = searches(rig)
        assert (first.query, first.sort, first.start, first.explain) == ("", "price", 0, True)
        await rig.tell(page(""))
        await rig.press("slash")
        field = rig.app.screen.query_one("#query")
        for typed in ("gp", "gpu=H", "gpu=H100"):
            field.value = typed
        await rig.until(lambda: len(searches(rig)) == 2)
        assert searches(rig)[1].query == "gpu=H100"
        await rig.until_words("old: 361 of 20,000 fit")
        await rig.tell(page("gpu=A100", total=3), page("gpu=H100", total=21))
        await rig.until_words("21 of 20,000 fit", "0.9390")
        assert "old:" not in rig.words


async def test_an_error_stands_under_its_column_and_the_last_rows_stay():
    async with window(facts=(*USUAL, page("")), link=("offers",)) as rig:
        await rig.until_words("0.9390")
        await rig.press("slash", *"regoin=eu")
        await rig.until(lambda: searches(rig)[-1].query == "regoin=eu")
        error = QueryError(
            as_of=NOW, query="regoin=eu", text="no field 'regoin'", at=0, suggestion="region"
        )
        await rig.tell(error)
        await rig.until_words("column 1: no field 'regoin'; did you mean region?", "0.9390")
        lines = rig.words.splitlines()
        at = next(number for number, line in enumerate(lines) if "▲" in line and "cr/h" not in line)
        assert lines[at].index("▲") == lines[at - 1].index("regoin=eu")


async def test_a_page_is_asked_for_when_its_rows_are_seen_and_only_then():
    async with window(facts=(*USUAL, page("")), link=("offers",)) as rig:
        await rig.until_words("0.9390")
        screen = rig.app.screen
        assert isinstance(screen, OffersScreen)
        screen.state = dataclasses.replace(screen.state, asked_at=None)
        screen._posted_at = 0
        before = len(searches(rig))
        await rig.press("pagedown")
        assert len(searches(rig)) == before
        await rig.press("G")
        await rig.until(lambda: len(searches(rig)) == before + 1)
        assert searches(rig)[-1].start == 200
        await rig.press("up", "up")  # one is on its way: no more are asked
        assert len(searches(rig)) == before + 1
        await rig.tell(page("", start=200))
        await rig.until_words("9.2190")


async def test_what_failed_while_the_keys_were_locked_is_asked_again_once_they_are_open():
    locked = dataclasses.replace(ONLINE, link=Link.LOCKED, as_of=NOW - 1)
    async with window(facts=(locked,), link=("offers",)) as rig:
        (first,) = searches(rig)
        failed = dataclasses.replace(FAILED, where=first.id, words="the keys are locked")
        await rig.tell(failed)
        await rig.until_words("FAILED busy: the keys are locked")
        assert len(searches(rig)) == 1
        await rig.tell(ONLINE)
        await rig.until(lambda: len(searches(rig)) == 2)


async def test_the_funnel_takes_the_looser_clause_by_enter():
    query = "gpu=H100 vram>=80GiB tee in (sev-snp,tdx) price<=0.50"
    async with window(facts=USUAL, link=("offers", query), size=(200, 60)) as rig:
        await rig.until(lambda: searches(rig)[-1].query == query)
        await rig.tell(dataclasses.replace(EMPTY, query=query), page(query, total=0))
        await rig.until_words("nearest miss: 0.939 cr/h", "price<=0.94: +1, cheapest 0.9390")
        await rig.press("w")
        await rig.until(lambda: isinstance(rig.app.focused, FunnelPanel))
        await rig.press("end", "enter")
        await rig.until(lambda: searches(rig)[-1].query.endswith("price<=0.94"))
        assert searches(rig)[-1].explain


async def test_a_refused_offer_names_the_check_and_the_panel_says_who_would_say_what():
    link, facts = SCENES["normal"]
    async with window(facts=facts, link=link, size=(200, 60)) as rig:
        await rig.until_words("REFUSED: tcb-floor", "would release", "6d6d6d6d6d6d…: would release")
        await rig.press("down", "down")
        await rig.until_words("6d6d6d6d6d6d…: would refuse, tcb-floor")


async def test_sorting_is_asked_of_the_market_by_key_and_by_a_click_on_the_head():
    async with window(facts=(*USUAL, page("")), link=("offers",), size=(100, 30)) as rig:
        await rig.until_words("0.9390")
        await rig.press("o")
        assert searches(rig)[-1].sort == "gpus"
        await rig.tell(page("", sort="gpus"))
        await rig.until_words("n▲")
        await rig.pilot.click("#table", offset=(6, 0))
        assert searches(rig)[-1].sort == "price"
        await rig.pilot.click("#table", offset=(6, 0))
        assert searches(rig)[-1].sort == "-price"


async def test_enter_and_a_double_click_take_an_offer_into_a_new_job_but_not_while_offline():
    async with window(facts=(*USUAL, page("")), link=("offers",)) as rig:
        await rig.until_words("0.9390")
        await rig.tell(OFFLINE)
        await rig.press("enter")
        assert isinstance(rig.app.screen, OffersScreen)
        await rig.until_words("OFFLINE, last known: 361")
        await rig.tell(dataclasses.replace(ONLINE, as_of=NOW + 1))
        await rig.pilot.click("#table", offset=(6, 3), times=2)
        await rig.until(lambda: isinstance(rig.app.screen, NewJobScreen))
        screen = rig.app.screen
        assert screen.state.offer == offer(2).id
        assert screen.state.fields["price_max"] == "0.985"


async def test_the_table_is_enlarged_and_put_back():
    link, facts = SCENES["normal"]
    async with window(facts=facts, link=link, size=(80, 24)) as rig:
        await rig.until_words("0.9390", "PRICE")
        rows = rig.words.count("not asked")
        await rig.press("z")
        await rig.until(lambda: rig.words.count("not asked") > rows and "PRICE" not in rig.words)
        await rig.press("escape")
        await rig.until_words("PRICE")


async def test_marked_offers_are_compared_and_ids_are_copied():
    async with window(facts=(*USUAL, page("")), link=("offers",)) as rig:
        await rig.until_words("0.9390")
        await rig.press("space", "down", "space", "c")
        await rig.until_words("cr per GPU and hour", "0.9620")
        await rig.press("escape", "y")
        assert rig.app.clipboard == offer(1).id


@pytest.mark.parametrize(
    ("state", "size"),
    [
        *(("normal", size) for size in (SIZES[0], (59, 24), (80, 15))),
        *((state, SIZES[0]) for state in SCENES if state != "normal"),
    ],
)
async def test_each_size_and_state_says_what_matters(state, size):
    link, facts = SCENES[state]
    wanted = {
        "normal": "361 of 20,000 fit",
        "empty": "0 of 20,000 fit",
        "loading": "asking the market for offers",
        "error": "361 of 20,000 fit",
        "offline": "OFFLINE, last known: 361",
    }[state]
    async with window(facts=facts, link=link, size=size) as rig:
        await rig.until_words(wanted)
        assert ("wanted: at least 60x16" in rig.words) == (size in {(59, 24), (80, 15)})
        said = "\n".join(rig.app.screen.plain())
        assert wanted in said
        assert not set(said) & set("▏▎▍▌▋▊▉█│─▲")


async def test_hundreds_of_previews_are_one_drawing(monkeypatch):
    async with window(facts=(*USUAL, page(""), FUNNEL), link=("offers",)) as rig:
        await rig.until_words("0.9390")
        drawn = []
        screen = rig.app.screen
        draw = screen.draw
        monkeypatch.setattr(screen, "draw", lambda: (drawn.append(1), draw()))
        for number in range(200):
            rig.hub.tell(dataclasses.replace(PREVIEWS[0], offer=offer(number).id))
        await rig.until_words("would release")
        assert len(drawn) <= 5
