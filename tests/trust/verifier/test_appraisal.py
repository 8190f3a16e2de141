"""What a policy refuses, each by its own line; and who may say yes at all."""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trust.verifier.vendor import (
    CHIP_ID,
    DAY,
    HOST_DATA,
    MEASUREMENT,
    NOW,
    REPORT_DATA,
    Chain,
    expected,
    policy,
    report,
    simulated_chip,
    verify_cpu,
)
from trust.encoding import digest
from trust.errors import EvidenceFormatError, RefusedError
from trust.evidence.claims import Platform, Product
from trust.evidence.snp import parse_snp_report
from trust.verifier.appraisal import Evidence, appraise
from trust.verifier.endorsements import parse_snp_endorsements
from trust.verifier.policy import AppraisalPolicy, simulated_policy
from trust.verifier.results import (
    _SEAL,
    AttestationResult,
    CheckLine,
    Verdict,
    VerifiedEvidence,
)
from trust.verifier.roots import Anchor, PinnedRoot, RootKind
from trust.verifier.snp import verify_snp
from trust.verifier.snp_policy import GENOA_FLOOR, Demand, SnpDemands

REPOSITORY = Path(__file__).parents[3]


def result(
    edits: dict[int, bytes] | None = None,
    *,
    demands: AppraisalPolicy | None = None,
    endorsements: list[tuple[str, bytes]] | None = None,
    now: dt.datetime = NOW,
    **wanted: bytes,
) -> AttestationResult:
    return verify_cpu(
        "sev-snp",
        report(edits),
        endorsements or simulated_chip().endorsements(),
        demands or policy(),
        expected_report_data=wanted.get("report_data", REPORT_DATA),
        expected_host_data=wanted.get("host_data", HOST_DATA),
        now=now,
    )


def shown() -> Evidence:
    return Evidence(
        platform="sev-snp",
        report=report(),
        gpu=None,
        endorsements=tuple(simulated_chip().endorsements()),
    )


def verified() -> VerifiedEvidence:
    return verify_snp(
        parse_snp_report(report()),
        parse_snp_endorsements(simulated_chip().endorsements()),
        policy().roots,
        NOW,
    )


def snp() -> SnpDemands:
    demands = policy().snp
    assert demands is not None
    return demands


def refused(outcome: AttestationResult) -> set[str]:
    return {line.id for line in outcome.checks if not line.passed}


def test_a_good_enclave_is_accepted_and_the_result_says_for_whom() -> None:
    outcome = result()
    outcome.require()
    assert outcome.accepted
    assert refused(outcome) == set()
    assert (outcome.platform, outcome.kind) == (Platform.SEV_SNP, RootKind.SIMULATED)
    assert (outcome.product, outcome.chip_id) == ("Genoa", CHIP_ID)
    assert outcome.measurement == MEASUREMENT
    assert outcome.policy == policy().digest
    assert {c.kind: c.sha256 for c in outcome.collateral} == {
        kind: digest(value) for kind, value in simulated_chip().endorsements()
    }
    assert outcome.digest == digest(outcome.encode())
    assert outcome.encode().startswith(b"blindhost/v1/attestation-result\x00{")


OTHER_HOST = bytes(range(1, 33))
LIES: dict[str, tuple[dict[int, bytes], set[str]]] = {
    "a debug VM": ({0x0A: b"\x0b"}, {"guest-debug"}),
    "a guest that a migration agent may export": ({0x0A: b"\x07"}, {"guest-migrate-ma"}),
    "a migration agent": ({0x160: bytes(32)}, {"migration-agent"}),
    "a policy without its fixed bit": ({0x0A: b"\x01"}, {"guest-reserved"}),
    "a policy bit that nobody knows": ({0x0B: b"\x04"}, {"guest-reserved"}),
    "CXL": ({0x0A: b"\x23"}, {"guest-cxl-allow"}),
    "memory that was not looked at for aliases": (
        {0x40: b"\x05"},
        {"platform-alias-check-complete"},
    ),
    "a guest below a paravisor": ({0x30: b"\x01"}, {"vmpl"}),
    "another image": ({0x90: b"\xff"}, {"measurement"}),
    "another launch document": ({0xC0: OTHER_HOST}, {"host-data"}),
    "another statement": ({0x50: b"\xff"}, {"report-data"}),
    "a statement that differs in its last byte": ({0x8F: b"\x00"}, {"report-data"}),
    "a launch under older firmware": ({0x1F6: b"\x1a"}, {"tcb-launch"}),
    "firmware that can be rolled back": ({0x1E6: b"\x1a"}, {"tcb-committed", "tcb-order"}),
    "a current TCB below the committed one": ({0x03F: b"\x57"}, {"tcb-order"}),
    "an older committed firmware": ({0x1EC: b"\x30"}, {"firmware"}),
    "an older current firmware": ({0x1E8: b"\x30"}, {"firmware"}),
    "a report that names no processor": (
        {0x00: b"\x02", 0x188: bytes(3), 0x1F8: bytes(16)},
        {"report-version"},
    ),
}


