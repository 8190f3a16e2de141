"""The key broker: a small daemon that dials out to the market and decides on every release.

- It decides by `trust.release.decide` alone. What the decision wants written is on the disk before
  what it wants sent goes out: a crash loses an answer, and never the memory of one.
- A nonce is kept in memory, answered once, and forgotten after its age limit.
- Before the first release it has asked for its own newest head: a place of its own, the market, and
  each other custodian of the job (client/heads.py). Behind any of them it releases nothing.
- The evidence that it decided on is kept beside the log, bounded, so that a person can have it
  appraised again (client/dry_run.py). No decision reads it.
- A report is acknowledged once the blob store has every segment that its manifest lists.
- The market is not believed: what it carries is signed, and what it stores is checked by digest.
- `now` comes from the clock that the entry point gives. Nothing else here reads one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from types import MappingProxyType
from typing import Final

from client.evidence import EvidenceFolder
from client.files import HomeError
from client.heads import HeadKeeper, HeadSeen
from client.home import Home
from client.keystore import Keystore
from client.market_api import MarketUnreachableError, UnauthenticatedAnswerError
from client.ports import MarketPort
from client.progress import append_progress, open_progress
from client.release_log import HeadPlace, ReleaseLog, ReleaseLogError
from marketplace.wire import BLOBS_ASKED_MAX, GenerationAsk, JobDocuments, ReadyAsk, StoredMessage
from trust.artifacts import Manifest, SegmentList
from trust.encoding import digest
from trust.errors import BlindhostError, EncodingError, RefusedError, SealingError
from trust.identity import Signed, verify_signed
from trust.jobs import Close, Ready
from trust.messages import (
    Acknowledgement,
    Challenge,
    CheckpointReport,
    FollowUp,
    HandOverRefused,
    HandOverRequest,
    Hello,
    LogHead,
    Purpose,
    Receipt,
    Refused,
    ReleaseRequest,
    SealedProgress,
    SignedMessage,
    lease_address,
    parse_message,
    signed_label,
)
from trust.release import (
    CloseHeard,
    Decision,
    FollowUpAsked,
    HandOverAsked,
    OrderAsked,
    ReceiptHeard,
    Refusal,
    ReleaseAsked,
    ReportHeard,
    Request,
    check_ready,
    decide,
    statement_of,
)
from trust.release_checks import NONCE_AGE_MILLISECONDS_MAX
from trust.release_state import (
    Body,
    Challenged,
    FollowedUp,
    HandedOver,
    Noted,
    Opened,
    Released,
    Standing,
    State,
)

NONCES_MAX: Final = 1024  # enclaves that greet within one age limit; the oldest makes room
WAITING_MAX: Final = 64  # requests that wait for another custodian's word
ASK_SECONDS: Final = 1.0  # how often the market is asked what it wants
READY_MILLISECONDS: Final = 30_000  # the market believes a word of ready for a minute
HEAD_MILLISECONDS: Final = 30_000  # how often the market's newest head of ours is looked at
SHOW_MILLISECONDS: Final = 5_000  # how often a silent custodian is shown our head again
WAIT_SECONDS: Final = 20  # of one long poll; below the market's own limit
RETRY_SECONDS: Final = 1.0  # after the market could not be reached
MANIFEST_SEGMENTS_MAX: Final = 1 << 15  # a segment list of one blob
HEADS_WANTED: Final = frozenset({"heads-wanted", "report-heads-wanted"})
RETRIED: Final = (MarketUnreachableError, UnauthenticatedAnswerError)
"""Nothing was lost: it is asked again."""
FATAL: Final = (ReleaseLogError, HomeError)
"""A broker that can't write its log, or read its home, stops."""

log = logging.getLogger(__name__)


