"""A seat's grant: who gets one, and every way in which nobody does."""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets

import pytest

from tests.trust.release_world import (
    HOUR,
    JOB_ENDS,
    MARKET,
    NOW,
    Enclave,
    World,
    code,
    lease,
    party,
    root,
    sealed,
)
from trust import custody
from trust.artifacts import ArtifactKind, Core, Origin
from trust.custody import LineageKind
from trust.encoding import digest
from trust.identity import PartyKey
from trust.jobs import Close, InputRole, RankLease, RecipeTerms, Screen
from trust.messages import Allowance, Purpose, ScopeKind
from trust.release import CloseHeard, Decision, decide
from trust.release_state import Released, Standing
from trust.simulated.root import SimulatedRoot
from trust.verifier.policy import any_facility, simulated_policy


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def enclave() -> Enclave:
    return Enclave()


# --- what is granted -----------------------------------------------------------------------------


def test_owner_grants_its_input_and_output_share_and_an_allowance(
    world: World, enclave: Enclave
) -> None:
    info, secret = enclave.open(world.seat(world.owner, enclave))
    owner = world.owner
    assert [each.scope for each in info.scopes] == [ScopeKind.INPUT, ScopeKind.OUTPUT]
    assert secret.shares == (
        custody.input_share(owner.lineage_key, world.model.document.core),
        custody.output_share(owner.lineage_key, world.job.digest, 1),
    )
    assert secret.terms == world.terms.digest
    assert secret.allowance.steps == world.job.document.steps
    assert info.checkpoint is None


def test_buyer_grants_both_datasets_and_sets_no_bound(world: World, enclave: Enclave) -> None:
    info, secret = enclave.open(world.seat(world.buyer, enclave))
    cores = {each.core for each in info.scopes if each.scope is ScopeKind.INPUT}
    assert cores == {world.rows.document.core.digest, world.heldout.document.core.digest}
    assert secret.allowance == Allowance(tokens=None, steps=None, reports=None)


def test_a_job_of_several_enclaves_gets_group_shares_and_a_single_one_none(
    world: World, enclave: Enclave
) -> None:
    info, _ = enclave.open(world.seat(world.buyer, enclave))
    assert ScopeKind.GROUP not in {each.scope for each in info.scopes}
    world.job = world.submit(enclaves=2, local_ranks=1)
    world.orders.clear()
    other = Enclave()
    info, secret = other.open(world.seat(world.buyer, other, rank=1))
    at = [each.scope for each in info.scopes].index(ScopeKind.GROUP)
    wanted = custody.group_share(world.buyer.lineage_key, world.job.digest, 1)
    assert secret.shares[at] == wanted


def test_the_log_entry_says_who_got_what_on_which_chip_under_which_verdict(
    world: World, enclave: Enclave
) -> None:
    grant = world.seat(world.owner, enclave)
    body = world.owner.entries[-1].body
    assert isinstance(body, Released)
    assert body.grant == grant
    assert body.chip_id == bytes(64)
    assert body.policies == (world.owner.appraisal.digest,)
    assert len(body.verdicts) == 1
    assert len(body.collateral) == 4


def test_a_refusal_writes_nothing(world: World, enclave: Enclave) -> None:
    before = len(world.owner.entries)
    code(world.owner.ask(world.request(world.owner, enclave, nonce=bytes(32))))
    assert len(world.owner.entries) == before


# --- shares (attacks.md, 1) ----------------------------------------------------------------------


def test_share_released_for_adapter_does_not_open_base_model(
    world: World, enclave: Enclave
) -> None:
    _, secret = enclave.open(world.seat(world.owner, enclave))
    base = world.model.document.core
    adapter = world.derived(enclave.party, ArtifactKind.ADAPTER).document.core
    output = secret.shares[1]
    for share in (output, custody.derived_share(output, adapter)):
        opened = custody.artifact_key((share,), base)
        assert opened != custody.artifact_key((secret.shares[0],), base)
    assert custody.derived_share(output, base) != secret.shares[0]


