"""Leases over the socket: a host can start, end and give up what it holds, and nothing else."""

from __future__ import annotations

import pytest

from marketplace import wire
from tests.marketplace.api.rig import Enclave, Rig, key16, refused
from tests.marketplace.world import BUYER, HOST, HOST_2, MARKET, OWNER
from trust.identity import verify_signed
from trust.jobs import GenerationOrder, JobManifest, LaunchDocument
from trust.messages import SignedMessage

Code, State, Event = wire.ErrorCode, wire.LeaseState, wire.LeaseEvent


def said(event: wire.LeaseEvent, reason: str = "test") -> wire.LeaseReport:
    return wire.LeaseReport(event=event, reason=reason)


async def ordered(rig: Rig) -> tuple[bytes, str]:
    job = await rig.submitted()
    lease = await rig.claimed(job)
    await rig.ordered(job, lease)
    return job.digest, lease


async def test_briefing_holds_what_an_agent_needs_and_proves_itself(rig: Rig) -> None:
    job, lease = await ordered(rig)
    found = await rig.api(HOST).get_briefing(lease)
    launch = LaunchDocument.parse(found.launch)
    assert (launch.job, launch.lease, launch.generation) == (job, lease, 1)
    assert (launch.rank, launch.ranks, launch.market) == (0, 1, MARKET.identity)
    assert verify_signed(JobManifest, found.job, signer=BUYER.identity).digest == job
    order = verify_signed(GenerationOrder, found.order, signer=BUYER.identity)
    assert order.document.leases[0].lease == lease
    assert (len(found.manifests), found.checkpoints) == (2, ())
    assert found.lease.lease == lease


async def test_nothing_is_launched_before_the_buyers_order(rig: Rig) -> None:
    job = await rig.submitted()
    lease = await rig.claimed(job)
    await refused(Code.CONFLICT, rig.api(HOST).get_briefing(lease))
    report = rig.api(HOST).report_lease(lease, said(Event.LAUNCHED), key=key16())
    await refused(Code.CONFLICT, report)
    assert await rig.lease_state(lease) is State.CLAIMED


async def test_leases_are_seen_and_reported_by_their_host_alone(rig: Rig) -> None:
    _job, lease = await ordered(rig)
    assert [each.lease for each in await rig.api(HOST).get_leases()] == [lease]
    assert await rig.api(HOST_2).get_leases() == ()
    for other in (HOST_2, BUYER, OWNER, MARKET):
        api = rig.api(other)
        await refused(Code.NOT_FOUND, api.get_lease(lease))
        await refused(Code.NOT_FOUND, api.get_briefing(lease))
        await refused(Code.NOT_FOUND, api.report_lease(lease, said(Event.FAILED), key=key16()))
        await refused(Code.NOT_FOUND, api.renew_lease(lease, seconds=60))
    assert await rig.lease_state(lease) is State.CLAIMED


async def test_host_cannot_say_ready(rig: Rig) -> None:
    """▸ Ready comes from evidence: the wire has no word for it, and no report leads there."""
    _job, lease = await ordered(rig)
    target = wire.target(wire.LEASE_STATE, lease=lease)
    for word in ("ready", "READY", "draining", "closed"):
        body = b'{"event":"%s","reason":"x"}' % word.encode()
        sent = await rig.send("POST", target, body, key=HOST, idempotency=key16())
        sent.expect(Code.MALFORMED)
    for _ in range(3):
        await rig.api(HOST).report_lease(lease, said(Event.LAUNCHED), key=key16())
    view = await rig.api(HOST).get_lease(lease)
    assert (view.state, view.ready_at) == (State.ATTESTING, None)


