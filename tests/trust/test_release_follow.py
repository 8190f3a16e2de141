"""Follow-ups, checkpoint reports, receipts, orders: what the holder of a seat may say, once."""

from __future__ import annotations

import dataclasses
import functools
import secrets

import pytest

from tests.trust.release_world import HOUR, NOW, Enclave, Party, World, code, lease
from trust import custody
from trust.artifacts import (
    ArtifactKind,
    ArtifactOpener,
    ArtifactSealer,
    Core,
    Manifest,
    Origin,
)
from trust.errors import WrongKeyError
from trust.identity import PartyKey, Signed
from trust.jobs import Close, GenerationOrder, RankLease
from trust.messages import CheckpointReport, End, FollowUpKind, ScopeKind
from trust.release import (
    CloseHeard,
    Decision,
    FollowUpAsked,
    OrderAsked,
    ReceiptHeard,
    Refusal,
    ReportHeard,
)
from trust.release_state import Opened

ADAPTER, CHECKPOINT = ArtifactKind.ADAPTER, ArtifactKind.CHECKPOINT
ACCOUNT, SHARE, CLOSE = FollowUpKind.ACCOUNT, FollowUpKind.SHARE, FollowUpKind.CLOSE


@pytest.fixture
def enclave() -> Enclave:
    return Enclave()


@pytest.fixture
def world(enclave: Enclave) -> World:
    """A world in which `enclave` holds seat (job, 1, 0) at both custodians."""
    world = World()
    for custodian in (world.owner, world.buyer):
        world.seat(custodian, enclave)
    return world


def follow(world: World, to: Party, *args: object, **kwargs: object) -> Decision | Refusal:
    signed = world.follow_up(to, *args, **kwargs)  # type: ignore[arg-type]
    return to.ask(FollowUpAsked(signed=signed.encode()))


def heard(
    to: Party, report: Signed[CheckpointReport], *, held: bool = True, now: int = NOW
) -> Decision | Refusal:
    return to.ask(ReportHeard(signed=report.encode(), segments_held=held), now)


# --- shares --------------------------------------------------------------------------------------


def test_own_output_is_reopened_with_shares_of_both(world: World, enclave: Enclave) -> None:
    adapter = world.derived(enclave.party, ADAPTER)
    shares = []
    for custodian in (world.owner, world.buyer):
        result = follow(world, custodian, enclave, 1, SHARE, artifacts=[adapter])
        assert isinstance(result, Decision)
        assert result.answer is not None
        info, secret = enclave.open(result.answer)
        assert info.number == 1
        assert [each.scope for each in info.scopes] == [ScopeKind.DERIVED]
        wanted = custody.artifact_share(custodian.lineage_key, adapter.document.core)
        assert secret.shares == (wanted,)
        shares.append(wanted)
    assert len(set(shares)) == 2


def test_base_model_relabelled_as_adapter_is_not_released(world: World, enclave: Enclave) -> None:
    """The buyer writes a manifest: kind adapter, the base model's seal id and segments."""
    base = world.model.document
    core = Core(
        kind=ADAPTER,
        seal_id=base.core.seal_id,
        custodians=world.entries,
        origin=Origin(job=world.job.digest, generation=1),
    )
    forged: Signed[Manifest] = world.buyer.key.sign(
        dataclasses.replace(base, core=core, public_files=())
    )
    result = follow(world, world.owner, enclave, 1, SHARE, artifacts=[forged])
    assert code(result) == "derived-unknown-maker"
    alone = dataclasses.replace(core, custodians=(world.owner.entry,))
    forged = world.buyer.key.sign(dataclasses.replace(base, core=alone, public_files=()))
    result = follow(world, world.owner, enclave, 1, SHARE, artifacts=[forged])
    assert code(result) == "derived-other-custodians"
    result = follow(world, world.owner, enclave, 1, SHARE, artifacts=[world.model])
    assert code(result) == "derived-other-job"


def test_derived_core_signed_by_unknown_enclave(world: World, enclave: Enclave) -> None:
    for kind in (ADAPTER, CHECKPOINT):
        made = world.derived(PartyKey.generate(), kind)
        result = follow(world, world.owner, enclave, 1, SHARE, artifacts=[made])
        assert code(result) == "derived-unknown-maker"


def test_core_that_claims_a_generation_its_maker_never_had(world: World, enclave: Enclave) -> None:
    made = world.derived(enclave.party, CHECKPOINT, generation=2)
    result = follow(world, world.owner, enclave, 1, SHARE, artifacts=[made])
    assert code(result) == "derived-unknown-maker"


