"""The formats of Intel's endorsements and quotes, as values that encode and sign themselves.

Rules:
- Names, extensions and their order are Intel's own (but for key identifiers and addresses of
  lists); every signature is ECDSA P-256 with SHA-256, deterministic (RFC 6979), so that the same
  values give the same bytes.
- The writer checks nothing: to say what is wrong is the verifier's work, and a test wants things
  wrong.
"""

from __future__ import annotations

import base64
import datetime as dt
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from trust.encoding import canonical_json, digest
from trust.evidence.tdx import (
    BODY_TDX_1_5,
    ECDSA_P256,
    INTEL_QE_VENDOR,
    REGISTER_BYTES,
    TEE_TYPE_TDX,
    PckClaims,
)
from trust.simulated.certificates import Extension, integer, sequence, time, tlv
from trust.verifier import der, intel_certificates
from trust.verifier.certificates import BASIC_CONSTRAINTS, COMMON_NAME, KEY_USAGE
from trust.verifier.intel_certificates import ECDSA_SHA256

_NAME: Final = (  # (attribute, string type, value), in Intel's order, after the common name
    ("2.5.4.10", der.UTF8_STRING, "Intel Corporation"),
    ("2.5.4.7", der.UTF8_STRING, "Santa Clara"),
    ("2.5.4.8", der.UTF8_STRING, "CA"),
    ("2.5.4.6", der.PRINTABLE_STRING, "US"),
)
_EXPLICIT_0: Final = 0xA0
_EXPLICIT_3: Final = 0xA3

_LIST_NUMBER: Final = Extension(name=der.oid("2.5.29.20"), value=integer(1))

