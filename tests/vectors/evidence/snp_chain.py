"""SEV-SNP: lies about who signed what: key, signature, chain, dates, revocation."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.trust.verifier.vendor import (
    DAY,
    ISSUER_EXTENSIONS,
    NOW,
    pin,
    replaced,
)
from tests.vectors.evidence import snp_mint as mint
from tests.vectors.evidence.format import (
    b64,
    endorsements_json,
    refused,
    roots_json,
)
from tests.vectors.evidence.keys import ec_key, rsa_key
from tests.vectors.evidence.snp_mint import (
    ARK,
    ASK,
    ATTACKER,
    chain,
)
from tests.vectors.evidence.snp_said import (
    BODY,
    GOOD,
    chained,
    reported,
    told,
)
from trust.evidence.claims import Product
from trust.simulated import certificates as minting
from trust.simulated.certificates import Extension
from trust.verifier.certificates import BASIC_CONSTRAINTS, KEY_USAGE
from trust.verifier.roots import amd_root

_R, _S = (int.from_bytes(GOOD[at : at + 72], "little") for at in (0x2A0, 0x2E8))

SIGNING_KEYS = (
    told(
        "algorithm-2", "SIGNATURE_ALGO is one that does not exist.", "signing-key", {0x34: b"\x02"}
    ),
    told("signed-by-none", "SIGNING_KEY says that no key signed.", "signing-key", {0x48: b"\x1c"}),
    told("signed-by-undefined", "SIGNING_KEY is not defined.", "signing-key", {0x48: b"\x08"}),
    told(
        "vlek-said-vcek-shown",
        "The report says VLEK, and a VCEK signed it.",
        "signing-key",
        {0x48: b"\x04"},
    ),
    told(
        "vcek-said-vlek-shown",
        "The report says VCEK, and a VLEK signed it.",
        "signing-key",
        {0x48: b"\x00"},
        "vlek",
    ),
    chained("vcek-named-vlek", "A VCEK has a VLEK's name.", "signing-key", leaf_name="SEV-VLEK"),
    chained(
        "vcek-under-asvk",
        "A VCEK stands under the issuer of VLEKs.",
        "signing-key",
        issuer_name="SEV-VLEK-Genoa",
    ),
    chained(
        "vlek-under-ask",
        "A VLEK stands under the issuer of VCEKs.",
        "signing-key",
        "vlek",
        issuer_name="SEV-Genoa",
    ),
)

SIGNATURES = (
    reported(
        "measurement-changed-after",
        "The measurement was changed after the chip signed.",
        "report-signature",
        GOOD[:0x90] + b"\xff" + GOOD[0x91:],
    ),
    reported(
        "last-signed-byte-unsigned",
        "The signature leaves the last mitigation byte out.",
        "report-signature",
        BODY[:0x207] + b"\x01" + mint.signed(BODY)[0x208:],
    ),
    reported(
        "attackers-signature",
        "The attacker signed in the chip's place.",
        "report-signature",
        mint.signed(BODY, ec_key("attacker")),
    ),
    reported(
        "signed-over-sha-256",
        "The chip signed the report's SHA-256.",
        "report-signature",
        mint.signed(BODY, algorithm=ec.ECDSA(hashes.SHA256())),
    ),
    reported(
        "r-and-s-swapped",
        "The signature's numbers stand in each other's place.",
        "report-signature",
        mint.with_numbers(BODY, _S, _R),
    ),
    reported(
        "signature-of-another-report",
        "The signature is one of another report of this chip.",
        "report-signature",
        BODY + mint.report(edits={0x50: b"\xff"})[0x2A0:],
    ),
    chained(
        "attackers-endorsement-key",
        "The VCEK certifies another key than the chip's.",
        "report-signature",
        leaf_key=ec_key("attacker"),
    ),
    refused(
        "snp",
        "smaller-curve",
        "A P-256 key is certified, and signed the report well.",
        "snp-genoa",
        "report-signature",
        evidence={"report": b64(mint.signed(BODY, ec_key("small", ec.SECP256R1)))},
        endorsements=endorsements_json(chain(leaf_key=ec_key("small", ec.SECP256R1)).items()),
    ),
    chained(
        "rsa-endorsement-key",
        "The VCEK certifies an RSA key.",
        "report-signature",
        leaf_key=ATTACKER,
    ),
)


def _usage(bits: str) -> tuple[Extension, ...]:
    return replaced(ISSUER_EXTENSIONS, KEY_USAGE, bytes.fromhex(bits))


CHAINS = (
    refused(
        "snp",
        "root-not-pinned",
        "A root with AMD's names, serials and dates, which nobody pinned.",
        "snp-genoa",
        "chain",
        endorsements=endorsements_json(chain(root_key=ATTACKER).items()),
    ),
    refused(
        "snp",
        "simulated-under-amds-pins",
        "A simulated chip is shown to a verifier of real ones.",
        "snp-genoa",
        "chain",
        roots=roots_json([amd_root(Product.GENOA)]),
    ),
    refused(
        "snp",
        "root-pinned-for-turin",
        "The root of Genoas is pinned, as Turin's alone.",
        "snp-genoa",
        "chain",
        roots=roots_json([pin(chain()["ark"], Product.TURIN)]),
        policy=mint.policy_patch("genoa", mint.policy("turin")),
    ),
    refused(
        "snp",
        "milan-under-shipped-policy",
        "A good Milan under a shipped policy, which pins "
        "no root of Milans: their seed can be read out.",
        "snp-milan",
        "chain",
        roots=roots_json([pin(chain()["ark"])]),
        policy=mint.policy_patch("milan", mint.policy("genoa")),
    ),
    chained(
        "leaf-by-attacker",
        "The attacker signed the VCEK in the issuer's name.",
        "chain",
        leaf_signer=ATTACKER,
    ),
    chained(
        "leaf-by-root",
        "The root itself signed the VCEK in the issuer's name.",
        "chain",
        leaf_signer=ARK,
    ),
    chained(
        "issuer-by-attacker",
        "The attacker made an issuer.",
        "chain",
        issuer_key=ATTACKER,
        issuer_signer=ATTACKER,
    ),
    chained("issuer-signs-itself", "The issuer signed itself.", "chain", issuer_signer=ASK),
    chained(
        "issuer-names-another-root",
        "The issuer names another root above it, under the same key.",
        "chain",
        issuer_issuer="ARK-Milan",
    ),
    chained(
        "leaf-names-another-issuer",
        "The VCEK names another issuer above it, under the same key.",
        "chain",
        leaf_issuer="SEV-Milan",
    ),
    chained(
        "issuer-without-constraints",
        "The issuer's certificate does not say that it is an authority.",
        "chain",
        issuer_extensions=(minting.SIGNS_CERTIFICATES,),
    ),
    chained(
        "issuer-no-authority",
        "The issuer's certificate says that it is no authority.",
        "chain",
        issuer_extensions=replaced(
            ISSUER_EXTENSIONS, BASIC_CONSTRAINTS, bytes.fromhex("3003010100")
        ),
    ),
    chained(
        "issuer-signs-no-certificates",
        "The issuer's key is for signatures, and not of certificates.",
        "chain",
        issuer_extensions=_usage("03020780"),
    ),
    chained(
        "root-signs-lists-alone",
        "The root's key is for lists alone.",
        "chain",
        root_extensions=(
            minting.AUTHORITY,
            Extension(name=KEY_USAGE, value=bytes.fromhex("03020102"), critical=True),
        ),
    ),
    chained(
        "issuer-with-short-key",
        "The issuer has an RSA-2048 key.",
        "chain",
        issuer_key=rsa_key("short"),
    ),
    chained(
        "short-salt",
        "The VCEK's signature has a salt of 32 bytes.",
        "chain",
        leaf_edit=mint.resigned(minting.PSS_ALGORITHM, mint.pss(ASK, 32, hashes.SHA384())),
    ),
    chained(
        "pss-over-sha-256",
        "The VCEK's signature is over a SHA-256, and says SHA-384.",
        "chain",
        leaf_edit=mint.resigned(minting.PSS_ALGORITHM, mint.pss(ASK, 32, hashes.SHA256())),
    ),
    chained(
        "pkcs1",
        "The VCEK's signature is PKCS #1 v1.5, and says so.",
        "chain",
        leaf_edit=mint.resigned(mint.SHA384_RSA, mint.pkcs1(ASK)),
    ),
)

_HALF = DAY / 2
VALIDITY = (
    chained("vcek-ended", "The VCEK ended half a day ago.", "validity", leaf_not_after=NOW - _HALF),
    chained(
        "vcek-not-begun", "The VCEK begins in half a day.", "validity", leaf_not_before=NOW + _HALF
    ),
    chained(
        "issuer-not-begun",
        "The issuer begins in half a day.",
        "validity",
        issuer_not_before=NOW + _HALF,
    ),
    chained("root-ended", "The root ended half a day ago.", "validity", root_not_after=NOW - _HALF),
)

REVOCATION = (
    refused(
        "snp",
        "list-withheld",
        "The host withholds the revocation list.",
        "snp-genoa",
        "revocation",
        endorsements=endorsements_json((k, v) for k, v in chain().items() if k != "crl"),
    ),
    chained(
        "issuer-revoked",
        "The list revokes the issuer.",
        "revocation",
        list_serials=(0x20001, 0x20002),
    ),
    chained("list-ended", "The list ends this second.", "revocation", list_next_update=NOW),
    chained(
        "list-without-end",
        "The list does not say when it ends.",
        "revocation",
        list_next_update=None,
    ),
    chained(
        "list-of-the-future",
        "The list begins in half a day.",
        "revocation",
        list_this_update=NOW + _HALF,
    ),
    chained(
        "list-of-another-product",
        "The list is the one of Milans, under the same key.",
        "revocation",
        list_issuer="ARK-Milan",
    ),
    chained(
        "list-by-attacker",
        "The attacker signed an empty list.",
        "revocation",
        list_serials=(),
        list_signer=ATTACKER,
    ),
    chained(
        "list-by-issuer",
        "The issuer signed the list that would revoke it.",
        "revocation",
        list_signer=ASK,
    ),
    chained(
        "root-signs-no-lists",
        "The root's key is for certificates alone.",
        "revocation",
        root_extensions=(minting.SIGNS_CERTIFICATES, minting.AUTHORITY),
    ),
    refused(
        "snp",
        "list-by-pkcs1",
        "The list's signature is PKCS #1 v1.5, and says so.",
        "snp-genoa",
        "revocation",
        endorsements=endorsements_json(
            {
                **chain(),
                "crl": mint.resigned(mint.SHA384_RSA, mint.pkcs1(ARK))(chain()["crl"]),
            }.items()
        ),
    ),
)


CHAIN = (*SIGNING_KEYS, *SIGNATURES, *CHAINS, *VALIDITY, *REVOCATION)