def test_artifact_of_another_job(world: World, enclave: Enclave) -> None:
    made = world.derived(enclave.party, ADAPTER, origin=Origin(job=bytes(32), generation=1))
    result = follow(world, world.owner, enclave, 1, SHARE, artifacts=[made])
    assert code(result) == "derived-other-job"


def test_adapter_of_an_older_generation_does_not_open(world: World, enclave: Enclave) -> None:
    second = Enclave()
    world.seat(world.owner, second, generation=2)
    made = world.derived(enclave.party, ADAPTER)
    result = follow(world, world.owner, second, 1, SHARE, generation=2, artifacts=[made])
    assert code(result) == "derived-not-own-output"


def test_checkpoint_older_than_the_stated_one_is_not_opened(world: World, enclave: Enclave) -> None:
    old, new = (world.derived(enclave.party, CHECKPOINT) for _ in range(2))
    first = world.report(enclave, 2, signed=old)
    heard(world.owner, first)
    heard(world.owner, world.report(enclave, 4, signed=new, before=first.digest))
    second = Enclave()
    info, _ = second.open(world.seat(world.owner, second, generation=2))
    assert info.checkpoint is not None
    assert (info.checkpoint.step, info.checkpoint.artifact) == (4, new.digest)
    result = follow(world, world.owner, second, 1, SHARE, generation=2, artifacts=[old])
    assert code(result) == "checkpoint-older"
    result = follow(world, world.owner, second, 1, SHARE, generation=2, artifacts=[new])
    assert isinstance(result, Decision)


def test_checkpoint_of_a_generation_before_the_stated_one(world: World, enclave: Enclave) -> None:
    second, third = Enclave(), Enclave()
    world.seat(world.owner, second, generation=2)
    heard(world.owner, world.report(second, 2, 2))
    world.seat(world.owner, third, generation=3)
    unheard = world.derived(enclave.party, CHECKPOINT)
    result = follow(world, world.owner, third, 1, SHARE, generation=3, artifacts=[unheard])
    assert code(result) == "checkpoint-older"


def test_stated_checkpoint_comes_with_its_share(world: World, enclave: Enclave) -> None:
    made = world.derived(enclave.party, CHECKPOINT)
    heard(world.buyer, world.report(enclave, 2, signed=made))
    second = Enclave()
    info, secret = second.open(world.seat(world.buyer, second, generation=2))
    at = [each.scope for each in info.scopes].index(ScopeKind.DERIVED)
    assert info.scopes[at].core == made.document.core.digest
    wanted = custody.artifact_share(world.buyer.lineage_key, made.document.core)
    assert secret.shares[at] == wanted


def test_owner_gives_a_junk_output_share_and_the_output_does_not_reopen(
    world: World, enclave: Enclave
) -> None:
    """The enclave can't tell at sealing; the shares that it asks for before it is paid can."""
    granted = [
        enclave.open(world.seat(custodian, enclave))[1].shares[-1]
        for custodian in (world.owner, world.buyer)
    ]
    by_identity = dict(
        zip((world.owner.key.identity, world.buyer.key.identity), granted, strict=True)
    )
    for junk in (False, True):
        if junk:
            by_identity[world.owner.key.identity] = secrets.token_bytes(32)
        shell = world.derived(enclave.party, ADAPTER).document.core
        sealing = [custody.derived_share(by_identity[e.identity], shell) for e in shell.custodians]
        sealer = ArtifactSealer(
            core=shell,
            key=custody.artifact_key(sealing, shell),
            content_bytes=5,
            entropy=secrets.token_bytes(39),
        )
        (segment,) = sealer.segments([b"bytes"])
        made = enclave.party.sign(sealer.manifest())
        reopening = {}
        for custodian in (world.owner, world.buyer):
            number = 2 if junk else 1
            result = follow(world, custodian, enclave, number, SHARE, artifacts=[made])
            assert isinstance(result, Decision)
            assert result.answer is not None
            (reopening[custodian.key.identity],) = enclave.open(result.answer)[1].shares
        key = custody.artifact_key([reopening[e.identity] for e in shell.custodians], shell)
        opening = functools.partial(
            ArtifactOpener,
            manifest=made.document,
            segment_list=sealer.segment_list(),
            key=key,
            first_segment=segment,
        )
        if junk:
            with pytest.raises(WrongKeyError):
                opening()
        else:
            assert opening().open(0, segment)[1] == b"bytes"


