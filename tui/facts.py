"""What a screen is told: frozen values, made by the hub alone. No textual, no I/O.

Rules:
- Every fact says `as_of`: Unix milliseconds at which it was true, by this machine's clock.
- Ids are strings that a person can copy: hex digests, or names like ``offr_…``. An empty string
  means *nothing*, and None means *not known*; the two are never mixed.
- Money is integer microcredits, times are Unix milliseconds, durations are whole milliseconds.
- All text has been cleaned by `client.text.clean` before it got here: hosts choose labels, models
  choose words.
- `key` names what a fact is about: of a `Latest` fact, a newer one with the same key replaces an
  older one that nobody has looked at yet. No other fact is ever dropped.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Final


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """What all facts share."""

    as_of: int

    @property
    def key(self) -> str:
        """What it is about, within its class."""
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Latest(Fact):
    """A fact of which only the newest matters."""


# --- the parties and the way to the market --------------------------------------------------------


class Link(enum.StrEnum):
    """How things stand with the market."""

    ONLINE = "online"
    OFFLINE = "offline"
    SIGNED_OUT = "signed out"
    """No home, or no keys in it."""
    LOCKED = "keys locked"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Connection(Latest):
    """The way to the market."""

    link: Link
    since: int
    attempt: int
    """Of reaching it again; 0 while online."""
    retry_in: int | None
    """Milliseconds until the next attempt."""
    words: str
    """What stood in the way; empty while online."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NamedModel:
    """A sealed model that this party may tune or serve."""

    id: str
    """Artifact id, hex."""
    name: str
    owner: str
    """Identity of its custodian, hex."""
    mine: bool
    tunable: bool
    words: str
    """Why not, where it is not; its terms in one sentence, where it is."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SealedData:
    """A dataset of one's own, sealed."""

    id: str
    name: str
    rows: int | None
    bytes: int
    sealed_at: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setup(Latest):
    """How far this home is from its first job."""

    home: str
    identity: str
    """Hex; empty: no keys yet."""
    keys_made_at: int | None
    locked: bool
    backed_up: bool | None
    market_url: str
    market_identity: str
    broker: str
    """``running``, ``elsewhere``, ``never ran``, in words."""
    models: tuple[NamedModel, ...]
    data: tuple[SealedData, ...]
    simulated: bool
    """A policy in use names a simulated root: what is shown proves nothing about hardware."""


# --- offers ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OfferRow:
    """One offer of the book."""

    id: str
    host: str
    """Identity, hex."""
    platform: str
    compute_class: str
    gpu_model: str
    gpus: int
    memory_mib: int
    ask: int
    """Microcredits for a GPU and hour."""
    floor: int | None
    ends_at: int
    state: str
    words: str
    """What else the book says of it; may be empty."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OfferPage(Fact):
    """Rows `start`, `start + 1`, … of what fits a query."""

    query: str
    sort: str
    total: int
    """How many fit."""
    listed: int
    """How many are on the book."""
    start: int
    rows: tuple[OfferRow, ...]
    version: str
    """Of the book: pages of two versions don't go together."""

    @property
    def key(self) -> str:
        """Query and place."""
        return f"{self.query}\0{self.sort}\0{self.start}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FunnelStep:
    """One clause of a query, and what it leaves."""

    clause: str
    left: int
    looser: str
    """The clause with the nearest looser value; empty: none."""
    gain: int
    """Offers that `looser` would add."""
    cheapest: int | None
    """Lowest ask among those; microcredits."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Funnel(Latest):
    """Why no offer, or so few."""

    query: str
    listed: int
    steps: tuple[FunnelStep, ...]
    nearest_miss: str
    """In words; empty: something fits, or nothing is listed."""

    @property
    def key(self) -> str:
        """Its query."""
        return self.query


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QueryError(Fact):
    """A query that can't be read."""

    query: str
    text: str
    at: int
    """Column, from 0."""
    suggestion: str
    """What was perhaps meant; empty: no idea."""


class Would(enum.StrEnum):
    """What a custodian's broker would say to an offer, as far as one can know."""

    PASS = "would release"  # noqa: S105 - a word
    REFUSE = "would refuse"
    UNKNOWN = "not known"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PolicyPreview(Latest):
    """Whether keys would be released to an offer."""

    offer: str
    custodian: str
    would: Would
    check: str
    """The check that decides; in words."""

    @property
    def key(self) -> str:
        """Offer and custodian."""
        return f"{self.offer}\0{self.custodian}"


