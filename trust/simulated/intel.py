"""A make-believe Intel: its root, authority, signer of collateral, and one machine's PCK.

Rules:
- What comes out of here differs from Intel's bytes in the keys alone. The same keys and the same
  `now` give the same bytes.
- A machine is a value: whoever wants a lie replaces a part of it, and has it signed again.
- It holds private keys, and is never printed nor sent.
"""

from __future__ import annotations

import datetime as dt
import struct
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from trust.encoding import digest
from trust.evidence.tdx import AUTH_DATA_BYTES, REGISTER_BYTES, PckClaims
from trust.simulated.certificates import Extension
from trust.simulated.intel_formats import (
    AUTHORITY_EXTENSIONS,
    ROOT_EXTENSIONS,
    SIGNER_EXTENSIONS,
    CertificateSpec,
    EnclaveSpec,
    GuestSpec,
    Key,
    ListSpec,
    moment,
    pck_extension,
    pem,
    served,
    sign_raw,
)
from trust.verifier import intel_collateral as kinds

PCK_NAME: Final = "Intel SGX PCK Certificate"
AUTHORITY_NAME: Final = "Intel SGX PCK Platform CA"
ROOT_NAME: Final = "Intel SGX Root CA"
SIGNER_NAME: Final = "Intel SGX TCB Signing"


_LIFE: Final = dt.timedelta(days=7 * 365)  # Intel's PCKs and signers last seven years
_ROOT_LIFE: Final = dt.timedelta(days=20 * 365)
_LIST_LIFE: Final = dt.timedelta(days=30)
_ROOT_LIST_LIFE: Final = dt.timedelta(days=365)
_EARLIER: Final = dt.timedelta(days=1)  # so that a verifier with a slow clock does not wait a day