def test_generation_1_shares_do_not_derive_group_key_of_generation_2(world: World) -> None:
    world.job = world.submit(enclaves=2, local_ranks=1)
    world.orders.clear()
    first, second = Enclave(), Enclave()
    got = {}
    for enclave, generation in ((first, 1), (second, 2)):
        shares = []
        for custodian in (world.owner, world.buyer):
            info, secret = enclave.open(world.seat(custodian, enclave, generation))
            at = [each.scope for each in info.scopes].index(ScopeKind.GROUP)
            shares.append((secret.shares, secret.shares[at]))
        got[generation] = shares
    wanted = custody.group_key([each for _, each in got[2]], world.job.digest, 2)
    held = [[*shares] for shares, _ in got[1]]
    derived = {custody.group_key((a, b), world.job.digest, 2) for a in held[0] for b in held[1]}
    assert wanted not in derived


def test_output_share_of_job_a_does_not_open_checkpoint_of_job_b(
    world: World, enclave: Enclave
) -> None:
    _, secret = enclave.open(world.seat(world.owner, enclave))
    world.job = world.submit()
    other = world.derived(enclave.party, ArtifactKind.CHECKPOINT).document.core
    wanted = custody.artifact_share(world.owner.lineage_key, other)
    assert all(custody.derived_share(each, other) != wanted for each in secret.shares)
    assert wanted not in secret.shares


# --- the nonce -----------------------------------------------------------------------------------


def test_unknown_nonce_is_refused(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, nonce=secrets.token_bytes(32))
    assert code(world.owner.ask(request)) == "nonce-unknown"


def test_stale_nonce_is_refused(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, nonce=world.owner.challenge(NOW - 300_001))
    assert code(world.owner.ask(request)) == "nonce-stale"


def test_nonce_from_the_future_is_refused(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, nonce=world.owner.challenge(NOW + 1))
    assert code(world.owner.ask(request)) == "nonce-stale"


def test_used_nonce_is_refused(world: World, enclave: Enclave) -> None:
    nonce = world.owner.challenge()
    wrong = world.request(world.owner, enclave, nonce=nonce, measurement=bytes(48))
    assert code(world.owner.ask(wrong)) == "evidence-measurement"
    again = world.request(world.owner, enclave, nonce=nonce)
    assert code(world.owner.ask(again)) == "nonce-unknown"


def test_evidence_for_the_owner_is_refused_by_the_buyer(world: World, enclave: Enclave) -> None:
    nonce = world.owner.challenge()
    world.buyer.challenges[nonce] = world.owner.challenges[nonce]
    request = world.request(world.owner, enclave, nonce=nonce)
    assert code(world.buyer.ask(request)) == "statement-other-verifier"


def test_evidence_for_the_meter_is_no_evidence_for_release(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, statement={"purpose": Purpose.METER})
    assert code(world.owner.ask(request)) == "statement-other-purpose"
    nonce = world.owner.challenge(purpose=Purpose.METER)
    request = world.request(world.owner, enclave, nonce=nonce)
    assert code(world.owner.ask(request)) == "nonce-other-purpose"


# --- the launch document -------------------------------------------------------------------------


def test_launch_document_swapped_under_the_statement(world: World, enclave: Enclave) -> None:
    other = digest(world.launch(2).encode())
    request = world.request(world.owner, enclave, statement={"launch": other})
    assert code(world.owner.ask(request)) == "launch-other-digest"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job", bytes(32)),
        ("lease", lease(7)),
        ("generation", 2),
        ("rank", 1),
        ("ranks", 3),
    ],
)
def test_launch_document_of_another_seat(
    world: World, enclave: Enclave, field: str, value: object
) -> None:
    fields = {field: value, **({"ranks": 2} if field == "rank" else {})}
    request = world.request(world.owner, enclave, launch_fields=fields)
    assert code(world.owner.ask(request)) == f"launch-{field}"


def test_launch_document_metered_by_another_market(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, launch_fields={"market": bytes(32)})
    assert code(world.owner.ask(request)) == "launch-market"
    assert bytes(32) != MARKET


def test_launch_document_with_an_unknown_field(world: World, enclave: Enclave) -> None:
    launch = world.launch(1).encode().replace(b'{"generation"', b'{"debug":true,"generation"')
    request = world.request(world.owner, enclave, launch=launch)
    assert code(world.owner.ask(request)) == "launch-malformed"


def test_rank_out_of_range_is_no_launch_document(world: World, enclave: Enclave) -> None:
    launch = world.launch(1).encode().replace(b'"rank":0', b'"rank":1')
    request = world.request(world.owner, enclave, launch=launch, statement={"rank": 1})
    assert code(world.owner.ask(request)) == "launch-malformed"


