"""A hand-over: to whom an adapter's shares go without an enclave, and what they never open."""

from __future__ import annotations

import ast
import dataclasses
import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.trust.hand_over_world import LEAVES, STAYS, Desk
from tests.trust.release_world import HOUR, NOW, code, party, sealed
from tests.trust.serve_world import others
from trust import custody
from trust.artifacts import ArtifactKind, Core, Manifest, Origin, commitment
from trust.encoding import derive
from trust.errors import HpkeError, RefusedError
from trust.hand_over import (
    HAND_OVER_MILLISECONDS_MAX,
    HAND_OVERS_MAX,
    HandOverAsked,
    accept_hand_over,
)
from trust.identity import PartyKey, Signed, verify_signed
from trust.messages import (
    HandOver,
    HandOverInfo,
    Receiver,
    ScopeKind,
    SignedMessage,
)
from trust.release import Decision, Refusal
from trust.release_checks import CLOCK_SKEW_MILLISECONDS, shown
from trust.release_state import HandedOver, Standing
from trust.sealing import HpkePrivateKey

SPEC = Path(__file__).parents[2] / "docs" / "spec" / "hand-over.md"


@pytest.fixture
def desk() -> Desk:
    return Desk()


def refusal(result: Decision | Refusal) -> Refusal:
    assert isinstance(result, Refusal), "it was not refused"
    return result


# --- yes -----------------------------------------------------------------------------------------


def test_both_custodians_shares_open_the_adapter(desk: Desk) -> None:
    info, secret = desk.open(desk.ask())
    core = desk.adapter.document.core
    assert info.custodian == desk.owner.key.identity
    assert info.to.identity == desk.buyer.key.identity
    assert [(each.scope, each.core) for each in info.scopes] == [(ScopeKind.DERIVED, core.digest)]
    own = accept_hand_over(
        desk.buyer.holdings, desk.buyer.memory, desk.adapter, desk.buyer.key.identity
    )
    shares = {desk.owner.key.identity: secret.shares[0], desk.buyer.key.identity: own[0].share}
    got = custody.artifact_key([shares[e.identity] for e in core.custodians], core)
    assert got == key_of(desk, core)


def test_answer_opens_for_the_receivers_key_and_under_its_own_request_alone(desk: Desk) -> None:
    result = desk.ask()
    assert isinstance(result, Decision)
    assert result.answer is not None
    signed = SignedMessage.parse(result.answer).signed
    answer = verify_signed(HandOver, signed, signer=desk.owner.key.identity).document
    assert desk.hpke.open(answer.sealed, info=answer.info)
    with pytest.raises(HpkeError):
        HpkePrivateKey.generate().open(answer.sealed, info=answer.info)
    info = HandOverInfo.parse(answer.info)
    for changed in (
        {"custodian": desk.buyer.key.identity},
        {"request": bytes(32)},
        {"to": dataclasses.replace(info.to, identity=bytes(32))},
        {"scopes": (dataclasses.replace(info.scopes[0], core=bytes(32)),)},
    ):
        with pytest.raises(HpkeError):
            desk.hpke.open(answer.sealed, info=dataclasses.replace(info, **changed).encode())  # type: ignore[arg-type]


def test_hand_over_is_logged_whole_and_answered_again_with_the_stored_bytes(desk: Desk) -> None:
    request = desk.wants()
    first = desk.owner.ask(HandOverAsked(signed=request.encode()), NOW)
    assert isinstance(first, Decision)
    (entry,) = first.entries
    assert isinstance(entry, HandedOver)
    assert (entry.request, entry.answer) == (request.encode(), first.answer)
    handed = desk.owner.memory.handed[request.digest]
    assert (handed.artifact, handed.receiver) == (desk.adapter.digest, desk.buyer.key.identity)
    desk.name_in_policy(desk.owner)  # what was given stays given
    late = NOW + 2 * HAND_OVER_MILLISECONDS_MAX
    again = desk.owner.ask(HandOverAsked(signed=request.encode()), late)
    assert again == Decision(answer=first.answer)


def test_third_party_has_it_where_both_policies_name_it(desk: Desk) -> None:
    third = PartyKey.generate()
    for custodian in (desk.owner, desk.buyer):
        assert code(desk.ask(custodian, by=third)) == "adapter-to"
        desk.name_in_policy(custodian, desk.buyer.key.identity, third.identity)
        desk.open(desk.ask(custodian, by=third))


def test_closed_and_expired_job_still_hands_its_adapter_over(desk: Desk) -> None:
    later = NOW + 2000 * HOUR
    desk.open(desk.ask(now=later, at=later))


