"""Fetching an adapter: what every custodian says, what a crash leaves, and what PEFT loads."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from client.files import HomeError, write_durably
from client.hand_over import (
    CONFIG_NAME,
    TENSORS_NAME,
    HandOverError,
    collect_shares,
    open_adapter,
    write_adapter_folder,
)
from enclave_runtime.recipes.state import adapter_name
from marketplace.wire import StoredMessage
from tests.client.hand_over_stage import STAYS, FetchMarket, HandOverStage
from tests.client.stage import Crash, Faults
from tests.enclave_runtime.recipes.engines import tiny
from trust.artifacts import ArtifactKind, Manifest
from trust.errors import RefusedError, SealingError
from trust.identity import PartyKey, Signed, verify_signed
from trust.messages import (
    HandOver,
    HandOverInfo,
    HandOverRefused,
    HandOverRequest,
    HandOverSecret,
    Scope,
    ScopeKind,
    SignedMessage,
    parse_message,
    signed_label,
)
from trust.release_checks import shown
from trust.release_state import Memory, Standing
from trust.sealing import hpke_seal


@pytest.fixture
async def stage(tmp_path: Path) -> HandOverStage:
    made = HandOverStage(tmp_path)
    made.name_in_policy("owner", made.buyer.key.identity)
    return made


def pefts(model: Any, folder: Path) -> Any:
    """Unmodified PEFT, from the folder alone."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        return PeftModel.from_pretrained(model, folder).eval()


def answers(stage: HandOverStage, kind: Any) -> list[bytes]:
    """Signed answers of one kind in all boxes, in their order."""
    found = []
    for box in stage.market.boxes.values():
        for message in box:
            parsed = parse_message(message.payload)
            if isinstance(parsed, SignedMessage) and signed_label(parsed.signed) == kind.LABEL:
                found.append(parsed.signed)
    return found


