"""The market's own box: hellos, evidence and receipts in; challenges and answers out.

- Each message is dealt with once: its answer, what it changed and its acknowledgement are one
  transaction. A crash before it leaves the message in the box; a crash after it leaves nothing.
- Evidence is verified before the transaction begins; `leases.attest` then checks what may have
  changed meanwhile, and refuses a second key for one lease.
- The last receipt of a run goes to its job's custodians too, for whom it is proof and not a word of
  the market's: it is signed by the enclave's key.
- What is malformed, for somebody else or out of order is answered where it can be, and dropped.
  Nothing that a stranger posts stops the loop. A database that fails is asked again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from marketplace import checkpoints, mailbox, meter
from marketplace.jobs import find_job, manifest_of
from marketplace.lease_reports import advance
from marketplace.leases import LIVE, AttestLease, attest, find_lease
from marketplace.receipts import SupersededError
from marketplace.refusals import MarketError
from marketplace.service import Market
from marketplace.settlement import SettleReceipt, settle
from marketplace.submission import custodians_of
from marketplace.wire import StoredMessage
from trust.encoding import Document, parse_base64url
from trust.errors import BlindhostError, RefusedError, SessionError
from trust.identity import Signed, verify_signed
from trust.messages import (
    CheckpointReport,
    Hello,
    Metered,
    MeterRequest,
    Receipt,
    ReceiptPosted,
    Refused,
    SignedMessage,
    lease_address,
    parse_message,
    signed_label,
)

LOG: Final = logging.getLogger("blindhost.market.meter")
MESSAGE_ID_BYTES: Final = 16
RETRY_SECONDS: Final = 1.0  # a database that is locked for longer than its own timeout
TEXT_CHARACTERS_MAX: Final = 1000

Draw = Callable[[int], bytes]
Work = Callable[[Session], list["_Letter"]]


class _Letter:
    """An answer to one lease, or a word to the party of another box."""

    __slots__ = ("box", "document")

    def __init__(self, lease: str, document: Document, *, box: bytes | None = None) -> None:
        self.box, self.document = box or lease_address(lease), document


class MeterLoop:
    """Consumes the market's box. `draw` gives random bytes."""

    def __init__(self, market: Market, *, draw: Draw = secrets.token_bytes) -> None:
        self._market, self._draw = market, draw
        self._nonces = meter.Nonces(draw)
        self._after = 0

    async def run(self) -> None:
        """Take messages until cancelled."""
        with self._market.waiters.wait_at(self._market.identity) as arrived:
            while True:
                arrived.clear()
                try:
                    taken = await self.take_page()
                except SQLAlchemyError as error:
                    LOG.error("box not read: %s", type(error).__name__)  # noqa: TRY400
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if not taken:
                    await arrived.wait()

    async def take_page(self) -> int:
        """Take what is in the box now, at most a page; return how many messages that was."""
        box = self._market.identity
        page = await self._market.read(
            lambda session: mailbox.read(session, box, after=self._after)
        )
        for message in page.messages:
            await self._take(message)
            self._after = message.number
        return len(page.messages)

    async def _take(self, message: StoredMessage) -> None:
        try:
            work = await self._decide(message)
        except BlindhostError as error:
            LOG.info("message %d dropped: %s", message.number, type(error).__name__)
            work = _nothing
        await self._apply(message, work)

    async def _apply(self, message: StoredMessage, work: Work) -> None:
        try:
            woken = await self._market.write(lambda session: self._finish(session, message, work))
        except BlindhostError as error:
            LOG.info("message %d refused: %s", message.number, type(error).__name__)
            refused = _refusal_of(message, error, self._market.identity)
            woken = await self._market.write(
                lambda session: self._finish(session, message, lambda _session: refused)
            )
        self._market.waiters.wake(woken)

    def _finish(self, session: Session, message: StoredMessage, work: Work) -> list[bytes]:
        """Do the work, answer, acknowledge: one transaction. Returns the boxes answered to."""
        now, box = self._market.clock(), self._market.identity
        answered = []
        for letter in work(session):
            command = mailbox.PostMessage(
                box=letter.box,
                sender=box,
                message=self._draw(MESSAGE_ID_BYTES),
                payload=letter.document.encode(),
            )
            try:
                mailbox.post(session, command, now)
            except MarketError as error:  # a full box loses the answer, and nothing that was done
                LOG.info("answer to message %d lost: %s", message.number, error.code)
            else:
                answered.append(letter.box)
        mailbox.acknowledge(session, box, through=message.number)
        return answered

    async def _decide(self, message: StoredMessage) -> Work:
        parsed = parse_message(message.payload)
        match parsed:
            case Hello():
                return self._on_hello(parsed, message)
            case MeterRequest():
                return await self._on_evidence(parsed, message)
            case SignedMessage() if signed_label(parsed.signed) == Receipt.LABEL:
                receipt = verify_signed(Receipt, parsed.signed, signer=None)
                return self._on_receipt(receipt, message)
            case SignedMessage() if signed_label(parsed.signed) == CheckpointReport.LABEL:
                return _nothing  # kept when it was posted, whichever box it went to
            case _:
                raise SessionError("no message for a market")

    def _on_hello(self, hello: Hello, message: StoredMessage) -> Work:
        now, market = self._market.clock(), self._market.identity
        meter.check_hello(hello, sender=message.sender, market=market)

        def work(session: Session) -> list[_Letter]:
            lease = find_lease(session, hello.lease)
            if lease.generation is None or lease.state not in LIVE:
                raise SessionError(f"hello from {lease.id}, which is {lease.state.value}")
            return [
                _Letter(hello.lease, meter.challenge(hello, self._nonces, market=market, now=now))
            ]

        return work

    async def _on_evidence(self, request: MeterRequest, message: StoredMessage) -> Work:
        _bundle, statement, _launch = meter.parse_request(request)
        now, market = self._market.clock(), self._market.identity
        policy = self._market.meter_policy()
        facts = await self._market.read(lambda session: _facts(session, statement.lease))
        try:
            if policy is None:
                raise RefusedError("no-policy", "this market's operator has named no policy yet")
            attested = await self._market.aside(
                lambda: meter.verify_request(
                    request,
                    sender=message.sender,
                    market=market,
                    facts=facts,
                    policy=policy,
                    nonces=self._nonces,
                    now=now,
                )
            )
        except BlindhostError as error:
            refused = _refused(market, statement.nonce, error)
            # The answer goes to where the message came from, never to a lease that it only names.
            if message.sender != lease_address(facts.lease):
                raise
            return lambda _session: [_Letter(facts.lease, refused)]

        def work(session: Session) -> list[_Letter]:
            lease = find_lease(session, facts.lease)
            advance(session, lease, actor="market", reason="evidence came", now=now)
            attest(session, AttestLease(statement=attested.statement, market=market), now)
            metered = Metered(
                signing_key=attested.statement.signing_key, nonce=attested.statement.nonce
            )
            return [_Letter(facts.lease, metered)]

        return work

    def _on_receipt(self, receipt: Signed[Receipt], message: StoredMessage) -> Work:
        document, now = receipt.document, self._market.clock()
        if message.sender != lease_address(document.lease):
            raise SessionError("a receipt came from another lease than it names")

        def work(session: Session) -> list[_Letter]:
            committed = None
            if document.committed is not None:
                committed = checkpoints.step_of(session, document.committed, document.job)
            try:
                settle(session, SettleReceipt(receipt=receipt, committed_step=committed), now)
            except SupersededError:
                LOG.info("receipt %d of %s is superseded", document.number, document.lease)
            posted = _Letter(document.lease, ReceiptPosted(receipt=receipt.digest))
            return [posted, *_last_words(session, receipt)]

        return work


