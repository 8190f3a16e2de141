"""One machine is offered once, whatever happens to its agent or to the market."""

import dataclasses
from pathlib import Path

import pytest

from marketplace.wire import OfferDraft, OfferState, OfferView
from provider_agent.errors import AgentError, RejectedError
from provider_agent.offers import HEARTBEAT_MS, RELISTS_MAX, OfferKeeper, make_offer_id
from tests.provider_agent.fakes import FakeMarket
from trust.errors import EncodingError


class Scene:
    def __init__(self, folder: Path) -> None:
        self.file, self.market, self.now = folder / "offer", FakeMarket(), 1_000_000

    def keeper(self, ask: int = 7) -> OfferKeeper:
        draft = OfferDraft(
            offer=make_offer_id(now=self.now, random=self.now.to_bytes(10, "big")),
            platform="sev-snp",
            compute_class="cpu",
            gpu_model="cpu",
            gpus=1,
            memory_mib=1024,
            ask_microcredits_per_gpu_hour=ask,
            floor_microcredits_per_gpu_hour=None,
            ends_at=2_000_000,
        )
        return OfferKeeper(self.file, market=self.market, draft=draft, clock=lambda: self.now)

    def becomes(self, state: OfferState) -> None:
        self.market.offer: OfferView = dataclasses.replace(self.market.offer, state=state)

    def posted(self) -> int:
        return self.market.calls.count("put_offer")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_it_is_listed_once_and_then_kept_alive(scene: Scene) -> None:
    keeper = scene.keeper()
    for _ in range(5):
        await keeper.round(busy=False)
    assert scene.market.calls == ["put_offer"]
    scene.now += HEARTBEAT_MS
    await keeper.round(busy=False)
    await keeper.round(busy=False)
    assert scene.market.calls == ["put_offer", "heartbeat"]


async def test_an_agent_that_was_killed_lists_the_same_offer_with_the_new_terms(
    scene: Scene,
) -> None:
    first = scene.keeper()
    await first.round(busy=False)
    scene.now += 1
    second = scene.keeper(ask=9)
    await second.round(busy=False)
    assert second.offer == first.offer
    assert scene.market.offer.draft.ask_microcredits_per_gpu_hour == 9


async def test_a_market_that_is_away_is_asked_again(scene: Scene) -> None:
    scene.market.away = 3
    keeper = scene.keeper()
    for _ in range(4):
        await keeper.round(busy=False)
    assert scene.posted() == 4
    assert scene.market.offer.state is OfferState.LISTED


async def test_a_suspended_machine_is_listed_again_a_few_times_and_not_while_it_is_busy(
    scene: Scene,
) -> None:
    keeper = scene.keeper()
    await keeper.round(busy=False)
    for number in range(4 * RELISTS_MAX):
        scene.becomes(OfferState.SUSPENDED)
        scene.now += HEARTBEAT_MS
        await keeper.round(busy=number == 0)
        assert number > 0 or scene.posted() == 1
    assert scene.posted() == 1 + RELISTS_MAX


async def test_an_offer_that_the_market_ended_is_followed_by_another_one(scene: Scene) -> None:
    keeper = scene.keeper()
    await keeper.round(busy=False)
    first = keeper.offer
    scene.market.rejects["heartbeat"] = RejectedError("conflict", "expired")
    scene.now += HEARTBEAT_MS
    await keeper.round(busy=False)
    await keeper.round(busy=False)
    assert keeper.offer != first
    assert scene.market.offer.draft.offer == keeper.offer


async def test_a_market_that_refuses_every_offer_stops_the_agent(scene: Scene) -> None:
    keeper = scene.keeper()
    scene.market.rejects["put_offer"] = RejectedError("malformed", "no")
    for _ in range(RELISTS_MAX):
        await keeper.round(busy=False)
    with pytest.raises(AgentError, match="refused"):
        await keeper.round(busy=False)


async def test_a_withdrawn_offer_is_not_used_again(scene: Scene) -> None:
    keeper = scene.keeper()
    await keeper.round(busy=False)
    await keeper.withdraw()
    scene.now += 1
    assert scene.keeper().offer != keeper.offer


async def test_a_broken_file_is_no_reason_for_a_second_offer(scene: Scene) -> None:
    scene.keeper()
    scene.file.write_bytes(scene.file.read_bytes()[:-1])
    with pytest.raises(AgentError, match="does not parse"):
        scene.keeper()


def test_an_offer_id_is_sortable_and_never_padded() -> None:
    early = make_offer_id(now=1, random=b"\xff" * 10)
    late = make_offer_id(now=2, random=bytes(10))
    assert early < late
    with pytest.raises(EncodingError):
        make_offer_id(now=1, random=bytes(9))
