"""Sealed requests to the enclaves that serve this buyer: what fills the gateway's `ServePort`.

- A request goes to an enclave that was verified for exactly this client, by one's own documents
  (client/serve_session.py). Whatever does not hold there raises, and nothing is sent.
- The market carries, and says which jobs run: a hint, by which nobody is believed. Messages travel
  between the lease's box and the client key's own.
- One task reads that box for all requests at once. It opens each frame when it comes, so that what
  waits for its reader is authentic, and as short as the reply.
- A reply ends by its authenticated last frame, or by an error. A refusal is nobody's signed word:
  it makes this client verify anew and ask once more, and that is all that a forged one does.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from client.gateway.ports import (
    NotFoundError,
    Piece,
    SealedTo,
    ServedModel,
    UnavailableError,
)
from client.market_api import (
    MarketRefusedError,
    MarketUnreachableError,
    UnauthenticatedAnswerError,
)
from client.serve_books import Books, served_models
from client.serve_reply import Reply
from client.serve_session import (
    Session,
    Target,
    entries_of,
    find_target,
    still_holds,
    verify_offer,
)
from marketplace.wire import JobDocuments, JobState, JobView, StoredMessage
from trust.encoding import digest
from trust.errors import BlindhostError, EncodingError, RefusedError
from trust.identity import PartyKey, Signed
from trust.jobs import JobManifest
from trust.messages import (
    Challenge,
    EvidenceBundle,
    Purpose,
    ServeCancel,
    ServeFrames,
    ServeOffer,
    ServeRefused,
    ServeRequest,
    SignedMessage,
    Statement,
    parse_message,
)
from trust.release_checks import require
from trust.release_state import Memory
from trust.serving import GenerateRequest, RequestHeader, seal_request

SILENCE_SECONDS: Final = 30.0  # an enclave's ticks are ten seconds apart at most
OFFER_SECONDS: Final = 30.0  # how long an enclave is asked for evidence
CHALLENGE_SECONDS: Final = 5.0  # a chip answers sooner; then it is asked anew
WAIT_SECONDS: Final = 20  # of one long poll; below the market's own limit
RETRY_SECONDS: Final = 1.0  # after the market could not be reached
VIEW_MILLISECONDS: Final = 1_000  # how long the market's list of jobs is not asked for again
CANCEL_SECONDS: Final = 5.0  # what leaving waits for cancels that are on their way
_ENDED: Final = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXHAUSTED}
)
_FAILED: Final = (MarketUnreachableError, UnauthenticatedAnswerError, MarketRefusedError)

log = logging.getLogger(__name__)


class MailPort(Protocol):
    """The market's mailboxes, in the client key's name: `client.market_port.HttpMarket`."""

    async def post_message(self, box: bytes, payload: bytes) -> None:
        """Put a message into a box of 32 bytes."""

    async def read_messages(self, *, after: int, wait_seconds: int) -> Sequence[StoredMessage]:
        """One's own box, beyond number `after`; waits so long for the first."""

    async def acknowledge(self, through: int) -> None:
        """One's messages up to this number may go."""


class JobsPort(Protocol):
    """The market's records, in the buyer's name: `client.market_api.MarketApi`."""

    async def get_jobs(self) -> Sequence[JobView]:
        """One's own jobs, newest first."""

    async def get_job_documents(self, job: bytes) -> JobDocuments:
        """The signed documents of a job."""


