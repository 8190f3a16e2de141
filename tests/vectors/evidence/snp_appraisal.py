"""SEV-SNP, the policy's checks: genuine chips with bad firmware, bad guests and bad launches."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from tests.trust.verifier.vendor import CHIP_ID, DAY, HOST_DATA, NOW, REPORT_DATA
from tests.vectors.evidence import snp_mint as mint
from tests.vectors.evidence.format import Scenario, accepted, b64, endorsements_json, refused
from trust.evidence.claims import Product
from trust.simulated.chip import vcek_extensions
from trust.verifier.snp_policy import Demand

GUEST_BITS = {
    "smt": 16,
    "single_socket": 20,
    "cxl_allow": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding": 24,
    "page_swap_disable": 25,
}
PLATFORM_BITS = {
    "smt": 0,
    "tsme": 1,
    "ecc": 2,
    "rapl_dis": 3,
    "ciphertext_hiding": 4,
    "alias_check_complete": 5,
    "sev_tio": 7,
}
_V2 = {0x00: b"\x02", 0x188: bytes(3), 0x1F8: bytes(16)}
_V4 = {0x00: b"\x04", 0x1F8: bytes(16)}
_KEY = hashlib.sha384(b"simulated id key").digest()
_OTHER = hashlib.sha384(b"simulated id key of another").digest()
_REPORTED, _CURRENT, _COMMITTED, _LAUNCH = 0x180, 0x038, 0x1E0, 0x1F0


def _told(
    name: str,
    tells: str,
    checks: str | tuple[str, ...],
    edits: mint.Edits | None = None,
    who: str = "genoa",
    **changes: Any,
) -> Scenario:
    """A genuine chip of `who` says it, to a policy with these changes."""
    patch: dict[str, Any] = {}
    if edits:
        patch["evidence"] = {"report": b64(mint.report(who, edits))}
    if changes:
        patch["policy"] = mint.policy_patch(who, mint.policy(who, **changes))
    made = refused("snp", name, tells, f"snp-{who}", "", **patch)
    return dataclasses.replace(made, checks=(checks,) if isinstance(checks, str) else checks)


def _control(
    name: str, tells: str, edits: mint.Edits | None = None, who: str = "genoa", **changes: Any
) -> Scenario:
    lie = _told(name, tells, "", edits, who, **changes)
    return accepted("snp", name, tells, lie.base, **lie.replace)


def _tcb(snp: int = 27, microcode: int = 88, boot_loader: int = 10) -> bytes:
    return bytes((boot_loader, 0, 0, 0, 0, 0, snp, microcode))


def _certified(lie: Scenario, tcb: bytes, who: str = "genoa") -> Scenario:
    """The chip's key is one for `tcb`."""
    product, chip_id = (
        (Product.TURIN, mint.TURIN_CHIP_ID) if who == "turin" else (Product.GENOA, CHIP_ID)
    )
    made = mint.chain(who, leaf_extensions=vcek_extensions(product, tcb, chip_id))
    patch = {**lie.replace, "endorsements": endorsements_json(made.items())}
    return dataclasses.replace(lie, replace=patch)


def _everywhere(tcb: bytes) -> dict[int, bytes]:
    return dict.fromkeys((_REPORTED, _CURRENT, _COMMITTED, _LAUNCH), tcb)


_THREE = ("tcb-committed", "tcb-launch", "tcb-reported")
WHO_SIGNS = (
    _told(
        "version-2", "The report is of version 2, which names no processor.", "report-version", _V2
    ),
    _told(
        "vlek-not-allowed",
        "A good VLEK, of which the policy names no provider.",
        "signer",
        None,
        "vlek",
        vlek_csp_ids=(),
    ),
    _told(
        "vlek-of-another-provider",
        "A good VLEK of another provider than the policy's.",
        "signer",
        None,
        "vlek",
        vlek_csp_ids=("CN=cloud.example.org",),
    ),
    refused(
        "snp",
        "vcek-ends-this-second",
        "The VCEK ends this second: what it says would be believed for no time at all.",
        "snp-genoa",
        "time",
        endorsements=endorsements_json(mint.chain(leaf_not_after=NOW).items()),
    ),
    _told(
        "policy-ended",
        "The policy itself ended a day ago.",
        "time",
        expires_at=int((NOW - DAY).timestamp() * 1000),
    ),
)