ROOT_AUTHORITY: Final = Extension(
    name=BASIC_CONSTRAINTS, value=bytes.fromhex("30060101ff020101"), critical=True
)
AUTHORITY_OF_LEAVES: Final = Extension(
    name=BASIC_CONSTRAINTS, value=bytes.fromhex("30060101ff020100"), critical=True
)
NO_AUTHORITY: Final = Extension(name=BASIC_CONSTRAINTS, value=b"\x30\x00", critical=True)
SIGNS_CERTIFICATES_AND_LISTS: Final = Extension(
    name=KEY_USAGE, value=bytes.fromhex("03020106"), critical=True
)
SIGNS_DATA: Final = Extension(name=KEY_USAGE, value=bytes.fromhex("030206c0"), critical=True)
AUTHORITY_EXTENSIONS: Final = (SIGNS_CERTIFICATES_AND_LISTS, AUTHORITY_OF_LEAVES)
ROOT_EXTENSIONS: Final = (SIGNS_CERTIFICATES_AND_LISTS, ROOT_AUTHORITY)
SIGNER_EXTENSIONS: Final = (SIGNS_DATA, NO_AUTHORITY)

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateSpec:
    """A certificate, before it is signed. Subject and issuer are common names."""

    serial: int
    subject: str
    issuer: str
    not_before: dt.datetime
    not_after: dt.datetime
    key: Key = field(repr=False)
    """Whose it is."""
    signer: Key = field(repr=False)
    extensions: tuple[Extension, ...]

    def encode(self) -> bytes:
        """DER, version 3."""
        public = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return _signed(
            sequence(
                tlv(_EXPLICIT_0, integer(2)),
                integer(self.serial),
                ECDSA_SHA256,
                _name(self.issuer),
                sequence(time(self.not_before), time(self.not_after)),
                _name(self.subject),
                public,
                tlv(_EXPLICIT_3, sequence(*(each.encode() for each in self.extensions))),
            ),
            self.signer,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ListSpec:
    """A revocation list, before it is signed."""

    issuer: str
    this_update: dt.datetime
    next_update: dt.datetime | None
    """None leaves the field out."""
    serials: tuple[int, ...]
    signer: Key = field(repr=False)

    def encode(self) -> bytes:
        """DER, version 2."""
        entries = [sequence(integer(serial), time(self.this_update)) for serial in self.serials]
        return _signed(
            sequence(
                integer(1),
                ECDSA_SHA256,
                _name(self.issuer),
                time(self.this_update),
                b"" if self.next_update is None else time(self.next_update),
                sequence(*entries) if entries else b"",
                tlv(_EXPLICIT_0, sequence(_LIST_NUMBER.encode())),
            ),
            self.signer,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestSpec:
    """A guest, as the TDX module reports it: every field as it stands in the body."""

    mr_td: bytes
    rtmr: tuple[bytes, bytes, bytes, bytes]
    mr_config_id: bytes
    report_data: bytes
    tee_tcb_svn: bytes = bytes((11, 1, 4)) + bytes(13)
    mr_seam: bytes = digest(b"a simulated TDX module") + bytes(16)
    mr_signer_seam: bytes = bytes(REGISTER_BYTES)
    seam_attributes: bytes = bytes(8)
    attributes: int = 1 << 28
    """TDATTRIBUTES: SEPT_VE_DISABLE alone."""
    xfam: int = 0x602E7
    mr_owner: bytes = bytes(REGISTER_BYTES)
    mr_owner_config: bytes = bytes(REGISTER_BYTES)
    tee_tcb_svn_2: bytes = bytes((13, 1, 4)) + bytes(13)
    mr_service_td: bytes = bytes(REGISTER_BYTES)

    def encode(self, version: int) -> bytes:
        """The signed part of a quote: header, descriptor (version 5) and body."""
        header = struct.pack("<HHI4x16s20x", version, ECDSA_P256, TEE_TYPE_TDX, INTEL_QE_VENDOR)
        body = b"".join(
            (
                self.tee_tcb_svn,
                self.mr_seam,
                self.mr_signer_seam,
                self.seam_attributes,
                self.attributes.to_bytes(8, "little"),
                self.xfam.to_bytes(8, "little"),
                self.mr_td,
                self.mr_config_id,
                self.mr_owner,
                self.mr_owner_config,
                *self.rtmr,
                self.report_data,
            )
        )
        if version == 4:
            return header + body
        body += self.tee_tcb_svn_2 + self.mr_service_td
        return header + struct.pack("<HI", BODY_TDX_1_5, len(body)) + body


@dataclass(frozen=True, kw_only=True, slots=True)
class EnclaveSpec:
    """The quoting enclave."""

    miscselect: int = 0
    attributes: bytes = bytes.fromhex("1500000000000000e700000000000000")
    mr_signer: bytes = digest(b"a simulated signer of quoting enclaves")
    isv_prod_id: int = 2
    isv_svn: int = 7
    upper_report_data: bytes = bytes(32)

    def encode(self, vouched: bytes) -> bytes:
        """Its report, 384 bytes; `vouched` is SHA-256 of the attestation key and its data."""
        return struct.pack(
            "<16xI28x16s32x32x32s96xHH60x64s",
            self.miscselect,
            self.attributes,
            self.mr_signer,
            self.isv_prod_id,
            self.isv_svn,
            vouched + self.upper_report_data,
        )


def pck_extension(claims: PckClaims) -> Extension:
    """The SGX extension of a PCK's certificate, in Intel's order."""

    def pair(name: bytes, value: bytes) -> bytes:
        return sequence(tlv(der.OBJECT_IDENTIFIER, name), value)

    def octets(value: bytes) -> bytes:
        return tlv(der.OCTET_STRING, value)

    here = intel_certificates
    levels = sequence(
        *(
            pair(name, integer(value))
            for name, value in zip(here.TCB_COMPONENTS, claims.components, strict=True)
        ),
        pair(here.PCE_SVN, integer(claims.pce_svn)),
        pair(here.CPU_SVN, octets(claims.cpu_svn)),
    )
    flags = (
        (here.DYNAMIC_PLATFORM, claims.dynamic_platform),
        (here.CACHED_KEYS, claims.cached_keys),
        (here.SMT_ENABLED, claims.smt_enabled),
    )
    said = [
        pair(name, tlv(der.BOOLEAN, b"\xff" if value else b"\x00"))
        for name, value in flags
        if value is not None
    ]
    instance = claims.platform_instance_id
    fields = (
        pair(here.PPID, octets(claims.ppid)),
        pair(here.TCB, levels),
        pair(here.PCE_ID, octets(claims.pce_id)),
        pair(here.FMSPC, octets(claims.fmspc)),
        pair(here.SGX_TYPE, tlv(here.ENUMERATED, bytes([claims.sgx_type]))),
        b"" if instance is None else pair(here.PLATFORM_INSTANCE_ID, octets(instance)),
        pair(here.CONFIGURATION, sequence(*said)) if said else b"",
    )
    return Extension(name=here.SGX_EXTENSION, value=sequence(*fields))


def sign_raw(signed: bytes, key: Key) -> bytes:
    """R and s, 32 bytes each, big endian."""
    numbers = decode_dss_signature(_sign(signed, key))
    return b"".join(each.to_bytes(32, "big") for each in numbers)


def pem(chain: Sequence[CertificateSpec]) -> bytes:
    """Certificates one after another."""
    blocks = []
    for each in chain:
        text = base64.b64encode(each.encode()).decode("ascii")
        lines = [text[start : start + 64] for start in range(0, len(text), 64)]
        blocks.append(
            "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----"))
        )
    return ("\n".join(blocks) + "\n").encode("ascii")


def _sign(signed: bytes, key: Key) -> bytes:
    return key.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


def _signed(signed: bytes, key: Key) -> bytes:
    return sequence(signed, ECDSA_SHA256, tlv(der.BIT_STRING, b"\x00" + _sign(signed, key)))


def served(name: str, value: dict[str, Any], key: Key) -> bytes:
    """A document as Intel's service serves it, with its signature beside it."""
    body = canonical_json(value)
    signature = sign_raw(body, key).hex()
    return b'{"%s":%s,"signature":"%s"}' % (name.encode("ascii"), body, signature.encode("ascii"))


def _name(common_name: str) -> bytes:
    attributes: Iterable[tuple[bytes, int, str]] = (
        (COMMON_NAME, der.UTF8_STRING, common_name),
        *((der.oid(dotted), tag, value) for dotted, tag, value in _NAME),
    )
    return sequence(
        *(
            tlv(
                der.SET,
                sequence(tlv(der.OBJECT_IDENTIFIER, oid), tlv(tag, value.encode("ascii"))),
            )
            for oid, tag, value in attributes
        )
    )


def moment(when: dt.datetime) -> str:
    """A time as Intel's JSON has it."""
    return when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
