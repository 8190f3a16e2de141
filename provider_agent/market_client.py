"""The market over HTTP, as `MarketPort` wants it.

Rules:
- Each request is signed for one market; each answer must be signed by it for exactly this request,
  refusals included. What is not is no answer: it says neither yes nor no.
- Plain http goes to loopback alone; https is pinned to one certificate. No proxy, no redirect.
- An idempotency key is derived from what is asked, where that happens once: an agent that was
  killed between asking and noting the answer asks under the same one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from marketplace import wire
from marketplace.wire import ErrorCode, LeaseBriefing, LeaseReport, LeaseView, StoredMessage
from provider_agent.errors import RejectedError, UnavailableError
from trust.encoding import Struct, labelled_digest
from trust.errors import EncodingError, SignatureError
from trust.http_signature import sign_request, verify_response
from trust.identity import PartyKey
from trust.messages import lease_address

REQUEST_SECONDS: Final = 60.0  # a megabyte over a slow link, or a long poll of 25 and its answer
_LATER: Final = frozenset({ErrorCode.TOO_MANY, ErrorCode.INTERNAL, ErrorCode.FULL})
UNSIGNED_CHARACTERS_MAX: Final = 200  # anybody on the way may have written it
# A box that is full is its reader's: to wait for it would keep all other readers waiting.
_LATER_THAN_A_MESSAGE: Final = _LATER - {ErrorCode.FULL}

S = TypeVar("S", bound=Struct)


@dataclass(frozen=True, kw_only=True, slots=True)
class MarketAddress:
    """Where the market is, and how it is known."""

    url: str
    """Scheme, host and port."""
    identity: bytes
    """32 bytes: who signs every answer."""
    certificate_sha256: bytes | None
    """Pinned; None: plain http, to loopback alone."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if len(self.identity) != 32:
            raise EncodingError(f"a market's identity has 32 bytes, this {len(self.identity)}")
        if parts.path not in ("", "/") or parts.query or parts.fragment or not parts.hostname:
            raise EncodingError(f"market {self.url[:64]!r}: scheme, host and port are wanted")
        pinned = self.certificate_sha256 is not None
        if parts.scheme == "http" and not pinned and _is_loopback(parts.hostname):
            return
        if parts.scheme == "https" and pinned:
            return
        raise EncodingError(f"market {self.url[:64]!r}: http to loopback alone, else pinned https")


