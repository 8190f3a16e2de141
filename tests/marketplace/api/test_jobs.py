"""Jobs over the socket: submitted with their money held, run by their buyer's orders alone."""

from __future__ import annotations

import dataclasses

import pytest

from client.market_api import MarketRefusedError
from marketplace import submission, wire
from marketplace.jobs import find_job
from marketplace.sweep import end_orders
from tests.marketplace.api.rig import Rig, input_manifest, key16, lineage_of, refused
from tests.marketplace.world import (
    BUYER,
    CREDIT,
    HOST,
    HOST_2,
    HOUR,
    MARKET,
    NOW,
    OWNER,
    STRANGER,
    manifest,
    terms,
)
from trust.artifacts import ArtifactKind, Custodian
from trust.encoding import base64url
from trust.identity import verify_signed
from trust.jobs import (
    Close,
    GenerationOrder,
    Input,
    InputRole,
    JobManifest,
    RankLease,
    RecipeTerms,
    Terms,
)

Code = wire.ErrorCode


async def no_job_and_no_money_moved(rig: Rig, available: int) -> None:
    assert await rig.api(BUYER).get_jobs() == ()
    account = await rig.api(BUYER).get_account()
    assert (account.available, account.held) == (available, 0)


async def test_submitted_job_is_queued_with_its_money_held(rig: Rig) -> None:
    await rig.fund(20 * CREDIT)
    job = await rig.publish()
    view = await rig.api(BUYER).submit_job(job, key=key16())
    assert (view.job, view.buyer, view.owner) == (job.digest, BUYER.identity, OWNER.identity)
    assert (view.state, view.generation, view.leases) == (wire.JobState.QUEUED, 0, ())
    assert view.money == wire.MoneyView(reserved=10 * CREDIT, captured=0, released=0)
    account = await rig.api(BUYER).get_account()
    assert (account.available, account.held) == (10 * CREDIT, 10 * CREDIT)
    assert await rig.api(BUYER).get_jobs() == (view,)


async def test_job_without_funds_is_refused_in_clear_words_and_nothing_is_stored(
    rig: Rig,
) -> None:
    await rig.fund(10 * CREDIT - 1)
    job = await rig.publish()
    error = await refused(Code.NO_FUNDS, rig.api(BUYER).submit_job(job, key=key16()))
    assert "1 more are needed" in error.text
    await no_job_and_no_money_moved(rig, 10 * CREDIT - 1)


async def test_job_submitted_twice_holds_once(rig: Rig) -> None:
    job = await rig.submitted()
    view = await rig.api(BUYER).submit_job(job, key=key16())
    assert view.money.reserved == 10 * CREDIT
    assert (await rig.api(BUYER).get_account()).held == 10 * CREDIT


async def test_job_in_anothers_name_is_refused(rig: Rig) -> None:
    await rig.fund()
    job = await rig.publish()
    await refused(Code.REFUSED, rig.api(STRANGER).submit_job(job, key=key16()))
    forged = STRANGER.sign(job.document)
    await refused(Code.FORBIDDEN, rig.api(STRANGER).submit_job(forged, key=key16()))
    await no_job_and_no_money_moved(rig, 20 * CREDIT)


async def test_job_under_terms_older_than_the_owners_newest_is_refused_before_any_hold(
    rig: Rig,
) -> None:
    """▸ attacks.md, 9 iii: old terms, refused before any money is held."""
    await rig.fund()
    job = await rig.publish()
    await rig.api(OWNER).put_document(terms(number=2, lineages=(lineage_of(OWNER),)))
    await refused(Code.OUTDATED, rig.api(BUYER).submit_job(job, key=key16()))
    await no_job_and_no_money_moved(rig, 20 * CREDIT)


async def test_terms_of_another_owner_or_another_model_are_refused(rig: Rig) -> None:
    await rig.fund()
    job = await rig.publish()
    for wrong in (
        terms(STRANGER, lineages=(lineage_of(OWNER),)),
        terms(number=5, lineages=(b"s" + bytes(32),)),
    ):
        await rig.api(STRANGER).put_document(wrong)
        bad = manifest(wrong, inputs=job.document.inputs)
        await refused(Code.REFUSED, rig.api(BUYER).submit_job(bad, key=key16()))
    await no_job_and_no_money_moved(rig, 20 * CREDIT)


async def test_recipe_that_the_terms_do_not_name_is_refused(rig: Rig) -> None:
    await rig.fund()
    job = await rig.publish()
    strict = terms(
        number=2,
        lineages=(lineage_of(OWNER),),
        recipes=(RecipeTerms(recipe="evaluate", rank_max=0, steps_max=0),),
    )
    await rig.api(OWNER).put_document(strict)
    bad = manifest(strict, inputs=job.document.inputs)
    error = await refused(Code.REFUSED, rig.api(BUYER).submit_job(bad, key=key16()))
    assert "not lora" in error.text