# --- whose line says no --------------------------------------------------------------------------


def test_owners_policy_that_does_not_name_the_receiver_is_named_with_its_line(desk: Desk) -> None:
    desk.name_in_policy(desk.owner)
    no = refusal(desk.ask())
    owner, buyer = shown(desk.owner.key.identity), shown(desk.buyer.key.identity)
    assert no.code == "adapter-to"
    assert no.text == f"use policy 3 of custodian {owner}: adapter_to does not name {buyer}"


def test_owners_terms_that_keep_adapters_are_named_with_their_line() -> None:
    desk = Desk()
    desk.train(desk.publish(number=7, output=STAYS))
    adapter = desk.derived(desk.trainer.party, ArtifactKind.ADAPTER)
    no = refusal(desk.ask(artifact=adapter))
    owner = shown(desk.owner.key.identity)
    assert no.code == "adapter-leaves"
    assert no.text == f"terms 7 of owner {owner}, trained under: output.adapter_leaves is false"


def test_terms_count_as_they_were_in_training_whatever_the_newest_say(desk: Desk) -> None:
    desk.publish(number=2, output=STAYS)
    desk.open(desk.ask())
    kept = desk.train(desk.publish(number=3, output=STAYS))
    desk.publish(number=4, output=LEAVES)
    assert code(desk.ask(artifact=kept)) == "adapter-leaves"


def test_owner_that_lost_its_terms_hands_nothing_over(desk: Desk) -> None:
    name = desk.terms.digest
    del desk.owner.terms[name]
    no = refusal(desk.ask())
    assert no.code == "terms-not-registered"
    assert shown(name) in no.text
    assert shown(desk.owner.key.identity) in no.text


def test_custodian_without_a_use_policy_hands_nothing_over(desk: Desk) -> None:
    desk.owner.policies.clear()
    no = refusal(desk.ask())
    assert no.code == "use-policy-missing"
    assert shown(desk.owner.key.identity) in no.text
    assert "adapter_to" in no.text


def test_buyers_policy_keeps_its_half_from_the_owner(desk: Desk) -> None:
    no = refusal(desk.ask(desk.buyer, by=desk.owner.key))
    buyer, owner = shown(desk.buyer.key.identity), shown(desk.owner.key.identity)
    assert no.code == "adapter-to"
    assert no.text == f"use policy 1 of custodian {buyer}: adapter_to does not name {owner}"
    desk.name_in_policy(desk.buyer, desk.owner.key.identity)
    desk.open(desk.ask(desk.buyer, by=desk.owner.key))


def test_every_own_lineage_of_the_adapter_has_to_consent(desk: Desk) -> None:
    """The owner has custody by two lineages; the second's policy names nobody."""
    owner = desk.owner
    second = dataclasses.replace(owner.entry, lineage=b"s" + secrets.token_bytes(32))
    silent = dataclasses.replace(
        owner.policies[0].document, lineages=(second.lineage,), adapter_to=()
    )
    entries = tuple(sorted([owner.entry, second, desk.buyer.entry]))
    made = desk.junk(desk.trainer.party, desk.adapter, custodians=entries)
    for name, seat in list(owner.memory.seats.items()):
        seats = {**owner.memory.seats, name: dataclasses.replace(seat, custodians=entries)}
        owner.memory = dataclasses.replace(owner.memory, seats=seats)
    owner.policies.append(owner.key.sign(silent))
    assert code(desk.ask(artifact=made)) == "adapter-to"


def test_stranger_gets_nothing(desk: Desk) -> None:
    for custodian in (desk.owner, desk.buyer):
        no = refusal(desk.ask(custodian, by=PartyKey.generate()))
        assert no.code == "adapter-to"
        assert shown(custodian.key.identity) in no.text


# --- who asks, and when --------------------------------------------------------------------------


def test_request_in_the_buyers_name_by_another_key(desk: Desk) -> None:
    forged = PartyKey.generate().sign(desk.wants().document)
    result = desk.owner.ask(HandOverAsked(signed=forged.encode()), NOW)
    assert code(result) == "hand-over-not-by-the-receiver"


def test_request_whose_key_was_swapped_on_the_way(desk: Desk) -> None:
    honest = desk.wants()
    to = dataclasses.replace(honest.document.to, hpke_key=HpkePrivateKey.generate().public)
    swapped = dataclasses.replace(honest.document, to=to)
    forged = honest.signature + honest.signer + swapped.encode()
    assert code(desk.owner.ask(HandOverAsked(signed=forged), NOW)) == "hand-over-signature"


