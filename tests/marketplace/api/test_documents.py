"""The registry over the socket: signed, numbered, by digest; readiness and heads."""

from __future__ import annotations

import pytest

from marketplace import presence, wire
from tests.marketplace.api.rig import Rig, input_manifest, lineage_of, refused
from tests.marketplace.world import BUYER, HOST, HOST_2, NOW, OWNER, STRANGER, terms
from trust.artifacts import ArtifactKind, Core, Custodian, Manifest, Origin
from trust.encoding import digest
from trust.identity import PartyKey
from trust.jobs import Close, Ready, Screen, UsePolicy
from trust.messages import LogHead

Code = wire.ErrorCode
LINEAGE = lineage_of(OWNER)


def use_policy(number: int = 1, **changes: object) -> UsePolicy:
    values = {
        "version": 1,
        "custodian": OWNER.identity,
        "number": number,
        "lineages": (LINEAGE,),
        "appraisal_policy": bytes(32),
        "jobs_signed_by": None,
        "adapter_to": (),
    }
    return UsePolicy(**values | changes)


async def test_document_comes_back_by_its_digest_as_it_was_signed(rig: Rig) -> None:
    for signed in (
        terms(lineages=(LINEAGE,)),
        OWNER.sign(use_policy()),
        input_manifest(ArtifactKind.WEIGHTS, OWNER),
    ):
        stored = await rig.api(OWNER).put_document(signed.encode())
        assert (stored.digest, stored.result.value) == (signed.digest, "created")
        again = await rig.api(STRANGER).put_document(signed.encode())
        assert again.result is wire.StoredResult.EXISTS
        assert await rig.api(STRANGER).get_document(signed.digest) == signed.encode()


async def test_newest_terms_and_use_policy_of_a_lineage(rig: Rig) -> None:
    for number in (1, 3):
        await rig.api(OWNER).put_document(terms(number=number, lineages=(LINEAGE,)))
        await rig.api(OWNER).put_document(OWNER.sign(use_policy(number)))
    assert (await rig.api(BUYER).get_terms(OWNER.identity, LINEAGE)).document.number == 3
    found = await rig.api(BUYER).get_use_policy(OWNER.identity, LINEAGE)
    assert found.document.number == 3
    await refused(Code.NOT_FOUND, rig.api(BUYER).get_terms(BUYER.identity, LINEAGE))


async def test_lower_number_is_refused_and_changes_nothing(rig: Rig) -> None:
    """▸ An older, laxer, cheaper version cannot be put back (attacks.md, 9 iii)."""
    newest = terms(number=3, lineages=(LINEAGE,))
    await rig.api(OWNER).put_document(newest)
    older = terms(number=2, lineages=(LINEAGE,))
    await refused(Code.OUTDATED, rig.api(STRANGER).put_document(older))
    assert (await rig.api(BUYER).get_terms(OWNER.identity, LINEAGE)).digest == newest.digest
    await refused(Code.NOT_FOUND, rig.api(BUYER).get_document(older.digest))


async def test_second_document_under_one_number_is_refused(rig: Rig) -> None:
    await rig.api(OWNER).put_document(terms(number=2, lineages=(LINEAGE,)))
    twin = terms(number=2, lineages=(LINEAGE,), price_microcredits_per_job=1)
    await refused(Code.CONFLICT, rig.api(OWNER).put_document(twin))


async def test_terms_that_are_old_for_one_of_their_lineages_are_refused_for_all(rig: Rig) -> None:
    other = b"s" + bytes(32)
    await rig.api(OWNER).put_document(terms(number=5, lineages=(LINEAGE,)))
    mixed = terms(number=4, lineages=(other, LINEAGE))
    await refused(Code.OUTDATED, rig.api(OWNER).put_document(mixed))
    await refused(Code.NOT_FOUND, rig.api(OWNER).get_terms(OWNER.identity, other))


