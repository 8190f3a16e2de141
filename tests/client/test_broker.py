"""The key broker: what it answers over the mailbox, and what it never does, however it dies."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from client.broker import open_incarnation
from client.progress import read_progress
from client.release_log import ReleaseLog
from marketplace.wire import GenerationAsk, ReadyAsk
from tests.client.stage import Crash, Faults, Stage, head_of
from tests.trust.release_world import HOUR, NOW, Enclave, lease
from trust.artifacts import ArtifactKind
from trust.encoding import digest, label_bytes
from trust.identity import PartyKey, verify_signed
from trust.jobs import Close, RankLease
from trust.messages import (
    Acknowledgement,
    End,
    FollowUpKind,
    Hello,
    LogHead,
    Progress,
    ProgressEvent,
    Purpose,
    Refused,
    SealedProgress,
    SignedMessage,
    lease_address,
    parse_message,
)
from trust.release_state import Standing
from trust.sealing import hpke_seal

BOTH = ("owner", "buyer")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def start_both(stage: Stage) -> None:
    for name in BOTH:
        await stage.start(name)


def refusal(answer: object) -> str:
    assert isinstance(answer, Refused), answer
    return answer.code


# --- the ordinary way ----------------------------------------------------------------------------


async def test_both_brokers_grant_an_attested_enclave_its_seat(stage: Stage) -> None:
    await start_both(stage)
    enclave = Enclave()
    for name in BOTH:
        grant = await stage.ask(name, enclave)
        assert isinstance(grant, bytes)
        info, secret = enclave.open(grant)
        assert len(secret.shares) == len(info.scopes) > 0


async def test_restarted_broker_gives_the_same_stored_grant(stage: Stage) -> None:
    await start_both(stage)
    enclave = Enclave()
    first = await stage.ask("owner", enclave)
    stage.stop("owner")
    await stage.start("owner")
    assert await stage.ask("owner", enclave) == first
    assert refusal(await stage.ask("owner", Enclave())) == "seat-taken"


async def test_restarted_broker_forgot_its_nonces(stage: Stage) -> None:
    await start_both(stage)
    enclave = Enclave()
    box = stage.market.boxes[lease_address(lease(100))]
    identity = stage.owner.key.identity
    hello = Hello(version=1, purpose=Purpose.RELEASE, verifier=identity, lease=lease(100))
    stage.market.post(identity, hello.encode(), bytes(32))
    await stage.pump()
    nonce = parse_message(box[-1].payload).nonce  # type: ignore[union-attr]
    stage.stop("owner")
    await stage.start("owner")
    asked = stage.request(stage.owner, enclave, nonce=nonce)
    stage.market.post(identity, asked.request.encode(), lease_address(lease(100)))
    await stage.pump()
    assert refusal(parse_message(box[-1].payload)) == "nonce-unknown"


async def test_broker_fetches_the_chain_of_orders_that_it_missed(stage: Stage) -> None:
    await start_both(stage)
    assert isinstance(await stage.ask("owner", Enclave(), 1), bytes)
    assert isinstance(await stage.ask("owner", Enclave(), 3), bytes)


async def test_garbage_in_the_mailbox_is_dropped_and_the_next_message_answered(
    stage: Stage,
) -> None:
    await start_both(stage)
    identity = stage.owner.key.identity
    for junk in (
        b"\x00",
        b"x" * (1 << 20),
        SignedMessage(signed=b"y" * 300).encode(),
        stage.job.encode(),
        Hello(version=1, purpose=Purpose.METER, verifier=identity, lease=lease(1)).encode(),
    ):
        stage.market.post(identity, junk, bytes(32))
    await stage.pump()
    assert isinstance(await stage.ask("owner", Enclave()), bytes)


async def test_a_flood_of_greetings_keeps_memory_bounded(stage: Stage) -> None:
    from client import broker

    await start_both(stage)
    identity = stage.owner.key.identity
    hello = Hello(version=1, purpose=Purpose.RELEASE, verifier=identity, lease=lease(1))
    for _ in range(broker.NONCES_MAX + 10):
        stage.market.post(identity, hello.encode(), bytes(32))
    await stage.pump()
    running = stage.custody["owner"].broker
    assert running is not None
    assert len(running.state().challenges) == broker.NONCES_MAX
    stage.clock.now += 300_002
    assert isinstance(await stage.ask("owner", Enclave()), bytes)
    assert len(running.state().challenges) < 10


# --- reports, progress, receipts -----------------------------------------------------------------


def stored(stage: Stage, enclave: Enclave, *, keep: bool) -> object:
    """A signed checkpoint manifest of one segment; its blobs are stored or dropped."""
    segment = b"ciphertext"
    segment_list = digest(segment)
    made = stage.derived(enclave.party, ArtifactKind.CHECKPOINT)
    manifest = dataclasses.replace(made.document, segment_list=digest(segment_list))
    stage.market.blobs[digest(segment_list)] = segment_list
    if keep:
        stage.market.blobs[digest(segment)] = segment
    return enclave.party.sign(manifest)


async def test_report_is_acknowledged_once_the_store_holds_every_segment(stage: Stage) -> None:
    await start_both(stage)
    enclave = Enclave()
    await stage.ask("owner", enclave)
    missing = stage.report(enclave, 2, signed=stored(stage, enclave, keep=False))  # type: ignore[arg-type]
    (answer,) = await stage.say("owner", missing.encode())
    assert refusal(answer) == "segments-missing"
    stage.market.blobs[digest(b"ciphertext")] = b"ciphertext"
    (answer,) = await stage.say("owner", missing.encode())
    assert isinstance(answer, SignedMessage)
    said = verify_signed(Acknowledgement, answer.signed, signer=stage.owner.key.identity).document
    assert said.report == missing.digest
    head = verify_signed(LogHead, said.head, signer=stage.owner.key.identity).document
    log = stage.custody["owner"].log
    assert log is not None
    assert head.entries == len(log)


async def test_progress_counts_only_under_the_attested_key(stage: Stage) -> None:
    await start_both(stage)
    enclave = Enclave()
    await stage.ask("buyer", enclave)
    buyer = stage.custody["buyer"]
    stage.enter(stage.submit(progress_key=buyer.keys.progress.public))
    await stage.ask("buyer", other := Enclave())
    for signer in (PartyKey.generate(), other.party):
        record = Progress(
            job=stage.job.digest,
            generation=1,
            rank=0,
            number=1,
            event=ProgressEvent.STEP,
            step=1,
            steps=10,
            tokens=10,
            milliseconds=10,
            measures=(),
            text="",
            tensors=None,
            resumed_from=None,
        )
        signed = signer.sign(record).encode()
        body = len(signed).to_bytes(4, "big") + signed
        info = label_bytes("progress") + stage.job.digest
        sealed = hpke_seal(
            body + bytes(-len(body) % 256), stage.job.document.progress_key, info=info
        )
        message = SealedProgress(job=stage.job.digest, sealed=sealed)
        stage.market.post(stage.buyer.key.identity, message.encode(), bytes(32))
    await stage.pump()
    records, _ = read_progress(buyer.home.progress_path(stage.job.digest))
    assert records == [sealed]


async def test_last_receipt_closes_the_job_everywhere(stage: Stage) -> None:
    await start_both(stage)
    enclave = Enclave()
    for name in BOTH:
        await stage.ask(name, enclave)
    last = stage.receipt(enclave, 1, 10, end=End.DONE, outputs=(bytes(32),))
    await stage.say("buyer", last.encode())
    assert refusal(await stage.ask("owner", Enclave(), 2)) == "job-closed"


async def test_close_that_the_market_shows_is_remembered(stage: Stage) -> None:
    await start_both(stage)
    await stage.ask("owner", Enclave())
    stage.market.shown_close = stage.buyer.key.sign(Close(job=stage.job.digest, at=NOW)).encode()
    stage.market.asks[stage.owner.key.identity] = [ReadyAsk(job=stage.job.digest)]
    await stage.custody["owner"].broker.announce()  # type: ignore[union-attr]
    assert stage.market.ready == []
    assert refusal(await stage.ask("owner", Enclave(), 2)) == "job-closed"


# --- what the market asks ------------------------------------------------------------------------


def generation_ask(stage: Stage, number: int, first: int) -> GenerationAsk:
    orders = stage.market.orders[stage.job.digest]
    return GenerationAsk(
        job=stage.job.digest,
        number=number,
        before=orders[-1].digest if orders else None,
        leases=(RankLease(rank=0, lease=lease(first)),),
        hosts=(bytes(32),),
        expires_at=NOW + HOUR,
    )


async def test_ready_is_said_once_the_other_custodian_was_heard(stage: Stage) -> None:
    await start_both(stage)
    for name in BOTH:
        identity = stage.custody[name].keys.party.identity
        stage.market.asks[identity] = [ReadyAsk(job=stage.job.digest)]
    for name in BOTH:
        await stage.custody[name].broker.announce()  # type: ignore[union-attr]
    assert stage.market.ready == []
    await stage.pump()
    for name in BOTH:
        await stage.custody[name].broker.announce()  # type: ignore[union-attr]
        await stage.custody[name].broker.announce()  # type: ignore[union-attr]
    assert len({each.signer for each in stage.market.ready}) == len(stage.market.ready) == 2


async def test_owner_is_not_ready_for_a_job_under_old_terms(stage: Stage) -> None:
    await start_both(stage)
    newer = stage.publish(number=2, price_microcredits_per_job=5)
    stage.custody["owner"].home.keep(newer)
    stage.market.asks[stage.owner.key.identity] = [ReadyAsk(job=stage.job.digest)]
    for _ in range(3):
        await stage.custody["owner"].broker.announce()  # type: ignore[union-attr]
        await stage.pump()
    assert stage.market.ready == []


async def test_buyer_orders_a_generation_when_the_market_asks(stage: Stage) -> None:
    await start_both(stage)
    asks = stage.market.asks[stage.buyer.key.identity]
    asks[:] = [generation_ask(stage, 1, 100)]
    for _ in range(3):
        await stage.custody["buyer"].broker.announce()  # type: ignore[union-attr]
        await stage.pump()
    assert len(set(stage.market.all_orders)) == 1
    asks[:] = [generation_ask(stage, 2, 200)]
    await stage.custody["buyer"].broker.announce()  # type: ignore[union-attr]
    first, second = stage.market.orders[stage.job.digest]
    assert second.document.before == first.digest


# --- SIGKILL at every write and at every send ----------------------------------------------------


async def order_one(stage: Stage) -> None:
    """The market asks until it has its order: the first answer waits for the other custodian."""
    stage.market.asks[stage.buyer.key.identity] = [generation_ask(stage, 1, 100)]
    for _ in range(2):
        await stage.custody["buyer"].broker.announce()  # type: ignore[union-attr]
        await stage.pump()


async def life(stage: Stage, enclave: Enclave) -> None:
    """All that a buyer's broker does for one job, in the order of a run."""
    await order_one(stage)
    stage.orders[:] = stage.market.orders[stage.job.digest][:1]
    await stage.ask("buyer", enclave)
    made = stored(stage, enclave, keep=True)
    report = stage.report(enclave, 2, signed=made)  # type: ignore[arg-type]
    await stage.say("buyer", report.encode())
    adapter = stage.derived(enclave.party, ArtifactKind.ADAPTER)
    memory = stage.custody["buyer"].log.memory  # type: ignore[union-attr]
    seat = memory.seats.get((stage.job.digest, 1, 0))
    nonce = bytes(32) if seat is None else seat.statement.nonce
    asked = stage.follow_up(
        stage.buyer, enclave, 1, FollowUpKind.SHARE, artifacts=[adapter], nonce=nonce
    )
    await stage.say("buyer", asked.encode())
    last = stage.receipt(enclave, 1, 10, end=End.DONE, outputs=(adapter.digest,))
    await stage.say("buyer", last.encode())