# --- who may ask, and how often ------------------------------------------------------------------


def test_follow_up_by_another_key(world: World) -> None:
    assert code(follow(world, world.owner, Enclave(), 1, ACCOUNT)) == "follow-up-not-by-the-seat"


def test_follow_up_where_no_seat_was_granted(world: World, enclave: Enclave) -> None:
    assert code(follow(world, world.owner, enclave, 1, ACCOUNT, generation=3)) == "no-seat"


def test_follow_up_to_another_custodian(world: World, enclave: Enclave) -> None:
    signed = world.follow_up(world.buyer, enclave, 1, ACCOUNT)
    result = world.owner.ask(FollowUpAsked(signed=signed.encode()))
    assert code(result) == "follow-up-other-custodian"


def test_follow_up_about_another_statement(world: World, enclave: Enclave) -> None:
    result = follow(world, world.owner, enclave, 1, ACCOUNT, nonce=bytes(32))
    assert code(result) == "follow-up-other-nonce"


def test_follow_up_is_answered_once_and_the_answer_stored(world: World, enclave: Enclave) -> None:
    adapter = world.derived(enclave.party, ADAPTER)
    first = follow(world, world.owner, enclave, 1, SHARE, artifacts=[adapter])
    written = len(world.owner.entries)
    again = follow(world, world.owner, enclave, 1, SHARE, artifacts=[adapter])
    assert isinstance(first, Decision)
    assert isinstance(again, Decision)
    assert again.answer == first.answer
    assert len(world.owner.entries) == written
    other = follow(world, world.owner, enclave, 1, ACCOUNT)
    assert code(other) == "follow-up-replayed"


def test_follow_up_out_of_order(world: World, enclave: Enclave) -> None:
    assert code(follow(world, world.owner, enclave, 2, ACCOUNT)) == "follow-up-out-of-order"


def test_follow_up_of_a_superseded_generation(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, Enclave(), generation=2)
    assert code(follow(world, world.owner, enclave, 1, ACCOUNT)) == "generation-superseded"
    adapter = world.derived(enclave.party, ADAPTER)
    result = follow(world, world.owner, enclave, 1, SHARE, artifacts=[adapter])
    assert code(result) == "generation-superseded"


def test_follow_up_of_a_closed_job(world: World, enclave: Enclave) -> None:
    close = world.buyer.key.sign(Close(job=world.job.digest, at=NOW))
    world.owner.ask(CloseHeard(signed=close.encode()))
    assert code(follow(world, world.owner, enclave, 1, ACCOUNT)) == "job-closed"


def test_share_without_artifacts_and_account_with_some(world: World, enclave: Enclave) -> None:
    assert code(follow(world, world.owner, enclave, 1, SHARE)) == "follow-up-artifacts"
    adapter = world.derived(enclave.party, ADAPTER)
    result = follow(world, world.owner, enclave, 1, ACCOUNT, artifacts=[adapter])
    assert code(result) == "follow-up-artifacts"


def test_garbage_for_whatever_an_enclave_or_buyer_signs(world: World) -> None:
    junk = b"\x00" * 200
    asked = {
        "follow-up-malformed": FollowUpAsked(signed=junk),
        "report-malformed": ReportHeard(signed=junk, segments_held=True),
        "receipt-malformed": ReceiptHeard(signed=junk, at=NOW),
        "close-malformed": CloseHeard(signed=junk),
    }
    for wanted, request in asked.items():
        assert code(world.owner.ask(request)) == wanted


# --- accounts ------------------------------------------------------------------------------------


def long_job(enclave: Enclave, **budget: int) -> World:
    """A job of 400 steps, with `enclave` in its seat at the owner."""
    world = World()
    recipe = dataclasses.replace(world.job.document.recipe, steps=400)
    if budget:
        budgets = dataclasses.replace(world.terms.document.budgets, **budget)
        world.terms = world.publish(number=2, budgets=budgets)
    world.job = world.submit(recipe=recipe)
    world.seat(world.owner, enclave)
    return world


def steps(enclave: Enclave, result: Decision | Refusal) -> int:
    assert isinstance(result, Decision), result
    assert result.answer is not None
    total = enclave.open(result.answer)[1].allowance.steps
    assert total is not None
    return total


def test_account_gets_the_next_slice_up_to_the_jobs_steps(enclave: Enclave) -> None:
    world = long_job(enclave)
    granted = [
        steps(enclave, follow(world, world.owner, enclave, number, ACCOUNT, used=(0, used, 1)))
        for number, used in ((1, 90), (2, 190), (3, 290), (4, 350))
    ]
    assert granted == [190, 290, 390, 400]


