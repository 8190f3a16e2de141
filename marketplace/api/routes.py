"""The route table: every path of wire.py, with its method, its handler, and what it may change."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Final

from marketplace import wire, wire_hosts
from marketplace.api.asks import Ask, Handler
from marketplace.api.handlers import (
    blobs,
    documents,
    hosts,
    jobs,
    leases,
    mailbox,
    market,
    money,
    offers,
)
from trust.http_signature import Method


class Access(enum.Enum):
    """What a handler does with the database."""

    READ = "read"
    WRITE = "write"
    """In a transaction; what it did has no idempotency key, because twice is as good as once."""
    KEYED = "keyed"
    """In a transaction, once for each idempotency key."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """One method on one path."""

    method: Method
    path: str
    handler: Handler
    access: Access
    body_bytes_max: int
    query: frozenset[str] = frozenset()
    """Names that may stand in the query; any other is refused."""
    prepare: Callable[[Ask], None] | None = None
    """Slow work that needs no transaction, done before it begins."""


def _get(path: str, handler: Handler, *query: str) -> Route:
    return Route(
        method=Method.GET,
        path=path,
        handler=handler,
        access=Access.READ,
        body_bytes_max=0,
        query=frozenset(query),
    )


def _put(
    path: str,
    handler: Handler,
    most: int,
    *query: str,
    prepare: Callable[[Ask], None] | None = None,
) -> Route:
    return Route(
        method=Method.PUT,
        path=path,
        handler=handler,
        access=Access.WRITE,
        body_bytes_max=most,
        query=frozenset(query),
        prepare=prepare,
    )


def _post(
    path: str, handler: Handler, *query: str, access: Access = Access.KEYED, most: int = 0
) -> Route:
    return Route(
        method=Method.POST,
        path=path,
        handler=handler,
        access=access,
        body_bytes_max=most or wire.JSON_BYTES_MAX,
        query=frozenset(query),
    )


ROUTES: Final = (
    _get(wire.MARKET, market.get_market),
    _put(wire.BLOB, blobs.put_blob, wire.BLOB_BYTES_MAX, prepare=blobs.prepare_blob),
    _get(wire.BLOB, blobs.get_blob, "first", "last"),
    _post(wire.BLOBS_MISSING, blobs.post_missing, access=Access.READ),
    _put(wire.DOCUMENT, documents.put_document, wire.DOCUMENT_BODY_BYTES_MAX, "lease"),
    _get(wire.DOCUMENT, documents.get_document),
    _get(wire.TERMS, documents.get_terms),
    _get(wire.USE_POLICY, documents.get_use_policy),
    _post(wire.OFFERS, offers.post_offer),
    _get(wire.OFFERS, offers.get_offers),
    _post(wire.OFFER_SEARCH, offers.post_search, access=Access.READ),
    _post(wire.OFFER_EXPLAIN, offers.post_explain, access=Access.READ),
    _get(wire.OFFER, offers.get_offer),
    _post(wire.OFFER_HEARTBEAT, offers.post_heartbeat, access=Access.WRITE),
    _post(wire.OFFER_WITHDRAW, offers.post_withdraw),
    _post(wire.JOBS, jobs.post_job),
    _get(wire.JOBS, jobs.get_jobs),
    _get(wire.JOB, jobs.get_job),
    _get(wire.JOB_DOCUMENTS, jobs.get_documents),
    _post(wire.JOB_GENERATIONS, jobs.post_generation),
    _post(wire.JOB_CLOSE, jobs.post_close),
    _get(wire.JOB_RECEIPTS, jobs.get_receipts, "after"),
    _get(wire.ASKS, jobs.get_asks),
    _post(wire.READY, documents.post_ready, access=Access.WRITE),
    _get(wire.LEASES, leases.get_leases),
    _get(wire.LEASE, leases.get_lease),
    _get(wire.LEASE_BRIEFING, leases.get_briefing),
    _post(wire.LEASE_STATE, leases.post_state),
    _post(wire.LEASE_RENEW, leases.post_renew, access=Access.WRITE),
    _put(wire.MESSAGE, mailbox.put_message, wire.PAYLOAD_BYTES_MAX, "lease"),
    _get(wire.MAILBOX, mailbox.get_messages, "after", "wait", "lease"),
    _post(wire.MAILBOX_ACK, mailbox.acknowledge, "lease", access=Access.WRITE),
    _get(wire.ACCOUNT, money.get_account),
    _get(wire.STATEMENT, money.get_statement, "account", "after"),
    _post(wire.HEADS, documents.post_head, access=Access.WRITE),
    _get(wire.HEAD, documents.get_head),
    _post(wire.DISPUTES, jobs.post_dispute),
    # what a host asks about itself (wire_hosts.py)
    _get(wire_hosts.HOST_LEASES, hosts.get_host_leases, "after"),
    _get(wire_hosts.LEASE_SETTLEMENTS, hosts.get_lease_settlements, "after"),
    _get(wire_hosts.OFFER_DEMAND, hosts.get_offer_demand, "hours"),
)
