"""How a grant is made: its scopes, its shares, its two halves, the custodian's signature.

- Only this file turns lineage keys into shares. What each share opens is said by trust/custody.py.
- The sealed half opens for the statement's HPKE key under exactly the public half.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trust.artifacts import Core, Custodian
from trust.custody import artifact_share, group_share, input_share, output_share
from trust.encoding import digest
from trust.errors import RefusedError
from trust.messages import (
    Allowance,
    CheckpointAt,
    Grant,
    GrantInfo,
    GrantSecret,
    GrantSigned,
    Scope,
    ScopeKind,
    Statement,
)
from trust.release_state import Holdings
from trust.sealing import hpke_seal


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """One scope, and the share that it stands for."""

    scope: Scope
    share: bytes


def input_openings(holdings: Holdings, cores: Sequence[Core]) -> tuple[Opening, ...]:
    """Shares of these inputs, each of which has one custodian: this one."""
    return tuple(
        _opening(ScopeKind.INPUT, entry, core, input_share(_lineage_key(holdings, entry), core))
        for core in cores
        for entry in core.custodians
    )


def output_openings(
    holdings: Holdings, entries: Sequence[Custodian], job: bytes, generation: int
) -> tuple[Opening, ...]:
    """For what this generation will make: one share for each own entry."""
    return tuple(
        _opening(
            ScopeKind.OUTPUT,
            entry,
            None,
            output_share(_lineage_key(holdings, entry), job, generation),
        )
        for entry in own_entries(holdings, entries)
    )


def group_openings(
    holdings: Holdings, entries: Sequence[Custodian], job: bytes, generation: int
) -> tuple[Opening, ...]:
    """For the frames between this generation's enclaves: one share for each own entry."""
    return tuple(
        _opening(
            ScopeKind.GROUP,
            entry,
            None,
            group_share(_lineage_key(holdings, entry), job, generation),
        )
        for entry in own_entries(holdings, entries)
    )


def derived_openings(holdings: Holdings, core: Core) -> tuple[Opening, ...]:
    """For one derived artifact: one share for each own entry of its core."""
    return tuple(
        _opening(
            ScopeKind.DERIVED, entry, core, artifact_share(_lineage_key(holdings, entry), core)
        )
        for entry in own_entries(holdings, core.custodians)
    )


def own_entries(holdings: Holdings, entries: Sequence[Custodian]) -> tuple[Custodian, ...]:
    """Those of this custodian, in their order."""
    return tuple(each for each in entries if each.identity == holdings.identity)


def _opening(kind: ScopeKind, entry: Custodian, core: Core | None, share: bytes) -> Opening:
    name = None if core is None else core.digest
    scope = Scope(scope=kind, lineage=entry.lineage, epoch=entry.epoch, core=name)
    return Opening(scope=scope, share=share)


def _lineage_key(holdings: Holdings, entry: Custodian) -> bytes:
    key = holdings.lineage_keys.get((entry.lineage, entry.epoch))
    if key is None:
        raise RefusedError(
            "lineage-shredded", f"no key for epoch {entry.epoch} of {entry.lineage[:8].hex()}"
        )
    return key


def seal_grant(
    holdings: Holdings,
    statement: Statement,
    openings: Sequence[Opening],
    *,
    number: int,
    checkpoint: CheckpointAt | None,
    allowance: Allowance,
    terms: bytes,
) -> bytes:
    """A `Grant`, encoded: its secret sealed to the statement's key, under its info, and signed."""
    info = GrantInfo(
        custodian=holdings.identity,
        scopes=tuple(each.scope for each in openings),
        nonce=statement.nonce,
        hpke_key=statement.hpke_key,
        job=statement.job,
        generation=statement.generation,
        rank=statement.rank,
        number=number,
        checkpoint=checkpoint,
    ).encode()
    shares = tuple(each.share for each in openings)
    secret = GrantSecret(shares=shares, allowance=allowance, terms=terms).encode()
    sealed = hpke_seal(secret, statement.hpke_key, info=info)
    covered = GrantSigned(info=digest(info), sealed=digest(sealed))
    return Grant(info=info, sealed=sealed, signature=holdings.key.sign(covered).signature).encode()
