"""``blindhost-agent earnings``: what each lease earned, computed again from its receipts.

Exit status: 0 every line follows from its receipts; 1 some line does not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any, Final

from provider_agent.commands.connect import (
    add_home,
    add_market,
    home_of,
    market_of,
    say,
    wall_clock,
)
from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.energy import HOST_SETTINGS, Energy, estimate, read_power
from provider_agent.earnings.lines import Statement
from provider_agent.earnings.render import as_beancount, as_csv, as_json, as_text
from provider_agent.earnings.statement import Accounts, make_statement

NAME: Final = "earnings"
DIFFERS: Final = 1


def add_parser(commands: Any) -> None:
    """Add the command to ``blindhost-agent``'s."""
    parser = commands.add_parser(NAME, help="what each lease earned, line by line")
    add_home(parser)
    add_market(parser)
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument("--day", action="store_true", help="by day (default)")
    shapes.add_argument("--lease", action="store_true", help="by lease")
    shapes.add_argument("--csv", action="store_true")
    shapes.add_argument("--json", action="store_true")
    shapes.add_argument("--beancount", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Print the statement."""
    statement = asyncio.run(_statement(options))
    power = read_power(HOST_SETTINGS)
    energy = None if power is None else estimate(statement, power)
    say(shown(statement, options, energy).rstrip("\n"))
    return os.EX_OK if statement.holds else DIFFERS


def shown(statement: Statement, options: argparse.Namespace, energy: Energy | None = None) -> str:
    """In the shape that the options ask for."""
    if options.csv:
        return as_csv(statement)
    if options.json:
        return as_json(statement, energy)
    if options.beancount:
        return as_beancount(statement)
    return as_text(statement, group="lease" if options.lease else "day", energy=energy)


async def _statement(options: argparse.Namespace) -> Statement:
    async with market_of(options) as market:
        leases = await market.host_leases()
        settlements = {each.lease: await market.settlements(each.lease) for each in leases}
        paid_out = await market.paid_out()
    with Book(home_of(options) / BOOK_FILE) as book:
        accounts = Accounts(
            leases=leases,
            settlements=settlements,
            receipts={each.lease: book.receipts(each.lease) for each in leases},
            terms=book.leases(),
            spans=book.spans(),
            paid_out=paid_out,
        )
    return make_statement(accounts, wall_clock())
