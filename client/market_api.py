"""The market over HTTP, typed: every route of marketplace/wire.py, and nothing of its own.

- Each request is signed for one market, and each answer must be signed by that market, for exactly
  this request. An answer that is not is an error, whatever it says.
- Who moves or makes something gives an idempotency key that it made, and *stored*, before the call:
  the same call may then be made again after a crash. Within one call, what failed on the way is
  asked again under the same key, a bounded number of times.
- Plain http goes to loopback alone; https is pinned to one certificate.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from collections.abc import Callable, Iterable
from typing import Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from marketplace import wire
from trust.encoding import Struct, digest
from trust.errors import BlindhostError, EncodingError, RefusedError, SignatureError
from trust.http_signature import sign_request, verify_response
from trust.identity import PartyKey, Signed, verify_signed
from trust.jobs import Close, Dispute, GenerationOrder, JobManifest, Ready, Terms, UsePolicy
from trust.messages import LogHead

ATTEMPTS_MAX: Final = 5
BACKOFF_SECONDS: Final = (0.1, 0.4, 1.6, 5.0)  # between attempts: seven seconds in all
REQUEST_SECONDS: Final = 60.0  # one megabyte over a slow link
_AGAIN: Final = frozenset({wire.ErrorCode.TOO_MANY, wire.ErrorCode.INTERNAL})

S = TypeVar("S", bound=Struct)


class MarketUnreachableError(BlindhostError):
    """The market did not answer. Whether it did what was asked is not known: ask again."""


class UnauthenticatedAnswerError(BlindhostError):
    """An answer that the market did not sign, for this request."""


class MarketRefusedError(RefusedError):
    """The market says no, over its signature."""

    def __init__(self, error: wire.WireError) -> None:
        super().__init__(error.code.value, error.text)
        self.error_code = error.code


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MarketAddress:
    """Where a market is, and how it is known."""

    url: str
    identity: bytes
    """32 bytes: whose signature every answer carries."""
    certificate_sha256: bytes | None = None
    """Pinned; None: plain http, to loopback alone."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if len(self.identity) != 32:
            raise EncodingError(f"a market's identity has 32 bytes, this {len(self.identity)}")
        if parts.path not in {"", "/"} or parts.query or parts.fragment or not parts.hostname:
            raise EncodingError(f"market URL {self.url[:64]!r}: wanted scheme, host and port alone")
        match parts.scheme:
            case "http" if _is_loopback(parts.hostname):
                return
            case "https" if self.certificate_sha256 is not None:
                return
            case "https":
                raise EncodingError("https to a market is pinned: its certificate_sha256 is wanted")
            case _:
                raise EncodingError(f"{self.url[:64]!r}: plain http goes to loopback alone")


