"""Matching: orders × offers → placements. Pure, integers only, and the same for any input order.

- Orders are served first come, first served, by (time placed, id). An order takes one offer for
  each rank it needs, all or none; an offer is leased whole, so it is matched at most once.
- An order takes what is least for it by (times that this host failed this job, price weighed by
  reliability, offer id). So a host that failed a job is asked again only once no other is left.
- Weighed price = ceil(price × 10⁶ ÷ reliability ppm): what a finished hour costs, when so many
  hours finish. What is *paid* is the price itself.
- Ranks of one job stand on one compute class. Which one is the least: fewest failures first, then
  the smallest sum.
- Who gets nothing is told how many offers each predicate left, and the nearest miss.
- Platform and GPU model are equalities, so orders and offers that can meet fall into one shard
  (`shard_of`), and shards matched apart give what one matching of all would give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from scheduler.predicates import CHECKS, Available, Predicate, Wanted, price_of
from trust.encoding import labelled_digest

PPM: Final = 1_000_000
PRIOR_KEPT: Final = 3  # a host without history counts as 3 leases kept of 5: 60 %, as on vast.ai
PRIOR_LEASES: Final = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """One rank's machine."""

    rank: int
    offer: Available
    price: int
    """Microcredits per GPU-hour."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """An order with a machine for each rank it wanted."""

    order: str
    matches: tuple[Match, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Elimination:
    """How many offers one predicate left."""

    predicate: Predicate
    wanted: str
    left: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Unplaced:
    """Why an order got nothing."""

    order: str
    offers: int
    """Offers looked at."""
    steps: tuple[Elimination, ...]
    """Up to the predicate that left too few."""
    nearest: str
    """What the last predicate found nearest to what was wanted; empty where there was nothing."""

    def __str__(self) -> str:
        """Predicates that struck nothing off are left out: a person reads this."""
        parts, before = [f"{self.offers} offers"], self.offers
        for step in self.steps:
            if step.left < before or step is self.steps[-1]:
                parts.append(f"{step.left} after {step.predicate.value} {step.wanted}")
            before = step.left
        text = " -> ".join(parts)
        return f"{text}; nearest {self.nearest}" if self.nearest else text


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """The result of one round."""

    placements: tuple[Placement, ...]
    unplaced: tuple[Unplaced, ...]


def reliability_ppm(*, kept: int, failed: int) -> int:
    """Measured reliability: leases kept and failed, with a prior of 3 kept of 5. 1 … 10⁶ ppm.

    Only ends that are the host's doing are counted (marketplace.md §6.3, 27). It starts low, and
    anybody can compute it again from the leases' history.
    """
    return max(1, (PRIOR_KEPT + kept) * PPM // (PRIOR_LEASES + kept + failed))


def weighed_price(price: int, reliability: int) -> int:
    """Ceiling of price × 10⁶ ÷ reliability, so that no two prices change places by rounding."""
    return -(-price * PPM // reliability)


def shard_of(*, platform: str, gpu_model: str, shards: int) -> int:
    """Which of `shards` matches this machine kind."""
    found = labelled_digest("scheduler/shard", platform.encode(), gpu_model.encode())
    return int.from_bytes(found[:8], "big") % shards


def match(orders: Iterable[Wanted], offers: Iterable[Available]) -> Matching:
    """Place what can be placed.

    Raises ValueError where an order or an offer stands twice: the caller's own mistake.
    """
    waiting = sorted(orders, key=lambda each: (each.placed_at, each.order))
    book = sorted(offers, key=lambda each: each.offer)
    if len({each.order for each in waiting}) < len(waiting):
        raise ValueError("match: an order stands twice")
    if len({each.offer for each in book}) < len(book):
        raise ValueError("match: an offer stands twice")
    taken: set[str] = set()
    placements: list[Placement] = []
    unplaced: list[Unplaced] = []
    for wanted in waiting:
        found = _place(wanted, [each for each in book if _fits(wanted, each, taken)])
        if found is None:
            unplaced.append(_explain(wanted, book, taken))
        else:
            taken.update(each.offer.offer for each in found.matches)
            placements.append(found)
    return Matching(placements=tuple(placements), unplaced=tuple(unplaced))


def feasible(wanted: Wanted, offer: Available) -> bool:
    """Whether an offer meets every predicate of an order."""
    return _fits(wanted, offer, set())


# --- one order -----------------------------------------------------------------------------------


def _place(wanted: Wanted, fitting: list[Available]) -> Placement | None:
    failed = {each.host: each.times for each in wanted.failures}
    classes: dict[str, list[tuple[int, int, str, Match]]] = {}
    for offer in fitting:
        price = price_of(wanted, offer)
        assert price is not None  # it fits
        weighed = weighed_price(price, offer.reliability_ppm)
        place = Match(rank=0, offer=offer, price=price)
        key = (failed.get(offer.host, 0), weighed, offer.offer, place)
        classes.setdefault(offer.compute_class, []).append(key)
    count = len(wanted.ranks)
    choices = [
        sorted(each, key=lambda key: key[:3])[:count]
        for each in classes.values()
        if len(each) >= count
    ]
    if not choices or not count:
        return None
    best = min(
        choices,
        key=lambda keys: (
            sum(key[0] for key in keys),
            sum(key[1] for key in keys),
            [key[2] for key in keys],
        ),
    )
    ranks = sorted(wanted.ranks)
    matches = tuple(
        dataclasses.replace(key[3], rank=rank) for rank, key in zip(ranks, best, strict=True)
    )
    return Placement(order=wanted.order, matches=matches)


def _fits(wanted: Wanted, offer: Available, taken: set[str]) -> bool:
    return all(check.holds(wanted, offer, taken) for check in CHECKS.values())


def _explain(wanted: Wanted, book: list[Available], taken: set[str]) -> Unplaced:
    left, steps, nearest = book, [], ""
    for predicate, check in CHECKS.items():
        kept = [each for each in left if check.holds(wanted, each, taken)]
        steps.append(Elimination(predicate=predicate, wanted=check.wants(wanted), left=len(kept)))
        if len(kept) < len(wanted.ranks):
            missed = [each for each in left if each not in kept]
            if missed:
                best = min(missed, key=lambda each: (check.distance(wanted, each), each.offer))
                nearest = check.found(wanted, best)
            break
        left = kept
    else:
        nearest = f"{len(left)} offers, no {len(wanted.ranks)} of one compute class"
    return Unplaced(order=wanted.order, offers=len(book), steps=tuple(steps), nearest=nearest)
