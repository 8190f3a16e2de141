"""The shell around `lifecycle.decide`: finds facts, does one action after another, writes records.

Rules:
- A record is written only after its action is done, and before the next is decided.
- An action that fails because somebody does not answer is done again at the next round; a chip or a
  market that says *no* ends the lease with its word for it.
- A launch that takes long holds up its own lease alone. Nothing else is decided about that lease
  until the chip has answered.
- Logs tell events with ids, never a payload.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from marketplace.wire import LeaseEvent, LeaseReport, LeaseView
from provider_agent import lifecycle
from provider_agent.cache import BlobCache
from provider_agent.chip_wire import ChipView, EnclaveView, Stopped
from provider_agent.earnings.receipts import AccountKeeper
from provider_agent.errors import (
    AgentError,
    LaunchError,
    MarketError,
    RejectedError,
    UnavailableError,
)
from provider_agent.journal import LEASES_MAX, Journal, LeaseRecord, Stage
from provider_agent.launcher import ChipRefusedError
from provider_agent.lifecycle import Action, Facts, Market, Step
from provider_agent.market_port import MarketPort, Patience
from provider_agent.refusals import HostRefusedError, LeaseGate
from provider_agent.relay import Relay, RelayTask
from trust.messages import Briefing

ACTIONS_A_ROUND_MAX: Final = 12  # a whole life has eleven; the next round goes on
LAUNCH_LOOK_SECONDS = 1.0  # an enclave in a sandbox is there by then; a machine takes minutes
CARRY_MS_MAX: Final = 600_000  # a last receipt is worth a wait, and not for ever
OVER: Final = (Stage.ENDED, Stage.REPORTED, Stage.DONE)

_log = logging.getLogger("blindhost.agent")


class ChipPort(Protocol):
    """What the keeper asks of the chip; `launcher.Launcher` is one."""

    async def status(self) -> ChipView:
        """The chip, and all that it started."""
        ...

    async def launch(self, document: bytes, door: Path) -> EnclaveView:
        """Start an enclave whose door's ports are bound in this folder."""
        ...

    async def stop(self, lease: str) -> Stopped:
        """Kill it if it runs, remove its image, forget it."""
        ...


