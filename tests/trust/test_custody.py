"""A share opens one thing (attacks.md, 1)."""

from __future__ import annotations

import itertools

import pytest

from tests.trust.makers import core, custodian
from trust.artifacts import ArtifactKind
from trust.custody import (
    LineageKind,
    artifact_key,
    artifact_share,
    common_kind,
    derived_share,
    group_key,
    group_share,
    input_share,
    lineage_id,
    lineage_kind,
    output_custodians,
    output_share,
)
from trust.errors import CustodyError

OWNER, BUYER = bytes([1]) * 32, bytes([2]) * 32  # lineage keys
JOB_A, JOB_B = bytes([10]) * 32, bytes([11]) * 32


def test_share_released_for_adapter_does_not_open_base_model() -> None:
    base = core(ArtifactKind.WEIGHTS)
    adapter = core(ArtifactKind.ADAPTER, (custodian(1), custodian(2)), JOB_A)
    released = artifact_share(OWNER, adapter)
    assert released != input_share(OWNER, base)
    assert artifact_key([released], base) != artifact_key([input_share(OWNER, base)], base)


def test_generation_1_shares_do_not_derive_group_key_of_generation_2() -> None:
    first = [group_share(key, JOB_A, 1) for key in (OWNER, BUYER)]
    second = [group_share(key, JOB_A, 2) for key in (OWNER, BUYER)]
    assert group_key(first, JOB_A, 2) != group_key(second, JOB_A, 2)
    assert not set(first) & set(second)


def test_output_share_of_job_a_does_not_open_checkpoint_of_job_b() -> None:
    checkpoint = core(ArtifactKind.CHECKPOINT, (custodian(1),), JOB_B)
    held = derived_share(output_share(OWNER, JOB_A, 1), checkpoint)
    assert held != artifact_share(OWNER, checkpoint)


def test_output_share_of_generation_1_does_not_open_what_generation_2_made() -> None:
    made = core(ArtifactKind.CHECKPOINT, (custodian(1),), JOB_A)  # generation 1
    assert derived_share(output_share(OWNER, JOB_A, 2), made) != artifact_share(OWNER, made)


def test_every_kind_of_share_of_one_lineage_is_another_value() -> None:
    base, adapter = core(ArtifactKind.WEIGHTS), core(ArtifactKind.ADAPTER, None, JOB_A)
    shares = [
        input_share(OWNER, base),
        output_share(OWNER, JOB_A, 1),
        output_share(OWNER, JOB_A, 2),
        output_share(OWNER, JOB_B, 1),
        group_share(OWNER, JOB_A, 1),
        derived_share(output_share(OWNER, JOB_A, 1), adapter),
        input_share(OWNER, adapter),
    ]
    assert len(set(shares)) == len(shares)


def test_a_key_needs_every_custodian_in_the_cores_order() -> None:
    adapter = core(ArtifactKind.ADAPTER, (custodian(1), custodian(2)), JOB_A)
    shares = [artifact_share(OWNER, adapter), artifact_share(BUYER, adapter)]
    key = artifact_key(shares, adapter)
    assert artifact_key(list(reversed(shares)), adapter) != key
    for wrong in ([], shares[:1], [*shares, bytes(32)]):
        with pytest.raises(CustodyError):
            artifact_key(wrong, adapter)


def test_a_custodian_makes_a_derived_share_again_from_the_core_alone() -> None:
    adapter = core(ArtifactKind.ADAPTER, None, JOB_A)
    assert artifact_share(OWNER, adapter) == derived_share(output_share(OWNER, JOB_A, 1), adapter)


def test_what_is_made_from_two_inputs_needs_both_custodians_once_each() -> None:
    model = core(ArtifactKind.WEIGHTS, (custodian(2),))
    rows, heldout = (core(ArtifactKind.DATASET, (custodian(1),)) for _ in range(2))
    for order in itertools.permutations([model, rows, heldout]):
        assert output_custodians(order) == (custodian(1), custodian(2))


def test_a_party_with_two_lineages_gives_two_shares() -> None:
    one = custodian(1)
    other = type(one)(identity=one.identity, lineage=one.lineage, epoch=1)
    cores = [core(ArtifactKind.DATASET, (each,)) for each in (one, other)]
    assert len(output_custodians(cores)) == 2


def test_real_and_simulated_lineages_never_meet_in_one_job() -> None:
    real, simulated = custodian(1, LineageKind.REAL), custodian(2, LineageKind.SIMULATED)
    with pytest.raises(CustodyError, match="meet in one job"):
        output_custodians(
            [core(ArtifactKind.WEIGHTS, (real,)), core(ArtifactKind.DATASET, (simulated,))]
        )
    assert common_kind([real]) is LineageKind.REAL


def test_a_lineage_says_its_kind_and_two_owners_never_share_one() -> None:
    ids = {
        lineage_id(kind, bytes([who]) * 32, bytes([n]) * 32)
        for kind in LineageKind
        for who in range(2)
        for n in range(2)
    }
    assert len(ids) == 8
    assert {lineage_kind(each) for each in ids} == set(LineageKind)
    with pytest.raises(CustodyError):
        lineage_kind(b"x" + bytes(32))
    with pytest.raises(CustodyError):
        lineage_id(LineageKind.REAL, bytes(31), bytes(32))
