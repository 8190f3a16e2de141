"""The reconciler's decision table: each row is named, and each rule has one."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.models import JobState, LeaseState, OrderState
from marketplace.transitions import JOB, LEASE
from scheduler.decisions import (
    DRAIN_MILLISECONDS,
    MoveJob,
    MoveLease,
    Rule,
    SayWaiting,
    away,
    decide,
    say_waiting,
    wants_machines,
)
from scheduler.snapshots import CustodianSnapshot, JobSnapshot, LeaseSnapshot, OrderSnapshot
from trust.messages import End

NOW = 1_000_000
L, J = LeaseState, JobState


def lease(state: LeaseState, **changes: object) -> LeaseSnapshot:
    plain = LeaseSnapshot(
        lease="leas_0",
        version=7,
        state=state,
        rank=0,
        generation=1,
        since=NOW,
        deadline=None if LEASE.is_terminal(state) else NOW + 1,
        end=None,
        paid_until=None,
    )
    return dataclasses.replace(plain, **changes)


def custodian(role: str = "the buyer", ready_at: int | None = NOW) -> CustodianSnapshot:
    return CustodianSnapshot(custodian=role[-5:], role=role, ready_at=ready_at)


def job(state: JobState, *leases: LeaseSnapshot, **changes: object) -> JobSnapshot:
    plain = JobSnapshot(
        job="digest",
        version=3,
        state=state,
        generation=1,
        generations_max=5,
        enclaves=1,
        serves=False,
        deadline=None if JOB.is_terminal(state) else NOW + 1,
        waiting_for=None,
        order=OrderSnapshot(order="ordr_0", version=2, state=OrderState.OPEN, funded=True),
        leases=leases,
        custodians=(custodian(), custodian("the model owner")),
    )
    return dataclasses.replace(plain, **changes)


def two(first: LeaseSnapshot, second: LeaseSnapshot) -> tuple[LeaseSnapshot, ...]:
    return first, dataclasses.replace(second, lease="leas_1", rank=1)


ORDER = job(J.QUEUED).order
assert ORDER is not None

ROWS = {
    # --- time ----------------------------------------------------------------------------------
    "an expired manifest fails its job": (
        job(J.RUNNING, lease(L.READY), deadline=NOW),
        (Rule.JOB_EXPIRED, J.FAILED),
    ),
    "a reserved lease without its generation order goes back, and is nobody's fault": (
        job(J.PLACED, lease(L.CLAIMED, generation=None, deadline=NOW), generation=0),
        (Rule.LEASE_OVERDUE, L.CLOSED),
    ),
    "a host that does not launch has failed": (
        job(J.STARTING, lease(L.PROVISIONING, deadline=NOW)),
        (Rule.LEASE_OVERDUE, L.PROVISION_FAILED),
    ),
    "an enclave without evidence has failed": (
        job(J.STARTING, lease(L.ATTESTING, deadline=NOW)),
        (Rule.LEASE_OVERDUE, L.ATTEST_FAILED),
    ),
    "a host that is silent beyond its deadline is lost": (
        job(J.RUNNING, lease(L.READY, deadline=NOW)),
        (Rule.LEASE_OVERDUE, L.HOST_LOST),
    ),
    "a host one millisecond before its deadline is not": (job(J.RUNNING, lease(L.READY)), None),
    "a host that is silent while it drains is lost": (
        job(J.RUNNING, lease(L.DRAINING, deadline=NOW)),
        (Rule.LEASE_OVERDUE, L.HOST_LOST),
    ),
    "a host that has said its end is not lost but drained": (
        job(J.RUNNING, lease(L.DRAINING, deadline=NOW, end=End.STOPPED)),
        (Rule.LEASE_OVERDUE, L.CLOSED),
    ),
    "a host whose buyer left is not lost but drained": (
        job(J.CANCELLED, lease(L.DRAINING, deadline=NOW)),
        (Rule.LEASE_OVERDUE, L.CLOSED),
    ),
    "a lost lease whose last receipt may come waits": (job(J.QUEUED, lease(L.HOST_LOST)), None),
    "a lost lease is closed when its wait is over": (
        job(J.QUEUED, lease(L.HOST_LOST, deadline=NOW)),
        (Rule.LEASE_OVERDUE, L.CLOSED),
    ),
    "a lost lease of an older generation has nothing to wait for": (
        job(J.RUNNING, lease(L.HOST_LOST), lease(L.READY, generation=2), generation=2),
        (Rule.LEASE_OUTDATED, L.CLOSED),
    ),
    # --- a generation --------------------------------------------------------------------------
    "a placed job waits for its buyer's generation order": (
        job(J.PLACED, lease(L.CLAIMED, generation=None), generation=0),
        (Rule.BUYER_MUST_ORDER, "generation order 1 of the buyer"),
    ),
    "a placed job that says so waits in silence": (
        job(
            J.PLACED,
            lease(L.CLAIMED, generation=None),
            generation=0,
            waiting_for="generation order 1 of the buyer",
        ),
        None,
    ),
    "the lease opens once the buyer's order is there": (
        job(J.STARTING, lease(L.CLAIMED)),
        (Rule.GENERATION_ORDERED, L.PROVISIONING),
    ),
    "a starting enclave is waited for": (job(J.STARTING, lease(L.ATTESTING)), None),
    "a lost host puts the job back in the queue": (
        job(J.RUNNING, lease(L.HOST_LOST)),
        (Rule.RANK_IS_GONE, J.QUEUED),
    ),
    "a host that did not launch puts the job back in the queue": (
        job(J.STARTING, lease(L.PROVISION_FAILED)),
        (Rule.RANK_IS_GONE, J.QUEUED),
    ),
    "a reserved machine that is gone puts the job back in the queue": (
        job(J.PLACED, lease(L.CLOSED, end=End.DONE)),
        (Rule.RANK_IS_GONE, J.QUEUED),
    ),
    "ranks of a run that lost one are drained": (
        job(J.RUNNING, *two(lease(L.HOST_LOST), lease(L.READY)), enclaves=2),
        (Rule.RANK_IS_GONE, L.DRAINING),
    ),
    "ranks that are not metered yet are let go at once": (
        job(J.STARTING, *two(lease(L.PROVISION_FAILED), lease(L.ATTESTING)), enclaves=2),
        (Rule.RANK_IS_GONE, L.CLOSED),
    ),
    "a job waits for its draining ranks before it is queued": (
        job(J.RUNNING, *two(lease(L.HOST_LOST), lease(L.DRAINING)), enclaves=2),
        None,
    ),
    "a rank that is done is not a rank that is gone": (
        job(J.RUNNING, *two(lease(L.CLOSED, end=End.DONE), lease(L.READY)), enclaves=2),
        None,
    ),
    # --- an end --------------------------------------------------------------------------------
    "an enclave that said its end drains": (
        job(J.RUNNING, lease(L.READY, end=End.DONE)),
        (Rule.RUN_REPORTED_ITS_END, L.DRAINING),
    ),
    "a drained lease is closed": (
        job(J.SUCCEEDED, lease(L.DRAINING, end=End.DONE, since=NOW - DRAIN_MILLISECONDS)),
        (Rule.RUN_REPORTED_ITS_END, L.CLOSED),
    ),
    "a draining enclave may close its accounts first": (
        job(J.SUCCEEDED, lease(L.DRAINING, end=End.DONE, since=NOW - DRAIN_MILLISECONDS + 1)),
        None,
    ),
    "a job whose every enclave is done has succeeded": (
        job(J.RUNNING, lease(L.DRAINING, end=End.DONE)),
        (Rule.RUN_IS_OVER, J.SUCCEEDED),
    ),
    "one enclave that is done of two is not enough": (
        job(J.RUNNING, *two(lease(L.DRAINING, end=End.DONE), lease(L.READY)), enclaves=2),
        None,
    ),
    "an end of an older generation is no end of the job": (
        job(J.RUNNING, lease(L.CLOSED, end=End.FAILED), lease(L.READY, generation=2), generation=2),
        None,
    ),
    "a failed run fails its job": (
        job(J.RUNNING, lease(L.DRAINING, end=End.FAILED)),
        (Rule.RUN_IS_OVER, J.FAILED),
    ),
    "a refused run fails its job": (
        job(J.STARTING, lease(L.CLOSED, end=End.REFUSED)),
        (Rule.RUN_IS_OVER, J.FAILED),
    ),
    "a run out of budget exhausts its job": (
        job(J.RUNNING, lease(L.DRAINING, end=End.OUT_OF_BUDGET)),
        (Rule.RUN_IS_OVER, J.EXHAUSTED),
    ),
    "a stopped run goes on elsewhere": (
        job(J.RUNNING, lease(L.CLOSED, end=End.STOPPED)),
        (Rule.RANK_IS_GONE, J.QUEUED),
    ),
    "a run that ended without a last receipt is its host's loss": (
        job(J.RUNNING, lease(L.DRAINING, since=NOW - 60_000)),
        (Rule.NO_LAST_RECEIPT, L.HOST_LOST),
    ),
    "a last receipt may be on its way": (
        job(J.RUNNING, lease(L.DRAINING, since=NOW - 59_999)),
        None,
    ),
    "a run that the loss of another rank ended is not its host's loss": (
        job(
            J.RUNNING,
            *two(lease(L.HOST_LOST), lease(L.DRAINING, since=NOW - 60_000)),
            enclaves=2,
        ),
        (Rule.NO_LAST_RECEIPT, L.CLOSED),
    ),
    "a run that its buyer ended is not its host's loss": (
        job(J.CANCELLED, lease(L.DRAINING, since=NOW - 60_000)),
        (Rule.NO_LAST_RECEIPT, L.CLOSED),
    ),
    "a machine of an ended job drains if it is metered": (
        job(J.CANCELLED, lease(L.READY)),
        (Rule.LEASE_OF_ENDED_JOB, L.DRAINING),
    ),
    "a machine of an ended job goes back at once if it is not": (
        job(J.CANCELLED, lease(L.PROVISIONING)),
        (Rule.LEASE_OF_ENDED_JOB, L.CLOSED),
    ),
    "an ended job without machines is left alone": (job(J.FAILED, lease(L.CLOSED)), None),
    # --- the queue -----------------------------------------------------------------------------
    "an ended order ends its job": (
        job(J.QUEUED, order=dataclasses.replace(ORDER, state=OrderState.EXPIRED)),
        (Rule.MONEY_ENDED, J.EXHAUSTED),
    ),
    "a hold that is used up ends its job": (
        job(J.QUEUED, order=dataclasses.replace(ORDER, funded=False)),
        (Rule.MONEY_ENDED, J.EXHAUSTED),
    ),
    "a training run goes to its last step whatever its hold has left": (
        job(J.RUNNING, lease(L.READY), order=dataclasses.replace(ORDER, funded=False)),
        None,
    ),
    "a serving run whose hold is used up is over": (
        job(J.RUNNING, lease(L.READY), order=dataclasses.replace(ORDER, funded=False), serves=True),
        (Rule.MONEY_ENDED, J.EXHAUSTED),
    ),
    "a serving run whose hold pays for no more time is over": (
        job(J.RUNNING, lease(L.READY, paid_until=NOW), serves=True),
        (Rule.MONEY_ENDED, J.EXHAUSTED),
    ),
    "a serving run is paid for until then": (
        job(J.RUNNING, lease(L.READY, paid_until=NOW + 1), serves=True),
        None,
    ),
    "a serving run that said its end ends as it said, whatever is left": (
        job(
            J.RUNNING,
            lease(L.DRAINING, end=End.DONE),
            order=dataclasses.replace(ORDER, funded=False),
            serves=True,
        ),
        (Rule.RUN_IS_OVER, J.SUCCEEDED),
    ),
    "the last generation is the last": (
        job(J.QUEUED, generation=5),
        (Rule.GENERATIONS_USED_UP, J.EXHAUSTED),
    ),
    "a job waits for a broker that is offline, and says for whom": (
        job(J.QUEUED, custodians=(custodian(), custodian("the model owner", None))),
        (Rule.CUSTODIAN_IS_AWAY, "key broker of the model owner owner"),
    ),
    "ready within the last minute is ready": (
        job(J.QUEUED, custodians=(custodian(ready_at=NOW - 60_000 + 1),)),
        None,
    ),
    "ready a minute ago is not": (
        job(J.QUEUED, custodians=(custodian(ready_at=NOW - 60_000),)),
        (Rule.CUSTODIAN_IS_AWAY, "key broker of the buyer buyer"),
    ),
    "a job that is already waiting says it once": (
        job(
            J.QUEUED,
            custodians=(custodian(ready_at=None),),
            waiting_for="key broker of the buyer buyer",
        ),
        None,
    ),
    "a queued job whose brokers are there is the matcher's": (job(J.QUEUED), None),
}


@pytest.mark.parametrize("name", ROWS)
def test_decision(name: str) -> None:
    snapshot, wanted = ROWS[name]
    found = decide(snapshot, NOW)
    if wanted is None:
        assert found is None
        return
    rule, to = wanted
    assert found is not None
    assert found.rule is rule
    match found.action:
        case SayWaiting(job=of, version=version, text=text):
            assert (of, version, text) == ("digest", 3, to)
        case MoveJob(job=of, version=version, to=state):
            assert (of, version, state) == ("digest", 3, to)
        case MoveLease(version=version, to=state):
            assert (version, state) == (7, to)


def test_every_rule_has_a_row() -> None:
    assert {row[0] for _, row in ROWS.values() if row is not None} == set(Rule)


def test_a_matcher_takes_a_job_only_when_nothing_else_is_to_be_done() -> None:
    assert wants_machines(job(J.QUEUED), NOW)
    assert not wants_machines(job(J.RUNNING, lease(L.READY)), NOW)
    assert not wants_machines(job(J.QUEUED, order=None), NOW)
    assert not wants_machines(job(J.QUEUED, custodians=()), NOW)
    assert not wants_machines(job(J.QUEUED, generation=5), NOW)
    assert not wants_machines(job(J.QUEUED, lease(L.DRAINING)), NOW)
    offline = job(
        J.QUEUED,
        custodians=(custodian(ready_at=None),),
        waiting_for="key broker of the buyer buyer",
    )
    assert decide(offline, NOW) is None  # it has said so; it still waits
    assert not wants_machines(offline, NOW)


def test_what_a_job_waits_for_fits_its_column() -> None:
    said = say_waiting(job(J.QUEUED), "x" * 1000)
    assert said is not None
    assert said.text == "x" * 256


# --- over any job --------------------------------------------------------------------------------

any_lease = st.builds(
    lease,
    st.sampled_from(L),
    lease=st.sampled_from([f"leas_{n}" for n in range(6)]),
    rank=st.integers(0, 1),
    generation=st.none() | st.integers(1, 2),
    since=st.sampled_from((NOW - 60_000, NOW - DRAIN_MILLISECONDS, NOW)),
    end=st.none() | st.sampled_from(End),
)
any_job = st.builds(
    lambda leases, late, state, **rest: job(
        state,
        *(
            dataclasses.replace(each, deadline=NOW if late else each.deadline)
            if each.deadline is not None
            else each
            for each in leases
        ),
        **rest,
    ),
    st.lists(any_lease, max_size=5, unique_by=lambda each: each.lease),
    st.booleans(),
    st.sampled_from(J),
    generation=st.integers(0, 2),
    generations_max=st.integers(2, 3),
    enclaves=st.integers(1, 2),
    custodians=st.lists(st.builds(custodian, ready_at=st.none() | st.just(NOW)), max_size=1).map(
        tuple
    ),
)


def _apply(snapshot: JobSnapshot, action: object) -> JobSnapshot:
    """What the database would say after the action, checked against the state machines."""
    match action:
        case SayWaiting(text=text):
            return dataclasses.replace(snapshot, waiting_for=text, version=snapshot.version + 1)
        case MoveJob(to=to):
            assert to in JOB.moves[snapshot.state]
            deadline = None if JOB.is_terminal(to) else NOW + 1
            return dataclasses.replace(
                snapshot, state=to, deadline=deadline, version=snapshot.version + 1
            )
        case MoveLease(lease=name, to=to):
            rows = []
            for each in snapshot.leases:
                moved = each
                if each.lease == name:
                    assert to in LEASE.moves[each.state]
                    deadline = None if LEASE.is_terminal(to) else NOW + 1
                    moved = dataclasses.replace(each, state=to, since=NOW, deadline=deadline)
                rows.append(moved)
            return dataclasses.replace(snapshot, leases=tuple(rows))
    raise AssertionError(action)


@given(any_job)
@settings(max_examples=500)
def test_only_listed_moves_are_decided_and_decisions_come_to_rest(snapshot: JobSnapshot) -> None:
    for _ in range(30):
        found = decide(snapshot, NOW)
        if found is None:
            break
        snapshot = _apply(snapshot, found.action)
    assert decide(snapshot, NOW) is None
    if JOB.is_terminal(snapshot.state):
        assert all(each.state is L.DRAINING for each in snapshot.live)
    assert wants_machines(snapshot, NOW) is (
        snapshot.state is J.QUEUED
        and not snapshot.live
        and bool(snapshot.custodians)
        and not away(snapshot, NOW)
    )
