"""What a host may see of its own leases, and of how their receipts were settled. Reads alone.

The market tells what it went by, receipt by receipt, so that a host computes each amount again
(`metering.billable` is the rule) and takes as little as can be on the market's word.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlmodel import Session, col, select

from marketplace import settlement, wire_hosts
from marketplace.leases import LIVE
from marketplace.models import (
    Hold,
    Job,
    Lease,
    OfferTerms,
    Receipt,
    Settlement,
    Transfer,
    TransferKind,
    Transition,
)
from marketplace.orders import order_of
from marketplace.postings import find_hold
from marketplace.settlement import DISPUTE_MILLISECONDS
from marketplace.wire import PAGE_ROWS_MAX, LeaseState, SettlementState
from trust.encoding import base64url, parse_base64url

_LIVE: Final = frozenset(each.value for each in LIVE)
_ENDS: Final = (TransferKind.VOID, TransferKind.EXPIRE)


def host_leases(session: Session, host: bytes, *, after: int) -> tuple[wire_hosts.HostLease, ...]:
    """A page of a host's leases, oldest first, ended ones too."""
    query = (
        select(Lease)
        .where(col(Lease.host) == base64url(host))
        .order_by(col(Lease.created_at_ms), col(Lease.id))
        .offset(after)
        .limit(PAGE_ROWS_MAX)
    )
    return tuple(_host_lease(session, each) for each in session.exec(query))


def lease_settlements(
    session: Session, lease: Lease, *, after: int
) -> tuple[wire_hosts.HostSettlement, ...]:
    """A page of what a lease's receipts posted, each with what it was settled by."""
    job = session.get_one(Job, lease.job_digest)
    hold = find_hold(session, order_of(session, job).hold_id)
    ended_at = _hold_ended_at(session, hold)
    found: list[_Before] = []
    royalty = tokens = taken = 0
    for each in settlement.settlements_of(session, parse_base64url(job.digest)):
        if each.lease_id == lease.id:
            at = each.created_at_ms
            over = at >= hold.expires_at_ms or (ended_at is not None and at >= ended_at)
            available = 0 if over else hold.reserved - taken
            found.append(_Before(each, royalty, tokens, available))
        royalty, tokens = each.job_royalty, each.job_tokens
        taken += each.host_amount + each.owner_amount + each.fee_amount
    page = found[after : after + PAGE_ROWS_MAX]
    paid_before = _paid_before(session, page[0].settled) if page else 0
    return tuple(_host_settlement(session, each, paid_before) for each in page)


class _Before(NamedTuple):
    """A settlement, and where its job stood before it."""

    settled: Settlement
    royalty: int
    tokens: int
    available: int


def _host_settlement(
    session: Session, found: _Before, paid_before: int
) -> wire_hosts.HostSettlement:
    settled = found.settled
    receipt = session.get_one(Receipt, settled.receipt_digest)
    return wire_hosts.HostSettlement(
        signed=receipt.document,
        settled_at=settled.created_at_ms,
        committed_step=receipt.committed_step,
        paid_before_step=paid_before,
        job_royalty_before=found.royalty,
        job_tokens_before=found.tokens,
        available_before=found.available,
        host_amount=settled.host_amount,
        owner_amount=settled.owner_amount,
        fee_amount=settled.fee_amount,
        state=SettlementState(settled.state.value),
        matures_at=settled.created_at_ms + DISPUTE_MILLISECONDS,
    )


def _host_lease(session: Session, lease: Lease) -> wire_hosts.HostLease:
    terms = session.get_one(OfferTerms, (lease.offer_id, lease.offer_terms_number))
    job = session.get_one(Job, lease.job_digest)
    reason, ended_at = _end(session, lease)
    return wire_hosts.HostLease(
        lease=lease.id,
        offer=lease.offer_id,
        offer_terms_number=lease.offer_terms_number,
        job=parse_base64url(lease.job_digest),
        rank=lease.rank,
        generation=lease.generation,
        state=LeaseState(lease.state.value),
        reason=reason,
        price_microcredits_per_gpu_hour=lease.price,
        gpus=terms.gpus,
        meter=wire_hosts.JobMeter(job.meter.value),
        ceiling=job.ceiling,
        checkpoint_steps=job.checkpoint_steps,
        royalty_per_job=job.royalty_per_job,
        royalty_per_million_tokens=job.royalty_per_million_tokens,
        fee_ppm=job.fee_ppm,
        signing_key=None if lease.signing_key is None else parse_base64url(lease.signing_key),
        opened_at=lease.created_at_ms,
        ready_at=lease.ready_at_ms,
        metered_until=lease.metered_until_ms,
        ended_at=ended_at,
    )


def _end(session: Session, lease: Lease) -> tuple[str, int | None]:
    """Why a lease is as it is, and since when it holds its machine no more."""
    query = (
        select(Transition)
        .where(col(Transition.subject_id) == lease.id)
        .order_by(col(Transition.number))
    )
    steps = session.exec(query).all()
    after = [each for each in steps if each.from_state in _LIVE and each.to_state not in _LIVE]
    return steps[-1].reason if steps else "", after[0].at_ms if after else None


def _hold_ended_at(session: Session, hold: Hold) -> int | None:
    """When what was left of a hold went back; None: it stands."""
    query = select(Transfer.created_at_ms).where(
        col(Transfer.hold_id) == hold.id, col(Transfer.kind).in_(_ENDS)
    )
    return session.exec(query).first()


def _paid_before(session: Session, settled: Settlement) -> int:
    """The last step of this rank that an older generation was paid for (`settlement._posted`).

    Older generations settle nothing once this one is ordered, so it is one number for a lease.
    """
    query = select(Settlement.paid_through_step).where(
        col(Settlement.job_digest) == settled.job_digest,
        col(Settlement.rank) == settled.rank,
        col(Settlement.generation) < settled.generation,
    )
    return max(session.exec(query).all(), default=0)