def test_enclave_whose_receipts_are_dropped_stops_at_its_allowance(enclave: Enclave) -> None:
    world = long_job(enclave, steps=150)
    result = follow(world, world.owner, enclave, 1, ACCOUNT, used=(0, 100, 1))
    assert steps(enclave, result) == 150
    result = follow(world, world.owner, enclave, 2, ACCOUNT, used=(0, 150, 1))
    assert code(result) == "budget-steps"


def test_asking_again_and_again_does_not_raise_the_bound(enclave: Enclave) -> None:
    world = long_job(enclave)
    for number in (1, 2, 3):
        result = follow(world, world.owner, enclave, number, ACCOUNT, used=(0, 10, 0))
        assert steps(enclave, result) == 110


def test_account_that_goes_back(enclave: Enclave) -> None:
    world = long_job(enclave)
    follow(world, world.owner, enclave, 1, ACCOUNT, used=(0, 50, 1))
    result = follow(world, world.owner, enclave, 2, ACCOUNT, used=(0, 49, 1))
    assert code(result) == "account-went-back"


def test_account_above_the_allowance(enclave: Enclave) -> None:
    world = long_job(enclave)
    result = follow(world, world.owner, enclave, 1, ACCOUNT, used=(0, 101, 1))
    assert code(result) == "account-above-allowance"


def test_closing_account_gives_the_rest_back_and_killing_does_not(enclave: Enclave) -> None:
    for closes, left in ((True, 90), (False, 0)):
        world = long_job(enclave, steps=100)
        if closes:
            result = follow(world, world.owner, enclave, 1, CLOSE, used=(0, 10, 0))
            assert steps(enclave, result) == 10
        second = Enclave()
        request = world.request(world.owner, second, generation=2)
        result = world.owner.ask(request)
        if left:
            assert steps(second, result) == left
        else:
            assert code(result) == "budget-steps"
        enclave = Enclave()


def test_closed_seat_asks_no_more(world: World, enclave: Enclave) -> None:
    follow(world, world.owner, enclave, 1, CLOSE)
    assert code(follow(world, world.owner, enclave, 2, ACCOUNT)) == "seat-closed"
    assert code(heard(world.owner, world.report(enclave, 2))) == "report-seat-closed"


def test_replaced_enclave_may_still_close_its_account(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, Enclave(), generation=2)
    assert isinstance(follow(world, world.owner, enclave, 1, CLOSE), Decision)


# --- checkpoint reports --------------------------------------------------------------------------


def test_report_is_remembered_and_acknowledged(world: World, enclave: Enclave) -> None:
    report = world.report(enclave, 2)
    result = heard(world.owner, report)
    assert isinstance(result, Decision)
    assert result.acknowledge == report.digest
    again = heard(world.owner, report)
    assert isinstance(again, Decision)
    assert (again.acknowledge, again.entries) == (report.digest, ())


def test_report_is_not_acknowledged_before_its_segments_are_stored(
    world: World, enclave: Enclave
) -> None:
    report = world.report(enclave, 2)
    assert code(heard(world.owner, report, held=False)) == "segments-missing"
    assert world.job.digest not in world.owner.memory.checkpoints


def test_report_by_a_stranger(world: World) -> None:
    assert code(heard(world.owner, world.report(Enclave(), 2))) == "report-not-by-the-seat"


def test_report_of_an_older_generation_is_not_heard(world: World, enclave: Enclave) -> None:
    world.seat(world.owner, Enclave(), generation=2)
    result = heard(world.owner, world.report(enclave, 2))
    assert code(result) == "report-generation-superseded"


def test_rolled_back_checkpoint(world: World, enclave: Enclave) -> None:
    first = world.report(enclave, 4)
    heard(world.owner, first)
    for step in (4, 2):
        result = heard(world.owner, world.report(enclave, step, before=first.digest))
        assert code(result) == "report-step-not-above"


def test_report_below_the_stated_checkpoint(world: World, enclave: Enclave) -> None:
    heard(world.owner, world.report(enclave, 6))
    second = Enclave()
    world.seat(world.owner, second, generation=2)
    assert code(heard(world.owner, world.report(second, 6, 2))) == "report-step-not-above"
    assert isinstance(heard(world.owner, world.report(second, 8, 2)), Decision)


