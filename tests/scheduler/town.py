"""Everybody around the scheduler, played by marketplace's own functions on the same database.

Brokers say ready, the buyer orders generations, hosts launch, renew and send receipts. Nobody here
decides what the scheduler decides. A host that is `dead` does and says nothing; one that is
`starving` its enclave says that it is there, and no more.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Self

from sqlmodel import Session, col, select

from marketplace import documents, jobs, lease_reports, leases, presence, settlement
from marketplace.models import GenerationOrder, Job, JobState, Lease, LeaseState, Order, Transition
from marketplace.store import Store
from marketplace.wire import LeaseEvent
from tests.marketplace import world
from tests.marketplace.world import BUYER, HOST, HOST_2, MARKET, OWNER, World, enclave
from trust import jobs as signed_documents
from trust.artifacts import ArtifactKind, Core, Custodian, Manifest
from trust.encoding import base64url, parse_base64url
from trust.identity import PartyKey
from trust.messages import End, Purpose, Receipt, Statement

NOW = world.NOW
TICK = 20_000
STEPS = 100
STEPS_PER_TICK = 30
NAMES = {base64url(HOST.identity): "first", base64url(HOST_2.identity): "second"}


class CrashError(Exception):
    """The scheduler's process dies here."""


class FaultyStore(Store):
    """A store whose user dies at chosen writes: before the commit, or right after it."""

    def __init__(self, engine: object, crash_before: set[int], crash_after: set[int]) -> None:
        super().__init__(engine)  # type: ignore[arg-type]
        self.before, self.after, self.writes = crash_before, crash_after, 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        self.writes += 1
        number = self.writes
        with super().transaction() as session:
            yield session
            if number in self.before:
                raise CrashError
        if number in self.after:
            raise CrashError


def input_manifest(kind: ArtifactKind, owner: PartyKey) -> Manifest:
    lineage = b"s" + owner.identity
    custodian = Custodian(identity=owner.identity, lineage=lineage, epoch=0)
    core = Core(kind=kind, seal_id=owner.identity, custodians=(custodian,), origin=None)
    return Manifest(
        core=core,
        padded_bytes=1 << 16,
        segments=1,
        segment_list=bytes(32),
        commitment=bytes(32),
        public_files=(),
    )