class HttpMarket:
    """`MarketPort` over HTTP. `clock` gives Unix milliseconds."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        address: MarketAddress,
        key: PartyKey,
        clock: Callable[[], int],
    ) -> None:
        self._session, self._address, self._key, self._clock = session, address, key, clock
        pin = address.certificate_sha256
        self._ssl: aiohttp.Fingerprint | bool = True if pin is None else aiohttp.Fingerprint(pin)

    # --- leases ----------------------------------------------------------------------------------

    async def leases(self) -> tuple[LeaseView, ...]:
        """Own leases that have not ended."""
        return (await self._typed(wire.LeaseList, "GET", wire.target(wire.LEASES))).leases

    async def briefing(self, lease: str) -> LeaseBriefing | None:
        """What to launch; None: no generation order names the lease yet."""
        target = wire.target(wire.LEASE_BRIEFING, lease=lease)
        try:
            return await self._typed(LeaseBriefing, "GET", target)
        except RejectedError as error:
            if error.code == ErrorCode.CONFLICT:
                return None
            raise

    async def report_lease(self, lease: str, report: LeaseReport) -> None:
        """Say what became of a lease."""
        said = (lease.encode(), report.event.value.encode(), report.reason.encode())
        await self._post(
            LeaseView,
            wire.target(wire.LEASE_STATE, lease=lease),
            report,
            key=labelled_digest("agent/report-key", *said)[:16],
        )

    # --- mailbox ---------------------------------------------------------------------------------

    async def post_message(self, box: bytes, message: bytes, payload: bytes, lease: str) -> None:
        """Post for the enclave of a lease."""
        target = wire.target(wire.MESSAGE, {"lease": lease}, box=box, message=message)
        await self._typed(wire.Posted, "PUT", target, payload, later=_LATER_THAN_A_MESSAGE)

    async def read_messages(self, lease: str, after: int, wait: int) -> tuple[StoredMessage, ...]:
        """The lease's box above number `after`."""
        query: dict[str, str | int] = {"after": after, "lease": lease, "wait": wait}
        target = wire.target(wire.MAILBOX, query, box=lease_address(lease))
        return (await self._typed(wire.MessagePage, "GET", target)).messages

    async def acknowledge(self, lease: str, through: int) -> None:
        """Let messages up to this number go."""
        target = wire.target(wire.MAILBOX_ACK, {"lease": lease}, box=lease_address(lease))
        await self._post(wire.Empty, target, wire.MessagesAcknowledged(through=through), key=None)

    # --- blobs -----------------------------------------------------------------------------------

    async def get_blob(self, sha256: bytes) -> bytes | None:
        """A blob, not verified; None: the market has none of this name."""
        try:
            return await self._ask("GET", wire.target(wire.BLOB, digest=sha256))
        except RejectedError as error:
            if error.code == ErrorCode.NOT_FOUND:
                return None
            raise

    async def put_blob(self, sha256: bytes, content: bytes) -> None:
        """Store a blob."""
        await self._typed(wire.Stored, "PUT", wire.target(wire.BLOB, digest=sha256), content)

    # --- offers ----------------------------------------------------------------------------------

    async def put_offer(self, draft: wire.OfferDraft, key: bytes) -> wire.OfferView:
        """List an offer."""
        return await self._post(wire.OfferView, wire.target(wire.OFFERS), draft, key=key)

    async def heartbeat(self, offer: str) -> wire.OfferView:
        """Keep an offer listed."""
        target = wire.target(wire.OFFER_HEARTBEAT, offer=offer)
        return await self._post(wire.OfferView, target, wire.Empty(), key=None)

    async def withdraw(self, offer: str) -> None:
        """Take an offer off the book: once, so the key is of the offer alone."""
        key = labelled_digest("agent/withdraw-key", offer.encode())[:16]
        target = wire.target(wire.OFFER_WITHDRAW, offer=offer)
        await self._post(wire.OfferView, target, wire.Empty(), key=key)

    # --- one request -----------------------------------------------------------------------------

    async def _post(self, kind: type[S], target: str, body: Struct, *, key: bytes | None) -> S:
        return await self._typed(kind, "POST", target, wire.encode(body), key=key)

    async def _typed(
        self,
        kind: type[S],
        method: str,
        target: str,
        body: bytes = b"",
        *,
        key: bytes | None = None,
        later: frozenset[ErrorCode] = _LATER,
    ) -> S:
        content = await self._ask(method, target, body, key=key, later=later)
        try:
            return wire.parse(kind, content, bytes_max=wire.ANSWER_BYTES_MAX)
        except EncodingError as error:
            raise UnavailableError(f"the market's answer is none of ours: {error}") from error

    async def _ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        key: bytes | None = None,
        later: frozenset[ErrorCode] = _LATER,
    ) -> bytes:
        """Ask once.

        (1) Signed for this market, now. (2) Sent to its address alone. (3) The answer is bounded,
        and (4) signed by the market for exactly this request. (5) Its *no* is an error. Whom the
        market could not recognise it answers unsigned: that is believed to be no answer, and its
        words are shown, for the usual reason is a clock that is off.

        Raises UnavailableError up to (4), RejectedError or UnavailableError for (5).
        """
        signed = sign_request(  # (1)
            self._key,
            market=self._address.identity,
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
            ) as answer:
                content = await _bounded(answer)  # (3)
                if answer.status == wire.STATUS[ErrorCode.UNSIGNED]:
                    raise UnavailableError(_unsigned(content))
                verify_response(  # (4)
                    market=self._address.identity,
                    request=signed.digest,
                    status=answer.status,
                    headers=answer.headers,
                    body=content,
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(f"{method}: {type(error).__name__}") from error
        except (EncodingError, SignatureError) as error:
            raise UnavailableError(f"answer that is not the market's: {error}") from error
        if answer.status == 200:
            return content
        try:  # (5)
            refusal = wire.parse(wire.WireError, content)
        except EncodingError as error:
            raise UnavailableError(f"refusal {answer.status} without a word") from error
        if refusal.code in later:
            raise UnavailableError(f"{refusal.code.value}: {refusal.text}")
        raise RejectedError(refusal.code.value, refusal.text)


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in answer.content.iter_any():
        content += chunk
        if len(content) > wire.ANSWER_BYTES_MAX:
            raise UnavailableError(f"answer of over {wire.ANSWER_BYTES_MAX} bytes")
    return bytes(content)


def _unsigned(content: bytes) -> str:
    try:
        said = wire.parse(wire.WireError, content).text[:UNSIGNED_CHARACTERS_MAX]
    except EncodingError:
        said = "nothing that can be read"
    return f"answer that is not the market's, to a request not recognised; unsigned: {said}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
