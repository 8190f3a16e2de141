"""The market as a verifier of purpose *meter*: it believes a key because it challenged it itself.

An enclave says hello; the market answers with a nonce of 32 random bytes, in memory, for one lease,
used once; the enclave sends evidence; the market verifies it by its operator's own appraisal
policy, and only then is the statement's signing key the one whose receipts settle, for exactly that
job, lease, generation and rank (attacks.md, 12). A key that a host names is never believed: there
is no place where it could name one.

Pure: decisions here; boxes, database and clock are `marketplace.meter_loop`'s.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Final

from trust.errors import EvidenceError, RefusedError, SessionError
from trust.jobs import JobManifest, LaunchDocument, LaunchPurpose
from trust.messages import (
    Challenge,
    EvidenceBundle,
    Hello,
    MeterRequest,
    Purpose,
    Statement,
    lease_address,
)
from trust.verifier.appraisal import Evidence, Expected, verify_evidence
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.results import AttestationResult

NONCE_BYTES: Final = 32
NONCE_SECONDS: Final = 120  # a chip answers within seconds; a slow one asks again
NONCES_PER_LEASE_MAX: Final = 4  # an enclave says hello once, and again after each timeout
NONCES_MAX: Final = 65_536  # 16,384 enclaves that start at once


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SeatFacts:
    """What the market has on record of the lease that evidence names."""

    lease: str
    job: bytes
    """Digest: 32 bytes."""
    generation: int | None
    """None: no generation order names it, so nothing may run under it."""
    rank: int
    manifest: JobManifest


class Nonces:
    """The nonces of challenges that nobody has answered. They live in memory alone.

    A market that was restarted knows none, so whatever was on its way is refused, and asked again.
    """

    def __init__(self, draw: Callable[[int], bytes]) -> None:
        self._draw = draw
        self._issued: collections.OrderedDict[bytes, tuple[str, int]] = collections.OrderedDict()

    def issue(self, lease: str, now: int) -> bytes:
        """A fresh nonce for one lease; its oldest unanswered one goes, if there are too many."""
        mine = [nonce for nonce, (each, _) in self._issued.items() if each == lease]
        for nonce in mine[: max(0, len(mine) - NONCES_PER_LEASE_MAX + 1)]:
            del self._issued[nonce]
        if len(self._issued) >= NONCES_MAX:
            self._issued.popitem(last=False)
        nonce = self._draw(NONCE_BYTES)
        self._issued[nonce] = (lease, now)
        return nonce

    def take(self, nonce: bytes, lease: str, now: int) -> None:
        """Use a nonce up, whatever comes of it.

        Raises RefusedError: *nonce-unknown*, or *nonce-stale* for one that is too old.
        """
        found, at = self._issued.pop(nonce, ("", 0))
        if found != lease:
            raise RefusedError(
                "nonce-unknown", "this market issued no such nonce for this lease, or it was used"
            )
        if now - at > NONCE_SECONDS * 1000:
            raise RefusedError(
                "nonce-stale",
                f"the nonce was issued at {at}, it is {now}; at most {NONCE_SECONDS} s",
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Attested:
    """A statement that this market's own challenge, policy and records stand behind."""

    statement: Statement
    result: AttestationResult


def check_hello(hello: Hello, *, sender: bytes, market: bytes) -> None:
    """Whether a hello is for this market's meter, from the lease that it names.

    Raises SessionError.
    """
    if hello.purpose is not Purpose.METER or hello.verifier != market:
        raise SessionError("hello is not for this market's meter")
    if sender != lease_address(hello.lease):
        raise SessionError("hello names another lease than the one that it came from")


def challenge(hello: Hello, nonces: Nonces, *, market: bytes, now: int) -> Challenge:
    """Answer a hello that was checked."""
    return Challenge(verifier=market, purpose=Purpose.METER, nonce=nonces.issue(hello.lease, now))


def parse_request(request: MeterRequest) -> tuple[EvidenceBundle, Statement, LaunchDocument]:
    """Shape alone. Raises EncodingError."""
    bundle = EvidenceBundle.parse(request.evidence)
    return bundle, Statement.parse(bundle.statement), LaunchDocument.parse(bundle.launch)


def verify_request(
    request: MeterRequest,
    *,
    sender: bytes,
    market: bytes,
    facts: SeatFacts,
    policy: AppraisalPolicy,
    nonces: Nonces,
    now: int,
) -> Attested:
    """Decide whether receipts under the statement's signing key will be believed.

    (1) The statement is for this market, to meter, (2) and answers a nonce that this market issued
    for this lease, not long ago, and that nobody used: it is used now, whatever follows. (3) It
    comes from the lease that it names. (4) The launch document that was measured says the same job,
    lease, generation, rank, number of ranks and market. (5) They are those that the market has on
    record. (6) The chip's evidence holds under the operator's policy, over exactly this statement
    and this launch document. (7) The image is one that the buyer's manifest names.

    Left to the caller: that `facts` are of the lease in the statement, and that the key meters no
    other lease (`leases.attest`). `now` is Unix milliseconds.
    Raises EncodingError, RefusedError, EvidenceError.
    """
    bundle, statement, launch = parse_request(request)
    if statement.purpose is not Purpose.METER or statement.verifier != market:  # (1)
        raise RefusedError("wrong-purpose", "the statement is not for this market's meter")
    nonces.take(statement.nonce, statement.lease, now)  # (2)
    if sender != lease_address(statement.lease):  # (3)
        raise RefusedError("wrong-lease", "the evidence came from another lease than it names")
    _check_launch(statement, launch, market)  # (4)
    wanted = (facts.lease, facts.job, facts.generation, facts.rank, facts.manifest.enclaves)
    found = (
        statement.lease,
        statement.job,
        statement.generation,
        statement.rank,
        statement.ranks,
    )
    if found != wanted:  # (5)
        raise RefusedError("wrong-seat", "the statement names another seat than the lease has")
    result = verify_evidence(  # (6)
        Evidence.of(bundle),
        policy,
        Expected.of(statement),
        now=_moment(now),
    )
    result.require()
    if result.measurement not in facts.manifest.images:  # (7)
        raise RefusedError("wrong-image", "the image is none that the job's manifest names")
    return Attested(statement=statement, result=result)


def refusal_code(error: Exception) -> str:
    """A stable word for why evidence was refused."""
    if isinstance(error, RefusedError):
        return error.code
    return "evidence" if isinstance(error, EvidenceError) else "malformed"


def _check_launch(statement: Statement, launch: LaunchDocument, market: bytes) -> None:
    if statement.launch != launch.digest:
        raise RefusedError("wrong-launch", "the statement names another launch document")
    said = (launch.job, launch.lease, launch.generation, launch.rank, launch.ranks)
    stated = (
        statement.job,
        statement.lease,
        statement.generation,
        statement.rank,
        statement.ranks,
    )
    if said != stated or launch.purpose is not LaunchPurpose.RUN:
        raise RefusedError("wrong-launch", "launch document and statement name different seats")
    if launch.market != market:
        raise RefusedError("wrong-launch", "the launch document names another market")


def _moment(milliseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(milliseconds / 1000, tz=dt.UTC)