async def actions_of_a_life(folder: Path) -> int:
    stage = Stage(folder)
    await stage.start("owner")
    faults = Faults()
    await stage.start("buyer", faults=faults)
    await life(stage, Enclave())
    log = stage.custody["buyer"].log
    assert log is not None
    assert stage.job.digest in log.memory.closed
    return faults.count


@pytest.mark.slow
async def test_crash_at_every_write_and_send_never_makes_two_grants_for_one_seat(
    tmp_path: Path,
) -> None:
    """Afterwards a rival and then the first enclave ask: at most one of them is ever granted."""
    actions = await actions_of_a_life(tmp_path / "whole")
    assert actions > 12
    outcomes = set()
    for at in range(1, actions + 1):
        for how in ("before", "middle", "after"):
            stage = Stage(tmp_path / f"{at}-{how}")
            await stage.start("owner")
            first, rival = Enclave(), Enclave()
            try:
                await stage.start("buyer", faults=Faults(at, how))
                await life(stage, first)
            except Crash:
                pass
            stage.stop("buyer")
            await stage.start("buyer")
            await order_one(stage)
            stage.orders[:] = stage.market.orders[stage.job.digest][:1]
            outcome = []
            for enclave in (rival, first):
                answer = await stage.ask("buyer", enclave)
                outcome.append("grant" if isinstance(answer, bytes) else refusal(answer))
            assert len(stage.grants(stage.buyer.key.identity)) <= 1
            assert len(set(stage.market.all_orders)) <= 1
            assert outcome.count("grant") <= 1
            outcomes.add(tuple(outcome))
            stage.stop("buyer")
            stage.stop("owner")
    assert ("grant", "seat-taken") in outcomes
    assert ("seat-taken", "grant") in outcomes