# --- evidence ------------------------------------------------------------------------------------


def test_another_measurement_is_refused(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, measurement=bytes(48))
    assert code(world.owner.ask(request)) == "evidence-measurement"


def test_image_that_the_policy_knows_and_the_job_does_not(world: World, enclave: Enclave) -> None:
    world.job = world.submit(images=(bytes(48),))
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "image-not-in-job"


def test_report_over_another_statement_is_refused(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, report_data=bytes(64))
    assert code(world.owner.ask(request)) == "evidence-report-data"


def test_report_of_a_machine_launched_for_another_lease(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, host_data=bytes(32))
    assert code(world.owner.ask(request)) == "evidence-host-data"


@pytest.mark.slow
def test_chip_of_an_unnamed_root_is_refused(world: World, enclave: Enclave) -> None:
    then = dt.datetime.fromtimestamp(NOW / 1000 - 3600, dt.UTC)
    stranger = SimulatedRoot.create(then).issue_chip(bytes(64), then)
    request = world.request(world.owner, enclave, chip=stranger)
    assert code(world.owner.ask(request)) == "evidence-untrusted"


def test_simulated_chip_under_a_production_policy_is_refused(
    world: World, enclave: Enclave
) -> None:
    owner = world.owner
    owner.appraisal = any_facility([bytes(48)])
    old = owner.policies[0].document
    changed = dataclasses.replace(old, appraisal_policy=owner.appraisal.digest)
    owner.policies = [owner.key.sign(changed)]
    assert code(owner.ask(world.request(owner, enclave))) == "evidence-untrusted"


def test_real_lineage_is_not_released_under_a_simulated_root(enclave: Enclave) -> None:
    world = World(kind=LineageKind.REAL)
    assert code(world.owner.ask(world.request(world.owner, enclave))) == "kind-other"


def test_real_and_simulated_do_not_meet_in_one_job(enclave: Enclave) -> None:
    world = World(kind=LineageKind.SIMULATED, data_kind=LineageKind.REAL)
    assert code(world.owner.ask(world.request(world.owner, enclave))) == "kinds-mixed"


def test_garbage_for_evidence(world: World, enclave: Enclave) -> None:
    asked = world.request(world.owner, enclave)
    broken = dataclasses.replace(asked.request, evidence=b"\x00" * 99)
    result = decide(world.owner.state(), dataclasses.replace(asked, request=broken), NOW)
    assert code(result) == "evidence-malformed"


# --- the job -------------------------------------------------------------------------------------


def test_job_not_signed_by_its_buyer(world: World, enclave: Enclave) -> None:
    world.job = world.submit(signer=PartyKey.generate())
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "job-not-by-its-buyer"


def test_job_with_a_forged_signature(world: World, enclave: Enclave) -> None:
    forged = bytes(64) + world.job.encode()[64:]
    request = world.request(world.owner, enclave, job=forged)
    assert code(world.owner.ask(request)) == "job-signature"


def test_another_job_than_the_statements(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, job=world.submit().encode())
    assert code(world.owner.ask(request)) == "job-other"


def test_expired_job_is_not_released(world: World, enclave: Enclave) -> None:
    world.job = world.submit(expires_at=NOW)
    assert code(world.owner.ask(world.request(world.owner, enclave))) == "job-expired"


def test_finished_job_cannot_be_run_again(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, enclave)
    close = world.buyer.key.sign(Close(job=world.job.digest, at=NOW))
    assert isinstance(world.owner.ask(CloseHeard(signed=close.encode())), Decision)
    request = world.request(world.owner, Enclave(), generation=2)
    assert code(world.owner.ask(request)) == "job-closed"


def test_a_stranger_cannot_close_a_job(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, enclave)
    close = PartyKey.generate().sign(Close(job=world.job.digest, at=NOW))
    asked = CloseHeard(signed=close.encode())
    assert code(world.owner.ask(asked)) == "close-not-by-the-buyer"


def test_another_number_of_ranks_than_the_jobs(world: World, enclave: Enclave) -> None:
    changed = {"ranks": 2}
    request = world.request(world.owner, enclave, statement=changed, launch_fields=changed)
    assert code(world.owner.ask(request)) == "ranks-other"


