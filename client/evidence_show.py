"""`blindhost evidence show`: what a file of evidence says, field by field, for a person.

Rules:
- The kind is told by the bytes, never by the file's name; what is of no kind that we know is an
  error that names what was tried.
- Nothing is verified, so nothing is believed: the title says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from client.evidence_verify import parsed_report, to_json
from trust.encoding import Document, Json
from trust.errors import BlindhostError, EvidenceFormatError
from trust.evidence.claims import Platform
from trust.evidence.nvidia import parse_gpu_report
from trust.evidence.snp import REPORT_BYTES, SnpReport, parse_tcb, product_of_cpuid
from trust.jobs import LaunchDocument
from trust.messages import EvidenceBundle, GpuEvidence, Statement
from trust.verifier.certificates import Certificate, parse_certificate, parse_revocation_list
from trust.verifier.facility import FacilityEndorsement
from trust.verifier.rims import parse_rim

UNBELIEVED: Final = "nothing in it was verified"
_DOCUMENTS: Final[tuple[type[Document], ...]] = (
    EvidenceBundle,
    GpuEvidence,
    Statement,
    LaunchDocument,
    FacilityEndorsement,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """What a file is, and what stands in it."""

    kind: str
    value: Json

    @property
    def title(self) -> tuple[str, str]:
        """The first line."""
        return self.kind, UNBELIEVED

    def lines(self) -> Iterator[tuple[str, str]]:
        """(field, value), nested fields with dots between."""
        yield from _flat("", self.value)

    def to_json(self) -> dict[str, Json]:
        """The same for a program."""
        return {"kind": self.kind, "value": self.value}


def explain_file(data: bytes) -> Explained:
    """Say what these bytes are. Raises EvidenceFormatError."""
    reasons = []
    for kind, explain in _KINDS.items():
        try:
            return Explained(kind=kind, value=explain(data))
        except BlindhostError as error:
            reasons.append(f"{kind}: {error}")
    raise EvidenceFormatError("no evidence of a kind that is known; " + "; ".join(reasons))


def _snp(data: bytes) -> Json:
    if len(data) != REPORT_BYTES:
        raise EvidenceFormatError(f"{len(data)} bytes, wanted {REPORT_BYTES}")
    report = parsed_report(Platform.SEV_SNP.value, data)
    value = to_json(report)
    product = _product(report)
    if isinstance(value, dict) and product is not None:
        value["product by CPUID"] = product.value
        for name in ("reported_tcb", "committed_tcb", "current_tcb", "launch_tcb"):
            value[name] = f"{parse_tcb(getattr(report, name), product)}"
    return value


def _product(report: SnpReport) -> Any:
    return None if report.cpuid is None else product_of_cpuid(report.cpuid)


def _tdx(data: bytes) -> Json:
    return to_json(parsed_report(Platform.TDX.value, data))


def _gpu_report(data: bytes) -> Json:
    return to_json(parse_gpu_report(data))


def _document(kind: type[Document]) -> Any:
    def explain(data: bytes) -> Json:
        document = kind.parse(data)
        value = to_json(document)
        if isinstance(document, EvidenceBundle) and isinstance(value, dict):
            value["statement"] = to_json(Statement.parse(document.statement))
            value["launch"] = to_json(LaunchDocument.parse(document.launch))
            value["report"] = to_json(parsed_report(document.platform, document.report))
            if document.gpu is not None:
                value["gpu"] = _gpu_document(GpuEvidence.parse(document.gpu))
            value["endorsements"] = [
                {"kind": each.kind, "bytes": len(each.content)} for each in document.endorsements
            ]
        return _gpu_document(document) if isinstance(document, GpuEvidence) else value

    return explain


def _gpu_document(document: GpuEvidence) -> Json:
    return [
        {"kind": each.kind.value, "report": to_json(parse_gpu_report(each.report))}
        for each in document.devices
    ]


def _certificate(data: bytes) -> Json:
    return _shown_certificate(parse_certificate(data))


def _shown_certificate(certificate: Certificate) -> Json:
    return {
        "subject": certificate.common_name,
        "issuer": certificate.issuer_common_name,
        "serial": f"{certificate.serial:#x}",
        "not before": certificate.not_before.isoformat(),
        "not after": certificate.not_after.isoformat(),
        "SHA-256": certificate.fingerprint.hex(),
    }


def _list(data: bytes) -> Json:
    found = parse_revocation_list(data)
    return {
        "issuer": found.issuer_common_name,
        "this update": found.this_update.isoformat(),
        "next update": None if found.next_update is None else found.next_update.isoformat(),
        "revoked serials": [f"{serial:#x}" for serial in sorted(found.serials)],
    }


def _rim(data: bytes) -> Json:
    return to_json(parse_rim(data))


_KINDS: Final[Mapping[str, Any]] = {
    "SEV-SNP report": _snp,
    "TDX quote": _tdx,
    "NVIDIA GPU report": _gpu_report,
    **{f"document {kind.LABEL}": _document(kind) for kind in _DOCUMENTS},
    "certificate": _certificate,
    "revocation list": _list,
    "NVIDIA reference manifest": _rim,
}


def _flat(name: str, value: Json) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(f"{name}.{key}" if name else key, each)
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from _flat(f"{name}[{number}]", each)
    else:
        yield name, "none" if value in (None, [], {}) else str(value)