async def refused(stage: HandOverStage, made: Signed[Manifest], **changed: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        await stage.collect(made, **changed)
    return caught.value


# --- yes -----------------------------------------------------------------------------------------


async def test_both_say_yes_and_peft_loads_the_enclaves_tensors(
    stage: HandOverStage, tmp_path: Path
) -> None:
    made = await stage.train()
    folder = tmp_path / "adapter"
    await stage.fetch(made, folder)
    assert (folder / TENSORS_NAME).read_bytes() == stage.content
    wanted = safetensors.torch.load(stage.content)
    loaded = pefts(tiny(), folder)
    found = {adapter_name(name): p for name, p in loaded.named_parameters() if "lora_" in name}
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


async def test_model_of_the_folder_computes_other_logits_than_its_base(
    stage: HandOverStage, tmp_path: Path
) -> None:
    made = await stage.train()
    await stage.fetch(made, tmp_path / "adapter")
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.inference_mode():
        base = tiny()(input_ids=ids).logits
        adapted = pefts(tiny(), tmp_path / "adapter")(input_ids=ids).logits
    assert (adapted - base).abs().max() > 0.01


async def test_folder_is_private_and_names_the_base(stage: HandOverStage, tmp_path: Path) -> None:
    made = await stage.train()
    for name, wanted in ((None, stage.model.digest.hex()), ("/models/base", "/models/base")):
        folder = tmp_path / f"adapter-{name is None}"
        await stage.fetch(made, folder, base_name=name)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert sorted(each.name for each in folder.iterdir()) == [CONFIG_NAME, TENSORS_NAME]
        config = json.loads((folder / CONFIG_NAME).read_bytes())
        assert config["base_model_name_or_path"] == wanted
        assert (config["peft_type"], config["r"]) == ("LORA", 4)


async def test_own_share_stays_in_the_home(stage: HandOverStage) -> None:
    """The buyer asks the owner alone; its own log and box see nothing of it."""
    made = await stage.train()
    before = stage.custody["buyer"].home.log_path.read_bytes()
    port = FetchMarket(stage)
    await stage.collect(made, port=port)
    assert [box for box, _ in port.posted] == [stage.owner.key.identity]
    assert stage.custody["buyer"].home.log_path.read_bytes() == before
    assert len(stage.memory("owner").handed) == 1
    assert stage.said == [[stage.owner.key.identity]]


async def test_third_party_asks_both(stage: HandOverStage, tmp_path: Path) -> None:
    third = PartyKey.generate()
    made = await stage.train()
    for name in ("owner", "buyer"):
        stage.name_in_policy(name, third.identity)
    holdings = dataclasses.replace(
        stage.custody["buyer"].home.holdings(stage.custody["buyer"].keys),
        key=third,
        lineage_keys={},
        policies=(),
    )
    shares = await collect_shares(
        holdings,
        Memory(),
        made,
        FetchMarket(stage),
        seconds=60,
        now=stage.clock(),
        waiting=lambda silent: stage.said.append(list(silent)),
    )
    content = await open_adapter(
        made.document, shares, FetchMarket(stage), lambda _done, _total: None
    )
    assert content == stage.content
    assert len(stage.said[0]) == 2


# --- no ------------------------------------------------------------------------------------------


async def test_owners_terms_say_no(tmp_path: Path) -> None:
    stage = HandOverStage(tmp_path, STAYS)
    stage.name_in_policy("owner", stage.buyer.key.identity)
    no = await refused(stage, await stage.train())
    assert no.code == "adapter-leaves"
    assert f"terms 1 of owner {shown(stage.owner.key.identity)}" in no.text
    assert "output.adapter_leaves" in no.text
    assert stage.memory("owner").handed == {}


async def test_owners_policy_says_no_and_nothing_leaves(stage: HandOverStage) -> None:
    stage.name_in_policy("owner")
    no = await refused(stage, await stage.train())
    assert no.code == "adapter-to"
    assert f"use policy 3 of custodian {shown(stage.owner.key.identity)}: adapter_to" in no.text
    assert answers(stage, HandOver) == []
    (said,) = answers(stage, HandOverRefused)
    assert verify_signed(HandOverRefused, said, signer=stage.owner.key.identity)


async def test_buyers_policy_says_no_to_the_owner(stage: HandOverStage) -> None:
    no = await refused(stage, await stage.train(), name="owner")
    assert no.code == "adapter-to"
    assert f"use policy 1 of custodian {shown(stage.buyer.key.identity)}" in no.text


async def test_broker_that_is_behind_says_no(stage: HandOverStage) -> None:
    made = await stage.train()
    broker = stage.custody["owner"].broker
    assert broker is not None
    broker._heads.standing = Standing.BEHIND
    assert (await refused(stage, made)).code == "broker-behind"


async def test_checkpoint_and_base_are_refused_before_anybody_is_asked(
    stage: HandOverStage,
) -> None:
    await stage.train()
    checkpoint = stage.seal(ArtifactKind.CHECKPOINT, b"moments")
    port = FetchMarket(stage)
    for made in (checkpoint, stage.rows):
        assert (await refused(stage, made, port=port)).code == "hand-over-kind"
    assert port.posted == []
    assert (await refused(stage, stage.model)).code == "hand-over-kind"  # the owner says so


async def test_request_of_a_stranger_in_the_buyers_name_is_refused(stage: HandOverStage) -> None:
    made = await stage.train()
    port = FetchMarket(stage)
    await stage.collect(made, port=port)
    request = verify_signed(
        HandOverRequest, SignedMessage.parse(port.posted[0][1]).signed, signer=None
    ).document
    forged = SignedMessage(signed=PartyKey.generate().sign(request).encode()).encode()
    stage.market.post(stage.owner.key.identity, forged, bytes(32))
    await stage.pump()
    said = parse_message(stage.market.boxes[bytes(32)][-1].payload)
    assert isinstance(said, SignedMessage)
    no = verify_signed(HandOverRefused, said.signed, signer=stage.owner.key.identity).document
    assert no.code == "hand-over-not-by-the-receiver"
    assert len(stage.memory("owner").handed) == 1


async def test_request_with_a_broken_signature_is_dropped_and_the_next_one_answered(
    stage: HandOverStage,
) -> None:
    made = await stage.train()
    port = FetchMarket(stage)
    await stage.collect(made, port=port)
    signed = SignedMessage.parse(port.posted[0][1]).signed
    broken = SignedMessage(signed=bytes(64) + signed[64:]).encode()
    stage.market.post(stage.owner.key.identity, broken, bytes(32))
    assert len(await stage.collect(made)) == 2
    assert stage.market.boxes[bytes(32)] == []


async def test_silent_custodian_is_named_when_the_time_is_up(stage: HandOverStage) -> None:
    made = await stage.train()
    stage.stop("owner")
    with pytest.raises(HandOverError, match=shown(stage.owner.key.identity)):
        await stage.collect(made, seconds=0.05)
    assert stage.said == [[stage.owner.key.identity]]


# --- what comes to the box -----------------------------------------------------------------------


class Meddler(FetchMarket):
    """A market that puts something before each answer, or in place of it."""

    def __init__(self, stage: HandOverStage, *junk: bytes) -> None:
        super().__init__(stage)
        self.junk = junk

    async def read_messages(self, *, after: int, wait_seconds: int) -> Sequence[StoredMessage]:
        for each in self.junk:
            self.stage.market.post(self.key.identity, each, bytes(32))
        return await super().read_messages(after=after, wait_seconds=wait_seconds)


async def test_what_others_post_to_the_box_changes_nothing(stage: HandOverStage) -> None:
    made = await stage.train()
    shares = await stage.collect(made)
    stale = SignedMessage(signed=answers(stage, HandOver)[0]).encode()
    said = HandOverRefused(
        custodian=stage.owner.key.identity, request=bytes(32), code="no", text="no"
    )
    junk = [
        b"\x00",
        stale,
        SignedMessage(signed=b"y" * 300).encode(),
        SignedMessage(signed=PartyKey.generate().sign(said).encode()).encode(),
        SignedMessage(signed=stage.owner.key.sign(said).encode()).encode(),
    ]
    assert await stage.collect(made, port=Meddler(stage, *junk)) == shares


async def test_refusal_that_its_custodian_did_not_sign_is_passed_over(
    stage: HandOverStage,
) -> None:
    made = await stage.train()

    class Liar(FetchMarket):
        async def post_message(self, box: bytes, payload: bytes) -> None:
            await super().post_message(box, payload)
            signed = SignedMessage.parse(payload).signed
            said = HandOverRefused(
                custodian=box,
                request=verify_signed(HandOverRequest, signed, signer=None).digest,
                code="adapter-to",
                text="the owner says no",
            )
            lie = PartyKey.generate().sign(said).encode()
            stage.market.post(self.key.identity, SignedMessage(signed=lie).encode(), box)

    assert len(await stage.collect(made, port=Liar(stage))) == 2


class Forger(FetchMarket):
    """Answers every request itself, under the very info that it has to have."""

    def __init__(self, stage: HandOverStage, signer: PartyKey, shares: int) -> None:
        super().__init__(stage)
        self.signer, self.shares = signer, shares

    async def post_message(self, box: bytes, payload: bytes) -> None:
        signed = verify_signed(
            HandOverRequest,
            SignedMessage.parse(payload).signed,
            signer=self.stage.buyer.key.identity,
        )
        manifest = verify_signed(Manifest, signed.document.manifest, signer=None).document
        info = HandOverInfo(
            custodian=box,
            request=signed.digest,
            to=signed.document.to,
            scopes=tuple(
                Scope(
                    scope=ScopeKind.DERIVED,
                    lineage=each.lineage,
                    epoch=each.epoch,
                    core=manifest.core.digest,
                )
                for each in manifest.core.custodians
                if each.identity == box
            ),
        ).encode()
        secret = HandOverSecret(shares=(bytes(32),) * self.shares).encode()
        sealed = hpke_seal(secret, signed.document.to.hpke_key, info=info)
        said = self.signer.sign(HandOver(info=info, sealed=sealed))
        message = SignedMessage(signed=said.encode()).encode()
        self.stage.market.post(self.key.identity, message, box)
        await super().post_message(box, payload)


async def test_answer_that_its_custodian_did_not_sign_is_passed_over(
    stage: HandOverStage,
) -> None:
    made = await stage.train()
    wanted = await stage.collect(made)
    assert bytes(32) not in wanted
    assert await stage.collect(made, port=Forger(stage, PartyKey.generate(), 1)) == wanted


async def test_custodian_that_gives_too_many_shares_is_named(stage: HandOverStage) -> None:
    made = await stage.train()
    with pytest.raises(HandOverError, match=f"{shown(stage.owner.key.identity)} answered with 2"):
        await stage.collect(made, port=Forger(stage, stage.owner.key, 2))


async def test_share_that_is_wrong_is_told_by_the_commitment(stage: HandOverStage) -> None:
    made = await stage.train()
    shares = await stage.collect(made)
    with pytest.raises(SealingError, match="commits"):
        await open_adapter(
            made.document,
            (shares[0], bytes(32)),
            FetchMarket(stage),
            lambda _done, _total: None,
        )


# --- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["before", "middle", "after"])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
async def test_crash_anywhere_gives_one_answer_however_often(
    stage: HandOverStage, at: int, how: str
) -> None:
    """Log, answer, head to the market, head to the other: the broker dies at each of them."""
    made = await stage.train()
    stage.stop("owner")
    faults = Faults()
    await stage.start("owner", faults=faults)
    faults.at, faults.how = faults.count + at, how
    port = FetchMarket(stage)
    with pytest.raises(Crash):
        await stage.collect(made, port=port)
    handed = stage.memory("owner").handed
    assert len(answers(stage, HandOver)) <= len(handed)  # nothing was sent that is not remembered
    stage.stop("owner")
    await stage.start("owner")
    stage.custody["owner"].read -= 1  # it was not acknowledged
    await stage.pump()
    sent = answers(stage, HandOver)
    assert len(sent) >= 1
    assert len(set(sent)) == 1
    (remembered,) = stage.memory("owner").handed.values()
    assert SignedMessage.parse(remembered.answer).signed == sent[0]
    if handed:
        assert [each.answer for each in handed.values()] == [remembered.answer]


async def test_restored_broker_that_forgot_a_hand_over_is_behind(
    stage: HandOverStage, tmp_path: Path
) -> None:
    made = await stage.train()
    copy = tmp_path / "copy"
    shutil.copytree(stage.custody["owner"].home.folder, copy)
    copy.chmod(0o700)
    await stage.collect(made)
    stage.stop("owner")
    await stage.start("owner", folder=copy)
    assert (await refused(stage, made)).code == "broker-behind"


# --- the folder ----------------------------------------------------------------------------------


async def test_folder_is_never_overwritten(stage: HandOverStage, tmp_path: Path) -> None:
    made = await stage.train()
    folder = tmp_path / "adapter"
    folder.mkdir()
    with pytest.raises(HomeError, match="never overwritten"):
        await stage.fetch(made, folder)
    assert list(folder.iterdir()) == []
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(HomeError, match="never overwritten"):
        write_adapter_folder(link, stage.content, base_name=None)


async def test_half_a_folder_is_never_seen(
    stage: HandOverStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client import hand_over

    await stage.train()
    inside = tmp_path / "inside"
    inside.mkdir()

    def fail(path: Path, content: bytes) -> None:
        if path.name == CONFIG_NAME:
            raise OSError("disk full")
        write_durably(path, content)

    monkeypatch.setattr(hand_over, "write_durably", fail)
    with pytest.raises(OSError, match="disk full"):
        write_adapter_folder(inside / "adapter", stage.content, base_name=None)
    assert list(inside.iterdir()) == []