async def test_terms_in_anothers_name_are_refused(rig: Rig) -> None:
    forged = STRANGER.sign(terms(lineages=(LINEAGE,)).document)
    await refused(Code.REFUSED, rig.api(STRANGER).put_document(forged))
    policy = STRANGER.sign(use_policy())
    await refused(Code.REFUSED, rig.api(STRANGER).put_document(policy))


async def test_anothers_terms_of_my_lineage_reach_nobody_who_asks_for_mine(rig: Rig) -> None:
    await rig.api(OWNER).put_document(terms(number=1, lineages=(LINEAGE,)))
    await rig.api(STRANGER).put_document(terms(STRANGER, number=9, lineages=(LINEAGE,)))
    assert (await rig.api(BUYER).get_terms(OWNER.identity, LINEAGE)).document.number == 1


async def test_input_manifest_by_another_than_its_custodian_is_refused(rig: Rig) -> None:
    forged = STRANGER.sign(input_manifest(ArtifactKind.WEIGHTS, OWNER).document)
    await refused(Code.REFUSED, rig.api(STRANGER).put_document(forged.encode()))


async def test_terms_that_name_a_screen_are_refused_with_that_message(rig: Rig) -> None:
    screened = terms(lineages=(LINEAGE,), screen=Screen(guard=bytes(32), policy_text=bytes(32)))
    error = await refused(Code.REFUSED, rig.api(OWNER).put_document(screened))
    assert "screening is not built yet" in error.text


@pytest.mark.parametrize("damage", ["signature", "document", "cut", "longer", "label"])
async def test_damaged_document_is_refused(rig: Rig, damage: str) -> None:
    good = terms(lineages=(LINEAGE,)).encode()
    bad = {
        "signature": bytes([good[0] ^ 1]) + good[1:],
        "document": good.replace(b'"number":1', b'"number":2'),
        "cut": good[:-1],
        "longer": good + b" ",
        "label": good[:96] + b"blindhost/v1/other\x00{}",
    }[damage]
    target = wire.target(wire.DOCUMENT, digest=digest(bad[96:]))
    sent = await rig.send("PUT", target, bad)
    assert sent.error.code in {Code.MALFORMED, Code.REFUSED}


async def test_document_under_anothers_digest_is_refused(rig: Rig) -> None:
    call = rig.api(OWNER).put_document(terms(lineages=(LINEAGE,)).encode(), sha256=bytes(32))
    await refused(Code.MALFORMED, call)


async def test_kind_that_is_no_registry_document_is_refused(rig: Rig) -> None:
    close = BUYER.sign(Close(job=bytes(32), at=NOW))
    await refused(Code.MALFORMED, rig.api(BUYER).put_document(close.encode()))


# --- what a job made -----------------------------------------------------------------------------


def adapter(job: bytes, generation: int = 1, *, signer: PartyKey = STRANGER):
    core = Core(
        kind=ArtifactKind.ADAPTER,
        seal_id=bytes(32),
        custodians=(Custodian(identity=OWNER.identity, lineage=LINEAGE, epoch=0),),
        origin=Origin(job=job, generation=generation),
    )
    made = Manifest(
        core=core,
        padded_bytes=100,
        segments=1,
        segment_list=bytes(32),
        commitment=bytes(32),
        public_files=(),
    )
    return signer.sign(made)


async def test_what_a_job_made_is_registered_by_its_parties_and_the_leases_host_alone(
    rig: Rig,
) -> None:
    enclave = await rig.running()
    made = adapter(enclave.job.digest, signer=enclave.signing).encode()
    target = wire.target(wire.DOCUMENT, digest=digest(made[96:]))
    (await rig.send("PUT", target, made, key=STRANGER)).expect(Code.FORBIDDEN)
    (await rig.send("PUT", target, made, key=HOST)).expect(Code.FORBIDDEN)
    of_lease = wire.target(wire.DOCUMENT, {"lease": enclave.lease}, digest=digest(made[96:]))
    (await rig.send("PUT", of_lease, made, key=HOST_2)).expect(Code.NOT_FOUND)
    assert (await rig.send("PUT", of_lease, made, key=HOST)).status == 200
    assert (await rig.send("PUT", target, made, key=BUYER)).status == 200
    other = adapter(enclave.job.digest, generation=2, signer=enclave.signing).encode()
    of_lease = wire.target(wire.DOCUMENT, {"lease": enclave.lease}, digest=digest(other[96:]))
    (await rig.send("PUT", of_lease, other, key=HOST)).expect(Code.FORBIDDEN)


