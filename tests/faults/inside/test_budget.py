"""Killing enclaves buys no tokens, though the broker that counts them dies again and again too."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from client.release_log import replay
from tests.client.stage import Crash, Faults, Stage
from tests.faults.inside.points import SEED_VARIABLE, seed
from tests.trust import makers
from tests.trust.release_world import IMAGE, JOB_ENDS, Enclave
from tests.trust.serve_world import RECIPES, UNIT
from trust.jobs import Input, InputRole
from trust.messages import Grant, GrantInfo, Refused, parse_message

KILLS = 100
BUDGET = 20 * UNIT + 3
HOWS = ("before", "middle", "after")
ACTIONS = 8  # of an owner's broker, from its start to the last word about one release


class ServeStage(Stage):
    """The release stage with a serve job of the base alone, under terms with a budget of tokens."""

    @property
    def manifests(self) -> tuple[bytes, ...]:
        return (self.model.encode(),)

    async def begin(self, tokens: int) -> None:
        """Publish, submit, and start both brokers."""
        budgets = dataclasses.replace(self.terms.document.budgets, tokens=tokens)
        self.terms = self.publish(number=2, recipes=RECIPES, budgets=budgets)
        self.custody["owner"].home.keep(self.terms)
        manifest = dataclasses.replace(
            makers.serve_manifest(0),
            buyer=self.buyer.key.identity,
            nonce=bytes([7]) * 32,
            inputs=(Input(role=InputRole.MODEL, artifact=self.model.digest),),
            terms=self.terms.digest,
            images=(IMAGE,),
            generations_max=KILLS + 8,
            expires_at=JOB_ENDS,
        )
        self.enter(self.buyer.key.sign(manifest))
        for name in ("buyer", "owner"):
            await self.start(name)

    def granted(self, enclaves: list[Enclave]) -> dict[int, int]:
        """Tokens in every seat grant that the owner's broker ever sent, by generation."""
        found: dict[int, int] = {}
        keys = {each.hpke.public: each for each in enclaves}
        messages = [each.payload for box in self.market.boxes.values() for each in box]
        for payload in messages:
            parsed = parse_message(payload)
            if not isinstance(parsed, Grant):
                continue
            info = GrantInfo.parse(parsed.info)
            if info.custodian == self.owner.key.identity:
                allowance = keys[info.hpke_key].open(payload)[1].allowance
                assert allowance.tokens is not None
                assert found.setdefault(info.generation, allowance.tokens) == allowance.tokens
        return found


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_killing_the_enclave_100_times_and_its_broker_too_buys_no_more_than_the_budget(
    tmp_path: Path,
) -> None:
    chooser = random.Random(seed())
    stage = ServeStage(tmp_path)
    await stage.begin(BUDGET)
    enclaves: list[Enclave] = []
    refusals: list[str] = []
    crashes = 0
    for generation in range(1, KILLS + 1):
        enclave = Enclave()
        enclaves.append(enclave)
        if chooser.random() < 0.5:  # the broker dies somewhere in this release
            stage.stop("owner")
            faults = Faults(chooser.randrange(1, ACTIONS + 1), chooser.choice(HOWS))
            try:
                await stage.start("owner", faults=faults)
                await stage.ask("owner", enclave, generation)
            except Crash:
                crashes += 1
            stage.stop("owner")
            await stage.start("owner")
            if chooser.random() < 0.5:
                continue  # this enclave dies unheard: what was granted to it is spent
        answer = await stage.ask("owner", enclave, generation)
        if isinstance(answer, Refused):
            refusals.append(answer.code)
        else:
            assert await stage.ask("owner", enclave, generation) == answer  # no token more
            rival = await stage.ask("owner", Enclave(), generation)
            assert isinstance(rival, Refused)
            assert rival.code == "seat-taken"
    tokens = stage.granted(enclaves)
    stage.stop("owner")
    stage.stop("buyer")
    memory = replay((tmp_path / "owner" / "release-log").read_bytes()).memory
    said = f"{SEED_VARIABLE}={seed()}: {tokens}, {crashes} crashes"
    assert sum(each.tokens for each in memory.spending) == BUDGET, said
    assert 0 < sum(tokens.values()) <= BUDGET, said
    assert set(tokens) <= {generation for _, generation, _ in memory.seats}, said
    assert crashes > KILLS // 5, said
    assert len(refusals) > KILLS // 3, said
    assert set(refusals) == {"budget-tokens"}, said


async def test_an_undisturbed_broker_grants_all_of_its_budget_and_no_token_more(
    tmp_path: Path,
) -> None:
    stage = ServeStage(tmp_path)
    await stage.begin(3 * UNIT + 3)
    enclaves = [Enclave() for _ in range(6)]
    answers = [await stage.ask("owner", each, n) for n, each in enumerate(enclaves, start=1)]
    assert [isinstance(each, bytes) for each in answers] == [True] * 4 + [False] * 2
    assert list(stage.granted(enclaves).values()) == [UNIT, UNIT, UNIT, 3]
    for name in ("owner", "buyer"):
        stage.stop(name)
