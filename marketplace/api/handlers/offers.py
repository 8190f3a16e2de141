"""Offers: list, look, search, keep alive, take back."""

from __future__ import annotations

import weakref
from typing import Final

from sqlmodel import Session

from marketplace import heartbeats, offers, search, wire
from marketplace.api.asks import Ask, Reply, reply
from marketplace.api.views import offer_view
from marketplace.models import Offer, OfferState
from marketplace.refusals import MarketError
from marketplace.service import Market
from marketplace.wire import ErrorCode
from trust.encoding import base64url

_ENDED = frozenset({OfferState.UNLISTED, OfferState.EXPIRED})
_BOOKS: Final[weakref.WeakKeyDictionary[Market, search.Book]] = weakref.WeakKeyDictionary()
"""The newest book that each market of this process has read."""


def post_offer(session: Session, ask: Ask) -> Reply:
    """List an offer; or, under an id that the host used before, give it these terms."""
    draft = ask.parse(wire.OfferDraft)
    terms = offers.Terms(
        platform=draft.platform,
        compute_class=draft.compute_class,
        gpu_model=draft.gpu_model,
        gpus=draft.gpus,
        memory_mib=draft.memory_mib,
        ask=draft.ask_microcredits_per_gpu_hour,
        floor=draft.floor_microcredits_per_gpu_hour,
        ends_at=draft.ends_at,
    )
    found = session.get(Offer, draft.offer)
    if found is None:
        command = offers.ListOffer(id=draft.offer, host=ask.identity, terms=terms)
        offers.list_offer(session, command, ask.now)
    else:
        _own_offer(session, ask, draft.offer)
        if offer_view(session, found).draft != draft:
            change = offers.ChangeOffer(id=found.id, version=found.version, terms=terms)
            offers.change_offer(session, change, ask.now)
        _list_again(session, ask, found)
    heartbeats.beat(session, draft.offer, ask.now)
    return reply(offer_view(session, session.get_one(Offer, draft.offer)))


def get_offers(session: Session, ask: Ask) -> Reply:
    """What can be claimed now, cheapest ask first."""
    listed = offers.listings(session, ask.now)[: wire.PAGE_ROWS_MAX]
    views = tuple(offer_view(session, each.offer) for each in listed)
    return reply(wire.OfferList(offers=views))


def post_search(session: Session, ask: Ask) -> Reply:
    """Listed offers that fit a query, a page of them."""
    query = ask.parse(wire.OfferQuery)
    return reply(search.search(_book(session, ask), query, ask.now))


def post_explain(session: Session, ask: Ask) -> Reply:
    """What each clause of a query takes away."""
    query = ask.parse(wire.OfferQuery)
    return reply(search.explain(_book(session, ask), query, ask.now))


def get_offer(session: Session, ask: Ask) -> Reply:
    """One offer, in whatever state."""
    return reply(offer_view(session, offers.find_offer(session, ask.parts["offer"])))


def post_heartbeat(session: Session, ask: Ask) -> Reply:
    """The machine is there. An offer that was paused for silence is listed again."""
    ask.parse(wire.Empty)
    offer = _own_offer(session, ask, ask.parts["offer"])
    if offer.state in _ENDED:
        raise MarketError(ErrorCode.CONFLICT, f"offer {offer.id} is {offer.state.value}")
    heartbeats.beat(session, offer.id, ask.now)
    if offer.state is OfferState.PAUSED:
        _move(session, ask, offer, OfferState.LISTED, heartbeats.REASON_BACK)
    return reply(offer_view(session, offer))


def post_withdraw(session: Session, ask: Ask) -> Reply:
    """Take an offer back. A lease of it goes on."""
    ask.parse(wire.Empty)
    offer = _own_offer(session, ask, ask.parts["offer"])
    if offer.state not in _ENDED:
        _move(session, ask, offer, OfferState.UNLISTED, "withdrawn by its host")
    return reply(offer_view(session, offer))


def _book(session: Session, ask: Ask) -> search.Book:
    """The book as it is now; it is read again only when an offer changed."""
    version = search.book_version(session)
    book = _BOOKS.get(ask.market)
    if book is None or book.version != version:
        book = _BOOKS[ask.market] = search.load_book(session, version)
    return book


def _list_again(session: Session, ask: Ask, offer: Offer) -> None:
    """A host whose offer was suspended after a fault of its own lists it again by posting it."""
    if offer.state in {OfferState.PAUSED, OfferState.SUSPENDED}:
        _move(session, ask, offer, OfferState.LISTED, "listed again by its host")


def _move(session: Session, ask: Ask, offer: Offer, to: OfferState, reason: str) -> None:
    command = offers.MoveOffer(
        id=offer.id, version=offer.version, to=to, actor=base64url(ask.identity), reason=reason
    )
    offers.move_offer(session, command, ask.now)


def _own_offer(session: Session, ask: Ask, name: str) -> Offer:
    offer = session.get(Offer, name)
    if offer is None or offer.host != base64url(ask.identity):
        raise MarketError(ErrorCode.NOT_FOUND, f"{ask.identity.hex()} has no offer {name[:40]}")
    return offer
