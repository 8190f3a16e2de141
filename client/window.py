"""What a buyer's window asks of the client: one opened home and its market, as async calls.

- Whatever reads files, verifies or seals runs in a thread: no call holds the loop for long.
- One try at the market for each call, so that whoever waits is told at once, and decides itself
  when to ask again.
- It decides nothing that the command line does not: both stand on the same functions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from client import account, consents, drafting
from client.account import CheckedReceipt
from client.aside import Finished, Stepped, stepping
from client.browsing import offer_query
from client.buyer import SealedRows, outputs, seal_dataset
from client.closing import send_close
from client.consents import Consent
from client.custodians import OtherCustodian, other_custodians
from client.drafting import Prepared, Quote, TuneDraft
from client.dry_run import Appraisal, Preview, Seated, appraise_job, preview_offer
from client.evidence import EvidenceFolder
from client.files import HomeError
from client.home import Home
from client.home_view import HomeView, view_home
from client.keystore import Keystore, Opener
from client.market_api import MarketAddress, MarketApi, MarketRefusedError
from client.market_port import HttpMarket
from client.named import Named, keep_name, names, shortened
from client.progress import open_progress, read_progress
from client.results import fetch_adapter
from client.sealed import Step
from client.story import Story, StoryEvent
from client.submitting import forget, signed_once
from client.transcript import make_transcript, write_transcript
from client.watch import JobUpdate, OwnLog, watch_job, watch_jobs
from marketplace.wire import (
    AccountView,
    Clause,
    ErrorCode,
    JobView,
    OfferFunnel,
    OfferPage,
    OfferView,
    StatementLine,
)
from trust.custody import LineageKind, lineage_kind
from trust.errors import BlindhostError, RefusedError
from trust.identity import Signed
from trust.jobs import Close, JobManifest, UsePolicy
from trust.messages import Progress

SHARES_SECONDS: Final = 120.0  # how long a custodian's broker is waited for
FINAL: Final = frozenset(
    {
        ErrorCode.NO_FUNDS,
        ErrorCode.REFUSED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.OUTDATED,
        ErrorCode.MALFORMED,
        ErrorCode.TOO_LARGE,
    }
)
"""Refusals of a submission after which the market has stored nothing."""

Clock = Callable[[], int]


class Party:
    """One opened home, and its market asked in this party's name."""

    def __init__(
        self, home: Home, keys: Keystore, session: aiohttp.ClientSession, clock: Clock
    ) -> None:
        self.home, self.keys, self._clock = home, keys, clock
        address = MarketAddress(url=home.config.market_url, identity=home.config.market)
        self.api = MarketApi(session, address=address, key=keys.party, clock=clock, attempts=1)
        self._log = OwnLog(home)
        self._reading = asyncio.Lock()
        self._lines: list[StatementLine] = []
        self._listing = asyncio.Lock()

    @classmethod
    async def open(
        cls, folder: Path, opener: Opener | None, session: aiohttp.ClientSession, clock: Clock
    ) -> Party:
        """Open a home; by its own key file where no opener is named. Raises HomeError and kin."""

        def work() -> tuple[Home, Keystore]:
            home = Home.open(folder)
            return home, home.keystore(opener)

        home, keys = await asyncio.to_thread(work)
        return cls(home, keys, session, clock)

    @property
    def identity(self) -> bytes:
        """Who this is."""
        return self.keys.party.identity

    # --- the home --------------------------------------------------------------------------------

    async def view(self) -> HomeView:
        """How the home stands."""
        seats = (await self.own_log()).all_seats
        return await asyncio.to_thread(view_home, self.home, self.keys, seats)

    async def own_log(self) -> OwnLog:
        """The release log, as it is now. Raises ReleaseLogError."""
        async with self._reading:
            await asyncio.to_thread(self._log.read)
            return self._log

    async def jobs_called(self) -> dict[bytes, tuple[str, str]]:
        """Own jobs: digest → (what a person called it, kind)."""

        def work() -> dict[bytes, tuple[str, str]]:
            called = names(self.home)
            jobs = self.home.load(JobManifest, self.identity)
            return {
                digest: (
                    called[digest].name if digest in called else "",
                    each.document.kind.value,
                )
                for digest, each in jobs.items()
            }

        return await asyncio.to_thread(work)

    # --- offers ----------------------------------------------------------------------------------

    async def search(
        self, query: str, sort: str, start: int, rows: int
    ) -> tuple[tuple[Clause, ...], OfferPage]:
        """Rows from `start` on of what fits. Raises QueryError."""
        asked = offer_query(query, sort, start, rows)
        return asked.clauses, await self.api.search_offers(asked)

    async def explain(self, query: str) -> tuple[tuple[Clause, ...], OfferFunnel]:
        """What each clause leaves. Raises QueryError."""
        asked = offer_query(query, "price", 0, 1)
        return asked.clauses, await self.api.explain_offers(asked)

    async def preview(self, offers: Sequence[OfferView]) -> tuple[Preview, ...]:
        """What one's own policies say of these offers, in their order."""

        def work() -> tuple[Preview, ...]:
            holdings, now = self.home.holdings(self.keys), self._clock()
            return tuple(preview_offer(holdings, each, now) for each in offers)

        return await asyncio.to_thread(work)

    # --- jobs ------------------------------------------------------------------------------------

    def watch_jobs(self, *, poll_seconds: float) -> AsyncIterator[tuple[JobView, ...]]:
        """One's own jobs, whenever they change."""
        return watch_jobs(self.api, poll_seconds=poll_seconds)

    def watch_job(
        self, job: bytes, *, after_event: int, poll_seconds: float
    ) -> AsyncIterator[JobUpdate]:
        """One job's story and standing."""
        return watch_job(
            self.api,
            self.home,
            self.keys,
            job,
            clock=self._clock,
            after_event=after_event,
            poll_seconds=poll_seconds,
        )

    async def last_record(self, job: bytes) -> Progress | None:
        """The newest record of a job that holds under the own log; None: none does yet."""
        memory = (await self.own_log()).memory

        def work() -> Progress | None:
            records, _ = read_progress(self.home.progress_path(job))
            for sealed in reversed(records):
                with contextlib.suppress(BlindhostError):
                    return open_progress(self.keys.progress, memory, job, sealed)
            return None

        return await asyncio.to_thread(work)

    async def quote(self, draft: TuneDraft, offer: OfferView) -> tuple[Prepared, Quote]:
        """A draft as a manifest, and what it would cost on this offer."""
        now = self._clock()
        prepared = await drafting.prepare(self.api, self.home, self.keys, draft, offer, now)
        memory = (await self.own_log()).memory
        terms = prepared.terms.document
        return prepared, drafting.quote(prepared.manifest, terms, offer, memory, now)

    async def check(self, prepared: Prepared) -> None:
        """What a broker would refuse is refused now. Nothing is kept, and nothing is sent."""
        lineages = {
            entry.lineage
            for manifest in prepared.manifests.values()
            for entry in manifest.document.core.custodians
            if entry.identity == self.identity
        }
        policies = await asyncio.to_thread(self.home.load, UsePolicy, self.identity)
        covered = {e for each in policies.values() for e in each.document.lineages}
        for lineage in lineages - covered:
            text = f"no use policy of this home names lineage {lineage.hex()[:18]}…"
            raise RefusedError("no-use-policy", text)

    async def submit(
        self, command: str, draft: TuneDraft, name: str, prepare: Callable[[], Awaitable[Prepared]]
    ) -> JobView:
        """Sign, keep, upload and submit, once for a command, whoever asks how often and from where.

        `prepare` is called where the command has no job yet. Raises what `client.submitting`,
        `client.buyer.sign_job` and the market say.
        """
        memory = (await self.own_log()).memory

        async def make() -> Signed[JobManifest]:
            prepared = await prepare()
            await self.check(prepared)
            now = self._clock()
            return await asyncio.to_thread(
                lambda: prepared.sign(self.home, self.keys, now=now, memory=memory)
            )

        signed = await signed_once(self.home, self.identity, command, draft.digest, make)
        named = Named(
            about=signed.digest, name=shortened(name), rows=None, bytes=None, at=self._clock()
        )
        await asyncio.to_thread(keep_name, self.home, named)
        try:
            return await drafting.submit(HttpMarket(self.api), self.home, signed)
        except MarketRefusedError as error:
            if error.error_code in FINAL:
                await asyncio.to_thread(forget, self.home, command, signed.digest)
            raise

    async def close_job(self, job: bytes) -> None:
        """End a job for good."""
        signed = self.keys.party.sign(Close(job=job, at=self._clock()))
        await send_close(self.api, self.keys, signed)

    async def fetch(self, job: bytes, to: Path) -> AsyncIterator[Stepped | Finished[int]]:
        """A job's adapter into a new folder. Raises HomeError if it made none."""
        memory = (await self.own_log()).memory
        made = outputs(memory, job)
        if not made:
            raise HomeError("the last receipt of this job names no output: it is not done")

        async def work(step: Step) -> int:
            return await fetch_adapter(
                self.home,
                self.keys,
                memory,
                made[0],
                to,
                base_name=None,
                seconds=SHARES_SECONDS,
                clock=self._clock,
                waiting=lambda _custodians: None,
                step=step,
            )

        async for each in stepping(work):
            yield each

    async def story(self, job: bytes) -> Sequence[StoryEvent]:
        """What was told of a job so far."""

        def work() -> Sequence[StoryEvent]:
            told = Story(self.home.folder, job)
            told.tell((), self._clock())
            return told.after(0)

        return await asyncio.to_thread(work)

    # --- data ------------------------------------------------------------------------------------

    async def seal(
        self, path: Path, name: str, kind: LineageKind
    ) -> AsyncIterator[Stepped | Finished[SealedRows]]:
        """Check and seal a dataset under the newest lineage of this kind; a new one at first."""

        def work(step: Step) -> SealedRows:
            own = [e for e in self.keys.entries() if lineage_kind(e.lineage) is kind]
            entry = own[-1] if own else self.keys.new_lineage(kind)
            size = path.stat().st_size
            sealed = seal_dataset(self.home, self.keys, path, entry, step)
            named = Named(
                about=sealed.manifest.digest,
                name=shortened(name or path.name),
                rows=sealed.rows,
                bytes=size,
                at=self._clock(),
            )
            keep_name(self.home, named)
            return sealed

        async for each in stepping(lambda step: asyncio.to_thread(work, step)):
            yield each

    # --- trust -----------------------------------------------------------------------------------

    async def appraise(self, job: bytes) -> tuple[Appraisal, ...]:
        """Appraise again, now and here, all that is kept of a job."""
        log = await self.own_log()
        return await asyncio.to_thread(appraise_job, self.home, log.entries, job, self._clock())

    async def others(self, seats: Sequence[Seated]) -> tuple[OtherCustodian, ...]:
        """What the other custodians of these releases let be seen."""
        found = {e.identity for seat in seats for e in seat.released.custodians}
        return await other_custodians(self.api, sorted(found - {self.identity}))

    async def export(self, job: bytes, generation: int, path: Path) -> None:
        """Write a transcript of one release. Raises HomeError."""
        seats = [
            each
            for each in (await self.own_log()).seats(job)
            if each.statement.generation == generation
        ]
        if not seats:
            raise HomeError("the release log shows no such release: there is nothing to export")

        def work() -> None:
            kept = EvidenceFolder(self.home.folder).find(seats[0].name)
            policy = self.home.appraisal_policies().get(seats[0].released.policies[0])
            if kept is None or kept.refused is not None or policy is None:
                raise HomeError("its evidence or its policy is not in this home")
            market = self.home.config.market
            content = make_transcript(
                self.keys.party, market, kept, policy, seats[0], self._clock()
            )
            write_transcript(path, content)

        await asyncio.to_thread(work)

    async def consents(self) -> tuple[tuple[Consent, tuple[tuple[bytes, str], ...]], ...]:
        """Every consent, with what the others' published policies say."""
        memory = (await self.own_log()).memory
        holdings = await asyncio.to_thread(self.home.holdings, self.keys)
        found = consents.consents(holdings, memory)
        return tuple([(each, await consents.others_say(self.api, each)) for each in found])

    async def answer(self, name: str, *, yes: bool) -> None:
        """Give or refuse a consent: sign the next use policies, and publish them."""
        memory = (await self.own_log()).memory
        holdings = await asyncio.to_thread(self.home.holdings, self.keys)
        consent = consents.find(consents.consents(holdings, memory), name)
        manifest = memory.outputs[consent.adapter]
        signed = await asyncio.to_thread(
            lambda: consents.answer(self.home, self.keys, consent, manifest, yes=yes)
        )
        for each in signed:
            await self.api.put_document(each)

    # --- money -----------------------------------------------------------------------------------

    async def balance(self) -> tuple[AccountView, int, int | None]:
        """The account, what burns an hour, and how long all of it lasts."""
        view = await self.api.get_account()
        burned = account.burn(await self.api.get_jobs())
        return view, burned, account.lasts(view.available + view.held, burned)

    async def lines(self) -> Sequence[StatementLine]:
        """The whole statement as far as it is known now, oldest first."""
        async with self._listing:
            last = self._lines[-1] if self._lines else None
            after, balance = (0, 0) if last is None else (last.number, last.balance)
            async for each in account.statement(self.api, after=after, balance=balance):
                self._lines.append(each)
            return tuple(self._lines)

    async def receipts(self, job: bytes) -> tuple[CheckedReceipt, ...]:
        """Every settled receipt of a job, checked here."""
        memory = (await self.own_log()).memory
        return tuple([each async for each in account.receipts(self.api, memory, job)])
