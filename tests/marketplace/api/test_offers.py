"""Offers over the socket: listed by their host, kept alive, taken back."""

from __future__ import annotations

from marketplace import wire
from marketplace.heartbeats import pause_silent
from marketplace.models import AccountRole as DomainAccountRole
from marketplace.models import JobState as DomainJobState
from marketplace.models import LeaseState as DomainLeaseState
from marketplace.models import OfferState as DomainOfferState
from marketplace.models import SettlementState as DomainSettlementState
from tests.marketplace.api.rig import Rig, key16, refused
from tests.marketplace.world import BUYER, CREDIT, HOST, HOST_2, NOW, STRANGER

Code = wire.ErrorCode
State = wire.OfferState


async def test_listed_offer_is_seen_by_all_cheapest_first(rig: Rig) -> None:
    dear, cheap = rig.draft(), rig.draft(ask_microcredits_per_gpu_hour=5)
    view = await rig.api(HOST).post_offer(dear, key=key16())
    assert (view.host, view.state, view.draft, view.terms_number) == (
        HOST.identity,
        State.LISTED,
        dear,
        1,
    )
    await rig.api(HOST_2).post_offer(cheap, key=key16())
    assert [each.draft for each in await rig.api(BUYER).get_offers()] == [cheap, dear]


async def test_new_terms_are_a_new_version_under_the_same_id(rig: Rig) -> None:
    draft = rig.draft()
    await rig.api(HOST).post_offer(draft, key=key16())
    assert (await rig.api(HOST).post_offer(draft, key=key16())).terms_number == 1
    changed = rig.draft(offer=draft.offer, ask_microcredits_per_gpu_hour=2 * CREDIT)
    view = await rig.api(HOST).post_offer(changed, key=key16())
    assert (view.terms_number, view.draft) == (2, changed)


async def test_anothers_offer_is_nobodys_to_change_beat_or_withdraw(rig: Rig) -> None:
    draft = rig.draft()
    await rig.api(HOST).post_offer(draft, key=key16())
    cheaper = rig.draft(offer=draft.offer, ask_microcredits_per_gpu_hour=0)
    thief = rig.api(STRANGER)
    await refused(Code.NOT_FOUND, thief.post_offer(cheaper, key=key16()))
    await refused(Code.NOT_FOUND, thief.beat(draft.offer))
    await refused(Code.NOT_FOUND, thief.withdraw_offer(draft.offer, key=key16()))
    assert (await thief.get_offer(draft.offer)).draft == draft


async def test_withdrawn_offer_is_off_the_book_for_good(rig: Rig) -> None:
    draft = rig.draft()
    await rig.api(HOST).post_offer(draft, key=key16())
    for _ in range(2):
        view = await rig.api(HOST).withdraw_offer(draft.offer, key=key16())
        assert view.state is State.UNLISTED
    assert await rig.api(BUYER).get_offers() == ()
    await refused(Code.CONFLICT, rig.api(HOST).beat(draft.offer))


async def test_silent_offer_is_paused_and_listed_again_by_a_heartbeat(rig: Rig) -> None:
    draft = rig.draft()
    await rig.api(HOST).post_offer(draft, key=key16())
    rig.time[0] += 40_000
    await rig.api(HOST).beat(draft.offer)
    rig.time[0] += 40_000
    assert await rig.write(lambda s: pause_silent(s, rig.time[0])) == ()
    rig.time[0] += 30_000
    await rig.write(lambda s: pause_silent(s, rig.time[0]))
    assert await rig.api(BUYER).get_offers() == ()
    assert (await rig.api(HOST).get_offer(draft.offer)).state is State.PAUSED
    assert (await rig.api(HOST).beat(draft.offer)).state is State.LISTED
    assert len(await rig.api(BUYER).get_offers()) == 1


async def test_impossible_offer_is_refused(rig: Rig) -> None:
    for change in (
        {"ends_at": NOW},
        {"floor_microcredits_per_gpu_hour": 2 * CREDIT},
    ):
        draft = rig.draft(**change)
        sent = await rig.send(
            "POST", wire.OFFERS, wire.encode(draft), key=HOST, idempotency=key16()
        )
        assert sent.status in {409, 400}
        assert await rig.api(BUYER).get_offers() == ()


async def test_unknown_offer_is_not_found(rig: Rig) -> None:
    await refused(Code.NOT_FOUND, rig.api(HOST).get_offer("offr_" + "0" * 26))
    await refused(Code.NOT_FOUND, rig.api(HOST).get_offer("x"))


def test_words_of_the_wire_are_those_of_the_book() -> None:
    for of_wire, of_book in (
        (wire.OfferState, DomainOfferState),
        (wire.JobState, DomainJobState),
        (wire.LeaseState, DomainLeaseState),
        (wire.SettlementState, DomainSettlementState),
    ):
        assert {each.value for each in of_wire} == {each.value for each in of_book}
    roles = {each.value for each in DomainAccountRole}
    assert {each.value for each in wire.AccountRole} <= roles
