"""A simulated AMD that says whatever a lie wants, and the same bytes each time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.trust.verifier.vendor import (
    CHIP_ID,
    HOST_DATA,
    MEASUREMENT,
    NOW,
    REPORT_DATA,
    TCB,
    Chain,
    changed,
    pin,
    replaced,
    without,
)
from tests.vectors.evidence.format import (
    b64,
    difference,
    document_json,
    endorsements_json,
    roots_json,
)
from tests.vectors.evidence.keys import ec_key, rsa_key
from trust.evidence.claims import Product
from trust.simulated import SimulatedChip
from trust.simulated import certificates as minting
from trust.simulated.certificates import Extension
from trust.simulated.chip import MODELS, vcek_extensions
from trust.verifier import der
from trust.verifier.endorsements import CSP_ID, HARDWARE_ID, PRODUCT_NAME
from trust.verifier.policy import AppraisalPolicy, simulated_policy
from trust.verifier.snp_policy import (
    GENOA_FLOOR,
    TURIN_FLOOR,
    ProductFloor,
    SnpDemands,
    snp_demands,
)

ARK, ASK, ATTACKER, CHIP = rsa_key("ark"), rsa_key("ask"), rsa_key("attacker"), ec_key("vcek")
PROVIDER = "CN=cloud.example"
TURIN_CHIP_ID = CHIP_ID[:8].ljust(64, b"\x00")
TURIN_TCB = MODELS[Product.TURIN].tcb
MILAN_FLOOR = dataclasses.replace(GENOA_FLOOR, product=Product.MILAN)
SHA384_RSA = bytes.fromhex("300d06092a864886f70d01010c0500")
PSS_WITH_TRAILER = max(minting.PSS_SHA384_SALT48, key=len)

Edits = Mapping[int, bytes]


@dataclass(frozen=True, kw_only=True)
class Amd(Chain):
    """A chain of a Genoa by keys that are always the same."""

    leaf_key: Any = CHIP
    issuer_key: Any = ASK
    root_key: Any = ARK


GENOA_EXTENSIONS = vcek_extensions(Product.GENOA, TCB, CHIP_ID)
MILAN_EXTENSIONS = replaced(
    GENOA_EXTENSIONS, PRODUCT_NAME, minting.tlv(der.IA5_STRING, b"Milan-B0")
)
VLEK_EXTENSIONS = (
    *without(GENOA_EXTENSIONS, HARDWARE_ID),
    Extension(name=CSP_ID, value=minting.tlv(der.IA5_STRING, PROVIDER.encode())),
)
_PARTS: dict[str, dict[str, Any]] = {
    "genoa": {},
    "milan": {
        "root_name": "ARK-Milan",
        "issuer_name": "SEV-Milan",
        "leaf_extensions": MILAN_EXTENSIONS,
    },
    "turin": {
        "root_name": "ARK-Turin",
        "issuer_name": "SEV-Turin",
        "leaf_extensions": vcek_extensions(Product.TURIN, TURIN_TCB, TURIN_CHIP_ID),
    },
    "vlek": {
        "kind": "vlek",
        "leaf_name": "SEV-VLEK",
        "issuer_name": "SEV-VLEK-Genoa",
        "leaf_extensions": VLEK_EXTENSIONS,
    },
}
_EDITS: dict[str, dict[int, bytes]] = {
    "milan": {0x188: b"\x19\x01\x01"},
    "vlek": {0x48: b"\x04", 0x1A0: bytes(64)},
}
_FLOORS: dict[str, ProductFloor] = {"milan": MILAN_FLOOR, "turin": TURIN_FLOOR}


@functools.cache
def _good_ark(who: str) -> bytes:
    return chain(who)["ark"]


def chain(who: str = "genoa", **changes: Any) -> dict[str, bytes]:
    """Endorsements by kind; `changes` are of `Chain`."""
    return Amd(**{**_PARTS[who], **changes}).endorsements()


def body(who: str = "genoa", edits: Edits | None = None) -> bytes:
    """The signed part of a good report of a genoa, milan, turin or vlek, with bytes replaced."""
    product = Product.TURIN if who == "turin" else Product.GENOA
    chip = SimulatedChip(
        product=product,
        chip_id=TURIN_CHIP_ID if who == "turin" else CHIP_ID,
        vcek=b"-",
        ask=b"-",
        ark=b"-",
        crl=b"-",
        key=b"-",
    )
    made = bytearray(
        chip.report_body(report_data=REPORT_DATA, host_data=HOST_DATA, measurement=MEASUREMENT)
    )
    for offset, value in {**_EDITS.get(who, {}), **(edits or {})}.items():
        made[offset : offset + len(value)] = value
    return bytes(made)


def signed(content: bytes, key: Any = CHIP, algorithm: Any = None) -> bytes:
    """A whole report: what stands before the signature, and one of it by `key`."""
    algorithm = algorithm or ec.ECDSA(hashes.SHA384())
    return with_numbers(content, *decode_dss_signature(key.sign(content, algorithm)))


def with_numbers(content: bytes, r: int, s: int) -> bytes:
    """A whole report with these two numbers as its signature."""
    numbers = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return (content + numbers).ljust(1184, b"\x00")


def report(who: str = "genoa", edits: Edits | None = None) -> bytes:
    """A report that the chip signed, whatever is wrong with it."""
    return signed(body(who, edits))


def policy(who: str = "genoa", **changes: Any) -> AppraisalPolicy:
    """The shipped demands of this product, under the simulated root; a VLEK's provider is named."""
    base = simulated_policy(bytes(32), [MEASUREMENT])
    product = Product(_FLOORS[who].product.value) if who in _FLOORS else Product.GENOA
    made = dataclasses.replace(
        base,
        roots=(pin(_good_ark(who), product),),
        snp=snp_demands(_FLOORS.get(who, GENOA_FLOOR)),
    )
    if who == "vlek":
        made = changed(made, vlek_csp_ids=(PROVIDER,))
    return changed(made, **changes)


