"""What dcap-qvl alone would accept, and which check of ours refuses it.

Each case is signed again under the root that is pinned, and shown to both: if a later version of
the library closes a gap, its test here says so.
"""

from __future__ import annotations

import dataclasses

import pytest

from tests.trust.verifier.tdx_lies import LIES
from tests.trust.verifier.tdx_vendor import Case, good, lines_of
from trust.errors import EvidenceFormatError, EvidenceSignatureError
from trust.evidence.tdx import parse_tdx_quote
from trust.verifier.intel_collateral import parse_tdx_endorsements
from trust.verifier.tdx import verify_tdx
from trust.verifier.tdx_second_opinion import SecondOpinion, ask_dcap_qvl

BY_NAME = {lie.name: lie for lie in LIES}


def lie(name: str) -> Case:
    return BY_NAME[name].mutate(good())


def opinion(case: Case) -> SecondOpinion:
    """Of the library alone, under the root that the case pins."""
    return ask_dcap_qvl(
        parse_tdx_quote(case.quote()),
        parse_tdx_endorsements(case.endorsements()),
        case.intel.root.encode(),
        case.now,
    )


def assert_only_we_refuse(name: str, check: str, status: str = "UpToDate") -> None:
    case = lie(name)
    assert opinion(case).refusal is None
    assert opinion(case).status == status
    assert [line.id for line in lines_of(case) if not line.passed] == [check]


def assert_not_verified(name: str) -> None:
    case = lie(name)
    quote = parse_tdx_quote(case.quote())
    endorsements = parse_tdx_endorsements(case.endorsements())
    with pytest.raises(EvidenceSignatureError, match=r"TDX check \d\d, tdx-"):
        verify_tdx(quote, endorsements, case.pinned(), case.now)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("tcb-info-signed-by-a-pck", "tdx-tcb-signer"),
        ("qe-identity-signed-by-a-pck", "tdx-qe-signer"),
    ],
)
def test_collateral_that_another_machines_pck_signed_is_refused(name: str, check: str) -> None:
    assert_only_we_refuse(name, check)
    assert_not_verified(name)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("tcb-info-signed-under-another-name", "tdx-tcb-signer"),
        ("qe-identity-signed-under-another-name", "tdx-qe-signer"),
        ("pck-under-another-name", "tdx-pck-names"),
    ],
)
def test_a_certificate_of_any_other_name_is_refused(name: str, check: str) -> None:
    assert_only_we_refuse(name, check)
    assert_not_verified(name)


def test_tcb_info_of_another_pce_is_refused() -> None:
    assert_only_we_refuse("tcb-info-of-another-pce", "tdx-pceid")
    assert_not_verified("tcb-info-of-another-pce")


def test_tcb_info_of_another_type_is_refused() -> None:
    assert_only_we_refuse("tcb-info-of-type-1", "tdx-tcb-type")
    assert_not_verified("tcb-info-of-type-1")


def test_a_revocation_list_of_tomorrow_is_refused() -> None:
    assert_only_we_refuse("pck-list-of-tomorrow", "tdx-pck-crl")
    assert_not_verified("pck-list-of-tomorrow")


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("tcb-info-of-an-older-evaluation", "tdx-tcb-number"),
        ("identity-of-an-older-evaluation", "tdx-qe-number"),
    ],
)
def test_old_collateral_beside_new_is_refused_either_way(name: str, check: str) -> None:
    assert_only_we_refuse(name, check)


def test_an_enclave_report_that_says_more_than_its_key_is_refused() -> None:
    assert_only_we_refuse("upper-half-of-enclave-report-data", "tdx-qe-report-data")
    assert_not_verified("upper-half-of-enclave-report-data")


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("features-beyond-those-known", "tdx-xfam"),
        ("features-that-no-module-allows", "tdx-xfam"),
        ("guest-that-counts-events", "tdx-perfmon"),
        ("guest-with-key-locker", "tdx-key-locker"),
        ("module-that-the-policy-does-not-name", "tdx-mrseam"),
    ],
)
def test_features_of_the_guest_and_its_module_are_for_a_policy_to_allow(
    name: str, check: str
) -> None:
    assert_only_we_refuse(name, check)


@pytest.mark.parametrize(
    "name", ["platform-out-of-date", "module-out-of-date", "enclave-out-of-date"]
)
def test_what_is_out_of_date_is_refused_and_not_only_called_so(name: str) -> None:
    assert_only_we_refuse(name, "tdx-tcb-status", "OutOfDate")


@pytest.mark.parametrize("name", ["bytes-after-the-quote", "reserved-header-bytes"])
def test_bytes_that_the_library_overlooks_are_no_quote(name: str) -> None:
    case = lie(name)
    with pytest.raises(EvidenceFormatError):
        parse_tdx_quote(case.quote())
    shape = dataclasses.replace(parse_tdx_quote(good().quote()), raw=case.quote())
    endorsements = parse_tdx_endorsements(case.endorsements())
    answer = ask_dcap_qvl(shape, endorsements, case.intel.root.encode(), case.now)
    assert answer.refusal is None


def test_an_enclaves_configuration_is_not_taken_for_up_to_date() -> None:
    case = lie("enclave-level-that-speaks-of-configuration")
    with pytest.raises(EvidenceFormatError, match="neither of which has a configuration"):
        parse_tdx_endorsements(case.endorsements())


def test_what_the_library_alone_refuses_is_refused() -> None:
    case = lie("module-levels-in-another-order")
    assert opinion(case).status == "OutOfDate"
    lines = [line for line in lines_of(case) if not line.passed]
    assert [line.id for line in lines] == ["tdx-second-opinion"]
    assert "OutOfDate" in lines[0].found
    assert "UpToDate" in lines[0].wanted


def test_the_library_is_asked_about_nothing_that_we_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def aborts(*_: object) -> None:
        raise AssertionError("the library could have ended this process")

    monkeypatch.setattr("dcap_qvl.verify_with_root_ca", aborts)
    lines = lines_of(lie("authority-that-the-root-did-not-sign"))
    assert lines[-1].found == "not asked: a check of ours refuses"
    assert [line.id for line in lines if not line.passed] == ["tdx-pck-chain"]


def test_a_panic_of_the_library_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As pyo3 raises it."""

    def panics(*_: object) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("dcap_qvl.verify_with_root_ca", panics)
    assert [line.id for line in lines_of(good()) if not line.passed] == ["tdx-second-opinion"]


def test_an_interrupt_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dcap_qvl.verify_with_root_ca", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opinion(good())