class MarketServePort:
    """Fills `client.gateway.ports.ServePort`. It reads its box inside ``async with``.

    `client` is the key that serve jobs name; `names` are names of base models by artifact id;
    `clock` gives Unix milliseconds.
    """

    def __init__(
        self,
        *,
        books: Books,
        client: PartyKey,
        jobs: JobsPort,
        mail: MailPort,
        clock: Callable[[], int],
        names: Mapping[bytes, str],
        silence_seconds: float = SILENCE_SECONDS,
        offer_seconds: float = OFFER_SECONDS,
        challenge_seconds: float = CHALLENGE_SECONDS,
    ) -> None:
        self._books, self._client, self._jobs, self._mail = books, client, jobs, mail
        self._clock, self._names = clock, names
        self._silence_seconds, self._offer_seconds = silence_seconds, offer_seconds
        self._challenge_seconds = challenge_seconds
        self._session_id, self._sequence = secrets.token_bytes(16), 0
        self._sessions: dict[bytes, Session] = {}
        self._key_numbers: dict[tuple[bytes, int], int] = {}
        self._verifying: dict[bytes, asyncio.Task[Session]] = {}
        self._posting: dict[bytes, asyncio.Lock] = collections.defaultdict(asyncio.Lock)
        self._senders: set[bytes] = set()
        self._offers: dict[bytes, asyncio.Future[tuple[bytes, ServeOffer]]] = {}
        self._replies: dict[bytes, Reply] = {}
        self._views: Sequence[JobView] = ()
        self._viewed_at = -VIEW_MILLISECONDS
        self._viewing = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._cancels: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read_for_ever(), name="client key's box")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._reader is not None
        if self._cancels:
            await asyncio.wait(self._cancels, timeout=CANCEL_SECONDS)
        own = [self._reader, *self._cancels, *self._verifying.values()]
        for task in own:
            task.cancel()
        await asyncio.gather(*own, return_exceptions=True)
        self._reader = None

    # --- what is served --------------------------------------------------------------------------

    async def models(self) -> Sequence[ServedModel]:
        """What can be asked for now, newest first. Raises UnavailableError."""
        found: dict[str, ServedModel] = {}
        for view, job in await self._running():
            if view.state is JobState.RUNNING:
                for each in served_models(view, job, self._names, self._sealed_to(job.digest)):
                    found.setdefault(each.name, each)
        return tuple(found.values())

    def _sealed_to(self, job: bytes) -> SealedTo | None:
        session = self._sessions.get(job)
        if session is None or self._clock() >= session.ends_at:
            return None
        return SealedTo(
            chip=session.chip,
            generation=session.target.generation,
            verified_at=session.verified_at,
        )

    async def _running(self) -> list[tuple[JobView, Signed[JobManifest]]]:
        """Own serve jobs that hear this client and have not ended, newest first.

        Whether they have is the market's word.
        """
        async with self._viewing:
            now = self._clock()
            if not 0 <= now - self._viewed_at < VIEW_MILLISECONDS:
                try:
                    self._views = await self._jobs.get_jobs()
                except _FAILED as error:
                    raise UnavailableError(f"the market does not list jobs: {error}") from error
                self._viewed_at = now
        own = await asyncio.to_thread(self._books.serve_jobs)
        live = [
            each
            for each in self._views
            if each.state not in _ENDED and each.job in own and self._is_heard(own[each.job])
        ]
        live.sort(key=lambda each: each.created_at, reverse=True)
        return [(each, own[each.job]) for each in live]

    def _is_heard(self, job: Signed[JobManifest]) -> bool:
        return any(each.identity == self._client.identity for each in job.document.client_keys)

    async def _find(self, name: str) -> tuple[Signed[JobManifest], bytes | None]:
        waits = ""
        for view, job in await self._running():
            for each in served_models(view, job, self._names):
                if each.name == name and view.state is JobState.RUNNING:
                    return job, each.adapter
                if each.name == name:
                    waits = waits or f"its job is {view.state.value}"
        if waits:
            raise UnavailableError(f"{name} is not served now: {waits}")
        raise NotFoundError(f"nothing of this buyer's is served as {name!r}")

    # --- asking ----------------------------------------------------------------------------------

    async def generate(self, model: str, body: GenerateRequest) -> AsyncIterator[Piece]:
        """Ask, and get the reply piece by piece.

        Raises NotFoundError, UnavailableError, CutOffError; RefusedError if the enclave is not to
        be believed (nothing was sent), or if the request is longer than any enclave takes.
        """
        assert self._reader is not None, "asked outside of `async with`"
        if self._reader.done():
            raise UnavailableError("the client key's box is read no more")
        job, adapter = await self._find(model)
        asked = dataclasses.replace(body, adapter=adapter)
        stale: Session | None = None
        for _ in range(2):
            session = await self._session(job, stale)
            reply = await self._send(session, asked)
            try:
                while (piece := await reply.next(self._silence_seconds)) is not None:
                    if piece.text or piece.finish:
                        yield piece
                    if piece.finish:
                        return
            finally:
                self._let_go(reply)
            stale = session
        raise UnavailableError("the enclave opens no request under its newest request key")

    async def _send(self, session: Session, body: GenerateRequest) -> Reply:
        """Seal a request and post it, in the order of sequence numbers."""
        key = session.request_key
        async with self._posting[session.target.job.digest]:
            with _refusing_length():
                header = RequestHeader(
                    statement=session.statement,
                    session=self._session_id,
                    sequence=self._sequence,
                    request=digest(body.encode()),
                    response_secret=secrets.token_bytes(32),
                )
                sealed = seal_request(
                    body, header, self._client, hpke_key=key.hpke_key, key=key.digest
                )
                request = ServeRequest(request_key=key.digest, sealed=sealed)
            self._sequence += 1
            reply = Reply(header, session, digest(sealed))
            self._replies[reply.exchange] = reply
            try:
                await self._post(session.target.address, request.encode())
            except BaseException:
                self._let_go(reply)
                raise
        return reply

    def _let_go(self, reply: Reply) -> None:
        """Listen no more; what did not end is cancelled in the enclave."""
        self._replies.pop(reply.exchange, None)
        if not reply.ended:
            task = asyncio.create_task(self._cancel(reply))
            self._cancels.add(task)
            task.add_done_callback(self._cancels.discard)

    async def _cancel(self, reply: Reply) -> None:
        target = reply.session.target
        said = ServeCancel(
            job=target.job.digest, generation=target.generation, exchange=reply.exchange
        )
        message = SignedMessage(signed=self._client.sign(said).encode())
        try:
            await self._post(target.address, message.encode())
        except UnavailableError as error:
            log.info("a cancel was not sent: %s", error)

    async def _post(self, box: bytes, payload: bytes) -> None:
        try:
            await self._mail.post_message(box, payload)
        except _FAILED as error:
            raise UnavailableError(f"the market does not take the message: {error}") from error

    # --- believing -------------------------------------------------------------------------------

    async def _session(self, job: Signed[JobManifest], stale: Session | None) -> Session:
        """A session with the job's enclave: another than `stale`, and one that still holds.

        Whoever needs one meanwhile waits for the same challenge, and shares what comes of it.
        """
        memory = await asyncio.to_thread(self._books.memory)
        known = self._sessions.get(job.digest)
        if known and known is not stale and still_holds(known, memory, self._clock()):
            return known
        task = self._verifying.get(job.digest)
        if task is None:
            task = asyncio.create_task(self._verify(job, memory))
            self._verifying[job.digest] = task
            task.add_done_callback(lambda done: self._verified(job.digest, done))
        return await asyncio.shield(task)  # who goes away leaves it to the others

    def _verified(self, job: bytes, task: asyncio.Task[Session]) -> None:
        del self._verifying[job]
        self._sessions.pop(job, None)
        if not task.cancelled() and task.exception() is None:
            self._sessions[job] = task.result()

    async def _verify(self, job: Signed[JobManifest], memory: Memory) -> Session:
        """Challenge the enclave that the own log's newest order names, and verify its answer."""
        holdings = await asyncio.to_thread(self._books.holdings)
        seats = [memory.seats[name] for name in memory.seats if name[0] == job.digest]
        if seats:
            entries = seats[-1].custodians
        else:
            entries = entries_of(job.document, (await self._documents(job.digest)).manifests)
        target = find_target(holdings, memory, job, entries)
        nonce, offer = await self._challenge(target)
        session = verify_offer(
            offer, target, client=self._client.identity, nonce=nonce, now=self._clock()
        )
        self._check_key_number(session)
        return session

    async def _challenge(self, target: Target) -> tuple[bytes, ServeOffer]:
        """The first answer to a challenge, and its nonce.

        An enclave whose run has not begun drops challenges, so another is sent after a while.
        """
        answer: asyncio.Future[tuple[bytes, ServeOffer]]
        answer = asyncio.get_running_loop().create_future()
        nonces: list[bytes] = []
        self._senders.add(target.address)
        try:
            async with asyncio.timeout(self._offer_seconds):
                while True:
                    nonces.append(secrets.token_bytes(32))
                    self._offers[nonces[-1]] = answer
                    await self._post_challenge(target, nonces[-1])
                    await asyncio.wait([answer], timeout=self._challenge_seconds)
                    if answer.done():
                        return answer.result()
        except TimeoutError:
            text = f"no enclave answered a challenge within {self._offer_seconds:g} s"
            raise UnavailableError(text) from None
        finally:
            for nonce in nonces:
                self._offers.pop(nonce, None)

    async def _post_challenge(self, target: Target, nonce: bytes) -> None:
        said = Challenge(verifier=self._client.identity, purpose=Purpose.SERVE, nonce=nonce)
        message = SignedMessage(signed=self._client.sign(said).encode())
        await self._post(target.address, message.encode())

    async def _documents(self, job: bytes) -> JobDocuments:
        try:
            return await self._jobs.get_job_documents(job)
        except _FAILED as error:
            raise UnavailableError(f"the market shows no documents: {error}") from error

    def _check_key_number(self, session: Session) -> None:
        """Request keys go forward: an old one was erased, or ought to have been."""
        place = session.target.job.digest, session.target.generation
        newest, number = self._key_numbers.get(place, 0), session.request_key.number
        text = f"request key {number}; number {newest} was seen before"
        require(number >= newest, "request-key-older", text)
        self._key_numbers[place] = number

    # --- reading ---------------------------------------------------------------------------------

    async def _read_for_ever(self) -> None:
        after = 0
        while True:
            try:
                messages = await self._mail.read_messages(after=after, wait_seconds=WAIT_SECONDS)
                for message in messages:
                    after = message.number
                    self._take(message)
                if messages:
                    await self._mail.acknowledge(after)
            except BlindhostError as error:
                log.warning("mailbox of the client key: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    def _take(self, message: StoredMessage) -> None:
        """Deal with one message; a stranger's is dropped unread."""
        if message.sender not in self._senders:
            return
        try:
            parsed = parse_message(message.payload)
        except EncodingError as error:
            log.info("message %d dropped: %s", message.number, error)
            return
        match parsed:
            case ServeFrames(frames=frames):
                for frame in frames:
                    reply = self._reply(frame.exchange, message.sender)
                    if reply is not None and not reply.take(frame):
                        del self._replies[frame.exchange]
            case ServeRefused(exchange=exchange):
                reply = self._reply(exchange, message.sender)
                if reply is not None and reply.refuse():
                    log.info("a request did not open: %s", parsed.code)
                    del self._replies[exchange]
            case ServeOffer():
                self._take_offer(parsed)
            case _:
                log.info("message %d dropped: %s", message.number, type(parsed).LABEL)

    def _reply(self, exchange: bytes, sender: bytes) -> Reply | None:
        """The reply that goes on under this exchange, from this enclave's address."""
        reply = self._replies.get(exchange)
        return reply if reply and reply.session.target.address == sender else None

    def _take_offer(self, offer: ServeOffer) -> None:
        """Hand an offer to whoever waits for this nonce: the first one takes it, and alone."""
        if not self._offers:
            return
        try:
            nonce = Statement.parse(EvidenceBundle.parse(offer.evidence).statement).nonce
        except EncodingError as error:
            log.info("an offer was dropped: %s", error)
            return
        answer = self._offers.pop(nonce, None)
        if answer is not None and not answer.done():
            answer.set_result((nonce, offer))


@contextlib.contextmanager
def _refusing_length() -> Iterator[None]:
    try:
        yield
    except EncodingError as error:
        raise RefusedError("too-long", f"the request does not fit a message: {error}") from error
