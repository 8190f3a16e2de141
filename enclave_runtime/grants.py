"""Whether a grant is the answer to what was asked, and how far the granted allowances reach.

Rules:
- A grant is believed when its custodian signed it, for this nonce, these keys, this seat and this
  number, with exactly the scopes that were asked for. Anything else is refused whole.
- HPKE opens it under its own public half, so neither half can be another grant's (attacks.md, A4).
- The enclave has no clock that it trusts: an allowance is tokens, steps and reports, never time.
  Of several custodians' bounds the least counts; a later grant never lowers an earlier one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from trust.artifacts import Core, Custodian
from trust.encoding import digest
from trust.errors import SessionError
from trust.identity import verify
from trust.messages import (
    Allowance,
    Grant,
    GrantInfo,
    GrantSecret,
    GrantSigned,
    Scope,
    ScopeKind,
)
from trust.sealing import HpkePrivateKey


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The question that a grant must answer."""

    custodian: bytes
    nonces: frozenset[bytes]
    """Nonces of all statements that this enclave made to it: a stored grant keeps its first one."""
    job: bytes
    generation: int
    rank: int
    number: int
    """0: the seat's grant; else the number of a follow-up."""
    terms: bytes
    """Digest of the terms that the job names."""
    scopes: frozenset[Scope]
    """What must be granted."""
    derived_entries: frozenset[Custodian]
    """Entries that may add the share of a stated checkpoint; empty for a follow-up."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OpenGrant:
    """A grant that is believed."""

    info: GrantInfo
    secret: GrantSecret = dataclasses.field(repr=False)


def seat_scopes(
    custodian: bytes, inputs: Iterable[Core], entries: Iterable[Custodian], *, enclaves: int
) -> frozenset[Scope]:
    """What `custodian` must grant for a seat: its inputs, its outputs, and its group shares."""
    inputs = tuple(inputs)
    scopes = {
        Scope(scope=ScopeKind.INPUT, lineage=e.lineage, epoch=e.epoch, core=core.digest)
        for core in inputs
        for e in core.custodians
        if core.origin is None and e.identity == custodian
    }
    scopes |= derived_scopes(custodian, (core for core in inputs if core.origin is not None))
    kinds = (ScopeKind.OUTPUT, ScopeKind.GROUP) if enclaves > 1 else (ScopeKind.OUTPUT,)
    scopes |= {
        Scope(scope=kind, lineage=e.lineage, epoch=e.epoch, core=None)
        for kind in kinds
        for e in entries
        if e.identity == custodian
    }
    return frozenset(scopes)


def derived_scopes(custodian: bytes, cores: Iterable[Core]) -> frozenset[Scope]:
    """What `custodian` must grant to open derived artifacts: one share for each of its entries."""
    return frozenset(
        Scope(scope=ScopeKind.DERIVED, lineage=e.lineage, epoch=e.epoch, core=core.digest)
        for core in cores
        for e in core.custodians
        if e.identity == custodian
    )


def open_grant(grant: Grant, asked: Asked, key: HpkePrivateKey) -> OpenGrant:
    """Open a grant, or raise.

    (1) The info names the custodian that was asked, (2) who signed it together with exactly these
    sealed bytes. (3) It answers this question: nonce, key, job, generation, rank, number.
    (4) Its scopes are those asked for, each once; a seat's grant that states a checkpoint may add
    that custodian's shares of one core. (5) The sealed half opens under this info and key,
    (6) holds one share for each scope, and (7) names the job's terms.

    Left to the caller: that the stated checkpoint is of an earlier generation, and that the added
    core is that checkpoint's.

    Raises SessionError, SignatureError, HpkeError or EncodingError.
    """
    info = GrantInfo.parse(grant.info)
    if info.custodian != asked.custodian:  # (1)
        raise SessionError(
            f"grant of custodian {info.custodian.hex()}, asked was {asked.custodian.hex()}"
        )
    covered = GrantSigned(info=info.digest, sealed=digest(grant.sealed))  # (2)
    verify(asked.custodian, grant.signature, covered.encode())
    _check_answers(info, asked, key.public)  # (3)
    _check_scopes(info, asked)  # (4)
    secret = GrantSecret.parse(key.open(grant.sealed, info=grant.info))  # (5)
    if len(secret.shares) != len(info.scopes):  # (6)
        raise SessionError(f"grant of {len(secret.shares)} shares for {len(info.scopes)} scopes")
    if secret.terms != asked.terms:  # (7)
        raise SessionError(f"grant under terms {secret.terms.hex()}, the job's {asked.terms.hex()}")
    return OpenGrant(info=info, secret=secret)


def _check_answers(info: GrantInfo, asked: Asked, public: bytes) -> None:
    if info.nonce not in asked.nonces:
        raise SessionError("grant for a nonce that this enclave never stated")
    if info.hpke_key != public:
        raise SessionError("grant for another HPKE key than this enclave's")
    if info.job != asked.job:
        raise SessionError(f"grant for job {info.job.hex()}, asked was {asked.job.hex()}")
    if (info.generation, info.rank) != (asked.generation, asked.rank):
        raise SessionError(
            f"grant for generation {info.generation} rank {info.rank}, "
            f"asked was {asked.generation} rank {asked.rank}"
        )
    if info.number != asked.number:
        raise SessionError(f"grant number {info.number}, asked was {asked.number}")


def _check_scopes(info: GrantInfo, asked: Asked) -> None:
    granted = set(info.scopes)
    if len(granted) != len(info.scopes):
        raise SessionError("grant with a scope that stands twice")
    if absent := asked.scopes - granted:
        raise SessionError(f"grant without {len(absent)} of the scopes that were asked for")
    added = granted - asked.scopes
    cores = {scope.core for scope in added}
    may_add = {(e.lineage, e.epoch) for e in asked.derived_entries} if info.checkpoint else set()
    if len(cores) > 1 or any(
        s.scope is not ScopeKind.DERIVED or (s.lineage, s.epoch) not in may_add for s in added
    ):
        raise SessionError(f"grant with {len(added)} scopes that nobody asked for")


# --- allowances ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """How far one custodian lets this enclave go, cumulative since its start; None: no bound."""

    tokens: int | None
    steps: int | None
    reports: int | None

    def steps_reach(self, *, tokens_per_step: int, tokens_reserved: int) -> int | None:
        """Steps that fit into both the steps and the tokens; None: no bound.

        `tokens_reserved` are kept back for evaluations, which use tokens and take no step.
        """
        by_tokens = None
        if self.tokens is not None and tokens_per_step:
            by_tokens = max(0, self.tokens - tokens_reserved) // tokens_per_step
        return least(self.steps, by_tokens)


def raised(bound: Bound | None, allowance: Allowance) -> Bound:
    """The bound after a grant of `allowance`: totals since the enclave's start, like its account.

    A later grant never takes back what an earlier one allowed: answers may come out of order.
    """

    def one(before: int | None, allowed: int | None) -> int | None:
        return None if allowed is None or before is None else max(before, allowed)

    before = bound or Bound(tokens=0, steps=0, reports=0)
    return Bound(
        tokens=one(before.tokens, allowance.tokens),
        steps=one(before.steps, allowance.steps),
        reports=one(before.reports, allowance.reports),
    )


def least(*bounds: int | None) -> int | None:
    """The least of the bounds that are set; None if none is."""
    return min((b for b in bounds if b is not None), default=None)
