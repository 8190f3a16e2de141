"""The verifier of TDX quotes: what it makes of good ones, and that mutations never pass."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.verifier.tdx_changes import (
    authority,
    both,
    demands,
    enclave,
    guest,
    level,
    listed,
    pck,
    platform,
)
from tests.trust.verifier.tdx_vendor import (
    DAY,
    GUEST,
    NOW,
    Case,
    good,
    intel,
    key,
    lines_of,
    pin,
    refusing,
)
from trust.encoding import digest
from trust.errors import EvidenceError, EvidenceFormatError, EvidenceSignatureError, SizeLimitError
from trust.evidence.tdx import TcbStatus, TdxQuote, parse_tdx_quote
from trust.simulated.intel import PLATFORM
from trust.simulated.intel_formats import moment
from trust.verifier.intel_collateral import (
    PCK_CRL,
    ROOT_CRL,
    TCB_INFO,
    TdxEndorsements,
    parse_tdx_endorsements,
)
from trust.verifier.results import VerifiedEvidence
from trust.verifier.roots import Anchor, vendor_root
from trust.verifier.tdx import CHECK_NUMBERS, check_tdx, verify_tdx
from trust.verifier.tdx_policy import StatusAllowance


def parsed(case: Case) -> tuple[TdxQuote, TdxEndorsements]:
    return parse_tdx_quote(case.quote()), parse_tdx_endorsements(case.endorsements())


def verified(case: Case) -> VerifiedEvidence:
    return verify_tdx(*parsed(case), case.pinned(), case.now)


def test_a_good_quote_passes_every_check_and_says_so_line_by_line() -> None:
    case = good()
    lines = check_tdx(*parsed(case), case.pinned(), NOW)
    assert [line.id for line in lines] == list(CHECK_NUMBERS)
    assert all(line.passed for line in lines)
    assert verified(case).checks == lines


def test_claims_are_what_the_quote_and_the_certificate_say() -> None:
    made = verified(good())
    claims = made.claims
    assert claims.quote_version == 5
    assert claims.body.mr_td == GUEST.mr_td
    assert claims.body.rtmr == GUEST.rtmr
    assert claims.body.report_data == GUEST.report_data
    assert claims.pck == PLATFORM
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert claims.tcb.module is TcbStatus.UP_TO_DATE
    assert claims.tcb.advisories == ()
    assert (claims.tcb.tcb_info_number, claims.tcb.qe_identity_number) == (18, 18)
    assert claims.tcb.oldest_issue == NOW - DAY
    assert made.root == pin(intel().fingerprint)
    assert {each.kind for each in made.collateral} == {k for k, _ in good().endorsements()}


def test_a_version_4_quote_names_no_service_td() -> None:
    claims = verified(good(version=4)).claims
    assert claims.body.mr_service_td is None
    assert claims.body.tee_tcb_svn_2 is None


def test_a_pck_of_the_processor_authority_is_as_good() -> None:
    name = "Intel SGX PCK Processor CA"
    case = both(authority(subject=name), pck(issuer=name), listed("pck_list", issuer=name))(good())
    assert refusing(case) == set()


def test_advisories_of_all_three_levels_are_claimed_once_each() -> None:
    case = both(
        guest(tee_tcb_svn=bytes((5, 1, 2)) + bytes(13)),
        enclave(isv_svn=3),
        level("tcb_info", ("tcbLevels", 1), advisoryIDs=["INTEL-SA-01111", "INTEL-SA-01036"]),
    )(good())
    tcb = verified(case).claims.tcb
    assert tcb.status is TcbStatus.OUT_OF_DATE
    assert tcb.advisories == ("INTEL-SA-01111", "INTEL-SA-01036", "INTEL-SA-00837")


@pytest.mark.parametrize("status", [TcbStatus.CONFIGURATION_NEEDED, TcbStatus.UP_TO_DATE])
def test_an_old_enclave_on_a_platform_to_be_configured_is_both(status: TcbStatus) -> None:
    case = both(enclave(isv_svn=3), level("tcb_info", ("tcbLevels", 0), tcbStatus=status.value))(
        good()
    )
    wanted = {
        TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    }
    assert verified(case).claims.tcb.status is wanted[status]


def test_a_module_of_a_later_version_is_not_compared_with_the_version_at_the_levels_time() -> None:
    # Level 0 wants components 5, 0 of the module: 4 is below, and has an identity of its own.
    lower = both(
        guest(tee_tcb_svn=bytes((4, 1, 4)) + bytes(13)),
        level("tcb_info", ("tdxModuleIdentities", 0, "tcbLevels", 1), tcbStatus="UpToDate"),
    )(good())
    assert verified(lower).claims.tcb.platform is TcbStatus.UP_TO_DATE


def test_what_is_verified_is_believed_until_the_first_of_its_collateral_ends() -> None:
    assert verified(good()).expires_at == NOW + 29 * DAY
    soon = level("qe_identity", (), nextUpdate=moment(NOW + dt.timedelta(hours=1)))(good())
    assert verified(soon).expires_at == NOW + dt.timedelta(hours=1)
    brief = platform()(good())
    ended = dataclasses.replace(brief.intel.pck, not_after=NOW + dt.timedelta(minutes=5))
    brief = dataclasses.replace(brief, intel=dataclasses.replace(brief.intel, pck=ended))
    assert verified(brief).expires_at == NOW + dt.timedelta(minutes=5)


def test_a_naive_time_is_our_own_mistake() -> None:
    case = good()
    with pytest.raises(ValueError, match="aware"):
        check_tdx(*parsed(case), case.pinned(), NOW.replace(tzinfo=None))


def test_only_the_verifier_makes_a_verified_quote() -> None:
    with pytest.raises(TypeError, match=r"made by trust\.verifier alone"):
        dataclasses.replace(verified(good()), seal=object())


def test_a_refusal_names_the_number_of_its_check() -> None:
    case = dataclasses.replace(good(), roots=(vendor_root(Anchor.INTEL_SGX),))
    with pytest.raises(EvidenceSignatureError, match="TDX check 16, tdx-pck-chain"):
        verified(case)


def test_fields_that_the_bytes_do_not_say_are_refused() -> None:
    case = good()
    quote, endorsements = parsed(case)
    forged = dataclasses.replace(quote, body=dataclasses.replace(quote.body, mr_td=bytes(48)))
    lines = check_tdx(forged, endorsements, case.pinned(), NOW)
    assert {line.id for line in lines if not line.passed} == {"tdx-quote-format"}


def test_an_attestation_key_that_is_no_point_of_the_curve_is_refused() -> None:
    case = good()
    quote, endorsements = parsed(case)
    start = len(quote.signed_bytes) + 68
    raw = quote.raw[:start] + b"\xff" * 64 + quote.raw[start + 64 :]
    lines = check_tdx(parse_tdx_quote(raw), endorsements, case.pinned(), NOW)
    refused = {line.id: line.found for line in lines if not line.passed}
    assert refused["tdx-quote-signature"] == "a key that is not on P-256"
    assert set(refused) == {"tdx-quote-signature", "tdx-qe-report-data"}


@pytest.mark.parametrize("kind", [ROOT_CRL, PCK_CRL])
def test_a_withheld_list_is_refused_by_its_check_and_anything_else_by_the_parser(kind: str) -> None:
    endorsements = [each for each in good().endorsements() if each[0] != kind]
    assert parse_tdx_endorsements(endorsements)
    without = [each for each in endorsements if each[0] != TCB_INFO]
    with pytest.raises(EvidenceFormatError, match="no TDX endorsement of kind tdx-tcb-info"):
        parse_tdx_endorsements(without)


def test_endorsements_of_other_platforms_are_not_looked_at() -> None:
    endorsements = (*good().endorsements(), ("vcek", b"\x00"), ("gpu-rim", b"<"))
    assert parse_tdx_endorsements(endorsements) == parse_tdx_endorsements(good().endorsements())


def test_a_status_below_up_to_date_passes_by_name_with_its_advisories_until_its_day() -> None:
    old = both(
        enclave(isv_svn=3),
        demands(
            statuses=(
                StatusAllowance(
                    status=TcbStatus.OUT_OF_DATE,
                    advisories=("INTEL-SA-00837", "INTEL-SA-00001"),
                    until=int((NOW + DAY).timestamp() * 1000),
                ),
            )
        ),
    )(good())
    assert refusing(old) == set()
    later = dataclasses.replace(old, now=NOW + DAY)
    assert refusing(later) == {"tdx-tcb-status"}


# --- mutations -----------------------------------------------------------------------------------

QUOTE = good().quote()
SIGNED_BYTES = len(GUEST.encode(5))
ENDORSEMENTS = good().endorsements()
PINNED = good().pinned()
_PARSED = parse_tdx_endorsements(ENDORSEMENTS)


@given(st.integers(0, len(QUOTE) - 1), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_no_byte_of_a_quote_can_be_another(offset: int, change: int) -> None:
    mutated = bytearray(QUOTE)
    mutated[offset] ^= change
    try:
        quote = parse_tdx_quote(bytes(mutated))
        made = verify_tdx(quote, _PARSED, PINNED, NOW)
    except (EvidenceError, SizeLimitError):
        return
    # White space between certificates and the last zero say nothing, and may be another.
    assert made.claims == verify_tdx(parse_tdx_quote(QUOTE), _PARSED, PINNED, NOW).claims
    assert offset >= SIGNED_BYTES + 620
    assert chr(mutated[offset]).isspace() or mutated[offset] == 0


@pytest.mark.full
def test_no_bit_of_what_is_signed_can_be_another() -> None:
    for position in range(8 * (SIGNED_BYTES + 620)):
        mutated = bytearray(QUOTE)
        mutated[position // 8] ^= 1 << position % 8
        with pytest.raises((EvidenceError, SizeLimitError)):
            verify_tdx(parse_tdx_quote(bytes(mutated)), _PARSED, PINNED, NOW)


@given(
    st.sampled_from([kind for kind, _ in ENDORSEMENTS]),
    st.integers(0, 1 << 16),
    st.integers(1, 255),
)
@settings(max_examples=150, deadline=None)
def test_no_byte_of_an_endorsement_can_change_what_is_claimed(
    kind: str, offset: int, change: int
) -> None:
    mutated = bytearray(dict(ENDORSEMENTS)[kind])
    mutated[offset % len(mutated)] ^= change
    endorsements = {**dict(ENDORSEMENTS), kind: bytes(mutated)}
    try:
        made = verify_tdx(
            parse_tdx_quote(QUOTE), parse_tdx_endorsements(list(endorsements.items())), PINNED, NOW
        )
    except (EvidenceError, SizeLimitError):
        return
    # Hexadecimal in two cases and white space in PEM are all that can be written in two ways.
    same = [digest(bytes(mutated).lower()) == digest(dict(ENDORSEMENTS)[kind].lower())]
    assert same == [True] or kind.endswith("-chain")
    assert made.claims == verified(good()).claims


@given(st.binary(max_size=6000))
@settings(max_examples=60, deadline=None)
def test_endorsements_of_any_bytes_raise_our_own_errors_alone(data: bytes) -> None:
    for kind, _ in ENDORSEMENTS:
        endorsements = {**dict(ENDORSEMENTS), kind: data}
        with pytest.raises((EvidenceError, SizeLimitError)):
            parse_tdx_endorsements(list(endorsements.items()))


def test_keys_of_an_attacker_make_nothing_that_passes() -> None:
    case = good()
    forged = dataclasses.replace(case.intel, attestation_key=key("attacker"))
    # The attacker's own enclave vouches for it, and its report is signed by the attacker's PCK.
    machine = dataclasses.replace(case.intel.pck, key=key("attacker"), signer=key("attacker"))
    forged = dataclasses.replace(forged, pck=machine)
    assert refusing(dataclasses.replace(case, intel=forged)) == {"tdx-pck-chain"}
    assert lines_of(case)