class Broker:
    """One custodian's broker. `start` first; then `accept` and `announce`, or `serve` for both."""

    def __init__(
        self,
        *,
        home: Home,
        keys: Keystore,
        release_log: ReleaseLog,
        place: HeadPlace,
        market: MarketPort,
        clock: Callable[[], int],
    ) -> None:
        self._home, self._keys, self._market, self._clock = home, keys, market, clock
        self._log = release_log
        self._heads = HeadKeeper(release_log, place, keys.party)
        self._challenges: dict[bytes, Challenged] = {}
        self._waiting: dict[bytes, StoredMessage] = {}
        self._said_ready: dict[bytes, int] = {}
        self._shown_at: dict[bytes, int] = {}
        self._started = False
        self._compared_at = 0
        self._lock = asyncio.Lock()
        self._evidence = EvidenceFolder(home.folder)

    @property
    def standing(self) -> Standing:
        """Whether this log is the newest of its custodian, as far as was heard."""
        return self._heads.standing

    @property
    def identity(self) -> bytes:
        """The custodian."""
        return self._keys.party.identity

    def state(self) -> State:
        """What a decision looks at, now."""
        return State(
            holdings=self._home.holdings(self._keys),
            memory=self._log.memory,
            challenges=MappingProxyType(dict(self._challenges)),
            standing=self._heads.standing,
            heads_from=self._heads.heard,
        )

    # --- the life of a broker --------------------------------------------------------------------

    async def start(self) -> None:
        """Ask the market for our newest head, and say again what a crash may have swallowed.

        Raises MarketUnreachableError: until the market answered, nothing is done.
        """
        await self._compare_with_market()
        if self.standing is Standing.CURRENT:
            await self._market.post_head(self._heads.own(self._clock()))
            for data in self._log.memory.closed.values():
                close = verify_signed(Close, data, signer=None)
                if close.signer == self.identity:
                    await self._send_close(close)
        self._started = True

    async def serve(self) -> None:
        """Run until cancelled."""
        while not self._started:
            await self._patiently(self.start)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_for_ever())
            group.create_task(self._announce_for_ever())

    async def _read_for_ever(self) -> None:
        after = 0
        while True:
            try:
                messages = await self._market.read_messages(after=after, wait_seconds=WAIT_SECONDS)
                for message in messages:
                    await self._accept_or_drop(message)
                    after = message.number
                    await self._market.acknowledge(message.number)
            except RETRIED as error:
                log.warning("mailbox: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _accept_or_drop(self, message: StoredMessage) -> None:
        """No message stops the ones behind it: not one whose answer nobody may have."""
        try:
            await self.accept(message)
        except FATAL + RETRIED:
            raise
        except BlindhostError as error:
            log.warning("message %d dropped: %s", message.number, error)

    async def _announce_for_ever(self) -> None:
        while True:
            await self._patiently(self.announce)
            await asyncio.sleep(ASK_SECONDS)

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except RETRIED as error:
            log.warning("market: %s", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _compare_with_market(self) -> None:
        data = await self._market.newest_head(self.identity)
        if data is not None:
            self._heads.compare(verify_signed(LogHead, data, signer=self.identity))
        self._compared_at = self._clock()

    # --- messages --------------------------------------------------------------------------------

    async def accept(self, message: StoredMessage) -> None:
        """Deal with one message of the own box.

        What a stranger sent may be anything: it is refused or dropped. What is wrong with the
        market goes through, so that the message stays in the box.
        """
        assert self._started, "a broker starts before it accepts"
        async with self._lock:
            try:
                parsed = parse_message(message.payload)
            except EncodingError as error:
                log.info("message %d dropped: %s", message.number, error)
                return
            match parsed:
                case Hello():
                    await self._challenge(parsed)
                case ReleaseRequest():
                    await self._release(message, parsed)
                case SignedMessage(signed=signed):
                    await self._signed(message, signed)
                case SealedProgress():
                    self._keep_progress(parsed)
                case _:
                    log.info("message %d dropped: %s", message.number, type(parsed).LABEL)

    async def _challenge(self, hello: Hello) -> None:
        """Draw a nonce. A greeting proves nothing, so it costs no more than a place in memory."""
        if hello.verifier != self.identity or hello.purpose is not Purpose.RELEASE:
            log.info("greeting dropped: for another verifier or purpose")
            return
        now = self._clock()
        self._challenges = {
            nonce: each
            for nonce, each in self._challenges.items()
            if now - each.at <= NONCE_AGE_MILLISECONDS_MAX
        }
        while len(self._challenges) >= NONCES_MAX:
            del self._challenges[next(iter(self._challenges))]
        nonce = secrets.token_bytes(32)
        self._challenges[nonce] = Challenged(purpose=hello.purpose, at=now)
        challenge = Challenge(verifier=self.identity, purpose=hello.purpose, nonce=nonce)
        await self._market.post_message(lease_address(hello.lease), challenge.encode())

    async def _release(self, message: StoredMessage, request: ReleaseRequest) -> None:
        try:
            bundle, statement = statement_of(request)
        except RefusedError as error:
            await self._refuse(message.sender, bytes(32), Refusal(code=error.code, text=error.text))
            return
        box = lease_address(statement.lease)
        now = self._clock()
        result = decide(self.state(), ReleaseAsked(request=request), now)
        if isinstance(result, Refusal) and result.code == "order-jump":
            documents = await self._documents(statement.job)
            asked = ReleaseAsked(request=request, orders=documents.orders)
            now = self._clock()
            result = decide(self.state(), asked, now)
        if isinstance(result, Refusal) and result.code == "heads-wanted":
            await self._wait_for_heads(statement.nonce, message, request)
            return
        # Used once, whatever came out: the same statement can only ever get its stored grant.
        self._challenges.pop(statement.nonce, None)
        self._evidence.keep(bundle, statement, result, now)
        await self._finish(result, box, statement.nonce)

    async def _signed(self, message: StoredMessage, signed: bytes) -> None:
        label = signed_label(signed)
        if label == LogHead.LABEL:
            await self._hear_head(signed)
        elif label == HeadSeen.LABEL:
            await self._hear_answer(signed)
        elif label == FollowUp.LABEL:
            await self._follow_up(message, signed)
        elif label == CheckpointReport.LABEL:
            await self._report(message, signed)
        elif label == Receipt.LABEL:
            await self._decide(ReceiptHeard(signed=signed, at=self._clock()), message, None)
        elif label == Close.LABEL:
            await self._decide(CloseHeard(signed=signed), message, None)
        elif label == HandOverRequest.LABEL:
            await self._hand_over(message, signed)
        else:
            log.info("message %d dropped: signed %r", message.number, label)

    async def _follow_up(self, message: StoredMessage, signed: bytes) -> None:
        nonce = job = None
        with contextlib.suppress(BlindhostError):  # the decision names what is wrong with it
            said = verify_signed(FollowUp, signed, signer=None).document
            nonce, job = said.nonce, said.job
        await self._decide(FollowUpAsked(signed=signed), message, nonce, job)

    async def _hand_over(self, message: StoredMessage, signed: bytes) -> None:
        """Answer a receiver in the box that it posted from. A no is signed, so that it counts."""
        try:
            request = verify_signed(HandOverRequest, signed, signer=None)
        except BlindhostError as error:
            log.info("hand-over dropped: %s", error)
            return
        result = decide(self.state(), HandOverAsked(signed=signed), self._clock())
        if isinstance(result, Decision):
            await self._finish(result, message.sender, None)
            return
        log.info("refused: %s: %s", result.code, result.text)
        said = HandOverRefused(
            custodian=self.identity,
            request=request.digest,
            code=result.code,
            text=result.text[:1024],
        )
        await self._send(message.sender, self._keys.party.sign(said).encode())

    async def _report(self, message: StoredMessage, signed: bytes) -> None:
        held = await self._holds_segments(signed)
        nonce = job = None
        with contextlib.suppress(BlindhostError):  # the decision names what is wrong with it
            said = verify_signed(CheckpointReport, signed, signer=None).document
            job = said.job
            seat = self._log.memory.seats.get((said.job, said.generation, said.rank))
            nonce = None if seat is None else seat.statement.nonce
        await self._decide(ReportHeard(signed=signed, segments_held=held), message, nonce, job)

    async def _decide(
        self,
        request: Request,
        message: StoredMessage,
        nonce: bytes | None,
        job: bytes | None = None,
    ) -> None:
        result = decide(self.state(), request, self._clock())
        if job is not None and isinstance(result, Refusal) and result.code in HEADS_WANTED:
            self._keep_waiting(digest(message.payload), message)
            for custodian in self._others(job):
                await self._show_head(custodian)
            return
        await self._finish(result, message.sender, nonce)

    async def _finish(self, result: Decision | Refusal, box: bytes, nonce: bytes | None) -> None:
        """Write, then send: the one place where a decision becomes an act."""
        if isinstance(result, Refusal):
            await self._refuse(box, nonce, result)
            return
        now = self._clock()
        self._log.append(result.entries, now=now)
        head = self._heads.own(now)
        if result.acknowledge is not None:
            said = Acknowledgement(
                custodian=self.identity, report=result.acknowledge, head=head.encode()
            )
            await self._send(box, self._keys.party.sign(said).encode())
        if result.answer is not None:
            await self._market.post_message(box, result.answer)
        if result.order is not None:
            await self._market.post_order(result.order)
        if result.close is not None:
            await self._send_close(result.close)
        if result.entries:
            await self._tell_heads(result.entries, head)

    async def _refuse(self, box: bytes, nonce: bytes | None, refusal: Refusal) -> None:
        log.info("refused: %s: %s", refusal.code, refusal.text)
        if nonce is None:
            return
        said = Refused(
            verifier=self.identity, nonce=nonce, code=refusal.code, text=refusal.text[:1024]
        )
        await self._market.post_message(box, said.encode())

    async def _send(self, box: bytes, signed: bytes) -> None:
        await self._market.post_message(box, SignedMessage(signed=signed).encode())

    async def _send_close(self, close: Signed[Close]) -> None:
        """Tell the job's other custodians. The market has the last receipt, and settles by it."""
        for custodian in self._others(close.document.job):
            await self._send(custodian, close.encode())

    def _others(self, job: bytes) -> list[bytes]:
        seats = (s for (name, _, _), s in self._log.memory.seats.items() if name == job)
        found = {entry.identity for seat in seats for entry in seat.custodians}
        return sorted(found - {self.identity})

    # --- heads -----------------------------------------------------------------------------------

    async def _tell_heads(self, entries: Sequence[Body], head: Signed[LogHead]) -> None:
        """The market and the job's other custodians keep our newest head for us.

        Each alone can then tell a restored broker that it forgot a release, an answer or a
        checkpoint; a forgotten receipt is only a copy.
        """
        await self._market.post_head(head)
        told: set[bytes] = set()
        for entry in entries:
            match entry:
                case Released():
                    told |= {each.identity for each in entry.custodians}
                case FollowedUp():
                    told |= set(self._others(entry.job))
                case Noted():
                    report = verify_signed(CheckpointReport, entry.report, signer=None)
                    told |= set(self._others(report.document.job))
                case HandedOver():
                    asked = verify_signed(HandOverRequest, entry.request, signer=None).document
                    made = verify_signed(Manifest, asked.manifest, signer=None).document
                    told |= {each.identity for each in made.core.custodians}
                case _:
                    pass
        for custodian in sorted(told - {self.identity}):
            await self._send(custodian, head.encode())

    async def _show_head(self, custodian: bytes) -> None:
        now = self._clock()
        if now - self._shown_at.get(custodian, -SHOW_MILLISECONDS) < SHOW_MILLISECONDS:
            return
        self._shown_at[custodian] = now
        await self._send(custodian, self._heads.show(now).encode())

    async def _hear_head(self, data: bytes) -> None:
        try:
            head = verify_signed(LogHead, data, signer=None)
            seen = None if head.signer == self.identity else self._heads.answer(head)
        except BlindhostError as error:
            log.info("head dropped: %s", error)
            return
        if seen is not None:
            await self._send(head.signer, seen.encode())

    async def _hear_answer(self, data: bytes) -> None:
        try:
            self._heads.take(verify_signed(HeadSeen, data, signer=None))
        except BlindhostError as error:
            log.info("answer about heads dropped: %s", error)
            return
        waiting, self._waiting = self._waiting, {}
        for message in waiting.values():
            match parse_message(message.payload):
                case ReleaseRequest() as request:
                    await self._release(message, request)
                case SignedMessage(signed=signed):
                    await self._signed(message, signed)

    async def _wait_for_heads(
        self, nonce: bytes, message: StoredMessage, request: ReleaseRequest
    ) -> None:
        """Keep a request until the other custodians have said how far they saw our log go."""
        self._keep_waiting(nonce, message)
        await self._show_heads(request.manifests)

    def _keep_waiting(self, name: bytes, message: StoredMessage) -> None:
        if name in self._waiting or len(self._waiting) < WAITING_MAX:
            self._waiting[name] = message

    async def _show_heads(self, manifests: Sequence[bytes]) -> None:
        for data in manifests:
            for entry in verify_signed(Manifest, data, signer=None).document.core.custodians:
                if entry.identity not in self._heads.heard | {self.identity}:
                    await self._show_head(entry.identity)

    # --- blobs, progress -------------------------------------------------------------------------

    async def _holds_segments(self, signed: bytes) -> bool:
        """The blob store has the list that the reported manifest names, and all that it lists."""
        try:
            report = verify_signed(CheckpointReport, signed, signer=None).document
            manifest = verify_signed(Manifest, report.manifest, signer=None).document
        except BlindhostError:
            return False  # the decision names what is wrong with it
        if manifest.segments > MANIFEST_SEGMENTS_MAX:
            return False
        if await self._market.missing_blobs([manifest.segment_list]):
            return False
        data = await self._market.get_blob(manifest.segment_list)
        try:
            segments = SegmentList(manifest, data)
        except SealingError:
            return False
        digests = [segments[index] for index in range(len(segments))]
        for start in range(0, len(digests), BLOBS_ASKED_MAX):
            if await self._market.missing_blobs(digests[start : start + BLOBS_ASKED_MAX]):
                return False
        return True

    def _keep_progress(self, sealed: SealedProgress) -> None:
        if sealed.job not in self._home.holdings(self._keys).jobs:
            log.info("progress dropped: of no job of this party")
            return
        try:
            open_progress(self._keys.progress, self._log.memory, sealed.job, sealed.sealed)
            append_progress(self._home.progress_path(sealed.job), sealed.sealed)
        except BlindhostError as error:
            log.info("progress dropped: %s", error)

    async def _documents(self, job: bytes) -> JobDocuments:
        """A job's documents; a close among them that holds is remembered first."""
        documents = await self._market.job_documents(job)
        if documents.close is not None:
            result = decide(self.state(), CloseHeard(signed=documents.close), self._clock())
            if isinstance(result, Decision):
                await self._finish(result, bytes(32), None)
        return documents

    # --- what the market asks --------------------------------------------------------------------

    async def announce(self) -> None:
        """Answer what the market wants: orders for own jobs, and a word of ready."""
        assert self._started, "a broker starts before it announces"
        if self._clock() - self._compared_at >= HEAD_MILLISECONDS:
            await self._compare_with_market()
        for ask in await self._market.asks():
            try:
                async with self._lock:
                    if isinstance(ask, GenerationAsk):
                        await self._order(ask)
                    else:
                        await self._say_ready(ask)
            except RefusedError as error:
                log.warning("the market asks and then refuses: %s", error)

    async def _order(self, ask: GenerationAsk) -> None:
        documents = await self._documents(ask.job)
        asked = OrderAsked(
            job=ask.job,
            number=ask.number,
            leases=ask.leases,
            manifests=documents.manifests,
            orders=documents.orders,
        )
        result = decide(self.state(), asked, self._clock())
        if isinstance(result, Refusal) and result.code == "heads-wanted":
            await self._show_heads(documents.manifests)
        if isinstance(result, Refusal) and result.code == "broker-behind":
            self._heads.standing = Standing.BEHIND
        await self._finish(result, bytes(32), None)

    async def _say_ready(self, ask: ReadyAsk) -> None:
        now = self._clock()
        if now - self._said_ready.get(ask.job, -READY_MILLISECONDS) < READY_MILLISECONDS:
            return
        documents = await self._documents(ask.job)
        try:
            check_ready(
                self.state(), ask.job, (documents.job, *documents.manifests), documents.terms, now
            )
        except RefusedError as error:
            log.info("not ready: %s", error)
            if error.code == "heads-wanted":
                await self._show_heads(documents.manifests)
            return
        ready = Ready(custodian=self.identity, job=ask.job, at=now)
        await self._market.say_ready(self._keys.party.sign(ready))
        self._said_ready[ask.job] = now


def open_incarnation(release_log: ReleaseLog, heads: list[Signed[LogHead]], now: int) -> int:
    """A person's word that this log goes on, although it may have forgotten something.

    Opens an incarnation above every one that a head was seen of: each generation that was ordered
    before is closed by it. Returns its number.
    """
    seen = [head.document.incarnation for head in heads]
    number = max([release_log.memory.incarnation, *seen]) + 1
    release_log.append((Opened(incarnation=number),), now=now)
    return number
