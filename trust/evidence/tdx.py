"""Intel TDX quotes: the layout, and nothing but the layout.

Rules (docs/spec/evidence-tdx.md §2; Intel, "TDX DCAP Quoting Library API", appendix A.3):
- A quote has at most `QUOTE_BYTES_MAX` bytes, version 4 or 5, an ECDSA P-256 attestation key, the
  TEE type of TDX and Intel's quoting enclave. An SGX quote is refused here, whatever its version.
- Every inner length adds up to the length around it. After the signature only zeros may follow
  (kernels hand out whole buffers): they are cut off, and any other byte is refused.
- Reserved bytes of the header are zero. TDATTRIBUTES and XFAM are bit sets: all their bits are
  kept, and judged by the appraisal.
- The certification data is the PCK's chain in PEM (type 5 in type 6). It stays text here.
"""

from __future__ import annotations

import datetime as dt
import enum
import struct
from dataclasses import dataclass, field
from typing import Final

from trust.errors import EvidenceFormatError, SizeLimitError

QUOTE_BYTES_MAX: Final = 16 * 1024  # the longest real one has 8,000 with its zeros, 5,050 without
VERSIONS: Final = (4, 5)
TEE_TYPE_TDX: Final = 0x81
ECDSA_P256: Final = 2  # the only attestation key type there is for TDX
INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
HEADER_BYTES: Final = 48
REGISTER_BYTES: Final = 48
REPORT_DATA_BYTES: Final = 64
LAUNCH_DIGEST_BYTES: Final = 32

BODY_TDX_1_0: Final = 2
BODY_TDX_1_5: Final = 3
BODY_BYTES: Final = {BODY_TDX_1_0: 584, BODY_TDX_1_5: 648}

QE_REPORT_BYTES: Final = 384
SIGNATURE_BYTES: Final = 64
KEY_BYTES: Final = 64
AUTH_DATA_BYTES: Final = 32  # what Intel's quoting enclave writes
_CERTIFICATION_QE_REPORT: Final = 6
_CERTIFICATION_PCK_CHAIN: Final = 5

# TDATTRIBUTES that have a name (Intel, "TDX Module ABI", table "TD_ATTRIBUTES").
_ATTRIBUTE_BITS: Final = {
    "debug": 0,
    "sept_ve_disable": 28,
    "migratable": 29,
    "pks": 30,
    "key_locker": 31,
    "perfmon": 63,
}


class TcbStatus(enum.Enum):
    """What Intel says of a level of firmware; in order of severity, the best first."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"


@dataclass(frozen=True, kw_only=True, slots=True)
class TdAttributes:
    """TDATTRIBUTES: what the guest was built to allow."""

    debug: bool
    """Bit 0: the host may read and write the guest's memory."""
    sept_ve_disable: bool
    """Bit 28: a page that the host takes away stops the guest instead of raising an exception."""
    migratable: bool
    """Bit 29: a service TD may export the guest."""
    pks: bool
    key_locker: bool
    perfmon: bool
    """Bit 63: the guest uses performance counters."""
    reserved: int
    """All other bits, in their places."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TdBody:
    """The report of the TDX module, in its own order. Registers have 48 bytes each."""

    tee_tcb_svn: bytes
    """16 bytes: [0] version of the TDX module, [1] its major version, [2] late microcode."""
    mr_seam: bytes
    mr_signer_seam: bytes
    """Who signed the TDX module; zeros for Intel."""
    seam_attributes: bytes
    attributes: TdAttributes
    xfam: int
    """Extended features that the guest may use, as a mask of XCR0 and XSS."""
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr: tuple[bytes, ...]
    """RTMR0 to RTMR3."""
    report_data: bytes
    """64 bytes: what the guest asked to have signed."""
    tee_tcb_svn_2: bytes | None
    """16 bytes: the module's versions now, where tee_tcb_svn are those at the guest's launch. None
    in TDX 1.0, which does not carry it."""
    mr_service_td: bytes | None
    """Digest of the service TDs that are bound to the guest; None in TDX 1.0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QeReport:
    """The quoting enclave's own report (SGX `REPORT`), which the PCK signed."""

    raw: bytes = field(repr=False)
    miscselect: int
    attributes: bytes
    """16 bytes."""
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes
    """64 bytes: SHA-256 of the attestation key and the authentication data, and zeros."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxQuote:
    """One quote, parsed and not believed."""

    raw: bytes = field(repr=False)
    """The whole quote, without the zeros that followed it."""
    version: int
    signed_bytes: bytes = field(repr=False)
    """Header, body descriptor (version 5) and body: what the attestation key signed."""
    user_data: bytes
    """20 bytes of the quoting enclave's own."""
    body: TdBody
    signature: bytes = field(repr=False)
    """r and s, 32 bytes each, big endian."""
    attestation_key: bytes
    """x and y of a point on P-256, 32 bytes each, big endian."""
    qe_report: QeReport
    qe_report_signature: bytes = field(repr=False)
    auth_data: bytes
    pck_chain: bytes = field(repr=False)
    """PEM: the PCK's certificate, its authority's and the root's."""
    trailing_zeros: int
    """How many were cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PckClaims:
    """What the PCK's certificate says of its platform (Intel, "PCK Certificate", SGX extension)."""

    ppid: bytes
    """Platform provisioning id, 16 bytes: names one machine."""
    components: tuple[int, ...]
    """16 security version numbers of the processor's firmware, 0 to 255 each."""
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    """6 bytes: family, model, stepping, platform type and custom SKU."""
    sgx_type: int
    """0 standard, 1 scalable, 2 scalable with integrity."""
    platform_instance_id: bytes | None
    """16 bytes; None under the processor authority, which knows single packages only."""
    dynamic_platform: bool | None
    """Packages can be added to the machine; None: the certificate does not say."""
    cached_keys: bool | None
    """Platform keys are kept by Intel's registration service; None: not said."""
    smt_enabled: bool | None
    """Multithreading is on; None: not said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TcbClaims:
    """What Intel's collateral says of the versions that the quote and the PCK show."""

    status: TcbStatus
    """What the three below come to together."""
    platform: TcbStatus
    module: TcbStatus | None
    """Of the TDX module; None for major version 0, which the platform's level covers."""
    quoting_enclave: TcbStatus
    advisories: tuple[str, ...]
    """Intel's advisories that apply, each once; an OutOfDate level can have none."""
    tcb_info_number: int
    """tcbEvaluationDataNumber of the TCB info."""
    qe_identity_number: int
    """tcbEvaluationDataNumber of the quoting enclave's identity."""
    oldest_issue: dt.datetime
    """When the oldest of TCB info, identity and PCK revocation list was issued."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxClaims:
    """What a quote and Intel's word about it say about a machine and its guest."""

    quote_version: int
    body: TdBody
    pck: PckClaims
    tcb: TcbClaims