async def test_owners_price_above_the_highest_spend_is_refused(rig: Rig) -> None:
    await rig.fund()
    job = await rig.publish(spend_max_microcredits=49_999)
    error = await refused(Code.REFUSED, rig.api(BUYER).submit_job(job, key=key16()))
    assert "50000" in error.text


async def test_job_over_inputs_that_nobody_registered_is_refused(rig: Rig) -> None:
    await rig.fund()
    job = await rig.publish()
    inputs = (job.document.inputs[0], Input(role=InputRole.DATASET, artifact=bytes(32)))
    bad = await rig.publish(inputs=inputs)
    await refused(Code.NOT_FOUND, rig.api(BUYER).submit_job(bad, key=key16()))


async def test_dataset_in_the_models_place_is_refused(rig: Rig) -> None:
    await rig.fund()
    dataset = input_manifest(ArtifactKind.DATASET, OWNER)
    await rig.api(OWNER).put_document(dataset.encode())
    inputs = tuple(
        Input(role=role, artifact=dataset.digest) for role in (InputRole.MODEL, InputRole.DATASET)
    )
    bad = await rig.publish(inputs=inputs)
    error = await refused(Code.REFUSED, rig.api(BUYER).submit_job(bad, key=key16()))
    assert "wanted weights" in error.text


async def test_real_and_simulated_lineages_never_meet_in_one_job(rig: Rig) -> None:
    await rig.fund()
    job = await rig.publish()
    dataset = input_manifest(ArtifactKind.DATASET, BUYER).document
    real = Custodian(identity=BUYER.identity, lineage=b"r" + bytes(32), epoch=0)
    core = dataclasses.replace(dataset.core, custodians=(real,))
    signed = BUYER.sign(dataclasses.replace(dataset, core=core))
    await rig.api(BUYER).put_document(signed.encode())
    inputs = (job.document.inputs[0], Input(role=InputRole.DATASET, artifact=signed.digest))
    bad = await rig.publish(inputs=inputs)
    error = await refused(Code.REFUSED, rig.api(BUYER).submit_job(bad, key=key16()))
    assert "real and simulated" in error.text


async def test_expired_manifest_is_refused(rig: Rig) -> None:
    await rig.fund()
    job = await rig.publish(expires_at=NOW)
    await refused(Code.REFUSED, rig.api(BUYER).submit_job(job, key=key16()))


async def test_job_is_seen_by_its_parties_alone(rig: Rig) -> None:
    job = await rig.submitted()
    for party in (BUYER, OWNER):
        assert (await rig.api(party).get_job(job.digest)).job == job.digest
    await refused(Code.NOT_FOUND, rig.api(STRANGER).get_job(job.digest))
    await refused(Code.NOT_FOUND, rig.api(STRANGER).get_job_documents(job.digest))
    await refused(Code.NOT_FOUND, rig.api(STRANGER).get_receipts(job.digest))
    await refused(Code.NOT_FOUND, rig.api(BUYER).get_job(bytes(32)))
    lease = await rig.claimed(job)
    assert lease
    await refused(Code.NOT_FOUND, rig.api(HOST).get_job(job.digest))
    assert (await rig.api(HOST).get_job_documents(job.digest)).job == job.encode()


async def test_documents_of_a_job_prove_themselves(rig: Rig) -> None:
    job = await rig.submitted()
    order = await rig.ordered(job, await rig.claimed(job))
    found = await rig.api(OWNER).get_job_documents(job.digest)
    assert verify_signed(JobManifest, found.job, signer=BUYER.identity).digest == job.digest
    assert verify_signed(Terms, found.terms, signer=OWNER.identity).digest == job.document.terms
    assert len(found.manifests) == 2
    assert found.orders == (order.encode(),)
    assert found.close is None


async def test_custodians_of_a_stored_job(rig: Rig) -> None:
    job = await rig.submitted()
    found = await rig.read(lambda s: submission.custodians_of(s, find_job(s, job.digest)))
    assert set(found) == {OWNER.identity, BUYER.identity}


# --- generations ---------------------------------------------------------------------------------


def order_of(job: bytes, lease: str, signer=BUYER, **changes: object):
    values = {
        "job": job,
        "number": 1,
        "leases": (RankLease(rank=0, lease=lease),),
        "expires_at": NOW + HOUR,
        "before": None,
    }
    return signer.sign(GenerationOrder(**values | changes))


async def test_market_asks_the_buyer_for_exactly_its_leases(rig: Rig) -> None:
    job = await rig.submitted()
    lease = await rig.claimed(job)
    (ask,) = await rig.api(BUYER).get_asks()
    assert isinstance(ask, wire.GenerationAsk)
    assert (ask.job, ask.number, ask.before) == (job.digest, 1, None)
    assert ask.leases == (RankLease(rank=0, lease=lease),)
    assert ask.hosts == (HOST.identity,)
    for party in (OWNER, HOST, STRANGER):
        assert await rig.api(party).get_asks() == ()


