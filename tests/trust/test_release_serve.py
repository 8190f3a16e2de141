"""Release for serve jobs: whose adapters, under which terms, and how many tokens."""

from __future__ import annotations

import dataclasses
import secrets

import pytest

from tests.trust.release_world import HOUR, NOW, Enclave, Party, code, lease, party, sealed
from tests.trust.serve_world import UNIT, ServeWorld, others
from trust import custody
from trust.artifacts import ArtifactKind
from trust.custody import lineage_id, lineage_kind, output_custodians
from trust.encoding import INTEGER_MAX
from trust.errors import RefusedError
from trust.identity import PartyKey, Signed
from trust.jobs import Close, RankLease, RecipeTerms, UsePolicy
from trust.messages import Allowance, End, FollowUpKind, Receipt, ScopeKind
from trust.release import (
    CloseHeard,
    Decision,
    FollowUpAsked,
    OrderAsked,
    ReceiptHeard,
    Refusal,
    check_ready,
)
from trust.release_inputs import Inputs, accept_policies
from trust.release_state import FollowedUp

ADAPTER, CHECKPOINT = ArtifactKind.ADAPTER, ArtifactKind.CHECKPOINT
ACCOUNT, CLOSE = FollowUpKind.ACCOUNT, FollowUpKind.CLOSE


@pytest.fixture
def world() -> ServeWorld:
    return ServeWorld()


@pytest.fixture
def enclave() -> Enclave:
    return Enclave()


def refused(world: ServeWorld, to: Party) -> str:
    return code(to.ask(world.request(to, Enclave())))


# --- what is granted -----------------------------------------------------------------------------


def test_owner_grants_the_base_and_its_half_of_each_adapter(
    world: ServeWorld, enclave: Enclave
) -> None:
    second = others(world, 1)[0]
    world.serve(world.adapter, second)
    owner = world.owner
    info, secret = enclave.open(world.seat(owner, enclave))
    kinds = [each.scope for each in info.scopes]
    assert kinds == [ScopeKind.INPUT, ScopeKind.DERIVED, ScopeKind.DERIVED, ScopeKind.OUTPUT]
    assert secret.shares == (
        custody.input_share(owner.lineage_key, world.model.document.core),
        custody.artifact_share(owner.lineage_key, world.adapter.document.core),
        custody.artifact_share(owner.lineage_key, second.document.core),
        custody.output_share(owner.lineage_key, world.job.digest, 1),
    )


def test_buyer_without_a_dataset_in_the_job_is_custodian_of_its_adapter(
    world: ServeWorld, enclave: Enclave
) -> None:
    info, secret = enclave.open(world.seat(world.buyer, enclave))
    assert [each.scope for each in info.scopes] == [ScopeKind.DERIVED, ScopeKind.OUTPUT]
    core = world.adapter.document.core
    assert secret.shares[0] == custody.artifact_share(world.buyer.lineage_key, core)
    assert secret.allowance == Allowance(tokens=None, steps=None, reports=None)
    seat = world.buyer.memory.seats[world.job.digest, 1, 0]
    assert seat.custodians == output_custodians([world.model.document.core, core])


def test_both_custodians_shares_make_the_adapters_key(world: ServeWorld, enclave: Enclave) -> None:
    core = world.adapter.document.core
    shares = {}
    for custodian in (world.owner, world.buyer):
        info, secret = enclave.open(world.seat(custodian, enclave))
        at = [each.core for each in info.scopes].index(core.digest)
        shares[custodian.key.identity] = secret.shares[at]
    got = custody.artifact_key([shares[e.identity] for e in core.custodians], core)
    keys = {p.key.identity: p.lineage_key for p in (world.owner, world.buyer)}
    wanted = [custody.artifact_share(keys[e.identity], core) for e in core.custodians]
    assert got == custody.artifact_key(wanted, core)


