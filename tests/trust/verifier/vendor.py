"""A vendor of lies: chains and reports in the real formats, with whatever a test wants wrong."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from trust.encoding import digest
from trust.evidence.claims import Product
from trust.simulated import SimulatedChip, SimulatedRoot
from trust.simulated import certificates as minting
from trust.simulated.certificates import Extension
from trust.simulated.chip import vcek_extensions
from trust.verifier.appraisal import Evidence, Expected, verify_evidence
from trust.verifier.policy import AppraisalPolicy, any_facility, simulated_policy, without_gpus
from trust.verifier.results import AttestationResult
from trust.verifier.roots import Anchor, PinnedRoot, RootKind

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
REPORT_DATA = bytes(range(64))
HOST_DATA = bytes(range(32))
MEASUREMENT = bytes(range(48))
CHIP_ID = bytes(range(100, 164))
TCB = bytes((10, 0, 0, 0, 0, 0, 27, 88))

ROOT_EXTENSIONS = (minting.SIGNS_CERTIFICATES_AND_LISTS, minting.AUTHORITY)
ISSUER_EXTENSIONS = (minting.AUTHORITY_OF_LEAVES, minting.SIGNS_CERTIFICATES)


@functools.cache
def rsa_key(name: str, bits: int = 4096) -> rsa.RSAPrivateKey:
    """A key for a whole session of tests: RSA keys take seconds to make."""
    del name
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def simulated_root(product: Product = Product.GENOA) -> SimulatedRoot:
    return _root(product)


def simulated_chip(product: Product = Product.GENOA) -> SimulatedChip:
    return _chip(product)


@functools.cache
def _root(product: Product) -> SimulatedRoot:
    return SimulatedRoot.certify(
        rsa_key("ark"), rsa_key("ask"), product=product, now=NOW, revoked_serials=()
    )


@functools.cache
def _chip(product: Product) -> SimulatedChip:
    chip_id = CHIP_ID if product is Product.GENOA else CHIP_ID[:8].ljust(64, b"\x00")
    return _root(product).issue_chip(chip_id, NOW)


def leaf_key() -> ec.EllipticCurvePrivateKey:
    key = serialization.load_der_private_key(simulated_chip().key, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Every choice that a vendor makes; the defaults are a good Genoa."""

    kind: str = "vcek"
    leaf_name: str = "SEV-VCEK"
    leaf_issuer: str | None = None
    leaf_key: Any = None
    leaf_signer: Any = None
    leaf_not_before: dt.datetime = NOW - DAY
    leaf_not_after: dt.datetime = NOW + 100 * DAY
    leaf_extensions: tuple[Extension, ...] | None = None
    leaf_edit: Callable[[bytes], bytes] = bytes
    tcb: bytes = TCB
    chip_id: bytes = CHIP_ID
    issuer_name: str = "SEV-Genoa"
    issuer_issuer: str | None = None
    issuer_key: Any = None
    issuer_signer: Any = None
    issuer_not_before: dt.datetime = NOW - DAY
    issuer_serial: int = 0x20002
    issuer_extensions: tuple[Extension, ...] = ISSUER_EXTENSIONS
    root_name: str = "ARK-Genoa"
    root_key: Any = None
    root_not_after: dt.datetime = NOW + 100 * DAY
    root_extensions: tuple[Extension, ...] = ROOT_EXTENSIONS
    list_issuer: str | None = None
    list_signer: Any = None
    list_this_update: dt.datetime = NOW - DAY
    list_next_update: dt.datetime | None = NOW + DAY
    list_serials: Iterable[int] = (0x20001,)

    def endorsements(self) -> dict[str, bytes]:
        root_key = self.root_key or rsa_key("ark")
        issuer_key = self.issuer_key or rsa_key("ask")
        extensions = self.leaf_extensions
        if extensions is None:
            extensions = vcek_extensions(Product.GENOA, self.tcb, self.chip_id)
        leaf = minting.issue_certificate(
            serial=0,
            subject=self.leaf_name,
            issuer=self.leaf_issuer or self.issuer_name,
            not_before=self.leaf_not_before,
            not_after=self.leaf_not_after,
            public_key=(self.leaf_key or leaf_key()).public_key(),
            extensions=extensions,
            signing_key=self.leaf_signer or issuer_key,
        )
        issuer = minting.issue_certificate(
            serial=self.issuer_serial,
            subject=self.issuer_name,
            issuer=self.issuer_issuer or self.root_name,
            not_before=self.issuer_not_before,
            not_after=NOW + 100 * DAY,
            public_key=issuer_key.public_key(),
            extensions=self.issuer_extensions,
            signing_key=self.issuer_signer or root_key,
        )
        root = minting.issue_certificate(
            serial=0x20000,
            subject=self.root_name,
            issuer=self.root_name,
            not_before=NOW - DAY,
            not_after=self.root_not_after,
            public_key=root_key.public_key(),
            extensions=self.root_extensions,
            signing_key=root_key,
        )
        revocations = minting.issue_revocation_list(
            issuer=self.list_issuer or self.root_name,
            this_update=self.list_this_update,
            next_update=self.list_next_update,
            serials=self.list_serials,
            signing_key=self.list_signer or root_key,
        )
        return {
            self.kind: self.leaf_edit(leaf),
            "asvk" if self.kind == "vlek" else "ask": issuer,
            "ark": root,
            "crl": revocations,
        }


