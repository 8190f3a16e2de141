"""The same owner and buyer once a training job is done: its adapter is to be served."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

from tests.trust import makers
from tests.trust.release_world import IMAGE, JOB_ENDS, Enclave, Party, World, lease
from trust.artifacts import ArtifactKind, Manifest
from trust.identity import PartyKey, Signed
from trust.jobs import Input, InputRole, JobManifest, RecipeTerms, Terms
from trust.messages import FollowUpKind, Receipt
from trust.release import Decision, FollowUpAsked

RECIPES = (
    RecipeTerms(recipe="generate", rank_max=0, steps_max=0),
    RecipeTerms(recipe="lora", rank_max=16, steps_max=1000),
)
UNIT = 1 << 16


class ServeWorld(World):
    """A trained adapter, reopened by both custodians, and a serve job of it."""

    def __init__(self) -> None:
        self.served: tuple[Signed[Manifest], ...] | None = None
        super().__init__()
        self.trainer = Enclave()
        self.adapter = self.train()
        self.serve(self.adapter)

    def publish(self, **changed: Any) -> Signed[Terms]:
        return super().publish(**{"recipes": RECIPES, **changed})

    def train(self, terms: Signed[Terms] | None = None) -> Signed[Manifest]:
        """Run a training job under these terms to its adapter, at both custodians."""
        self.terms = terms or self.terms
        self.served = None
        self.job = self.submit()
        self.orders = []
        self.trainer = Enclave()
        for custodian in (self.owner, self.buyer):
            self.seat(custodian, self.trainer)
        adapter = self.derived(self.trainer.party, ArtifactKind.ADAPTER)
        for custodian in (self.owner, self.buyer):
            asked = self.follow_up(
                custodian, self.trainer, 1, FollowUpKind.SHARE, artifacts=[adapter]
            )
            assert isinstance(custodian.ask(FollowUpAsked(signed=asked.encode())), Decision)
        return adapter

    def serve(
        self, *adapters: Signed[Manifest], signer: PartyKey | None = None, **changed: Any
    ) -> Signed[JobManifest]:
        """Submit a serve job of the model and these adapters; it is the world's job from now."""
        self.served = (self.model, *adapters)
        by = signer or self.buyer.key
        roles = (InputRole.MODEL, *(InputRole.ADAPTER for _ in adapters))
        fields = {
            "buyer": by.identity,
            "nonce": secrets.token_bytes(32),
            "inputs": tuple(
                Input(role=role, artifact=made.digest)
                for role, made in zip(roles, self.served, strict=True)
            ),
            "terms": self.terms.digest,
            "images": (IMAGE,),
            "generations_max": 1024,
            "expires_at": JOB_ENDS,
            **changed,
        }
        self.job = by.sign(dataclasses.replace(makers.serve_manifest(), **fields))
        self.buyer.jobs[self.job.digest] = self.job
        self.orders = []
        return self.job

    @property
    def manifests(self) -> tuple[bytes, ...]:
        if self.served is None:
            return super().manifests
        return tuple(each.encode() for each in self.served)

    def budget(self, **changed: int) -> None:
        """Publish terms with another budget, and serve the adapter under them.

        What training spent of it is forgotten, so that counts are of serving alone.
        """
        self.owner.memory = dataclasses.replace(self.owner.memory, spending=())
        old = self.terms.document
        budgets = dataclasses.replace(old.budgets, **changed)
        self.terms = self.publish(number=old.number + 1, budgets=budgets)
        self.serve(self.adapter)

    def tokens(self, to: Party, enclave: Enclave, grant: bytes) -> int:
        """What a grant allows."""
        allowance = enclave.open(grant)[1].allowance
        assert allowance.tokens is not None
        assert (allowance.steps, allowance.reports) == (0, 0)
        return allowance.tokens

    def served_receipt(
        self, enclave: Enclave, number: int, tokens: int, **changed: Any
    ) -> Signed[Receipt]:
        generation = changed.get("generation", 1)
        fields = {
            "job": self.job.digest,
            "lease": lease(100 * generation),
            "generation": generation,
            "rank": 0,
            "number": number,
            "before": None,
            "milliseconds": 1000 * number,
            "first_step": 0,
            "step": 0,
            "tokens": tokens,
            "committed": None,
            "world_size": 1,
            "compute_class": "cpu",
            "same_class": True,
            "end": None,
            "outputs": (),
            **changed,
        }
        return enclave.party.sign(Receipt(**fields))

    def junk(self, maker: PartyKey, adapter: Signed[Manifest], **core: Any) -> Signed[Manifest]:
        """The adapter's manifest with another core and maker."""
        old = adapter.document
        return maker.sign(dataclasses.replace(old, core=dataclasses.replace(old.core, **core)))


def others(world: ServeWorld, count: int) -> Sequence[Signed[Manifest]]:
    """So many adapters more of the same trainer, of the world's training job."""
    old = world.adapter
    return [
        world.junk(world.trainer.party, old, seal_id=secrets.token_bytes(32)) for _ in range(count)
    ]