def test_strangers_job_over_my_dataset(world: World, enclave: Enclave) -> None:
    """The model owner, or anybody, names my dataset in a job of its own."""
    stranger = world.owner.key
    world.job = world.submit(signer=stranger, buyer=stranger.identity)
    order = world.order(1, signer=stranger)
    request = world.request(world.buyer, enclave, order=order, orders=())
    assert code(world.buyer.ask(request)) == "buyer-not-allowed"


def test_dataset_policy_may_name_a_stranger(world: World, enclave: Enclave) -> None:
    stranger = world.owner.key
    old = world.buyer.policies[0].document
    named = dataclasses.replace(old, number=2, jobs_signed_by=(stranger.identity,))
    world.buyer.policies.append(world.buyer.key.sign(named))
    world.job = world.submit(signer=stranger, buyer=stranger.identity)
    order = world.order(1, signer=stranger)
    request = world.request(world.buyer, enclave, order=order, orders=())
    assert isinstance(world.buyer.ask(request), Decision)


def test_buyer_that_the_owners_policy_does_not_name(world: World, enclave: Enclave) -> None:
    old = world.owner.policies[0].document
    named = dataclasses.replace(old, number=2, jobs_signed_by=(bytes(32),))
    world.owner.policies.append(world.owner.key.sign(named))
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "buyer-not-allowed"


def test_lineage_without_a_use_policy_is_released_to_nobody(world: World, enclave: Enclave) -> None:
    world.owner.policies.clear()
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "use-policy-missing"


def test_use_policy_whose_appraisal_policy_is_gone(world: World, enclave: Enclave) -> None:
    world.owner.appraisal = simulated_policy(root().fingerprint, [bytes(48)])
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "appraisal-policy-missing"


@pytest.mark.parametrize("what", ["job", "order", "terms", "manifest"])
@pytest.mark.parametrize("fault", ["malformed", "signature"])
def test_documents_that_are_garbage_or_forged(
    world: World, enclave: Enclave, what: str, fault: str
) -> None:
    request = world.request(world.owner, enclave)
    name = "manifests" if what == "manifest" else what
    good = getattr(request.request, name)
    first = good[0] if isinstance(good, tuple) else good
    bad = b"\x00" * 99 if fault == "malformed" else bytes(64) + first[64:]
    changed = (bad, *good[1:]) if isinstance(good, tuple) else bad
    asked = dataclasses.replace(request.request, **{name: changed})
    result = world.owner.ask(dataclasses.replace(request, request=asked))
    assert code(result) == f"{what}-{fault}"


def test_input_of_two_custodians(world: World, enclave: Enclave) -> None:
    core = world.model.document.core
    both = dataclasses.replace(core, custodians=(*core.custodians, world.buyer.entry))
    world.model = world.owner.key.sign(dataclasses.replace(world.model.document, core=both))
    world.owner.manifests[world.model.digest] = world.model
    world.job = world.submit()
    assert code(world.owner.ask(world.request(world.owner, enclave))) == "input-custodians"


def test_close_of_a_job_that_nothing_was_released_for(world: World) -> None:
    close = world.buyer.key.sign(Close(job=bytes(32), at=NOW))
    assert code(world.owner.ask(CloseHeard(signed=close.encode()))) == "job-unknown"


# --- generations ---------------------------------------------------------------------------------


def test_market_cannot_open_a_generation(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, Enclave())
    forged = world.order(2, signer=PartyKey.generate())
    request = world.request(world.owner, enclave, generation=2, order=forged)
    assert code(world.owner.ask(request)) == "order-not-by-the-buyer"


def test_generation_jump_is_refused(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, Enclave())
    world.order(2)
    third = world.order(3)
    request = world.request(world.owner, enclave, generation=3, order=third, orders=())
    assert code(world.owner.ask(request)) == "order-jump"


def test_generation_that_was_missed_is_taken_in_by_its_chain(
    world: World, enclave: Enclave
) -> None:
    world.seat(world.owner, Enclave())
    world.seat(world.owner, enclave, generation=3)
    assert len(world.owner.memory.orders[world.job.digest]) == 3


def test_order_that_does_not_follow_on_the_one_before(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, Enclave())
    forked = world.order(2, before=bytes(32))
    request = world.request(world.owner, enclave, generation=2, order=forked)
    assert code(world.owner.ask(request)) == "order-chain-broken"


def test_second_order_of_one_number(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, Enclave())
    forked = world.order(1, expires_at=NOW + HOUR - 1)
    request = world.request(world.owner, enclave, generation=1, order=forked)
    assert code(world.owner.ask(request)) == "order-forked"