async def test_crash_between_write_and_send_of_a_grant(stage: Stage) -> None:
    """The grant is on the disk and was never sent: only its own pair is given it."""
    await stage.start("buyer")
    first = Enclave()
    faults = Faults()
    await stage.start("owner", faults=faults)
    await stage.ask("owner", Enclave(), order=stage.order(1, expires_at=NOW))
    faults.at, faults.how = None, "before"
    for_next = faults.count
    hello_and_write = 2
    faults.at = for_next + hello_and_write + 2
    with pytest.raises(Crash):
        await stage.ask("owner", first)
    assert stage.grants(stage.owner.key.identity) == set()
    stage.stop("owner")
    await stage.start("owner")
    assert refusal(await stage.ask("owner", Enclave())) == "seat-taken"
    assert isinstance(await stage.ask("owner", first), bytes)


# --- restored and copied brokers -----------------------------------------------------------------


async def history(stage: Stage) -> list[Path]:
    """Copies of the owner's home at every commit point of a long history, the newest last."""
    await start_both(stage)
    home = stage.custody["owner"].home.folder
    copies: list[Path] = []

    def copy() -> None:
        target = stage.folder / f"copy-{len(copies)}"
        shutil.copytree(home, target)
        target.chmod(0o700)
        copies.append(target)

    copy()
    for generation in (1, 2):
        enclave = Enclave()
        await stage.ask("owner", enclave, generation)
        copy()
        report = stage.report(enclave, 2 * generation, generation)
        manifest = stored(stage, enclave, keep=True)
        del report
        made = dataclasses.replace(
            manifest.document,  # type: ignore[attr-defined]
            core=dataclasses.replace(
                manifest.document.core,  # type: ignore[attr-defined]
                origin=dataclasses.replace(
                    manifest.document.core.origin,  # type: ignore[attr-defined]
                    generation=generation,
                ),
            ),
        )
        report = stage.report(enclave, 2 * generation, generation, signed=enclave.party.sign(made))
        await stage.say("owner", report.encode(), generation)
        copy()
    stage.stop("owner")
    return copies


