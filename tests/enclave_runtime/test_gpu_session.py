"""A session with GPUs: verifiers accept what the enclave sends; GPUs work after the grant."""

from __future__ import annotations

import asyncio
import dataclasses
import functools

import pytest

from enclave_runtime.actions import NeedEvidence, Send
from enclave_runtime.attester import ask
from enclave_runtime.run import run
from enclave_runtime.transport import PAYLOAD_BYTES_MAX
from tests.enclave_runtime.fakes import GENERATE, FakeAttester, ManualClock, Table, World
from tests.enclave_runtime.test_run import Hosted, drive, host
from tests.enclave_runtime.test_serving import Client
from tests.trust.verifier.vendor import NOW, simulated_chip
from trust.errors import EvidenceError, SessionError
from trust.messages import (
    End,
    Endorsement,
    EvidenceBundle,
    GpuEvidence,
    ReleaseRequest,
    ServeOffer,
    Statement,
    parse_message,
)
from trust.simulated import SimulatedChip, SimulatedGpu, SimulatedNvidia
from trust.verifier.appraisal import Evidence, Expected, verify_evidence
from trust.verifier.policy import AppraisalPolicy, simulated_policy
from trust.verifier.roots import Anchor, PinnedRoot, RootKind

__all__ = ["host"]  # the fixture

IMAGE = bytes(range(48))


@functools.cache
def machine() -> tuple[SimulatedChip, SimulatedNvidia, SimulatedGpu]:
    nvidia = SimulatedNvidia.create(NOW)
    return simulated_chip(), nvidia, nvidia.staple(nvidia.issue_gpu(bytes(8)), NOW)


class SimulatedMachine:
    """A chip and a GPU, asked in this process."""

    platform = "sev-snp"
    writes_under = None

    def __init__(self, launch: bytes) -> None:
        self.chip, _, self.gpu = machine()
        self.launch = launch

    def report(self, report_data: bytes) -> bytes:
        return self.chip.report(report_data=report_data, host_data=self.launch, measurement=IMAGE)

    def gpu_evidence(self, nonce: bytes) -> bytes:
        return GpuEvidence(devices=(self.gpu.device(nonce),)).encode()

    def offered(self) -> tuple[tuple[str, bytes], ...]:
        return self.chip.endorsements()

    def set_ready(self) -> None:
        raise AssertionError("a session sets nothing")


def policy() -> AppraisalPolicy:
    chip, nvidia, _ = machine()
    pins = (
        PinnedRoot(kind=RootKind.SIMULATED, anchor=anchor, fingerprint=fingerprint)
        for anchor, fingerprint in (
            (Anchor.NVIDIA_DEVICE, nvidia.device_fingerprint),
            (Anchor.NVIDIA_RIM, nvidia.rim_fingerprint),
        )
    )
    return simulated_policy(chip.root_fingerprint, [IMAGE], gpu_roots=tuple(pins))


def world(**changes) -> World:
    made = World(**changes)
    endorsements = machine()[2].endorsements()  # the briefing brings the GPU's; the chip offers its
    briefed = tuple(Endorsement(kind=k, content=c) for k, c in endorsements)
    brief = made.briefing
    made.briefing = lambda **more: brief(**({"endorsements": briefed} | more))
    return made


def check(bundle: EvidenceBundle) -> Statement:
    """The composite accepts it; its statement."""
    statement = Statement.parse(bundle.statement)
    expected = Expected.of(statement)
    result = verify_evidence(Evidence.of(bundle), policy(), expected, now=NOW)
    assert result.accepted, [each for each in result.checks if not each.passed]
    assert "gpu-in-statement" in {each.id for each in result.checks if each.passed}
    return statement


