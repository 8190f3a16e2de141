"""Offers: numbered terms that never change, and who may move them."""

from __future__ import annotations

import dataclasses

import pytest
import sqlalchemy as sa

from marketplace import offers
from marketplace.ids import IdKind
from marketplace.models import OfferState, OfferTerms
from marketplace.store import Store
from marketplace.transitions import Outcome, StaleError, TransitionError, history
from tests.marketplace.world import CREDIT, HOST, HOST_2, HOUR, NOW, OPERATOR, new_id, offer_terms
from trust.errors import EncodingError, RefusedError


def command(**changes: object) -> offers.ListOffer:
    return offers.ListOffer(
        id=new_id(IdKind.OFFER), host=HOST.identity, terms=offer_terms(**changes)
    )


def listed(store: Store, **changes: object) -> str:
    each = command(**changes)
    with store.transaction() as session:
        assert offers.list_offer(session, each, NOW) is Outcome.CREATED
    return each.id


def test_offer_listed_again_exists_and_another_under_its_id_is_refused(store: Store) -> None:
    each = command()
    with store.transaction() as session:
        assert offers.list_offer(session, each, NOW) is Outcome.CREATED
        assert offers.list_offer(session, each, NOW + HOUR) is Outcome.EXISTS
    for other in (
        dataclasses.replace(each, host=HOST_2.identity),
        dataclasses.replace(each, terms=offer_terms(ask=7)),
    ):
        with (
            pytest.raises(RefusedError, match="exists-with-different-terms"),
            store.transaction() as session,
        ):
            offers.list_offer(session, other, NOW)


def test_price_change_is_a_new_version_and_the_old_one_stays(store: Store) -> None:
    name = listed(store)
    change = offers.ChangeOffer(id=name, version=1, terms=offer_terms(ask=3))
    with store.transaction() as session:
        offers.change_offer(session, change, NOW)
    with store.reading() as session:
        assert [session.get_one(OfferTerms, (name, n)).ask for n in (1, 2)] == [CREDIT, 3]
        (listing,) = offers.listings(session, NOW)
        assert (listing.terms.ask, listing.offer.version) == (3, 2)
    with pytest.raises(StaleError), store.transaction() as session:
        offers.change_offer(session, change, NOW)


def test_listings_are_cheapest_first_and_none_is_past_its_end(store: Store) -> None:
    dear, cheap = listed(store, ask=9), listed(store, ask=2)
    gone = listed(store, ask=1, ends_at=NOW + 1)
    with store.reading() as session:
        assert [x.offer.id for x in offers.listings(session, NOW)] == [gone, cheap, dear]
        assert [x.offer.id for x in offers.listings(session, NOW + 1)] == [cheap, dear]
    with store.transaction() as session:
        assert offers.expire_offers(session, NOW + 1) == (gone,)
        assert offers.find_offer(session, gone).state is OfferState.EXPIRED


def test_offer_is_paused_resumed_taken_back_and_stays_away(store: Store) -> None:
    name = listed(store)
    for version, to in enumerate(
        (OfferState.PAUSED, OfferState.LISTED, OfferState.UNLISTED), start=1
    ):
        move = offers.MoveOffer(id=name, version=version, to=to, actor="host", reason="test")
        with store.transaction() as session:
            offers.move_offer(session, move, NOW)
    again = offers.MoveOffer(
        id=name, version=4, to=OfferState.LISTED, actor=OPERATOR, reason="test"
    )
    with pytest.raises(TransitionError), store.transaction() as session:
        offers.move_offer(session, again, NOW)
    with pytest.raises(RefusedError, match="offer-ended"), store.transaction() as session:
        offers.change_offer(
            session, offers.ChangeOffer(id=name, version=4, terms=offer_terms()), NOW
        )
    with store.reading() as session:
        states = [each.to_state for each in history(session, name)]
    assert states == ["listed", "paused", "listed", "unlisted"]


def test_nobody_claims_an_offer_without_a_lease(store: Store) -> None:
    name = listed(store)
    move = offers.MoveOffer(id=name, version=1, to=OfferState.CLAIMED, actor="host", reason="test")
    with pytest.raises(RefusedError, match="offer-is-leased"), store.transaction() as session:
        offers.move_offer(session, move, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": 0},
        {"gpus": 65},
        {"ask": -1},
        {"floor": 2 * CREDIT},
        {"floor": -1},
        {"platform": ""},
        {"gpu_model": "x" * 65},
        {"memory_mib": 1 << 53},
    ],
)
def test_malformed_terms_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(EncodingError, match="offer"):
        offer_terms(**changes)


def test_offer_that_has_ended_is_not_listed(store: Store) -> None:
    with pytest.raises(RefusedError, match="offer-ended"), store.transaction() as session:
        offers.list_offer(session, command(ends_at=NOW), NOW)


def test_state_that_goes_on_without_a_deadline_is_refused_by_the_database(store: Store) -> None:
    listed(store)
    with pytest.raises(sa.exc.IntegrityError, match="deadline"), store.transaction() as session:
        session.connection().exec_driver_sql("UPDATE offer SET deadline_ms = NULL")