def test_a_base_alone_needs_its_owner_alone(world: ServeWorld, enclave: Enclave) -> None:
    world.serve()
    info, _ = enclave.open(world.seat(world.owner, enclave))
    assert [each.scope for each in info.scopes] == [ScopeKind.INPUT, ScopeKind.OUTPUT]
    assert refused(world, world.buyer) == "not-a-custodian"


def test_buyer_orders_a_serve_job_that_it_has_no_custody_in(world: ServeWorld) -> None:
    for adapters in ((), (world.adapter,)):
        world.serve(*adapters)
        asked = OrderAsked(
            job=world.job.digest,
            number=1,
            leases=(RankLease(rank=0, lease=lease(100)),),
            manifests=world.manifests,
        )
        result = world.buyer.ask(asked)
        assert isinstance(result, Decision), result
        assert result.order is not None


def test_both_brokers_are_ready_for_a_serve_job_and_a_bystander_is_not(world: ServeWorld) -> None:
    documents = (world.job.encode(), *world.manifests)
    for custodian in (world.owner, world.buyer):
        job = check_ready(custodian.state(), world.job.digest, documents, world.terms.encode(), NOW)
        assert job == world.job.document
    bystander = party()
    assert code(bystander.ask(world.request(bystander, Enclave()))) == "not-a-custodian"


def test_no_serving_before_the_other_custodian_was_heard(world: ServeWorld) -> None:
    world.owner.heads_from = frozenset()
    assert refused(world, world.owner) == "heads-wanted"


# --- whose adapter (attacks.md, 9) ---------------------------------------------------------------


def test_base_model_relabelled_as_an_adapter_is_not_released(world: ServeWorld) -> None:
    """The buyer, or the owner, writes a manifest: kind adapter, the base's seal id and segments."""
    base = world.model.document
    for writer in (world.buyer, world.owner):
        core = dataclasses.replace(world.adapter.document.core, seal_id=base.core.seal_id)
        forged = writer.key.sign(dataclasses.replace(base, core=core, public_files=()))
        world.serve(forged)
        for custodian in (world.owner, world.buyer):
            assert refused(world, custodian) == "adapter-relabelled"


def test_base_model_as_it_is_under_the_role_of_an_adapter(world: ServeWorld) -> None:
    world.serve(sealed(world.owner.key, ArtifactKind.WEIGHTS, world.owner.entry))
    assert refused(world, world.owner) == "input-kind"


def test_checkpoint_passed_as_an_adapter(world: ServeWorld) -> None:
    world.serve(world.junk(world.trainer.party, world.adapter, kind=CHECKPOINT))
    for custodian in (world.owner, world.buyer):
        assert refused(world, custodian) == "input-kind"


def test_adapter_passed_as_the_model(world: ServeWorld) -> None:
    world.model = world.adapter
    world.serve()
    assert refused(world, world.owner) == "input-kind"


def test_adapter_by_an_unknown_maker(world: ServeWorld) -> None:
    world.serve(world.junk(PartyKey.generate(), world.adapter))
    for custodian in (world.owner, world.buyer):
        assert refused(world, custodian) == "adapter-unknown-maker"


@pytest.mark.parametrize("changed", ["job", "generation"])
def test_adapter_whose_maker_was_attested_for_another_run(world: ServeWorld, changed: str) -> None:
    old = world.adapter.document.core.origin
    assert old is not None
    other = dataclasses.replace(old, **{changed: {"job": bytes(32), "generation": 2}[changed]})
    world.serve(world.junk(world.trainer.party, world.adapter, origin=other))
    for custodian in (world.owner, world.buyer):
        assert refused(world, custodian) == "adapter-unknown-maker"


def test_adapter_of_another_owners_base(world: ServeWorld) -> None:
    stranger = party()
    entries = tuple(sorted([stranger.entry, world.buyer.entry]))
    world.serve(world.junk(PartyKey.generate(), world.adapter, custodians=entries))
    for custodian in (world.owner, world.buyer):
        assert refused(world, custodian) == "adapter-other-base"


