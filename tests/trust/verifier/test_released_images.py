"""Images that count by a release: beside what a policy pins, and only where it demands so."""

from __future__ import annotations

import dataclasses

import pytest

from tests.trust import release_makers as made
from tests.trust.verifier.vendor import MEASUREMENT, NOW, expected, policy, report, simulated_chip
from trust.errors import PolicyError, RefusedError
from trust.image_release import ReleaseDemands
from trust.release_state import AcceptedReleases
from trust.verifier.appraisal import Evidence, verify_evidence
from trust.verifier.policy import AppraisalPolicy
from trust.verifier.reference import ReferenceValues

OTHER = bytes(48)


def releasing(demands: ReleaseDemands | None = None) -> AppraisalPolicy:
    """It pins nothing itself: a release alone says what is good."""
    return policy(measurements=(), releases=demands or made.demands())


def refused(demands: AppraisalPolicy, released: ReferenceValues | None) -> set[str]:
    evidence = Evidence(
        platform="sev-snp",
        report=report(),
        gpu=None,
        endorsements=tuple(simulated_chip().endorsements()),
    )
    outcome = verify_evidence(evidence, demands, expected(), now=NOW, released=released)
    return {line.id for line in outcome.checks if not line.passed}


def values(**sets: tuple[bytes, ...]) -> ReferenceValues:
    return ReferenceValues(**{"snp": (), "tdx": (), "simulated": (), **sets})


def accepted() -> AcceptedReleases:
    """What a custodian holds after `blindhost image accept`."""
    own = made.release(values=ReferenceValues(snp=(OTHER,), tdx=(), simulated=(MEASUREMENT,)))
    found = made.accept(made.world(own).bundle())
    return AcceptedReleases(demands=made.demands(), memory=found.memory)


def test_a_released_image_is_good_and_without_the_release_it_is_not() -> None:
    assert refused(releasing(), values(simulated=(MEASUREMENT,))) == set()
    assert refused(releasing(), None) == {"measurement"}
    assert refused(releasing(), values(simulated=(OTHER,))) == {"measurement"}


def test_an_image_released_for_real_machines_is_not_good_under_simulated_roots() -> None:
    assert refused(releasing(), values(snp=(MEASUREMENT,))) == {"measurement"}


def test_what_a_policy_pins_counts_beside_what_is_released() -> None:
    both = policy(releases=made.demands())
    assert refused(both, values(simulated=(OTHER,))) == set()


def test_what_was_accepted_counts_for_the_policy_that_makes_these_very_demands() -> None:
    held = accepted()
    found = held.values(releasing(), made.NOW)
    assert found is not None
    assert refused(releasing(), found) == set()
    others = releasing(made.demands(rebuilders_least=3))
    assert held.values(others, made.NOW) is None
    assert held.values(policy(), made.NOW) is None


def test_a_release_that_became_too_old_counts_for_nothing() -> None:
    late = made.NOW + 400 * made.DAY
    with pytest.raises(RefusedError, match="release-too-old"):
        accepted().values(releasing(), late)


def test_a_policy_that_neither_pins_an_image_nor_demands_a_release_does_not_load() -> None:
    with pytest.raises(PolicyError, match="allows no image"):
        dataclasses.replace(releasing(), releases=None)
