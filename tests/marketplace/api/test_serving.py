"""Serve jobs over the socket: adapters that an attested enclave made, and the terms that bind."""

from __future__ import annotations

import dataclasses

from marketplace import submission, wire
from marketplace.documents import find_input
from marketplace.jobs import find_job
from marketplace.models_exchange import Document
from tests.marketplace.api.rig import Enclave, Rig, input_manifest, key16, lineage_of, refused
from tests.marketplace.world import (
    BUYER,
    DAY,
    HOST,
    HOST_2,
    MARKET,
    NOW,
    OWNER,
    STRANGER,
    UNDERTAKEN,
    manifest,
    serving,
    terms,
)
from trust.artifacts import ArtifactKind, Core, Custodian, Manifest, Origin
from trust.encoding import base64url
from trust.identity import PartyKey, Signed
from trust.jobs import Input, InputRole, JobManifest, RecipeTerms, Terms, Undertaking

Code = wire.ErrorCode


def custodian(party: PartyKey) -> Custodian:
    return Custodian(identity=party.identity, lineage=lineage_of(party), epoch=0)


def adapter(job: bytes, signer: PartyKey, **changes: object) -> Signed[Manifest]:
    values = {
        "kind": ArtifactKind.ADAPTER,
        "seal_id": key16() * 2,
        "custodians": tuple(sorted(custodian(each) for each in (OWNER, BUYER))),
        "origin": Origin(job=job, generation=1),
    }
    return signer.sign(
        Manifest(
            core=Core(**values | changes),
            padded_bytes=100,
            segments=1,
            segment_list=bytes(32),
            commitment=bytes(32),
            public_files=(),
        )
    )


async def store(rig: Rig, made: Signed[Manifest], by: PartyKey = BUYER) -> None:
    await rig.api(by).put_document(made.encode())


async def plant(rig: Rig, made: Signed[Manifest]) -> None:
    """Put a row down as a market of an older version took it: before anybody else's, unasked."""
    origin = made.document.core.origin
    assert origin is not None

    def work(session):
        session.add(
            Document(
                digest=base64url(made.digest),
                signer=base64url(made.signer),
                kind=Manifest.LABEL,
                content=made.encode(),
                job=base64url(origin.job),
                generation=origin.generation,
                posted_by=base64url(HOST.identity),
                at_ms=0,
            )
        )

    await rig.write(work)


def serve_job(
    trained: Signed[JobManifest],
    *adapters: Signed[Manifest],
    agreed: Signed[Terms] | None = None,
    **changes: object,
) -> Signed[JobManifest]:
    """Serve the model that `trained` names, under its terms, with these adapters."""
    model = trained.document.input(InputRole.MODEL)
    inputs = (
        Input(role=InputRole.MODEL, artifact=model),
        *(Input(role=InputRole.ADAPTER, artifact=each.digest) for each in adapters),
    )
    values = serving(inputs=inputs, images=trained.document.images) | changes
    signed = manifest(agreed or terms(), **values)
    if agreed is not None:
        return signed
    return BUYER.sign(dataclasses.replace(signed.document, terms=trained.document.terms))


async def ran(rig: Rig) -> Enclave:
    """A training enclave that the market attested, its buyer with money left."""
    enclave = await rig.running()
    await rig.fund()
    return enclave


async def test_a_serve_job_takes_its_model_and_several_adapters_of_attested_enclaves(
    rig: Rig,
) -> None:
    enclave = await ran(rig)
    made = [adapter(enclave.job.digest, enclave.signing) for _ in range(3)]
    for each in made:
        await store(rig, each)
    job = serve_job(enclave.job, *made)
    view = await rig.api(BUYER).submit_job(job, key=key16())
    assert (view.state, view.owner) == (wire.JobState.QUEUED, OWNER.identity)
    found = await rig.read(lambda s: submission.custodians_of(s, find_job(s, job.digest)))
    assert found == tuple(sorted((OWNER.identity, BUYER.identity)))
    for party in (OWNER, BUYER):
        assert wire.ReadyAsk(job=job.digest) in await rig.api(party).get_asks()
    rate = await rig.read(lambda s: find_job(s, job.digest).royalty_per_million_tokens)
    assert rate == UNDERTAKEN


async def test_a_serve_lease_is_briefed_with_every_adapter_in_the_jobs_order(rig: Rig) -> None:
    enclave = await ran(rig)
    made = [adapter(enclave.job.digest, enclave.signing) for _ in range(2)]
    for each in made:
        await store(rig, each)
    job = serve_job(enclave.job, *made)
    await rig.api(BUYER).submit_job(job, key=key16())
    lease = await rig.claimed(job, HOST_2)
    await rig.ordered(job, lease)
    briefing = await rig.api(HOST_2).get_briefing(lease)
    assert briefing.manifests[1:] == tuple(each.encode() for each in made)
    documents = await rig.api(BUYER).get_job_documents(job.digest)
    assert documents.manifests == briefing.manifests


async def test_an_adapter_that_no_attested_enclave_of_its_origin_signed_is_refused(
    rig: Rig,
) -> None:
    """▸ A host or buyer that signs a manifest itself gets no job opened for it."""
    enclave = await ran(rig)
    job = enclave.job.digest
    for forged in (
        adapter(job, STRANGER),
        adapter(job, BUYER),
        adapter(job, HOST),
        adapter(job, MARKET),
        adapter(job, enclave.signing, origin=Origin(job=job, generation=2)),
    ):
        await refused(Code.REFUSED, rig.api(BUYER).put_document(forged.encode()))
        await refused(
            Code.NOT_FOUND, rig.api(BUYER).submit_job(serve_job(enclave.job, forged), key=key16())
        )


