"""Where a machine stands: each lie about it is refused by the line that is there for it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trust.errors import BlindhostError, DocumentError, EvidenceFormatError, PolicyError
from trust.identity import PartyKey
from trust.verifier.facility import (
    FacilityDemands,
    FacilityEndorsement,
    appraise_facility,
)
from trust.verifier.results import CheckLine, Verdict

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
ENDORSER, OTHER, MARKET = (PartyKey.from_bytes(bytes([n]) * 32) for n in (1, 2, 3))
CHIP, CHIP_2 = bytes(range(64)), bytes(range(1, 65))
PPID = bytes(range(16))
GPU, GPU_2 = b"\x11\x22", b"\x33\x44"


def milliseconds(at: dt.datetime) -> int:
    return int(at.timestamp() * 1000)


def endorsement(key: PartyKey = ENDORSER, **changes: Any) -> bytes:
    made = FacilityEndorsement(
        version=1,
        endorser=key.identity,
        facility="Hall 2, Example Street 1",
        chip_id=CHIP,
        ppid=None,
        gpus=(GPU,),
        issued_at=milliseconds(NOW - DAY),
        expires_at=milliseconds(NOW + DAY),
    )
    return key.sign(dataclasses.replace(made, **changes)).encode()


def demands(**changes: Any) -> FacilityDemands:
    made = FacilityDemands(
        endorsers=(ENDORSER.identity, OTHER.identity), age_days_max=30, never=(MARKET.identity,)
    )
    return dataclasses.replace(made, **changes)


def lines(*endorsements: bytes, **changes: Any) -> dict[str, CheckLine]:
    asked: dict[str, Any] = {
        "chip_id": CHIP,
        "ppid": None,
        "gpu_serials": (GPU,),
        "demands": demands(),
        "now": NOW,
    } | changes
    return {each.id: each for each in appraise_facility(endorsements=endorsements, **asked)}


def refused(*endorsements: bytes, **changes: Any) -> set[str]:
    return {name for name, each in lines(*endorsements, **changes).items() if not each.passed}


def test_a_machine_that_a_demanded_endorser_saw_is_accepted() -> None:
    found = lines(endorsement())
    assert len(found) == 9
    assert {each.verdict for each in found.values()} == {Verdict.ACCEPTED}
    assert not refused(endorsement(chip_id=None, ppid=PPID), chip_id=None, ppid=PPID)


def test_no_endorsement_and_one_of_another_machine_are_refused() -> None:
    assert refused() == {"facility-machine"}
    assert refused(endorsement(chip_id=CHIP_2)) == {"facility-machine"}
    assert refused(endorsement(chip_id=None, ppid=PPID)) == {"facility-machine"}


@pytest.mark.parametrize(
    "named",
    [
        {"chip_id": None, "ppid": None},  # a VLEK's report
        {"chip_id": bytes(64)},  # masked
        {"chip_id": None, "ppid": bytes(16)},
        {"chip_id": CHIP[:8]},
        {"chip_id": CHIP, "ppid": PPID},
    ],
)
def test_evidence_that_names_no_processor_cannot_qualify(named: dict[str, Any]) -> None:
    assert refused(endorsement(), **named) == {"facility-processor", "facility-machine"}


def test_a_masked_processor_cannot_be_endorsed() -> None:
    for changes in ({"chip_id": bytes(64)}, {"chip_id": None, "ppid": bytes(16)}):
        with pytest.raises(EvidenceFormatError, match="masked"):
            endorsement(**changes)


def test_a_cpu_from_one_building_and_a_gpu_from_another_are_refused() -> None:
    here, there = endorsement(), endorsement(OTHER, chip_id=CHIP_2, gpus=(GPU_2,))
    assert not refused(here, there)
    mixed = lines(here, there, gpu_serials=(GPU_2,))
    assert {name for name, each in mixed.items() if not each.passed} == {"facility-gpus"}
    assert "in another endorsement" in mixed["facility-gpus"].found


def test_one_gpu_more_than_was_endorsed_is_refused() -> None:
    assert refused(endorsement(), gpu_serials=(GPU, GPU_2)) == {"facility-gpus"}
    assert refused(endorsement(gpus=())) == {"facility-gpus"}
    assert not refused(endorsement(gpus=(GPU, GPU_2)))


def test_without_gpu_evidence_nothing_is_said_about_gpus() -> None:
    found = lines(endorsement(), gpu_serials=())
    assert found["facility-gpus"].verdict is Verdict.NOT_DEMANDED


def test_an_endorser_that_nobody_demanded_is_refused() -> None:
    assert refused(endorsement(OTHER), demands=demands(endorsers=(ENDORSER.identity,))) == {
        "facility-endorser"
    }


def test_the_markets_key_as_an_endorser_does_not_load() -> None:
    with pytest.raises(PolicyError, match="never count"):
        demands(endorsers=(ENDORSER.identity, MARKET.identity))
    with pytest.raises(PolicyError, match="twice"):
        demands(endorsers=(ENDORSER.identity,) * 2)
    with pytest.raises(DocumentError):
        demands(never=())


def test_the_markets_own_endorsement_is_refused_by_its_own_line() -> None:
    assert refused(endorsement(MARKET)) == {"facility-endorser", "facility-market"}


def test_an_endorsement_in_anothers_name_is_refused() -> None:
    forged = OTHER.sign(FacilityEndorsement.parse(endorsement()[96:])).encode()
    assert refused(forged) == {"facility-signature"}


def test_an_expired_endorsement_is_refused() -> None:
    assert refused(endorsement(expires_at=milliseconds(NOW))) == {"facility-expires"}
    assert not refused(endorsement(expires_at=milliseconds(NOW) + 1))


def test_an_endorsement_that_is_older_than_demanded_is_refused() -> None:
    assert refused(endorsement(issued_at=milliseconds(NOW - 31 * DAY))) == {"facility-age"}
    assert not refused(endorsement(issued_at=milliseconds(NOW - 30 * DAY)))


def test_an_endorsement_from_tomorrow_is_refused() -> None:
    later = endorsement(issued_at=milliseconds(NOW + DAY), expires_at=milliseconds(NOW + 2 * DAY))
    assert refused(later) == {"facility-issued"}


def test_one_good_endorsement_among_bad_ones_is_enough() -> None:
    bad = endorsement(expires_at=milliseconds(NOW))
    assert not refused(bad, endorsement(), endorsement(MARKET))


def test_two_halves_of_two_endorsements_do_not_make_a_good_one() -> None:
    expired = endorsement(gpus=(GPU,), expires_at=milliseconds(NOW))
    without = endorsement(gpus=())
    assert len(refused(expired, without)) == 1


def test_no_mutation_of_a_byte_is_accepted() -> None:
    good = endorsement()
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= 1
        try:
            assert refused(bytes(changed)), at
        except BlindhostError:
            continue


@pytest.mark.parametrize(
    "changes",
    [
        {"ppid": PPID},
        {"chip_id": None},
        {"gpus": (GPU_2, GPU)},
        {"gpus": (GPU, GPU)},
        {"gpus": (b"\x00\x01",)},
        {"expires_at": 0},
    ],
)
def test_an_endorsement_that_contradicts_itself_is_not_made(changes: dict[str, Any]) -> None:
    with pytest.raises(EvidenceFormatError):
        endorsement(**changes)


def test_a_time_that_no_calendar_has_is_not_made() -> None:
    with pytest.raises(DocumentError):
        endorsement(expires_at=(1 << 53) - 1)


def test_more_endorsements_than_a_machine_has_are_refused() -> None:
    with pytest.raises(EvidenceFormatError, match="at most 16"):
        lines(*[endorsement()] * 17)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_our_own_errors_alone(data: bytes) -> None:
    with pytest.raises(EvidenceFormatError):
        lines(data)