def test_order_of_another_job(world: World, enclave: Enclave) -> None:
    order = world.order(1, job=world.submit().digest)
    request = world.request(world.owner, enclave, order=order, orders=())
    assert code(world.owner.ask(request)) == "order-other-job"


def test_order_of_another_generation(world: World, enclave: Enclave) -> None:
    world.order(1)
    request = world.request(world.owner, enclave, generation=1, order=world.order(2))
    assert code(world.owner.ask(request)) == "order-other-generation"


def test_expired_order(world: World, enclave: Enclave) -> None:
    order = world.order(1, expires_at=NOW)
    request = world.request(world.owner, enclave, order=order, orders=())
    assert code(world.owner.ask(request)) == "order-expired"


def test_order_for_ever(world: World, enclave: Enclave) -> None:
    order = world.order(1, expires_at=JOB_ENDS)
    request = world.request(world.owner, enclave, order=order, orders=())
    assert code(world.owner.ask(request)) == "order-lives-too-long"


def test_more_generations_than_the_job_allows(world: World, enclave: Enclave) -> None:
    world.job = world.submit(generations_max=1)
    request = world.request(world.owner, enclave, generation=2)
    assert code(world.owner.ask(request)) == "generations-spent"


def test_lease_that_the_order_does_not_give(world: World, enclave: Enclave) -> None:
    order = world.order(1, leases=(RankLease(rank=0, lease=lease(5)),))
    request = world.request(world.owner, enclave, order=order, orders=())
    assert code(world.owner.ask(request)) == "lease-not-the-orders"


def test_order_for_another_number_of_enclaves(world: World, enclave: Enclave) -> None:
    leases = tuple(RankLease(rank=r, lease=lease(100 + r)) for r in range(2))
    order = world.order(1, leases=leases)
    request = world.request(world.owner, enclave, order=order, orders=())
    assert code(world.owner.ask(request)) == "order-other-ranks"


def test_older_generation_after_a_newer_one(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, Enclave(), generation=2)
    request = world.request(world.owner, enclave, generation=1)
    assert code(world.owner.ask(request)) == "generation-not-above"


def test_older_generation_for_another_rank(world: World, enclave: Enclave) -> None:
    world.job = world.submit(enclaves=2, local_ranks=1)
    world.seat(world.owner, Enclave(), generation=2, rank=1)
    request = world.request(world.owner, enclave, generation=1, rank=0)
    assert code(world.owner.ask(request)) == "generation-not-above"


# --- seats ---------------------------------------------------------------------------------------


def test_second_key_pair_does_not_take_a_seat(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, Enclave())
    assert code(world.owner.ask(world.request(world.owner, enclave))) == "seat-taken"


def test_same_pair_gets_the_same_stored_grant(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave)
    first = world.owner.ask(request)
    replayed = world.owner.ask(request)
    fresh_nonce = world.owner.ask(world.request(world.owner, enclave))
    for again in (replayed, fresh_nonce):
        assert isinstance(first, Decision)
        assert isinstance(again, Decision)
        assert again.answer == first.answer
        assert again.entries == ()


@pytest.mark.parametrize("swapped", ["hpke", "signing"])
def test_half_of_the_pair_is_another_pair(world: World, enclave: Enclave, swapped: str) -> None:
    world.seat(world.owner, enclave)
    other = Enclave()
    if swapped == "hpke":
        other.party = enclave.party
    else:
        other.hpke = enclave.hpke
    assert code(world.owner.ask(world.request(world.owner, other))) == "seat-taken"


def test_one_enclave_cannot_take_two_ranks(world: World, enclave: Enclave) -> None:
    world.job = world.submit(enclaves=2, local_ranks=1)
    world.seat(world.owner, enclave, rank=0)
    request = world.request(world.owner, enclave, rank=1)
    assert code(world.owner.ask(request)) == "keys-in-another-seat"


# --- inputs --------------------------------------------------------------------------------------


def test_manifest_that_this_custodian_never_sealed(world: World, enclave: Enclave) -> None:
    world.owner.manifests.clear()
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "manifest-not-registered"


def test_manifests_that_are_missing(world: World, enclave: Enclave) -> None:
    request = world.request(world.owner, enclave, manifests=world.manifests[:2])
    assert code(world.owner.ask(request)) == "inputs-missing"