@pytest.mark.parametrize(
    ("before", "event", "after"),
    [
        ("claimed", Event.FAILED, State.PROVISION_FAILED),
        ("claimed", Event.ENDED, State.PROVISION_FAILED),
        ("launched", Event.FAILED, State.ATTEST_FAILED),
        ("ready", Event.ENDED, State.DRAINING),
        ("ready", Event.FAILED, State.HOST_LOST),
    ],
)
async def test_what_a_host_gives_up(
    rig: Rig, before: str, event: wire.LeaseEvent, after: wire.LeaseState
) -> None:
    if before == "ready":
        lease = (await rig.running()).lease
    else:
        _job, lease = await ordered(rig)
    if before == "launched":
        await rig.api(HOST).report_lease(lease, said(Event.LAUNCHED), key=key16())
    view = await rig.api(HOST).report_lease(lease, said(event), key=key16())
    assert view.state is after
    again = await rig.api(HOST).report_lease(lease, said(event), key=key16())
    assert again.state is after


async def test_machine_that_fails_after_the_last_receipt_has_lost_nothing(rig: Rig) -> None:
    enclave = await rig.running()
    await enclave.send_receipt(enclave.receipt(end="done"))
    view = await rig.api(HOST).report_lease(enclave.lease, said(Event.FAILED), key=key16())
    assert view.state is State.READY  # the scheduler drains it: its run has ended
    await rig.api(HOST).report_lease(enclave.lease, said(Event.ENDED), key=key16())
    assert await rig.lease_state(enclave.lease) is State.DRAINING


async def test_renewal_is_bounded_and_a_lease_that_has_ended_has_none(rig: Rig) -> None:
    enclave = await rig.running()
    view = await rig.api(HOST).renew_lease(enclave.lease, seconds=wire.RENEW_SECONDS_MAX)
    assert view.deadline == rig.time[0] + wire.RENEW_SECONDS_MAX * 1000
    target = wire.target(wire.LEASE_RENEW, lease=enclave.lease)
    for seconds in (0, wire.RENEW_SECONDS_MAX + 1):
        sent = await rig.send("POST", target, b'{"seconds":%d}' % seconds, key=HOST)
        sent.expect(Code.MALFORMED)
    await rig.api(HOST).report_lease(enclave.lease, said(Event.FAILED), key=key16())
    await refused(Code.CONFLICT, rig.api(HOST).renew_lease(enclave.lease, seconds=60))


# --- checkpoints in the next briefing ------------------------------------------------------------


async def report(enclave: Enclave, step: int, **changes: object) -> bytes:
    signed = enclave.checkpoint(step, **changes)
    await enclave.post(SignedMessage(signed=signed.encode()).encode(), box=OWNER.identity)
    return signed.document.manifest


async def test_reported_checkpoints_are_briefed_newest_first(rig: Rig) -> None:
    enclave = await rig.running()
    manifests = [await report(enclave, step) for step in (10, 30, 20)]
    found = await rig.api(HOST).get_briefing(enclave.lease)
    assert list(found.checkpoints) == [manifests[1], manifests[2], manifests[0]]
    assert len(await rig.api(OWNER).get_messages(OWNER.identity, after=0)) == 3


async def test_hosts_own_reports_never_displace_the_metered_enclaves(rig: Rig) -> None:
    """▸ A host floods the briefing with checkpoints of its own key: the real one stays first."""
    enclave = await rig.running()
    real = await report(enclave, 10)
    for step in range(1000, 1020):
        await report(enclave, step, signer=HOST)
    found = await rig.api(HOST).get_briefing(enclave.lease)
    assert found.checkpoints[0] == real
    assert len(found.checkpoints) == 16


async def test_report_of_another_job_or_generation_is_carried_and_not_kept(rig: Rig) -> None:
    enclave = await rig.running()
    for change in ({"job": bytes(32)}, {"generation": 2}, {"rank": 1}, {"manifest": b"x"}):
        await report(enclave, 10, **change)
    assert (await rig.api(HOST).get_briefing(enclave.lease)).checkpoints == ()
    assert len(await rig.api(OWNER).get_messages(OWNER.identity, after=0)) == 4


async def test_report_that_comes_from_no_lease_is_not_kept(rig: Rig) -> None:
    enclave = await rig.running()
    signed = enclave.checkpoint(10)
    payload = SignedMessage(signed=signed.encode()).encode()
    await rig.api(HOST_2).post_message(OWNER.identity, payload, message=key16())
    assert (await rig.api(HOST).get_briefing(enclave.lease)).checkpoints == ()
