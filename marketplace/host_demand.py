"""Why an offer gets no leases: which orders came for such a machine, and what each found wanting.

- The predicates, and the order in which they strike an offer off, are the scheduler's own
  (`scheduler.predicates`); the market does not import it, so they stand here again and a test
  holds the two equal. What differs is the question: there one order and many offers, here one
  offer and many orders.
- The offer is taken with the terms that it has now, each order as it was placed.
- A host is told counts. A number of orders that it does not serve is told as the best of at least
  `BUYERS_TOLD_MIN` buyers', so that nobody's bid can be read off it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Final

from sqlmodel import Session, col, select

from marketplace import wire_hosts
from marketplace.models import Job, Lease, LeaseState, Offer, OfferState, OfferTerms, Order
from marketplace.wire_hosts import BUYERS_TOLD_MIN, MATCHES_MAX, DemandView, Lost, PastMatch
from trust.encoding import parse_base64url
from trust.identity import IDENTITY_BYTES, SIGNATURE_BYTES
from trust.jobs import BidKind, JobManifest, Resources, is_class_of

HOUR_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000
CREDIT: Final = 1_000_000
ORDERS_MAX: Final = 1000  # newest first: what one request looks at
_UNWON: Final = (LeaseState.CLAIM_LOST, LeaseState.FUNDED)

BOOK: Final[dict[OfferState, str]] = {
    OfferState.LISTED: "",
    OfferState.CLAIMED: "leased now",
    OfferState.PAUSED: "paused: its agent is silent",
    OfferState.SUSPENDED: "suspended: a lease failed on it; list it again",
    OfferState.UNLISTED: "withdrawn",
    OfferState.EXPIRED: "expired",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """An order, as far as matching reads it."""

    order: str
    buyer: str
    placed_at: int
    """Unix milliseconds."""
    platform: str
    gpu_model: str
    gpus: int
    memory_mib: int
    compute_class: str | None
    """None: any will do."""
    interruptible: bool
    bid: int
    """Microcredits per GPU-hour, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """An offer, as far as matching reads it."""

    platform: str
    gpu_model: str
    gpus: int
    memory_mib: int
    compute_class: str
    ends_at: int
    ask: int
    floor: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    name: str
    holds: Callable[[Demand, Machine, int], bool]
    miss: Callable[[Demand, Machine], int] = lambda _demand, _machine: 0
    """By how much; the least is the nearest."""
    words: Callable[[Demand, Machine], str] = lambda _demand, _machine: ""
    is_secret: bool = False
    """Its words have a number of the buyer's."""


def price_of(demand: Demand, machine: Machine) -> int | None:
    """As `scheduler.predicates.price_of`: the ask, or for an interruptible order what it bids."""
    if not demand.interruptible:
        return machine.ask
    if machine.floor is None:
        return None
    return max(machine.floor, min(demand.bid, machine.ask))


def _price_holds(demand: Demand, machine: Machine, _now: int) -> bool:
    price = price_of(demand, machine)
    return price is not None and price <= demand.bid


def _price_words(demand: Demand, machine: Machine) -> str:
    name = "floor" if demand.interruptible else "ask"
    return f"your {name} {credit(price_of(demand, machine) or 0)}, bids to {credit(demand.bid)}"