FLOORS = (
    _certified(
        _told(
            "reported-below-floor",
            "The chip reports, and has a key for, an SNP version "
            "below the floor; what is committed and launched is newer.",
            "tcb-reported",
            {_REPORTED: _tcb(snp=26)},
        ),
        _tcb(snp=26),
    ),
    _certified(
        _told(
            "old-firmware",
            "All of the chip's firmware is old, and its key says so.",
            _THREE,
            _everywhere(_tcb(snp=26)),
        ),
        _tcb(snp=26),
    ),
    _certified(
        _told(
            "newer-microcode-older-firmware",
            "Newer microcode and an older SNP version: "
            "not at least the floor, component by component.",
            _THREE,
            _everywhere(_tcb(snp=26, microcode=99)),
        ),
        _tcb(snp=26, microcode=99),
    ),
    _certified(
        _told(
            "old-boot-loader",
            "The boot loader alone is below the floor.",
            _THREE,
            _everywhere(_tcb(boot_loader=9)),
        ),
        _tcb(boot_loader=9),
    ),
    _certified(
        _told(
            "old-microcode",
            "The microcode alone is below the floor.",
            _THREE,
            _everywhere(_tcb(microcode=87)),
        ),
        _tcb(microcode=87),
    ),
    _certified(
        _told(
            "old-turin",
            "A Turin's SNP version, in its own layout, is below the floor.",
            _THREE,
            _everywhere(bytes((0, 1, 0, 3, 0, 0, 0, 71))),
            "turin",
        ),
        bytes((0, 1, 0, 3, 0, 0, 0, 71)),
        "turin",
    ),
    # Below the floor, COMMITTED is below REPORTED too, or REPORTED is below the floor itself: the
    # floor of COMMITTED follows from two other lines, and none can be told from it.
    _told(
        "committed-below-floor",
        "The firmware can be rolled back to an SNP version below the floor.",
        ("tcb-committed", "tcb-order"),
        {_COMMITTED: _tcb(snp=26)},
    ),
    _told(
        "launched-below-floor",
        "The guest was launched under an SNP version below the floor.",
        "tcb-launch",
        {_LAUNCH: _tcb(snp=26)},
    ),
    _told(
        "launched-under-old-microcode",
        "The guest was launched under microcode below the floor.",
        "tcb-launch",
        {_LAUNCH: _tcb(microcode=1)},
    ),
    _told(
        "launched-on-old-turin",
        "A Turin's guest was launched under an SNP version below the floor.",
        "tcb-launch",
        {_LAUNCH: bytes((0, 1, 0, 3, 0, 0, 0, 71))},
        "turin",
    ),
    _told(
        "current-below-committed",
        "CURRENT_TCB is below COMMITTED_TCB in its microcode.",
        "tcb-order",
        {_CURRENT: _tcb(microcode=87)},
    ),
    _certified(
        _told(
            "reported-above-committed",
            "REPORTED_TCB is above COMMITTED_TCB, and the key certifies it.",
            "tcb-order",
            {_REPORTED: _tcb(snp=28), _CURRENT: _tcb(snp=28)},
        ),
        _tcb(snp=28),
    ),
    _told(
        "old-committed-firmware", "The committed firmware is 1.55.48.", "firmware", {0x1EC: b"\x30"}
    ),
    _told("old-current-firmware", "The current firmware is 1.55.48.", "firmware", {0x1E8: b"\x30"}),
    _told(
        "minor-firmware-with-a-large-build",
        "The committed firmware is 1.54.255: a build is no version.",
        "firmware",
        {0x1EC: b"\xff\x36\x01"},
    ),
    _told(
        "mitigation-missing",
        "A mitigation that the policy demands is in neither vector.",
        "mitigations",
        mitigations=(0, 2),
    ),
    _told(
        "mitigation-missing-at-launch",
        "A mitigation was not there when the guest was launched.",
        "mitigations",
        {0x1F8: b"\x0a"},
        mitigations=(0,),
    ),
    _told(
        "mitigation-missing-now",
        "A mitigation is no longer there.",
        "mitigations",
        {0x200: b"\x0a"},
        mitigations=(0,),
    ),
    _told(
        "no-mitigation-vectors",
        "A version 4 report has no vectors, and the policy demands a mitigation.",
        "mitigations",
        _V4,
        mitigations=(0,),
    ),
)

GUEST = (
    _told("debug-guest", "The host may read the guest's memory.", "guest-debug", {0x0A: b"\x0b"}),
    _told(
        "migrate-ma", "A migration agent may export the guest.", "guest-migrate-ma", {0x0A: b"\x07"}
    ),
    _told(
        "migration-agent", "A migration agent has the guest.", "migration-agent", {0x160: bytes(32)}
    ),
    _told(
        "migration-agent-but-for-a-bit",
        "REPORT_ID_MA is all ones but for one bit.",
        "migration-agent",
        {0x17F: b"\x7f"},
    ),
    _told(
        "guest-bit-17-clear",
        "POLICY lacks the bit that is always 1.",
        "guest-reserved",
        {0x0A: b"\x01"},
    ),
    _told(
        "guest-bit-26-set", "POLICY has a bit that nobody knows.", "guest-reserved", {0x0B: b"\x04"}
    ),
    _told("guest-bit-63-set", "POLICY has its last bit.", "guest-reserved", {0x0F: b"\x80"}),
    _told(
        "guest-abi-low",
        "The guest insists on no ABI, and the policy demands 1.55.",
        "guest-abi",
        guest=dataclasses.replace(mint.demands().guest, abi_major=1, abi_minor=55),
    ),
    _told(
        "guest-abi-minor-low",
        "The guest insists on ABI 1.54, and the policy demands 1.55.",
        "guest-abi",
        {0x08: b"\x36\x01"},
        guest=dataclasses.replace(mint.demands().guest, abi_major=1, abi_minor=55),
    ),
)