def test_adapter_of_another_base_of_the_same_owner(world: ServeWorld) -> None:
    owner = world.owner
    kind = lineage_kind(owner.entry.lineage)
    other = dataclasses.replace(
        owner.entry, lineage=lineage_id(kind, owner.key.identity, secrets.token_bytes(32))
    )
    entries = tuple(sorted([other, world.buyer.entry]))
    world.serve(world.junk(world.trainer.party, world.adapter, custodians=entries))
    assert refused(world, owner) == "adapter-other-base"


def test_adapter_that_leaves_a_custodian_of_its_training_out(world: ServeWorld) -> None:
    """The buyer's lineage is dropped from the core: its half would never be asked for."""
    world.serve(world.junk(world.trainer.party, world.adapter, custodians=(world.owner.entry,)))
    for custodian in (world.owner, world.buyer):
        assert refused(world, custodian) == "adapter-other-custodians"


def test_strangers_serve_job_over_my_adapter(world: ServeWorld) -> None:
    """Terms and base are open to anybody; what was trained on my rows is not."""
    stranger = party()
    world.serve(world.adapter, signer=stranger.key)
    order = world.order(1, signer=stranger.key)
    for custodian in (world.owner, world.buyer):
        custodian.heads_from |= {world.buyer.key.identity, world.owner.key.identity}
        request = world.request(custodian, Enclave(), order=order, orders=())
        assert code(custodian.ask(request)) == "buyer-not-allowed"


def name_buyer(to: Party, buyer: bytes) -> None:
    old: UsePolicy = to.policies[0].document
    named = dataclasses.replace(old, number=old.number + 1, jobs_signed_by=(buyer,))
    to.policies.append(to.key.sign(named))


def test_each_custodians_policy_may_name_a_stranger_for_its_own_half(world: ServeWorld) -> None:
    stranger = party()
    world.serve(world.adapter, signer=stranger.key)
    order = world.order(1, signer=stranger.key)
    for custodian in (world.owner, world.buyer):
        name_buyer(custodian, stranger.key.identity)
        request = world.request(custodian, Enclave(), order=order, orders=())
        assert isinstance(custodian.ask(request), Decision)


def test_who_shares_custody_of_an_adapter_may_serve_the_base_and_not_anothers_rows(
    world: ServeWorld,
) -> None:
    """An adapter of two data owners: neither serves it without being named by the other."""
    second = party()
    entries = tuple(sorted([world.owner.entry, world.buyer.entry, second.entry]))
    core = dataclasses.replace(world.adapter.document.core, custodians=entries)
    model = world.model.document.core
    inputs = Inputs(cores=(model, core), model=model)
    by_second = second.key.identity
    assert accept_policies(world.owner.holdings, inputs, by_second) == (world.owner.appraisal,)
    with pytest.raises(RefusedError, match="buyer-not-allowed"):
        accept_policies(world.buyer.holdings, inputs, by_second)
    name_buyer(world.buyer, by_second)
    assert accept_policies(world.buyer.holdings, inputs, by_second) == (world.buyer.appraisal,)
    with pytest.raises(RefusedError, match="buyer-not-allowed"):
        accept_policies(world.owner.holdings, inputs, bytes(32))


def test_owner_that_names_other_buyers_no_longer_serves_this_one(world: ServeWorld) -> None:
    name_buyer(world.owner, bytes(32))
    assert refused(world, world.owner) == "buyer-not-allowed"


def test_policy_of_an_adapters_lineage_must_exist_and_name_an_appraisal_policy(
    world: ServeWorld,
) -> None:
    kept = world.buyer.policies[0]
    world.buyer.policies.clear()
    assert refused(world, world.buyer) == "use-policy-missing"
    gone = dataclasses.replace(kept.document, appraisal_policy=bytes(32))
    world.buyer.policies.append(world.buyer.key.sign(gone))
    assert refused(world, world.buyer) == "appraisal-policy-missing"