CHECKS: Final = (
    _Check(name="platform", holds=lambda d, m, _: m.platform == d.platform),
    _Check(name="gpu_model", holds=lambda d, m, _: m.gpu_model == d.gpu_model),
    _Check(
        name="gpus",
        holds=lambda d, m, _: m.gpus == d.gpus,
        miss=lambda d, m: abs(m.gpus - d.gpus),
        words=lambda d, m: f"you offer {m.gpus} GPUs, wanted {d.gpus}",
        is_secret=True,
    ),
    _Check(
        name="memory",
        holds=lambda d, m, _: m.memory_mib >= d.memory_mib,
        miss=lambda d, m: d.memory_mib - m.memory_mib,
        words=lambda d, m: f"you offer {m.memory_mib} MiB, wanted from {d.memory_mib} MiB",
        is_secret=True,
    ),
    _Check(
        name="compute_class",
        holds=lambda d, m, _: (
            d.compute_class is None or is_class_of(m.compute_class, d.compute_class)
        ),
        words=lambda _d, m: f"you offer {m.compute_class}",
    ),
    _Check(
        name="lasts",
        holds=lambda _, m, now: m.ends_at > now,
        words=lambda _d, _m: "your offer has ended",
    ),
    _Check(
        name="interruptible",
        holds=lambda d, m, _: not d.interruptible or m.floor is not None,
        words=lambda _d, _m: "your offer names no floor for interruptible orders",
    ),
    _Check(
        name="price",
        holds=_price_holds,
        miss=lambda d, m: (price_of(d, m) or 0) - d.bid,
        words=_price_words,
        is_secret=True,
    ),
)


def lost_by(demand: Demand, machine: Machine, now: int) -> str | None:
    """The first predicate that strikes a machine off for an order; None: it fits."""
    failed = (check.name for check in CHECKS if not check.holds(demand, machine, now))
    return next(failed, None)


def losses(demands: Sequence[Demand], machine: Machine, now: int) -> tuple[Lost, ...]:
    """How many orders each predicate cost, and the nearest miss of each."""
    found = []
    for check in CHECKS:
        mine = [each for each in demands if lost_by(each, machine, now) == check.name]
        if not mine:
            continue
        buyers = len({each.buyer for each in mine})
        told = not check.is_secret or buyers >= BUYERS_TOLD_MIN
        best = min(mine, key=lambda each: (check.miss(each, machine), each.order))
        found.append(
            Lost(
                predicate=check.name,
                orders=len(mine),
                buyers=buyers,
                nearest=check.words(best, machine) if told else "",
            )
        )
    return tuple(found)


def credit(amount: int) -> str:
    """Microcredits as credits, with at least two places."""
    whole, rest = divmod(amount, CREDIT)
    return f"{whole}.{f'{rest:06d}'.rstrip('0').ljust(2, '0')}"


# --- from the book -------------------------------------------------------------------------------


def demand_view(session: Session, offer: Offer, *, hours: int, now: int) -> DemandView:
    """What became of the orders that an offer could have had in the last `hours`."""
    since = max(0, now - hours * HOUR_MS)
    terms = session.get_one(OfferTerms, (offer.id, offer.terms_number))
    machine = Machine(
        platform=terms.platform,
        gpu_model=terms.gpu_model,
        gpus=terms.gpus,
        memory_mib=terms.memory_mib,
        compute_class=terms.compute_class,
        ends_at=terms.ends_at_ms,
        ask=terms.ask,
        floor=terms.floor,
    )
    seen = [
        each
        for each in _demands(session, since)
        if (each.platform, each.gpu_model) == (machine.platform, machine.gpu_model)
    ]
    fitting = [each for each in seen if lost_by(each, machine, now) is None]
    leases = _leases(session, [each.order for each in fitting])
    return DemandView(
        offer=offer.id,
        since=since,
        until=now,
        orders=len(seen),
        fits=len(fitting),
        won=_won(session, offer, since),
        lost=losses(seen, machine, now) + _ranked(fitting, leases, offer, machine),
        book=BOOK[offer.state],
        matches=_matches(session, offer, machine, since),
    )


def _demands(session: Session, since: int) -> list[Demand]:
    query = (
        select(Order, Job)
        .join(Job, col(Job.digest) == col(Order.job_digest))
        .where(col(Order.created_at_ms) >= since)
        .order_by(col(Order.created_at_ms).desc(), col(Order.id))
        .limit(ORDERS_MAX)
    )
    return [_demand(order, job) for order, job in session.exec(query).all()]


def _demand(order: Order, job: Job) -> Demand:
    need, compute_class, interruptible = _need(job.manifest)
    return Demand(
        order=order.id,
        buyer=order.buyer,
        placed_at=order.created_at_ms,
        platform=need.platform,
        gpu_model=need.gpu_model,
        gpus=need.gpus,
        memory_mib=need.memory_mib,
        compute_class=compute_class,
        interruptible=interruptible,
        bid=order.bid,
    )


