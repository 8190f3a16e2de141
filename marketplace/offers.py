"""Offers: what hosts offer, in numbered versions of terms that never change.

- A change of price or machine is a new version; a lease keeps the one that it was claimed at.
- An offer is claimed by compare-and-set on its `version`: of N who claim what they all read, one
  wins (`marketplace.leases.claim`).
- Taking an offer back never ends a lease: it only keeps the machine from being claimed again.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from sqlmodel import Session, col, select

from marketplace.ids import IdKind, check_id
from marketplace.models import Offer, OfferState, OfferTerms
from marketplace.transitions import OFFER, Outcome, begin, change, check_version, move
from trust.encoding import INTEGER_MAX, base64url
from trust.errors import EncodingError, RefusedError

GPUS_MAX: Final = 64  # more than one machine holds
LISTED_MAX: Final = 10_000  # what one matching round reads


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What is offered, and for how much. Prices are microcredits per GPU-hour."""

    platform: str
    compute_class: str
    gpu_model: str
    """``cpu`` for a machine without a GPU, which counts as one."""
    gpus: int
    memory_mib: int
    ask: int
    """On-demand price."""
    floor: int | None
    """Least price for an interruptible order; None: none is taken."""
    ends_at: int
    """Unix milliseconds; no lease of this offer goes on longer."""

    def __post_init__(self) -> None:
        limits = {"platform": 32, "compute_class": 512, "gpu_model": 64}
        for name, characters in limits.items():
            if not 1 <= len(getattr(self, name)) <= characters:
                raise EncodingError(f"offer: {name} has 1 to {characters} characters")
        for name, least, most in (
            ("gpus", 1, GPUS_MAX),
            ("memory_mib", 0, INTEGER_MAX),
            ("ask", 0, INTEGER_MAX),
            ("ends_at", 0, INTEGER_MAX),
        ):
            if not least <= getattr(self, name) <= most:
                raise EncodingError(f"offer: {name} is {getattr(self, name)}, {least} to {most}")
        if self.floor is not None and not 0 <= self.floor <= self.ask:
            raise EncodingError(f"offer: floor {self.floor} is not between 0 and the ask")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ListOffer:
    """A host's new offer."""

    id: str
    """offr_…"""
    host: bytes
    terms: Terms

    def __post_init__(self) -> None:
        check_id(IdKind.OFFER, self.id)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChangeOffer:
    """New terms for an offer that was read at `version`."""

    id: str
    version: int
    terms: Terms


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MoveOffer:
    """Pause, list again, or take back an offer that was read at `version`."""

    id: str
    version: int
    to: OfferState
    actor: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """An offer and the terms that it has now."""

    offer: Offer
    terms: OfferTerms


def list_offer(session: Session, command: ListOffer, now: int) -> Outcome:
    """List an offer. The same offer again is EXISTS; another one under its id is refused."""
    found = session.get(Offer, command.id)
    if found is not None:
        first = _row(command.id, 1, command.terms, found.created_at_ms)
        stored = session.get_one(OfferTerms, (command.id, 1))
        if found.host == base64url(command.host) and stored.model_dump() == first.model_dump():
            return Outcome.EXISTS
        raise RefusedError("exists-with-different-terms", f"offer {command.id} says something else")
    _check_time(command.terms, now)
    offer = Offer(
        id=command.id,
        host=base64url(command.host),
        state=OfferState.LISTED,
        terms_number=1,
        version=1,
        deadline_ms=command.terms.ends_at,
        created_at_ms=now,
    )
    begin(session, offer, actor=offer.host, reason="listed", now=now)
    session.add(_row(command.id, 1, command.terms, now))
    session.flush()
    return Outcome.CREATED


def change_offer(session: Session, command: ChangeOffer, now: int) -> None:
    """Give an offer new terms; leases keep theirs. Raises StaleError."""
    offer = find_offer(session, command.id)
    check_version(offer, command.version)
    if OFFER.is_terminal(offer.state):
        raise RefusedError("offer-ended", f"offer {offer.id} is {offer.state}")
    _check_time(command.terms, now)
    session.add(_row(offer.id, offer.terms_number + 1, command.terms, now))
    session.flush()
    change(session, offer, terms_number=offer.terms_number + 1, deadline_ms=command.terms.ends_at)


def move_offer(session: Session, command: MoveOffer, now: int) -> None:
    """Move an offer; claiming and freeing it are the leases'. Raises StaleError."""
    offer = find_offer(session, command.id)
    check_version(offer, command.version)
    claims = OfferState.CLAIMED in {offer.state, command.to}
    if claims and command.to not in {OfferState.UNLISTED, OfferState.SUSPENDED}:
        raise RefusedError("offer-is-leased", "an offer is claimed and freed by its lease alone")
    _move(session, offer, command.to, actor=command.actor, reason=command.reason, now=now)


def free_offer(
    session: Session, offer: Offer, *, to: OfferState, actor: str, reason: str, now: int
) -> None:
    """After a lease: list a claimed offer again or suspend it; past its end it expires."""
    if offer.state is not OfferState.CLAIMED:  # taken back or suspended meanwhile
        return
    if offer.deadline_ms is not None and offer.deadline_ms <= now:
        to = OfferState.EXPIRED
    _move(session, offer, to, actor=actor, reason=reason, now=now)


def expire_offers(session: Session, now: int) -> tuple[str, ...]:
    """Expire offers past their end that no lease holds; return their ids."""
    query = select(Offer).where(
        col(Offer.deadline_ms) <= now, col(Offer.state) != OfferState.CLAIMED
    )
    offers = session.exec(query.order_by(col(Offer.id))).all()
    for offer in offers:
        _move(session, offer, OfferState.EXPIRED, actor="market", reason="past its end", now=now)
    return tuple(offer.id for offer in offers)


def listings(session: Session, now: int) -> tuple[Listing, ...]:
    """Offers that can be claimed now, cheapest first."""
    query = (
        select(Offer, OfferTerms)
        .where(
            col(Offer.state) == OfferState.LISTED,
            col(OfferTerms.offer_id) == col(Offer.id),
            col(OfferTerms.number) == col(Offer.terms_number),
            col(OfferTerms.ends_at_ms) > now,
        )
        .order_by(col(OfferTerms.ask), col(Offer.id))
        .limit(LISTED_MAX)
    )
    return tuple(Listing(offer=offer, terms=terms) for offer, terms in session.exec(query).all())


def find_offer(session: Session, name: str) -> Offer:
    """The offer of this id. Raises RefusedError (code *offer-unknown*)."""
    offer = session.get(Offer, name)
    if offer is None:
        raise RefusedError("offer-unknown", f"no offer {name[:64]}")
    return offer


def terms_of(session: Session, offer: Offer) -> OfferTerms:
    """The terms that an offer has now."""
    return session.get_one(OfferTerms, (offer.id, offer.terms_number))


def _move(
    session: Session, offer: Offer, to: OfferState, *, actor: str, reason: str, now: int
) -> None:
    deadline = None if OFFER.is_terminal(to) else terms_of(session, offer).ends_at_ms
    move(session, offer, to, actor=actor, reason=reason, now=now, deadline=deadline)


def _row(offer: str, number: int, terms: Terms, now: int) -> OfferTerms:
    values = dataclasses.asdict(terms)
    ends_at = values.pop("ends_at")
    return OfferTerms(
        offer_id=offer, number=number, ends_at_ms=ends_at, created_at_ms=now, **values
    )


def _check_time(terms: Terms, now: int) -> None:
    if terms.ends_at <= now:
        raise RefusedError("offer-ended", f"the offer ends at {terms.ends_at}, now {now}")