@dataclasses.dataclass
class Town:
    """One job and two hosts."""

    store: Store
    job: bytes
    order: str
    now: int = NOW
    dead: set[str] = dataclasses.field(default_factory=set)
    """Names of hosts that are gone."""
    starving: set[str] = dataclasses.field(default_factory=set)
    """Names of hosts that renew their leases, and carry no message of an enclave's."""
    stopping: set[str] = dataclasses.field(default_factory=set)
    """Names of hosts whose enclaves say at once that their run was stopped."""
    brokers: set[PartyKey] = dataclasses.field(default_factory=lambda: {BUYER, OWNER})
    """Who answers."""
    buyer_orders: bool = True
    receipts: dict[str, Receipt] = dataclasses.field(default_factory=dict)

    @classmethod
    def make(cls, store: Store, *, hosts: int = 2, serves: bool = False, **changes: object) -> Self:
        with store.transaction() as session:
            inputs = []
            for role, kind, party in (
                (signed_documents.InputRole.MODEL, ArtifactKind.WEIGHTS, OWNER),
                (signed_documents.InputRole.DATASET, ArtifactKind.DATASET, BUYER),
            )[: 1 if serves else 2]:
                signed = party.sign(input_manifest(kind, party))
                found = documents.verify_document(signed.encode(), posted_by=party.identity)
                documents.register(session, found, NOW)
                inputs.append(signed_documents.Input(role=role, artifact=signed.digest))
            for number, host in enumerate((HOST, HOST_2)[:hosts]):
                world.list_offer(session, host, ask=world.CREDIT + number)
        named = {"inputs": tuple(inputs)}
        made = World.make(store, **(world.serving(**named) if serves else named) | changes)
        return cls(store=store, job=made.job, order=made.order)

    # --- what everybody does in one tick --------------------------------------------------------

    def tick(self) -> None:
        self.now += TICK
        self._brokers()
        self._buyer()
        self._hosts()

    def _brokers(self) -> None:
        with self.store.transaction() as session:
            for party in sorted(self.brokers, key=lambda each: each.identity):
                ready = signed_documents.Ready(custodian=party.identity, job=self.job, at=self.now)
                presence.accept_ready(session, party.sign(ready), self.now)

    def _buyer(self) -> None:
        with self.store.transaction() as session:
            job = jobs.find_job(session, self.job)
            if job.state is not JobState.PLACED or not self.buyer_orders:
                return
            named = [
                each
                for each in leases.leases_of(session, self.job)
                if each.state is LeaseState.CLAIMED and each.generation is None
            ]
            past = jobs.generation_orders(session, self.job)
            order = signed_documents.GenerationOrder(
                job=self.job,
                number=job.generation + 1,
                leases=tuple(
                    signed_documents.RankLease(rank=each.rank, lease=each.id)
                    for each in sorted(named, key=lambda each: each.rank)
                ),
                expires_at=self.now + world.HOUR,
                before=parse_base64url(past[-1].digest) if past else None,
            )
            jobs.accept_generation(session, BUYER.sign(order), self.now)

    def _hosts(self) -> None:
        with self.store.reading() as session:
            held = leases.leases_of(session, self.job)
        for lease in held:
            if NAMES[lease.host] not in self.dead:
                self._host(lease)

    def _host(self, lease: Lease) -> None:
        with self.store.transaction() as session:
            if lease.state in leases.LIVE and (lease.deadline_ms or 0) > self.now:
                renewal = leases.RenewLease(id=lease.id, seconds=120)
                leases.renew(session, renewal, self.now)
            if lease.state is LeaseState.PROVISIONING:
                said = lease_reports.HostReport(
                    lease=lease.id, event=LeaseEvent.LAUNCHED, reason="test", host=lease.host
                )
                lease_reports.report(session, said, self.now)
            elif lease.state is LeaseState.ATTESTING:
                command = leases.AttestLease(
                    statement=self._statement(lease), market=MARKET.identity
                )
                leases.attest(session, command, self.now)
            elif lease.state is LeaseState.READY and NAMES[lease.host] not in self.starving:
                self._work(session, lease)

    def _work(self, session: Session, lease: Lease) -> None:
        last = self.receipts.get(lease.id)
        if last is not None and last.end is not None:
            return
        if NAMES[lease.host] in self.stopping:
            self.send(session, lease, tokens=0, end=End.STOPPED)
            return
        step = min(STEPS, (0 if last is None else last.step) + STEPS_PER_TICK)
        self.send(
            session,
            lease,
            step=step,
            tokens=step * 1024,
            end=End.DONE if step == STEPS else None,
            outputs=(bytes(32),) if step == STEPS else (),
        )

    def send(self, session: Session, lease: Lease, **counts: object) -> None:
        """The next receipt of a lease settles."""
        last = self.receipts.get(lease.id)
        values = {"step": 0, "end": None, "outputs": ()} | counts
        receipt = Receipt(
            job=self.job,
            lease=lease.id,
            generation=lease.generation or 0,
            rank=lease.rank,
            number=1 if last is None else last.number + 1,
            before=None if last is None else last.digest,
            milliseconds=self.now - (lease.ready_at_ms or 0),
            first_step=0,
            committed=None,
            world_size=2,
            compute_class="cpu/x86",
            same_class=True,
            **values,
        )
        command = settlement.SettleReceipt(
            receipt=enclave(lease.id).sign(receipt), committed_step=None
        )
        settlement.settle(session, command, self.now)
        self.receipts[lease.id] = receipt

    def _statement(self, lease: Lease) -> Statement:
        return Statement(
            version=1,
            purpose=Purpose.METER,
            verifier=MARKET.identity,
            nonce=bytes(32),
            hpke_key=bytes(1216),
            signing_key=enclave(lease.id).identity,
            job=self.job,
            lease=lease.id,
            generation=lease.generation or 0,
            rank=lease.rank,
            ranks=1,
            launch=bytes(32),
            gpu_evidence=None,
        )

    # --- looking --------------------------------------------------------------------------------

    def state(self) -> JobState:
        with self.store.reading() as session:
            return jobs.find_job(session, self.job).state

    def waiting_for(self) -> str | None:
        with self.store.reading() as session:
            return jobs.find_job(session, self.job).waiting_for

    def leases(self) -> list[Lease]:
        with self.store.reading() as session:
            return list(leases.leases_of(session, self.job))

    def at_rest(self) -> bool:
        """The job has ended and holds no machine."""
        ended = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXHAUSTED}
        return self.state() in ended and all(each.deadline_ms is None for each in self.leases())

    def history(self) -> list[tuple[str, ...]]:
        """Every transition of every subject, without its time: what happened, in which order."""
        with self.store.reading() as session:
            rows = session.exec(
                select(Transition).order_by(col(Transition.subject_id), col(Transition.number))
            ).all()
            money = [
                (order.id, str(order.state), str(session.get_one(Job, order.job_digest).state))
                for order in session.exec(select(Order)).all()
            ]
            orders = session.exec(select(GenerationOrder)).all()
            found = [
                (row.subject_id, str(row.from_state), row.to_state, row.actor, row.reason)
                for row in rows
            ]
            return found + money + [(each.job_digest, str(each.number)) for each in orders]
