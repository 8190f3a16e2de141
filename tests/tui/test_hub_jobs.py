"""The hub from a draft to a job, and a verdict with no market at all."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from pathlib import Path

import pytest

import client
from client.named import Named, keep_name
from client.owner import sign_use_policy
from marketplace.wire import LeaseState
from tests.client.test_owner_and_buyer import ROW
from tests.client.watch_stage import Watched, loss, make_stage
from tests.marketplace.api.rig import (
    IMAGE,
    input_manifest,
    key16,
    lineage_of,
    root,
)
from tests.marketplace.world import CREDIT, HOST, NOW, OWNER, fund, terms
from tests.trust import release_world as rw
from tests.tui.hub_rig import Desk, Window, desk, name, rig
from tests.tui.killed_window import encode
from trust.artifacts import ArtifactKind
from trust.identity import Signed
from trust.jobs import JobManifest, UsePolicy
from trust.messages import ProgressEvent
from trust.verifier.policy import simulated_policy
from tui import commands, facts
from tui.hub import Hub

__all__ = ["desk", "rig"]  # fixtures


# --- from a draft to a job -----------------------------------------------------------------------


async def draft_of(desk: Desk, tmp_path: Path) -> facts.JobDraft:
    """A model and its terms on the market, rows and a policy of one's own, money, an offer."""
    await desk.window.until(facts.Setup)
    model = input_manifest(ArtifactKind.WEIGHTS, OWNER)
    agreed = terms(lineages=(lineage_of(OWNER),))
    await desk.rig.api(OWNER).put_document(agreed)
    await desk.rig.api(OWNER).put_document(model.encode())
    await desk.rig.api(HOST).post_offer(desk.rig.draft(platform="sev-snp"), key=key16())
    await desk.rig.write(lambda session: fund(session, 9 * CREDIT, desk.keys.party))
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW * 64)
    desk.hub.post(commands.SealDataset(id=name(), path=str(path), name="tone"))
    sealed = await desk.window.until(facts.SealProgress, lambda each: each.stage == "done")
    return facts.JobDraft(
        name="support-tone",
        model=model.digest.hex(),
        data=sealed.artifact,
        heldout="",
        recipe=facts.Recipe(
            rank=8,
            alpha=16,
            steps=100,
            rows_per_step=8,
            learning_rate="0.0002",
            length_max=128,
            seed=7,
            precision="fp32",
            checkpoint_steps=10,
        ),
        spend_max=6 * CREDIT,
        price_max=2 * CREDIT,
        image="",
    )


def publish_policy(desk: Desk) -> None:
    (entry,) = desk.keys.entries()
    appraisal = simulated_policy(root().fingerprint, [IMAGE])
    policy = UsePolicy(
        version=1,
        custodian=desk.keys.party.identity,
        number=1,
        lineages=(entry.lineage,),
        appraisal_policy=appraisal.digest,
        jobs_signed_by=None,
        adapter_to=(),
    )
    sign_use_policy(desk.home, desk.keys, policy, appraisal)


async def test_a_draft_is_quoted_and_submitted_once_however_often(
    desk: Desk, tmp_path: Path
) -> None:
    draft = await draft_of(desk, tmp_path)
    desk.hub.post(commands.WantQuote(id=name(), draft=draft, offer=""))
    quote = await desk.window.until(facts.Quote)
    assert (quote.cost_max, quote.cost_low, quote.milliseconds) == (6 * CREDIT, None, None)
    assert quote.refused.startswith("no-use-policy")
    assert any("Never more than 6000000" in each for each in quote.sentences)
    assert "64 rows" in quote.sentences[0]
    publish_policy(desk)
    desk.hub.post(commands.WantQuote(id=name(), draft=draft, offer=""))
    await desk.window.until(facts.Quote, lambda each: not each.refused)
    submit = commands.Submit(id=name(), draft=draft)
    desk.hub.post(submit)
    result = await desk.window.until(facts.SubmitResult)
    assert (result.outcome, result.command) == (facts.Submitted.ACCEPTED, submit.id), result
    desk.hub.post(submit)
    desk.look(commands.Kind.JOBS)
    head = await desk.window.until(facts.JobHead)
    assert (head.id, head.name, head.reserved) == (result.job, "support-tone", 6 * CREDIT)
    assert len(await desk.rig.api(desk.keys.party).get_jobs()) == 1
    assert len(desk.window.of(facts.SubmitResult)) == 1
    balance = await desk.window.until(facts.Balance, lambda each: each.held > 0)
    assert (balance.free, balance.held) == (3 * CREDIT, 6 * CREDIT)