def test_what_a_session_shows_a_custodian_is_accepted_with_its_gpu() -> None:
    table = Table(world())
    hardware = SimulatedMachine(table.world.launch.digest)
    bundles = []
    for greeting in table.session.start(0):
        for challenge in table.party(greeting.peer).receive(greeting.payload):
            for action in table.session.receive(greeting.peer, challenge, 0):
                if not isinstance(action, NeedEvidence):
                    continue
                shown = ask(hardware, action.statement)
                (sent,) = table.session.evidence_ready(
                    action.statement,
                    platform=hardware.platform,
                    report=shown.report,
                    gpu=shown.gpu,
                    offered=shown.offered,
                    clock_ms=0,
                )
                assert isinstance(sent, Send)
                assert len(sent.payload) < PAYLOAD_BYTES_MAX // 4
                message = parse_message(sent.payload)
                if isinstance(message, ReleaseRequest):
                    bundles.append(EvidenceBundle.parse(message.evidence))
    assert len(bundles) == 2
    stated = [check(each) for each in bundles]
    assert len({each.gpu_nonce for each in stated}) == len(stated)
    # One custodian's evidence of the GPU is none for the other: nonce and statement differ.
    crossed = dataclasses.replace(bundles[0], gpu=bundles[1].gpu)
    expected = Expected.of(stated[0])
    result = verify_evidence(Evidence.of(crossed), policy(), expected, now=NOW)
    assert not result.accepted


def test_what_a_session_shows_a_client_is_accepted_with_its_gpu() -> None:
    table = Table(world(recipe=GENERATE))
    table.start()
    table.begin()
    client = Client(table.world.clients[0], table.world.job.digest)
    hardware = SimulatedMachine(table.world.launch.digest)
    (action,) = table.session.receive(client.key.identity, client.challenge(), 0)
    shown = ask(hardware, action.statement)
    (sent,) = table.session.evidence_ready(
        action.statement,
        platform=hardware.platform,
        report=shown.report,
        gpu=shown.gpu,
        offered=shown.offered,
        clock_ms=0,
    )
    offer = parse_message(sent.payload)
    assert isinstance(offer, ServeOffer)
    statement = check(EvidenceBundle.parse(offer.evidence))
    # Requests are sealed over the statement as it was signed: the GPU's digest is in it.
    assert statement.gpu_evidence is not None
    assert statement.digest in table.session._clients.serving._statements[client.key.identity]


@pytest.mark.parametrize("named", [b"\x01" * 32, bytes(32)])
def test_a_statement_that_names_gpu_evidence_already_is_none_that_was_asked_for(
    named: bytes,
) -> None:
    table = Table(World())
    (greeting, *_) = table.session.start(0)
    (challenge,) = table.party(greeting.peer).receive(greeting.payload)
    (action,) = table.session.receive(greeting.peer, challenge, 0)
    other = dataclasses.replace(action.statement, gpu_evidence=named)
    with pytest.raises(SessionError):
        table.session.evidence_ready(other, platform="sev-snp", report=b"r", clock_ms=0)


# --- the ready state -----------------------------------------------------------------------------


class Watched(FakeAttester):
    """GPUs that write down what had happened when they were opened to work."""

    def __init__(self) -> None:
        super().__init__()
        self.hosted: Hosted | None = None
        self.then: list[tuple[bool, dict]] = []
        self.error: EvidenceError | None = None

    def set_ready(self) -> None:
        assert self.hosted is not None
        granted = all(each.seat_grant for each in (self.hosted.owner, self.hosted.buyer))
        assert self.hosted.work is not None
        self.then.append((granted, dict(self.hosted.work.filled)))
        if self.error is not None:
            raise self.error


async def run_watched(hosted: Hosted, watched: Watched) -> End:
    watched.hosted = hosted
    return await run(
        launch=hosted.world.launch,
        attester=watched,
        door=hosted.door,
        clock=hosted.clock,
        prepare=hosted.prepare,
    )


async def test_gpus_take_work_after_every_grant_and_before_the_first_input(host) -> None:
    watched = Watched()
    assert await run_watched(await host(World()), watched) is End.DONE
    assert watched.then == [(True, {})]


async def test_gpus_take_no_work_without_the_grant_of_one_custodian(host) -> None:
    hosted, watched = await host(World()), Watched()
    hosted.owner.refuses = {ReleaseRequest: "gpu"}
    assert await run_watched(hosted, watched) is End.REFUSED
    assert watched.then == []


async def test_gpus_that_do_not_take_the_ready_state_get_no_input(host) -> None:
    clock = ManualClock()
    hosted, watched = await host(World(), clock), Watched()
    watched.error = EvidenceError("GPU: ready state is 0, wanted 1")
    task = asyncio.create_task(run_watched(hosted, watched))
    await drive(task, clock)
    assert task.result() is End.FAILED
    assert hosted.work.filled == {}
    assert "ready state is 0" in hosted.said
