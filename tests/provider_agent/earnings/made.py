"""A lease, its enclave's receipts, and a market that settles them by its own code."""

import dataclasses

from marketplace.metering import Posted, Rates, Reading, billable
from marketplace.models import Meter
from marketplace.wire import LeaseState, LeaseView, SettlementState
from marketplace.wire_hosts import HostLease, HostSettlement, JobMeter, PastMatch
from provider_agent.earnings.book import KeptReceipt
from provider_agent.earnings.lines import Line, Statement
from provider_agent.earnings.statement import Accounts, make_statement
from trust.identity import PartyKey, Signed
from trust.messages import End, Receipt

DAY = 86_400_000
HOUR = 3_600_000
MINUTE = 60_000
CREDIT = 1_000_000
START = 1_800_000_000_000 // DAY * DAY  # a midnight
ENCLAVE, OTHER = PartyKey.from_bytes(b"\x01" * 32), PartyKey.from_bytes(b"\x02" * 32)
JOB = b"\x0a" * 32
DISPUTE_MS = 24 * HOUR


def lease_name(number: int = 1) -> str:
    return f"leas_{number:026d}"


def offer_name(number: int = 1) -> str:
    return f"offr_{number:026d}"


def host_lease(number: int = 1, **changes: object) -> HostLease:
    """A training lease at 1 credit an hour, fee 10 %, ready a minute after it was opened."""
    values = {
        "lease": lease_name(number),
        "offer": offer_name(),
        "offer_terms_number": 3,
        "job": JOB,
        "rank": 0,
        "generation": 1,
        "state": LeaseState.CLOSED,
        "reason": "done",
        "price_microcredits_per_gpu_hour": CREDIT,
        "gpus": 1,
        "meter": JobMeter.STEPS,
        "ceiling": CREDIT,
        "checkpoint_steps": 10,
        "royalty_per_job": 50_000,
        "royalty_per_million_tokens": 2 * CREDIT,
        "fee_ppm": 100_000,
        "signing_key": ENCLAVE.identity,
        "opened_at": START + HOUR,
        "ready_at": START + HOUR + MINUTE,
        "metered_until": START + 3 * HOUR,
        "ended_at": START + 3 * HOUR + MINUTE,
    }
    return HostLease(**values | changes)


def lease_view(number: int = 1, **changes: object) -> LeaseView:
    values = {
        "lease": lease_name(number),
        "offer": offer_name(),
        "job": JOB,
        "rank": 0,
        "ranks": 1,
        "generation": 1,
        "host": b"\x11" * 32,
        "price_microcredits_per_gpu_hour": CREDIT,
        "gpus": 1,
        "state": LeaseState.CLAIMED,
        "version": 1,
        "ready_at": None,
        "deadline": None,
    }
    return LeaseView(**values | changes)


def receipt(
    number: int = 1,
    *,
    before: bytes | None = None,
    lease: int = 1,
    signer: PartyKey = ENCLAVE,
    **changes: object,
) -> Signed[Receipt]:
    values = {
        "job": JOB,
        "lease": lease_name(lease),
        "generation": 1,
        "rank": 0,
        "number": number,
        "before": before,
        "milliseconds": number * 30 * MINUTE,
        "first_step": 0,
        "step": number * 10,
        "tokens": number * 100_000,
        "committed": None,
        "world_size": 1,
        "compute_class": "cpu",
        "same_class": True,
        "end": None,
        "outputs": (),
    }
    return signer.sign(Receipt(**values | changes))


def chain(count: int, **changes: object) -> list[Signed[Receipt]]:
    found: list[Signed[Receipt]] = []
    for number in range(1, count + 1):
        before = found[-1].digest if found else None
        found.append(receipt(number, before=before, **changes))
    return found


def kept(signed: Signed[Receipt], at: int = START) -> KeptReceipt:
    return KeptReceipt(
        digest=signed.digest,
        lease=signed.document.lease,
        number=signed.document.number,
        signer=signed.signer,
        signed=signed.encode(),
        at=at,
    )


def settle(
    lease: HostLease,
    receipts: list[Signed[Receipt]],
    *,
    hold: int = 100 * CREDIT,
    state: SettlementState = SettlementState.PENDING,
    at: int = START + 2 * HOUR,
) -> list[HostSettlement]:
    """What an honest market posts, each receipt half an hour after the one before."""
    rates = Rates(
        price_per_gpu_hour=lease.price_microcredits_per_gpu_hour,
        gpus=lease.gpus,
        meter=Meter(lease.meter.value),
        ceiling=lease.ceiling,
        checkpoint_steps=lease.checkpoint_steps,
        royalty_per_job=lease.royalty_per_job,
        royalty_per_million_tokens=lease.royalty_per_million_tokens,
        fee_ppm=lease.fee_ppm,
    )
    posted = Posted(
        paid_before_step=0, paid_through_step=0, lease_gross=0, lease_fee=0, lease_tokens=0,
        job_royalty=0, job_tokens=0, available=hold,
    )  # fmt: skip
    found: list[HostSettlement] = []
    for index, signed in enumerate(receipts):
        said, now = signed.document, at + index * 30 * MINUTE
        until = now if lease.metered_until is None else min(now, lease.metered_until)
        committed = max(said.first_step, said.step - 5)
        reading = Reading(
            milliseconds=min(said.milliseconds, max(0, until - lease.ready_at)),
            first_step=said.first_step,
            step=said.step,
            tokens=said.tokens,
            committed_step=committed,
            done=said.end is End.DONE,
        )
        due = billable(rates, reading, posted)
        found.append(
            HostSettlement(
                signed=signed.encode(),
                settled_at=now,
                committed_step=committed,
                paid_before_step=posted.paid_before_step,
                job_royalty_before=posted.job_royalty,
                job_tokens_before=posted.job_tokens,
                available_before=posted.available,
                host_amount=due.host,
                owner_amount=due.owner,
                fee_amount=due.fee,
                state=state,
                matures_at=now + DISPUTE_MS,
            )
        )
        posted = dataclasses.replace(
            posted,
            paid_through_step=due.paid_through_step,
            lease_gross=due.lease_gross,
            lease_fee=due.lease_fee,
            lease_tokens=due.lease_tokens,
            job_royalty=due.job_royalty,
            job_tokens=due.job_tokens,
            available=posted.available - due.total,
        )
    return found


def statement(
    lease: HostLease, settlements: list[HostSettlement], *, now: int = START + 4 * HOUR, **changes
) -> Statement:
    values = {
        "leases": (lease,),
        "settlements": {lease.lease: settlements},
        "receipts": {},
        "terms": {},
        "spans": (),
        "paid_out": 0,
    }
    return make_statement(Accounts(**values | changes), now)


def only(found: Statement) -> Line:
    (line,) = found.lines
    return line


def match(at: int, price: int = CREDIT, **changes: object) -> PastMatch:
    values = {
        "at": at,
        "price_microcredits_per_gpu_hour": price,
        "minutes": 60,
        "interruptible": False,
        "mine": False,
    }
    return PastMatch(**values | changes)