def test_evidence_is_appraised_by_the_policy_of_an_adapters_custodian(world: ServeWorld) -> None:
    request = world.request(world.buyer, Enclave(), measurement=bytes(48))
    assert code(world.buyer.ask(request)) == "evidence-measurement"


def test_more_custodians_than_a_core_holds(world: ServeWorld) -> None:
    """Adapters of many data owners: their union is no list of custodians any more."""
    kind = lineage_kind(world.owner.entry.lineage)
    adapters = []
    for number in range(8):
        stranger = dataclasses.replace(
            world.buyer.entry,
            identity=bytes([number + 1]) * 32,
            lineage=lineage_id(kind, bytes([number + 1]) * 32, bytes(32)),
        )
        entries = tuple(sorted([world.owner.entry, stranger]))
        adapters.append(world.junk(PartyKey.generate(), world.adapter, custodians=entries))
    world.serve(*adapters)
    bystander = party()
    assert code(bystander.ask(world.request(bystander, Enclave()))) == "inputs-custodians"


def test_more_shares_than_a_grant_holds(world: ServeWorld, enclave: Enclave) -> None:
    world.serve(world.adapter, *others(world, 13))
    assert world.seat(world.owner, enclave)
    buyer = world.buyer
    old = world.buyer.entry
    kind = lineage_kind(old.lineage)
    more = [
        dataclasses.replace(old, lineage=lineage_id(kind, old.identity, bytes([n]) * 32))
        for n in (1, 2)
    ]
    entries = tuple(sorted([world.owner.entry, old, *more]))
    seat = buyer.memory.seats[world.adapter.document.core.origin.job, 1, 0]  # type: ignore[union-attr]
    widened = dataclasses.replace(seat, custodians=entries)
    buyer.memory = dataclasses.replace(
        buyer.memory, seats={**buyer.memory.seats, widened.name: widened}
    )
    wide = [
        world.junk(world.trainer.party, world.adapter, custodians=entries, seal_id=bytes([n]) * 32)
        for n in range(14)
    ]
    world.serve(*wide)
    assert refused(world, buyer) == "inputs-shares"


# --- under which terms ---------------------------------------------------------------------------


def test_serving_is_a_recipe_that_the_terms_must_allow(world: ServeWorld) -> None:
    only = (RecipeTerms(recipe="lora", rank_max=16, steps_max=1000),)
    world.terms = world.publish(number=2, recipes=only)
    world.serve(world.adapter)
    for custodian in (world.owner, world.buyer):
        assert refused(world, custodian) == "recipe-not-in-terms"


def test_longer_replies_than_the_terms_allow(world: ServeWorld) -> None:
    output = dataclasses.replace(world.terms.document.output, reply_tokens_max=31)
    world.terms = world.publish(number=2, output=output)
    world.serve(world.adapter)
    assert refused(world, world.owner) == "recipe-reply-tokens"


def test_owner_that_asks_a_new_price_still_serves_what_it_undertook(
    world: ServeWorld, enclave: Enclave
) -> None:
    """Training is paid; then come terms that cost ten times as much (attacks.md, 15)."""
    world.publish(number=2, price_microcredits_per_job=9_999)
    world.serve(world.adapter, *others(world, 1))
    assert world.seat(world.owner, enclave)


def test_undertaking_outlives_the_terms_and_ends_at_its_own_time(world: ServeWorld) -> None:
    undertaking = dataclasses.replace(world.terms.document.undertaking, until=NOW + HOUR)
    old = world.publish(number=2, undertaking=undertaking, expires_at=NOW + 1)
    world.adapter = world.train(old)
    world.publish(number=3, price_microcredits_per_job=9_999)
    world.serve(world.adapter)
    for later, wanted in ((HOUR - 1, None), (HOUR, "terms-expired")):
        at = NOW + later
        order = world.order(1, expires_at=at + HOUR)
        request = world.request(
            world.owner, Enclave(), order=order, orders=(), nonce=world.owner.challenge(at)
        )
        if wanted is None:
            world_before = world.owner.memory
            assert isinstance(world.owner.ask(request, at), Decision)
            world.owner.memory = world_before
        else:
            assert code(world.owner.ask(request, at)) == wanted


