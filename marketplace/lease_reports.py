"""What a host's word is worth: it can give a lease up, and say that it has started. No more.

| says | lease is | becomes |
|---|---|---|
| launched | claimed (ordered), provisioning | attesting |
| ended | ready | draining: its last receipt may be on its way |
| ended, failed | claimed, provisioning | provision_failed |
| ended, failed | attesting | attest_failed |
| failed | ready; draining before its last receipt | host_lost |

Whatever else it says changes nothing: a report may come twice, late, or after the market knew.
*Ready* comes from evidence, and money from receipts, whatever a host says.
"""

from __future__ import annotations

import dataclasses

from sqlmodel import Session

from marketplace.leases import MoveLease, find_lease, has_ended_by_receipt, move_lease
from marketplace.models import Lease, LeaseState
from marketplace.wire import LeaseEvent

_FAILS_TO = {
    LeaseState.CLAIMED: LeaseState.PROVISION_FAILED,
    LeaseState.PROVISIONING: LeaseState.PROVISION_FAILED,
    LeaseState.ATTESTING: LeaseState.ATTEST_FAILED,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HostReport:
    """What the host of a lease says of it."""

    lease: str
    event: LeaseEvent
    reason: str
    host: str
    """As the tables have it; that it holds the lease is checked already."""


def report(session: Session, command: HostReport, now: int) -> None:
    """Move a lease as the table says. Raises RefusedError (*no-generation*) if none is ordered."""
    lease = find_lease(session, command.lease)
    if command.event is LeaseEvent.LAUNCHED:
        advance(session, lease, actor=command.host, reason="launched, says its host", now=now)
        return
    to = _FAILS_TO.get(lease.state)
    if to is None:
        to = _after_ready(session, lease, command.event)
    if to is not None:
        reason = f"{command.event.value}, says its host: {command.reason}"
        _move(session, lease, to, actor=command.host, reason=reason, now=now)


def advance(session: Session, lease: Lease, *, actor: str, reason: str, now: int) -> None:
    """Move an ordered lease on until it waits for evidence; a later state stays as it is."""
    for state, to in (
        (LeaseState.CLAIMED, LeaseState.PROVISIONING),
        (LeaseState.PROVISIONING, LeaseState.ATTESTING),
    ):
        if lease.state is state:
            _move(session, lease, to, actor=actor, reason=reason, now=now)


def _after_ready(session: Session, lease: Lease, event: LeaseEvent) -> LeaseState | None:
    if lease.state is LeaseState.READY and event is LeaseEvent.ENDED:
        return LeaseState.DRAINING
    if lease.state not in {LeaseState.READY, LeaseState.DRAINING} or event is LeaseEvent.ENDED:
        return None
    if has_ended_by_receipt(session, lease):
        return None  # what happens to the machine after its last receipt is nobody's loss
    return LeaseState.HOST_LOST


def _move(
    session: Session, lease: Lease, to: LeaseState, *, actor: str, reason: str, now: int
) -> None:
    command = MoveLease(id=lease.id, version=lease.version, to=to, actor=actor, reason=reason[:200])
    move_lease(session, command, now)