def parse_tdx_quote(data: bytes) -> TdxQuote:
    """Parse completely. Raises SizeLimitError, or EvidenceFormatError with found and wanted."""
    # (1) Size, before a single field.
    if len(data) > QUOTE_BYTES_MAX:
        raise SizeLimitError(f"TDX quote: {len(data)} bytes, at most {QUOTE_BYTES_MAX}")
    reader = _Reader(data, "TDX quote")
    # (2) Header: what kind of quote it is, which decides all that follows.
    version, user_data = _header(reader.take(HEADER_BYTES))
    # (3) Body: in version 5 it says its own type and size.
    body = _body(reader, version)
    signed_bytes = data[: reader.offset]
    # (4) Signature section, and nothing but zeros after it.
    section = _Reader(reader.take(reader.u32()), "TDX quote's signature section")
    raw = data[: reader.offset]
    if any(data[reader.offset :]):
        raise EvidenceFormatError("TDX quote: bytes after it that are not zero")
    signature = section.take(SIGNATURE_BYTES)
    attestation_key = section.take(KEY_BYTES)
    certification = section.certification(_CERTIFICATION_QE_REPORT)
    section.end()
    # (5) Certification data: the quoting enclave's report, and the chain of the key that signed it.
    qe_report = _qe_report(certification.take(QE_REPORT_BYTES))
    qe_report_signature = certification.take(SIGNATURE_BYTES)
    auth_bytes = certification.u16()
    if auth_bytes != AUTH_DATA_BYTES:
        raise EvidenceFormatError(
            f"TDX quote: {auth_bytes} bytes of authentication data, wanted {AUTH_DATA_BYTES}"
        )
    auth_data = certification.take(AUTH_DATA_BYTES)
    chain = certification.certification(_CERTIFICATION_PCK_CHAIN)
    certification.end()
    return TdxQuote(
        raw=raw,
        version=version,
        signed_bytes=signed_bytes,
        user_data=user_data,
        body=body,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        auth_data=auth_data,
        pck_chain=chain.rest(),
        trailing_zeros=len(data) - len(raw),
    )


def never_allowed(body: TdBody, status: TcbStatus) -> str | None:
    """The first thing that is bad under every policy, in words; None: there is none."""
    attributes = body.attributes
    grounds = {
        "a debug guest": attributes.debug,
        "reserved attributes": attributes.reserved != 0,
        "SEPT_VE_DISABLE clear": not attributes.sept_ve_disable,
        "a guest that can be exported": attributes.migratable,
        "a service TD": any(body.mr_service_td or b""),
        "firmware that Intel revoked": status is TcbStatus.REVOKED,
    }
    return next((ground for ground, holds in grounds.items() if holds), None)