@pytest.mark.parametrize("witness", ["market", "custodian", "own place"])
async def test_restored_broker_releases_nothing(stage: Stage, witness: str) -> None:
    """From every earlier commit point, with one single witness of the newest head left."""
    copies = await history(stage)
    place = stage.folder / "elsewhere"
    shutil.copytree(copies[-1] / "heads", place)
    if witness != "market":
        stage.market.hides_heads = True
    if witness != "custodian":
        stage.custody["buyer"].broker = None  # it is offline, and nobody is left to ask
    for index, copy in enumerate(copies):
        shutil.rmtree(copy / "heads")
        here = place if witness == "own place" else None
        broker = await stage.start("owner", folder=copy, place=here)
        for generation in (1, 2, 3):
            before = stage.grants(stage.owner.key.identity, generation)
            await stage.ask("owner", Enclave(), generation)
            after = stage.grants(stage.owner.key.identity, generation)
            if index < len(copies) - 1:
                assert after == before, (index, generation)
        if index < len(copies) - 1:
            assert broker.standing is Standing.BEHIND
        stage.stop("owner")


async def test_newest_copy_goes_on_where_it_was(stage: Stage) -> None:
    copies = await history(stage)
    await stage.start("owner", folder=copies[-1])
    assert isinstance(await stage.ask("owner", Enclave(), 3), bytes)


