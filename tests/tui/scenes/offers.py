"""Scenes of Offers."""

from __future__ import annotations

import dataclasses

from tests.tui.rig import NOW, OFFLINE, ONLINE, USUAL
from tui.facts import (
    Fact,
    Failure,
    Funnel,
    FunnelStep,
    OfferPage,
    OfferRow,
    PolicyPreview,
    QueryError,
    Would,
)

QUERY = "gpu=H100 vram>=80GiB tee in (sev-snp,tdx) price<=2.00"
OWNER, BUYER = "6d" * 32, "5f" * 32


def offer(number: int) -> OfferRow:
    """A made-up offer."""
    gpus = (8, 1, 8, 2, 4)[number % 5]
    return OfferRow(
        id=f"offr_{number:026d}",
        host=f"{number % 251:02x}" * 32,
        platform=("sev-snp", "tdx")[number % 2],
        compute_class="cpu=genoa;gpu=H100",
        gpu_model="H100",
        gpus=gpus,
        memory_mib=(80, 94)[number % 3 == 0] * 1024,
        ask=939_000 + 23_000 * number,
        floor=591_000 if number % 2 else None,
        ends_at=NOW + 86_400_000 * (1 + number % 9),
        state="listed",
        words="",
    )


def page(query: str, *, start: int = 0, total: int = 361, sort: str = "price", version: str = "7"):
    """A page of made-up offers."""
    rows = tuple(offer(number) for number in range(start, min(total, start + 200)))
    return OfferPage(
        as_of=NOW,
        query=query,
        sort=sort,
        total=total,
        listed=20_000,
        start=start,
        rows=rows,
        version=version,
    )


def step(clause: str, left: int, looser: str = "", gain: int = 0, cheapest: int | None = None):
    return FunnelStep(clause=clause, left=left, looser=looser, gain=gain, cheapest=cheapest)


FUNNEL = Funnel(
    as_of=NOW,
    query="",
    listed=20_000,
    steps=(
        step("gpu=H100", 7_865, "gpu in (H100,H200)", 3_100, 1_400_000),
        step("vram>=80GiB", 7_865),
        step("tee in (sev-snp,tdx)", 3_977),
        step("price<=2.00", 361, "price<=2.20", 212, 2_010_000),
    ),
    nearest_miss="",
)
EMPTY = dataclasses.replace(
    FUNNEL,
    steps=(*FUNNEL.steps[:3], step("price<=0.50", 0, "price<=0.94", 1, 939_000)),
    nearest_miss="0.939 cr/h",
)
PREVIEWS = (
    PolicyPreview(
        as_of=NOW, offer=offer(0).id, custodian=OWNER, would=Would.PASS, check="2 not checked"
    ),
    PolicyPreview(as_of=NOW, offer=offer(0).id, custodian=BUYER, would=Would.PASS, check=""),
    PolicyPreview(
        as_of=NOW, offer=offer(2).id, custodian=OWNER, would=Would.REFUSE, check="tcb-floor"
    ),
    PolicyPreview(as_of=NOW, offer=offer(3).id, custodian=BUYER, would=Would.UNKNOWN, check=""),
)
LINK = ("offers",)
SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (LINK, (*USUAL, FUNNEL, page(""), *PREVIEWS)),
    "empty": (LINK, (*USUAL, EMPTY, page("", total=0))),
    "loading": (LINK, USUAL),
    "error": (
        LINK,
        (
            *USUAL,
            page(""),
            QueryError(as_of=NOW, query="", text="no field 'regoin'", at=4, suggestion="region"),
        ),
    ),
    "offline": (LINK, (ONLINE, *USUAL[1:], FUNNEL, page(""), *PREVIEWS, OFFLINE)),
}
FAILED = Failure(as_of=NOW, where="", code="busy", words="the market is busy", retry_in=None)
