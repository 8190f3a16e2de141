"""What the market says over HTTP: every path, every body, every limit. Outsiders import this alone.

Rules:
- A body is either JSON of one `Struct` (strict: RFC 8259 without floats, duplicates, unknown or
  missing fields; bytes as base64url), or raw bytes where the route says so: a blob, a signed
  document (``signature 64 ‖ signer 32 ‖ document``), the payload of a message.
- Every request is signed for this market by trust/http_signature.py, and every answer to one by
  the market. What could not be authenticated is answered unsigned, and is an error.
- POST carries an idempotency key that the caller made and stored before sending. The same key with
  another request is refused; with the same, answered the same. PUT names what it stores, by digest
  or id, and a POST that says *no key* only says how things are: doing it twice does nothing, so
  it needs none.
- An error is a `WireError`: a stable word for programs, a text for people. A route, query parameter
  or field that is not here is refused.
- In paths, digests and identities are lower-case hex. Money is integer microcredits; times are Unix
  milliseconds, UTC; nothing is negative.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, ClassVar, Final, TypeVar

from trust.encoding import (
    Bytes16,
    Bytes32,
    Count,
    Digest,
    Json,
    Microcredits,
    Name,
    Pattern,
    Range,
    Size,
    Struct,
    Text,
    Uint16,
    Uint32,
    Uint53,
    UnixMilliseconds,
    canonical_json,
    parse_json,
)
from trust.errors import SizeLimitError
from trust.http_signature import TARGET_CHARACTERS_MAX
from trust.identity import SIGNED_BYTES_MAX
from trust.jobs import RANKS_MAX, ComputeClass, LeaseId, RankLease
from trust.messages import ARTIFACTS_MAX, Attachment, Attachments

# --- limits --------------------------------------------------------------------------------------

BLOB_BYTES_MAX: Final = 1 << 20  # a ciphertext segment; a public file of a model is smaller
PAYLOAD_BYTES_MAX: Final = 1 << 20  # a message through an enclave's door
DOCUMENT_BODY_BYTES_MAX: Final = SIGNED_BYTES_MAX
JSON_BYTES_MAX: Final = 1 << 18  # the longest request of ours: a signed job manifest in base64
ANSWER_BYTES_MAX: Final = 3 << 20  # a page of messages: two payloads in base64, and their frames
PAGE_BYTES_MAX: Final = 1 << 20  # payload bytes in one page of messages, or one message
PAGE_MESSAGES_MAX: Final = 64
PAGE_ROWS_MAX: Final = 200
WAIT_SECONDS_MAX: Final = 25  # a long poll ends before proxies and patience do
HEARTBEAT_SECONDS_MAX: Final = 60  # an offer that is silent for longer is paused until it speaks
RENEW_SECONDS_MAX: Final = 120  # a host that is gone is noticed after that
MESSAGE_HOURS: Final = 24  # a message that nobody acknowledged is dropped then
REPLAY_HOURS: Final = (
    1  # the id of an acknowledged one is known so long: an agent retries no longer
)
BOX_MESSAGES_MAX: Final = 4096  # unread messages in one box: a day of an enclave's reports
BOX_BYTES_MAX: Final = 64 << 20  # unread payload bytes in one box
BLOBS_ASKED_MAX: Final = 1024  # digests in one question whether they are stored
REQUESTS_PER_MINUTE_MAX: Final = 30_000  # one identity: 500 segments a second, what a disk takes
CLAUSES_MAX: Final = 16  # of one search: a person reads fewer
WORDS_MAX: Final = 16  # values that one clause names

# --- paths ---------------------------------------------------------------------------------------

MARKET: Final = "/v1/market"
"""GET: `MarketView`."""
BLOB: Final = "/v1/blobs/{digest}"
"""PUT raw bytes: `Stored`; GET: raw bytes. Query ``first`` and ``last``, both or neither: these
bytes alone, both ends included (query, not a Range header, because the query is signed)."""
BLOBS_MISSING: Final = "/v1/blobs/missing"
"""POST `BlobsAsked`, no key: `BlobsMissing`."""
DOCUMENT: Final = "/v1/documents/{digest}"
"""PUT a signed terms, use policy or manifest: `Stored`; GET: the signed document, raw. Query
``lease`` on a PUT: a host brings what the enclave of that lease made."""
TERMS: Final = "/v1/terms/{owner}/{lineage}"
"""GET: the owner's newest signed `trust.jobs.Terms` of this lineage, raw."""
USE_POLICY: Final = "/v1/use-policies/{custodian}/{lineage}"
"""GET: the custodian's newest signed `trust.jobs.UsePolicy` of this lineage, raw."""
OFFERS: Final = "/v1/offers"
"""POST `OfferDraft`: `OfferView`; GET: `OfferList` of what is listed."""
OFFER_SEARCH: Final = "/v1/offers/search"
"""POST `OfferQuery`, no key: `OfferPage`."""
OFFER_EXPLAIN: Final = "/v1/offers/explain"
"""POST `OfferQuery`, no key: `OfferFunnel`. Order, place and rows are not looked at."""
OFFER: Final = "/v1/offers/{offer}"
"""GET: `OfferView`."""
OFFER_HEARTBEAT: Final = "/v1/offers/{offer}/heartbeat"
"""POST `Empty`, no key, by its host: `OfferView`. At least every `HEARTBEAT_SECONDS_MAX`."""
OFFER_WITHDRAW: Final = "/v1/offers/{offer}/withdraw"
"""POST `Empty`, by its host: `OfferView`."""
JOBS: Final = "/v1/jobs"
"""POST `JobDraft`, by the buyer: `JobView`. GET: `JobList` of the buyer's own."""
JOB: Final = "/v1/jobs/{digest}"
"""GET, by its buyer or a custodian of its inputs: `JobView`."""
JOB_DOCUMENTS: Final = "/v1/jobs/{digest}/documents"
"""GET, by its buyer, a custodian of its inputs or a host of it: `JobDocuments`."""
JOB_GENERATIONS: Final = "/v1/jobs/{digest}/generations"
"""POST `SignedBody` of a `trust.jobs.GenerationOrder`, by the buyer: `JobView`."""
JOB_CLOSE: Final = "/v1/jobs/{digest}/close"
"""POST `SignedBody` of a `trust.jobs.Close`, by the buyer: `JobView`."""
JOB_RECEIPTS: Final = "/v1/jobs/{digest}/receipts"
"""GET, by its buyer, a custodian of its inputs or a host of it: `ReceiptList`. Query ``after``: how
many are known."""
ASKS: Final = "/v1/asks"
"""GET: `AskList`, what the market wants of the party that asks."""
READY: Final = "/v1/ready"
"""POST `SignedBody` of a `trust.jobs.Ready`, no key, by that custodian: `Empty`."""
LEASES: Final = "/v1/leases"
"""GET, by a host: `LeaseList` of its own that have not ended."""
LEASE: Final = "/v1/leases/{lease}"
"""GET, by its host: `LeaseView`."""
LEASE_BRIEFING: Final = "/v1/leases/{lease}/briefing"
"""GET, by its host, once a generation order names the lease: `LeaseBriefing`."""
LEASE_STATE: Final = "/v1/leases/{lease}/state"
"""POST `LeaseReport`, by its host: `LeaseView`."""
LEASE_RENEW: Final = "/v1/leases/{lease}/renew"
"""POST `LeaseRenewal`, no key, by its host: `LeaseView`. A wait at the lease's box does it too."""
MESSAGE: Final = "/v1/mailbox/{box}/messages/{message}"
"""PUT the payload, raw: `Posted`. Query ``lease``: the sender is that lease's address."""
MAILBOX: Final = "/v1/mailbox/{box}"
"""GET, by the box's owner or the host of its lease: `MessagePage`. Query ``after`` (a number),
``wait`` (seconds, at most `WAIT_SECONDS_MAX`), ``lease`` where the box is a lease's."""
MAILBOX_ACK: Final = "/v1/mailbox/{box}/acknowledge"
"""POST `MessagesAcknowledged`, no key: `Empty`. Query ``lease`` as above."""
ACCOUNT: Final = "/v1/accounts/me"
"""GET: `AccountView`."""
STATEMENT: Final = "/v1/accounts/me/statement"
"""GET: `Statement`. Query ``account`` (an `AccountRole`; default ``buyer``), and ``after``: the
number of the last line that is known."""
HEADS: Final = "/v1/heads"
"""POST `SignedBody` of a `trust.messages.LogHead`, no key, by that custodian: `Empty`."""
HEAD: Final = "/v1/heads/{custodian}"
"""GET: the newest signed head of that custodian, raw."""
DISPUTES: Final = "/v1/disputes"
"""POST `SignedBody` of a `trust.jobs.Dispute`, by the buyer: `ReceiptView`."""


