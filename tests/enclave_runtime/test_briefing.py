"""A host's briefing proves itself against the measured launch document, or nothing starts."""

from __future__ import annotations

import dataclasses
import os

import pytest

from enclave_runtime.briefing import check_briefing
from tests.enclave_runtime.fakes import LEASE, World
from trust.custody import LineageKind, output_custodians
from trust.errors import BlindhostError, CustodyError, SessionError, SignatureError
from trust.identity import PartyKey
from trust.jobs import InputRole, RankLease

OTHER_LEASE = "leas_" + "1" * 26


@pytest.fixture
def world() -> World:
    return World()


def refused(world: World, fragment: str, **changes) -> None:
    with pytest.raises(BlindhostError, match=fragment):
        check_briefing(world.launch, world.briefing(**changes))


def test_a_briefing_that_proves_itself_is_taken(world: World) -> None:
    brief = world.brief()
    assert brief.job.digest == world.launch.job
    assert brief.custodians == tuple(sorted([world.owner.identity, world.buyer.identity]))
    assert brief.entries == output_custodians(m.document.core for m in world.inputs.values())
    assert brief.tokens_per_step == 4 * 16


def test_another_job_than_the_launched_one(world: World) -> None:
    refused(world, "launched for", job=World().job.encode())


def test_a_job_that_its_buyer_did_not_sign(world: World) -> None:
    forged = PartyKey.generate().sign(world.job.document)
    refused(world, "not signed by the buyer", job=forged.encode())


def test_a_generation_that_the_market_made(world: World) -> None:
    forged = world.market.sign(world.order())
    with pytest.raises(SignatureError):
        check_briefing(world.launch, world.briefing(order=forged.encode()))


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"job": bytes(32)}, "an order for job"),
        ({"number": 2, "before": bytes(32)}, "order of generation 2"),
        ({"leases": (RankLease(rank=0, lease=OTHER_LEASE),)}, f"launched under {LEASE}"),
        (
            {"leases": (RankLease(rank=0, lease=LEASE), RankLease(rank=1, lease=OTHER_LEASE))},
            "seats 2 ranks",
        ),
    ],
)
def test_an_order_that_seats_somebody_else(world: World, changes: dict, fragment: str) -> None:
    order = world.buyer.sign(world.order(**changes))
    refused(world, fragment, order=order.encode())


def test_older_terms_than_the_jobs(world: World) -> None:
    older = world.owner.sign(dataclasses.replace(world.terms.document, number=7))
    refused(world, "the job names", terms=older.encode())


def test_terms_that_their_owner_did_not_sign(world: World) -> None:
    forged = PartyKey.generate().sign(world.terms.document)
    refused(world, "not signed by the owner", terms=forged.encode())


def test_terms_about_another_lineage() -> None:
    world = World(terms_changes={"lineages": (b"s" + os.urandom(32),)})
    refused(world, "not about the model's lineage")


def test_terms_of_somebody_elses_model() -> None:
    """A buyer names terms of its own for a model that it does not own."""
    stranger = PartyKey.generate()
    world = World(terms_changes={"owner": stranger.identity})
    world.terms = stranger.sign(world.terms.document)
    refused(world, "not about the model's lineage")


def test_another_artifact_than_the_jobs_input(world: World) -> None:
    other = World()
    swapped = [m.encode() for m in world.inputs.values()]
    swapped[0] = other.inputs[InputRole.MODEL].encode()
    refused(world, "model is", manifests=tuple(swapped))


def test_inputs_in_another_order(world: World) -> None:
    turned = tuple(m.encode() for m in reversed(world.inputs.values()))
    refused(world, "the job names", manifests=turned)


def test_an_input_that_is_missing(world: World) -> None:
    refused(world, "1 manifests for 2 inputs", manifests=(world.inputs[InputRole.MODEL].encode(),))


def test_an_input_that_its_custodian_did_not_sign(world: World) -> None:
    forged = [PartyKey.generate().sign(m.document).encode() for m in world.inputs.values()]
    refused(world, "not signed by its one custodian", manifests=tuple(forged))


def test_real_and_simulated_lineages_do_not_meet() -> None:
    world = World(kinds=(LineageKind.REAL, LineageKind.SIMULATED))
    with pytest.raises(CustodyError, match="meet"):
        check_briefing(world.launch, world.briefing())


def test_a_job_of_several_enclaves_is_not_run_by_one() -> None:
    world = World(job_changes={"enclaves": 2, "local_ranks": 1})
    world.launch = dataclasses.replace(world.launch, ranks=2)
    leases = (RankLease(rank=0, lease=LEASE), RankLease(rank=1, lease=OTHER_LEASE))
    order = world.buyer.sign(world.order(leases=leases))
    with pytest.raises(SessionError, match="this image runs jobs of one"):
        check_briefing(world.launch, world.briefing(order=order.encode()))


@pytest.mark.parametrize("field", ["job", "order", "terms"])
def test_a_cut_document(world: World, field: str) -> None:
    whole = getattr(world.briefing(), field)
    with pytest.raises(BlindhostError):
        check_briefing(world.launch, world.briefing(**{field: whole[:-1]}))


@pytest.mark.parametrize("field", ["job", "order", "terms"])
def test_a_flipped_signature(world: World, field: str) -> None:
    whole = getattr(world.briefing(), field)
    flipped = bytes([whole[0] ^ 1]) + whole[1:]
    with pytest.raises(SignatureError):
        check_briefing(world.launch, world.briefing(**{field: flipped}))