def test_request_to_another_custodian_is_not_answered(desk: Desk) -> None:
    signed = desk.wants(desk.buyer).encode()
    assert code(desk.owner.ask(HandOverAsked(signed=signed), NOW)) == "hand-over-other-custodian"


@pytest.mark.parametrize("late", [True, False])
def test_request_outside_the_window_of_the_custodians_clock(desk: Desk, late: bool) -> None:
    edge = NOW + HAND_OVER_MILLISECONDS_MAX if late else NOW - CLOCK_SKEW_MILLISECONDS
    beyond = edge + 1 if late else edge - 1
    assert code(desk.ask(now=beyond)) == "hand-over-stale"
    desk.open(desk.ask(now=edge))


def test_broker_that_is_behind_hands_nothing_over(desk: Desk) -> None:
    desk.owner.standing = Standing.BEHIND
    assert code(desk.ask()) == "broker-behind"


def test_key_that_is_no_hpke_key(desk: Desk) -> None:
    to = Receiver(identity=desk.buyer.key.identity, hpke_key=b"\xff" * 1216)
    assert code(desk.ask(to=to)) == "hand-over-key-malformed"


def test_one_receiver_cannot_fill_the_log(desk: Desk) -> None:
    for number in range(HAND_OVERS_MAX):
        assert isinstance(desk.ask(at=NOW - number), Decision)
    assert code(desk.ask(at=NOW - HAND_OVERS_MAX)) == "hand-over-too-often"
    assert isinstance(desk.ask(desk.buyer, by=desk.buyer.key), Decision)


# --- what is wanted ------------------------------------------------------------------------------


def test_base_model_relabelled_as_an_adapter(desk: Desk) -> None:
    base = desk.model.document
    core = dataclasses.replace(desk.adapter.document.core, seal_id=base.core.seal_id)
    relabelled = dataclasses.replace(base, core=core, public_files=())
    for writer, wanted in (
        (desk.buyer.key, "adapter-relabelled"),
        (desk.owner.key, "adapter-relabelled"),
        (PartyKey.generate(), "adapter-unknown-maker"),
    ):
        for custodian in (desk.owner, desk.buyer):
            result = desk.ask(custodian, artifact=writer.sign(relabelled))
            assert code(result) == wanted


def test_base_model_dataset_and_checkpoint_are_never_handed_over(desk: Desk) -> None:
    trainer = desk.trainer.party
    for made, kind in (
        (desk.model, "weights"),
        (desk.rows, "dataset"),
        (sealed(trainer, ArtifactKind.WEIGHTS, desk.owner.entry), "weights"),
        (desk.junk(trainer, desk.adapter, kind=ArtifactKind.CHECKPOINT), "checkpoint"),
    ):
        no = refusal(desk.ask(artifact=made))
        assert no.code == "hand-over-kind"
        assert kind in no.text


@pytest.mark.parametrize("changed", [{"job": bytes(32)}, {"generation": 2}])
def test_adapter_of_a_run_that_its_maker_was_not_attested_for(
    desk: Desk, changed: dict[str, Any]
) -> None:
    origin = desk.adapter.document.core.origin
    assert origin is not None
    other = dataclasses.replace(origin, **changed)
    made = desk.junk(desk.trainer.party, desk.adapter, origin=other)
    for custodian in (desk.owner, desk.buyer):
        assert code(desk.ask(custodian, artifact=made)) == "adapter-unknown-maker"


def test_adapter_of_another_job_by_that_jobs_enclave(desk: Desk) -> None:
    """The enclave of one job signs for another's: it holds no seat there."""
    first, old = desk.adapter.document.core.origin, desk.trainer.party
    desk.train()
    made = desk.junk(desk.trainer.party, desk.adapter, origin=first)
    assert desk.trainer.party is not old
    assert code(desk.ask(artifact=made)) == "adapter-unknown-maker"


def test_adapter_that_leaves_a_custodian_of_its_training_out(desk: Desk) -> None:
    made = desk.junk(desk.trainer.party, desk.adapter, custodians=(desk.owner.entry,))
    assert code(desk.ask(artifact=made)) == "adapter-other-custodians"


def test_party_without_custody_has_no_share_to_give(desk: Desk) -> None:
    bystander = party()
    assert code(desk.ask(bystander)) == "not-a-custodian"