# --- a new job ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RowFault:
    """A line of a dataset that can't be used."""

    line: int
    """From 1."""
    words: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DatasetCheck(Latest):
    """How far a file has been checked, and what is wrong with it."""

    path: str
    done: bool
    rows: int
    bytes: int
    bytes_total: int
    longest: int
    """Bytes of the longest row."""
    faults: tuple[RowFault, ...]
    """The first 100."""
    faults_total: int

    @property
    def key(self) -> str:
        """Its file."""
        return self.path


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SealProgress(Latest):
    """Sealing, or sending what was sealed."""

    path: str
    stage: str
    """``checking``, ``sealing``, ``uploading``, ``done``."""
    bytes_done: int
    bytes_total: int
    bytes_per_second: int
    artifact: str
    """Once done; hex."""

    @property
    def key(self) -> str:
        """Its file."""
        return self.path


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a form says of a fine-tune; the manifest is client's to make."""

    rank: int
    alpha: int
    steps: int
    rows_per_step: int
    learning_rate: str
    length_max: int
    seed: int
    precision: str
    checkpoint_steps: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobDraft:
    """A job as a person has written it so far. It holds ids and numbers, never content."""

    name: str
    model: str
    data: str
    heldout: str
    recipe: Recipe
    spend_max: int
    """Microcredits: never more than this."""
    price_max: int
    """Microcredits for a GPU and hour."""
    image: str
    """Measurement, hex; empty: the one that the policies name."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Quote(Latest):
    """What a draft would cost."""

    draft: JobDraft
    cost_max: int
    cost_low: int | None
    """None: nothing to estimate from."""
    cost_high: int | None
    milliseconds: int | None
    sentences: tuple[str, ...]
    """The manifest in words: who may see what, what is held, what comes back."""
    manifest: str
    """JSON, as it would be signed but for its nonce."""
    refused: str
    """Why it could not be submitted now; empty: it could."""
    expires_at: int


class Submitted(enum.StrEnum):
    """What became of a submission."""

    ACCEPTED = "accepted"
    EXISTS = "exists"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SubmitResult(Fact):
    """The answer to a `Submit`."""

    command: str
    outcome: Submitted
    job: str
    check: str
    """What refused it; empty: nothing did."""
    words: str


# --- jobs -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobHead(Latest):
    """A job, in one line."""

    id: str
    name: str
    kind: str
    """``train`` or ``serve``."""
    state: str
    """As `marketplace.wire.JobState`."""
    waiting_for: str
    generation: int
    offer: str
    host: str
    hosts: int
    """How many have had it: 2 means that it is on its second."""
    simulated: bool
    step: int | None
    steps: int | None
    loss: str
    """Decimal; empty: none yet."""
    captured: int
    reserved: int
    created_at: int
    gone: bool
    """It is no longer on the list."""

    @property
    def key(self) -> str:
        """The job."""
        return self.id


class StageState(enum.StrEnum):
    """Where a stage of a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


