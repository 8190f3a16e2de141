"""SEV-SNP: the lies that a host, a chip's owner or a thief of keys can tell, and controls.

The nine checks of verification first, then the policy's, in the order of the list of checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes

from tests.trust.verifier.vendor import (
    CHIP_ID,
    NOW,
    replaced,
)
from tests.vectors.evidence import snp_mint as mint
from tests.vectors.evidence.format import (
    Scenario,
    accepted,
    b64,
    endorsements_json,
    malformed,
)
from tests.vectors.evidence.snp_appraisal import APPRAISAL
from tests.vectors.evidence.snp_binding import BINDING
from tests.vectors.evidence.snp_chain import CHAIN
from tests.vectors.evidence.snp_mint import (
    ARK,
    ASK,
    ATTACKER,
    GENOA_EXTENSIONS,
    chain,
)
from tests.vectors.evidence.snp_said import (
    BODY,
    GOOD,
    carried,
    control,
    control_chain,
    edited,
    shape,
)
from trust.evidence.snp import _P384_ORDER as P384_ORDER
from trust.simulated import certificates as minting
from trust.simulated.certificates import Extension
from trust.verifier import der
from trust.verifier.endorsements import HARDWARE_ID

WHO = ("genoa", "milan", "turin", "vlek")
BASES: Mapping[str, dict[str, Any]] = {f"snp-{who}": mint.whole(who) for who in WHO}


_R, _S = (int.from_bytes(GOOD[at : at + 72], "little") for at in (0x2A0, 0x2E8))

SHAPES = (
    shape("report-cut-short", "The report has 1183 bytes.", GOOD[:-1]),
    shape("report-too-long", "A byte stands after the report.", GOOD + b"\x00"),
    shape("version-1", "The report is of version 1.", mint.report(edits={0: b"\x01"})),
    shape("version-6", "The report is of version 6.", mint.report(edits={0: b"\x06"})),
    shape(
        "reserved-byte", "A reserved byte is set, and signed.", mint.report(edits={0x4C: b"\x01"})
    ),
    shape(
        "reserved-end",
        "The last reserved byte before the signature is set, and signed.",
        mint.report(edits={0x29F: b"\x01"}),
    ),
    shape("reserved-flags", "A reserved flag is set.", mint.report(edits={0x48: b"\x20"})),
    shape(
        "version-2-with-cpuid",
        "A version 2 report names a processor, where that version has reserved bytes.",
        mint.report(edits={0: b"\x02", 0x1F8: bytes(16)}),
    ),
    shape(
        "version-4-with-mitigations",
        "A version 4 report has mitigation vectors, where that version has reserved bytes.",
        mint.report(edits={0: b"\x04"}),
    ),
    shape("zero-r", "The signature's r is zero.", mint.with_numbers(BODY, 0, _S)),
    shape("zero-s", "The signature's s is zero.", mint.with_numbers(BODY, _R, 0)),
    shape(
        "s-above-order",
        "The group's order is added to s, which makes another name for the same signature.",
        mint.with_numbers(BODY, _R, _S + P384_ORDER),
    ),
    shape("signature-padding", "A byte stands after the signature.", GOOD[:-1] + b"\x01"),
    malformed(
        "snp",
        "platform-in-capitals",
        "The platform's name is in capitals.",
        "snp-genoa",
        "report-format",
        evidence={"platform": "SEV-SNP"},
    ),
)

CARRIED = (
    carried(
        "no-issuer",
        "The host withholds the issuer.",
        "chain",
        {k: v for k, v in chain().items() if k != "ask"},
    ),
    carried(
        "no-root",
        "The host withholds the root.",
        "chain",
        {k: v for k, v in chain().items() if k != "ark"},
    ),
    carried(
        "two-endorsement-keys",
        "A VCEK and a VLEK are shown, to choose from.",
        "chain",
        {**{k: v for k, v in chain().items() if k != "crl"}, "vlek": chain()["vcek"]},
    ),
    malformed(
        "snp",
        "two-roots",
        "Two roots are shown, to choose from.",
        "snp-genoa",
        "chain",
        endorsements=endorsements_json(
            [
                *((k, v) for k, v in chain().items() if k != "crl"),
                ("ark", chain(root_key=ATTACKER)["ark"]),
            ]
        ),
    ),
    carried(
        "certificate-with-a-tail",
        "A byte stands after the VCEK.",
        "chain",
        {**chain(), "vcek": chain()["vcek"] + b"\x00"},
    ),
    carried(
        "huge-certificate",
        "The VCEK has more bytes than any certificate may have.",
        "chain",
        {**chain(), "vcek": chain()["vcek"].ljust(8 * 1024 + 1, b"\x00")},
    ),
    carried(
        "two-algorithms",
        "The issuer's certificate names one signature algorithm inside of what is signed, and "
        "another outside.",
        "chain",
        {
            **chain(),
            "ask": chain()["ask"].replace(
                minting.PSS_ALGORITHM, mint.SHA384_RSA.ljust(len(minting.PSS_ALGORITHM), b"\x00"), 1
            ),
        },
    ),
    carried(
        "hwid-twice",
        "The VCEK has the extension HWID twice: one for each reader.",
        "chip-id",
        chain(leaf_extensions=(*GENOA_EXTENSIONS, Extension(name=HARDWARE_ID, value=bytes(64)))),
    ),
    carried(
        "unknown-critical-extension",
        "The VCEK has a critical extension that nobody knows.",
        "chain",
        chain(
            leaf_extensions=(
                *GENOA_EXTENSIONS,
                Extension(name=der.oid("1.2.3"), value=b"", critical=True),
            )
        ),
    ),
    carried(
        "delta-list",
        "The list says in a critical extension that it is a part of one.",
        "revocation",
        edited(
            "crl",
            ARK,
            lambda parts: (
                *parts,
                minting.tlv(
                    0xA0,
                    minting.sequence(
                        Extension(
                            name=der.oid("2.5.29.27"), value=minting.integer(1), critical=True
                        ).encode()
                    ),
                ),
            ),
        ),
    ),
    carried(
        "list-of-version-1",
        "The list is of the first version, which has no number and no extensions.",
        "revocation",
        edited("crl", ARK, lambda parts: parts[1:]),
    ),
)

CONTROLS = (
    *(
        accepted("snp", f"good-{who}", f"The base of a {who}, as it is.", f"snp-{who}")
        for who in WHO
    ),
    control("good-version-3", "A report of version 3.", {0: b"\x03", 0x1F8: bytes(16)}),
    control("good-version-4", "A report of version 4.", {0: b"\x04", 0x1F8: bytes(16)}),
    control(
        "good-siena", "The processor is a Siena, of Genoa's product line.", {0x188: b"\x19\xa0\x02"}
    ),
    accepted(
        "snp",
        "good-other-signature",
        "The signature with n - s for s: of the same bytes by "
        "the same key, since it is not what is signed that changed.",
        "snp-genoa",
        evidence={"report": b64(mint.with_numbers(BODY, _R, P384_ORDER - _S))},
    ),
    control_chain(
        "good-hwid-in-octet-string",
        "HWID is wrapped in an OCTET STRING, as AMD wrote it before.",
        leaf_extensions=replaced(
            GENOA_EXTENSIONS, HARDWARE_ID, minting.tlv(der.OCTET_STRING, CHIP_ID)
        ),
    ),
    control_chain("good-list-this-second", "The list begins this second.", list_this_update=NOW),
    control_chain(
        "good-list-of-others",
        "The list revokes another issuer alone.",
        list_serials=(0x20001, 0x20003),
    ),
    control_chain(
        "good-first-second",
        "VCEK and issuer begin this second.",
        leaf_not_before=NOW,
        issuer_not_before=NOW,
    ),
    control_chain(
        "good-trailer-field",
        "The VCEK's signature writes the default trailer field.",
        leaf_edit=mint.resigned(mint.PSS_WITH_TRAILER, mint.pss(ASK, 48, hashes.SHA384())),
    ),
)


SCENARIOS: tuple[Scenario, ...] = (
    *SHAPES,
    *CARRIED,
    *CHAIN,
    *BINDING,
    *APPRAISAL,
    *CONTROLS,
)