class MarketApi:
    """One party's view of one market. `clock` gives Unix milliseconds.

    `attempts` of one call at most: one for whoever tells a person about each, and waits itself.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        address: MarketAddress,
        key: PartyKey,
        clock: Callable[[], int],
        attempts: int = ATTEMPTS_MAX,
    ) -> None:
        self._session, self._address, self._key, self._clock = session, address, key, clock
        self._attempts = attempts
        pin = address.certificate_sha256
        self._ssl: aiohttp.Fingerprint | bool = True if pin is None else aiohttp.Fingerprint(pin)

    @property
    def identity(self) -> bytes:
        """Who asks."""
        return self._key.identity

    @property
    def market(self) -> bytes:
        """The market's identity."""
        return self._address.identity

    # --- the market, blobs, documents ------------------------------------------------------------

    async def get_market(self) -> wire.MarketView:
        """What anybody may know of this market."""
        return await self._get(wire.MarketView, wire.target(wire.MARKET))

    async def put_blob(self, content: bytes) -> bytes:
        """Store a blob; returns its SHA-256."""
        sha256 = digest(content)
        await self._put(wire.Stored, wire.target(wire.BLOB, digest=sha256), content)
        return sha256

    async def get_blob(self, sha256: bytes) -> bytes:
        """A blob, checked. Raises SignatureError if the bytes are not its own."""
        content = await self._ask("GET", wire.target(wire.BLOB, digest=sha256))
        if digest(content) != sha256:
            raise SignatureError(f"the market gave other bytes for blob {sha256.hex()}")
        return content

    async def missing_blobs(self, digests: Iterable[bytes]) -> tuple[bytes, ...]:
        """Those of these blobs that the market does not hold, in their order."""
        wanted = tuple(digests)
        gone: list[bytes] = []
        for start in range(0, len(wanted), wire.BLOBS_ASKED_MAX):
            body = wire.BlobsAsked(digests=wanted[start : start + wire.BLOBS_ASKED_MAX])
            target = wire.target(wire.BLOBS_MISSING)
            gone.extend((await self._post(wire.BlobsMissing, target, body, key=None)).digests)
        return tuple(gone)

    async def put_document(
        self, document: Signed[Terms] | Signed[UsePolicy] | bytes, *, sha256: bytes | None = None
    ) -> wire.Stored:
        """Register terms, a use policy, or a signed manifest (as bytes, with its digest)."""
        if isinstance(document, Signed):
            content, name = document.encode(), document.digest
        else:
            content, name = document, sha256 or digest(document[96:])
        return await self._put(wire.Stored, wire.target(wire.DOCUMENT, digest=name), content)

    async def get_document(self, sha256: bytes) -> bytes:
        """A signed document by its digest. What it says is the caller's to verify."""
        content = await self._ask("GET", wire.target(wire.DOCUMENT, digest=sha256))
        if digest(content[96:]) != sha256:
            raise SignatureError(f"the market gave another document for {sha256.hex()}")
        return content

    async def get_terms(self, owner: bytes, lineage: bytes) -> Signed[Terms]:
        """An owner's newest terms of a lineage, verified. The market may hide newer ones."""
        target = wire.target(wire.TERMS, owner=owner, lineage=lineage)
        return verify_signed(Terms, await self._ask("GET", target), signer=owner)

    async def get_use_policy(self, custodian: bytes, lineage: bytes) -> Signed[UsePolicy]:
        """A custodian's newest use policy of a lineage, verified."""
        target = wire.target(wire.USE_POLICY, custodian=custodian, lineage=lineage)
        return verify_signed(UsePolicy, await self._ask("GET", target), signer=custodian)

    # --- offers ----------------------------------------------------------------------------------

    async def post_offer(self, draft: wire.OfferDraft, *, key: bytes) -> wire.OfferView:
        """List an offer, or give it new terms."""
        return await self._post(wire.OfferView, wire.target(wire.OFFERS), draft, key=key)

    async def get_offers(self) -> tuple[wire.OfferView, ...]:
        """What is listed, cheapest ask first."""
        return (await self._get(wire.OfferList, wire.target(wire.OFFERS))).offers

    async def get_offer(self, offer: str) -> wire.OfferView:
        """One offer."""
        return await self._get(wire.OfferView, wire.target(wire.OFFER, offer=offer))

    async def search_offers(self, query: wire.OfferQuery) -> wire.OfferPage:
        """Listed offers that fit, a page of them."""
        target = wire.target(wire.OFFER_SEARCH)
        return await self._post(wire.OfferPage, target, query, key=None)

    async def explain_offers(self, query: wire.OfferQuery) -> wire.OfferFunnel:
        """What each clause of a query takes away."""
        target = wire.target(wire.OFFER_EXPLAIN)
        return await self._post(wire.OfferFunnel, target, query, key=None)

    async def beat(self, offer: str) -> wire.OfferView:
        """Keep an offer listed."""
        target = wire.target(wire.OFFER_HEARTBEAT, offer=offer)
        return await self._post(wire.OfferView, target, wire.Empty(), key=None)

    async def withdraw_offer(self, offer: str, *, key: bytes) -> wire.OfferView:
        """Take an offer back."""
        target = wire.target(wire.OFFER_WITHDRAW, offer=offer)
        return await self._post(wire.OfferView, target, wire.Empty(), key=key)

    # --- jobs ------------------------------------------------------------------------------------

    async def submit_job(self, manifest: Signed[JobManifest], *, key: bytes) -> wire.JobView:
        """Submit a job and hold its money. Raises MarketRefusedError (*no-funds*)."""
        body = wire.JobDraft(manifest=manifest.encode())
        return await self._post(wire.JobView, wire.target(wire.JOBS), body, key=key)

    async def get_jobs(self) -> tuple[wire.JobView, ...]:
        """One's own jobs, newest first."""
        return (await self._get(wire.JobList, wire.target(wire.JOBS))).jobs

    async def get_job(self, job: bytes) -> wire.JobView:
        """A job, and whom it waits for."""
        return await self._get(wire.JobView, wire.target(wire.JOB, digest=job))

    async def get_job_documents(self, job: bytes) -> wire.JobDocuments:
        """The signed documents of a job; they are the caller's to verify."""
        return await self._get(wire.JobDocuments, wire.target(wire.JOB_DOCUMENTS, digest=job))

    async def order_generation(self, order: Signed[GenerationOrder], *, key: bytes) -> wire.JobView:
        """Hand in a generation order."""
        target = wire.target(wire.JOB_GENERATIONS, digest=order.document.job)
        return await self._post(wire.JobView, target, _signed_body(order.encode()), key=key)

    async def close_job(self, close: Signed[Close], *, key: bytes) -> wire.JobView:
        """The buyer's last word on a job."""
        target = wire.target(wire.JOB_CLOSE, digest=close.document.job)
        return await self._post(wire.JobView, target, _signed_body(close.encode()), key=key)

    async def get_receipts(self, job: bytes, *, after: int = 0) -> tuple[wire.ReceiptView, ...]:
        """Receipts that settled, a page from number `after` on, in their order."""
        target = wire.target(wire.JOB_RECEIPTS, {"after": after}, digest=job)
        return (await self._get(wire.ReceiptList, target)).receipts

    async def dispute(self, dispute: Signed[Dispute], *, key: bytes) -> wire.ReceiptView:
        """Contest a receipt."""
        body = _signed_body(dispute.encode())
        return await self._post(wire.ReceiptView, wire.target(wire.DISPUTES), body, key=key)

    # --- what a custodian says -------------------------------------------------------------------

    async def get_asks(self) -> tuple[wire.GenerationAsk | wire.ReadyAsk, ...]:
        """What the market wants of this party."""
        return (await self._get(wire.AskList, wire.target(wire.ASKS))).asks

    async def say_ready(self, ready: Signed[Ready]) -> None:
        """Say that this custodian's broker is there."""
        await self._post(
            wire.Empty, wire.target(wire.READY), _signed_body(ready.encode()), key=None
        )

    async def post_head(self, head: Signed[LogHead]) -> None:
        """Publish the newest head of one's release log."""
        await self._post(wire.Empty, wire.target(wire.HEADS), _signed_body(head.encode()), key=None)

    async def get_head(self, custodian: bytes) -> Signed[LogHead] | None:
        """The newest head that the market knows, verified; None: it knows none."""
        try:
            content = await self._ask("GET", wire.target(wire.HEAD, custodian=custodian))
        except MarketRefusedError as error:
            if error.error_code is wire.ErrorCode.NOT_FOUND:
                return None
            raise
        return verify_signed(LogHead, content, signer=custodian)

    # --- leases ----------------------------------------------------------------------------------

    async def get_leases(self) -> tuple[wire.LeaseView, ...]:
        """One's own leases that have not ended."""
        return (await self._get(wire.LeaseList, wire.target(wire.LEASES))).leases

    async def get_lease(self, lease: str) -> wire.LeaseView:
        """One lease."""
        return await self._get(wire.LeaseView, wire.target(wire.LEASE, lease=lease))

    async def get_briefing(self, lease: str) -> wire.LeaseBriefing:
        """What to launch and to brief with."""
        return await self._get(wire.LeaseBriefing, wire.target(wire.LEASE_BRIEFING, lease=lease))

    async def report_lease(
        self, lease: str, report: wire.LeaseReport, *, key: bytes
    ) -> wire.LeaseView:
        """Say what became of a lease."""
        target = wire.target(wire.LEASE_STATE, lease=lease)
        return await self._post(wire.LeaseView, target, report, key=key)

    async def renew_lease(self, lease: str, *, seconds: int) -> wire.LeaseView:
        """Say that a lease goes on."""
        target = wire.target(wire.LEASE_RENEW, lease=lease)
        body = wire.LeaseRenewal(seconds=seconds)
        return await self._post(wire.LeaseView, target, body, key=None)

    # --- mailbox ---------------------------------------------------------------------------------

    async def post_message(
        self, box: bytes, payload: bytes, *, message: bytes, lease: str | None = None
    ) -> wire.StoredResult:
        """Post under an id of 16 bytes that the caller made and stored: once, however often."""
        target = wire.target(wire.MESSAGE, _of_lease(lease), box=box, message=message)
        return (await self._put(wire.Posted, target, payload)).result

    async def get_messages(
        self, box: bytes, *, after: int, wait_seconds: int = 0, lease: str | None = None
    ) -> tuple[wire.StoredMessage, ...]:
        """The next messages after a number; waits for one, at most `wire.WAIT_SECONDS_MAX`."""
        query = _of_lease(lease) | {"after": after, "wait": wait_seconds}
        target = wire.target(wire.MAILBOX, query, box=box)
        return (await self._get(wire.MessagePage, target)).messages

    async def acknowledge(self, box: bytes, *, through: int, lease: str | None = None) -> None:
        """Let go of every message up to this number."""
        target = wire.target(wire.MAILBOX_ACK, _of_lease(lease), box=box)
        await self._post(wire.Empty, target, wire.MessagesAcknowledged(through=through), key=None)

    # --- money -----------------------------------------------------------------------------------

    async def get_account(self) -> wire.AccountView:
        """One's own balances."""
        return await self._get(wire.AccountView, wire.target(wire.ACCOUNT))

    async def get_statement(
        self, account: wire.AccountRole = wire.AccountRole.BUYER, *, after: int = 0
    ) -> tuple[wire.StatementLine, ...]:
        """A page of one account's statement, after a line that is known."""
        target = wire.target(wire.STATEMENT, {"account": account.value, "after": after})
        return (await self._get(wire.Statement, target)).lines

    # --- the way there and back ------------------------------------------------------------------

    async def _get(self, kind: type[S], target: str) -> S:
        return _parsed(kind, await self._ask("GET", target))

    async def _put(self, kind: type[S], target: str, body: bytes) -> S:
        return _parsed(kind, await self._ask("PUT", target, body))

    async def _post(self, kind: type[S], target: str, body: Struct, *, key: bytes | None) -> S:
        return _parsed(kind, await self._ask("POST", target, wire.encode(body), key=key))

    async def _ask(
        self, method: str, target: str, body: bytes = b"", *, key: bytes | None = None
    ) -> bytes:
        """Ask, and ask again what failed on the way. Every request of ours may be repeated."""
        for attempt in range(self._attempts):
            try:
                return await self._ask_once(method, target, body, key)
            except MarketUnreachableError:
                if attempt == self._attempts - 1:
                    raise
            except MarketRefusedError as error:
                if error.error_code not in _AGAIN or attempt == self._attempts - 1:
                    raise
            await asyncio.sleep(BACKOFF_SECONDS[attempt])
        raise AssertionError("the last attempt returns or raises")

    async def _ask_once(self, method: str, target: str, body: bytes, key: bytes | None) -> bytes:
        """One request.

        (1) Signed for this market, now. (2) Sent to its address; redirects are not followed.
        (3) The answer is bounded, and (4) signed by the market for exactly this request.
        (5) A refusal is raised.
        """
        signed = sign_request(  # (1)
            self._key,
            market=self.market,
            method=method,
            target=target,
            body=body,
            idempotency_key=key,
            now=self._clock() // 1000,
        )
        try:
            async with self._session.request(  # (2)
                method,
                URL(self._address.url.rstrip("/") + target, encoded=True),
                data=body or None,
                headers=dict(signed.headers),
                ssl=self._ssl,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
            ) as response:
                content = await _bounded(response)  # (3)
                status, headers = response.status, response.headers
        except aiohttp.ServerFingerprintMismatch as error:
            raise UnauthenticatedAnswerError(
                "the market shows another certificate than the pinned one"
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise MarketUnreachableError(
                f"{method} {target.partition('?')[0]}: {type(error).__name__}"
            ) from error
        try:
            verify_response(  # (4)
                market=self.market,
                request=signed.digest,
                status=status,
                headers=headers,
                body=content,
            )
        except (EncodingError, SignatureError) as error:
            raise UnauthenticatedAnswerError(
                f"answer {status} is not signed by the market: {error}{_unsigned_text(content)}"
            ) from error
        if status != 200:  # (5)
            raise MarketRefusedError(_parsed(wire.WireError, content))
        return content


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parsed(kind: type[S], content: bytes) -> S:
    return wire.parse(kind, content, bytes_max=wire.ANSWER_BYTES_MAX)


def _signed_body(signed: bytes) -> wire.SignedBody:
    return wire.SignedBody(signed=signed)


def _of_lease(lease: str | None) -> dict[str, str | int]:
    return {} if lease is None else {"lease": lease}


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > wire.ANSWER_BYTES_MAX:
            raise UnauthenticatedAnswerError(
                f"an answer of over {wire.ANSWER_BYTES_MAX} bytes, the most of any route"
            )
    return bytes(content)


def _unsigned_text(content: bytes) -> str:
    """What an unsigned refusal says, for people: nothing is decided by it."""
    try:
        error = wire.parse(wire.WireError, content[: wire.JSON_BYTES_MAX])
    except EncodingError:
        return ""
    return f" (it says {error.code.value}: {error.text[:200]})"
