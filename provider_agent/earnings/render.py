"""A statement as text, CSV, JSON or beancount. Amounts stay integers, or exact decimals of them."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from provider_agent.earnings.energy import Energy
from provider_agent.earnings.lines import Idle, Line, Part, State, Statement

CREDIT: Final = 1_000_000
HOUR_MS: Final = 3_600_000
COLUMNS: Final = (
    "day", "lease", "offer", "offer_version", "gpus", "start", "end", "wall_ms", "billed_ms", "why",
    "rate", "gross", "fee", "adjustments", "net", "states", "expected", "check", "running_total",
)  # fmt: skip
_ASSETS: Final = {
    State.ACCRUED: "Assets:Blindhost:Accrued",
    State.MATURING: "Assets:Blindhost:Maturing",
    State.DISPUTED: "Assets:Blindhost:Disputed",
    State.PAYABLE: "Assets:Blindhost:Payable",
    State.SENT: "Assets:Blindhost:Sent",
}
_INCOME: Final = "Income:Blindhost:Leases"
_FEES: Final = "Expenses:Blindhost:MarketFee"
_REFUNDS: Final = "Expenses:Blindhost:Refunds"


def credits_of(amount: int) -> str:
    """Microcredits as credits, exact."""
    sign, size = "-" if amount < 0 else "", abs(amount)
    return f"{sign}{size // CREDIT}.{size % CREDIT:06d}"


def moment(at: int) -> str:
    """A time of Unix milliseconds, to the second."""
    return dt.datetime.fromtimestamp(at // 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- text ----------------------------------------------------------------------------------------


def as_text(statement: Statement, *, group: str, energy: Energy | None = None) -> str:
    """For people. `group` is ``day`` or ``lease``: what lines are put together under."""
    rows: list[str] = []
    lines = sorted(statement.lines, key=lambda each: (getattr(each, group), each.start))
    title = ""
    for line in lines:
        name = getattr(line, group)
        if name != title:
            mine = [each for each in lines if getattr(each, group) == name]
            rows.append(f"{name}  net {credits_of(sum(each.net for each in mine))}")
            title = name
        rows.extend(_text_line(line, group))
    rows.extend(_text_idle(statement.idle))
    rows.append("totals  " + (_states(statement.totals) or "nothing yet"))
    rows.append(f"net  {credits_of(statement.net)}")
    if energy is not None:
        rows.append(
            f"energy, by your own figures  {energy.watt_hours} Wh while leased, "
            f"{credits_of(energy.cost)}; left {credits_of(energy.margin)}"
        )
    if not statement.holds:
        wrong = sum(1 for each in statement.lines if each.verdicts)
        rows.append(f"{wrong} of {len(statement.lines)} lines do not follow from their receipts")
    return "\n".join(rows)


def _text_line(line: Line, group: str) -> Iterable[str]:
    name = line.lease if group == "day" else line.day
    yield (
        f"  {name}  {line.offer} v{line.offer_version}  {line.gpus} GPU at "
        f"{credits_of(line.rate)}/h  {moment(line.start)} to {moment(line.end)}"
    )
    yield (
        f"    wall {line.wall_ms} ms, billed {line.billed_ms} ms  gross {credits_of(line.gross)}"
        f"  fee {credits_of(line.fee)}  net {credits_of(line.net)}  {_states(line.parts)}"
    )
    if line.why:
        yield f"    why: {', '.join(line.why)}"
    for each in line.adjustments:
        yield f"    adjusted {credits_of(each.amount)}: {each.reason}"
    for verdict in line.verdicts:
        yield (
            f"    {verdict}: the market says {credits_of(line.gross - line.fee)}, "
            f"the receipts give {credits_of(line.expected_host)}"
        )


def _text_idle(idle: Sequence[Idle]) -> Iterable[str]:
    for each in (x for x in idle if x.milliseconds >= 60_000):
        hours, rest = divmod(each.milliseconds, HOUR_MS)
        yield f"idle  {each.day}  {hours} h {rest // 60_000:02d} min  {each.reason}"


def _states(parts: Sequence[Part]) -> str:
    words = []
    for part in parts:
        until = "" if part.matures_at is None else f" until {moment(part.matures_at)}"
        words.append(f"{part.state.value}{until} {credits_of(part.amount)}")
    return "; ".join(words)


# --- CSV and JSON --------------------------------------------------------------------------------


def as_csv(statement: Statement) -> str:
    """One row for each line; amounts in microcredits, times in Unix milliseconds."""
    file = io.StringIO(newline="")
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    for line in statement.lines:
        table.writerow(
            (
                *(line.day, line.lease, line.offer, line.offer_version, line.gpus, line.start),
                *(line.end, line.wall_ms, line.billed_ms, "; ".join(line.why), line.rate),
                *(line.gross, line.fee, sum(each.amount for each in line.adjustments), line.net),
                "; ".join(f"{each.state.value} {each.amount}" for each in line.parts),
                line.expected_host,
                " ".join(each.value for each in line.verdicts) or "ok",
                line.running_total,
            )
        )
    return file.getvalue()


def as_json(statement: Statement, energy: Energy | None = None) -> str:
    """All of it: the dataclasses' own fields, and each line's net; null: no estimate."""
    lines = [{**_plain(each), "net": each.net} for each in statement.lines]
    body = {
        "lines": lines,
        "idle": [_plain(each) for each in statement.idle],
        "totals": [_plain(each) for each in statement.totals],
        "net": statement.net,
        "holds": statement.holds,
        "energy": None if energy is None else _plain(energy),
    }
    return json.dumps(body, indent=2)


def _plain(value: Any) -> dict[str, Any]:
    return dataclasses.asdict(value)


# --- beancount -----------------------------------------------------------------------------------


def as_beancount(statement: Statement) -> str:
    """A ledger that ``bean-check`` takes: one balanced transaction for each line."""
    if not statement.lines:
        return ""
    first = min(each.day for each in statement.lines)
    accounts = (_INCOME, _FEES, _REFUNDS, *_ASSETS.values())
    rows = [f"{first} open {account} CREDIT" for account in accounts]
    for line in statement.lines:
        postings = _postings(line)
        if postings:
            rows.append("")
            flag = "!" if line.verdicts else "*"
            text = f"{line.gpus} GPU at {credits_of(line.rate)}/h"
            rows.append(f'{line.day} {flag} "Blindhost market" "{text}" ^{line.lease}')
            rows.extend(f"  {account}  {credits_of(amount)} CREDIT" for account, amount in postings)
    return "\n".join(rows) + "\n"


def _postings(line: Line) -> list[tuple[str, int]]:
    refunded = -sum(each.amount for each in line.adjustments)
    found = [(_INCOME, -line.gross), (_FEES, line.fee), (_REFUNDS, refunded)]
    found.extend(
        (_ASSETS[part.state], part.amount)
        for part in line.parts
        if part.state is not State.REFUNDED
    )
    return [(account, amount) for account, amount in found if amount]
