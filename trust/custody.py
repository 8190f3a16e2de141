"""Custody: lineage key → shares → artifact keys (docs/spec/custody.md).

- A *lineage key*, 32 random bytes for each lineage and epoch, never leaves its custodian.
- A *share* leaves, and opens one thing:
  an *input share* one core; an *output share* what one job's generation makes; a *derived share*
  one artifact of those; a *group share* the frames between one generation's enclaves.
- A *key* is made from one share of each custodian entry, in the core's order: all must consent.
- From a share nobody gets to a lineage key, another artifact, another job or another generation
  (attacks.md, 1: each argument is inside the KDF, and no share is a prefix of another's input).
- A lineage is born *real* or *simulated*, visibly; the two never meet in one core or job.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

from trust.artifacts import CUSTODIANS_MAX, Core, Custodian
from trust.encoding import derive, digest, label_bytes
from trust.errors import CustodyError


class LineageKind(enum.Enum):
    """Under which roots of trust a lineage's shares may be released."""

    REAL = b"r"
    SIMULATED = b"s"


def lineage_id(kind: LineageKind, identity: bytes, entropy: bytes) -> bytes:
    """A lineage's public name: kind byte ‖ SHA-256 over kind, identity and 32 random bytes."""
    if len(identity) != 32 or len(entropy) != 32:
        raise CustodyError("a lineage id is made from an identity and 32 random bytes")
    return kind.value + digest(label_bytes("lineage") + kind.value + identity + entropy)


def lineage_kind(lineage: bytes) -> LineageKind:
    """Real or simulated. Raises CustodyError for any other first byte."""
    try:
        return LineageKind(lineage[:1])
    except ValueError as error:
        raise CustodyError(f"lineage begins with {lineage[:1]!r}, wanted b'r' or b's'") from error


def common_kind(custodians: Iterable[Custodian]) -> LineageKind:
    """The one kind of these entries. Raises CustodyError if real and simulated meet."""
    kinds = {lineage_kind(each.lineage) for each in custodians}
    if len(kinds) != 1:
        raise CustodyError("real and simulated lineages meet in one job")
    return kinds.pop()


def input_share(lineage_key: bytes, core: Core) -> bytes:
    """Opens this core, with the other custodians' shares, and nothing else."""
    return derive((lineage_key,), "share/artifact", core.digest)


def output_share(lineage_key: bytes, job: bytes, generation: int) -> bytes:
    """For what this generation of this job will make."""
    return derive((lineage_key,), "share/output", job, generation)


def derived_share(an_output_share: bytes, core: Core) -> bytes:
    """For one derived artifact; its custodian makes it again from the core alone."""
    return derive((an_output_share,), "share/derived", core.digest)


def group_share(lineage_key: bytes, job: bytes, generation: int) -> bytes:
    """For the frames between the enclaves of this generation."""
    return derive((lineage_key,), "share/group", job, generation)


def artifact_share(lineage_key: bytes, core: Core) -> bytes:
    """The share of any core: an input's directly, a derived one's through its output share."""
    if core.origin is None:
        return input_share(lineage_key, core)
    return derived_share(output_share(lineage_key, core.origin.job, core.origin.generation), core)


def artifact_key(shares: Sequence[bytes], core: Core) -> bytes:
    """The key of this core from one share for each custodian entry, in the core's order."""
    if len(shares) != len(core.custodians):
        raise CustodyError(f"{len(shares)} shares for {len(core.custodians)} custodian entries")
    return derive(tuple(shares), "key", core.digest)


def group_key(shares: Sequence[bytes], job: bytes, generation: int) -> bytes:
    """The key between one generation's enclaves, from both sides' group shares."""
    return derive(tuple(shares), "group", job, generation)


def output_custodians(inputs: Iterable[Core]) -> tuple[Custodian, ...]:
    """Who has custody of what is made from these inputs: the union, distinct and sorted.

    So a derived artifact's policy is the conjunction of its inputs' policies.
    """
    entries = {entry for core in inputs for entry in core.custodians}
    if not 0 < len(entries) <= CUSTODIANS_MAX:
        raise CustodyError(f"{len(entries)} custodian entries, wanted 1 to {CUSTODIANS_MAX}")
    common_kind(entries)
    return tuple(sorted(entries))
