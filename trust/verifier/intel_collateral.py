"""Intel's endorsements of a TDX quote, parsed completely and not believed.

Rules (docs/spec/evidence-tdx.md §3):
- Endorsements are the seven kinds of `KINDS`, each once. TCB info and identity of the quoting
  enclave travel as Intel's service serves them, so that the signed bytes are the served bytes.
- Size is looked at first. JSON has no field twice, no floats; a field that Intel adds is ignored,
  one that we need and is missing is refused.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from trust.encoding import Json, digest, parse_json
from trust.errors import EncodingError, EvidenceFormatError, SizeLimitError
from trust.evidence.tdx import TcbStatus
from trust.verifier.certificates import Certificate, RevocationList, parse_revocation_list
from trust.verifier.intel_certificates import COMPONENTS, pem_certificates
from trust.verifier.results import Collateral

TCB_INFO: Final = "tdx-tcb-info"
TCB_INFO_CHAIN: Final = "tdx-tcb-info-chain"
QE_IDENTITY: Final = "tdx-qe-identity"
QE_IDENTITY_CHAIN: Final = "tdx-qe-identity-chain"
PCK_CRL: Final = "tdx-pck-crl"
PCK_CRL_CHAIN: Final = "tdx-pck-crl-chain"
ROOT_CRL: Final = "tdx-root-crl"
KINDS: Final = (
    TCB_INFO,
    TCB_INFO_CHAIN,
    QE_IDENTITY,
    QE_IDENTITY_CHAIN,
    PCK_CRL,
    PCK_CRL_CHAIN,
    ROOT_CRL,
)
_KIND_PREFIX: Final = "tdx-"

JSON_BYTES_MAX: Final = 128 * 1024  # the longest TCB info of 2026 has 12,000
LEVELS_MAX: Final = 64  # of a platform, a module or a quoting enclave; Intel's most is 17
ADVISORIES_MAX: Final = 128
# What Intel says of a module or an enclave. dcap-qvl takes ConfigurationNeeded of an enclave for
# UpToDate.
_SVN_STATUSES: Final = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED})
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_ADVISORY: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TcbLevel:
    """One level of a platform's firmware."""

    sgx: tuple[int, ...]
    """16 components of the processor's firmware, compared with the PCK's."""
    tdx: tuple[int, ...]
    """16 components of the TDX module, compared with TEE_TCB_SVN."""
    pce_svn: int
    status: TcbStatus
    advisories: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SvnLevel:
    """One level of a TDX module or a quoting enclave, which have one number."""

    svn: int
    status: TcbStatus
    advisories: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleIdentity:
    """Who signs a TDX module, and with which attributes."""

    id: str
    """``TDX_`` and the major version in two hexadecimal digits; empty for the first version's."""
    mr_signer: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[SvnLevel, ...]
    """The highest first; none for the first version, which the platform's levels cover."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """What TCB info and the quoting enclave's identity have in common."""

    id: str
    version: int
    number: int
    """tcbEvaluationDataNumber."""
    issued_at: dt.datetime
    next_update: dt.datetime
    body: bytes = field(repr=False)
    """The JSON that was signed."""
    signature: bytes = field(repr=False)
    """r and s, 32 bytes each, big endian."""
    signers: tuple[Certificate, ...]
    """The chain that came with it, the signer first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TcbInfo:
    """Intel's word about the levels of one kind of platform."""

    issued: Issued
    fmspc: bytes
    pce_id: bytes
    tcb_type: int
    module: ModuleIdentity
    identities: tuple[ModuleIdentity, ...]
    levels: tuple[TcbLevel, ...]
    """In Intel's order, whatever the order in the JSON: SGX components, PCESVN and TDX components,
    the highest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QeIdentity:
    """Intel's word about its quoting enclave for TDX."""

    issued: Issued
    miscselect: int
    miscselect_mask: int
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[SvnLevel, ...]
    """The highest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxEndorsements:
    """What Intel says about a platform; parsed, and not believed."""

    tcb_info: TcbInfo
    qe_identity: QeIdentity
    pck_crl: RevocationList | None
    """None if the host stapled none: the verifier's line refuses."""
    pck_crl_chain: tuple[Certificate, ...]
    root_crl: RevocationList | None
    """None if the host stapled none: the verifier's line refuses."""
    collateral: tuple[Collateral, ...]
    pem: tuple[str, str, str]
    """The chains of PCK list, TCB info and identity, as they came: for dcap-qvl."""


