"""What an order demands of an offer: hard predicates, each with words for people. Pure, integers.

None is a hint: a confidential order on a plain machine is no worse match, it is none
(marketplace.md §0.7).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Final

from trust.jobs import is_class_of


class Predicate(enum.StrEnum):
    """What an offer must have, in the order in which offers are struck off."""

    PLATFORM = "platform"
    GPU_MODEL = "gpu_model"
    GPUS = "gpus"
    MEMORY = "memory"
    COMPUTE_CLASS = "compute_class"
    LASTS = "lasts"
    INTERRUPTIBLE = "interruptible"
    PRICE = "price"
    FREE = "free"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Failures:
    """How often one host failed one job."""

    host: str
    times: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """An order, as far as matching reads it: one enclave for each of `ranks`."""

    order: str
    """Id of the order."""
    placed_at: int
    """Unix milliseconds; earlier orders go first."""
    ranks: tuple[int, ...]
    """Ranks that need a machine."""
    platform: str
    gpu_model: str
    gpus: int
    memory_mib: int
    """Memory of each GPU, at least."""
    compute_class: str | None
    """None: any class will do, one for all ranks."""
    lasts_until: int
    """Unix milliseconds that an offer must outlast."""
    interruptible: bool
    bid: int
    """Microcredits per GPU-hour, at most."""
    failures: tuple[Failures, ...] = ()
    """Hosts that failed this job."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Available:
    """An offer, as far as matching reads it."""

    offer: str
    """Id of the offer."""
    version: int
    """Its version token: a claim is good for this version alone."""
    host: str
    platform: str
    gpu_model: str
    gpus: int
    memory_mib: int
    """Memory of each GPU."""
    compute_class: str
    ends_at: int
    """Unix milliseconds."""
    ask: int
    """Microcredits per GPU-hour on demand."""
    floor: int | None
    """Microcredits per GPU-hour for interruptible orders; None: it takes none."""
    reliability_ppm: int
    """1 … 10⁶, as `reliability_ppm` measures it."""
    free: bool = True
    """False: another lease has it."""


def price_of(wanted: Wanted, offer: Available) -> int | None:
    """Microcredits per GPU-hour; None where the offer takes no interruptible order.

    On demand it is the ask. An interruptible order pays its bid, between the floor and the ask:
    what it could be outbid at. `marketplace.leases.claim` comes to the same price.
    """
    if not wanted.interruptible:
        return offer.ask
    return None if offer.floor is None else max(offer.floor, min(wanted.bid, offer.ask))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A predicate: whether it holds, what it wants in words, and how far an offer misses it."""

    holds: Callable[[Wanted, Available, set[str]], bool]
    wants: Callable[[Wanted], str]
    found: Callable[[Wanted, Available], str]
    distance: Callable[[Wanted, Available], int] = lambda _wanted, _offer: 0


def _price_holds(wanted: Wanted, offer: Available) -> bool:
    price = price_of(wanted, offer)
    return price is not None and price <= wanted.bid


CHECKS: Final[dict[Predicate, Check]] = {
    Predicate.PLATFORM: Check(
        holds=lambda w, o, _: o.platform == w.platform,
        wants=lambda w: w.platform,
        found=lambda _, o: o.platform,
    ),
    Predicate.GPU_MODEL: Check(
        holds=lambda w, o, _: o.gpu_model == w.gpu_model,
        wants=lambda w: w.gpu_model,
        found=lambda _, o: o.gpu_model,
    ),
    Predicate.GPUS: Check(
        holds=lambda w, o, _: o.gpus == w.gpus,
        wants=lambda w: f"= {w.gpus}",
        found=lambda _, o: str(o.gpus),
        distance=lambda w, o: abs(o.gpus - w.gpus),
    ),
    Predicate.MEMORY: Check(
        holds=lambda w, o, _: o.memory_mib >= w.memory_mib,
        wants=lambda w: f">= {w.memory_mib} MiB",
        found=lambda _, o: f"{o.memory_mib} MiB",
        distance=lambda w, o: w.memory_mib - o.memory_mib,
    ),
    Predicate.COMPUTE_CLASS: Check(
        holds=lambda w, o, _: (
            w.compute_class is None or is_class_of(o.compute_class, w.compute_class)
        ),
        wants=lambda w: "any" if w.compute_class is None else w.compute_class,
        found=lambda _, o: o.compute_class,
    ),
    Predicate.LASTS: Check(
        holds=lambda w, o, _: o.ends_at > w.lasts_until,
        wants=lambda _: "long enough",  # the same text while a job waits, whatever the time
        found=lambda _, o: f"{o.offer}, which ends",
        distance=lambda w, o: w.lasts_until - o.ends_at,
    ),
    Predicate.INTERRUPTIBLE: Check(
        holds=lambda w, o, _: not w.interruptible or o.floor is not None,
        wants=lambda w: "with a floor" if w.interruptible else "not asked",
        found=lambda _, _o: "an offer on demand only",
    ),
    Predicate.PRICE: Check(
        holds=lambda w, o, _: _price_holds(w, o),
        wants=lambda w: f"<= {w.bid}",
        found=lambda w, o: str(price_of(w, o)),
        distance=lambda w, o: (price_of(w, o) or 0) - w.bid,
    ),
    Predicate.FREE: Check(
        holds=lambda _, o, taken: o.free and o.offer not in taken,
        wants=lambda _: "now",
        found=lambda _, o: f"{o.offer}, leased to another",
    ),
}