def test_undertaking_that_ended_leaves_the_newest_terms_alone(world: ServeWorld) -> None:
    undertaking = dataclasses.replace(world.terms.document.undertaking, until=NOW)
    world.adapter = world.train(world.publish(number=2, undertaking=undertaking))
    world.publish(number=3)
    world.serve(world.adapter)
    assert refused(world, world.owner) == "terms-not-newest"


def test_undertaking_is_about_what_was_trained_under_exactly_these_terms(
    world: ServeWorld,
) -> None:
    first, old = world.adapter, world.terms
    newer = world.train(world.publish(number=2))
    world.publish(number=3)
    world.terms = old
    for adapters in ((newer,), (first, newer), ()):
        world.serve(*adapters)
        assert refused(world, world.owner) == "terms-not-newest"
    world.serve(first)
    assert world.seat(world.owner, Enclave())


def test_undertaking_of_terms_that_the_owner_never_published(world: ServeWorld) -> None:
    world.owner.terms.clear()
    assert refused(world, world.owner) == "terms-not-registered"


def test_training_has_no_undertaking(world: ServeWorld) -> None:
    world.publish(number=2)
    world.served = None
    world.job = world.submit()
    world.orders = []
    assert refused(world, world.owner) == "terms-not-newest"


# --- how many tokens (attacks.md, 6) -------------------------------------------------------------


def test_killing_the_enclave_100_times_buys_no_more_tokens_than_the_budget(
    world: ServeWorld,
) -> None:
    budget = 20 * UNIT + 3
    world.budget(tokens=budget)
    owner, granted, codes = world.owner, 0, []
    for generation in range(1, 101):
        enclave = Enclave()
        result = owner.ask(world.request(owner, enclave, generation))
        if isinstance(result, Refusal):
            codes.append(result.code)
            continue
        assert result.answer is not None
        granted += world.tokens(owner, enclave, result.answer)
    assert granted == budget
    assert len(codes) > 90
    assert set(codes) == {"budget-tokens"}