def test_report_that_forgets_the_one_before(world: World, enclave: Enclave) -> None:
    heard(world.owner, world.report(enclave, 2))
    assert code(heard(world.owner, world.report(enclave, 4))) == "report-chain-broken"


def test_report_whose_predecessor_was_dropped_counts(world: World, enclave: Enclave) -> None:
    assert isinstance(heard(world.owner, world.report(enclave, 4, before=bytes(32))), Decision)


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"kind": ADAPTER}, "report-other-origin"),
        ({"origin": Origin(job=bytes(32), generation=1)}, "report-other-origin"),
        ({"generation": 2}, "report-other-origin"),
    ],
)
def test_report_of_what_is_no_checkpoint_of_this_generation(
    world: World, enclave: Enclave, changed: dict[str, object], wanted: str
) -> None:
    fields = {"kind": CHECKPOINT, "generation": 1, **changed}
    made = world.derived(enclave.party, **fields)  # type: ignore[arg-type]
    assert code(heard(world.owner, world.report(enclave, 2, signed=made))) == wanted


def test_report_of_an_artifact_that_another_made(world: World, enclave: Enclave) -> None:
    made = world.derived(PartyKey.generate(), CHECKPOINT)
    result = heard(world.owner, world.report(enclave, 2, signed=made))
    assert code(result) == "report-other-maker"


def test_report_of_a_checkpoint_without_the_owners_custody(world: World, enclave: Enclave) -> None:
    made = world.derived(enclave.party, CHECKPOINT, custodians=(world.buyer.entry,))
    result = heard(world.owner, world.report(enclave, 2, signed=made))
    assert code(result) == "report-derived-other-custodians"


# --- receipts ------------------------------------------------------------------------------------


def receive(world: World, to: Party, receipt: Signed[object]) -> Decision | Refusal:
    return to.ask(ReceiptHeard(signed=receipt.encode(), at=NOW))  # type: ignore[attr-defined]


def test_receipts_are_kept_once(world: World, enclave: Enclave) -> None:
    first = world.receipt(enclave, 1, 2)
    second = world.receipt(enclave, 2, 4, before=first.digest)
    for receipt in (first, second, first):
        assert isinstance(receive(world, world.buyer, receipt), Decision)
    assert len(world.buyer.memory.receipts[world.job.digest]) == 2


def test_receipt_signed_by_a_key_that_the_host_supplied(world: World) -> None:
    result = receive(world, world.buyer, world.receipt(Enclave(), 1, 2))
    assert code(result) == "receipt-not-by-the-seat"


def test_receipt_of_another_lease_or_generation(world: World, enclave: Enclave) -> None:
    result = receive(world, world.buyer, world.receipt(enclave, 1, 2, lease=lease(3)))
    assert code(result) == "receipt-other-lease"
    result = receive(world, world.buyer, world.receipt(enclave, 1, 2, generation=2))
    assert code(result) == "receipt-no-seat"


@pytest.mark.parametrize(("field", "value"), [("tokens", 9_999_999), ("world_size", 64)])
def test_inflated_receipt(world: World, enclave: Enclave, field: str, value: int) -> None:
    result = receive(world, world.buyer, world.receipt(enclave, 1, 2, **{field: value}))
    wanted = {"tokens": "receipt-inflated", "world_size": "receipt-world-size"}
    assert code(result) == wanted[field]


def test_receipt_beyond_the_jobs_steps(world: World, enclave: Enclave) -> None:
    assert code(receive(world, world.buyer, world.receipt(enclave, 1, 11))) == "receipt-inflated"


def test_receipt_that_counts_back_or_forks(world: World, enclave: Enclave) -> None:
    first = world.receipt(enclave, 1, 4)
    receive(world, world.buyer, first)
    cases = {
        "receipt-replayed": world.receipt(enclave, 1, 5),
        "receipt-chain-broken": world.receipt(enclave, 2, 5, before=bytes(32)),
        "receipt-went-back": world.receipt(enclave, 2, 3, before=first.digest),
    }
    for wanted, receipt in cases.items():
        assert code(receive(world, world.buyer, receipt)) == wanted


def test_middle_receipt_that_was_dropped_costs_nothing(world: World, enclave: Enclave) -> None:
    receive(world, world.buyer, world.receipt(enclave, 1, 2))
    later = world.receipt(enclave, 3, 6, before=bytes(32))
    assert isinstance(receive(world, world.buyer, later), Decision)


