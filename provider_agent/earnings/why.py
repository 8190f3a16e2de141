"""Why a machine gets no leases, in words: the market's counts, and what is wrong on the host."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.wire_hosts import DemandView


@dataclass(frozen=True, kw_only=True, slots=True)
class Blockers:
    """What stands in the way on the host's own side."""

    checks: tuple[str, ...] | None
    """Blockers of the last doctor run that did not pass; None: no run was kept."""
    maintenance: str | None
    """Why no lease is taken now; None: one would be."""


def why_text(view: DemandView, blockers: Blockers) -> str:
    """First what is here, then what is at the market: mending the first may change the second."""
    rows = []
    if view.book:
        rows.append(f"the offer is not on the book: {view.book}")
    if blockers.maintenance is not None:
        rows.append(f"this host takes none: {blockers.maintenance}")
    if blockers.checks is None:
        rows.append("this host was not checked: run blindhost-agent doctor")
    else:
        rows.extend(f"this host fails {each}" for each in blockers.checks)
    hours = (view.until - view.since) // 3_600_000
    rows.append(
        f"{view.orders} orders for this platform and GPU in {hours} h, {view.fits} that this offer "
        f"fits, {view.won} leases"
    )
    for lost in view.lost:
        who = "1 buyer" if lost.buyers == 1 else f"{lost.buyers} buyers"
        row = f"  {lost.orders} of {view.orders} orders lost by {lost.predicate} ({who})"
        rows.append(f"{row}: {lost.nearest}" if lost.nearest else row)
    if not view.orders:
        rows.append("  nobody asked for such a machine: no price would have changed that")
    return "\n".join(rows)
