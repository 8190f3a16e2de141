"""Sets of SNP endorsements: kinds, certificates, list, and the nine checks over a good report.

No set is accepted that differs from the vendor's in a byte.
"""

from __future__ import annotations

import datetime as dt
import functools

from tests.fuzz import material
from tests.vectors.evidence.verdicts import policy_of
from trust.errors import BlindhostError
from trust.evidence.snp import SnpReport, parse_snp_report
from trust.verifier.endorsements import parse_snp_endorsements
from trust.verifier.roots import PinnedRoot
from trust.verifier.snp import check_snp

KINDS = ("vcek", "vlek", "ask", "asvk", "ark", "crl", "ocsp")


def seeds() -> list[bytes]:
    return [
        material.joined((KINDS.index(kind), content) for kind, content in each)
        for each in material.sets_of("snp")
    ]


@functools.cache
def _issued() -> frozenset[bytes]:
    return frozenset(content for each in material.sets_of("snp") for _kind, content in each)


@functools.cache
def _judged() -> tuple[SnpReport, tuple[PinnedRoot, ...], dt.datetime]:
    given = material.inputs("snp-genoa")[0]
    report = parse_snp_report(material.reports("snp-genoa")[0])
    return report, policy_of(given).roots, dt.datetime.fromisoformat(given["now"])


def one(data: bytes) -> None:
    pairs = [(KINDS[number % len(KINDS)], content) for number, content in material.parted(data)]
    report, roots, now = _judged()
    try:
        lines = check_snp(report, parse_snp_endorsements(pairs), roots, now)
    except BlindhostError:
        return
    if all(line.passed for line in lines):
        assert all(content in _issued() for _kind, content in pairs), "accepted, and nobody issued"