def _last_words(session: Session, receipt: Signed[Receipt]) -> list[_Letter]:
    """The last receipt, to each custodian: its enclave may be gone before it has told them.

    Without it a buyer would have paid for outputs that its own log names nowhere.
    """
    said = receipt.document
    if said.end is None:
        return []
    message = SignedMessage(signed=receipt.encode())
    custodians = custodians_of(session, find_job(session, said.job))
    return [_Letter(said.lease, message, box=each) for each in custodians]


def _nothing(_session: Session) -> list[_Letter]:
    return []


def _facts(session: Session, name: str) -> meter.SeatFacts:
    lease = find_lease(session, name)
    job = parse_base64url(lease.job_digest)
    return meter.SeatFacts(
        lease=lease.id,
        job=job,
        generation=lease.generation,
        rank=lease.rank,
        manifest=manifest_of(find_job(session, job)),
    )


def _refused(market: bytes, nonce: bytes, error: BlindhostError) -> Refused:
    return Refused(
        verifier=market,
        nonce=nonce,
        code=meter.refusal_code(error),
        text=str(error)[:TEXT_CHARACTERS_MAX],
    )


def _refusal_of(message: StoredMessage, error: BlindhostError, market: bytes) -> list[_Letter]:
    """The answer to evidence or a receipt that the books refused, by its nonce or digest."""
    parsed = parse_message(message.payload)
    if isinstance(parsed, MeterRequest):
        _bundle, statement, _launch = meter.parse_request(parsed)
        return [_Letter(statement.lease, _refused(market, statement.nonce, error))]
    if isinstance(parsed, SignedMessage) and signed_label(parsed.signed) == Receipt.LABEL:
        receipt = verify_signed(Receipt, parsed.signed, signer=None)
        return [_Letter(receipt.document.lease, _refused(market, receipt.digest, error))]
    return []
