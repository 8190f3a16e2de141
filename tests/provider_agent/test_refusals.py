"""What the host refuses, whoever asks, and that a refused lease launches nothing."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketplace.wire import LeaseBriefing, LeaseState, LeaseView, OfferDraft
from provider_agent.errors import RejectedError
from provider_agent.journal import Stage
from provider_agent.keeper import Keeper
from provider_agent.market_client import MarketAddress
from provider_agent.refusals import (
    CLOCK_MS_MAX,
    Enrolment,
    HostRefusedError,
    LeaseGate,
    check_clock,
    check_enrolment,
    check_identity_file,
    check_user,
    check_version,
)
from tests.marketplace.world import BUYER, OWNER, manifest, terms
from tests.provider_agent.fakes import lease
from tests.provider_agent.test_lifecycle import World
from trust.artifacts import ArtifactKind, Core, Custodian, Manifest
from trust.errors import EncodingError
from trust.jobs import Resources

NOW, END = 1_000, 10_000_000
OFFER = f"offr_{1:026d}"
DRAFT = OfferDraft(
    offer=OFFER,
    platform="sev-snp",
    compute_class="cpu",
    gpu_model="cpu",
    gpus=2,
    memory_mib=1024,
    ask_microcredits_per_gpu_hour=20,
    floor_microcredits_per_gpu_hour=10,
    ends_at=END,
)


def refuses(word: str):
    return pytest.raises(HostRefusedError, match=f"^{word}: ")


def gate(**changes: object) -> LeaseGate:
    values = {"draft": lambda: DRAFT, "enrolment": Enrolment.SIMULATED}
    return LeaseGate(**values | changes)


def view(number: int = 1, **changes: object) -> LeaseView:
    values = {
        "lease": lease(number),
        "offer": OFFER,
        "job": bytes(32),
        "rank": 0,
        "ranks": 1,
        "generation": 1,
        "host": b"\x11" * 32,
        "price_microcredits_per_gpu_hour": 20,
        "gpus": 1,
        "state": LeaseState.CLAIMED,
        "version": 1,
        "ready_at": None,
        "deadline": END,
    }
    return LeaseView(**values | changes)


def sealed(kind: bytes, *, second: bytes | None = None) -> bytes:
    custodians = tuple(
        Custodian(identity=OWNER.identity, lineage=each + bytes(32), epoch=0)
        for each in (kind, second)
        if each is not None
    )
    core = Core(kind=ArtifactKind.WEIGHTS, seal_id=bytes(32), custodians=custodians, origin=None)
    found = Manifest(
        core=core,
        padded_bytes=70_000,
        segments=1,
        segment_list=bytes(32),
        commitment=bytes(32),
        public_files=(),
    )
    return OWNER.sign(found).encode()


def briefing(kind: bytes = b"s", *, signed: bytes | None = None, **need: object) -> LeaseBriefing:
    wanted = {"gpu_model": "cpu", "gpus": 2, "memory_mib": 512, "platform": "sev-snp"}
    job = manifest(terms(), resources=Resources(**wanted | need))
    return LeaseBriefing(
        lease=view(),
        launch=b"launch",
        job=signed or job.encode(),
        order=b"order",
        terms=b"terms",
        manifests=(sealed(kind),),
        checkpoints=(),
    )


# --- at the start --------------------------------------------------------------------------------


def test_root_is_refused_on_real_hardware_and_said_on_the_simulated() -> None:
    with refuses("root"):
        check_user(0, Enrolment.REAL)
    assert "simulated platform alone" in str(check_user(0, Enrolment.SIMULATED))
    assert check_user(1000, Enrolment.REAL) is None


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o602, 0o601])
def test_an_identity_that_others_can_reach_is_refused(mode: int, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    key.chmod(0o600)
    check_identity_file(key.stat().st_mode)
    key.chmod(mode)
    with refuses("open-identity"):
        check_identity_file(key.stat().st_mode)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_clock_that_is_over_a_minute_off_the_markets_is_refused(off: int) -> None:
    check_clock(NOW, NOW + off * CLOCK_MS_MAX)
    with refuses("clock"):
        check_clock(NOW, NOW + off * (CLOCK_MS_MAX + 1))
    assert CLOCK_MS_MAX == 60_000


def test_an_older_agent_than_ran_here_before_is_refused() -> None:
    assert check_version("0.10.0", None) == "0.10.0"
    assert check_version("0.10.0", "0.9.9") == "0.10.0"
    assert check_version("0.10.0", "0.10.0") == "0.10.0"
    with refuses("older-version"):
        check_version("0.9.9", "0.10.0")
    with refuses("older-version"):
        check_version("new", None)


def test_a_home_is_real_or_simulated_for_good() -> None:
    assert check_enrolment(None, Enrolment.REAL) is Enrolment.REAL
    assert check_enrolment(Enrolment.REAL, Enrolment.REAL) is Enrolment.REAL
    for mine, found in (
        (Enrolment.REAL, Enrolment.SIMULATED),
        (Enrolment.SIMULATED, Enrolment.REAL),
    ):
        with refuses("other-enrolment"):
            check_enrolment(mine, found)


@pytest.mark.parametrize("host", ["market.example", "10.0.0.1", "192.168.1.1", "[2001:db8::1]"])
def test_plain_http_goes_to_loopback_alone(host: str) -> None:
    identity = bytes(32)
    with pytest.raises(EncodingError, match="loopback alone"):
        MarketAddress(url=f"http://{host}:80", identity=identity, certificate_sha256=None)
    MarketAddress(url="http://127.0.0.1:80", identity=identity, certificate_sha256=None)


# --- a lease -------------------------------------------------------------------------------------


def test_a_lease_within_the_offer_is_taken() -> None:
    gate().check_lease(view(), (), NOW)


def test_a_lease_below_the_floor_is_refused() -> None:
    gate().check_lease(view(price_microcredits_per_gpu_hour=10), (), NOW)
    with refuses("below-floor"):
        gate().check_lease(view(price_microcredits_per_gpu_hour=9), (), NOW)
    on_demand = dataclasses.replace(DRAFT, floor_microcredits_per_gpu_hour=None)
    with refuses("below-floor"):
        gate(draft=lambda: on_demand).check_lease(view(price_microcredits_per_gpu_hour=19), (), NOW)
    with refuses("below-floor"):  # a live strategy's floor counts, whatever was posted
        gate(floor=lambda: 21).check_lease(view(), (), NOW)


def test_a_lease_outside_its_window_is_refused() -> None:
    with refuses("outside-window"):
        gate(closed=lambda now: f"maintenance at {now}").check_lease(view(), (), NOW)
    with refuses("outside-window"):
        gate().check_lease(view(), (), END)


def test_a_lease_longer_than_the_offer_is_refused() -> None:
    with refuses("longer-than-offer"):
        gate().check_lease(view(deadline=END + 1), (), NOW)


@pytest.mark.parametrize("change", [{"offer": f"offr_{2:026d}"}, {"gpus": 3}])
def test_a_lease_of_another_offer_or_of_more_gpus_is_refused(change: dict[str, object]) -> None:
    with refuses("other-offer"):
        gate().check_lease(view(**change), (), NOW)


def test_a_second_lease_on_one_gpu_is_refused() -> None:
    gate().check_lease(view(2), (view(1),), NOW)  # two GPUs, one each
    with refuses("second-lease"):
        gate().check_lease(view(2, gpus=2), (view(1),), NOW)
    over = view(1, state=LeaseState.HOST_LOST)
    gate().check_lease(view(2, gpus=2), (over,), NOW)


# --- a briefing ----------------------------------------------------------------------------------


def test_a_briefing_within_the_offer_is_taken() -> None:
    gate().check_briefing(briefing())
    gate(enrolment=Enrolment.REAL).check_briefing(briefing(b"r"))


def test_more_memory_than_was_offered_is_refused() -> None:
    gate().check_briefing(briefing(memory_mib=1024))
    with refuses("more-memory"):
        gate().check_briefing(briefing(memory_mib=1025))


@pytest.mark.parametrize("need", [{"gpus": 1}, {"gpus": 3}, {"platform": "tdx"}])
def test_a_job_for_another_machine_is_refused(need: dict[str, object]) -> None:
    with refuses("other-offer"):
        gate().check_briefing(briefing(**need))


def test_simulated_and_real_do_not_meet_on_a_host() -> None:
    with refuses("other-enrolment"):
        gate(enrolment=Enrolment.REAL).check_briefing(briefing(b"s"))
    with refuses("other-enrolment"):
        gate(enrolment=Enrolment.SIMULATED).check_briefing(briefing(b"r"))
    mixed = dataclasses.replace(briefing(), manifests=(sealed(b"r", second=b"s"),))
    with refuses("bad-briefing"):
        gate().check_briefing(mixed)
    both = dataclasses.replace(briefing(), manifests=(sealed(b"r"), sealed(b"s")))
    for kind in Enrolment:
        with refuses("other-enrolment"):
            gate(enrolment=kind).check_briefing(both)


def test_a_job_that_its_buyer_did_not_sign_is_refused() -> None:
    job = manifest(terms()).document
    with refuses("bad-briefing"):
        gate().check_briefing(briefing(signed=OWNER.sign(job).encode()))
    signed = bytearray(BUYER.sign(job).encode())
    signed[0] ^= 1
    with refuses("bad-briefing"):
        gate().check_briefing(briefing(signed=bytes(signed)))
    with refuses("bad-briefing"):
        gate().check_briefing(briefing(signed=b"job"))


# --- what becomes of a refused lease ------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.chip.crash()


def guarded(world: World, found: LeaseGate) -> Keeper:
    keeper = world.keeper()
    keeper._gate = found
    return keeper


async def test_a_refused_lease_is_reported_by_its_word_and_launches_nothing(
    world: World,
) -> None:
    name = world.market.open_lease()
    world.market.set_lease(name, price_microcredits_per_gpu_hour=9)
    keeper = guarded(world, gate())
    await world.settle(keeper, 8)
    assert world.chip.launched == []
    assert world.market.reports[name] == [("failed", "refused-below-floor")]
    assert world.left_over() == []


async def test_a_lease_whose_briefing_is_refused_launches_nothing(world: World) -> None:
    name = world.market.open_lease()
    world.market.set_lease(name, price_microcredits_per_gpu_hour=20)
    world.market.briefings[name] = briefing(memory_mib=4096)
    keeper = guarded(world, gate())
    await world.settle(keeper, 8)
    assert world.chip.launched == []
    assert world.market.reports[name] == [("failed", "refused-more-memory")]
    assert world.left_over() == []


async def test_of_two_leases_on_one_machine_the_first_runs(world: World) -> None:
    names = [world.market.open_lease(number) for number in (1, 2)]
    for name in names:
        world.market.set_lease(name, offer=OFFER, gpus=2, price_microcredits_per_gpu_hour=20)
        world.market.briefings[name] = dataclasses.replace(
            world.market.briefings[name], job=briefing().job, manifests=briefing().manifests
        )
    keeper = guarded(world, gate())
    await world.settle(keeper, 8)
    assert world.chip.launched == names[:1]
    assert world.market.reports[names[1]] == [("failed", "refused-second-lease")]
    await keeper.close()


async def test_an_agent_killed_after_a_refusal_does_not_take_the_lease(world: World) -> None:
    name = world.market.open_lease()
    world.market.set_lease(name, price_microcredits_per_gpu_hour=9)
    world.market.rejects["report_lease"] = RejectedError("later", "not heard")
    keeper = guarded(world, gate())
    await keeper.round()
    assert all(each.stage is not Stage.NEW for each in world.journal().records())
    again = world.keeper()  # an agent without that gate: what is on record decides
    await world.settle(again, 8)
    assert world.chip.launched == []
