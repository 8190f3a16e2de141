"""Leases, as the host that holds them sees them. Nothing here says *ready* or moves money."""

from __future__ import annotations

from sqlmodel import Session, col, select

from marketplace import checkpoints, documents, jobs, leases, wire
from marketplace.api.asks import Ask, Reply, held_lease, reply
from marketplace.api.handlers.jobs import input_manifests
from marketplace.api.views import lease_view
from marketplace.lease_reports import HostReport, report
from marketplace.models import GenerationOrder, Job, Lease, LeaseState
from marketplace.refusals import MarketError
from marketplace.transitions import LEASE
from marketplace.wire import ErrorCode
from trust.encoding import base64url, parse_base64url
from trust.jobs import LaunchDocument, LaunchPurpose
from trust.messages import ARTIFACTS_MAX


def get_leases(session: Session, ask: Ask) -> Reply:
    """The host's leases that have not ended, oldest first."""
    states = [each for each in LeaseState if not LEASE.is_terminal(each)]
    query = (
        select(Lease)
        .where(col(Lease.host) == base64url(ask.identity), col(Lease.state).in_(states))
        .order_by(col(Lease.created_at_ms), col(Lease.id))
        .limit(wire.PAGE_ROWS_MAX)
    )
    views = tuple(lease_view(session, each) for each in session.exec(query))
    return reply(wire.LeaseList(leases=views))


def get_lease(session: Session, ask: Ask) -> Reply:
    """One lease, ended or not."""
    return reply(lease_view(session, held_lease(session, ask, ask.parts["lease"])))


def get_briefing(session: Session, ask: Ask) -> Reply:
    """What to launch, and the signed documents to brief the enclave with."""
    lease = held_lease(session, ask, ask.parts["lease"])
    if lease.generation is None:
        raise MarketError(ErrorCode.CONFLICT, f"no generation order names {lease.id} yet")
    job = session.get_one(Job, lease.job_digest)
    order = session.get_one(GenerationOrder, (job.digest, lease.generation))
    launch = LaunchDocument(
        version=1,
        purpose=LaunchPurpose.RUN,
        job=parse_base64url(job.digest),
        lease=lease.id,
        generation=lease.generation,
        rank=lease.rank,
        ranks=job.enclaves,
        market=ask.market.identity,
    )
    return reply(
        wire.LeaseBriefing(
            lease=lease_view(session, lease),
            launch=launch.encode(),
            job=job.manifest,
            order=order.document,
            terms=documents.find(session, jobs.manifest_of(job).terms).content,
            manifests=input_manifests(session, job),
            checkpoints=checkpoints.newest_manifests(session, job.digest, most=ARTIFACTS_MAX),
        )
    )


def post_state(session: Session, ask: Ask) -> Reply:
    """What its host says became of a lease."""
    body = ask.parse(wire.LeaseReport)
    lease = held_lease(session, ask, ask.parts["lease"])
    command = HostReport(
        lease=lease.id, event=body.event, reason=body.reason, host=base64url(ask.identity)
    )
    report(session, command, ask.now)
    return reply(lease_view(session, lease))


def post_renew(session: Session, ask: Ask) -> Reply:
    """The host still runs it."""
    body = ask.parse(wire.LeaseRenewal)
    lease = held_lease(session, ask, ask.parts["lease"])
    leases.renew(session, leases.RenewLease(id=lease.id, seconds=body.seconds), ask.now)
    return reply(lease_view(session, lease))
