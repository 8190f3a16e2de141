"""The audit: every invariant of the books, recomputed from the rows that never change.

- It believes no cached number: balances are summed from legs, captures from postings, settled
  sums from receipts' settlements. An empty answer means that all of them hold, at this commit.
- It reads only, and is quick enough to run after every demo and in every test.

Numbers of invariants, with gaps where a key or a type keeps the rule and nothing can be found:
     1  all balances sum to zero             8  an ended hold keeps nothing
     2  a balance is the sum of its legs     9  captured = the sum of cumulative settlements
     3  no account below its floor          10  a refund is the original, backwards, once
     4  transfers whole, triggers in place  11  captured ≤ held, and ≤ the job's highest spend
     6  one currency a leg                  12  host + owner + fee = the settlement's transfer
     7  escrow = reserved - captured -      15  one receipt behind each posting of an order
        released; captured = postings       20  a lease's price is its offer terms'
                                            29  transitions follow one another in a hash chain
"""

from __future__ import annotations

import dataclasses
from typing import Final

import sqlalchemy as sa
from sqlmodel import Session

from marketplace.migrations import missing_triggers
from marketplace.models import Transition
from marketplace.transitions import GENESIS, chain_digest

FINDINGS_MAX: Final = 100  # of one kind; one is already too many


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One broken invariant."""

    invariant: int
    subject: str
    """Id of the row, or the name of what is missing."""
    text: str
    """What was found, and what was wanted."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrialLine:
    """One account in the trial balance; all in microcredits."""

    account: str
    role: str
    debits: int
    credits: int
    balance: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Check:
    invariant: int
    wanted: str
    query: str
    """Selects (subject, found, wanted) for each row that breaks the rule."""


_MOVES: Final = """\
(SELECT debit_account AS account, -amount AS amount FROM leg
 UNION ALL SELECT credit_account, amount FROM leg)"""

CHECKS: Final = (
    _Check(
        invariant=1,
        wanted="all balances sum to",
        query="SELECT currency, sum(balance), 0 FROM account GROUP BY currency"
        " HAVING sum(balance) <> 0",
    ),
    _Check(
        invariant=2,
        wanted="its legs sum to",
        query="SELECT a.id, a.balance, coalesce(sum(m.amount), 0)"  # noqa: S608  constants alone
        f" FROM account a LEFT JOIN {_MOVES} m ON m.account = a.id GROUP BY a.id, a.balance"
        " HAVING a.balance <> coalesce(sum(m.amount), 0)",
    ),
    _Check(
        invariant=2,
        wanted="its version counts legs",
        query="SELECT a.id, a.version, count(m.amount)"  # noqa: S608  constants alone
        f" FROM account a LEFT JOIN {_MOVES} m ON m.account = a.id GROUP BY a.id, a.version"
        " HAVING a.version <> count(m.amount)",
    ),
    _Check(
        invariant=3,
        wanted="its floor is",
        query="SELECT id, balance, floor FROM account WHERE balance < floor"
        " OR (floor IS NULL AND role <> 'external')",
    ),
    _Check(
        invariant=4,
        wanted="legs of this transfer",
        query="SELECT t.id, count(l.number), t.leg_count FROM transfer t"
        " LEFT JOIN leg l ON l.transfer_id = t.id GROUP BY t.id, t.leg_count"
        " HAVING count(l.number) <> t.leg_count OR coalesce(max(l.number), 0) <> t.leg_count",
    ),
    _Check(
        invariant=6,
        wanted="both accounts exist, in the leg's currency",
        query="SELECT l.transfer_id, l.number, l.currency FROM leg l"
        " LEFT JOIN account d ON d.id = l.debit_account AND d.currency = l.currency"
        " LEFT JOIN account c ON c.id = l.credit_account AND c.currency = l.currency"
        " LEFT JOIN transfer t ON t.id = l.transfer_id"
        " WHERE d.id IS NULL OR c.id IS NULL OR t.id IS NULL",
    ),
    _Check(
        invariant=7,
        wanted="reserved - captured - released",
        query="SELECT h.id, a.balance, h.reserved - h.captured - h.released FROM hold h"
        " JOIN account a ON a.id = h.escrow_id"
        " WHERE a.balance <> h.reserved - h.captured - h.released",
    ),
    _Check(
        invariant=7,
        wanted="its postings sum to",
        query="SELECT h.id, h.captured, coalesce(sum(l.amount), 0) FROM hold h"
        " LEFT JOIN transfer t ON t.hold_id = h.id AND t.kind = 'post'"
        " LEFT JOIN leg l ON l.transfer_id = t.id AND l.debit_account = h.escrow_id"
        " GROUP BY h.id, h.captured HAVING h.captured <> coalesce(sum(l.amount), 0)",
    ),
    _Check(
        invariant=8,
        wanted="an ended hold keeps",
        query="SELECT h.id, a.balance, 0 FROM hold h JOIN account a ON a.id = h.escrow_id"
        " WHERE h.state <> 'placed' AND a.balance <> 0",
    ),
    _Check(
        invariant=9,
        wanted="settlements of its job sum to",
        query="SELECT h.id, h.captured,"
        " coalesce(sum(s.host_amount + s.owner_amount + s.fee_amount), 0)"
        ' FROM hold h JOIN "order" o ON o.hold_id = h.id'
        " LEFT JOIN settlement s ON s.job_digest = o.job_digest GROUP BY h.id, h.captured"
        " HAVING h.captured <> coalesce(sum(s.host_amount + s.owner_amount + s.fee_amount), 0)",
    ),
    _Check(
        invariant=9,
        wanted="amounts of this lease sum to its cumulative gross",
        query="SELECT lease_id, sum(host_amount + fee_amount), max(lease_gross) FROM settlement"
        " GROUP BY lease_id HAVING sum(host_amount + fee_amount) <> max(lease_gross)"
        " OR sum(fee_amount) <> max(lease_fee)",
    ),
    _Check(
        invariant=9,
        wanted="amounts of this job sum to its cumulative royalty",
        query="SELECT job_digest, sum(owner_amount), max(job_royalty) FROM settlement"
        " GROUP BY job_digest HAVING sum(owner_amount) <> max(job_royalty)",
    ),
    _Check(
        invariant=10,
        wanted="a refund moves what it reverses",
        query="SELECT r.id, r.total, coalesce(o.total, 0) FROM"
        " (SELECT t.id, t.reverses, sum(l.amount) AS total FROM transfer t"
        " JOIN leg l ON l.transfer_id = t.id WHERE t.reverses IS NOT NULL"
        " GROUP BY t.id, t.reverses) r LEFT JOIN"
        " (SELECT transfer_id, sum(amount) AS total FROM leg GROUP BY transfer_id) o"
        " ON o.transfer_id = r.reverses WHERE r.total <> coalesce(o.total, 0)",
    ),
    _Check(
        invariant=10,
        wanted="each leg of a refund is the original's, backwards",
        query="SELECT t.id, r.amount, coalesce(o.amount, 0) FROM transfer t"
        " JOIN leg r ON r.transfer_id = t.id"
        " LEFT JOIN leg o ON o.transfer_id = t.reverses AND o.number = r.number"
        " WHERE t.reverses IS NOT NULL AND (o.number IS NULL OR o.amount <> r.amount"
        " OR o.credit_account <> r.debit_account)",
    ),
    _Check(
        invariant=11,
        wanted="its buyer pays at most",
        query="SELECT h.id, h.captured, CASE WHEN j.spend_max < h.reserved THEN j.spend_max"
        ' ELSE h.reserved END FROM hold h LEFT JOIN "order" o ON o.hold_id = h.id'
        " LEFT JOIN job j ON j.digest = o.job_digest"
        " WHERE h.captured > h.reserved OR h.captured > j.spend_max",
    ),
    _Check(
        invariant=12,
        wanted="host + owner + fee of its settlement",
        query="SELECT s.receipt_digest, coalesce(sum(l.amount), 0),"
        " s.host_amount + s.owner_amount + s.fee_amount FROM settlement s"
        " LEFT JOIN leg l ON l.transfer_id = s.transfer_id"
        " GROUP BY s.receipt_digest, s.host_amount, s.owner_amount, s.fee_amount"
        " HAVING coalesce(sum(l.amount), 0) <> s.host_amount + s.owner_amount + s.fee_amount",
    ),
    _Check(
        invariant=15,
        wanted="receipts behind this posting",
        query="SELECT t.id, count(s.receipt_digest), 1 FROM transfer t"
        ' JOIN "order" o ON o.hold_id = t.hold_id'
        " LEFT JOIN settlement s ON s.transfer_id = t.id WHERE t.kind = 'post'"
        " GROUP BY t.id HAVING count(s.receipt_digest) <> 1",
    ),
    _Check(
        invariant=20,
        wanted="its offer asked",
        query="SELECT l.id, l.price, v.ask FROM lease l JOIN offer_terms v"
        " ON v.offer_id = l.offer_id AND v.number = l.offer_terms_number"
        " WHERE l.price > v.ask OR l.price < coalesce(v.floor, v.ask)",
    ),
)