async def test_a_window_killed_between_send_and_answer_orders_and_pays_once(
    desk: Desk, tmp_path: Path
) -> None:
    """Another process submits, its market takes the job, and SIGKILL ends it before the answer."""
    draft = await draft_of(desk, tmp_path)
    publish_policy(desk)
    submit = commands.Submit(id="c-killed", draft=draft)
    mark = tmp_path / "sent"
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.tui.killed_window", str(desk.home.folder),
        str(desk.rig.time[0]), encode(submit), str(mark),
    )  # fmt: skip
    async with asyncio.timeout(60):
        while not mark.exists():
            assert killed.returncode is None, "it ended by itself"
            await asyncio.sleep(0.02)
    killed.kill()
    await killed.wait()
    (sent,) = await desk.rig.api(desk.keys.party).get_jobs()
    desk.hub.post(submit)
    result = await desk.window.until(facts.SubmitResult)
    assert (result.outcome, result.job) == (facts.Submitted.ACCEPTED, sent.job.hex())
    assert len(await desk.rig.api(desk.keys.party).get_jobs()) == 1
    balance = await desk.window.until(facts.Balance, lambda each: each.held > 0)
    assert (balance.free, balance.held) == (3 * CREDIT, 6 * CREDIT)


async def test_a_window_that_ends_before_it_sends_submits_that_job_later(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = await draft_of(desk, tmp_path)
    publish_policy(desk)
    submit = commands.Submit(id="c-early", draft=draft)
    signed: list[bytes] = []
    stuck = asyncio.Event()

    async def never(_api: object, manifest: Signed[JobManifest], *, key: bytes) -> None:
        signed.append(manifest.digest)
        stuck.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(client.MarketApi, "submit_job", never)
        desk.hub.post(submit)
        await asyncio.wait_for(stuck.wait(), 20)
        await desk.hub.stop()
    assert await desk.rig.api(desk.keys.party).get_jobs() == ()
    hub, window = Hub(desk.home.folder, clock=desk.hub.clock, poll_seconds=0.05), Window()
    hub.start(window.arrive)
    hub.post(submit)
    result = await window.until(facts.SubmitResult)
    assert (result.outcome, result.job) == (facts.Submitted.ACCEPTED, signed[0].hex())
    other = dataclasses.replace(draft, spend_max=2 * CREDIT)
    await hub.stop()
    hub, window = Hub(desk.home.folder, clock=desk.hub.clock, poll_seconds=0.05), Window()
    hub.start(window.arrive)
    hub.post(commands.Submit(id="c-early", draft=other))
    result = await window.until(facts.SubmitResult)
    assert (result.outcome, result.check) == (facts.Submitted.REFUSED, "command-reused")
    await hub.stop()
    assert len(await desk.rig.api(desk.keys.party).get_jobs()) == 1


async def test_what_the_market_refused_for_good_may_be_sent_again_as_another_job(
    desk: Desk, tmp_path: Path
) -> None:
    draft = dataclasses.replace(await draft_of(desk, tmp_path), spend_max=10 * CREDIT)
    publish_policy(desk)
    desk.hub.post(commands.Submit(id="c-poor", draft=draft))
    result = await desk.window.until(facts.SubmitResult)
    assert (result.outcome, result.check) == (facts.Submitted.REFUSED, "no-funds")
    await desk.rig.write(lambda session: fund(session, 9 * CREDIT, desk.keys.party))
    hub, window = Hub(desk.home.folder, clock=desk.hub.clock, poll_seconds=0.05), Window()
    hub.start(window.arrive)
    hub.post(commands.Submit(id="c-poor", draft=draft))
    assert (await window.until(facts.SubmitResult)).outcome is facts.Submitted.ACCEPTED
    await hub.stop()
    assert len(desk.home.holdings(desk.keys).jobs) == 1


async def test_a_model_that_was_given_a_name_is_offered_by_it(desk: Desk) -> None:
    await desk.window.until(facts.Setup)
    keep_name(desk.home, Named(about=b"m" * 32, name="qwen\x1b[2J", rows=None, bytes=None, at=NOW))
    setup = await desk.window.until(facts.Setup, lambda each: bool(each.models))
    (model,) = setup.models
    assert (model.id, model.name, model.owner, model.mine) == (
        (b"m" * 32).hex(),
        "qwen\ufffd[2J",
        "",
        False,
    )


async def test_a_submission_that_is_refused_says_by_which_check(desk: Desk, tmp_path: Path) -> None:
    draft = await draft_of(desk, tmp_path)
    desk.hub.post(commands.Submit(id="early", draft=draft))
    result = await desk.window.until(facts.SubmitResult)
    assert (result.outcome, result.check) == (facts.Submitted.REFUSED, "no-use-policy")
    publish_policy(desk)
    dear = dataclasses.replace(draft, spend_max=10 * CREDIT)
    desk.hub.post(commands.Submit(id="dear", draft=dear))
    result = await desk.window.until(facts.SubmitResult, lambda each: each.command == "dear")
    assert (result.outcome, result.check) == (facts.Submitted.REFUSED, "no-funds")
    wide = dataclasses.replace(draft, recipe=dataclasses.replace(draft.recipe, rank=200))
    desk.hub.post(commands.Submit(id="wide", draft=wide))
    result = await desk.window.until(facts.SubmitResult, lambda each: each.command == "wide")
    assert (result.outcome, result.check) == (facts.Submitted.REFUSED, "recipe-rank")
    assert await desk.rig.api(desk.keys.party).get_jobs() == ()
    assert not desk.home.holdings(desk.keys).jobs  # own broker orders nothing for any of them


# --- trust, with no market at all ----------------------------------------------------------------


async def test_trust_is_verified_here_while_the_market_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(tmp_path)
    for party in ("owner", "buyer"):
        await stage.start(party)
    stage.order(1)
    assert isinstance(await stage.ask("buyer", rw.Enclave()), bytes)
    job = stage.job.digest.hex()
    folder = stage.custody["buyer"].home.folder
    hub, window = Hub(folder, clock=stage.clock, poll_seconds=0.05, backoff=(0.05,)), Window()
    hub.start(window.arrive)
    subject = commands.Subject(kind=commands.Kind.TRUST, of=job)
    hub.post(commands.Look(id=name(), subject=subject))
    found = await window.until(facts.Attestation)
    assert (found.headline, found.simulated) == ("PASSED, 2 checks not made", True)
    assert {each.verdict for each in found.lines} == {
        facts.Verdict.PASSED,
        facts.Verdict.NOT_CHECKED,
        facts.Verdict.NOT_DEMANDED,
    }
    release = await window.until(facts.ReleaseEntry)
    assert (release.number, release.mine, release.job) == (2, True, job)
    await window.until(facts.Connection, lambda each: each.link is facts.Link.OFFLINE)
    path = tmp_path / "transcript.json"
    hub.post(commands.Export(id=name(), job=job, generation=1, path=str(path)))
    await window.until(facts.Exported)
    assert client.open_transcript(path.read_bytes()).appraise(rw.NOW + 9000).simulated
    stage.clock.now += 5000 * 24 * rw.HOUR
    before = len(window.facts)
    hub.post(commands.Verify(id=name(), job=job, generation=1))
    later = await window.until(facts.Attestation, after=before)
    assert (later.headline, later.was) == ("EXPIRED", "PASSED, 2 checks not made")
    hub.post(commands.Verify(id="none", job=job, generation=9))
    await window.until(facts.Failure, lambda each: each.where == "none")
    await hub.stop()
    for party in ("owner", "buyer"):
        stage.stop(party)


async def test_a_step_is_news_on_the_list_although_the_market_says_the_same(
    tmp_path: Path,
) -> None:
    stage = make_stage(tmp_path)
    for party in ("owner", "buyer"):
        await stage.start(party)
    stage.order(1)
    enclave = rw.Enclave()
    assert isinstance(await stage.ask("buyer", enclave), bytes)
    watched = Watched(stage)
    watched.runs(1, LeaseState.READY)
    folder = stage.custody["buyer"].home.folder
    hub, window = Hub(folder, clock=stage.clock, poll_seconds=0.05, backoff=(0.05,)), Window()
    hub.start(window.arrive)
    await window.until(facts.Setup)
    assert hub.party is not None
    hub.party.api.get_jobs = watched.get_jobs  # type: ignore[method-assign]
    hub.post(commands.Look(id=name(), subject=commands.Subject(kind=commands.Kind.JOBS)))
    head = await window.until(facts.JobHead)
    assert (head.state, head.step, head.loss) == ("running", None, "")
    watched.says(enclave, 1, ProgressEvent.STEP, step=10, measures=loss("2.17"))
    head = await window.until(facts.JobHead, lambda each: each.step == 10)
    assert (head.steps, head.loss, head.hosts) == (100, "2.17", 1)
    assert len(window.of(facts.JobHead)) == 2  # one for each thing that changed
    await hub.stop()
    for party in ("owner", "buyer"):
        stage.stop(party)