async def test_new_incarnation_opens_a_restored_broker_and_closes_old_generations(
    stage: Stage,
) -> None:
    copies = await history(stage)
    log = ReleaseLog.open(copies[1] / "release-log", now=stage.clock())
    head = verify_signed(
        LogHead, stage.market.heads[stage.owner.key.identity], signer=stage.owner.key.identity
    )
    assert open_incarnation(log, [head], stage.clock()) == 2
    log.close()
    broker = await stage.start("owner", folder=copies[1])
    assert broker.standing is Standing.CURRENT
    assert refusal(await stage.ask("owner", Enclave(), 2)) == "order-before-incarnation"
    stage.clock.now += 310_000
    fresh = stage.order(3, expires_at=stage.clock.now + HOUR)
    assert isinstance(await stage.ask("owner", Enclave(), 3, order=fresh), bytes)
    assert head_of(stage.market, stage.owner.key).incarnation == 2


async def test_copied_broker_notices_the_other_one(stage: Stage) -> None:
    """Laptop and daemon, one keystore: whoever is behind stops."""
    await start_both(stage)
    home = stage.custody["owner"].home.folder
    shutil.copytree(home, stage.folder / "laptop")
    (stage.folder / "laptop").chmod(0o700)
    await stage.ask("owner", Enclave(), 1)
    stage.stop("owner")
    await stage.start("owner", folder=stage.folder / "laptop")
    assert refusal(await stage.ask("owner", Enclave(), 2)) == "broker-behind"


async def test_stale_answer_about_heads_is_worth_nothing(stage: Stage) -> None:
    """The market replays an answer of the other custodian from before the restart."""
    await start_both(stage)
    enclave = Enclave()
    await stage.ask("owner", enclave)
    identity = stage.owner.key.identity
    recorded = [
        each for each in stage.market.boxes[identity] if each.sender == stage.buyer.key.identity
    ]
    assert recorded
    stage.stop("owner")
    stage.custody["buyer"].broker = None
    await stage.start("owner")
    for message in recorded:
        stage.market.post(identity, message.payload, message.sender)
    assert await stage.ask("owner", Enclave(), 2) is None


async def test_second_broker_on_one_home_does_not_start(stage: Stage) -> None:
    from client.files import HomeError

    await stage.start("owner")
    with pytest.raises(HomeError, match="another broker"):
        await stage.start("owner")