def audit(session: Session) -> tuple[Finding, ...]:
    """Every broken invariant; empty when all hold."""
    findings = [
        Finding(invariant=4, subject=name, text="a trigger is missing, or says something else")
        for name in missing_triggers(session.connection())
    ]
    for check in CHECKS:
        for row in session.connection().execute(sa.text(check.query)).fetchmany(FINDINGS_MAX):
            text = f"found {row[1]}; {check.wanted} {row[2]}"
            findings.append(Finding(invariant=check.invariant, subject=str(row[0]), text=text))
    return (*findings, *_chains(session))


def trial_balance(session: Session) -> tuple[TrialLine, ...]:
    """Every account with what its legs debited and credited; debits and credits sum alike."""
    query = (
        "SELECT a.id, a.role,"
        " coalesce((SELECT sum(amount) FROM leg WHERE debit_account = a.id), 0),"
        " coalesce((SELECT sum(amount) FROM leg WHERE credit_account = a.id), 0), a.balance"
        " FROM account a ORDER BY a.role, a.id"
    )
    return tuple(
        TrialLine(
            account=row[0],
            role=row[1],
            debits=int(row[2]),
            credits=int(row[3]),
            balance=int(row[4]),
        )
        for row in session.connection().execute(sa.text(query))
    )


def _chains(session: Session) -> list[Finding]:
    """29: each subject's transitions are numbered from 1, follow one another, and are hashed."""
    table = Transition.metadata.tables["transition"]
    rows = session.connection().execute(
        sa.select(table).order_by(table.c.subject_id, table.c.number)
    )
    findings: list[Finding] = []
    subject, number, state, before = "", 0, None, GENESIS
    for row in rows:
        if row.subject_id != subject:
            subject, number, state, before = row.subject_id, 0, None, GENESIS
        wanted = chain_digest(before, row)
        if (row.number, row.from_state, row.digest) != (number + 1, state, wanted):
            text = f"transition {row.number} from {row.from_state} does not follow {number}"
            findings.append(Finding(invariant=29, subject=subject, text=text))
        number, state, before = row.number, row.to_state, row.digest
    return findings