class Keeper:
    """Keeps every lease of one host going."""

    def __init__(
        self,
        *,
        journal: Journal,
        market: MarketPort,
        chip: ChipPort,
        cache: BlobCache,
        clock: Callable[[], int],
        patience: Patience | None = None,
        gate: LeaseGate | None = None,
        accounts: AccountKeeper | None = None,
    ) -> None:
        self._gate, self._accounts = gate, accounts
        self._journal, self._market, self._chip, self._cache = journal, market, chip, cache
        self._clock = clock
        self._patience = patience or Patience()
        self._relays: dict[str, tuple[Relay, asyncio.Task[None]]] = {}
        self._launches: dict[str, tuple[Action, asyncio.Task[EnclaveView]]] = {}
        self._records = {record.lease: record for record in journal.records()}
        self._answered_at: int | None = None

    @property
    def answered_at(self) -> int | None:
        """When the market last answered, in Unix milliseconds; None: not yet."""
        return self._answered_at

    @property
    def busy(self) -> bool:
        """Whether a lease needs the machine."""
        return any(each.stage is not Stage.DONE for each in self._records.values())

    async def round(self) -> None:
        """Look around, and take every lease as far as it goes now."""
        views = await self._leases()
        chip = await self._chip_view()
        for lease in sorted(views or {}):
            view = (views or {})[lease]
            known = lease in self._records
            if not known and view.state in lifecycle.LIVE and len(self._records) < LEASES_MAX:
                self._write(self._admitted(view, views or {}))
        for lease in tuple(self._records):
            if not await self._launch_is_over(lease):
                continue
            for _ in range(ACTIONS_A_ROUND_MAX):
                facts = self._facts(lease, views, chip)
                action = lifecycle.decide(self._records[lease], facts, self._clock())
                if action is None or not await self._do(self._records[lease], action):
                    break
                chip = await self._chip_view()
                if lease not in self._records:
                    break

    def _admitted(self, view: LeaseView, views: dict[str, LeaseView]) -> LeaseRecord:
        """The record of a lease that was just seen: new, or ended at once because of a refusal.

        One write holds both: a lease that is on record as new was admitted.
        """
        now = self._clock()
        record = lifecycle.new_record(view.lease, now)
        if self._accounts is not None:
            self._accounts.opened(view)
        if self._gate is None:
            return record
        live = [
            views[each.lease]
            for each in self._records.values()
            if each.lease in views and each.stage not in OVER
        ]
        try:
            self._gate.check_lease(view, live, now)
        except HostRefusedError as error:
            _log.warning("refused lease=%s step=admit reason=%s", view.lease, error)
            ended = lifecycle.end(record, LeaseEvent.FAILED, f"refused-{error.word}", now).then
            assert ended is not None
            return ended
        return record

    async def end_all(self, reason: str) -> None:
        """End every lease, report it and tear it down; the host goes on.

        What an enclave did since its last committed checkpoint is lost with it: the job resumes
        there elsewhere, and the host is not paid for that work. What is being launched is ended
        once the chip has answered.
        """
        if self._launches:
            await asyncio.wait({task for _, task in self._launches.values()})
            for lease in tuple(self._launches):
                await self._launch_is_over(lease)
        for record in tuple(self._records.values()):
            if record.stage not in OVER:
                action = lifecycle.end(record, LeaseEvent.FAILED, reason, self._clock())
                await self._do(record, action)
        await self.round()

    async def stop_all(self, reason: str) -> None:
        """The host ends: end every lease, report it, tear it down."""
        try:
            await self.end_all(reason)
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop pumping. Enclaves run on, and so do launches: the next agent finds them."""
        launches = [task for _, task in self._launches.values()]
        self._launches.clear()
        for task in launches:
            task.cancel()
        await asyncio.gather(*launches, return_exceptions=True)
        for lease in tuple(self._relays):
            await self._drop_relay(lease)

    # --- facts -----------------------------------------------------------------------------------

    async def _leases(self) -> dict[str, LeaseView] | None:
        """The market's list; None: it does not answer."""
        try:
            views = {view.lease: view for view in await self._market.leases()}
        except MarketError as error:
            _log.warning("market-away reason=%s", error)
            return None
        self._answered_at = self._clock()
        return views

    async def _chip_view(self) -> ChipView | None:
        try:
            return await self._chip.status()
        except LaunchError as error:
            _log.warning("chip-away reason=%s", error)
            return None

    def _facts(
        self, lease: str, views: dict[str, LeaseView] | None, chip: ChipView | None
    ) -> Facts:
        view = (views or {}).get(lease)
        enclaves = {each.lease: each for each in chip.enclaves} if chip else {}
        door = None
        if (relay := self._relays.get(lease)) and relay[1].done():
            door = str(relay[1].exception() or "the enclave left")
        return Facts(
            market=Market.UNKNOWN if views is None else lifecycle.market_fact(view),
            ordered=view is not None and view.generation is not None,
            incarnation=chip.incarnation if chip else None,
            enclave=enclaves.get(lease),
            door=door,
        )

    # --- actions ---------------------------------------------------------------------------------

    async def _do(self, record: LeaseRecord, action: Action) -> bool:
        """Do one action and write its record; False: it waits for the next round."""
        try:
            done = await self._apply(record, action)
        except (ChipRefusedError, RejectedError) as error:
            return self._refused(record, action, error)
        except (LaunchError, MarketError) as error:
            _log.warning(
                "waiting lease=%s step=%s reason=%s", record.lease, action.step.value, error
            )
            return False
        except AgentError as error:  # what this agent stored is broken
            return self._refused(record, action, error)
        if done and action.then is not None:
            self._write(action.then)
        return done

    def _refused(self, record: LeaseRecord, action: Action, error: AgentError) -> bool:
        """Somebody said no. Before the end that is the end; after it, there is nobody to tell."""
        _log.warning("refused lease=%s step=%s reason=%s", record.lease, action.step.value, error)
        code = "broken"
        if isinstance(error, ChipRefusedError | RejectedError):
            code = error.code
        elif isinstance(error, HostRefusedError):
            code = error.word
        if action.step is Step.LAUNCH and code == "exists":
            return True  # the enclave is there: the next look adopts it
        if action.step is Step.REPORT_LAUNCHED or record.stage is Stage.ENDED:
            if action.then is not None:
                self._write(action.then)
            return action.then is not None
        now = self._clock()
        ended = lifecycle.end(record, LeaseEvent.FAILED, f"refused-{code}", now)
        assert ended.then is not None
        self._write(ended.then)
        return True

    async def _apply(self, record: LeaseRecord, action: Action) -> bool:
        lease = record.lease
        match action.step:
            case Step.BRIEF:
                await self._brief(lease)
            case Step.LAUNCH:
                return await self._launch(lease, action)
            case Step.REPORT_LAUNCHED:
                report = LeaseReport(event=LeaseEvent.LAUNCHED, reason="launched")
                await self._market.report_lease(lease, report)
            case Step.SERVE:
                await self._serve(lease)
                return False
            case Step.STOP:
                if self._still_carrying(record):
                    return False
                await self._drop_relay(lease)
                await self._chip.stop(lease)
            case Step.REPORT_END:
                assert record.event is not None
                assert record.reason is not None
                report = LeaseReport(event=record.event, reason=record.reason)
                await self._market.report_lease(lease, report)
            case Step.TEAR_DOWN:
                await self._drop_relay(lease)
                self._journal.clear(lease)
            case Step.FORGET:
                self._journal.remove(lease)
                del self._records[lease]
                _log.info("forgotten lease=%s", lease)
            case Step.NOTE_START | Step.ADOPT | Step.END:
                pass  # the record is all there is to it
        return True

    async def _launch(self, lease: str, action: Action) -> bool:
        """Start a launch, or take up the one that runs; whether it is done. Raises LaunchError."""
        if lease not in self._launches:
            document = self._journal.briefing(lease).launch
            call = self._chip.launch(document, self._journal.door(lease))
            self._launches[lease] = action, asyncio.ensure_future(call)
        _, task = self._launches[lease]
        await asyncio.wait({task}, timeout=LAUNCH_LOOK_SECONDS)
        if not task.done():
            return False
        del self._launches[lease]
        self._say_launched(task.result())
        return True

    async def _launch_is_over(self, lease: str) -> bool:
        """Whether the lease may be decided on; a launch that has ended is finished here."""
        if lease not in self._launches:
            return True
        action, task = self._launches[lease]
        return task.done() and await self._do(self._records[lease], action)

    async def _brief(self, lease: str) -> None:
        """Store what to launch, once this host has nothing against it."""
        briefing = await self._market.briefing(lease)
        if briefing is None:
            raise UnavailableError("the market has no briefing yet")
        if self._gate is not None:
            self._gate.check_briefing(briefing)
        self._journal.write_briefing(lease, briefing)

    def _write(self, record: LeaseRecord) -> None:
        self._journal.write(record)
        self._records[record.lease] = record
        _log.info(
            "stage lease=%s stage=%s reason=%s", record.lease, record.stage, record.reason or "-"
        )

    @staticmethod
    def _say_launched(view: EnclaveView) -> None:
        walls = view.isolation
        _log.info(
            "launched lease=%s pid=%d measurement=%s namespaces=%s refused=%s read_only_root=%s",
            *(view.lease, view.pid, view.measurement.hex(), ",".join(walls.namespaces)),
            *("; ".join(walls.refused) or "none", walls.read_only_root),
        )

    # --- relays ----------------------------------------------------------------------------------

    async def _serve(self, lease: str) -> Relay:
        """The relay of a lease, started if it does not run."""
        if (running := self._relays.get(lease)) is not None:
            return running[0]
        stored = self._journal.briefing(lease)
        chip = await self._chip.status()
        briefing = Briefing(
            job=stored.job,
            order=stored.order,
            terms=stored.terms,
            manifests=stored.manifests,
            checkpoints=stored.checkpoints,
            endorsements=chip.endorsements,
        )
        relay = Relay(
            RelayTask(lease=lease, door=self._journal.door(lease), briefing=briefing.encode()),
            market=self._market,
            cache=self._cache,
            patience=self._patience,
            witness=self._accounts,
        )
        self._relays[lease] = relay, asyncio.create_task(relay.run())
        _log.info("serving lease=%s", lease)
        return relay

    def _still_carrying(self, record: LeaseRecord) -> bool:
        """Whether the relay still brings the last words of an enclave that exited by itself."""
        running = self._relays.get(record.lease)
        if running is None or not (record.reason or "").startswith("exit-"):
            return False
        relay, task = running
        relay.enclave_ended()
        return not task.done() and self._clock() - record.since <= CARRY_MS_MAX

    async def _drop_relay(self, lease: str) -> None:
        if (running := self._relays.pop(lease, None)) is not None:
            relay, task = running
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if self._records[lease].stage is Stage.ENDED:
                with contextlib.suppress(MarketError):
                    await relay.let_go()