def _bits() -> list[Scenario]:
    """For each bit that a policy can speak of: it is clear where set is wanted, and otherwise."""
    made = []
    for part, field, offset, places in (
        ("guest", "POLICY", 0x08, GUEST_BITS),
        ("platform", "PLATFORM_INFO", 0x40, PLATFORM_BITS),
    ):
        good = int.from_bytes(mint.body()[offset : offset + 8], "little")
        for name, bit in places.items():
            dashed = f"{part}-{name.replace('_', '-')}"
            for demand in (Demand.SET, Demand.CLEAR):
                lying = good & ~(1 << bit) | ((demand is Demand.CLEAR) << bit)
                found = "set" if demand is Demand.CLEAR else "clear"
                wanted = dataclasses.replace(getattr(mint.demands(), part), **{name: demand})
                made.append(
                    _told(
                        f"{dashed}-{found}",
                        f"Bit {bit} of {field} is {found}, and the policy wants it {demand.value}.",
                        dashed,
                        {offset: lying.to_bytes(8, "little")},
                        **{part: wanted},
                    )
                )
    return made


WHAT_RUNS = (
    _told("vmpl-1", "A paravisor stands below the guest.", "vmpl", {0x30: b"\x01"}),
    _told(
        "vmpl-0-unwanted",
        "The policy wants a paravisor below the guest, and there is none.",
        "vmpl",
        vmpl=1,
    ),
    _told("another-image", "The guest is another image.", "measurement", {0x90: b"\xff"}),
    _told(
        "another-images-last-byte",
        "The measurement differs in its last byte.",
        "measurement",
        {0xBF: b"\x00"},
    ),
    _told(
        "another-launch", "The launch document is another.", "host-data", {0xC0: HOST_DATA[::-1]}
    ),
    _told("no-launch", "HOST_DATA is zeros: no launch document.", "host-data", {0xC0: bytes(32)}),
    _told(
        "id-block-by-another",
        "The ID block is by another key than the policy's.",
        "id-key",
        {0xE0: _OTHER},
        id_key_digests=(_KEY,),
    ),
    _told(
        "no-id-block",
        "There is no ID block, and the policy demands one.",
        "id-key",
        id_key_digests=(_KEY,),
    ),
    _told(
        "no-id-block-and-zeros-named",
        "There is no ID block, and a policy's author wrote zeros.",
        "id-key",
        id_key_digests=(bytes(48),),
    ),
    _told(
        "id-key-by-another-author",
        "The ID key is signed by another author than the policy's.",
        "author-key",
        {0xE0: _KEY, 0x110: _OTHER},
        id_key_digests=(_KEY,),
        author_key_digests=(_KEY,),
    ),
    _told(
        "another-statement",
        "The report is about another statement.",
        "report-data",
        {0x50: b"\xff"},
    ),
    _told(
        "another-statements-last-byte",
        "The statement's digest differs in its last byte.",
        "report-data",
        {0x8F: b"\x00"},
    ),
    _told(
        "half-a-statement",
        "The second half of REPORT_DATA is zeros, as of a shorter digest.",
        "report-data",
        {0x70: bytes(32)},
    ),
    refused(
        "snp",
        "replayed-report",
        "A good report of another session.",
        "snp-genoa",
        "report-data",
        expected={"report_data": b64(REPORT_DATA[::-1])},
    ),
)

GOOD = (
    _control(
        "good-version-2",
        "A report of version 2, under a policy that allows it.",
        _V2,
        report_version_least=2,
    ),
    _control(
        "good-unknown-platform-bits",
        "Bits of PLATFORM_INFO that nobody knows are no ground.",
        {0x44: b"\xff"},
    ),
    _control(
        "good-mitigations", "The mitigations demanded are in both vectors.", mitigations=(0, 1, 3)
    ),
    _control(
        "good-abi",
        "The guest insists on the ABI that the policy demands.",
        {0x08: b"\x37\x01"},
        guest=dataclasses.replace(mint.demands().guest, abi_major=1, abi_minor=55),
    ),
    _control(
        "good-id-block",
        "ID and author key are of those that the policy names.",
        {0xE0: _KEY, 0x110: _OTHER},
        id_key_digests=(_OTHER, _KEY),
        author_key_digests=(_OTHER,),
    ),
    _control("good-paravisor", "VMPL 1, under a policy that wants it.", {0x30: b"\x01"}, vmpl=1),
    _certified(
        _control(
            "good-newer",
            "All firmware is newer than the floors.",
            {**_everywhere(_tcb(snp=28, microcode=90)), 0x1E8: b"\x01\x38", 0x1EC: b"\x01\x38"},
        ),
        _tcb(snp=28, microcode=90),
    ),
)

APPRAISAL: tuple[Scenario, ...] = (*WHO_SIGNS, *FLOORS, *GUEST, *_bits(), *WHAT_RUNS, *GOOD)