def path(route: str, **parts: bytes | str) -> str:
    """Fill in a route. Bytes become hex. ``path(BLOB, digest=sha256)``."""
    return route.format(**{k: v.hex() if isinstance(v, bytes) else v for k, v in parts.items()})


def target(route: str, /, query: dict[str, str | int] | None = None, **parts: bytes | str) -> str:
    """A path and its query, as `trust.http_signature` signs them."""
    rest = "&".join(f"{name}={value}" for name, value in sorted((query or {}).items()))
    whole = path(route, **parts) + (f"?{rest}" if rest else "")
    if len(whole) > TARGET_CHARACTERS_MAX:
        raise SizeLimitError(f"target of {len(whole)} characters; at most {TARGET_CHARACTERS_MAX}")
    return whole


# --- bodies --------------------------------------------------------------------------------------

S = TypeVar("S", bound=Struct)


def encode(body: Struct) -> bytes:
    """A body as JSON (it happens to be canonical)."""
    return canonical_json(_json(body))


def parse(kind: type[S], data: bytes, *, bytes_max: int = JSON_BYTES_MAX) -> S:
    """Parse a body completely. Raises SizeLimitError, EncodingError, or DocumentError."""
    if len(data) > bytes_max:
        raise SizeLimitError(f"{kind.__name__}: {len(data)} bytes; at most {bytes_max}")
    return kind.from_json(parse_json(data))