def launch_config_id(launch_digest: bytes) -> bytes:
    """MRCONFIGID of a guest with this launch document: its 32-byte digest, and 16 zero bytes.

    Raises EvidenceFormatError for a digest of another length.
    """
    if len(launch_digest) != LAUNCH_DIGEST_BYTES:
        raise EvidenceFormatError(
            f"launch digest: {len(launch_digest)} bytes, wanted {LAUNCH_DIGEST_BYTES}"
        )
    return launch_digest + bytes(REGISTER_BYTES - LAUNCH_DIGEST_BYTES)


class _Reader:
    """Takes bytes off the front, and refuses to take what is not there."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.offset = 0

    def take(self, count: int) -> bytes:
        taken = self._data[self.offset : self.offset + count]
        if len(taken) != count:
            raise EvidenceFormatError(f"{self._what}: cut off: {len(taken)} of {count} bytes")
        self.offset += count
        return taken

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def certification(self, wanted: int) -> _Reader:
        """The content of a certification structure of one type."""
        kind = self.u16()
        if kind != wanted:
            raise EvidenceFormatError(f"TDX quote: certification data {kind}, wanted {wanted}")
        return _Reader(self.take(self.u32()), f"TDX quote's certification data {wanted}")

    def rest(self) -> bytes:
        return self._data[self.offset :]

    def end(self) -> None:
        if extra := len(self.rest()):
            raise EvidenceFormatError(f"{self._what}: {extra} bytes more than its parts have")


def _header(header: bytes) -> tuple[int, bytes]:
    """Version and user data. Raises EvidenceFormatError for anything that is no TDX quote."""
    version, key_type, tee_type = struct.unpack_from("<HHI", header)
    if version not in VERSIONS:
        raise EvidenceFormatError(f"TDX quote: version {version}, wanted one of {VERSIONS}")
    if tee_type != TEE_TYPE_TDX:
        raise EvidenceFormatError(f"TDX quote: TEE type {tee_type:#x}, wanted {TEE_TYPE_TDX:#x}")
    if key_type != ECDSA_P256:
        raise EvidenceFormatError(f"TDX quote: key type {key_type}, wanted {ECDSA_P256}")
    if any(header[8:12]):
        raise EvidenceFormatError("TDX quote: reserved bytes 8 to 11 are not all zero")
    if header[12:28] != INTEL_QE_VENDOR:
        raise EvidenceFormatError(
            f"TDX quote: quoting enclave of {header[12:28].hex()}, wanted {INTEL_QE_VENDOR.hex()}"
        )
    return version, header[28:48]


def _body(reader: _Reader, version: int) -> TdBody:
    kind, size = BODY_TDX_1_0, BODY_BYTES[BODY_TDX_1_0]
    if version == 5:
        kind, size = reader.u16(), reader.u32()
        if BODY_BYTES.get(kind) != size:
            raise EvidenceFormatError(
                f"TDX quote: body {kind} of {size} bytes, wanted one of {BODY_BYTES}"
            )
    data = reader.take(size)
    later = kind == BODY_TDX_1_5
    return TdBody(
        tee_tcb_svn=data[0:16],
        mr_seam=data[16:64],
        mr_signer_seam=data[64:112],
        seam_attributes=data[112:120],
        attributes=_attributes(int.from_bytes(data[120:128], "little")),
        xfam=int.from_bytes(data[128:136], "little"),
        mr_td=data[136:184],
        mr_config_id=data[184:232],
        mr_owner=data[232:280],
        mr_owner_config=data[280:328],
        rtmr=(data[328:376], data[376:424], data[424:472], data[472:520]),
        report_data=data[520:584],
        tee_tcb_svn_2=data[584:600] if later else None,
        mr_service_td=data[600:648] if later else None,
    )


def _attributes(bits: int) -> TdAttributes:
    known = {name: bool(bits >> number & 1) for name, number in _ATTRIBUTE_BITS.items()}
    mask = sum(1 << number for number in _ATTRIBUTE_BITS.values())
    return TdAttributes(**known, reserved=bits & ~mask)


def _qe_report(data: bytes) -> QeReport:
    isv_prod_id, isv_svn = struct.unpack_from("<HH", data, 256)
    return QeReport(
        raw=data,
        miscselect=int.from_bytes(data[16:20], "little"),
        attributes=data[48:64],
        mr_enclave=data[64:96],
        mr_signer=data[128:160],
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        report_data=data[320:384],
    )