@functools.lru_cache(maxsize=ORDERS_MAX)
def _need(signed_manifest: bytes) -> tuple[Resources, str | None, bool]:
    """What a stored manifest demands. Parsing is what costs here, and a manifest never changes."""
    manifest = JobManifest.parse(signed_manifest[SIGNATURE_BYTES + IDENTITY_BYTES :])
    interruptible = manifest.bid.kind is BidKind.INTERRUPTIBLE
    return manifest.resources, manifest.compute_class, interruptible


def _leases(session: Session, orders: Sequence[str]) -> dict[str, list[Lease]]:
    query = select(Lease).where(col(Lease.order_id).in_(orders), col(Lease.state).not_in(_UNWON))
    found: dict[str, list[Lease]] = {}
    for lease in session.exec(query):
        found.setdefault(lease.order_id, []).append(lease)
    return found


def _won(session: Session, offer: Offer, since: int) -> int:
    query = select(Lease.id).where(
        col(Lease.offer_id) == offer.id,
        col(Lease.created_at_ms) >= since,
        col(Lease.state).not_in(_UNWON),
    )
    return len(session.exec(query).all())


def _ranked(
    fitting: Sequence[Demand], leases: dict[str, list[Lease]], offer: Offer, machine: Machine
) -> tuple[Lost, ...]:
    """Orders that the offer fits, and that it still did not get: others' prices are on the book."""
    waiting = [each for each in fitting if each.order not in leases]
    elsewhere = [
        each
        for each in fitting
        if each.order in leases and all(x.offer_id != offer.id for x in leases[each.order])
    ]
    found = []
    if elsewhere:
        highest = max(lease.price for each in elsewhere for lease in leases[each.order])
        words = f"your ask {credit(machine.ask)}, theirs to {credit(highest)}"
        found.append(_lost("ranked_after_others", elsewhere, words))
    if waiting:
        found.append(_lost("not_matched_yet", waiting, "a party of the order is not ready"))
    return tuple(found)


def _lost(name: str, demands: Sequence[Demand], words: str) -> Lost:
    buyers = len({each.buyer for each in demands})
    return Lost(predicate=name, orders=len(demands), buyers=buyers, nearest=words)


def _matches(
    session: Session, offer: Offer, machine: Machine, since: int
) -> tuple[wire_hosts.PastMatch, ...]:
    query = (
        select(Lease, Order)
        .join(Order, col(Order.id) == col(Lease.order_id))
        .join(
            OfferTerms,
            (col(OfferTerms.offer_id) == col(Lease.offer_id))
            & (col(OfferTerms.number) == col(Lease.offer_terms_number)),
        )
        .where(
            col(OfferTerms.platform) == machine.platform,
            col(OfferTerms.gpu_model) == machine.gpu_model,
            col(OfferTerms.gpus) == machine.gpus,
            col(Lease.created_at_ms) >= since,
            col(Lease.state).not_in(_UNWON),
        )
        .order_by(col(Lease.created_at_ms).desc(), col(Lease.id))
        .limit(MATCHES_MAX)
    )
    return tuple(_match(offer, *row) for row in session.exec(query).all())[::-1]


def _match(offer: Offer, lease: Lease, order: Order) -> PastMatch:
    mine, at = lease.host == offer.host, lease.created_at_ms
    ran = 0
    if lease.ready_at_ms is not None and lease.metered_until_ms is not None:
        ran = (lease.metered_until_ms - lease.ready_at_ms) // MINUTE_MS
    return PastMatch(
        at=at if mine else at - at % MINUTE_MS,
        price_microcredits_per_gpu_hour=lease.price,
        minutes=ran,
        interruptible=order.bid_kind is BidKind.INTERRUPTIBLE,
        mine=mine,
    )


def offer_of(session: Session, offer: str, host: bytes) -> Offer | None:
    """A host's own offer; None: no such offer, or another's."""
    found = session.get(Offer, offer)
    return found if found is not None and parse_base64url(found.host) == host else None