def _json(body: Struct) -> Any:
    value: dict[str, Json] = body.to_json()
    return value


_CROCKFORD: Final = "[0-9a-hjkmnp-tv-z]{26}"
OfferId = Annotated[str, Pattern(expression=f"offr_{_CROCKFORD}")]
Signed = Annotated[bytes, Size(least=97, most=1 << 17)]
"""A signed document inside a body: job manifests have about 8 KiB."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Empty(Struct):
    """Nothing to say."""


class ErrorCode(enum.StrEnum):
    """Why the market says no. The HTTP status is `STATUS[code]`."""

    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    UNSIGNED = "unsigned"
    """The signature of the request is missing, stale, or does not hold."""
    FORBIDDEN = "forbidden"
    """This identity may not ask this."""
    NO_ROUTE = "no-route"
    NOT_FOUND = "not-found"
    NO_FUNDS = "no-funds"
    CONFLICT = "conflict"
    """It contradicts what is on record: a state, a number, a version, a lease."""
    KEY_REUSED = "key-reused"
    """This idempotency key came with another request before."""
    OUTDATED = "outdated"
    """A lower number than the one on record."""
    REFUSED = "refused"
    """A signed document or evidence that does not hold, or is not acceptable here."""
    FULL = "full"
    """A box or a party's share of the store is full."""
    TOO_MANY = "too-many"
    """Above this party's rate. Ask again later."""
    INTERNAL = "internal"