def test_garbage_is_refused_by_its_own_code(desk: Desk) -> None:
    assert code(desk.owner.ask(HandOverAsked(signed=b"x" * 300), NOW)) == "hand-over-malformed"
    assert code(desk.ask(artifact=None, manifest=b"\x00")) == "manifest-malformed"


def test_shredded_lineage_hands_nothing_over(desk: Desk) -> None:
    with pytest.raises(RefusedError, match="no key for epoch"):
        accept_hand_over(
            dataclasses.replace(desk.buyer.holdings, lineage_keys={}),
            desk.buyer.memory,
            desk.adapter,
            desk.buyer.key.identity,
        )


# --- what the shares do not open -----------------------------------------------------------------


def key_of(desk: Desk, core: Core) -> bytes:
    """The true key of any core of this world, from both lineage keys."""
    keys = {p.key.identity: p.lineage_key for p in (desk.owner, desk.buyer)}
    return custody.artifact_key(
        [custody.artifact_share(keys[e.identity], core) for e in core.custodians], core
    )


def made_from(share: bytes, core: Core, runs: list[Origin]) -> set[bytes]:
    """All that a share gives by every derivation of custody, two deep, for one core."""
    first = {share, custody.input_share(share, core), custody.derived_share(share, core)}
    for run in runs:
        first.add(custody.output_share(share, run.job, run.generation))
        first.add(custody.group_share(share, run.job, run.generation))
    first.add(derive((share,), "key", core.digest))
    return first | {custody.derived_share(each, core) for each in first}


def test_released_shares_open_no_other_artifact(desk: Desk) -> None:
    """A buyer with its own lineage key and all that it was handed, by every derivation."""
    adapter, run = desk.adapter, desk.adapter.document.core.origin
    assert run is not None
    sibling = others(desk, 1)[0]
    checkpoint = desk.junk(desk.trainer.party, adapter, kind=ArtifactKind.CHECKPOINT)
    later = desk.junk(desk.trainer.party, adapter, origin=dataclasses.replace(run, generation=2))
    same_seal = desk.junk(desk.trainer.party, adapter, seal_id=desk.model.document.core.seal_id)
    other_job = desk.train()
    other_run = other_job.document.core.origin
    assert other_run is not None
    runs = [run, dataclasses.replace(run, generation=2), other_run]
    _, secret = desk.open(desk.ask(artifact=adapter))
    (share,) = secret.shares
    owner, mine = desk.owner.key.identity, desk.buyer.lineage_key

    def opens(made: Signed[Manifest]) -> bool:
        core = made.document.core
        true = key_of(desk, core)
        for guess in made_from(share, core, runs):
            shares = [
                guess if e.identity == owner else custody.artifact_share(mine, core)
                for e in core.custodians
            ]
            key = custody.artifact_key(shares, core)
            if key == true or commitment(key, core) == commitment(true, core):
                return True
        return False

    assert opens(adapter)
    for made in (desk.model, sibling, checkpoint, later, same_seal, other_job):
        assert not opens(made), made.document.core.kind
    true_group = custody.group_key(
        [
            custody.group_share(p.lineage_key, run.job, run.generation)
            for p in (desk.owner, desk.buyer)
        ],
        run.job,
        run.generation,
    )
    own_group = custody.group_share(mine, run.job, run.generation)
    for guess in made_from(share, adapter.document.core, runs):
        for order in ([guess, own_group], [own_group, guess]):
            assert custody.group_key(order, run.job, run.generation) != true_group


def test_hand_over_of_one_adapter_is_no_answer_about_another(desk: Desk) -> None:
    sibling = others(desk, 1)[0]
    first, second = desk.open(desk.ask()), desk.open(desk.ask(artifact=sibling))
    assert first[0].scopes != second[0].scopes
    assert first[1].shares != second[1].shares


# --- the spec ------------------------------------------------------------------------------------


def test_every_refusal_of_a_hand_over_stands_in_its_spec() -> None:
    source = SPEC.parents[2] / "trust" / "hand_over.py"
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            at = {"require": 1, "accept_signed": 2, "refusing": 0}.get(node.func.id)
            if at is not None and isinstance(word := node.args[at], ast.Constant):
                found.add(str(word.value) if at == 1 else f"{word.value}-malformed")
    text = SPEC.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z][a-z-]+)`", text))
    assert len(found) >= 14
    assert found <= named, sorted(found - named)
    assert f"{HAND_OVER_MILLISECONDS_MAX:,} ms" in text
    assert f"{CLOCK_SKEW_MILLISECONDS:,} ms" in text
    assert f"at most {HAND_OVERS_MAX} " in text