def without(extensions: Iterable[Extension], name: bytes) -> tuple[Extension, ...]:
    return tuple(each for each in extensions if each.name != name)


def replaced(extensions: Iterable[Extension], name: bytes, value: bytes) -> tuple[Extension, ...]:
    return tuple(
        dataclasses.replace(each, value=value) if each.name == name else each for each in extensions
    )


def body(edits: dict[int, bytes] | None = None) -> bytes:
    """The signed part of a good report, with bytes replaced at offsets."""
    made = bytearray(
        simulated_chip().report_body(
            report_data=REPORT_DATA, host_data=HOST_DATA, measurement=MEASUREMENT
        )
    )
    for offset, value in (edits or {}).items():
        made[offset : offset + len(value)] = value
    return bytes(made)


def report(edits: dict[int, bytes] | None = None) -> bytes:
    """A report that the simulated chip signed, whatever is wrong with it."""
    return simulated_chip().sign_body(body(edits))


def pin(ark: bytes, product: Product = Product.GENOA) -> PinnedRoot:
    return PinnedRoot(
        kind=RootKind.SIMULATED, anchor=Anchor(product.value), fingerprint=digest(ark)
    )


def policy(**changes: Any) -> AppraisalPolicy:
    """The shipped policy for the simulated root, with changes, of its SNP demands too."""
    return changed(simulated_policy(simulated_root().fingerprint, [MEASUREMENT]), **changes)


def changed(made: AppraisalPolicy, **changes: Any) -> AppraisalPolicy:
    """A policy with other fields, and its SNP demands with others, by their names."""
    assert made.snp is not None
    own = {field.name for field in dataclasses.fields(made)}
    demands = {name: value for name, value in changes.items() if name not in own}
    kept = {name: value for name, value in changes.items() if name in own}
    return dataclasses.replace(made, **{"snp": dataclasses.replace(made.snp, **demands), **kept})


def cpu_production(measurements: Iterable[bytes]) -> AppraisalPolicy:
    """What we ship for genuine machines, of their processors alone."""
    return without_gpus(any_facility(list(measurements)))


def verify_cpu(
    platform: str,
    report: bytes,
    endorsements: Iterable[tuple[str, bytes]],
    policy: AppraisalPolicy,
    *,
    expected_report_data: bytes,
    expected_host_data: bytes,
    now: dt.datetime,
) -> AttestationResult:
    """Evidence of a machine that shows no GPU."""
    return verify_evidence(
        Evidence(platform=platform, report=report, gpu=None, endorsements=tuple(endorsements)),
        policy,
        expected(expected_report_data, expected_host_data),
        now=now,
    )


def expected(report_data: bytes = REPORT_DATA, launch: bytes = HOST_DATA) -> Expected:
    return Expected(report_data=report_data, launch=launch, gpu_nonce=bytes(32), gpu_evidence=None)