def test_ten_serve_jobs_share_one_budget(world: ServeWorld) -> None:
    world.budget(tokens=4 * UNIT)
    granted = 0
    for _ in range(4):
        enclave = Enclave()
        granted += world.tokens(world.owner, enclave, world.seat(world.owner, enclave))
        world.serve(world.adapter)
    assert granted == 4 * UNIT
    assert refused(world, world.owner) == "budget-tokens"


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [(1, 1), (UNIT, UNIT), (9 * UNIT, 9 * UNIT // 8), (80 * UNIT, 10 * UNIT), (3 * UNIT, UNIT)],
)
def test_a_slice_is_an_eighth_and_no_less_than_a_receipts_unit(
    world: ServeWorld, enclave: Enclave, budget: int, wanted: int
) -> None:
    world.budget(tokens=budget)
    assert world.tokens(world.owner, enclave, world.seat(world.owner, enclave)) == wanted


def test_the_largest_budget_there_is_does_not_break_a_decision(
    world: ServeWorld, enclave: Enclave
) -> None:
    world.budget(tokens=INTEGER_MAX)
    got = world.tokens(world.owner, enclave, world.seat(world.owner, enclave))
    for number in range(1, 10):
        result = follow(world, enclave, number, ACCOUNT, got)
        if isinstance(result, Refusal):
            assert (number, result.code) == (9, "budget-tokens")
            break
        assert result.answer is not None
        got = world.tokens(world.owner, enclave, result.answer)
    assert got == INTEGER_MAX


def follow(
    world: ServeWorld,
    enclave: Enclave,
    number: int,
    kind: FollowUpKind,
    used: int,
    now: int = NOW,
) -> Decision | Refusal:
    signed = world.follow_up(world.owner, enclave, number, kind, used=(used, 0, 0))
    return world.owner.ask(FollowUpAsked(signed=signed.encode()), now)


def allowed(world: ServeWorld, enclave: Enclave, result: Decision | Refusal) -> int:
    assert isinstance(result, Decision), result
    assert result.answer is not None
    return world.tokens(world.owner, enclave, result.answer)


def test_account_raises_the_allowance_until_the_budget_is_used_up(
    world: ServeWorld, enclave: Enclave
) -> None:
    world.budget(tokens=3 * UNIT)
    world.seat(world.owner, enclave)
    for number in (1, 2):
        got = allowed(world, enclave, follow(world, enclave, number, ACCOUNT, number * UNIT))
        assert got == (number + 1) * UNIT
    assert code(follow(world, enclave, 3, ACCOUNT, 3 * UNIT)) == "budget-tokens"


def test_asking_again_and_again_does_not_raise_the_bound(
    world: ServeWorld, enclave: Enclave
) -> None:
    world.budget(tokens=8 * UNIT)
    world.seat(world.owner, enclave)
    for number in (1, 2, 3):
        assert allowed(world, enclave, follow(world, enclave, number, ACCOUNT, 7)) == UNIT + 7


def test_closing_account_gives_the_rest_back_and_killing_does_not(world: ServeWorld) -> None:
    for closes in (True, False):
        world.budget(tokens=UNIT)
        enclave = Enclave()
        world.seat(world.owner, enclave)
        if closes:
            assert allowed(world, enclave, follow(world, enclave, 1, CLOSE, 10)) == 10
            second = Enclave()
            grant = world.seat(world.owner, second, generation=2)
            assert world.tokens(world.owner, second, grant) == UNIT - 10
        else:
            request = world.request(world.owner, Enclave(), generation=2)
            assert code(world.owner.ask(request)) == "budget-tokens"


def test_host_clock_a_year_ahead_changes_nothing(world: ServeWorld, enclave: Enclave) -> None:
    """What the enclave's clock says, the host can set; the broker's own `now` alone counts."""
    year = 365 * 24 * HOUR
    world.budget(tokens=UNIT, period_seconds=3600)
    world.seat(world.owner, enclave)
    receipt = world.served_receipt(enclave, 1, UNIT, milliseconds=year)
    assert isinstance(receive(world.owner, receipt), Decision)
    assert code(follow(world, enclave, 1, ACCOUNT, UNIT)) == "budget-tokens"
    assert code(follow(world, enclave, 1, ACCOUNT, UNIT, NOW + HOUR - 1)) == "budget-tokens"
    got = allowed(world, enclave, follow(world, enclave, 1, ACCOUNT, UNIT, NOW + HOUR))
    assert got == 2 * UNIT


def test_buyers_close_ends_what_more_is_granted(world: ServeWorld, enclave: Enclave) -> None:
    world.seat(world.owner, enclave)
    close = world.buyer.key.sign(Close(job=world.job.digest, at=NOW))
    assert isinstance(world.owner.ask(CloseHeard(signed=close.encode())), Decision)
    assert code(follow(world, enclave, 1, ACCOUNT, 5)) == "job-closed"
    assert allowed(world, enclave, follow(world, enclave, 1, CLOSE, 5)) == 5


# --- receipts ------------------------------------------------------------------------------------


def receive(to: Party, receipt: Signed[Receipt]) -> Decision | Refusal:
    return to.ask(ReceiptHeard(signed=receipt.encode(), at=NOW))


@pytest.fixture
def seated(world: ServeWorld, enclave: Enclave) -> ServeWorld:
    """Three units are granted by the owner, and no bound is set by the buyer."""
    world.budget(tokens=3 * UNIT)
    for custodian in (world.owner, world.buyer):
        world.seat(custodian, enclave)
    follow(world, enclave, 1, ACCOUNT, UNIT)
    assert allowed(world, enclave, follow(world, enclave, 2, ACCOUNT, UNIT + 1)) == 2 * UNIT + 1
    return world


def test_serve_receipts_count_in_units_within_what_was_granted(
    seated: ServeWorld, enclave: Enclave
) -> None:
    before = None
    for number, units in ((1, 1), (2, 1), (3, 3)):
        receipt = seated.served_receipt(enclave, number, units * UNIT, before=before)
        for custodian in (seated.owner, seated.buyer):
            assert isinstance(receive(custodian, receipt), Decision)
        before = receipt.digest


@pytest.mark.parametrize("tokens", [0, 1, UNIT - 1, UNIT + 1])
def test_serve_receipt_that_is_no_multiple_shows_too_much(
    seated: ServeWorld, enclave: Enclave, tokens: int
) -> None:
    for custodian in (seated.owner, seated.buyer):
        result = receive(custodian, seated.served_receipt(enclave, 1, tokens))
        assert code(result) == "receipt-inflated"


def test_serve_receipt_above_what_was_granted(seated: ServeWorld, enclave: Enclave) -> None:
    result = receive(seated.owner, seated.served_receipt(enclave, 1, 4 * UNIT))
    assert code(result) == "receipt-inflated"


def test_serve_receipt_that_counts_steps(seated: ServeWorld, enclave: Enclave) -> None:
    for steps in ({"step": 1}, {"first_step": 1, "step": 1}):
        result = receive(seated.owner, seated.served_receipt(enclave, 1, UNIT, **steps))
        assert code(result) == "receipt-inflated"


def test_serve_receipt_of_more_processes(seated: ServeWorld, enclave: Enclave) -> None:
    result = receive(seated.owner, seated.served_receipt(enclave, 1, UNIT, world_size=2))
    assert code(result) == "receipt-world-size"


def test_last_receipt_of_an_unused_enclave_is_one_unit(world: ServeWorld, enclave: Enclave) -> None:
    world.seat(world.owner, enclave)
    allowed(world, enclave, follow(world, enclave, 1, CLOSE, 0))
    two = world.served_receipt(enclave, 1, 2 * UNIT, end=End.DONE)
    assert code(receive(world.owner, two)) == "receipt-inflated"
    one = world.served_receipt(enclave, 1, UNIT, end=End.DONE)
    assert isinstance(receive(world.owner, one), Decision)


# --- what is found again -------------------------------------------------------------------------


def test_an_adapter_that_was_reopened_is_found_in_the_log(world: ServeWorld) -> None:
    for custodian in (world.owner, world.buyer):
        assert dict(custodian.memory.outputs) == {world.adapter.digest: world.adapter}
        bodies = [e.body for e in custodian.entries if isinstance(e.body, FollowedUp)]
        assert [each.artifacts for each in bodies] == [(world.adapter.encode(),)]


def test_checkpoints_and_accounts_leave_no_outputs(world: ServeWorld, enclave: Enclave) -> None:
    world.served = None
    world.job = world.submit()
    world.orders = []
    world.seat(world.buyer, enclave)
    made = world.derived(enclave.party, CHECKPOINT)
    for number, kind, artifacts in ((1, FollowUpKind.SHARE, [made]), (2, ACCOUNT, [])):
        asked = world.follow_up(world.buyer, enclave, number, kind, artifacts=artifacts)
        assert isinstance(world.buyer.ask(FollowUpAsked(signed=asked.encode())), Decision)
    assert set(world.buyer.memory.outputs) == {world.adapter.digest}
    body = world.buyer.entries[-1].body
    assert isinstance(body, FollowedUp)
    assert body.artifacts == ()