STATUS: Final[dict[ErrorCode, int]] = {
    ErrorCode.MALFORMED: 400,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.UNSIGNED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NO_ROUTE: 404,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.NO_FUNDS: 402,
    ErrorCode.CONFLICT: 409,
    ErrorCode.KEY_REUSED: 422,
    ErrorCode.OUTDATED: 409,
    ErrorCode.REFUSED: 422,
    ErrorCode.FULL: 507,
    ErrorCode.TOO_MANY: 429,
    ErrorCode.INTERNAL: 500,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WireError(Struct):
    """The body of every answer that is no success."""

    code: ErrorCode
    text: Text


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SignedBody(Struct):
    """One signed document, as `trust.identity.Signed.encode` gives it."""

    signed: Signed


# --- the market, blobs, documents ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MarketView(Struct):
    """What anybody may know of this market."""

    identity: Bytes32
    fee_ppm: Annotated[int, Range(least=0, most=1_000_000)]
    """The market's share of what a host earns, in millionths."""
    meter_policy: Digest | None
    """Digest of the appraisal policy for purpose *meter*; None: this market meters nothing yet."""
    now: UnixMilliseconds


class StoredResult(enum.StrEnum):
    """What became of a PUT, in precedence order."""

    EXISTS = "exists"
    CREATED = "created"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stored(Struct):
    """A blob or a document is in the store, durably."""

    digest: Digest
    result: StoredResult


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlobsAsked(Struct):
    """Which of these are stored?"""

    digests: Annotated[tuple[Digest, ...], Size(least=1, most=BLOBS_ASKED_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlobsMissing(Struct):
    """Those that are not, in the order in which they were asked."""

    digests: Annotated[tuple[Digest, ...], Size(least=0, most=BLOBS_ASKED_MAX)]


# --- offers --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OfferDraft(Struct):
    """A machine, whole. Posted again under its id with other terms, it is re-listed with those."""

    offer: OfferId
    """Made by the host: time and 80 random bits."""
    platform: Name
    """As in a job's `Resources`, e.g. ``sev-snp``."""
    compute_class: ComputeClass
    gpu_model: Name
    """``cpu``: a machine without a GPU counts as one GPU of this model."""
    gpus: Annotated[int, Range(least=1, most=64)]
    memory_mib: Uint32
    """Of each GPU; of the machine where the model is ``cpu``."""
    ask_microcredits_per_gpu_hour: Microcredits
    floor_microcredits_per_gpu_hour: Microcredits | None
    """Least price for interruptible orders; None: it takes none."""
    ends_at: UnixMilliseconds


class OfferState(enum.StrEnum):
    """What became of an offer."""

    LISTED = "listed"
    CLAIMED = "claimed"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    UNLISTED = "unlisted"
    EXPIRED = "expired"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OfferView(Struct):
    """An offer as it is on record."""

    host: Bytes32
    state: OfferState
    terms_number: Count
    draft: OfferDraft
    deadline: UnixMilliseconds | None
    """When it ends; None: it has ended."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OfferList(Struct):
    """What is listed, cheapest ask first."""

    offers: Annotated[tuple[OfferView, ...], Size(least=0, most=PAGE_ROWS_MAX)]


# --- searching offers ----------------------------------------------------------------------------


class OfferNumber(enum.StrEnum):
    """What is known of an offer in numbers."""

    GPUS = "gpus"
    MEMORY = "memory"
    """MiB: of each GPU; of the machine where it has none."""
    PRICE = "price"
    """The ask; microcredits per GPU-hour."""
    FLOOR = "floor"
    """Microcredits per GPU-hour; an offer that takes no interruptible order has none."""
    TOTAL = "total"
    """The ask of the whole machine; microcredits per hour."""
    LEFT = "left"
    """Seconds until it ends, whole ones."""


class OfferWord(enum.StrEnum):
    """What is known of an offer in words. Capitals and small letters are the same."""

    PLATFORM = "platform"
    GPU = "gpu"
    CLASS = "class"
    """A value fits a class that has all of its ``name=value`` fields."""
    HOST = "host"
    """Hex; a value is its beginning."""
    OFFER = "offer"
    """A value is its beginning."""


class Comparison(enum.StrEnum):
    """What a number is held against. An offer without the number fits none of them."""

    EQUAL = "="
    UNEQUAL = "!="
    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="


SearchWord = Annotated[str, Size(least=1, most=512)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NumberClause(Struct):
    """A number of an offer stands so to a value."""

    TAG: ClassVar[str | None] = "number"

    field: OfferNumber
    comparison: Comparison
    value: Uint53


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WordClause(Struct):
    """A word of an offer is one of these values; with `excludes`, it is none of them."""

    TAG: ClassVar[str | None] = "word"

    field: OfferWord
    values: Annotated[tuple[SearchWord, ...], Size(least=1, most=WORDS_MAX)]
    excludes: bool


Clause = NumberClause | WordClause


class OfferOrder(enum.StrEnum):
    """By what a page is sorted; what is equal in it goes by the offer's id."""

    PRICE = "price"
    TOTAL = "total"
    GPUS = "gpus"
    MEMORY = "memory"
    LEFT = "left"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OfferCursor(Struct):
    """The last row that is known. It stays good when the book changes."""

    value: Uint53
    """What it is sorted by; for `OfferOrder.LEFT`, when it ends."""
    offer: OfferId


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OfferQuery(Struct):
    """Which listed offers, and which of their rows."""

    clauses: Annotated[tuple[Clause, ...], Size(least=0, most=CLAUSES_MAX)]
    """An offer fits all of them."""
    order: OfferOrder
    descending: bool
    after: OfferCursor | None
    skip: Uint53
    """Rows behind `after` that are passed over."""
    rows: Annotated[int, Range(least=1, most=PAGE_ROWS_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OfferPage(Struct):
    """Some of the offers that fit."""

    listed: Uint53
    """On the book now."""
    total: Uint53
    """That fit."""
    offers: Annotated[tuple[OfferView, ...], Size(least=0, most=PAGE_ROWS_MAX)]
    next: OfferCursor | None
    """None: there are no more."""
    version: Uint53
    """Of the book: it rises with every change of an offer."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LooserClause(Struct):
    """A clause in the place of another, and what that would bring."""

    clause: Clause
    gain: Count
    """Offers that fit all other clauses and this, and not the one that it replaces."""
    cheapest: Microcredits
    """Lowest ask among them."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FunnelStep(Struct):
    """One clause of a query."""

    clause: Clause
    left: Uint53
    """Offers that fit it and all before it."""
    looser: LooserClause | None
    """With the nearest value that brings an offer; None: no value does."""
    without: Uint53
    """Offers that fit all other clauses, and not this."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NearestMiss(Struct):
    """The offer that misses the fewest clauses; of several the cheapest."""

    offer: OfferView
    misses: Annotated[
        tuple[Annotated[int, Range(least=0, most=CLAUSES_MAX - 1)], ...],
        Size(least=1, most=CLAUSES_MAX),
    ]
    """Places of those clauses in the query."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OfferFunnel(Struct):
    """Why so few offers fit, or none."""

    listed: Uint53
    steps: Annotated[tuple[FunnelStep, ...], Size(least=0, most=CLAUSES_MAX)]
    """In the query's order."""
    nearest_miss: NearestMiss | None
    """None: something fits, or nothing is listed."""
    version: Uint53


# --- jobs ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobDraft(Struct):
    """A job to run. The manifest's digest is the client-made id: it exists once."""

    manifest: Signed
    """Signed `trust.jobs.JobManifest`. Terms and input manifests are registered before."""


class JobState(enum.StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    PLACED = "placed"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"


class LeaseState(enum.StrEnum):
    """Where a lease stands."""

    FUNDED = "funded"
    CLAIMED = "claimed"
    PROVISIONING = "provisioning"
    ATTESTING = "attesting"
    READY = "ready"
    DRAINING = "draining"
    PREEMPTED = "preempted"
    HOST_LOST = "host_lost"
    EXHAUSTED = "exhausted"
    REVOKED = "revoked"
    CLOSED = "closed"
    CLAIM_LOST = "claim_lost"
    PROVISION_FAILED = "provision_failed"
    ATTEST_FAILED = "attest_failed"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeaseView(Struct):
    """A lease as it is on record."""

    lease: LeaseId
    offer: OfferId
    job: Digest
    rank: Uint16
    ranks: Annotated[int, Range(least=1, most=RANKS_MAX)]
    generation: Count | None
    """None: no generation order names it yet, so nothing is launched."""
    host: Bytes32
    price_microcredits_per_gpu_hour: Microcredits
    gpus: Count
    state: LeaseState
    version: Uint53
    """Rises with every change of state."""
    ready_at: UnixMilliseconds | None
    """When the meter went on."""
    deadline: UnixMilliseconds | None
    """By when the next thing has happened, or the market moves it on; None: it has ended."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MoneyView(Struct):
    """What a job's hold has become; microcredits. Reserved = captured + released + the rest."""

    reserved: Microcredits
    captured: Microcredits
    released: Microcredits


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobView(Struct):
    """A job as it is on record."""

    job: Digest
    buyer: Bytes32
    owner: Bytes32
    state: JobState
    generation: Uint32
    """Number of the newest generation order; 0: there is none yet."""
    generation_digest: Digest | None
    """Digest of that order: what the next one names as `before`."""
    waiting_for: Text | None
    """Whom or what it waits for, in words; None: for nobody."""
    money: MoneyView
    leases: Annotated[tuple[LeaseView, ...], Size(least=0, most=PAGE_ROWS_MAX)]
    """Newest first."""
    created_at: UnixMilliseconds
    deadline: UnixMilliseconds | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobList(Struct):
    """The jobs of one buyer, newest first."""

    jobs: Annotated[tuple[JobView, ...], Size(least=0, most=PAGE_ROWS_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobDocuments(Struct):
    """The signed documents of a job: they prove themselves."""

    job: Attachment
    terms: Attachment
    manifests: Attachments
    """Of the inputs, in the job's order."""
    orders: Annotated[tuple[Attachment, ...], Size(least=0, most=1024)]
    """Generation orders, by number."""
    close: Attachment | None
    """Signed `trust.jobs.Close`; None: its buyer has not closed it."""


# --- asks ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerationAsk(Struct):
    """The market asks the buyer for a generation order. It can make none itself."""

    TAG: ClassVar[str | None] = "generation"

    job: Digest
    number: Count
    """The one after the newest on record."""
    before: Digest | None
    leases: Annotated[tuple[RankLease, ...], Size(least=1, most=RANKS_MAX)]
    """One for each rank, in order: what the order has to say, all of it."""
    hosts: Annotated[tuple[Bytes32, ...], Size(least=1, most=RANKS_MAX)]
    """Who holds each of these leases, in the same order."""
    expires_at: UnixMilliseconds
    """The leases lapse then."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReadyAsk(Struct):
    """The market asks a custodian to say that it is there, by a signed `Ready`."""

    TAG: ClassVar[str | None] = "ready"

    job: Digest


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AskList(Struct):
    """What the market wants of one party."""

    asks: Annotated[tuple[GenerationAsk | ReadyAsk, ...], Size(least=0, most=PAGE_ROWS_MAX)]


# --- leases, as their host sees them -------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeaseList(Struct):
    """Leases of one host that have not ended, oldest first."""

    leases: Annotated[tuple[LeaseView, ...], Size(least=0, most=PAGE_ROWS_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeaseBriefing(Struct):
    """What an agent needs to launch and brief an enclave; it adds the chip's endorsements."""

    lease: LeaseView
    launch: Annotated[bytes, Size(least=1, most=4096)]
    """Bytes of a `trust.jobs.LaunchDocument`: the image folder's file ``launch``."""
    job: Attachment
    order: Attachment
    """The signed generation order that names this lease."""
    terms: Attachment
    manifests: Attachments
    """Of the inputs, in the job's order."""
    checkpoints: Annotated[tuple[Attachment, ...], Size(least=0, most=ARTIFACTS_MAX)]
    """Signed manifests of this job's newest checkpoints, newest first."""


class LeaseEvent(enum.StrEnum):
    """What a host may report. Never *ready*, never money: those come from evidence."""

    LAUNCHED = "launched"
    ENDED = "ended"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeaseReport(Struct):
    """What became of a lease, by its host's account."""

    event: LeaseEvent
    reason: Name
    """A stable word, e.g. ``exit-0``, ``no-memory``."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LeaseRenewal(Struct):
    """The host still runs this lease."""

    seconds: Annotated[int, Range(least=1, most=RENEW_SECONDS_MAX)]
    """From now; 120 for a host that renews every 30."""


# --- mailbox -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Posted(Struct):
    """A message is in the box, durably."""

    result: StoredResult


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StoredMessage(Struct):
    """One message, and who posted it."""

    number: Count
    """Rises within one box."""
    message: Bytes16
    """Made by the sender; a repeated one is dropped."""
    sender: Bytes32
    """An identity, or a lease's address."""
    payload: Annotated[bytes, Size(least=1, most=PAYLOAD_BYTES_MAX)]
    at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MessagePage(Struct):
    """The next messages of a box; it may be empty when the wait is over."""

    messages: Annotated[tuple[StoredMessage, ...], Size(least=0, most=PAGE_MESSAGES_MAX)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MessagesAcknowledged(Struct):
    """Every message of the box up to this number has been dealt with, and may go."""

    through: Count


# --- money ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AccountView(Struct):
    """A party's balances in every role that it has; microcredits."""

    identity: Bytes32
    available: Microcredits
    """As a buyer: what holds can be placed on."""
    held: Microcredits
    """As a buyer: in the escrow of its orders."""
    pending: Microcredits
    """As a host or an owner: posted, and not yet matured."""
    payable: Microcredits
    """As a host or an owner: matured."""


class AccountRole(enum.StrEnum):
    """A party's accounts."""

    BUYER = "buyer"
    HOST_PENDING = "host_pending"
    HOST_PAYABLE = "host_payable"
    OWNER_PENDING = "owner_pending"
    OWNER_PAYABLE = "owner_payable"


class Direction(enum.StrEnum):
    """Which way money moved, seen from the account."""

    IN = "in"
    OUT = "out"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StatementLine(Struct):
    """One leg of one transfer."""

    number: Count
    """Rises by one within the account."""
    transfer: Name
    kind: Name
    direction: Direction
    amount: Microcredits
    balance: Microcredits
    """Of the account, after it."""
    at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Statement(Struct):
    """A page of one account's legs, oldest first."""

    account: AccountRole
    lines: Annotated[tuple[StatementLine, ...], Size(least=0, most=PAGE_ROWS_MAX)]


class SettlementState(enum.StrEnum):
    """What became of what a receipt posted."""

    PENDING = "pending"
    DISPUTED = "disputed"
    MATURED = "matured"
    REFUNDED = "refunded"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptView(Struct):
    """A receipt, and what it posted; microcredits, this receipt's part alone."""

    signed: Attachment
    """Signed `trust.messages.Receipt`; its signer is the key that the market metered."""
    host_amount: Microcredits
    owner_amount: Microcredits
    fee_amount: Microcredits
    state: SettlementState
    matures_at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReceiptList(Struct):
    """Receipts of one job that settled, in the order in which they did."""

    receipts: Annotated[tuple[ReceiptView, ...], Size(least=0, most=PAGE_ROWS_MAX)]
