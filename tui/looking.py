"""What a subject's facts come from: a watch for each kind of thing that there is to look at."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

import client
from tui import commands, facts, translate, translate_jobs
from tui.commands import Kind
from tui.talk import Talk

if TYPE_CHECKING:
    from tui.hub import Hub

SEARCH_SECONDS: Final = 5.0  # how old what is shown of the book may get
KEYS_SECONDS: Final = 5.0
MONEY_SECONDS: Final = 3.0
ENTRIES_SHOWN: Final = 200
JOBS_WITH_RECEIPTS: Final = 50  # newest jobs whose receipts stand on the money screen
EVENTS_SHOWN: Final = 500  # newest events of a job; older ones are asked for


class Looking:
    """The watches. Each runs until it is cancelled; what it raises is its caller's."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._search: commands.Search | None = None
        self._searched = asyncio.Event()
        self._headlines: dict[tuple[str, int], str] = {}
        self._heads: dict[str, facts.JobHead] = {}
        self._talk: Talk | None = None
        self.watchers: Mapping[Kind, Callable[[str], Awaitable[None]]] = {
            Kind.OFFERS: self._offers,
            Kind.JOBS: self._jobs,
            Kind.JOB: self._job,
            Kind.TRUST: self._trust,
            Kind.MONEY: self._money,
            Kind.CHAT: self._chat,
            Kind.KEYS: self._keys,
        }

    # --- offers ----------------------------------------------------------------------------------

    async def search(self, command: commands.Search) -> None:
        """Show what fits, and keep it fresh while somebody looks."""
        self._search = command
        self._searched.set()
        await self._show_offers(command)

    async def _offers(self, _of: str) -> None:
        while True:
            self._searched.clear()
            try:
                async with asyncio.timeout(SEARCH_SECONDS):
                    await self._searched.wait()
            except TimeoutError:
                if self._search is not None:
                    await self._show_offers(self._search)

    async def _show_offers(self, command: commands.Search) -> None:
        hub, browser = self._hub, await self._hub.browser()
        query = command.query
        try:
            if command.explain:
                clauses, found = await browser.explain(query)
                hub.arrive(translate.funnel(query, clauses, found, hub.clock()))
            _, page = await browser.search(query, command.sort, command.start, command.rows)
        except client.QueryError as error:
            hub.arrive(translate.query_error(query, error, hub.clock()))
            return
        now = hub.clock()
        hub.arrive(translate.offer_page(query, command.sort, command.start, page, now))
        if hub.party is None:
            return  # no policies, no draft: nothing is known of any release
        previews = await hub.party.preview(page.offers)
        for offer, found_preview in zip(page.offers, previews, strict=True):
            hub.arrive(translate.preview(offer.draft.offer, found_preview, now))

    # --- jobs ------------------------------------------------------------------------------------

    async def _jobs(self, _of: str) -> None:
        hub, party = self._hub, await self._hub.opened()
        seen: set[str] = set()
        self._heads.clear()  # whoever looks anew is told all of them
        while True:  # a step is news although the market's view is the same
            views = await party.api.get_jobs()
            called = await party.jobs_called()
            for view in views:
                record = None
                if view.state not in translate.ENDED:
                    record = await party.last_record(view.job)
                self._tell_head(view, called, record)
            names = {view.job.hex() for view in views}
            for gone in seen - names:
                self._tell_gone(gone)
            seen = names
            await asyncio.sleep(hub.poll_seconds)

    def _tell_head(
        self,
        view: client.JobView,
        called: Mapping[bytes, tuple[str, str]],
        record: client.Progress | None,
    ) -> None:
        name, kind = called.get(view.job, ("", ""))
        head = translate_jobs.job_head(
            view,
            name=name,
            kind=kind,
            record=record,
            simulated=self._hub.simulated,
            now=self._hub.clock(),
        )
        before = self._heads.get(head.id)
        if before is None or dataclasses.replace(before, as_of=head.as_of) != head:
            self._heads[head.id] = head
            self._hub.arrive(head)

    def _tell_gone(self, job: str) -> None:
        head = self._heads.pop(job, None)
        if head is not None:
            self._hub.arrive(dataclasses.replace(head, gone=True, as_of=self._hub.clock()))

    async def _job(self, of: str) -> None:
        hub, party = self._hub, await self._hub.opened()
        job = client.parse_hex(of)
        called = await party.jobs_called()
        self._heads.pop(of, None)
        appraised = -1
        events: list[client.StoryEvent] = []
        async for each in party.watch_job(job, after_event=0, poll_seconds=hub.poll_seconds / 4):
            now = hub.clock()
            match each:
                case client.StoryEvent():
                    events.append(each)
                case client.Progress():
                    hub.arrive(translate_jobs.progress(each, None, now))
                case client.CheckedReceipt():
                    hub.arrive(translate.receipt(of, each, now))
                case client.JobStanding():
                    self._tell_head(each.view, called, each.last)
                    for fact in translate_jobs.standing(each):
                        hub.arrive(fact)
                    if each.last is not None:
                        left = each.milliseconds_left
                        hub.arrive(translate_jobs.progress(each.last, left, now))
                    if len(each.known.seats) != appraised:
                        appraised = len(each.known.seats)
                        await self.appraise(of)
            if not isinstance(each, client.StoryEvent) and events:
                for event in events[-EVENTS_SHOWN:]:
                    hub.arrive(translate_jobs.event(of, event, now))
                events.clear()

    # --- trust -----------------------------------------------------------------------------------

    async def appraise(self, of: str, generation: int | None = None) -> int:
        """Appraise again, now; returns how many verdicts were told."""
        hub, party = self._hub, await self._hub.opened()
        found = [
            each
            for each in await party.appraise(client.parse_hex(of))
            if generation in {None, each.generation}
        ]
        for each in found:
            was = self._headlines.get((of, each.generation), "")
            fact = translate.attestation(each, was)
            self._headlines[of, each.generation] = fact.headline
            hub.arrive(fact)
        return len(found)

    async def _trust(self, of: str) -> None:
        hub, party = self._hub, await self._hub.opened()
        job = client.parse_hex(of)
        told, heard = -1, -1
        while True:
            seats = (await party.own_log()).seats(job)
            if len(seats) != told:  # one's own part needs no market
                told = len(seats)
                await self.appraise(of)
                self._tell_releases(party, seats)
            if len(seats) != heard:
                tell = functools.partial(self._others, party, seats, of)
                await hub.patiently(f"others:{of}", tell)
                heard = len(seats)
            await asyncio.sleep(hub.poll_seconds)

    async def _others(self, party: client.Party, seats: tuple[client.Seated, ...], of: str) -> None:
        for other in await party.others(seats):
            self._hub.arrive(translate.others_head(other, of, self._hub.clock()))

    def _tell_releases(self, party: client.Party, seats: tuple[client.Seated, ...]) -> None:
        newest: dict[bytes, int] = {}
        for each in seats:
            job = each.statement.job
            newest[job] = max(newest.get(job, 0), each.statement.generation)
        for each in seats:
            fenced = each.statement.generation < newest[each.statement.job]
            now = self._hub.clock()
            self._hub.arrive(translate.release(each, party.identity, fenced=fenced, now=now))

    # --- money -----------------------------------------------------------------------------------

    async def _money(self, _of: str) -> None:
        hub, party = self._hub, await self._hub.opened()
        told, receipts = 0, dict[bytes, client.CheckedReceipt]()
        while True:
            lines = await party.lines()
            fresh = [each for each in lines if each.number > told][-ENTRIES_SHOWN:]
            for each in reversed(fresh):
                hub.arrive(translate.entry(each, hub.clock()))
            told = lines[-1].number if lines else told
            for view in (await party.api.get_jobs())[:JOBS_WITH_RECEIPTS]:
                if not view.money.captured:
                    continue
                for receipt in await party.receipts(view.job):
                    if receipts.get(receipt.digest) != receipt:
                        receipts[receipt.digest] = receipt
                        hub.arrive(translate.receipt(view.job.hex(), receipt, hub.clock()))
            await asyncio.sleep(MONEY_SECONDS)

    # --- chat ------------------------------------------------------------------------------------

    @property
    def talk(self) -> Talk:
        """The chat with the home's own gateway."""
        if self._talk is None:
            self._talk = Talk(self._hub.gateway, self._hub.arrive, self._hub.clock)
        return self._talk

    async def _chat(self, _of: str) -> None:
        await self.talk.watch()

    async def close(self) -> None:
        """Stop every reply."""
        if self._talk is not None:
            await self._talk.close()

    # --- keys and consents -----------------------------------------------------------------------

    async def _keys(self, _of: str) -> None:
        hub, party = self._hub, await self._hub.opened()
        told = -1
        while True:
            await hub.tell_setup()
            log = await party.own_log()
            if len(log.all_seats) != told:
                told = len(log.all_seats)
                self._tell_releases(party, log.all_seats)
            await self._brokers(party, log.all_seats)
            await self.tell_consents()
            await asyncio.sleep(KEYS_SECONDS)

    async def tell_consents(self) -> None:
        """Every consent, as it stands."""
        hub, party = self._hub, await self._hub.opened()
        for consent, others in await party.consents():
            hub.arrive(translate.consent(consent, party.identity, others, hub.clock()))

    async def _brokers(self, party: client.Party, seats: tuple[client.Seated, ...]) -> None:
        hub = self._hub
        view = await party.view()
        running = {True: "running here", False: "not running here", None: "not known"}
        waiting = tuple(
            each.job.hex()
            for each in await party.api.get_jobs()
            if each.state not in translate.ENDED and "broker" in (each.waiting_for or "")
        )
        mine = facts.BrokerState(
            as_of=hub.clock(),
            custodian=party.identity.hex(),
            mine=True,
            words=running[view.broker_runs] if view.broker_ran else "never ran here",
            last_seen=hub.clock() if view.broker_runs else None,
            waiting_jobs=waiting,
        )
        hub.arrive(mine)
        for other in await party.others(seats):
            state = facts.BrokerState(
                as_of=hub.clock(),
                custodian=other.identity.hex(),
                mine=False,
                words=translate.words(other.words),
                last_seen=other.said_at,
                waiting_jobs=(),
            )
            hub.arrive(state)
