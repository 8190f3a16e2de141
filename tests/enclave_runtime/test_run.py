"""A whole run over real sockets and real sealing, with a work that computes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import AsyncIterator, Callable

import pytest

from enclave_runtime.run import run
from enclave_runtime.tokens import RowError
from enclave_runtime.transport import AGENT, SHUT_MS_MAX, Door, DoorShutError, MonotonicClock
from enclave_runtime.vault import Vault
from tests.enclave_runtime.fakes import (
    CLASS,
    EVALUATION,
    RECIPE,
    FakeAgent,
    FakeAttester,
    FakeBroker,
    FakeMarket,
    FakeWork,
    ManualClock,
    World,
    listener,
    open_output,
    settle,
)
from trust.encoding import digest
from trust.errors import BlindhostError, RefusedError, SessionError
from trust.jobs import EvaluateRecipe, InputRole, LossOn, Precision
from trust.messages import (
    Briefing,
    CheckpointReport,
    End,
    FollowUpKind,
    Progress,
    ProgressEvent,
    ReleaseRequest,
    ScopeKind,
)


def safetensors(**metadata: str) -> bytes:
    """A safetensors file of one number."""
    header = {
        "__metadata__": metadata,
        "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    data = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data + bytes(4)


def checkpoint_content(
    world: World, *, generation: int | str, step: int | str, **changes: str
) -> bytes:
    fields = {
        "job": world.job.digest.hex(),
        "generation": str(generation),
        "step": str(step),
        "compute_class": CLASS,
    }
    return safetensors(**(fields | changes))


@dataclasses.dataclass
class Hosted:
    """One enclave and its surroundings."""

    world: World
    agent: FakeAgent
    door: Door
    owner: FakeBroker
    buyer: FakeBroker
    market: FakeMarket
    clock: object
    work: FakeWork | None = None
    prepare_error: Exception | None = None
    progress_messages: list[bytes] = dataclasses.field(default_factory=list)
    change_work: Callable[[FakeWork], None] = lambda _work: None

    def prepare(self, job, manifests, public_files, *, generation) -> FakeWork:
        assert set(public_files) == {"config.json"}
        assert set(manifests) == set(self.world.inputs)
        self.work = FakeWork(
            job,
            make_checkpoint=lambda step: checkpoint_content(
                self.world, generation=generation, step=step
            ),
        )
        self.change_work(self.work)
        return self.work

    def run(self) -> asyncio.Task[End]:
        return asyncio.create_task(
            run(
                launch=self.world.launch,
                attester=FakeAttester(),
                door=self.door,
                clock=self.clock,
                prepare=self.prepare,
            )
        )

    @property
    def progress(self) -> list[Progress]:
        return [self.world.open_progress(p).document for p in self.progress_messages]

    @property
    def said(self) -> str:
        return " | ".join(p.text for p in self.progress)


@pytest.fixture
async def host() -> AsyncIterator[Callable]:
    started: list[Hosted] = []

    async def make(world: World, clock=None, briefing: Briefing | None = None) -> Hosted:
        name = "blindhost-test-" + os.urandom(8).hex()
        clock = clock or MonotonicClock()
        door = Door(
            messages=listener(name + "-messages"), blobs=listener(name + "-blobs"), clock=clock
        )
        agent = FakeAgent(name, world.blobs)
        brokers = world.brokers()
        hosted = Hosted(
            world=world,
            agent=agent,
            door=door,
            owner=brokers[world.owner.identity],
            buyer=brokers[world.buyer.identity],
            market=FakeMarket(world),
            clock=clock,
        )
        agent.parties = {identity: broker.receive for identity, broker in brokers.items()}
        agent.parties[world.market.identity] = hosted.market.receive

        def to_buyer(payload: bytes) -> list[bytes]:
            if b"session/progress" in payload[:40]:
                hosted.progress_messages.append(payload)
                return []
            return hosted.buyer.receive(payload)

        agent.parties[world.buyer.identity] = to_buyer
        await door.__aenter__()
        await agent.dial(briefing or world.briefing())
        started.append(hosted)
        return hosted

    yield make
    for hosted in started:
        await hosted.agent.hang_up()
        await hosted.door.__aexit__()


# --- a run ---------------------------------------------------------------------------------------


async def test_a_job_runs_from_briefing_to_a_posted_receipt(host) -> None:
    hosted = await host(World())
    assert await hosted.run() is End.DONE
    world, work = hosted.world, hosted.work
    assert work.filled == {
        InputRole.MODEL: world.weights,
        InputRole.DATASET: world.rows,
    }
    assert work.begun_with == [None]
    assert work.stopped == 1
    last = hosted.market.receipts[-1]
    assert (last.end, last.step, last.first_step) == (End.DONE, 12, 0)
    (output,) = last.outputs
    assert open_output(world, output) == b"an adapter"
    steps = [r.step for r in hosted.owner.reports]
    assert steps == [2, 4, 6, 8, 10, 12]
    events = [p.event for p in hosted.progress]
    assert events[0] is ProgressEvent.STARTED
    assert events[-1] is ProgressEvent.FINISHED
    assert hosted.progress[-1].tensors == bytes([7] * 32)
    assert [p.number for p in hosted.progress] == list(range(1, len(events) + 1))


async def test_progress_is_signed_by_the_key_that_the_receipts_are_signed_by(host) -> None:
    hosted = await host(World())
    await hosted.run()
    signers = {hosted.world.open_progress(p).signer for p in hosted.progress_messages}
    assert signers == {hosted.market.signing_key}


async def test_nothing_plain_crosses_the_door(host) -> None:
    hosted = await host(World())
    await hosted.run()
    carried = b"".join(f.payload for f in hosted.agent.carried) + b"".join(
        hosted.world.blobs.values()
    )
    for secret in (hosted.world.weights[:64], hosted.world.rows[:32], b"an adapter"):
        assert secret not in carried


async def test_committed_checkpoints_are_in_the_blob_store_by_artifact_id(host) -> None:
    hosted = await host(World())
    await hosted.run()
    committed = hosted.market.receipts[-1].committed
    content = open_output(hosted.world, committed)
    assert content == checkpoint_content(hosted.world, generation=1, step=12)


async def test_the_run_never_passes_what_may_be_run(host) -> None:
    hosted = await host(World())
    await hosted.run()
    assert hosted.work.allowed[0] == 4
    assert hosted.work.allowed == sorted(hosted.work.allowed)


async def test_evaluations_leave_within_the_terms(host) -> None:
    recipe = dataclasses.replace(RECIPE, evaluation=EVALUATION)
    hosted = await host(World(recipe=recipe))
    assert await hosted.run() is End.DONE
    assert set(hosted.work.filled) == {InputRole.MODEL, InputRole.DATASET, InputRole.HELDOUT}
    (record,) = [p for p in hosted.progress if p.event is ProgressEvent.EVALUATED]
    assert {m.measure: m.value for m in record.measures} == {
        "loss_base": "3.14",
        "exact_header_base": "0.50",
        "exact_whole_base": "0.10",
    }


async def test_an_evaluate_job_makes_no_output(host) -> None:
    recipe = EvaluateRecipe(
        evaluation=EVALUATION, precision=Precision.FP32, loss_on=LossOn.ASSISTANT
    )
    hosted = await host(World(recipe=recipe))
    assert await hosted.run() is End.DONE
    last = hosted.market.receipts[-1]
    assert (last.end, last.outputs, last.step) == (End.DONE, (), 0)


async def test_a_host_that_says_try_later_is_asked_again(host) -> None:
    hosted = await host(World())
    hosted.agent.later = 3
    assert await hosted.run() is End.DONE


async def test_a_connection_that_drops_in_the_middle_loses_nothing(host) -> None:
    hosted = await host(World())
    hosted.buyer.deaf_to = {CheckpointReport}
    task = hosted.run()
    await until(lambda: hosted.work is not None and hosted.work.step == 4)
    await hosted.agent.hang_up()
    hosted.buyer.deaf_to = set()
    await hosted.agent.dial()
    assert await task is End.DONE
    assert hosted.market.receipts[-1].step == 12


# --- resuming ------------------------------------------------------------------------------------


def resumable(metadata: dict | None = None, job_changes: dict | None = None) -> tuple:
    world = World(generation=2, job_changes=job_changes)
    fields = {"generation": 1, "step": 4} | (metadata or {})
    content = checkpoint_content(world, **fields)
    return world, world.make_checkpoint(generation=1, step=4, content=content), content


async def test_a_job_resumes_from_the_stated_checkpoint(host) -> None:
    world, at, content = resumable()
    hosted = await host(world)
    hosted.owner.stated = hosted.buyer.stated = at
    hosted.change_work = lambda work: setattr(work, "step", 4)
    assert await hosted.run() is End.DONE
    assert hosted.work.begun_with == [content]
    assert hosted.progress[0].resumed_from == at
    assert (hosted.market.receipts[0].first_step, hosted.market.receipts[-1].step) == (4, 12)


@pytest.mark.parametrize(
    ("metadata", "fragment"),
    [
        ({"job": "00"}, "checkpoint of job"),
        ({"generation": "7"}, "checkpoint of generation"),
        ({"step": "6"}, "checkpoint of step"),
        ({"compute_class": "another"}, "the checkpoint is of class"),
    ],
)
async def test_a_checkpoint_whose_content_is_not_the_stated_is_not_begun_with(
    host, metadata: dict, fragment: str
) -> None:
    world, at, _content = resumable(metadata)
    clock = ManualClock()
    hosted = await host(world, clock)
    hosted.owner.stated = hosted.buyer.stated = at
    task = hosted.run()
    await drive(task, clock)
    assert task.result() is End.FAILED
    assert fragment in hosted.said
    assert hosted.work.begun_with == []


async def test_another_class_is_taken_where_the_manifest_allows_it_and_the_receipt_says_so(
    host,
) -> None:
    world, at, content = resumable({"compute_class": "another"}, {"resume_on_other_class": True})
    hosted = await host(world)
    hosted.owner.stated = hosted.buyer.stated = at
    hosted.change_work = lambda work: setattr(work, "step", 4)
    assert await hosted.run() is End.DONE
    assert hosted.work.begun_with == [content]
    assert not hosted.market.receipts[-1].same_class


async def test_an_enclave_of_another_class_than_the_manifests_asks_for_no_key(host) -> None:
    hosted = await host(World(job_changes={"compute_class": "another"}))
    with pytest.raises(RefusedError, match="compute-class"):
        await hosted.run()
    assert hosted.agent.carried == []


# --- what goes wrong -----------------------------------------------------------------------------


async def until(held: Callable[[], bool]) -> None:
    """Let everybody act until it holds."""
    for _turn in range(100_000):
        if held():
            return
        await breathe()
    pytest.fail("it never held")


async def breathe() -> None:
    """Let sockets and threads have a turn."""
    await asyncio.to_thread(os.sched_yield)


async def drive(task: asyncio.Task, clock: ManualClock, seconds: int = 300) -> None:
    """Let a run end under a clock of the test's."""
    for _second in range(seconds):
        for _turn in range(10):
            await breathe()
        if task.done():
            return
        await clock.advance(1000)
    pytest.fail("the run did not end")


