"""A statement in each shape says the same amounts."""

import csv
import dataclasses
import io
import json
import re

from marketplace.wire import SettlementState
from provider_agent.earnings.lines import Idle
from provider_agent.earnings.render import as_beancount, as_csv, as_json, as_text, credits_of
from tests.provider_agent.earnings.made import HOUR, START, chain, host_lease, settle, statement


def _found():
    lease = host_lease()
    settlements = settle(lease, chain(3))
    back = dataclasses.replace(settlements[2], state=SettlementState.REFUNDED)
    ready = dataclasses.replace(settlements[0], state=SettlementState.MATURED)
    found = statement(lease, [ready, settlements[1], back], paid_out=100_000)
    idle = Idle(day="2027-01-15", reason="listed", milliseconds=90 * 60_000)
    return dataclasses.replace(found, idle=(idle,))


def test_csv_and_json_add_up_to_the_net_of_the_statement() -> None:
    found = _found()
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert sum(int(row["net"]) for row in rows) == found.net > 0
    assert rows[-1]["running_total"] == str(found.net)
    assert {row["check"] for row in rows} == {"ok"}
    body = json.loads(as_json(found))
    assert sum(each["net"] for each in body["lines"]) == body["net"] == found.net
    assert body["holds"] is True


def test_every_transaction_of_the_beancount_ledger_balances() -> None:
    found = _found()
    text = as_beancount(found)
    assert len(re.findall(r"^\d{4}-\d\d-\d\d \*", text, re.MULTILINE)) == len(found.lines)
    for transaction in text.split("\n\n")[1:]:
        amounts = re.findall(r"^  (\S+)  (-?)(\d+)\.(\d{6}) CREDIT$", transaction, re.MULTILINE)
        assert len(amounts) >= 4
        total = sum((-1 if sign else 1) * int(whole + part) for _, sign, whole, part in amounts)
        assert total == 0
    opened = set(re.findall(r"^\d{4}-\d\d-\d\d open (\S+) CREDIT$", text, re.MULTILINE))
    used = set(re.findall(r"^  (\S+)  ", text, re.MULTILINE))
    assert used <= opened
    assert "Assets:Blindhost:Sent" in used


def test_text_tells_reasons_states_and_idle_hours_by_day_or_by_lease() -> None:
    found = _found()
    for group in ("day", "lease"):
        text = as_text(found, group=group)
        assert "before-ready 60000 ms" in text
        assert "dispute decided for the buyer" in text
        assert "sent 0.100000" in text
        assert "idle  2027-01-15  1 h 30 min  listed" in text
        assert text.endswith(f"net  {credits_of(found.net)}")


def test_a_line_that_differs_shows_both_amounts_in_every_shape() -> None:
    lease = host_lease()
    (settled,) = settle(lease, chain(1))
    wrong = dataclasses.replace(settled, host_amount=settled.host_amount - 1)
    found = statement(lease, [wrong])
    text = as_text(found, group="day")
    assert "DIFFERS: the market says 0.449999, the receipts give 0.450000" in text
    assert "1 of 1 lines do not follow" in text
    (row,) = csv.DictReader(io.StringIO(as_csv(found)))
    assert (row["check"], row["net"], row["expected"]) == ("DIFFERS", "449999", "450000")
    assert " ! " in as_beancount(found)
    assert json.loads(as_json(found))["holds"] is False


def test_credits_are_exact() -> None:
    assert [credits_of(each) for each in (0, 1, -1, 1_500_000)] == [
        "0.000000",
        "0.000001",
        "-0.000001",
        "1.500000",
    ]


def test_a_statement_of_nothing_is_still_one() -> None:
    found = statement(host_lease(), [], leases=(), now=START + HOUR)
    assert as_text(found, group="day") == "totals  nothing yet\nnet  0.000000"
    assert as_beancount(found) == ""
