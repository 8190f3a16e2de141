"""What a decision reads: a job and all that hangs on it, as frozen values. `rows` makes them."""

from __future__ import annotations

import dataclasses

from marketplace.leases import LIVE
from marketplace.models import JobState, LeaseState, OrderState
from trust.messages import End


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeaseSnapshot:
    """A lease as it was read."""

    lease: str
    version: int
    state: LeaseState
    rank: int
    generation: int | None
    """None: no generation order names it yet."""
    since: int
    """Unix milliseconds of its last transition."""
    deadline: int | None
    """Unix milliseconds; None: it has ended."""
    end: End | None
    """How its last settled receipt says that it ended; None: it has not said so."""
    paid_until: int | None
    """Unix milliseconds until which the hold pays for all the time of a ready lease that serves;
    None: of any other, or one that costs nothing by time."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CustodianSnapshot:
    """When a custodian last said that it is ready for this job."""

    custodian: str
    role: str
    """For people: ``buyer``, ``model owner``."""
    ready_at: int | None
    """Unix milliseconds; None: never."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OrderSnapshot:
    """The job's order as it was read."""

    order: str
    version: int
    state: OrderState
    funded: bool
    """Its hold stands and holds something."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobSnapshot:
    """A job and all that hangs on it, read in one transaction."""

    job: str
    """Digest, base64url."""
    version: int
    """The token that guards every action on the job."""
    state: JobState
    generation: int
    generations_max: int
    enclaves: int
    serves: bool
    """It has no last step: it runs until it is closed, expires, or its money is used up."""
    deadline: int | None
    """Unix milliseconds; None: it has ended."""
    waiting_for: str | None
    order: OrderSnapshot | None
    """None: its order is not placed yet."""
    leases: tuple[LeaseSnapshot, ...]
    """All that were ever opened for it, oldest first."""
    custodians: tuple[CustodianSnapshot, ...]

    @property
    def live(self) -> tuple[LeaseSnapshot, ...]:
        """Leases that hold a machine."""
        return tuple(each for each in self.leases if each.state in LIVE)

    @property
    def run(self) -> tuple[LeaseSnapshot, ...]:
        """Leases of the newest generation order."""
        return tuple(each for each in self.leases if each.generation == self.generation)
