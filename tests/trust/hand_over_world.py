"""A trained adapter at two custodians, and whoever asks them for it outside an enclave."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.trust.release_world import NOW, Party
from tests.trust.serve_world import ServeWorld
from trust.artifacts import Manifest
from trust.hand_over import HandOverAsked
from trust.identity import PartyKey, Signed, verify_signed
from trust.jobs import OutputTerms
from trust.messages import (
    HandOver,
    HandOverInfo,
    HandOverRequest,
    HandOverSecret,
    Receiver,
    SignedMessage,
)
from trust.release import Decision, Refusal
from trust.sealing import HpkePrivateKey

LEAVES = OutputTerms(adapter_leaves=True, reply_tokens_max=64)
STAYS = OutputTerms(adapter_leaves=False, reply_tokens_max=64)


class Desk(ServeWorld):
    """A trained adapter that its owner lets go to its buyer, and a buyer's keys to receive it."""

    def __init__(self) -> None:
        self.output = LEAVES
        super().__init__()
        self.hpke = HpkePrivateKey.generate()
        self.name_in_policy(self.owner, self.buyer.key.identity)

    def publish(self, **changed: Any) -> Signed[Any]:
        return super().publish(**{"output": self.output, **changed})

    def name_in_policy(self, of: Party, *receivers: bytes) -> None:
        """A custodian's next use policy: `adapter_to` these, and nobody else."""
        old = of.policies[-1].document
        policy = dataclasses.replace(old, number=old.number + 1, adapter_to=receivers)
        of.policies.append(of.key.sign(policy))

    def wants(
        self,
        of: Party | None = None,
        *,
        by: PartyKey | None = None,
        artifact: Signed[Manifest] | None = None,
        **changed: Any,
    ) -> Signed[HandOverRequest]:
        by = by or self.buyer.key
        fields = {
            "version": 1,
            "custodian": (of or self.owner).key.identity,
            "manifest": (artifact or self.adapter).encode(),
            "to": Receiver(identity=by.identity, hpke_key=self.hpke.public),
            "at": NOW,
            **changed,
        }
        return by.sign(HandOverRequest(**fields))

    def ask(self, of: Party | None = None, now: int = NOW, **changed: Any) -> Decision | Refusal:
        of = of or self.owner
        return of.ask(HandOverAsked(signed=self.wants(of, **changed).encode()), now)

    def open(self, result: Decision | Refusal) -> tuple[HandOverInfo, HandOverSecret]:
        assert isinstance(result, Decision), result
        assert result.answer is not None
        message = SignedMessage.parse(result.answer)
        answer = verify_signed(HandOver, message.signed, signer=None).document
        secret = self.hpke.open(answer.sealed, info=answer.info)
        return HandOverInfo.parse(answer.info), HandOverSecret.parse(secret)
