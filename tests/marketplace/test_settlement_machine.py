"""A random life of one job: receipts dropped, repeated and late, hosts killed, disputes, crashes.

After every step the audit is empty, no step has been paid twice, and the buyer has paid no more
than what was held.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from marketplace import ledger, settlement
from marketplace.models import SettlementState
from marketplace.receipts import OldGenerationError, SupersededError, UnknownKeyError
from marketplace.settlement import SettleResult
from tests.marketplace.world import BUYER, CREDIT, HOST, NOW, World, open_store
from trust.encoding import base64url
from trust.errors import RefusedError
from trust.identity import Signed
from trust.jobs import Dispute
from trust.messages import Receipt

MINUTE = 60_000
CEILING = 30_000
TOKENS_PER_STEP = 1000
ROYALTY_PER_JOB, ROYALTY_PER_MILLION = 50_000, 2_000_000
KILLS_MAX = 8
INDEX = st.integers(min_value=0)


@dataclasses.dataclass(frozen=True)
class Issued:
    """A receipt that an enclave signed, and what was committed then."""

    signed: Signed[Receipt]
    committed: int


class CrashError(Exception):
    """The process ends here."""


class JobMachine(RuleBasedStateMachine):
    """The enclaves are honest; hosts, network and power are not."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = open_store(self.folder)
        self.now = NOW
        self.step = self.first = self.committed = self.furthest = self.milliseconds = 0
        self.kills = 0
        self.issued: list[Issued] = []
        self.last: dict[str, int] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @initialize(amount=st.sampled_from([60_000, CREDIT, 5 * CREDIT]))
    def begin(self, amount: int) -> None:
        self.amount = amount
        self.world = World.make(self.store, amount=amount, ceiling_microcredits_per_step=CEILING)
        self.lease = self.world.run()

    @rule(
        steps=st.integers(min_value=0, max_value=15),
        minutes=st.integers(min_value=0, max_value=30),
        arrives=st.booleans(),
    )
    def work(self, steps: int, minutes: int, *, arrives: bool) -> None:
        self.step += steps
        self.milliseconds += minutes * MINUTE
        self.now += minutes * MINUTE
        self.furthest = max(self.furthest, self.step)
        signed = self.world.receipt(
            self.lease,
            milliseconds=self.milliseconds,
            first_step=self.first,
            step=self.step,
            tokens=(self.step - self.first) * TOKENS_PER_STEP,
        )
        self.world.receipts[self.lease] = signed
        self.issued.append(Issued(signed=signed, committed=self.committed))
        if arrives:
            self.settle(self.issued[-1])

    @rule()
    def commit(self) -> None:
        self.committed = max(self.committed, self.step // 10 * 10)

    @precondition(lambda self: self.issued)
    @rule(index=INDEX, crash=st.booleans())
    def deliver(self, index: int, *, crash: bool) -> None:
        """Any receipt, in any order, any number of times; now and then the market dies of it."""
        self.settle(self.issued[-1 - index % len(self.issued)], crash=crash)

    def settle(self, each: Issued, *, crash: bool = False) -> None:
        command = settlement.SettleReceipt(receipt=each.signed, committed_step=each.committed)
        if crash:
            died = pytest.raises((CrashError, RefusedError))
            with died, self.store.transaction() as session:
                settlement.settle(session, command, self.now)
                raise CrashError
            return
        document = each.signed.document
        try:
            with self.store.transaction() as session:
                settled = settlement.settle(session, command, self.now)
        except OldGenerationError:
            assert document.generation < len(self.world.orders)
        except SupersededError:
            assert document.number < self.last[document.lease]
        else:
            if settled.result is not SettleResult.EXISTS:
                assert document.generation == len(self.world.orders)
            self.last[document.lease] = max(self.last.get(document.lease, 0), document.number)

    @precondition(lambda self: self.kills < KILLS_MAX)
    @rule()
    def kill(self) -> None:
        self.kills += 1
        self.world.lose(self.lease, now=self.now)
        self.step = self.first = self.committed
        self.milliseconds = 0
        captured = self.captured()
        if captured == self.amount:  # nothing left to run on
            with pytest.raises(RefusedError, match="not-funded"):
                self.world.run(now=self.now)
            self.kills = KILLS_MAX
            return
        self.lease = self.world.run(now=self.now, ends_at=self.now + 10**9)

    @precondition(lambda self: self.issued)
    @rule(index=INDEX)
    def forge(self, index: int) -> None:
        document = self.issued[index % len(self.issued)].signed.document
        inflated = HOST.sign(dataclasses.replace(document, milliseconds=1 << 52, end=None))
        command = settlement.SettleReceipt(receipt=inflated, committed_step=1 << 30)
        with pytest.raises(UnknownKeyError), self.store.transaction() as session:
            settlement.settle(session, command, self.now)

    @precondition(lambda self: self.last)
    @rule(index=INDEX, for_buyer=st.booleans())
    def dispute(self, index: int, *, for_buyer: bool) -> None:
        with self.store.transaction() as session:
            rows = settlement.settlements_of(session, self.world.job)
            row = rows[index % len(rows)]
            if row.state is not SettlementState.PENDING or row.matures_at_ms <= self.now:
                return
            receipt = next(
                each.signed.digest
                for each in self.issued
                if each.signed.document.lease == row.lease_id
                and base64url(each.signed.digest) == row.receipt_digest
            )
            order = BUYER.sign(Dispute(receipt=receipt, reason="test", at=self.now))
            settlement.dispute(session, order, self.now)
            settlement.resolve(
                session, settlement.Resolve(receipt=receipt, for_buyer=for_buyer), self.now
            )

    @rule(hours=st.integers(min_value=1, max_value=12))
    def mature(self, hours: int) -> None:
        with self.store.transaction() as session:
            settlement.mature(session, self.now + hours * 60 * MINUTE)

    def captured(self) -> int:
        with self.store.reading() as session:
            rows = settlement.settlements_of(session, self.world.job)
        return sum(row.host_amount + row.owner_amount + row.fee_amount for row in rows)

    @invariant()
    def nothing_is_paid_twice(self) -> None:
        with self.store.reading() as session:
            assert ledger.audit(session) == ()
            rows = settlement.settlements_of(session, self.world.job)
        assert self.captured() <= self.amount
        gross = sum(row.host_amount + row.fee_amount for row in rows)
        assert gross <= CEILING * self.furthest
        assert gross <= CREDIT * (self.now - NOW) // (60 * MINUTE)  # one GPU, the market's clock
        royalty = sum(row.owner_amount for row in rows)
        tokens = self.furthest * TOKENS_PER_STEP
        assert royalty <= ROYALTY_PER_JOB + ROYALTY_PER_MILLION * tokens // 1_000_000
        # The enclaves count a thousand tokens a step, so what was paid for tells the paid steps.
        assert max((row.job_tokens for row in rows), default=0) <= tokens
        paid_through = max((row.paid_through_step for row in rows), default=0)
        assert paid_through <= self.furthest
        assert [row.job_number for row in rows] == list(range(1, len(rows) + 1))


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
