"""What the demo reports, and every promise of it: one that does not hold fails the demo.

All numbers were printed by a party, or counted by the search; nothing here is a result by itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from demo.blindness import Hit
from demo.chat import Spoken
from demo.parties import Party, StepError

HITS_SHOWN: Final = 5


@dataclasses.dataclass(kw_only=True)
class Followed:
    """What the buyer saw of one job."""

    job: str
    records: list[dict[str, Any]]
    killed_at_step: int | None = None
    money: dict[str, int] | None = None
    """What its hold has become, microcredits, when the buyer last asked; None: it has not yet."""

    def measure(self, name: str) -> float | None:
        """The last value of a measure that the enclave sealed to the buyer."""
        for record in reversed(self.records):
            for each in record["measures"]:
                if each["measure"] == name:
                    return float(each["value"])
        return None

    @property
    def tensors(self) -> str | None:
        """SHA-256 of the adapter's tensors, as the enclave stated it."""
        return next((r["tensors"] for r in reversed(self.records) if r["tensors"]), None)

    @property
    def resumed_from(self) -> dict[str, Any] | None:
        """Where the last generation began."""
        started = [r for r in self.records if r["event"] == "started"]
        return started[-1]["resumed_from"] if started else None

    def progress(self) -> str:
        """Loss, speed, time left and cost so far, from what the buyer's own commands printed."""
        line, parts = self.records[-1], []
        if (loss := self.measure("loss")) is not None:
            parts.append(f"loss {loss:.2f}")
        seconds = line["milliseconds"] / 1000
        if seconds and line["tokens"]:
            taken = line["step"] - (self.resumed_from or {"step": 0})["step"]
            left = (line["steps"] - line["step"]) * seconds / max(1, taken)
            parts.append(f"{line['tokens'] / seconds:,.0f} tokens/s")
            parts.append(f"{left:.0f} s left")
        if self.money is not None:
            parts.append(f"cost so far {self.money['captured']:,} microcredits")
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """All that was seen, from the first step to the last."""

    parties: dict[str, Party]
    first: Followed
    twin: Followed
    shown: list[dict[str, Any]]
    """``blindhost job show`` of the first job, of its twin and of the serve job, once all ended."""
    forgeries: list[dict[str, Any]]
    """What the dishonest hosts posted, by their own account."""
    spoken: Spoken
    books: dict[str, Any]
    blindness: dict[str, Any]
    hits: list[Hit]


def refused_forgeries(
    forgeries: list[dict[str, Any]], shown: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The forgeries that the market did not take, by what the market itself lists as settled.

    A forged receipt was refused if it is settled nowhere, and was not answered as posted. One that
    had settled before, and came again from its lease or from another, if it is settled once still.
    """
    settled = [each["receipt"] for view in shown for each in view["settled"]]
    return [each for each in forgeries if _is_refused(each, settled)]


def _is_refused(forgery: dict[str, Any], settled: list[str]) -> bool:
    times = settled.count(forgery["receipt"])
    wanted = 1 if forgery["kind"] in {"replayed", "stolen"} else 0
    # A replay is told again that it is on record; nothing else may be told so.
    return times == wanted and (forgery["kind"] == "replayed" or forgery["answer"] != "posted")


def is_paid_once(shown: list[dict[str, Any]]) -> bool:
    """Whether what left each hold is what its settled receipts say, each counted once."""
    amounts = ("host_amount", "owner_amount", "fee_amount")
    return all(
        view["market"]["money"]["captured"]
        == sum(each[amount] for each in view["settled"] for amount in amounts)
        for view in shown
    )


def make_report(told: Told) -> dict[str, Any]:
    """All that was seen, in the shape that ``--json`` prints."""
    sums: dict[str, int] = {}
    for account in told.books["accounts"]:
        sums[account["role"]] = sums.get(account["role"], 0) + account["balance"]
    first, shown, resumed = told.first, told.shown, told.first.resumed_from
    return {
        "processes": {
            role: {"pid": party.process.pid, "exit": party.exit}
            for role, party in told.parties.items()
        },
        "eval": {
            "loss_base": first.measure("loss_base"),
            "loss_tuned": first.measure("loss_tuned"),
            "exact_match_base": first.measure("exact_header_base"),
            "exact_match_tuned": first.measure("exact_header_tuned"),
            "exact_whole_tuned": first.measure("exact_whole_tuned"),
        },
        "resume": {
            "killed_at_step": first.killed_at_step,
            "resumed_from_step": resumed["step"] if resumed else None,
            "bit_identical": first.tensors is not None and first.tensors == told.twin.tensors,
        },
        "blindness": told.blindness,
        "ledger": {
            "balanced": told.books["balanced"],
            "paid_by_buyer": sum(s["market"]["money"]["captured"] for s in shown),
            "to_hosts": sums.get("host_pending", 0) + sums.get("host_payable", 0),
            "to_owner": sums.get("owner_pending", 0) + sums.get("owner_payable", 0),
            "to_market": sums.get("fees", 0),
            "refunded": sum(s["market"]["money"]["released"] for s in shown),
        },
        "receipts": {
            "settled": sum(len(s["settled"]) for s in shown),
            "forged": len(told.forgeries),
            "refused": len(refused_forgeries(told.forgeries, shown)),
        },
        "chat": told.spoken.report(),
    }


def check_report(report: dict[str, Any], told: Told) -> None:
    """Every promise of the story, or StepError for the first that does not hold."""
    ledger, resume, scores = report["ledger"], report["resume"], report["eval"]
    receipts = report["receipts"]
    chat = report["chat"]
    paid = ledger["to_hosts"] + ledger["to_owner"] + ledger["to_market"]
    promises = {
        "no secret stands anywhere at hosts or market": not told.hits,
        "the search finds the canaries at the buyer": report["blindness"]["canary_found_at_buyer"],
        "the books balance": ledger["balanced"],
        "what the buyer paid is what others got": paid == ledger["paid_by_buyer"] > 0,
        "the rest of the hold came back": ledger["refunded"] > 0,
        "the job resumed from a committed checkpoint": resume["resumed_from_step"] is not None
        and 0 < resume["resumed_from_step"] <= resume["killed_at_step"],
        "the resumed run and its twin are bit-identical": resume["bit_identical"],
        "training made the model better": scores["loss_tuned"] < scores["loss_base"],
        "receipts settled": receipts["settled"] > 0,
        "hosts forged receipts": receipts["forged"] > 0,
        "every forged or replayed receipt was refused": receipts["refused"] == receipts["forged"],
        "base and tuned model answered": chat["requests"] > 0 and chat["tokens"] > 0,
        "they answered differently": any(s["base"] != s["tuned"] for s in told.spoken.shown),
        "a host's own well-sealed request was refused": chat["refused_unsigned"] == 1,
        "what left the holds is what the settled receipts say": is_paid_once(told.shown),
    }
    for promise, holds in promises.items():
        if not holds:
            raise StepError(f"it does not hold that {promise}: {told.hits[:HITS_SHOWN] or report}")