def parse_tdx_endorsements(endorsements: Sequence[tuple[str, bytes]]) -> TdxEndorsements:
    """Sort and parse the ``tdx-`` kinds; others are another platform's and are not looked at.

    Raises SizeLimitError or EvidenceFormatError: an unknown kind, one that stands twice, or one
    that is missing. A missing revocation list alone gets as far as its check.
    """
    own = [(kind, data) for kind, data in endorsements if kind.startswith(_KIND_PREFIX)]
    by_kind = dict(own)
    if len(by_kind) != len(own):
        raise EvidenceFormatError("a TDX endorsement of one kind stands twice")
    if unknown := sorted(set(by_kind) - set(KINDS)):
        raise EvidenceFormatError(f"TDX endorsement of unknown kind {unknown[0][:32]!r}")
    if missing := [kind for kind in KINDS if kind not in by_kind and kind not in _MAY_BE_MISSING]:
        raise EvidenceFormatError(f"no TDX endorsement of kind {missing[0]}")
    chains = {kind: pem_certificates(by_kind[kind], kind) for kind in _CHAINS}
    return TdxEndorsements(
        tcb_info=parse_tcb_info(by_kind[TCB_INFO], chains[TCB_INFO_CHAIN]),
        qe_identity=parse_qe_identity(by_kind[QE_IDENTITY], chains[QE_IDENTITY_CHAIN]),
        pck_crl=parse_revocation_list(by_kind[PCK_CRL]) if PCK_CRL in by_kind else None,
        pck_crl_chain=chains[PCK_CRL_CHAIN],
        root_crl=parse_revocation_list(by_kind[ROOT_CRL]) if ROOT_CRL in by_kind else None,
        collateral=tuple(
            Collateral(kind=each, sha256=digest(by_kind[each])) for each in sorted(by_kind)
        ),
        pem=tuple(by_kind[kind].decode("ascii") for kind in _CHAINS),  # type: ignore[arg-type]
    )


_MAY_BE_MISSING: Final = frozenset({PCK_CRL, ROOT_CRL})
_CHAINS: Final = (PCK_CRL_CHAIN, TCB_INFO_CHAIN, QE_IDENTITY_CHAIN)


# --- Intel's JSON --------------------------------------------------------------------------------


def parse_tcb_info(data: bytes, signers: tuple[Certificate, ...]) -> TcbInfo:
    """``{"tcbInfo":…,"signature":"…"}``. Raises SizeLimitError or EvidenceFormatError."""
    issued, value = _issued(data, "tcbInfo", signers)
    module = _object(value, "tdxModule")
    # Intel wrote no identities before TDX 1.5: the first version's modules have none.
    named = _objects(value, "tdxModuleIdentities") if "tdxModuleIdentities" in value else []
    identities = tuple(_module(each) for each in named)
    if len({each.id for each in identities}) != len(identities):
        raise EvidenceFormatError("tcbInfo: a module's identity stands twice")
    levels = [_tcb_level(each) for each in _objects(value, "tcbLevels")]
    return TcbInfo(
        issued=issued,
        fmspc=_hex(value, "fmspc", 6),
        pce_id=_hex(value, "pceId", 2),
        tcb_type=_number(value, "tcbType", 0xFFFFFFFF),
        module=_module({**module, "id": "", "tcbLevels": []}),
        identities=identities,
        levels=tuple(sorted(levels, key=lambda e: (e.sgx, e.pce_svn, e.tdx), reverse=True)),
    )


def parse_qe_identity(data: bytes, signers: tuple[Certificate, ...]) -> QeIdentity:
    """``{"enclaveIdentity":…,"signature":"…"}``. Raises SizeLimitError or EvidenceFormatError."""
    issued, value = _issued(data, "enclaveIdentity", signers)
    return QeIdentity(
        issued=issued,
        # Intel writes the four bytes in the order in which they stand in a report.
        miscselect=int.from_bytes(_hex(value, "miscselect", 4), "little"),
        miscselect_mask=int.from_bytes(_hex(value, "miscselectMask", 4), "little"),
        attributes=_hex(value, "attributes", 16),
        attributes_mask=_hex(value, "attributesMask", 16),
        mr_signer=_hex(value, "mrsigner", 32),
        isv_prod_id=_number(value, "isvprodid", 0xFFFF),
        levels=_svn_levels(value, 0xFFFF),
    )


def _issued(
    data: bytes, name: str, signers: tuple[Certificate, ...]
) -> tuple[Issued, dict[str, Json]]:
    if len(data) > JSON_BYTES_MAX:
        raise SizeLimitError(f"{name}: {len(data)} bytes, at most {JSON_BYTES_MAX}")
    pattern = rb'\{"%s":(\{.*\}),"signature":"([0-9a-fA-F]{128})"\}' % name.encode("ascii")
    match = re.fullmatch(pattern, data, re.DOTALL)
    if match is None:
        raise EvidenceFormatError(f'{name}: wanted {{"{name}":{{…}},"signature":"…"}}')
    body = match.group(1)
    try:
        value = parse_json(body)
    except EncodingError as error:
        raise EvidenceFormatError(f"{name}: {error}") from error
    if not isinstance(value, dict):
        raise EvidenceFormatError(f"{name}: not an object")
    issued = Issued(
        id=_text(value, "id"),
        version=_number(value, "version", 0xFF),
        number=_number(value, "tcbEvaluationDataNumber", 0xFFFFFFFF),
        issued_at=_moment(value, "issueDate"),
        next_update=_moment(value, "nextUpdate"),
        body=body,
        signature=bytes.fromhex(match.group(2).decode("ascii")),
        signers=signers,
    )
    return issued, value


