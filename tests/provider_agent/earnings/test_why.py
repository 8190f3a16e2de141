"""The host's own reasons first, then the market's counts, in plain numbers."""

import json
from pathlib import Path

from marketplace.wire_hosts import DemandView, Lost
from provider_agent.commands.leases import failed_checks
from provider_agent.earnings.why import Blockers, why_text
from tests.provider_agent.earnings.made import HOUR, START, offer_name

NOTHING = Blockers(checks=(), maintenance=None)


def view(**changes: object) -> DemandView:
    values = {
        "offer": offer_name(),
        "since": START - 24 * HOUR,
        "until": START,
        "orders": 9,
        "fits": 3,
        "won": 0,
        "lost": (
            Lost(predicate="price", orders=6, buyers=4, nearest="your ask 2.40, bids to 2.21"),
            Lost(predicate="memory", orders=1, buyers=1, nearest=""),
        ),
        "book": "",
        "matches": (),
    }
    return DemandView(**values | changes)


def test_the_nearest_miss_is_told_in_plain_numbers() -> None:
    text = why_text(view(), NOTHING)
    assert "9 orders for this platform and GPU in 24 h, 3 that this offer fits, 0 leases" in text
    assert "6 of 9 orders lost by price (4 buyers): your ask 2.40, bids to 2.21" in text
    assert text.endswith("1 of 9 orders lost by memory (1 buyer)")


def test_what_is_wrong_here_comes_before_what_is_wrong_there() -> None:
    blockers = Blockers(checks=("gpu.cc_mode: fail",), maintenance="maintenance ab: kernel")
    rows = why_text(view(book="suspended: a lease failed on it; list it again"), blockers)
    assert rows.splitlines()[:3] == [
        "the offer is not on the book: suspended: a lease failed on it; list it again",
        "this host takes none: maintenance ab: kernel",
        "this host fails gpu.cc_mode: fail",
    ]


def test_missing_evidence_is_said_and_no_orders_too() -> None:
    text = why_text(view(orders=0, fits=0, lost=()), Blockers(checks=None, maintenance=None))
    assert "was not checked: run blindhost-agent doctor" in text
    assert "nobody asked for such a machine" in text


def test_blockers_are_read_from_the_last_doctor_run_and_unknown_is_one(tmp_path: Path) -> None:
    file = tmp_path / "doctor.json"
    assert failed_checks(file) is None
    checks = [
        {"id": "a", "status": "fail", "severity": "blocker"},
        {"id": "b", "status": "unknown", "severity": "blocker"},
        {"id": "c", "status": "fail", "severity": "advice"},
        {"id": "d", "status": "pass", "severity": "blocker"},
        "nonsense",
    ]
    for body in (checks, {"checks": checks}):
        file.write_text(json.dumps(body))
        assert failed_checks(file) == ("a: fail", "b: unknown")
    for text in ("{", "7", '{"checks": 7}'):
        file.write_text(text)
        assert failed_checks(file) is None