async def test_ordered_generation_starts_the_job_once(rig: Rig) -> None:
    job = await rig.submitted()
    lease = await rig.claimed(job)
    order = await rig.ordered(job, lease)
    view = await rig.api(BUYER).order_generation(order, key=key16())
    assert (view.state, view.generation) == (wire.JobState.STARTING, 1)
    assert view.generation_digest == order.digest
    assert [each.generation for each in view.leases] == [1]
    assert await rig.api(BUYER).get_asks() == ()


@pytest.mark.parametrize(
    "signer", [MARKET, OWNER, HOST, STRANGER], ids=["market", "owner", "host", "stranger"]
)
async def test_generation_that_its_buyer_did_not_sign_is_refused(rig: Rig, signer) -> None:
    """▸ The market asks for a generation and never makes one (attacks.md, 7 i)."""
    job = await rig.submitted()
    lease = await rig.claimed(job)
    forged = order_of(job.digest, lease, signer)
    await refused(Code.FORBIDDEN, rig.api(signer).order_generation(forged, key=key16()))
    await refused(Code.REFUSED, rig.api(BUYER).order_generation(forged, key=key16()))
    assert (await rig.api(BUYER).get_job(job.digest)).generation == 0


async def test_generation_jump_other_leases_and_wrong_links_are_refused(rig: Rig) -> None:
    job = await rig.submitted()
    lease = await rig.claimed(job)
    other = "leas_" + "0" * 26
    for bad in (
        order_of(job.digest, lease, number=2, before=bytes(32)),
        order_of(job.digest, other),
        order_of(
            job.digest,
            lease,
            leases=(RankLease(rank=0, lease=lease), RankLease(rank=1, lease=other)),
        ),
    ):
        await refused(Code.CONFLICT, rig.api(BUYER).order_generation(bad, key=key16()))
    late = order_of(job.digest, lease, expires_at=NOW)
    await refused(Code.REFUSED, rig.api(BUYER).order_generation(late, key=key16()))
    assert (await rig.api(BUYER).get_job(job.digest)).generation == 0


async def test_order_posted_at_another_jobs_path_is_refused(rig: Rig) -> None:
    job = await rig.submitted()
    lease = await rig.claimed(job)
    body = wire.encode(wire.SignedBody(signed=order_of(job.digest, lease).encode()))
    target = wire.target(wire.JOB_GENERATIONS, digest=bytes(32))
    sent = await rig.send("POST", target, body, key=BUYER, idempotency=key16())
    sent.expect(Code.MALFORMED)


async def test_second_order_for_one_generation_is_refused(rig: Rig) -> None:
    job = await rig.submitted()
    lease = await rig.claimed(job)
    await rig.ordered(job, lease)
    twin = order_of(job.digest, lease, expires_at=NOW + HOUR + 1)
    await refused(Code.CONFLICT, rig.api(BUYER).order_generation(twin, key=key16()))


# --- close ---------------------------------------------------------------------------------------


async def test_closed_job_gives_its_money_back_and_tells_its_custodians(rig: Rig) -> None:
    job = await rig.submitted()
    close = BUYER.sign(Close(job=job.digest, at=NOW))
    view = await rig.api(BUYER).close_job(close, key=key16())
    assert view.state is wire.JobState.CANCELLED
    await rig.api(BUYER).close_job(close, key=key16())
    found = await rig.api(OWNER).get_job_documents(job.digest)
    assert found.close == close.encode()
    await rig.write(lambda s: end_orders(s, NOW))
    account = await rig.api(BUYER).get_account()
    assert (account.available, account.held) == (20 * CREDIT, 0)
    money = (await rig.api(BUYER).get_job(job.digest)).money
    assert money == wire.MoneyView(reserved=10 * CREDIT, captured=0, released=10 * CREDIT)


async def test_job_is_closed_by_its_buyer_alone(rig: Rig) -> None:
    job = await rig.submitted()
    for thief in (OWNER, STRANGER, MARKET):
        forged = thief.sign(Close(job=job.digest, at=NOW))
        await refused(Code.FORBIDDEN, rig.api(thief).close_job(forged, key=key16()))
    assert (await rig.api(BUYER).get_job(job.digest)).state is wire.JobState.QUEUED
    assert (await rig.api(OWNER).get_job_documents(job.digest)).close is None


async def test_unknown_job_is_not_found(rig: Rig) -> None:
    close = BUYER.sign(Close(job=bytes(32), at=NOW))
    await refused(Code.NOT_FOUND, rig.api(BUYER).close_job(close, key=key16()))
    with pytest.raises(MarketRefusedError, match=base64url(bytes(32))[:8]):
        await rig.api(BUYER).close_job(close, key=key16())


async def test_buyer_sees_who_holds_the_lease(rig: Rig) -> None:
    job = await rig.submitted()
    lease = await rig.claimed(job, HOST_2)
    (view,) = (await rig.api(BUYER).get_job(job.digest)).leases
    assert (view.lease, view.host, view.rank, view.ranks) == (lease, HOST_2.identity, 0, 1)