def test_last_receipt_closes_the_buyers_own_job_and_no_receipt_follows(
    world: World, enclave: Enclave
) -> None:
    last = world.receipt(enclave, 1, 10, end=End.DONE, outputs=(bytes(32),))
    result = receive(world, world.buyer, last)
    assert isinstance(result, Decision)
    assert result.close is not None
    assert world.job.digest in world.buyer.memory.closed
    result = receive(world, world.owner, last)
    assert isinstance(result, Decision)
    assert result.close is None
    after = world.receipt(enclave, 2, 10, before=last.digest)
    assert code(receive(world, world.buyer, after)) == "receipt-after-end"


# --- orders --------------------------------------------------------------------------------------


def asks(world: World, number: int, first: int, **changed: object) -> OrderAsked:
    fields = {
        "job": world.job.digest,
        "number": number,
        "leases": (RankLease(rank=0, lease=lease(first)),),
        "manifests": world.manifests,
        **changed,
    }
    return OrderAsked(**fields)  # type: ignore[arg-type]


def ordered(result: Decision | Refusal) -> Signed[GenerationOrder]:
    assert isinstance(result, Decision), result
    assert result.order is not None
    return result.order


def test_buyer_orders_its_own_jobs_generations_in_a_chain() -> None:
    world = World()
    first = ordered(world.buyer.ask(asks(world, 1, 100)))
    again = ordered(world.buyer.ask(asks(world, 1, 100)))
    second = ordered(world.buyer.ask(asks(world, 2, 200)))
    assert first.encode() == again.encode()
    assert second.document.before == first.digest
    assert second.document.number == 2


def test_nobody_but_the_buyer_orders() -> None:
    world = World()
    assert code(world.owner.ask(asks(world, 1, 100))) == "job-not-own"


@pytest.mark.parametrize("number", [1, 3])
def test_market_asks_for_another_number_than_the_next(number: int) -> None:
    world = World()
    ordered(world.buyer.ask(asks(world, 1, 100)))
    assert code(world.buyer.ask(asks(world, number, 200))) == "order-jump"


def test_no_order_beyond_the_jobs_generations() -> None:
    world = World()
    world.job = world.submit(generations_max=1)
    ordered(world.buyer.ask(asks(world, 1, 100)))
    assert code(world.buyer.ask(asks(world, 2, 200))) == "generations-spent"


def test_no_order_for_a_closed_or_expired_job() -> None:
    world = World()
    asked = asks(world, 1, 100)
    assert code(world.buyer.ask(asked, world.job.document.expires_at)) == "job-expired"
    close = world.buyer.key.sign(Close(job=world.job.digest, at=NOW))
    world.buyer.ask(CloseHeard(signed=close.encode()))
    assert code(world.buyer.ask(asked)) == "job-closed"


def test_a_lease_is_ordered_once() -> None:
    world = World()
    ordered(world.buyer.ask(asks(world, 1, 100)))
    ordered(world.buyer.ask(asks(world, 2, 200)))
    assert code(world.buyer.ask(asks(world, 3, 100))) == "lease-used-before"


def test_order_for_another_number_of_ranks() -> None:
    world = World()
    leases = tuple(RankLease(rank=r, lease=lease(100 + r)) for r in range(2))
    assert code(world.buyer.ask(asks(world, 1, 0, leases=leases))) == "order-other-ranks"


def test_order_that_the_log_forgot_says_that_the_broker_is_behind() -> None:
    world = World()
    forgotten = world.order(1)
    asked = asks(world, 2, 200, orders=(forgotten.encode(),))
    assert code(world.buyer.ask(asked)) == "broker-behind"
    world.buyer.write((Opened(incarnation=2),), NOW)
    order = ordered(world.buyer.ask(asked))
    assert (order.document.number, order.document.before) == (2, forgotten.digest)


def test_market_cannot_slip_in_an_order_of_its_own() -> None:
    world = World()
    forged = world.order(1, signer=PartyKey.generate())
    asked = asks(world, 2, 200, orders=(forged.encode(),))
    assert code(world.buyer.ask(asked)) == "order-not-by-the-buyer"


def test_no_order_before_the_other_custodian_was_heard() -> None:
    """A restored buyer must not sign another order under a number that it forgot."""
    world = World()
    world.buyer.heads_from = frozenset()
    assert code(world.buyer.ask(asks(world, 1, 100))) == "heads-wanted"


def test_an_order_ends_with_its_hour() -> None:
    world = World()
    assert ordered(world.buyer.ask(asks(world, 1, 100))).document.expires_at == NOW + HOUR
