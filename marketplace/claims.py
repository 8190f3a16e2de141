"""Claims: how an offer becomes a lease.

- A claim is one compare-and-set on the offer: of N who read the same version, one wins, and the
  others' leases are on record as *claim_lost*, at no charge.
- A lease copies nothing that can change: it names the version of the offer's terms.
- Every demand of a manifest is a hard predicate. A confidential order on a plain machine is not a
  worse match; it is none.
- A machine is in one live lease, and a rank of a job has one: unique indexes stand behind both.
"""

from __future__ import annotations

import dataclasses
import enum

from sqlmodel import Session, col, select

from marketplace.ids import IdKind, check_id
from marketplace.jobs import manifest_of, move_to
from marketplace.leases import LIVE, deadline_in
from marketplace.models import (
    HoldState,
    Job,
    JobState,
    Lease,
    LeaseState,
    Offer,
    OfferState,
    OfferTerms,
    Order,
    OrderState,
)
from marketplace.offers import find_offer, terms_of
from marketplace.orders import find_order
from marketplace.postings import find_hold
from marketplace.transitions import StaleError, begin, move
from trust.errors import RefusedError
from trust.jobs import BidKind, JobManifest


class ClaimResult(enum.StrEnum):
    """What became of a claim, in order of precedence."""

    EXISTS = "exists"
    CLAIM_LOST = "claim_lost"
    CLAIMED = "claimed"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClaimOffer:
    """A match: this order's rank takes this offer, as it was at `offer_version`."""

    id: str
    """leas_…"""
    order: str
    rank: int
    offer: str
    offer_version: int
    actor: str

    def __post_init__(self) -> None:
        check_id(IdKind.LEASE, self.id)
        check_id(IdKind.ORDER, self.order)
        check_id(IdKind.OFFER, self.offer)


def claim(session: Session, command: ClaimOffer, now: int) -> ClaimResult:
    """Claim an offer for one rank of an order.

    (1) The same claim again has the answer that it had; another one under its id is refused.
    (2) The order is open, and its hold still holds something. (3) The rank is one of its job's and
    has no live lease. (4) The terms that the offer has now are feasible: every demand of the
    manifest is met, none is a hint. (5) Compare-and-set on the offer's version.
    """
    found = session.get(Lease, command.id)
    if found is not None:  # (1)
        if (found.order_id, found.rank, found.offer_id) != (
            command.order,
            command.rank,
            command.offer,
        ):
            raise RefusedError("exists-with-different-terms", f"lease {found.id} is another one")
        lost = found.state is LeaseState.CLAIM_LOST
        return ClaimResult.CLAIM_LOST if lost else ClaimResult.EXISTS
    order = find_order(session, command.order)
    job = session.get_one(Job, order.job_digest)
    _check_open(session, order, now)  # (2)
    _check_rank(session, job, command.rank)  # (3)
    offer = find_offer(session, command.offer)
    terms = terms_of(session, offer)
    price = _check_feasible(manifest_of(job), terms, now)  # (4)
    lease = Lease(
        id=command.id,
        order_id=order.id,
        job_digest=job.digest,
        rank=command.rank,
        generation=None,
        offer_id=offer.id,
        offer_terms_number=terms.number,
        price=price,
        host=offer.host,
        state=LeaseState.FUNDED,
        version=1,
        deadline_ms=deadline_in(LeaseState.CLAIMED, terms, now),
        created_at_ms=now,
    )
    begin(session, lease, actor=command.actor, reason="the order's hold pays for it", now=now)
    if not _compare_and_set(session, offer, command, now):  # (5)
        reason = f"offer is past version {command.offer_version}, or not listed"
        lost_to = LeaseState.CLAIM_LOST
        move(session, lease, lost_to, actor=command.actor, reason=reason, now=now)
        return ClaimResult.CLAIM_LOST
    move(
        session,
        lease,
        LeaseState.CLAIMED,
        actor=command.actor,
        reason="offer claimed",
        now=now,
        deadline=deadline_in(LeaseState.CLAIMED, terms, now),
    )
    _place_when_complete(session, order, job, actor=command.actor, now=now)
    return ClaimResult.CLAIMED


def _check_open(session: Session, order: Order, now: int) -> None:
    if order.state is not OrderState.OPEN or order.deadline_ms is None or order.deadline_ms <= now:
        raise RefusedError("order-not-open", f"order {order.id} is {order.state}, or is overdue")
    hold = find_hold(session, order.hold_id)
    if (
        hold.state is not HoldState.PLACED
        or hold.expires_at_ms <= now
        or hold.captured == hold.reserved
    ):
        raise RefusedError("not-funded", f"hold {order.hold_id} has nothing left")


def _check_rank(session: Session, job: Job, rank: int) -> None:
    if not 0 <= rank < job.enclaves:
        raise RefusedError("wrong-rank", f"rank {rank} of {job.enclaves} enclaves")
    live = select(Lease.id).where(
        col(Lease.job_digest) == job.digest, col(Lease.rank) == rank, col(Lease.state).in_(LIVE)
    )
    if session.exec(live).first() is not None:
        raise RefusedError("rank-is-leased", f"rank {rank} has a live lease")


def _check_feasible(manifest: JobManifest, terms: OfferTerms, now: int) -> int:
    """Every demand is met, or RefusedError names the first that is not; return the price."""
    wanted = manifest.resources
    for name, found, holds in (
        ("platform", terms.platform, terms.platform == wanted.platform),
        ("gpu model", terms.gpu_model, terms.gpu_model == wanted.gpu_model),
        ("gpus", terms.gpus, terms.gpus == wanted.gpus),
        ("memory", terms.memory_mib, terms.memory_mib >= wanted.memory_mib),
        ("end", terms.ends_at_ms, terms.ends_at_ms > now),
    ):
        if not holds:
            raise RefusedError("infeasible", f"the offer's {name} is {found}")
    bid = manifest.bid.price_microcredits_per_gpu_hour
    price = terms.ask
    if manifest.bid.kind is BidKind.INTERRUPTIBLE:
        if terms.floor is None:
            raise RefusedError("infeasible", "the offer takes no interruptible order")
        price = max(terms.floor, min(bid, terms.ask))
    if price > bid:
        raise RefusedError("infeasible", f"the price is {price}, the bid {bid}")
    return price


def _compare_and_set(session: Session, offer: Offer, command: ClaimOffer, now: int) -> bool:
    if offer.version != command.offer_version or offer.state is not OfferState.LISTED:
        return False
    try:
        move(
            session,
            offer,
            OfferState.CLAIMED,
            actor=command.actor,
            reason=f"by {command.id}",
            now=now,
            deadline=offer.deadline_ms,
        )
    except StaleError:
        return False
    return True


def _place_when_complete(session: Session, order: Order, job: Job, *, actor: str, now: int) -> None:
    live = select(Lease.rank).where(col(Lease.job_digest) == job.digest, col(Lease.state).in_(LIVE))
    if len(session.exec(live).all()) < job.enclaves:
        return
    reason = "every rank has a lease"
    to = OrderState.LEASED
    move(session, order, to, actor=actor, reason=reason, now=now, deadline=order.deadline_ms)
    if job.state is JobState.QUEUED:
        move_to(session, job, JobState.PLACED, actor=actor, reason=reason, now=now)
