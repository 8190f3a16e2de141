"""Every lie of the list is refused, and by the one check that is named beside it."""

from __future__ import annotations

import pytest

from tests.trust.verifier.tdx_changes import Lie
from tests.trust.verifier.tdx_lies import LIES
from tests.trust.verifier.tdx_vendor import good, refusing
from trust.verifier import tdx, tdx_appraisal

CHECKS = {**tdx.CHECK_NUMBERS, **tdx_appraisal.CHECK_NUMBERS}


@pytest.mark.parametrize("version", [4, 5])
def test_the_good_case_is_refused_by_nothing(version: int) -> None:
    assert refusing(good(version=version)) == set()


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_signed_lie_is_refused_by_its_own_check_alone(lie: Lie) -> None:
    assert refusing(lie.mutate(good())) == {lie.check}


def test_every_check_has_a_lie_that_only_it_refuses() -> None:
    assert {lie.check for lie in LIES} == set(CHECKS)


def test_every_number_from_15_to_26_has_a_check() -> None:
    assert set(CHECKS.values()) == set(range(15, 27))


def test_lies_have_names_of_their_own_and_are_the_same_bytes_in_every_run() -> None:
    assert len({lie.name for lie in LIES}) == len(LIES) >= 45
    for lie in LIES[::16]:
        first, second = lie.mutate(good()), lie.mutate(good())
        assert first.quote() == second.quote()
        assert first.endorsements() == second.endorsements()