@dataclass(frozen=True, kw_only=True, slots=True)
class IntelKeys:
    """Private keys on P-256: secrets."""

    root: Key = field(repr=False)
    authority: Key = field(repr=False)
    pck: Key = field(repr=False)
    signer: Key = field(repr=False)
    attestation: Key = field(repr=False)

    @classmethod
    def create(cls) -> IntelKeys:
        """Fresh ones."""
        return cls(
            **{
                name: ec.generate_private_key(ec.SECP256R1())
                for name in ("root", "authority", "pck", "signer", "attestation")
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedIntel:
    """All that stands behind one make-believe machine."""

    root: CertificateSpec
    authority: CertificateSpec
    pck: CertificateSpec
    tcb_chain: tuple[CertificateSpec, ...]
    qe_chain: tuple[CertificateSpec, ...]
    list_chain: tuple[CertificateSpec, ...]
    root_list: ListSpec | None
    pck_list: ListSpec | None
    tcb_info: dict[str, Any]
    qe_identity: dict[str, Any]
    tcb_info_key: Key = field(repr=False)
    qe_identity_key: Key = field(repr=False)
    attestation_key: Key = field(repr=False)
    auth_data: bytes
    enclave: EnclaveSpec

    @classmethod
    def create(cls, keys: IntelKeys, now: dt.datetime) -> SimulatedIntel:
        """A good machine, whose collateral was issued a day before the aware time `now`."""
        return _simulated_intel(keys, now)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the root certificate, 32 bytes: what a policy must name."""
        return digest(self.root.encode())

    def endorsements(self) -> tuple[tuple[str, bytes], ...]:
        """(kind, bytes) of all that a verifier wants beside a quote."""
        lists = ((kinds.ROOT_CRL, self.root_list), (kinds.PCK_CRL, self.pck_list))
        return (
            (kinds.TCB_INFO, served("tcbInfo", self.tcb_info, self.tcb_info_key)),
            (kinds.TCB_INFO_CHAIN, pem(self.tcb_chain)),
            (
                kinds.QE_IDENTITY,
                served("enclaveIdentity", self.qe_identity, self.qe_identity_key),
            ),
            (kinds.QE_IDENTITY_CHAIN, pem(self.qe_chain)),
            (kinds.PCK_CRL_CHAIN, pem(self.list_chain)),
            *((kind, each.encode()) for kind, each in lists if each is not None),
        )

    def quote(self, guest: GuestSpec, *, version: int = 5) -> bytes:
        """A quote of `guest`: version 4 (TDX 1.0) or 5 (TDX 1.5)."""
        return self.sign_quote(guest.encode(version))

    def sign_quote(self, signed: bytes) -> bytes:
        """Sign header and body as they are; the whole quote."""
        public = self.attestation_key.public_key().public_numbers()
        key = public.x.to_bytes(32, "big") + public.y.to_bytes(32, "big")
        report = self.enclave.encode(digest(key + self.auth_data))
        chain = pem((self.pck, self.authority, self.root)) + b"\x00"
        certification = b"".join(
            (
                report,
                sign_raw(report, self.pck.key),
                struct.pack("<H", len(self.auth_data)),
                self.auth_data,
                struct.pack("<HI", 5, len(chain)),
                chain,
            )
        )
        section = b"".join(
            (
                sign_raw(signed, self.attestation_key),
                key,
                struct.pack("<HI", 6, len(certification)),
                certification,
            )
        )
        return signed + struct.pack("<I", len(section)) + section


# --- a good machine ------------------------------------------------------------------------------

PLATFORM: Final = PckClaims(
    ppid=digest(b"a simulated platform")[:16],
    components=(4, 4, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0),
    pce_svn=13,
    cpu_svn=bytes((4, 4, 2, 2, 4, 1, 0, 5)) + bytes(8),
    pce_id=bytes(2),
    fmspc=bytes.fromhex("90c06f000000"),
    sgx_type=1,
    platform_instance_id=digest(b"a simulated instance")[:16],
    dynamic_platform=True,
    cached_keys=True,
    smt_enabled=True,
)
_NUMBER: Final = 18
_SGX_LEVELS: Final = ((3, 3, 2, 2, 4, 1, 0, 5), (2, 2, 2, 2, 3, 1, 0, 5))
_TDX_LEVELS: Final = ((5, 0, 3), (5, 0, 2))


def _simulated_intel(keys: IntelKeys, now: dt.datetime) -> SimulatedIntel:
    earlier = now - _EARLIER

    def certificate(
        subject: str, key: Key, above: tuple[str, Key], extensions: tuple[Extension, ...]
    ) -> CertificateSpec:
        return CertificateSpec(
            serial=int.from_bytes(digest(subject.encode("ascii"))[:19], "big"),
            subject=subject,
            issuer=above[0],
            not_before=earlier,
            not_after=now + (_ROOT_LIFE if key is keys.root else _LIFE),
            key=key,
            signer=above[1],
            extensions=extensions,
        )

    by_root = (ROOT_NAME, keys.root)
    root = certificate(ROOT_NAME, keys.root, by_root, ROOT_EXTENSIONS)
    authority = certificate(AUTHORITY_NAME, keys.authority, by_root, AUTHORITY_EXTENSIONS)
    signer = certificate(SIGNER_NAME, keys.signer, by_root, SIGNER_EXTENSIONS)
    pck = certificate(
        PCK_NAME,
        keys.pck,
        (AUTHORITY_NAME, keys.authority),
        (*SIGNER_EXTENSIONS, pck_extension(PLATFORM)),
    )
    return SimulatedIntel(
        root=root,
        authority=authority,
        pck=pck,
        tcb_chain=(signer, root),
        qe_chain=(signer, root),
        list_chain=(authority, root),
        root_list=ListSpec(
            issuer=ROOT_NAME,
            this_update=earlier,
            next_update=now + _ROOT_LIST_LIFE,
            serials=(),
            signer=keys.root,
        ),
        pck_list=ListSpec(
            issuer=AUTHORITY_NAME,
            this_update=earlier,
            next_update=earlier + _LIST_LIFE,
            serials=(),
            signer=keys.authority,
        ),
        tcb_info=_tcb_info(earlier),
        qe_identity=_qe_identity(earlier),
        tcb_info_key=keys.signer,
        qe_identity_key=keys.signer,
        attestation_key=keys.attestation,
        auth_data=bytes(range(AUTH_DATA_BYTES)),
        enclave=EnclaveSpec(),
    )


def _tcb_info(issued_at: dt.datetime) -> dict[str, Any]:
    module = {
        "mrsigner": bytes(REGISTER_BYTES).hex().upper(),
        "attributes": "0000000000000000",
        "attributesMask": "FFFFFFFFFFFFFFFF",
    }
    return {
        "id": "TDX",
        "version": 3,
        **_dates(issued_at),
        "fmspc": PLATFORM.fmspc.hex().upper(),
        "pceId": PLATFORM.pce_id.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": _NUMBER,
        "tdxModule": module,
        "tdxModuleIdentities": [
            {
                "id": "TDX_01",
                **module,
                "tcbLevels": [
                    _level({"isvsvn": 6}, "UpToDate"),
                    _level({"isvsvn": 4}, "OutOfDate", "INTEL-SA-01036"),
                ],
            }
        ],
        "tcbLevels": [
            _level(_tcb(_SGX_LEVELS[0], _TDX_LEVELS[0]), "UpToDate"),
            _level(_tcb(_SGX_LEVELS[1], _TDX_LEVELS[1]), "OutOfDate", "INTEL-SA-01111"),
        ],
    }


def _qe_identity(issued_at: dt.datetime) -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        **_dates(issued_at),
        "tcbEvaluationDataNumber": _NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": EnclaveSpec().mr_signer.hex().upper(),
        "isvprodid": EnclaveSpec().isv_prod_id,
        "tcbLevels": [
            _level({"isvsvn": 4}, "UpToDate"),
            _level({"isvsvn": 2}, "OutOfDate", "INTEL-SA-00837"),
        ],
    }


def _dates(issued_at: dt.datetime) -> dict[str, str]:
    return {"issueDate": moment(issued_at), "nextUpdate": moment(issued_at + _LIST_LIFE)}


def _level(tcb: dict[str, Any], status: str, *advisories: str) -> dict[str, Any]:
    level: dict[str, Any] = {"tcb": tcb, "tcbDate": "2024-11-13T00:00:00Z", "tcbStatus": status}
    return {**level, "advisoryIDs": list(advisories)} if advisories else level


def _tcb(sgx: tuple[int, ...], tdx: tuple[int, ...]) -> dict[str, Any]:
    def components(values: tuple[int, ...]) -> list[dict[str, int]]:
        return [{"svn": value} for value in values + (0,) * (16 - len(values))]

    return {
        "sgxtcbcomponents": components(sgx),
        "pcesvn": PLATFORM.pce_svn,
        "tdxtcbcomponents": components(tdx),
    }