async def test_owner_gives_a_junk_output_share_job_ends_unpaid(host) -> None:
    clock = ManualClock()
    hosted = await host(World(), clock)
    hosted.owner.junk_output = True
    task = hosted.run()
    await drive(task, clock)
    assert task.result() is End.FAILED
    assert "the key is not the one" in hosted.said
    assert {r.end for r in hosted.market.receipts} == {None, End.FAILED}
    assert all(r.outputs == () for r in hosted.market.receipts)


async def test_inputs_and_checkpoints_shares_are_gone_before_the_work_begins(
    host, monkeypatch
) -> None:
    vault = Vault()
    monkeypatch.setattr("enclave_runtime.run.Vault", lambda: vault)
    world, at, _content = resumable()
    hosted = await host(world)
    hosted.owner.stated = hosted.buyer.stated = at
    scopes: list[ScopeKind] = []

    def watched(work: FakeWork) -> None:
        work.step = 4
        begin = work.begin

        def beginning(checkpoint: bytes | None) -> None:
            scopes.extend(opens.scope for opens in vault._shares)
            begin(checkpoint)

        work.begin = beginning

    held: list[set[ScopeKind]] = []

    def answering(answer: bytes) -> bytes:
        if not scopes:  # the work has not begun
            held.append({opens.scope for opens in vault._shares})
        return answer

    hosted.change_work, hosted.agent.distort = watched, answering
    assert await hosted.run() is End.DONE
    assert scopes == [ScopeKind.OUTPUT] * 2
    # While the host sends the checkpoint, however slowly, the inputs' shares are gone already.
    assert {ScopeKind.OUTPUT, ScopeKind.DERIVED} in held