async def test_a_strangers_manifest_that_is_on_record_opens_no_job(rig: Rig) -> None:
    enclave = await ran(rig)
    forged = adapter(enclave.job.digest, STRANGER)
    await plant(rig, forged)
    call = rig.api(BUYER).submit_job(serve_job(enclave.job, forged), key=key16())
    error = await refused(Code.REFUSED, call)
    assert "no enclave of its origin" in error.text


async def test_of_two_signatures_over_one_adapter_the_attested_one_is_briefed(rig: Rig) -> None:
    """▸ Whoever came first with a signature of its own does not break the enclave's briefing."""
    enclave = await ran(rig)
    good = adapter(enclave.job.digest, enclave.signing)
    await plant(rig, STRANGER.sign(good.document))
    await store(rig, good)
    assert await rig.read(lambda s: find_input(s, good.digest)) == good.encode()


async def test_an_adapter_is_brought_by_its_custodians_and_parties_and_nobody_else(
    rig: Rig,
) -> None:
    enclave = await ran(rig)
    third = adapter(
        enclave.job.digest,
        enclave.signing,
        custodians=tuple(sorted(custodian(each) for each in (OWNER, STRANGER))),
    )
    await refused(Code.FORBIDDEN, rig.api(HOST_2).put_document(third.encode()))
    await store(rig, third, by=STRANGER)


async def test_a_dataset_is_no_adapter_and_an_adapter_no_model(rig: Rig) -> None:
    enclave = await ran(rig)
    dataset = input_manifest(ArtifactKind.DATASET, BUYER)
    await store(rig, dataset)
    call = rig.api(BUYER).submit_job(serve_job(enclave.job, dataset), key=key16())
    await refused(Code.REFUSED, call)
    made = adapter(enclave.job.digest, enclave.signing)
    await store(rig, made)
    swapped = serve_job(enclave.job, inputs=(Input(role=InputRole.MODEL, artifact=made.digest),))
    await refused(Code.REFUSED, rig.api(BUYER).submit_job(swapped, key=key16()))


async def test_terms_that_made_an_adapter_bind_their_owner_while_they_undertake_it(
    rig: Rig,
) -> None:
    """▸ An owner that raises its price afterwards serves what was made before at the old one.

    Without an adapter that was made under them the old terms are outdated, as for any new job.
    """
    enclave = await ran(rig)
    made = adapter(enclave.job.digest, enclave.signing)
    await store(rig, made)
    dearer = terms(
        number=2,
        lineages=(lineage_of(OWNER),),
        undertaking=Undertaking(until=NOW + DAY, price_microcredits_per_million_tokens=1 << 40),
    )
    await rig.api(OWNER).put_document(dearer)
    bare = serve_job(enclave.job)
    await refused(Code.OUTDATED, rig.api(BUYER).submit_job(bare, key=key16()))
    job = serve_job(enclave.job, made)
    await rig.api(BUYER).submit_job(job, key=key16())
    rate = await rig.read(lambda s: find_job(s, job.digest).royalty_per_million_tokens)
    assert rate == UNDERTAKEN


async def test_an_undertaking_that_is_over_or_of_another_job_does_not_bind(rig: Rig) -> None:
    enclave = await ran(rig)
    made = adapter(enclave.job.digest, enclave.signing)
    await store(rig, made)
    for number in (2, 3):
        await rig.api(OWNER).put_document(terms(number=number, lineages=(lineage_of(OWNER),)))
    second = await rig.api(BUYER).get_terms(OWNER.identity, lineage_of(OWNER))
    other = serve_job(enclave.job, made, agreed=terms(number=2, lineages=(lineage_of(OWNER),)))
    await refused(Code.OUTDATED, rig.api(BUYER).submit_job(other, key=key16()))
    assert second.document.number == 3
    rig.time[0] = NOW + DAY  # when the undertaking ends
    late = serve_job(enclave.job, made, expires_at=NOW + 2 * DAY)
    await refused(Code.OUTDATED, rig.api(BUYER).submit_job(late, key=key16()))


async def test_terms_that_do_not_allow_serving_refuse_it(rig: Rig) -> None:
    enclave = await ran(rig)
    strict = terms(
        number=2,
        lineages=(lineage_of(OWNER),),
        recipes=(RecipeTerms(recipe="lora", rank_max=8, steps_max=10),),
    )
    await rig.api(OWNER).put_document(strict)
    error = await refused(
        Code.REFUSED,
        rig.api(BUYER).submit_job(serve_job(enclave.job, agreed=strict), key=key16()),
    )
    assert "not generate" in error.text


async def test_a_flat_price_that_serving_does_not_pay_keeps_no_serve_job_out(rig: Rig) -> None:
    enclave = await ran(rig)
    flat = terms(number=2, lineages=(lineage_of(OWNER),), price_microcredits_per_job=1 << 40)
    await rig.api(OWNER).put_document(flat)
    job = serve_job(enclave.job, agreed=flat)
    await rig.api(BUYER).submit_job(job, key=key16())
    trained = manifest(flat, inputs=enclave.job.document.inputs)
    await refused(Code.REFUSED, rig.api(BUYER).submit_job(trained, key=key16()))
