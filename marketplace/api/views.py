"""Rows as they stand on the wire."""

from __future__ import annotations

from sqlmodel import Session, col, select

from marketplace import wire
from marketplace.jobs import generation_orders
from marketplace.leases import leases_of
from marketplace.models import Hold, Job, Lease, Offer, OfferTerms, Order, Receipt, Settlement
from trust.encoding import parse_base64url


def offer_view(session: Session, offer: Offer) -> wire.OfferView:
    """An offer with the terms that it has now."""
    terms = session.get_one(OfferTerms, (offer.id, offer.terms_number))
    return wire.OfferView(
        host=parse_base64url(offer.host),
        state=wire.OfferState(offer.state.value),
        terms_number=offer.terms_number,
        draft=wire.OfferDraft(
            offer=offer.id,
            platform=terms.platform,
            compute_class=terms.compute_class,
            gpu_model=terms.gpu_model,
            gpus=terms.gpus,
            memory_mib=terms.memory_mib,
            ask_microcredits_per_gpu_hour=terms.ask,
            floor_microcredits_per_gpu_hour=terms.floor,
            ends_at=terms.ends_at_ms,
        ),
        deadline=offer.deadline_ms,
    )


def lease_view(session: Session, lease: Lease) -> wire.LeaseView:
    """A lease, with what its offer's terms say of the machine."""
    terms = session.get_one(OfferTerms, (lease.offer_id, lease.offer_terms_number))
    job = session.get_one(Job, lease.job_digest)
    return wire.LeaseView(
        lease=lease.id,
        offer=lease.offer_id,
        job=parse_base64url(lease.job_digest),
        rank=lease.rank,
        ranks=job.enclaves,
        generation=lease.generation,
        host=parse_base64url(lease.host),
        price_microcredits_per_gpu_hour=lease.price,
        gpus=terms.gpus,
        state=wire.LeaseState(lease.state.value),
        version=lease.version,
        ready_at=lease.ready_at_ms,
        deadline=lease.deadline_ms,
    )


def job_view(session: Session, job: Job) -> wire.JobView:
    """A job with its newest leases and its money."""
    digest = parse_base64url(job.digest)
    orders = generation_orders(session, digest)
    leases = leases_of(session, digest)[::-1][: wire.PAGE_ROWS_MAX]
    return wire.JobView(
        job=digest,
        buyer=parse_base64url(job.buyer),
        owner=parse_base64url(job.owner),
        state=wire.JobState(job.state.value),
        generation=job.generation,
        generation_digest=parse_base64url(orders[-1].digest) if orders else None,
        waiting_for=job.waiting_for,
        money=_money(session, job),
        leases=tuple(lease_view(session, each) for each in leases),
        created_at=job.created_at_ms,
        deadline=job.deadline_ms,
    )


def receipt_view(session: Session, settlement: Settlement) -> wire.ReceiptView:
    """A receipt, as signed, with what it posted."""
    receipt = session.get_one(Receipt, settlement.receipt_digest)
    return wire.ReceiptView(
        signed=receipt.document,
        host_amount=settlement.host_amount,
        owner_amount=settlement.owner_amount,
        fee_amount=settlement.fee_amount,
        state=wire.SettlementState(settlement.state.value),
        matures_at=settlement.matures_at_ms,
    )


def _money(session: Session, job: Job) -> wire.MoneyView:
    query = (
        select(Hold)
        .join(Order, col(Order.hold_id) == col(Hold.id))
        .where(col(Order.job_digest) == job.digest)
    )
    hold = session.exec(query).one()  # a job is stored together with its order and hold
    return wire.MoneyView(reserved=hold.reserved, captured=hold.captured, released=hold.released)