async def test_keys_and_work_are_gone_before_the_closing_is_over(host, monkeypatch) -> None:
    """A failure waits for its tick; what it could leak does not."""
    vault, clock = Vault(), ManualClock()
    monkeypatch.setattr("enclave_runtime.run.Vault", lambda: vault)
    hosted = await host(World(), clock)
    hosted.owner.junk_output = True
    task = hosted.run()
    await until(lambda: hosted.work is not None and hosted.work.stopped == 1)
    assert not task.done()
    assert len(vault) == 0
    await drive(task, clock)
    assert hosted.work.stopped == 1


async def test_a_broken_row_is_named_to_the_buyer_and_to_nobody_else(host) -> None:
    clock = ManualClock()
    hosted = await host(World(), clock)

    def breaks(work: FakeWork) -> None:
        work.breaks_at, work.error = InputRole.DATASET, RowError(731, "no messages")

    hosted.change_work = breaks
    task = hosted.run()
    await drive(task, clock)
    assert task.result() is End.FAILED
    (record,) = [p for p in hosted.progress if p.event is ProgressEvent.FAILED]
    assert "dataset: line 731" in record.text
    assert not any(b"line 731" in f.payload for f in hosted.agent.carried)
    assert hosted.market.receipts[-1].end is End.FAILED