def test_manifest_of_another_artifact(world: World, enclave: Enclave) -> None:
    model, rows, _ = world.manifests
    request = world.request(world.owner, enclave, manifests=(model, rows, rows))
    assert code(world.owner.ask(request)) == "manifest-other"


def test_others_input_that_its_custodian_did_not_sign(world: World, enclave: Enclave) -> None:
    world.rows = PartyKey.generate().sign(world.rows.document)
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "manifest-not-by-its-custodian"


def test_base_model_relabelled_as_a_dataset(world: World, enclave: Enclave) -> None:
    world.rows = sealed(world.owner.key, ArtifactKind.WEIGHTS, world.owner.entry)
    world.owner.manifests[world.rows.digest] = world.rows
    world.job = world.submit()
    assert code(world.owner.ask(world.request(world.owner, enclave))) == "input-kind"


def test_derived_artifact_as_an_input(world: World, enclave: Enclave) -> None:
    core = Core(
        kind=ArtifactKind.ADAPTER,
        seal_id=world.model.document.core.seal_id,
        custodians=(world.owner.entry,),
        origin=Origin(job=bytes(32), generation=1),
    )
    world.model = world.buyer.key.sign(dataclasses.replace(world.model.document, core=core))
    world.job = world.submit()
    assert code(world.owner.ask(world.request(world.owner, enclave))) == "input-kind"


def test_custodian_of_nothing_in_the_job(world: World, enclave: Enclave) -> None:
    bystander = party()
    assert code(bystander.ask(world.request(bystander, enclave))) == "not-a-custodian"


def test_shredded_lineage_is_not_released(world: World, enclave: Enclave) -> None:
    world.owner.entry = dataclasses.replace(world.owner.entry, epoch=7)
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "lineage-shredded"


# --- terms ---------------------------------------------------------------------------------------


def test_market_serves_old_terms_job_refused_before_any_hold_is_spent(
    world: World, enclave: Enclave
) -> None:
    world.publish(number=2, price_microcredits_per_job=9_999)
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "terms-not-newest"


def test_running_job_keeps_its_first_terms(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, enclave)
    world.publish(number=2, price_microcredits_per_job=9_999)
    assert world.seat(world.owner, Enclave(), generation=2)


def test_terms_that_the_owner_never_published(world: World, enclave: Enclave) -> None:
    world.owner.terms.clear()
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "terms-not-registered"


def test_terms_by_somebody_else(world: World, enclave: Enclave) -> None:
    forged = world.buyer.key.sign(world.terms.document)
    request = world.request(world.owner, enclave, terms=forged.encode())
    assert code(world.owner.ask(request)) == "terms-not-by-the-owner"


def test_other_terms_than_the_jobs(world: World, enclave: Enclave) -> None:
    other = world.publish(number=1, price_microcredits_per_job=0)
    request = world.request(world.owner, enclave, terms=other.encode())
    assert code(world.owner.ask(request)) == "terms-other"


def test_terms_about_another_model(world: World, enclave: Enclave) -> None:
    world.terms = world.publish(lineages=(party().entry.lineage,))
    world.job = world.submit()
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "terms-other-model"


def test_expired_terms(world: World, enclave: Enclave) -> None:
    world.terms = world.publish(number=2, expires_at=NOW)
    world.job = world.submit()
    assert code(world.owner.ask(world.request(world.owner, enclave))) == "terms-expired"
    assert code(world.buyer.ask(world.request(world.buyer, enclave))) == "terms-expired"


def test_terms_that_name_a_screen_are_refused_until_screening_exists(
    world: World, enclave: Enclave
) -> None:
    screen = Screen(guard=bytes(32), policy_text=bytes(32))
    world.terms = world.publish(number=2, screen=screen)
    world.job = world.submit()
    for custodian in (world.owner, world.buyer):
        result = custodian.ask(world.request(custodian, enclave))
        assert code(result) == "terms-screen"
        assert "screening does not exist yet" in result.text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("terms", "wanted"),
    [
        ({"recipes": (RecipeTerms(recipe="evaluate", rank_max=1, steps_max=1),)}, "not-in-terms"),
        ({"recipes": (RecipeTerms(recipe="lora", rank_max=3, steps_max=99),)}, "rank"),
        ({"recipes": (RecipeTerms(recipe="lora", rank_max=4, steps_max=9),)}, "steps"),
    ],
)
def test_recipe_outside_the_terms(
    world: World, enclave: Enclave, terms: dict[str, object], wanted: str
) -> None:
    world.terms = world.publish(number=2, **terms)
    world.job = world.submit()
    assert code(world.owner.ask(world.request(world.owner, enclave))) == f"recipe-{wanted}"