# --- readiness and heads -------------------------------------------------------------------------


def ready(job: bytes, party=OWNER, at: int = NOW):
    return party.sign(Ready(custodian=party.identity, job=job, at=at))


async def test_custodian_is_asked_until_it_is_ready_and_again_when_that_is_old(rig: Rig) -> None:
    job = await rig.submitted()
    for party in (OWNER, BUYER):
        assert await rig.api(party).get_asks() == (wire.ReadyAsk(job=job.digest),)
        await rig.api(party).say_ready(ready(job.digest, party))
        assert await rig.api(party).get_asks() == ()
    found = await rig.read(lambda s: presence.ready_custodians(s, job.digest, NOW))
    assert found == {OWNER.identity, BUYER.identity}
    rig.time[0] += presence.READY_MILLISECONDS
    assert await rig.api(OWNER).get_asks() == (wire.ReadyAsk(job=job.digest),)
    gone = await rig.read(lambda s: presence.ready_custodians(s, job.digest, rig.time[0]))
    assert gone == frozenset()
    assert await rig.api(STRANGER).get_asks() == ()


async def test_ready_in_anothers_name_old_or_of_no_job_is_refused(rig: Rig) -> None:
    job = await rig.submitted()
    await refused(Code.REFUSED, rig.api(STRANGER).say_ready(ready(job.digest, OWNER)))
    old = ready(job.digest, OWNER, at=NOW - presence.READY_MILLISECONDS - 1)
    await refused(Code.OUTDATED, rig.api(OWNER).say_ready(old))
    await refused(Code.NOT_FOUND, rig.api(OWNER).say_ready(ready(bytes(32))))
    forged = STRANGER.sign(Ready(custodian=OWNER.identity, job=job.digest, at=NOW))
    await refused(Code.REFUSED, rig.api(STRANGER).say_ready(forged))
    found = await rig.read(lambda s: presence.ready_custodians(s, job.digest, NOW))
    assert found == frozenset()


def head(incarnation: int, entries: int, chain: int = 0, party=OWNER):
    return party.sign(
        LogHead(
            custodian=party.identity,
            incarnation=incarnation,
            entries=entries,
            chain=bytes([chain]) * 32,
            at=NOW,
        )
    )


async def test_head_only_rises_so_a_restored_broker_learns_it(rig: Rig) -> None:
    api = rig.api(OWNER)
    assert await api.get_head(OWNER.identity) is None
    for each in (head(1, 5), head(1, 5), head(1, 9), head(2, 9)):
        await api.post_head(each)
        assert (await rig.api(BUYER).get_head(OWNER.identity)).digest == each.digest
    for restored in (head(1, 10), head(2, 8)):
        await refused(Code.OUTDATED, api.post_head(restored))
    error = await refused(Code.CONFLICT, api.post_head(head(2, 9, chain=1)))
    assert "fork" in error.text
    assert (await api.get_head(OWNER.identity)).digest == head(2, 9).digest


async def test_head_in_anothers_name_is_refused(rig: Rig) -> None:
    await refused(Code.REFUSED, rig.api(STRANGER).post_head(head(1, 5)))
    forged = STRANGER.sign(head(1, 5).document)
    await refused(Code.REFUSED, rig.api(STRANGER).post_head(forged))
    assert await rig.api(OWNER).get_head(OWNER.identity) is None