STAGES: Final = (
    "seal",
    "queue",
    "match",
    "launch",
    "evidence",
    "release",
    "train",
    "receipt",
    "settle",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stage(Fact):
    """One stage of a job's newest generation."""

    job: str
    name: str
    """One of `STAGES`."""
    state: StageState
    started_at: int | None
    milliseconds: int | None
    """How long it took, or has taken so far."""
    actor: str
    """Who acts, or is waited for."""
    words: str
    ref: str
    """Id of what it decided; empty: none."""

    @property
    def key(self) -> str:
        """Job and stage."""
        return f"{self.job}\0{self.name}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Progress(Fact):
    """One sealed record of an enclave, opened here. Facts of one job come in the order of steps."""

    job: str
    generation: int
    step: int
    steps: int
    loss: str
    """Decimal; empty: this record has none."""
    tokens_per_second: int | None
    milliseconds_left: int | None
    words: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation(Latest):
    """Base and tuned on held-out rows; decimals, empty where not made."""

    job: str
    base: str
    tuned: str
    exact_base: str
    exact_tuned: str

    @property
    def key(self) -> str:
        """The job."""
        return self.job


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cost(Latest):
    """What a job has cost, and can."""

    job: str
    spent: int
    cap: int
    projected: int | None
    cap_lasts: int | None
    """Milliseconds at the present burn."""

    @property
    def key(self) -> str:
        """The job."""
        return self.job


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint(Latest):
    """What is safe if the host dies now."""

    job: str
    step: int
    artifact: str
    sealed_at: int | None

    @property
    def key(self) -> str:
        """The job."""
        return self.job


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobEvent(Fact):
    """One thing that happened to a job; `offset` is where to go on reading."""

    job: str
    offset: int
    at: int
    kind: str
    words: str
    refs: tuple[str, ...]

    @property
    def key(self) -> str:
        """Job and offset."""
        return f"{self.job}\0{self.offset}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ResultFetch(Latest):
    """An adapter on its way here."""

    job: str
    bytes_done: int
    bytes_total: int
    path: str
    """Once whole; empty before."""

    @property
    def key(self) -> str:
        """The job."""
        return self.job


# --- trust ----------------------------------------------------------------------------------------


class Verdict(enum.StrEnum):
    """What became of a check. Only *passed* is a pass."""

    PASSED = "passed"
    FAILED = "FAILED"
    NOT_CHECKED = "NOT CHECKED"
    NOT_DEMANDED = "not demanded"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CheckLine:
    """One check of an appraisal."""

    id: str
    group: str
    """``cpu``, ``gpu``, ``image``, ``session``, …"""
    verdict: Verdict
    found: str
    wanted: str
    words: str
    """What it means, and what an attacker gains where it is not made."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Attestation(Fact):
    """An appraisal of one generation's evidence, made here."""

    job: str
    generation: int
    chip: str
    platform: str
    image: str
    policy: str
    headline: str
    """E.g. ``PASSED, 3 checks not made``, ``REFUSED at tcb-floor``, ``NOT YET``."""
    simulated: bool
    lines: tuple[CheckLine, ...]
    verified_at: int
    was: str
    """An earlier headline that this one differs from; empty: none, or the same."""

    @property
    def key(self) -> str:
        """Job and generation."""
        return f"{self.job}\0{self.generation}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseEntry(Fact):
    """One release of a custodian. Of another custodian's it is that custodian's signed word."""

    number: int
    """In its log; from 1."""
    custodian: str
    mine: bool
    """From one's own log, as against another's word."""
    at: int | None
    artifact: str
    job: str
    generation: int
    chip: str
    policy: str
    words: str
    fenced: bool
    """A newer generation took its place."""
    chain_holds: bool

    @property
    def key(self) -> str:
        """Custodian and number."""
        return f"{self.custodian}\0{self.number}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Exported(Fact):
    """A file was written because a person asked for it."""

    command: str
    path: str
    words: str


# --- money ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Balance(Latest):
    """What is left, and until when."""

    free: int
    held: int
    pending: int
    """Earned and not matured: a host's or an owner's."""
    payable: int
    empty_in: int | None
    """Milliseconds at the present burn; None: nothing runs."""
    burn: int
    """Microcredits an hour, now."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry(Fact):
    """One line of a statement."""

    account: str
    number: int
    """In its account, from 1."""
    at: int
    kind: str
    words: str
    amount: int
    """Signed: what left is negative."""
    balance_after: int
    transfer: str
    job: str
    """Empty: of no job, or not known."""

    @property
    def key(self) -> str:
        """Account and number."""
        return f"{self.account}\0{self.number}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptView(Fact):
    """A receipt as the market settled it, and whether its signature holds here."""

    id: str
    job: str
    lease: str
    generation: int
    number: int
    milliseconds: int
    steps: int
    tokens: int
    signer: str
    holds: bool
    words: str
    """Why it does not hold; empty: it does."""
    host_amount: int
    owner_amount: int
    fee_amount: int
    state: str
    matures_at: int

    @property
    def key(self) -> str:
        """The receipt."""
        return self.id


# --- chat -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatHead(Latest):
    """A model that can be spoken to, and to whom the words are sealed."""

    model: str
    """As the gateway names it."""
    words: str
    chip: str
    """Empty: not verified yet."""
    verified_at: int | None
    job: str
    gone: bool

    @property
    def key(self) -> str:
        """The model."""
        return self.model


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Delta(Fact):
    """Some words of a reply."""

    turn: str
    model: str
    text: str

    @property
    def key(self) -> str:
        """Turn and model."""
        return f"{self.turn}\0{self.model}"


class TurnWhy(enum.StrEnum):
    """How a reply ended. All but the first two are errors, and the text stays, marked CUT."""

    STOP = "stop"
    LENGTH = "length"
    STOPPED = "stopped by you"
    REFUSED = "refused"
    CUT = "cut"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TurnEnd(Fact):
    """A reply is over."""

    turn: str
    model: str
    why: TurnWhy
    words: str
    tokens: int
    milliseconds: int

    @property
    def key(self) -> str:
        """Turn and model."""
        return f"{self.turn}\0{self.model}"


# --- keys and consents ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KeyState(Latest):
    """The keystore."""

    epoch: int
    locked: bool
    backed_up: bool | None
    lineages: tuple[str, ...]
    """Each in words: what it seals, which epoch."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BrokerState(Latest):
    """A custodian's broker."""

    custodian: str
    mine: bool
    words: str
    last_seen: int | None
    waiting_jobs: tuple[str, ...]

    @property
    def key(self) -> str:
        """The custodian."""
        return self.custodian


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Consent(Latest):
    """A hand-over that this party may allow: an adapter, in plain, to its buyer."""

    id: str
    what: str
    to: str
    answers: tuple[tuple[str, str], ...]
    """Custodian, and ``yes``, ``no`` or ``not answered``, in words."""
    sentences: tuple[str, ...]
    """What opens, to whom, for how long, what can't be taken back."""
    mine_to_answer: bool

    @property
    def key(self) -> str:
        """The consent."""
        return self.id


# --- what went wrong ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Failure(Fact):
    """Something that was asked for did not happen."""

    where: str
    """The subject's kind or the command's id."""
    code: str
    words: str
    """Found and wanted; never a secret."""
    retry_in: int | None
    """Milliseconds; None: it is not tried again."""


FACTS: Final[tuple[type[Fact], ...]] = (
    Attestation, Balance, BrokerState, ChatHead, Checkpoint, Connection, Consent, Cost,
    DatasetCheck, Delta, Entry, Evaluation, Exported, Failure, Funnel, JobEvent, JobHead, KeyState,
    OfferPage, PolicyPreview, Progress, QueryError, Quote, ReceiptView, ReleaseEntry, ResultFetch,
    SealProgress, Setup, Stage, SubmitResult, TurnEnd,
)  # fmt: skip
"""Every kind of fact."""