def demands(who: str = "genoa") -> SnpDemands:
    """The shipped demands of this product."""
    made = policy(who).snp
    assert made is not None
    return made


def policy_patch(who: str, other: AppraisalPolicy) -> dict[str, Any]:
    """What makes this other policy of a base's."""
    return difference(document_json(policy(who)), document_json(other))


def whole(who: str) -> dict[str, Any]:
    """A whole good input."""
    demands = policy(who)
    return {
        "version": 1,
        "now": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "evidence": {
            "platform": "sev-snp",
            "report": b64(report(who)),
            "gpu": None,
            "statement": None,
            "launch": None,
        },
        "endorsements": endorsements_json(chain(who).items()),
        "roots": roots_json(demands.roots),
        "policy": document_json(demands),
        "expected": {
            "report_data": b64(REPORT_DATA),
            "launch": b64(HOST_DATA),
            "gpu_nonce": None,
        },
    }


# --- endorsements with other bytes ---------------------------------------------------------------


def resigned(algorithm: bytes, sign: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Take a certificate or list apart, name another algorithm in it, and sign it by that."""

    def edit(encoded: bytes) -> bytes:
        parts = der.read_elements(der.read_sequence(encoded)[0].content)
        content = minting.sequence(
            *(algorithm if e.encoded == minting.PSS_ALGORITHM else e.encoded for e in parts)
        )
        value = minting.tlv(der.BIT_STRING, b"\x00" + sign(content))
        return minting.sequence(content, algorithm, value)

    return edit


def rewritten(key: Any, edit: Callable[[list[bytes]], Iterable[bytes]]) -> Callable[[bytes], bytes]:
    """Change the parts of what is signed, and sign it again as AMD does."""

    def edited(encoded: bytes) -> bytes:
        parts = [e.encoded for e in der.read_elements(der.read_sequence(encoded)[0].content)]
        return minting.sign(minting.sequence(*edit(parts)), key)

    return edited


def pss(key: Any, salt_bytes: int, algorithm: hashes.HashAlgorithm) -> Callable[[bytes], bytes]:
    """A signer with this salt and hash."""

    def sign(content: bytes) -> bytes:
        scheme = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=salt_bytes)
        signature: bytes = key.sign(content, scheme, algorithm)
        return signature

    return sign


def pkcs1(key: Any) -> Callable[[bytes], bytes]:
    """A signer of PKCS #1 v1.5 with SHA-384."""

    def sign(content: bytes) -> bytes:
        signature: bytes = key.sign(content, padding.PKCS1v15(), hashes.SHA384())
        return signature

    return sign