def _tcb_level(value: dict[str, Json]) -> TcbLevel:
    tcb = _object(value, "tcb")
    return TcbLevel(
        sgx=_components(tcb, "sgxtcbcomponents"),
        tdx=_components(tcb, "tdxtcbcomponents"),
        pce_svn=_number(tcb, "pcesvn", 0xFFFF),
        status=_status(value),
        advisories=_advisories(value),
    )


def _components(tcb: dict[str, Json], name: str) -> tuple[int, ...]:
    components = tuple(_number(each, "svn", 0xFF) for each in _objects(tcb, name))
    if len(components) != COMPONENTS:
        raise EvidenceFormatError(f"{name}: {len(components)} components, wanted {COMPONENTS}")
    return components


def _module(value: dict[str, Json]) -> ModuleIdentity:
    return ModuleIdentity(
        id=_text(value, "id"),
        mr_signer=_hex(value, "mrsigner", 48),
        attributes=_hex(value, "attributes", 8),
        attributes_mask=_hex(value, "attributesMask", 8),
        levels=_svn_levels(value, 0xFF),
    )


def _svn_levels(value: dict[str, Json], most: int) -> tuple[SvnLevel, ...]:
    levels = []
    for each in _objects(value, "tcbLevels"):
        svn, status = _number(_object(each, "tcb"), "isvsvn", most), _status(each)
        if status not in _SVN_STATUSES:
            raise EvidenceFormatError(
                f"tcbStatus {status.value} of a module or an enclave, neither of which has a "
                "configuration"
            )
        levels.append(SvnLevel(svn=svn, status=status, advisories=_advisories(each)))
    return tuple(sorted(levels, key=lambda each: each.svn, reverse=True))


def _status(value: dict[str, Json]) -> TcbStatus:
    _moment(value, "tcbDate")
    text = _text(value, "tcbStatus")
    try:
        return TcbStatus(text)
    except ValueError as error:
        raise EvidenceFormatError(f"tcbStatus {text!r} is unknown") from error


def _advisories(value: dict[str, Json]) -> tuple[str, ...]:
    listed = value.get("advisoryIDs", [])
    if not isinstance(listed, list) or len(listed) > ADVISORIES_MAX:
        raise EvidenceFormatError(f"advisoryIDs: wanted a list of at most {ADVISORIES_MAX}")
    for each in listed:
        if not isinstance(each, str) or not _ADVISORY.fullmatch(each):
            raise EvidenceFormatError("advisoryIDs: an id that is no word")
    return tuple(str(each) for each in listed)


def _object(value: dict[str, Json], name: str) -> dict[str, Json]:
    found = value.get(name)
    if not isinstance(found, dict):
        raise EvidenceFormatError(f"{name}: wanted an object, found {type(found).__name__}")
    return found


def _objects(value: dict[str, Json], name: str) -> list[dict[str, Json]]:
    found = value.get(name)
    if not isinstance(found, list) or len(found) > LEVELS_MAX:
        raise EvidenceFormatError(f"{name}: wanted a list of at most {LEVELS_MAX}")
    objects = [each for each in found if isinstance(each, dict)]
    if len(objects) != len(found):
        raise EvidenceFormatError(f"{name}: wanted objects alone")
    return objects


def _text(value: dict[str, Json], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not re.fullmatch(r"[ -~]{0,64}", found):
        raise EvidenceFormatError(f"{name}: wanted at most 64 characters of ASCII")
    return found


def _number(value: dict[str, Json], name: str, most: int) -> int:
    found = value.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= most:
        raise EvidenceFormatError(f"{name}: wanted an integer of at most {most}")
    return found


def _hex(value: dict[str, Json], name: str, count: int) -> bytes:
    found = value.get(name)
    if not isinstance(found, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{2 * count}}}", found):
        raise EvidenceFormatError(f"{name}: wanted {count} bytes in hexadecimal")
    return bytes.fromhex(found)


def _moment(value: dict[str, Json], name: str) -> dt.datetime:
    found = value.get(name)
    if not isinstance(found, str) or not _TIME.fullmatch(found):
        raise EvidenceFormatError(f"{name}: wanted a time of the form 2026-01-31T12:00:00Z")
    try:
        return dt.datetime.fromisoformat(found)
    except ValueError as error:
        raise EvidenceFormatError(f"{name}: no such time") from error