def test_longer_replies_than_the_terms_allow(world: World, enclave: Enclave) -> None:
    output = dataclasses.replace(world.terms.document.output, reply_tokens_max=15)
    world.terms = world.publish(number=2, output=output)
    world.job = world.submit()
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "recipe-reply-tokens"


# --- budgets -------------------------------------------------------------------------------------


def budgets(world: World, **changed: int) -> None:
    old = world.terms.document.budgets
    number = world.terms.document.number + 1
    world.terms = world.publish(number=number, budgets=dataclasses.replace(old, **changed))
    world.job = world.submit()
    world.orders.clear()


def test_killing_enclaves_buys_no_more_steps_than_the_budget(world: World) -> None:
    budgets(world, steps=25)
    granted = 0
    for generation in (1, 2, 3):
        enclave = Enclave()
        _, secret = enclave.open(world.seat(world.owner, enclave, generation))
        assert secret.allowance.steps is not None
        granted += secret.allowance.steps
    assert granted == 25
    request = world.request(world.owner, Enclave(), generation=4)
    assert code(world.owner.ask(request)) == "budget-steps"


def test_a_second_job_does_not_renew_the_budget(world: World) -> None:
    budgets(world, steps=10)
    world.seat(world.owner, Enclave())
    world.job = world.submit()
    world.orders.clear()
    assert code(world.owner.ask(world.request(world.owner, Enclave()))) == "budget-steps"


def test_the_owners_clock_renews_the_budget_and_no_other(world: World) -> None:
    budgets(world, steps=10, period_seconds=60)
    world.seat(world.owner, Enclave())
    for later, refused in ((59_999, True), (60_000, False)):
        nonce = world.owner.challenge(NOW + later)
        request = world.request(world.owner, Enclave(), generation=2, nonce=nonce)
        result = world.owner.ask(request, NOW + later)
        assert isinstance(result, Decision) is not refused


def test_tokens_and_reports_have_budgets_of_their_own(world: World) -> None:
    for kind in ("tokens", "reports"):
        budgets(world, **{kind: 0})
        request = world.request(world.owner, Enclave())
        assert code(world.owner.ask(request)) == f"budget-{kind}"
        world.terms = world.publish(number=world.terms.document.number + 1)


def test_reports_of_one_job_are_bounded_over_all_its_enclaves(world: World) -> None:
    world.terms = world.publish(number=2, reports_max=2)
    world.job = world.submit()
    for generation in (1, 2):
        enclave = Enclave()
        _, secret = enclave.open(world.seat(world.owner, enclave, generation))
        assert secret.allowance.reports == 1
    request = world.request(world.owner, Enclave(), generation=3)
    assert code(world.owner.ask(request)) == "budget-reports"


# --- brokers -------------------------------------------------------------------------------------


def test_broker_behind_its_head_releases_nothing(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, enclave)
    world.owner.standing = Standing.BEHIND
    for asked in (enclave, Enclave()):
        request = world.request(world.owner, asked, generation=2)
        assert code(world.owner.ask(request)) == "broker-behind"


def test_no_release_before_the_other_custodian_was_heard(world: World, enclave: Enclave) -> None:
    world.owner.heads_from = frozenset()
    assert code(world.owner.ask(world.request(world.owner, enclave))) == "heads-wanted"


def test_new_incarnation_closes_every_generation_ordered_before(
    world: World, enclave: Enclave
) -> None:
    from trust.release_state import Opened

    world.owner.write((Opened(incarnation=2),), NOW)
    request = world.request(world.owner, enclave)
    assert code(world.owner.ask(request)) == "order-before-incarnation"
    later = NOW + 310_000
    fresh = world.order(1, expires_at=later + HOUR)
    nonce = world.owner.challenge(later)
    request = world.request(world.owner, enclave, order=fresh, orders=(), nonce=nonce)
    assert isinstance(world.owner.ask(request, later), Decision)


def test_every_input_role_has_a_kind_that_is_checked() -> None:
    from trust.release_inputs import ROLE_KINDS

    assert set(ROLE_KINDS) == set(InputRole)
