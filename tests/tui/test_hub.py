"""The hub: facts without being asked, commands once, backoff, cancelling, nothing held."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from client.market_api import MarketApi, MarketUnreachableError
from client.owner import sign_use_policy
from marketplace import wire
from tests.client.test_owner_and_buyer import ASSETS, ROW
from tests.marketplace.api.rig import (
    IMAGE,
    Rig,
    key16,
    root,
)
from tests.marketplace.world import CREDIT, HOST, MARKET, NOW, fund, manifest, terms
from tests.tui.hub_rig import PASSPHRASE, Desk, Window, desk, name, rig
from trust.custody import LineageKind
from trust.jobs import UsePolicy
from trust.verifier.policy import simulated_policy
from tui import commands, facts
from tui.hub import BACKOFF_SECONDS, Hub

TURNS_LEAST = 20

__all__ = ["desk", "rig"]  # fixtures


async def test_setup_balance_and_link_come_without_being_asked_for(desk: Desk) -> None:
    setup = await desk.window.until(facts.Setup)
    assert setup.identity == desk.keys.party.identity.hex()
    assert (setup.locked, setup.simulated, setup.broker) == (False, True, "never ran")
    link = await desk.window.until(facts.Connection)
    assert link.link is facts.Link.ONLINE
    balance = await desk.window.until(facts.Balance)
    assert (balance.free, balance.empty_in) == (0, None)


async def test_an_empty_folder_is_signed_out_and_keys_are_made_there(
    rig: Rig, tmp_path: Path
) -> None:
    hub, window = Hub(tmp_path / "new", clock=lambda: rig.time[0], poll_seconds=0.05), Window()
    hub.start(window.arrive)
    await window.until(facts.Connection, lambda each: each.link is facts.Link.SIGNED_OUT)
    hub.post(
        commands.MakeKeys(
            id=name(),
            passphrase=PASSPHRASE,
            market_url=rig.url,
            market_identity=MARKET.identity.hex(),
        )
    )
    setup = await window.until(facts.Setup, lambda each: bool(each.identity))
    assert setup.market_url == rig.url
    await window.until(facts.Connection, lambda each: each.link is facts.Link.ONLINE)
    hub.post(commands.LockKeys(id=name()))
    await window.until(facts.Connection, lambda each: each.link is facts.Link.LOCKED)
    assert hub.party is None
    assert (await window.until(facts.KeyState, lambda each: each.locked)).lineages == ()
    hub.post(commands.Unlock(id="wrong", passphrase="another passphrase"))
    refused = await window.until(facts.Failure, lambda each: each.where == "wrong")
    assert refused.code == "KeystoreError"
    before = len(window.facts)
    hub.post(commands.Unlock(id=name(), passphrase=PASSPHRASE))
    await window.until(facts.Connection, lambda each: each.link is facts.Link.ONLINE, after=before)
    await hub.stop()
    assert "canary" not in repr(window.facts)


async def test_a_search_brings_a_page_a_funnel_and_what_policies_say(desk: Desk) -> None:
    for platform in ("sev-snp", "tdx"):
        draft = desk.rig.draft(platform=platform, gpu_model="H100", gpus=2)
        await desk.rig.api(HOST).post_offer(draft, key=key16())
    query = commands.Search(
        id=name(), query="gpu=h100 price<=0.5", sort="", start=0, rows=10, explain=True
    )
    desk.hub.post(query)
    page = await desk.window.until(facts.OfferPage)
    assert (page.query, page.total, page.listed) == (query.query, 0, 2)
    funnel = await desk.window.until(facts.Funnel)
    assert [(each.clause, each.left) for each in funnel.steps] == [
        ("gpu=h100", 2),
        ("price<=0.5", 0),
    ]
    assert (funnel.steps[1].looser, funnel.steps[1].gain) == ("price<=1", 2)
    assert "price 1, wanted price<=0.5" in funnel.nearest_miss
    second = dataclasses.replace(query, id=name(), query="gpu=H100", start=1, explain=False)
    desk.hub.post(second)
    page = await desk.window.until(facts.OfferPage, lambda each: each.start == 1)
    assert (page.total, len(page.rows), page.rows[0].gpus) == (2, 1, 2)


async def test_whoever_has_no_keys_looks_at_offers_and_can_do_nothing_else(
    rig: Rig, tmp_path: Path
) -> None:
    await rig.api(HOST).post_offer(rig.draft(gpu_model="H100"), key=key16())
    folder = tmp_path / "new"
    hub, window = Hub(folder, clock=lambda: rig.time[0], poll_seconds=0.05), Window()
    hub.start(window.arrive)
    query = commands.Search(id="none", query="", sort="", start=0, rows=10, explain=True)
    hub.post(query)
    refused = await window.until(facts.Failure, lambda each: each.where == "none")
    assert "no market is named here yet" in refused.words
    hub.post(
        commands.PinMarket(id=name(), market_url=rig.url, market_identity=MARKET.identity.hex())
    )
    hub.post(dataclasses.replace(query, id=name()))  # at once: it waits for the market's name
    page = await window.until(facts.OfferPage)
    assert (page.total, page.rows[0].gpu_model) == (1, "H100")
    setup = await window.until(facts.Setup, lambda each: bool(each.market_url))
    assert (setup.identity, setup.market_url) == ("", rig.url)
    assert not window.of(facts.PolicyPreview)  # there is no policy that could say anything
    assert hub.party is None
    assert not (folder / "keystore").exists()
    hub.post(
        commands.PinMarket(id="plain", market_url="http://192.0.2.1", market_identity="5f" * 32)
    )
    await window.until(facts.Failure, lambda each: each.where == "plain")
    await hub.stop()


async def test_locked_keys_hide_no_offers_and_sign_no_search(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.window.until(facts.Connection, lambda each: each.link is facts.Link.ONLINE)
    await desk.rig.api(HOST).post_offer(desk.rig.draft(gpu_model="H100"), key=key16())
    desk.hub.post(commands.LockKeys(id=name()))
    await desk.window.until(facts.Connection, lambda each: each.link is facts.Link.LOCKED)
    askers: list[bytes] = []
    real = MarketApi.search_offers

    async def seen(self: MarketApi, query: wire.OfferQuery) -> wire.OfferPage:
        askers.append(self.identity)
        return await real(self, query)

    monkeypatch.setattr(MarketApi, "search_offers", seen)
    query = commands.Search(id=name(), query="", sort="", start=0, rows=10, explain=False)
    desk.hub.post(query)
    assert (await desk.window.until(facts.OfferPage)).total == 1
    assert desk.keys.party.identity not in askers


async def test_an_offer_that_own_policies_rule_out_says_which_check(desk: Desk) -> None:
    entry = desk.keys.new_lineage(LineageKind.SIMULATED)
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
    drafts = {p: desk.rig.draft(platform=p) for p in ("sev-snp", "tdx")}
    for draft in drafts.values():
        await desk.rig.api(HOST).post_offer(draft, key=key16())
    desk.hub.post(commands.Search(id=name(), query="", sort="", start=0, rows=10, explain=False))
    refused = await desk.window.until(
        facts.PolicyPreview, lambda each: each.offer == drafts["tdx"].offer
    )
    assert refused.would is facts.Would.REFUSE
    assert refused.check.startswith("platform")
    open_ = await desk.window.until(
        facts.PolicyPreview, lambda each: each.offer == drafts["sev-snp"].offer
    )
    assert open_.would is facts.Would.UNKNOWN


async def test_a_query_that_cannot_be_read_is_a_fact_with_its_column(desk: Desk) -> None:
    desk.hub.post(
        commands.Search(id=name(), query="gpu=A regoin=eu", sort="", start=0, rows=1, explain=False)
    )
    error = await desk.window.until(facts.QueryError)
    assert (error.at, error.suggestion) == (6, "region")


async def test_a_command_with_a_known_id_does_nothing_more(desk: Desk) -> None:
    command = commands.Search(id="same", query="", sort="", start=0, rows=1, explain=False)
    desk.hub.post(command)
    await desk.window.until(facts.OfferPage)
    while desk.hub.runs("search"):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    desk.hub.post(command)
    desk.hub.post(dataclasses.replace(command, query="gpu=x"))
    assert not desk.hub.runs("search")
    other = dataclasses.replace(command, id="other", query="gpus=1")
    desk.hub.post(other)
    await desk.window.until(facts.OfferPage, lambda each: each.query == "gpus=1")
    assert [each.query for each in desk.window.of(facts.OfferPage)] == ["", "gpus=1"]


async def test_a_market_that_goes_and_comes_back_is_told_with_its_backoff(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.window.until(facts.Connection, lambda each: each.link is facts.Link.ONLINE)
    assert desk.hub.party is not None
    api = desk.hub.party.api
    asked = api._ask_once
    down = True

    async def gone(*words: Any) -> bytes:
        if down:
            raise MarketUnreachableError("no answer \x1b[2J")
        return await asked(*words)

    monkeypatch.setattr(api, "_ask_once", gone)
    desk.look(commands.Kind.MONEY)
    offline = await desk.window.until(
        facts.Connection, lambda each: each.link is facts.Link.OFFLINE and each.attempt >= 3
    )
    assert offline.retry_in is not None
    assert "\x1b" not in offline.words
    first = next(e for e in desk.window.of(facts.Connection) if e.link is facts.Link.OFFLINE)
    assert offline.since == first.since
    assert [e for e in desk.window.of(facts.Failure) if e.retry_in is not None]
    down, before = False, len(desk.window.facts)
    await desk.window.until(
        facts.Connection, lambda each: each.link is facts.Link.ONLINE, after=before
    )


def test_the_wait_grows_to_half_a_minute_and_is_never_the_same_for_all(tmp_path: Path) -> None:
    hub = Hub(tmp_path, clock=lambda: NOW)
    for attempt, seconds in enumerate((*BACKOFF_SECONDS, 30.0, 30.0)):
        waits = {hub._wait(attempt) for _ in range(50)}
        assert len(waits) > 10
        assert 0.75 * seconds <= min(waits) <= max(waits) <= 1.25 * seconds


async def test_who_looks_away_cancels_what_ran_for_that_alone(desk: Desk) -> None:
    await desk.window.until(facts.Setup)
    subject = commands.Subject(kind=commands.Kind.KEYS)
    desk.hub.post(commands.Look(id=name(), subject=subject))
    await desk.window.until(facts.BrokerState)
    assert desk.hub.runs("look:keys:")
    desk.hub.post(commands.LookAway(id=name(), subject=subject))
    assert not desk.hub.runs("look:keys:")
    assert desk.hub.runs("base")


async def test_money_comes_newest_first_and_becomes_a_file(desk: Desk, tmp_path: Path) -> None:
    for amount in (3 * CREDIT, 2 * CREDIT):
        await desk.rig.write(lambda session, n=amount: fund(session, n, desk.keys.party))
    desk.look(commands.Kind.MONEY)
    await desk.window.until(facts.Entry, lambda each: each.number == 1)
    assert [each.number for each in desk.window.of(facts.Entry)] == [2, 1]
    entry = desk.window.of(facts.Entry)[0]
    assert (entry.words, entry.amount, entry.balance_after) == ("paid in", 2 * CREDIT, 5 * CREDIT)
    path = tmp_path / "books.beancount"
    command = commands.WriteStatement(
        id=name(), month="2027-01", form=commands.StatementForm.BEANCOUNT, path=str(path)
    )
    desk.hub.post(command)
    done = await desk.window.until(facts.Exported)
    assert done.command == command.id
    assert "balance Assets:Blindhost:Free  5.000000 CREDIT" in path.read_text()
    desk.hub.post(dataclasses.replace(command, id="again"))
    refused = await desk.window.until(facts.Failure, lambda each: each.where == "again")
    assert "never overwritten" in refused.words


async def test_a_dataset_is_checked_whole_and_sealed_with_progress(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.window.until(facts.Setup)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(ROW + "{}\n" + ROW + "\n")
    desk.hub.post(commands.CheckDataset(id=name(), path=str(bad)))
    check = await desk.window.until(facts.DatasetCheck, lambda each: each.done)
    assert (check.rows, check.faults_total) == (2, 2)
    assert [each.line for each in check.faults] == [2, 4]
    desk.hub.post(commands.SealDataset(id="bad", path=str(bad), name="x"))
    assert "line 2" in (await desk.window.until(facts.Failure)).words
    rows = str(ASSETS / "eval.jsonl")
    desk.hub.post(commands.SealDataset(id=name(), path=rows, name="tone"))
    sealed = await desk.window.until(facts.SealProgress, lambda each: each.stage == "done")
    setup = await desk.window.until(facts.Setup, lambda each: bool(each.data))
    (data,) = setup.data
    assert (data.id, data.name, data.rows) == (sealed.artifact, "tone", 200)


async def test_a_job_is_told_by_head_stages_cost_and_events(desk: Desk) -> None:
    agreed = terms()
    job = manifest(agreed, buyer=desk.keys.party)
    view = wire.JobView(
        job=job.digest,
        buyer=desk.keys.party.identity,
        owner=bytes(32),
        state=wire.JobState.QUEUED,
        generation=0,
        generation_digest=None,
        waiting_for="key broker of \x1b]52;c;x\x07qwen",
        money=wire.MoneyView(reserved=9, captured=0, released=0),
        leases=(),
        created_at=NOW,
        deadline=None,
    )
    await desk.window.until(facts.Setup)
    assert desk.hub.party is not None
    api = desk.hub.party.api

    async def get_job(_: bytes) -> wire.JobView:
        return view

    async def get_jobs() -> tuple[wire.JobView, ...]:
        return (view,)

    async def get_receipts(_: bytes, *, after: int = 0) -> tuple[wire.ReceiptView, ...]:
        return ()

    api.get_job, api.get_jobs, api.get_receipts = get_job, get_jobs, get_receipts  # type: ignore[method-assign]
    name_ = job.digest.hex()
    desk.look(commands.Kind.JOB, name_)
    head = await desk.window.until(facts.JobHead)
    assert (head.id, head.state, head.reserved) == (name_, "queued", 9)
    assert "\x1b" not in head.waiting_for
    event = await desk.window.until(facts.JobEvent)
    assert (event.offset, event.kind) == (1, "submitted")
    stages = {each.name: each.state for each in desk.window.of(facts.Stage)}
    assert list(stages) == list(facts.STAGES)
    assert stages["queue"] is facts.StageState.RUNNING
    assert desk.window.of(facts.Cost)[0].cap == 9
    before = len(desk.window.facts)
    desk.look(commands.Kind.JOBS)
    await desk.window.until(facts.JobHead, after=before)


async def test_every_text_of_every_fact_is_clean(desk: Desk, tmp_path: Path) -> None:
    hostile = "\x1b]52;c;aGk=\x1b\\\u202e\x9b31m"
    draft = desk.rig.draft(compute_class=hostile, platform="sev-snp")
    await desk.rig.api(HOST).post_offer(draft, key=key16())
    desk.hub.post(
        commands.Search(
            id=name(), query='class="' + "x" * 9 + '"', sort="", start=0, rows=9, explain=True
        )
    )
    await desk.window.until(facts.Funnel)
    desk.hub.post(commands.Search(id=name(), query="", sort="", start=0, rows=9, explain=True))
    await desk.window.until(facts.OfferPage, lambda each: each.total == 1)
    shown = repr([dataclasses.asdict(each) for each in desk.window.facts])  # escapes what is left
    for bad in ("\\x1b", "\\x9b", "\\u202e", "\\x07"):
        assert bad not in shown


async def test_nothing_holds_the_loop_while_files_are_sealed(desk: Desk, tmp_path: Path) -> None:
    await desk.window.until(facts.Setup)
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW * 60_000)
    turns, done = 0, asyncio.Event()

    async def ticks() -> None:
        nonlocal turns
        while not done.is_set():
            await asyncio.sleep(0.001)
            turns += 1

    watch = asyncio.create_task(ticks())
    desk.hub.post(commands.SealDataset(id=name(), path=str(path), name="big"))
    await desk.window.until(facts.SealProgress, lambda each: each.stage == "done")
    done.set()
    await watch
    assert turns > TURNS_LEAST  # held by the sealing, it would not have turned at all


async def test_sealing_that_is_stopped_leaves_nothing_behind(desk: Desk, tmp_path: Path) -> None:
    await desk.window.until(facts.Setup)
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW * 60_000)
    desk.hub.post(commands.SealDataset(id=name(), path=str(path), name="big"))
    await desk.window.until(facts.SealProgress)
    desk.hub.post(commands.StopSealing(id=name(), path=str(path)))
    folder = desk.home.folder / "sealed"
    async with asyncio.timeout(20):
        while list(folder.iterdir()) or desk.hub.runs(f"seal:{path}"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not desk.home.holdings(desk.keys).manifests


async def test_keys_are_backed_up_and_an_epoch_begun(desk: Desk, tmp_path: Path) -> None:
    entry = desk.keys.new_lineage(LineageKind.SIMULATED)
    path = tmp_path / "backup.tar"
    desk.hub.post(commands.BackUp(id=name(), path=str(path)))
    await desk.window.until(facts.Exported)
    assert path.stat().st_mode & 0o777 == 0o600
    await desk.window.until(facts.KeyState, lambda each: each.backed_up is True)
    desk.hub.post(commands.RotateEpoch(id=name(), lineage=entry.lineage.hex()))
    state = await desk.window.until(facts.KeyState, lambda each: each.epoch == 2)
    assert state.backed_up is False


async def test_a_worker_that_breaks_becomes_a_failure_and_takes_nobody_with_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.window.until(facts.Setup)

    async def broken(_of: str) -> None:
        raise ZeroDivisionError(PASSPHRASE)

    monkeypatch.setitem(desk.hub.looking.watchers, commands.Kind.KEYS, broken)  # type: ignore[misc]
    desk.look(commands.Kind.KEYS)
    failure = await desk.window.until(facts.Failure, lambda each: each.where == "look:keys:")
    assert (failure.code, failure.words) == ("error", "ZeroDivisionError")
    assert desk.hub.runs("base")


def test_the_chat_goes_to_the_gateway_of_the_home_that_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other"
    named = Hub(tmp_path, clock=lambda: NOW, gateway=other)
    assert named.looking.talk._home == other
    assert Hub(tmp_path, clock=lambda: NOW).looking.talk._home == tmp_path
