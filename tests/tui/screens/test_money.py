"""Money, by keys."""

from __future__ import annotations

from tests.tui.rig import window
from tests.tui.scenes.money import SCENES
from tui.commands import Kind, Look, MoreEntries, StatementForm, WriteStatement


async def test_a_charge_opens_to_its_receipts_and_says_which_does_not_hold():
    link, facts = SCENES["normal"]
    async with window(link=link, facts=facts) as rig:
        await rig.until_words("Free 41.2000 cr", "receipt 3, from the hold", "paid in")
        assert rig.hub.of(Look)[-1].subject.kind is Kind.MONEY
        await rig.press("down", "enter")
        await rig.until_words("exactly -1,102,100 microcredits", "DOES NOT HOLD")
        await rig.press("escape")
        await rig.press("slash", *"paid", "enter")
        await rig.until_words("paid in", "+47.2000")
        assert "receipt 3" not in rig.words


async def test_a_statement_is_asked_for_by_month_and_form():
    link, facts = SCENES["normal"]
    async with window(link=link, facts=facts) as rig:
        await rig.until_words("paid in")
        await rig.press("s")
        await rig.until_words("2026-11")
        await rig.press("enter", "down", "enter")
        await rig.until(lambda: bool(rig.hub.of(WriteStatement)))
        [asked] = rig.hub.of(WriteStatement)
        assert (asked.month, asked.form) == ("2026-11", StatementForm.BEANCOUNT)


async def test_what_is_not_known_yet_is_not_shown_as_nothing():
    link, facts = SCENES["loading"]
    async with window(link=link, facts=facts, size=(80, 24)) as rig:
        await rig.until_words("asking the market for the statement", "has not come yet")
        assert not rig.hub.of(MoreEntries)
