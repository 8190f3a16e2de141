"""The demo's promises can fail: a forgery that was taken, a receipt paid twice, a secret found."""

from __future__ import annotations

import copy
import types
from typing import Any

import pytest

from demo.blindness import Hit
from demo.chat import Spoken
from demo.parties import StepError
from demo.report import Followed, Told, check_report, make_report, refused_forgeries


def record(**changes: Any) -> dict[str, Any]:
    fields = {
        "event": "step",
        "step": 80,
        "steps": 150,
        "tokens": 4000,
        "milliseconds": 10_000,
        "generation": 2,
        "measures": [],
        "tensors": None,
        "resumed_from": None,
    }
    return fields | changes


def measures(**values: float) -> list[dict[str, Any]]:
    return [{"measure": name, "value": str(value)} for name, value in values.items()]


def followed(**changes: Any) -> Followed:
    records = [
        record(event="started", step=50, resumed_from={"step": 50}),
        record(measures=measures(loss=2.5, loss_base=8.0, loss_tuned=1.0), tensors="ab"),
    ]
    fields: dict[str, Any] = {"job": "j", "records": records}
    return Followed(**fields | changes)


def view(*receipts: str) -> dict[str, Any]:
    amounts = {"host_amount": 60, "owner_amount": 30, "fee_amount": 10}
    return {
        "market": {"money": {"captured": 100 * len(receipts), "released": 5, "reserved": 0}},
        "settled": [{"receipt": each} | amounts for each in receipts],
    }


FORGERIES = [
    {"kind": "replayed", "receipt": "r1", "answer": "posted"},
    {"kind": "altered", "receipt": "f1", "answer": None},
    {"kind": "stolen", "receipt": "r3", "answer": None},
    {"kind": "inflated", "receipt": "f2", "answer": "receipt-unknown-key"},
]


def told(**changes: Any) -> Told:
    fields: dict[str, Any] = {
        "parties": {"market": types.SimpleNamespace(process=types.SimpleNamespace(pid=1), exit=0)},
        "first": followed(killed_at_step=75),
        "twin": followed(),
        "shown": [view("r1", "r2"), view("r3")],
        "forgeries": FORGERIES,
        "spoken": Spoken(
            requests=2,
            tokens=30,
            seconds=2.0,
            refused_unsigned=1,
            shown=[{"question": "q", "base": "a", "tuned": "b"}],
        ),
        "books": {
            "balanced": True,
            "accounts": [
                {"role": "host_pending", "account": "h", "balance": 180},
                {"role": "owner_pending", "account": "o", "balance": 90},
                {"role": "fees", "account": "f", "balance": 30},
            ],
        },
        "blindness": {"bytes_searched": 9, "hits": 0, "canary_found_at_buyer": True},
        "hits": [],
    }
    return Told(**fields | changes)


def test_a_story_that_holds_passes_and_counts_what_was_refused() -> None:
    report = make_report(told())
    check_report(report, told())
    assert report["receipts"] == {"settled": 3, "forged": 4, "refused": 4}


HIT = Hit(secret="canary", encoding="plain", place="market/log", offset=3)
SILENT = Spoken(refused_unsigned=1)
SAME = Spoken(
    requests=2,
    tokens=30,
    refused_unsigned=1,
    shown=[{"question": "q", "base": "a", "tuned": "a"}],
)
OPEN = Spoken(
    requests=2,
    tokens=30,
    shown=[{"question": "q", "base": "a", "tuned": "b"}],
)
BROKEN: dict[str, dict[str, Any]] = {
    "base and tuned model answered": {"spoken": SILENT},
    "they answered differently": {"spoken": SAME},
    "well-sealed request was refused": {"spoken": OPEN},
    "every forged or replayed receipt was refused": {"shown": [view("r1", "f1"), view("r3")]},
    "hosts forged receipts": {"forgeries": []},
    "no secret stands anywhere": {"hits": [HIT]},
    "bit-identical": {"twin": followed(records=[record(tensors="cd")])},
    "resumed from a committed": {"first": followed(killed_at_step=49)},
}


@pytest.mark.parametrize("promise", BROKEN)
def test_a_promise_that_does_not_hold_fails_the_demo(promise: str) -> None:
    broken = told(**BROKEN[promise])
    with pytest.raises(StepError, match=promise):
        check_report(make_report(broken), broken)


def test_a_hold_that_gave_more_than_its_receipts_say_fails_the_demo() -> None:
    twice = copy.deepcopy(view("r1", "r2"))
    twice["market"]["money"]["captured"] = 300
    books = copy.deepcopy(told().books)
    books["accounts"][0]["balance"] += 100
    broken = told(shown=[twice, view("r3")], books=books)
    with pytest.raises(StepError, match="what left the holds"):
        check_report(make_report(broken), broken)


@pytest.mark.parametrize(
    ("forgery", "settled"),
    [
        ({"kind": "inflated", "receipt": "f", "answer": "receipt-unknown-key"}, ["r1", "f"]),
        ({"kind": "inflated", "receipt": "f", "answer": "posted"}, ["r1"]),
        ({"kind": "stolen", "receipt": "r1", "answer": "posted"}, ["r1"]),
        ({"kind": "stolen", "receipt": "r1", "answer": None}, ["r1", "r1"]),
        ({"kind": "replayed", "receipt": "r1", "answer": "posted"}, ["r1", "r1"]),
        ({"kind": "replayed", "receipt": "r1", "answer": None}, []),
    ],
)
def test_a_forgery_that_was_taken_is_not_counted_as_refused(
    forgery: dict[str, Any], settled: list[str]
) -> None:
    assert refused_forgeries([forgery], [view(*settled)]) == []


def test_progress_says_loss_speed_time_left_and_cost() -> None:
    found = followed()
    assert found.progress() == "loss 2.50, 400 tokens/s, 23 s left"
    found.money = {"captured": 12_345, "reserved": 5_000_000}
    assert found.progress().endswith("cost so far 12,345 microcredits")
