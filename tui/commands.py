"""What a screen asks for: frozen values, posted to the hub. Posting one again does nothing more.

- `id` is made by the screen, once for each thing that a person did; answers name it.
- A screen says by `Look` and `LookAway` what it looks at; its facts flow in between. The
  first facts after `Look` are what is known already; nothing is fetched for a subject that nobody
  looks at. `Connection`, `Balance` and `Setup` flow always.
"""

from __future__ import annotations

import dataclasses
import enum

from tui.facts import JobDraft


class Kind(enum.StrEnum):
    """What there is to look at."""

    OFFERS = "offers"
    """`of`: empty; what is shown follows `Search`. Facts: OfferPage, Funnel, PolicyPreview."""
    JOBS = "jobs"
    """Facts: JobHead of every job of one's own."""
    JOB = "job"
    """`of`: a job. Facts: JobHead, Stage, Progress, Evaluation, Cost, Checkpoint, JobEvent,
    Attestation, ReceiptView."""
    TRUST = "trust"
    """`of`: a job. Facts: Attestation of each generation, ReleaseEntry."""
    MONEY = "money"
    """Facts: Balance, Entry (newest first, in pages), ReceiptView."""
    CHAT = "chat"
    """Facts: ChatHead of every model that can be spoken to."""
    KEYS = "keys"
    """Facts: KeyState, BrokerState, ReleaseEntry of all jobs, Consent."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """Something to look at."""

    kind: Kind
    of: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What all commands share."""

    id: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Look(Command):
    """Let facts of a subject come."""

    subject: Subject


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LookAway(Command):
    """No more of them; what runs for this subject alone is cancelled."""

    subject: Subject


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Search(Command):
    """Show offers that fit a query. Answer: OfferPage, Funnel if asked for, or QueryError."""

    query: str
    sort: str
    start: int
    rows: int
    explain: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Unlock(Command):
    """Open the keystore. The passphrase is used once, and kept nowhere. Answer: Setup, Failure."""

    passphrase: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MakeKeys(Command):
    """Make this home's keys. Answer: Setup, or Failure."""

    passphrase: str = dataclasses.field(repr=False)
    market_url: str
    market_identity: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PinMarket(Command):
    """Name this home's market; no keys are made. Answer: Setup, or Failure."""

    market_url: str
    market_identity: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LockKeys(Command):
    """Forget the open keystore."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BackUp(Command):
    """Write an encrypted copy of the keystore and the release log. Answer: Exported, Failure."""

    path: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckDataset(Command):
    """Check every row of a file. Answer: DatasetCheck, again and again until it is done."""

    path: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SealDataset(Command):
    """Check, seal, and keep. Answer: SealProgress, then Setup; or Failure."""

    path: str
    name: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StopSealing(Command):
    """Nothing of it has left this machine."""

    path: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WantQuote(Command):
    """Answer: Quote, or Failure."""

    draft: JobDraft
    offer: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Submit(Command):
    """Sign and submit. Answer: SubmitResult. The same id is the same job, after a restart too."""

    draft: JobDraft
    offer: str = ""
    """What its machine is like; empty: the offer that it was quoted on, or the cheapest."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CloseJob(Command):
    """End a job for good: what was done is settled, the rest of the hold comes back."""

    job: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MoreEvents(Command):
    """Older events of a job, before an offset. Answer: JobEvent."""

    job: str
    before: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Verify(Command):
    """Appraise the stored evidence again, now. Answer: Attestation, or Failure."""

    job: str
    generation: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Export(Command):
    """Write a transcript that opens offline. Answer: Exported, or Failure."""

    job: str
    generation: int
    path: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FetchResult(Command):
    """Hand-over of a job's adapter into a folder. Answer: ResultFetch, or Failure."""

    job: str
    path: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MoreEntries(Command):
    """Older lines of the statement. Answer: Entry."""

    before: int


class StatementForm(enum.StrEnum):
    """How a statement is written."""

    CSV = "csv"
    BEANCOUNT = "beancount"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WriteStatement(Command):
    """Answer: Exported, or Failure."""

    month: str
    """As ``2026-11``."""
    form: StatementForm
    path: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ask(Command):
    """Say something to a model. Answer: Delta, TurnEnd, under the same turn."""

    turn: str
    model: str
    messages: tuple[tuple[str, str], ...] = dataclasses.field(repr=False)
    """Role and content; the newest last."""
    temperature: str
    tokens_max: int | None
    """Of the reply; None: as many as the model gives."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StopTurn(Command):
    """Stop the replies of a turn."""

    turn: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answer(Command):
    """Allow or refuse a consent; answered by a new use policy. Answer: Consent, or Failure."""

    consent: str
    yes: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RotateEpoch(Command):
    """Begin a new epoch of a lineage. Answer: KeyState, or Failure."""

    lineage: str