@pytest.mark.parametrize(("edits", "checks"), LIES.values(), ids=LIES)
def test_a_genuine_chip_with_a_bad_guest_is_refused_by_its_own_line(
    edits: dict[int, bytes], checks: set[str]
) -> None:
    outcome = result(edits)
    assert refused(outcome) == checks
    assert not outcome.accepted
    first = next(line for line in outcome.checks if not line.passed)
    with pytest.raises(RefusedError) as caught:
        outcome.require()
    assert caught.value.code == f"evidence-{first.id}"
    assert first.found in caught.value.text
    assert first.wanted in caught.value.text


def test_a_key_for_old_firmware_is_below_every_floor() -> None:
    old = bytes((10, 0, 0, 0, 0, 0, 26, 88))
    chain = Chain(tcb=old).endorsements()
    root = PinnedRoot(
        kind=RootKind.SIMULATED, anchor=Anchor.GENOA, fingerprint=digest(chain["ark"])
    )
    outcome = result(
        dict.fromkeys((0x38, 0x180, 0x1E0, 0x1F0), old),
        demands=policy(roots=(root,)),
        endorsements=list(chain.items()),
    )
    assert refused(outcome) == {"tcb-reported", "tcb-committed", "tcb-launch"}


def test_a_vlek_is_refused_unless_the_policy_names_its_provider() -> None:
    from tests.trust.verifier.test_snp_checks import vlek

    chain = vlek().endorsements()
    root = PinnedRoot(
        kind=RootKind.SIMULATED, anchor=Anchor.GENOA, fingerprint=digest(chain["ark"])
    )
    edits = {0x48: b"\x04", 0x1A0: bytes(64)}
    given: dict[str, Any] = {"endorsements": list(chain.items())}
    assert refused(result(edits, demands=policy(roots=(root,)), **given)) == {"signer"}
    other = policy(roots=(root,), vlek_csp_ids=("CN=cloud.example.org",))
    assert refused(result(edits, demands=other, **given)) == {"signer"}
    named = policy(roots=(root,), vlek_csp_ids=("CN=cloud.example",))
    outcome = result(edits, demands=named, **given)
    assert outcome.accepted
    assert outcome.chip_id is None


GUEST_BITS = [
    field.name
    for field in dataclasses.fields(snp().guest)
    if field.name not in {"abi_major", "abi_minor"}
]
GUEST_PLACES = {
    "smt": 16,
    "single_socket": 20,
    "cxl_allow": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding": 24,
    "page_swap_disable": 25,
}
PLATFORM_PLACES = {
    "smt": 0,
    "tsme": 1,
    "ecc": 2,
    "rapl_dis": 3,
    "ciphertext_hiding": 4,
    "alias_check_complete": 5,
    "sev_tio": 7,
}
PLACES = [("guest", 0x08, name, bit) for name, bit in GUEST_PLACES.items()] + [
    ("platform", 0x40, name, bit) for name, bit in PLATFORM_PLACES.items()
]


def test_every_bit_that_a_policy_can_demand_is_in_the_tables_above() -> None:
    assert set(GUEST_BITS) == set(GUEST_PLACES)
    assert {f.name for f in dataclasses.fields(snp().platform)} == set(PLATFORM_PLACES)


@pytest.mark.parametrize(("part", "offset", "name", "bit"), PLACES)
@pytest.mark.parametrize("value", [False, True])
def test_each_demand_looks_at_its_own_bit(
    part: str, offset: int, name: str, bit: int, value: bool
) -> None:
    good = parse_snp_report(report()).raw[offset : offset + 8]
    bits = int.from_bytes(good, "little") & ~(1 << bit) | (value << bit)
    edits = {offset: bits.to_bytes(8, "little")}
    check = f"{part}-{name.replace('_', '-')}"
    for demand, passes in ((Demand.SET, value), (Demand.CLEAR, not value), (Demand.ANY, True)):
        demands = dataclasses.replace(getattr(snp(), part), **{name: demand})
        outcome = result(edits, demands=policy(**{part: demands}))
        assert refused(outcome) == (set() if passes else {check})
        verdict = next(line.verdict for line in outcome.checks if line.id == check)
        assert (verdict is Verdict.NOT_DEMANDED) == (demand is Demand.ANY)


def test_an_abi_that_the_guest_does_not_insist_on_is_refused() -> None:
    demands = dataclasses.replace(snp().guest, abi_major=1, abi_minor=55)
    assert refused(result(demands=policy(guest=demands))) == {"guest-abi"}
    assert result({0x08: b"\x37\x01"}, demands=policy(guest=demands)).accepted


