"""What a host may ask about its own earnings and its own offer. Rules as in wire.py.

- A host reads of others no more than it could put together from the book, from the documents of
  jobs it serves, and from those jobs' receipts: amounts that other hosts' leases were paid are in
  `wire.ReceiptList` too, and what a job may spend at most is in its manifest.
- Of orders that it does not serve it learns counts. A number of theirs is told only where at least
  `BUYERS_TOLD_MIN` different buyers stand behind it, and then as the best of all of them.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Final

from marketplace.wire import PAGE_ROWS_MAX, LeaseState, OfferId, SettlementState
from trust.encoding import (
    Bytes32,
    Count,
    Digest,
    Microcredits,
    Name,
    Range,
    Size,
    Struct,
    Text,
    Uint16,
    Uint32,
    Uint53,
    UnixMilliseconds,
)
from trust.jobs import LeaseId
from trust.messages import Attachment

BUYERS_TOLD_MIN: Final = 3
DEMAND_HOURS_MAX: Final = 30 * 24
MATCHES_MAX: Final = 500

HOST_LEASES: Final = "/v1/hosts/me/leases"
"""GET, by a host: `HostLeaseList` of all its leases, ended ones too, oldest first. Query ``after``:
how many are known."""
LEASE_SETTLEMENTS: Final = "/v1/leases/{lease}/settlements"
"""GET, by its host: `HostSettlementList`. Query ``after``: how many are known."""
OFFER_DEMAND: Final = "/v1/offers/{offer}/demand"
"""GET, by its host: `DemandView`. Query ``hours``: how far back, at most `DEMAND_HOURS_MAX`."""


class JobMeter(enum.StrEnum):
    """What a job's ceiling counts."""

    STEPS = "steps"
    RUN = "run"
    TOKENS = "tokens"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HostLease(Struct):
    """A lease with the rates that its receipts are settled by; money in microcredits."""

    lease: LeaseId
    offer: OfferId
    offer_terms_number: Count
    job: Digest
    rank: Uint16
    generation: Count | None
    state: LeaseState
    reason: Text
    """Why it is in this state."""
    price_microcredits_per_gpu_hour: Microcredits
    gpus: Count
    meter: JobMeter
    ceiling: Microcredits
    checkpoint_steps: Uint53
    royalty_per_job: Microcredits
    royalty_per_million_tokens: Microcredits
    fee_ppm: Annotated[int, Range(least=0, most=1_000_000)]
    signing_key: Bytes32 | None
    """Whose receipts settle; None: the market verified no evidence for it."""
    opened_at: UnixMilliseconds
    ready_at: UnixMilliseconds | None
    """When the meter went on."""
    metered_until: UnixMilliseconds | None
    """When it went off; None: it is on, or never was."""
    ended_at: UnixMilliseconds | None
    """When it held its machine no more."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HostLeaseList(Struct):
    """A page of a host's leases, oldest first."""

    leases: Annotated[tuple[HostLease, ...], Size(least=0, most=PAGE_ROWS_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HostSettlement(Struct):
    """One receipt of a lease, what it posted, and what the market went by; microcredits."""

    signed: Attachment
    """Signed `trust.messages.Receipt`."""
    settled_at: UnixMilliseconds
    committed_step: Uint53
    """Step of the checkpoint that the receipt calls committed."""
    paid_before_step: Uint53
    """The last step of this rank that an older generation was paid for; 0: none."""
    job_royalty_before: Microcredits
    job_tokens_before: Uint53
    available_before: Microcredits
    """What the hold still held."""
    host_amount: Microcredits
    owner_amount: Microcredits
    fee_amount: Microcredits
    state: SettlementState
    matures_at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HostSettlementList(Struct):
    """A page of a lease's receipts, in the order in which they settled."""

    settlements: Annotated[tuple[HostSettlement, ...], Size(least=0, most=PAGE_ROWS_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Lost(Struct):
    """Orders that one predicate of the matching struck this offer off for, and no earlier one."""

    predicate: Name
    orders: Count
    buyers: Count
    nearest: Text
    """Of these orders the one that the offer missed by least, in plain numbers; empty where fewer
    than `BUYERS_TOLD_MIN` buyers stand behind it, or where there is no number to it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PastMatch(Struct):
    """A lease of a machine of this kind: same platform, GPU model and number of GPUs."""

    at: UnixMilliseconds
    """When it was opened; rounded down to a minute, unless it was one's own."""
    price_microcredits_per_gpu_hour: Microcredits
    minutes: Uint32
    """From its first metered moment to its last; 0: it was never metered, or still is."""
    interruptible: bool
    mine: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DemandView(Struct):
    """What orders came for a machine of an offer's kind, and why it got none of them."""

    offer: OfferId
    since: UnixMilliseconds
    until: UnixMilliseconds
    orders: Uint32
    """Orders seen that asked for this platform and GPU model."""
    fits: Uint32
    """Of these, orders whose every demand the offer meets; some went to others."""
    won: Uint32
    """Leases of them that this offer got."""
    lost: Annotated[tuple[Lost, ...], Size(least=0, most=32)]
    """In the order in which the matching looks."""
    book: Text
    """What keeps the offer off the book now; empty: it is listed."""
    matches: Annotated[tuple[PastMatch, ...], Size(least=0, most=MATCHES_MAX)]
    """Oldest first."""