async def test_a_refused_release_says_refused_and_fills_nothing(host) -> None:
    hosted = await host(World())
    hosted.owner.refuses = {ReleaseRequest: "terms-not-honoured"}
    assert await hosted.run() is End.REFUSED
    assert hosted.work.filled == {}
    assert hosted.work.stopped == 1


async def test_a_missing_segment_ends_the_run(host) -> None:
    world, clock = World(), ManualClock()
    manifest = world.inputs[InputRole.MODEL].document
    del world.blobs[world.blobs[manifest.segment_list][:32]]
    hosted = await host(world, clock)
    task = hosted.run()
    await drive(task, clock)
    assert task.result() is End.FAILED
    assert "not found" in hosted.said


async def test_a_swapped_segment_ends_the_run(host) -> None:
    world, clock = World(), ManualClock()
    manifest = world.inputs[InputRole.MODEL].document
    name = world.blobs[manifest.segment_list][:32]
    world.blobs[name] = world.blobs[name][:-1] + bytes([world.blobs[name][-1] ^ 1])
    hosted = await host(world, clock)
    task = hosted.run()
    await drive(task, clock)
    assert task.result() is End.FAILED
    assert "another blob" in hosted.said


async def test_a_swapped_public_file_starts_nothing(host) -> None:
    world = World()
    world.blobs[digest(b"{}")] = b"[]"
    hosted = await host(world)
    with pytest.raises(BlindhostError, match="another blob"):
        await hosted.run()
    assert hosted.work is None


async def test_terms_that_name_a_screen_start_nothing(host) -> None:
    from trust.jobs import Screen

    hosted = await host(
        World(terms_changes={"screen": Screen(guard=bytes(32), policy_text=bytes(32))})
    )
    with pytest.raises(RefusedError) as refused:
        await hosted.run()
    assert refused.value.text == "terms that name a screen are refused until screening exists"
    assert hosted.work is None


async def test_used_up_steps_end_the_run_out_of_budget(host) -> None:
    from trust.messages import Allowance

    hosted = await host(World())
    hosted.owner.allowances = [Allowance(tokens=None, steps=3, reports=None)]
    hosted.owner.refuses = {FollowUpKind.ACCOUNT: "budget-steps"}
    assert await hosted.run() is End.OUT_OF_BUDGET
    assert hosted.work.step == 3
    assert hosted.market.receipts[-1].end is End.OUT_OF_BUDGET


async def test_dropped_reports_stop_the_work_and_the_buyer_is_told_for_whom(host) -> None:
    clock = ManualClock()
    hosted = await host(World(), clock)
    hosted.owner.deaf_to = {CheckpointReport}
    task = hosted.run()
    await until(lambda: len(hosted.buyer.reports) == 2)
    for _second in range(40):
        await breathe()
        await clock.advance(1000)
    assert hosted.work.allowed == [4]
    assert f"step 2: {hosted.world.owner.identity.hex()}" in hosted.said
    hosted.owner.deaf_to = set()
    await drive(task, clock)
    assert task.result() is End.DONE


async def test_a_door_that_stays_shut_forgets_the_keys(host) -> None:
    clock = ManualClock()
    hosted = await host(World(), clock)
    hosted.owner.deaf_to = {CheckpointReport}
    task = hosted.run()
    await until(lambda: hosted.work is not None and hosted.work.step == 4)
    await hosted.agent.hang_up()
    await settle()
    await clock.advance(SHUT_MS_MAX - 2000)
    assert not task.done()
    assert hosted.work.stopped == 0
    await clock.advance(3000)
    with pytest.raises(DoorShutError):
        await task
    assert hosted.work.stopped == 1


async def test_a_briefing_that_is_none_starts_nothing(host) -> None:
    hosted = await host(World())
    hosted.agent.parties = {}
    other = World()
    again = await host(hosted.world, briefing=other.briefing())
    with pytest.raises(SessionError, match="launched for"):
        await again.run()


async def test_the_agents_second_briefing_changes_nothing(host) -> None:
    hosted = await host(World())
    task = hosted.run()
    hosted.agent.say(AGENT, World().briefing().encode())
    assert await task is End.DONE
