"""Each lie about GPUs is refused by exactly the check that stands beside it."""

from __future__ import annotations

import pytest

from tests.trust.verifier.gpu_lies import CONTROLS, GOOD, LIES, Control, Lie
from tests.trust.verifier.gpu_vendor import lines_of, refusing
from trust.errors import EvidenceFormatError, SizeLimitError
from trust.verifier import gpu_appraisal, nvidia

NUMBERS = {**nvidia.CHECK_NUMBERS, **gpu_appraisal.CHECK_NUMBERS}


@pytest.mark.parametrize("told", [e for e in LIES if not e.malformed], ids=lambda told: told.name)
def test_a_lie_is_refused_by_the_one_check_that_is_about_it(told: Lie) -> None:
    assert refusing(told.mutate(GOOD)) == {told.check, *told.also}


@pytest.mark.parametrize("told", [e for e in LIES if e.malformed], ids=lambda told: told.name)
def test_what_is_no_evidence_is_refused_before_a_check_is_made(told: Lie) -> None:
    with pytest.raises((EvidenceFormatError, SizeLimitError)):
        lines_of(told.mutate(GOOD))


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_what_is_good_is_accepted(control: Control) -> None:
    assert refusing(control.mutate(GOOD)) == set()


def test_no_two_scenarios_have_one_name() -> None:
    names = [each.name for each in (*LIES, *CONTROLS)]
    assert sorted(set(names)) == sorted(names)


def test_each_check_but_the_shape_and_the_wiring_has_a_lie_of_its_own() -> None:
    alone = {each.check for each in LIES if not each.also}
    assert set(NUMBERS) - alone <= {"gpu-topology", "rim-vbios", "gpu-architecture"}
    assert {NUMBERS[check] for check in alone} == set(range(27, 38))


def test_each_line_stands_once_and_has_a_number() -> None:
    ids = [each.id for each in lines_of(GOOD)]
    assert len(ids) == len(set(ids))
    assert set(ids) == set(NUMBERS)
