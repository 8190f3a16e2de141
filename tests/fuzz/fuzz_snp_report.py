"""SNP reports: the parser, the nine checks; none is accepted but those that the chip signed."""

from __future__ import annotations

import datetime as dt
import functools

from tests.fuzz import material
from tests.vectors.evidence.verdicts import policy_of
from trust.errors import BlindhostError
from trust.evidence.claims import Product
from trust.evidence.snp import SIGNED_BYTES, parse_snp_report, parse_tcb
from trust.verifier.endorsements import SnpEndorsements, parse_snp_endorsements
from trust.verifier.roots import PinnedRoot
from trust.verifier.snp import check_snp, claims_of


def seeds() -> list[bytes]:
    return material.reports("snp")


@functools.cache
def _signed() -> frozenset[bytes]:
    return frozenset(seed[:SIGNED_BYTES] for seed in seeds())


@functools.cache
def _judges() -> tuple[SnpEndorsements, tuple[PinnedRoot, ...], dt.datetime]:
    given = material.inputs("snp-genoa")[0]
    parsed = parse_snp_endorsements(material.sets_of("snp-genoa")[0])
    return parsed, policy_of(given).roots, dt.datetime.fromisoformat(given["now"])


def one(data: bytes) -> None:
    try:
        report = parse_snp_report(data)
    except BlindhostError:
        return
    endorsements, roots, now = _judges()
    lines = check_snp(report, endorsements, roots, now)
    if all(line.passed for line in lines):
        assert report.signed_bytes in _signed(), "accepted, and nobody signed it"
    for product in Product:
        try:
            claims_of(report, endorsements, product)
            parse_tcb(report.reported_tcb, product)
        except BlindhostError:
            continue