def test_mitigations_must_be_set_at_launch_and_now() -> None:
    assert result(demands=policy(mitigations=(0, 1, 3))).accepted
    assert refused(result(demands=policy(mitigations=(0, 2)))) == {"mitigations"}
    for offset in (0x1F8, 0x200):
        outcome = result({offset: b"\x0a"}, demands=policy(mitigations=(0,)))
        assert refused(outcome) == {"mitigations"}
    older = {0x00: b"\x04", 0x1F8: bytes(16)}
    assert refused(result(older, demands=policy(mitigations=(0,)))) == {"mitigations"}
    assert result(older).accepted


def test_not_checked_never_counts_as_a_pass() -> None:
    passing = {Verdict.ACCEPTED, Verdict.NOT_DEMANDED}
    for verdict in Verdict:
        line = CheckLine(id="x", found="a", wanted="b", verdict=verdict)
        assert line.passed == (verdict in passing)


def test_a_policy_that_is_too_old_refuses_everything() -> None:
    end = int(NOW.timestamp() * 1000)
    assert refused(result(demands=policy(expires_at=end))) == {"time"}
    assert result(demands=policy(expires_at=end + 1)).accepted


def test_evidence_that_was_verified_once_is_not_good_for_ever() -> None:
    evidence = verified()

    def at(now: dt.datetime) -> set[str]:
        return refused(appraise(evidence, shown(), policy(), expected(), now=now))

    assert at(NOW + 364 * DAY) == set()
    assert at(evidence.expires_at) == {"time"}
    assert at(NOW - DAY / 24) == {"time"}
    with pytest.raises(ValueError, match="aware"):
        at(NOW.replace(tzinfo=None))


def test_evidence_verified_under_one_policys_root_is_refused_by_anothers() -> None:
    other = simulated_policy(bytes(32), [MEASUREMENT])
    outcome = appraise(verified(), shown(), other, expected(), now=NOW)
    assert refused(outcome) == {"root"}


def test_a_product_without_floors_is_not_allowed() -> None:
    floor = dataclasses.replace(GENOA_FLOOR, product=Product.TURIN)
    root = PinnedRoot(kind=RootKind.SIMULATED, anchor=Anchor.TURIN, fingerprint=bytes(32))
    outcome = appraise(
        verified(),
        shown(),
        policy(roots=(root,), products=(floor,)),
        expected(),
        now=NOW,
    )
    below = {"root", "product-allowed", "tcb-reported", "tcb-committed", "tcb-launch", "firmware"}
    assert refused(outcome) == below


@pytest.mark.parametrize("platform", ["tdx", "SEV-SNP", "", "simulated"])
def test_evidence_of_another_platform_is_nobodys(platform: str) -> None:
    with pytest.raises(EvidenceFormatError, match="wanted 'sev-snp'"):
        verify_cpu(
            platform,
            report(),
            simulated_chip().endorsements(),
            policy(),
            expected_report_data=REPORT_DATA,
            expected_host_data=HOST_DATA,
            now=NOW,
        )


def test_expectations_of_the_wrong_length_match_nothing() -> None:
    assert refused(result(report_data=REPORT_DATA[:32])) == {"report-data"}
    assert refused(result(host_data=b"")) == {"host-data"}


# --- only the verifier says yes ------------------------------------------------------------------


def fields_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@pytest.mark.parametrize("make", [verified, result], ids=["VerifiedEvidence", "AttestationResult"])
def test_nobody_but_the_verifier_makes_belief(make: Callable[[], Any]) -> None:
    genuine = make()
    with pytest.raises(TypeError):
        type(genuine)(**fields_of(genuine))
    with pytest.raises(TypeError, match=r"trust\.verifier alone"):
        type(genuine)(**fields_of(genuine), seal=object())
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(genuine, checks=())
    with pytest.raises(dataclasses.FrozenInstanceError):
        genuine.checks = ()


def test_the_verifiers_seal_is_named_in_the_verifier_alone() -> None:
    """Whoever imports the seal could make belief; a word in a file is enough to be asked why."""
    folders = [p for p in REPOSITORY.iterdir() if p.is_dir() and not p.name.startswith(".")]
    outside = [
        path
        for folder in folders
        if folder.name not in {"build", "tests"}
        for path in folder.rglob("*.py")
        if path.relative_to(REPOSITORY).parts[:2] != ("trust", "verifier")
    ]
    assert REPOSITORY / "trust" / "simulated" / "root.py" in outside
    for path in outside:
        text = path.read_text(encoding="utf-8")
        taken = {
            alias.name
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert "_SEAL" not in taken, path
        assert "results._SEAL" not in text, path


def test_a_result_without_a_single_check_is_no_acceptance() -> None:
    empty = AttestationResult(**{**fields_of(result()), "checks": ()}, seal=_SEAL)
    assert not empty.accepted
    with pytest.raises(RefusedError, match="no check was made"):
        empty.require()


# --- policies that do not load -------------------------------------------------------------------


def test_a_policy_is_a_document_with_one_encoding() -> None:
    assert AppraisalPolicy.parse(policy().encode()) == policy()
    assert policy().kind is RootKind.SIMULATED
