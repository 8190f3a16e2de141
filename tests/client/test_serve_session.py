"""A client believes an enclave by its own documents and fresh evidence, or not at all."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.gateway.ports import UnavailableError
from client.serve_books import Books
from client.serve_session import (
    SESSION_MILLISECONDS_MAX,
    Session,
    Target,
    entries_of,
    find_target,
    still_holds,
    verify_offer,
)
from tests.client.serve_stage import FakeEnclave, ServeStage
from tests.trust import release_world as rw
from trust.artifacts import Custodian
from trust.errors import RefusedError
from trust.identity import PartyKey
from trust.jobs import JobManifest
from trust.messages import EvidenceBundle, Purpose, ServeOffer, Statement
from trust.release_state import Memory
from trust.simulated.root import SimulatedRoot
from trust.verifier.policy import any_facility, simulated_policy

NONCE = bytes(range(32))


@pytest.fixture
def stage(tmp_path: Path) -> ServeStage:
    return ServeStage(tmp_path)


@pytest.fixture
def enclave(stage: ServeStage) -> FakeEnclave:
    return FakeEnclave(stage)


def entries(stage: ServeStage) -> tuple[Custodian, ...]:
    documents = (stage.base, *stage.adapters)
    return entries_of(stage.job.document, [each.encode() for each in documents])


def target(stage: ServeStage) -> Target:
    books = Books(stage.home, stage.keys)
    return find_target(books.holdings(), books.memory(), stage.job, entries(stage))


def verify(stage: ServeStage, enclave: FakeEnclave, offer: ServeOffer | None = None) -> Session:
    client = stage.client.identity
    offer = offer or enclave.offer(client, NONCE)
    return verify_offer(offer, target(stage), client=client, nonce=NONCE, now=stage.now)


def test_honest_enclave_is_believed_for_an_hour(stage: ServeStage, enclave: FakeEnclave) -> None:
    session = verify(stage, enclave)
    assert session.request_key == enclave.request_key
    assert session.statement in enclave.statements
    assert session.target.signing_key == enclave.party.identity
    memory = stage.log.memory
    assert session.ends_at == stage.now + SESSION_MILLISECONDS_MAX
    assert still_holds(session, memory, session.ends_at - 1)
    assert not still_holds(session, memory, session.ends_at)


def test_session_ends_with_its_generation_and_with_its_job(
    stage: ServeStage, enclave: FakeEnclave
) -> None:
    session = verify(stage, enclave)
    stage.order(stage.job)
    assert not still_holds(session, stage.log.memory, stage.now)
    fresh = dataclasses.replace(session, target=dataclasses.replace(session.target, generation=2))
    assert still_holds(fresh, stage.log.memory, stage.now)
    stage.close(stage.job)
    assert not still_holds(fresh, stage.log.memory, stage.now)


# --- evidence ------------------------------------------------------------------------------------


def says(**changed: Any) -> Callable[[FakeEnclave], None]:
    return lambda enclave: enclave.statement_fields.update(changed)


def launches(**changed: Any) -> Callable[[FakeEnclave], None]:
    def apply(enclave: FakeEnclave) -> None:
        enclave.launch_fields.update(changed)

    return apply


def is_(**changed: Any) -> Callable[[FakeEnclave], None]:
    def apply(enclave: FakeEnclave) -> None:
        for name, value in changed.items():
            setattr(enclave, name, value)

    return apply


def offers(**changed: Any) -> Callable[[FakeEnclave], None]:
    """Fields of the request key that differ."""
    return lambda enclave: setattr(
        enclave, "request_key", dataclasses.replace(enclave.request_key, **changed)
    )


def other_chip() -> Any:
    made = dt.datetime.fromtimestamp(rw.NOW / 1000 - 3600, dt.UTC)
    return SimulatedRoot.create(made).issue_chip(bytes(64), made)


def another_key_signs(enclave: FakeEnclave) -> None:
    stranger = PartyKey.generate()
    enclave.change_offer = lambda offer: dataclasses.replace(
        offer, request_key=stranger.sign(enclave.request_key).encode()
    )


def another_launch(enclave: FakeEnclave) -> None:
    def change(offer: ServeOffer) -> ServeOffer:
        bundle = EvidenceBundle.parse(offer.evidence)
        other = dataclasses.replace(enclave.launch(), generation=7)
        return dataclasses.replace(
            offer, evidence=dataclasses.replace(bundle, launch=other.encode()).encode()
        )

    enclave.change_offer = change


def unsigned_statement(enclave: FakeEnclave) -> None:
    """The host puts its own signing key into a statement that the chip never saw."""

    def change(offer: ServeOffer) -> ServeOffer:
        bundle = EvidenceBundle.parse(offer.evidence)
        said = Statement.parse(bundle.statement)
        own = dataclasses.replace(said, hpke_key=bytes(1216))
        return dataclasses.replace(
            offer, evidence=dataclasses.replace(bundle, statement=own.encode()).encode()
        )

    enclave.change_offer = change


def other_platform(enclave: FakeEnclave) -> None:
    def change(offer: ServeOffer) -> ServeOffer:
        bundle = EvidenceBundle.parse(offer.evidence)
        return dataclasses.replace(
            offer, evidence=dataclasses.replace(bundle, platform="tdx").encode()
        )

    enclave.change_offer = change


BAD_OFFERS: dict[str, tuple[Callable[[FakeEnclave], Any], str]] = {
    "another verifier": (says(verifier=bytes(32)), "statement-other-verifier"),
    "evidence for release": (says(purpose=Purpose.RELEASE), "statement-other-purpose"),
    "evidence for the meter": (says(purpose=Purpose.METER), "statement-other-purpose"),
    "another nonce": (says(nonce=bytes(32)), "nonce-unknown"),
    "another job": (says(job=bytes(32)), "statement-other-job"),
    "another lease": (says(lease=rw.lease(1)), "statement-other-lease"),
    "an older generation": (says(generation=9), "statement-other-generation"),
    "another rank": (says(rank=1), "statement-other-rank"),
    "another number of ranks": (says(ranks=2), "statement-other-ranks"),
    "a launch document not measured": (another_launch, "launch-other-digest"),
    "launched for another job": (launches(job=bytes(32)), "launch-job"),
    "launched under another lease": (launches(lease=rw.lease(1)), "launch-lease"),
    "launched as another generation": (launches(generation=9), "launch-generation"),
    "launched for another market": (launches(market=bytes(32)), "launch-market"),
    "another enclave than the seat's": (
        is_(party=PartyKey.generate()),
        "signing-key-not-the-seats",
    ),
    "a statement that the chip never saw": (unsigned_statement, "evidence-report-data"),
    "a simulated root that no policy names": (is_(chip=other_chip()), "evidence-untrusted"),
    "another platform": (other_platform, "evidence-malformed"),
    "an image that the policy does not name": (
        is_(measurement=bytes(48)),
        "evidence-measurement",
    ),
    "request key by another key": (another_key_signs, "request-key-not-by-the-enclave"),
    "request key of another job": (offers(job=bytes(32)), "request-key-other-seat"),
    "request key of another generation": (offers(generation=9), "request-key-other-seat"),
    "request key of another rank": (offers(rank=1), "request-key-other-seat"),
}


@pytest.mark.parametrize("fault", sorted(BAD_OFFERS))
def test_enclave_is_not_believed_with(stage: ServeStage, enclave: FakeEnclave, fault: str) -> None:
    change, code = BAD_OFFERS[fault]
    change(enclave)
    with pytest.raises(RefusedError) as caught:
        verify(stage, enclave)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"evidence": b"\x00"}, "evidence-malformed"),
        ({"request_key": b"\x00"}, "request-key-malformed"),
        ({"request_key": bytes(96)}, "request-key-malformed"),
    ],
)
def test_offer_of_bytes_that_are_none_is_refused(
    stage: ServeStage, enclave: FakeEnclave, changed: dict[str, bytes], code: str
) -> None:
    offer = dataclasses.replace(enclave.offer(stage.client.identity, NONCE), **changed)
    with pytest.raises(RefusedError) as caught:
        verify(stage, enclave, offer)
    assert caught.value.code == code


def test_image_that_the_policy_names_and_the_job_does_not_is_refused(stage: ServeStage) -> None:
    other = bytes(48)
    stage.appraise(simulated_policy(rw.root().fingerprint, [rw.IMAGE, other]), number=2)
    enclave = FakeEnclave(stage)
    enclave.measurement = other
    with pytest.raises(RefusedError, match="image-not-in-job"):
        verify(stage, enclave)


def test_every_policy_of_the_target_has_to_accept(stage: ServeStage, enclave: FakeEnclave) -> None:
    strict = simulated_policy(rw.root().fingerprint, [bytes(48)])
    found = target(stage)
    client = stage.client.identity
    for policies in ((*found.policies, strict), (strict, *found.policies)):
        with pytest.raises(RefusedError, match="evidence-measurement"):
            verify_offer(
                enclave.offer(client, NONCE),
                dataclasses.replace(found, policies=policies),
                client=client,
                nonce=NONCE,
                now=stage.now,
            )


def test_simulated_evidence_does_not_serve_a_real_lineage(
    stage: ServeStage, enclave: FakeEnclave
) -> None:
    from trust.verifier.roots import RootKind

    found = dataclasses.replace(target(stage), kind=RootKind.REAL)
    client = stage.client.identity
    with pytest.raises(RefusedError, match="kind-other"):
        verify_offer(enclave.offer(client, NONCE), found, client=client, nonce=NONCE, now=stage.now)


# --- targets -------------------------------------------------------------------------------------


def test_no_target_before_the_order_and_before_the_own_broker_released(stage: ServeStage) -> None:
    with pytest.raises(UnavailableError, match="no generation"):
        target(stage)
    enclave = FakeEnclave(stage, seated=False)
    with pytest.raises(UnavailableError, match="released nothing to generation 1"):
        target(stage)
    stage.release(stage.job, enclave.statement(bytes(32), bytes(32)))
    assert target(stage).generation == 1
    stage.order(stage.job)
    with pytest.raises(UnavailableError, match="released nothing to generation 2"):
        target(stage)


def test_seat_under_another_lease_than_the_order_is_no_target(stage: ServeStage) -> None:
    enclave = FakeEnclave(stage, seated=False)
    stage.release(stage.job, enclave.statement(bytes(32), bytes(32), lease=rw.lease(5)))
    with pytest.raises(RefusedError, match="seat-other-lease"):
        target(stage)


def test_closed_job_is_no_target(stage: ServeStage, enclave: FakeEnclave) -> None:
    stage.close(stage.job)
    with pytest.raises(RefusedError, match="job-closed"):
        target(stage)


def test_job_of_another_buyer_and_of_another_kind_is_no_target(
    stage: ServeStage, enclave: FakeEnclave
) -> None:
    books, found = Books(stage.home, stage.keys), entries(stage)
    stranger = PartyKey.generate()
    jobs: list[tuple[Any, str]] = [
        (stranger.sign(stage.job.document), "job-not-own"),
        (
            stranger.sign(dataclasses.replace(stage.job.document, buyer=stranger.identity)),
            "job-not-own",
        ),
        (
            stage.keys.party.sign(
                dataclasses.replace(rw.World().job.document, buyer=stage.keys.party.identity)
            ),
            "job-serves-not",
        ),
    ]
    for job, code in jobs:
        with pytest.raises(RefusedError, match=code):
            find_target(books.holdings(), books.memory(), job, found)


def test_manifests_of_other_inputs_prove_nothing(stage: ServeStage) -> None:
    job: JobManifest = stage.job.document
    good = [stage.base.encode(), stage.adapters[0].encode()]
    assert len(entries_of(job, good)) == 2
    other = rw.World()
    for wrong in (good[:1], [*good, other.rows.encode()], [good[0], other.rows.encode()]):
        with pytest.raises(RefusedError, match="manifest-other"):
            entries_of(job, wrong)
    forged = bytearray(good[0])
    forged[0] ^= 1
    with pytest.raises(RefusedError, match="manifest-signature"):
        entries_of(job, [bytes(forged), good[1]])


def test_lineage_without_a_policy_has_no_target(
    stage: ServeStage, enclave: FakeEnclave, tmp_path: Path
) -> None:
    books = Books(stage.home, stage.keys)
    holdings = books.holdings()
    bare = dataclasses.replace(holdings, policies=())
    with pytest.raises(RefusedError, match="use-policy-missing"):
        find_target(bare, books.memory(), stage.job, entries(stage))
    bare = dataclasses.replace(holdings, appraisal_policies={})
    with pytest.raises(RefusedError, match="appraisal-policy-missing"):
        find_target(bare, books.memory(), stage.job, entries(stage))


def test_base_alone_is_appraised_by_what_the_buyer_uses_for_its_kind(tmp_path: Path) -> None:
    stage = ServeStage(tmp_path, adapters=0)
    enclave = FakeEnclave(stage, seated=False)
    found = target(stage)
    assert found.signing_key is None
    assert [each.digest for each in found.policies] == [
        simulated_policy(rw.root().fingerprint, [rw.IMAGE]).digest
    ]
    assert verify(stage, enclave).request_key == enclave.request_key
    stage.appraise(any_facility([rw.IMAGE]), number=2)
    with pytest.raises(RefusedError, match="no appraisal policy for simulated enclaves"):
        target(stage)
    books = Books(stage.home, stage.keys)
    bare = dataclasses.replace(books.holdings(), policies=())
    with pytest.raises(RefusedError, match="appraisal-policy-missing"):
        find_target(bare, books.memory(), stage.job, entries(stage))


def test_books_read_the_log_again_when_the_broker_has_written(stage: ServeStage) -> None:
    books = Books(stage.home, stage.keys)
    before = books.memory()
    assert books.memory() is before
    assert before.orders == {}
    assert list(books.serve_jobs()) == [stage.job.digest]
    FakeEnclave(stage)
    assert books.memory().generation(stage.job.digest) == 1
    second = stage.enter()
    assert set(books.serve_jobs()) == {stage.job.digest, second.digest}


def test_home_without_a_log_remembers_nothing(stage: ServeStage) -> None:
    stage.log.close()
    stage.home.log_path.unlink()
    assert Books(stage.home, stage.keys).memory() == Memory()
