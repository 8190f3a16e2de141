"""A policy for TDX: what it demands, what it cannot say, and what its lines show."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.trust.verifier.tdx_changes import both, demands, guest, measured, platform
from tests.trust.verifier.tdx_vendor import (
    GUEST,
    IMAGE,
    LAUNCH,
    NOW,
    OTHER_IMAGE,
    REPORT_DATA,
    Case,
    good,
    lines_of,
    refusing,
    register,
)
from trust.errors import DocumentError, EvidenceFormatError, PolicyError
from trust.evidence.tdx import TcbStatus, TdxClaims, parse_tdx_quote
from trust.verifier.intel_collateral import parse_tdx_endorsements
from trust.verifier.results import CheckLine, Verdict
from trust.verifier.snp_policy import Demand
from trust.verifier.tdx import verify_tdx
from trust.verifier.tdx_appraisal import CHECK_NUMBERS, appraise_tdx, appraise_tdx_registers
from trust.verifier.tdx_policy import (
    XFAM_KNOWN,
    StatusAllowance,
    TdxDemands,
    TdxImage,
    tdx_demands,
)


def line_of(case: Case, check: str) -> CheckLine:
    (line,) = [each for each in lines_of(case) if each.id == check]
    return line


def claims() -> TdxClaims:
    case = good()
    quote, endorsements = parse_tdx_quote(case.quote()), parse_tdx_endorsements(case.endorsements())
    return verify_tdx(quote, endorsements, case.pinned(), NOW).claims


def appraised(**changes: Any) -> tuple[CheckLine, ...]:
    given: dict[str, Any] = {
        "expected_report_data": REPORT_DATA,
        "expected_launch": LAUNCH,
        "now": NOW,
    }
    return appraise_tdx(claims(), tdx_demands(), (IMAGE,), **{**given, **changes})


def test_there_is_one_line_for_each_check_of_the_policy() -> None:
    assert [line.id for line in appraised()] == list(CHECK_NUMBERS)


def test_shipped_demands_survive_their_own_encoding() -> None:
    made = tdx_demands(mr_seams=(register(1),))
    assert TdxDemands.from_json(made.to_json()) == made
    assert TdxImage.from_json(IMAGE.to_json()) == IMAGE


def test_what_is_not_demanded_says_so_and_does_not_refuse() -> None:
    lines = {line.id: line for line in appraised()}
    for check in ("tdx-mrseam", "tdx-pks", "tdx-smt", "tdx-cached-keys", "tdx-dynamic-platform"):
        assert lines[check].verdict is Verdict.NOT_DEMANDED
    assert lines["tdx-pks"].found == "clear"
    assert lines["tdx-smt"].found == "set"


@pytest.mark.parametrize("status", [TcbStatus.UP_TO_DATE, TcbStatus.REVOKED])
def test_no_policy_allows_by_name_what_is_always_or_never_allowed(status: TcbStatus) -> None:
    with pytest.raises(PolicyError, match=f"no policy allows {status.value}"):
        StatusAllowance(status=status, advisories=(), until=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"xfam_allowed": XFAM_KNOWN | 1 << 10},
        {"xfam_required": 0x803, "xfam_allowed": 0x3},
        {"mr_seams": (register(1), register(1))},
        {"mr_owners": (register(1), register(1))},
        {"mr_owner_configs": (register(1), register(1))},
        {
            "statuses": (
                StatusAllowance(status=TcbStatus.OUT_OF_DATE, advisories=(), until=1),
                StatusAllowance(status=TcbStatus.OUT_OF_DATE, advisories=("A",), until=2),
            )
        },
    ],
    ids="-".join,
)
def test_demands_that_contradict_themselves_do_not_load(changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        dataclasses.replace(tdx_demands(), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"rtmr3": bytes(47)},
        {"mr_seams": ()},
        {"mr_owners": ()},
        {"collateral_age_seconds_max": 0},
        {"number_least": -1},
    ],
    ids="-".join,
)
def test_demands_of_the_wrong_size_do_not_load(changes: dict[str, Any]) -> None:
    with pytest.raises(DocumentError):
        dataclasses.replace(tdx_demands(), **changes)


def test_a_policy_that_names_modules_owners_and_features_accepts_those() -> None:
    case = both(
        guest(mr_owner=register(5), mr_owner_config=register(6), attributes=1 << 28 | 1 << 63),
        measured(3, register(7)),
        demands(
            mr_seams=(register(4), GUEST.mr_seam),
            mr_owners=(bytes(48), register(5)),
            mr_owner_configs=(register(6),),
            perfmon=Demand.SET,
            pks=Demand.CLEAR,
            smt=Demand.SET,
            rtmr3=register(7),
            xfam_required=0x203,
        ),
    )(good())
    assert refusing(case) == set()


def test_registers_go_together_so_no_image_lends_one_to_another() -> None:
    mixed = measured(2, OTHER_IMAGE.rtmr2 or b"")(good())
    assert refusing(mixed) == {"tdx-rtmr2"}
    rows = tuple(
        dataclasses.replace(IMAGE, mr_td=mr_td, rtmr2=rtmr2)
        for mr_td, rtmr2 in ((register(1), register(21)), (register(11), register(4)))
    )
    assert refusing(dataclasses.replace(good(), images=rows)) == {"tdx-rtmr2"}


def test_two_images_that_differ_in_one_register_are_told_apart() -> None:
    rows = (dataclasses.replace(IMAGE, rtmr1=register(21)), IMAGE)
    assert refusing(dataclasses.replace(good(), images=rows)) == set()


def test_a_register_that_no_image_names_is_not_demanded() -> None:
    bare = TdxImage(mr_td=register(1), rtmr0=None, rtmr1=None, rtmr2=None)
    case = dataclasses.replace(good(), images=(bare,))
    assert line_of(case, "tdx-rtmr1").verdict is Verdict.NOT_DEMANDED
    assert refusing(case) == set()
    # Beside an image that names it, one that does not accepts any.
    assert refusing(dataclasses.replace(good(), images=(OTHER_IMAGE, bare))) == set()


def test_without_an_image_every_register_is_refused() -> None:
    case = dataclasses.replace(good(), images=())
    assert refusing(case) == {"tdx-mrtd", "tdx-rtmr0", "tdx-rtmr1", "tdx-rtmr2"}
    assert line_of(case, "tdx-mrtd").wanted == "none is allowed"


def test_a_line_shows_some_of_many_images() -> None:
    rows = tuple(dataclasses.replace(IMAGE, mr_td=register(n)) for n in range(30, 40))
    assert line_of(dataclasses.replace(good(), images=rows), "tdx-mrtd").wanted.endswith(
        "or one of 6 more"
    )


def test_the_launch_digest_has_32_bytes() -> None:
    with pytest.raises(EvidenceFormatError, match="launch digest"):
        appraised(expected_launch=LAUNCH + bytes(16))


def test_all_of_mrconfigid_can_be_given_for_guests_of_other_tools() -> None:
    lines = appraise_tdx_registers(
        claims(),
        tdx_demands(),
        (IMAGE,),
        expected_report_data=REPORT_DATA,
        expected_config_id=register(9),
        now=NOW,
    )
    assert {line.id for line in lines if not line.passed} == {"tdx-mrconfigid"}


def test_an_event_log_is_refused_even_if_it_is_empty() -> None:
    refused = [line.id for line in appraised(event_log=b"") if not line.passed]
    assert refused == ["tdx-event-log"]


def test_a_flag_that_the_certificate_does_not_say_fits_no_demand() -> None:
    silent = platform(smt_enabled=None, cached_keys=None, dynamic_platform=None)
    assert refusing(silent(good())) == set()
    for demand in (Demand.SET, Demand.CLEAR):
        assert refusing(both(silent, demands(smt=demand))(good())) == {"tdx-smt"}


def test_a_naive_time_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="aware"):
        appraised(now=NOW.replace(tzinfo=None))
