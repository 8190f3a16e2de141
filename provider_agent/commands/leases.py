"""``blindhost-agent leases``: what runs; with ``--why``, why nothing does."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final

from marketplace.wire import OfferDraft
from provider_agent.commands.connect import (
    add_home,
    add_market,
    home_of,
    market_of,
    say,
    wall_clock,
)
from provider_agent.commands.doctor import DOCTOR_FILE
from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.maintenance import Plan
from provider_agent.earnings.why import Blockers, why_text
from provider_agent.errors import AgentError
from trust.encoding import parse_json

NAME: Final = "leases"
OFFER_FILE: Final = "offer"
FILE_BYTES_MAX: Final = 1 << 20


def add_parser(commands: Any) -> None:
    """Add the command to ``blindhost-agent``'s."""
    parser = commands.add_parser(NAME, help="leases that run, or why there are none")
    add_home(parser)
    add_market(parser)
    parser.add_argument("--why", action="store_true", help="what orders came, and what they wanted")
    parser.add_argument("--hours", type=int, default=7 * 24, help="how far back")


def run(options: argparse.Namespace) -> int:
    """Print leases, or reasons."""
    say(asyncio.run(_why(options) if options.why else _leases(options)))
    return os.EX_OK


async def _leases(options: argparse.Namespace) -> str:
    async with market_of(options) as market:
        rows = [
            f"{each.lease}  {each.state.value}  {each.gpus} GPU  job {each.job.hex()[:16]}"
            for each in await market.leases()
        ]
    return "\n".join(rows) or "no lease; --why tells why"


async def _why(options: argparse.Namespace) -> str:
    home = home_of(options)
    blockers = Blockers(
        checks=failed_checks(home / DOCTOR_FILE),
        maintenance=Plan(home).posture(wall_clock()).reason,
    )
    async with market_of(options) as market:
        view = await market.demand(offer_of(home), hours=options.hours)
    with Book(home / BOOK_FILE) as book:
        book.keep_matches(view.matches)
    return why_text(view, blockers)


def offer_of(home: Path) -> str:
    """The id of the offer that this home's agent lists. Raises AgentError."""
    try:
        with (home / OFFER_FILE).open("rb") as file:
            return OfferDraft.from_json(parse_json(file.read(FILE_BYTES_MAX))).offer
    except FileNotFoundError as error:
        raise AgentError("no offer is listed from this home: its agent does not serve") from error


def failed_checks(file: Path) -> tuple[str, ...] | None:
    """Blockers of the last doctor run; None: none was kept. Anybody may have edited the file."""
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(FILE_BYTES_MAX))
    except (OSError, ValueError):
        return None
    checks = found.get("checks", []) if isinstance(found, dict) else found
    if not isinstance(checks, list):
        return None
    return tuple(
        f"{each.get('id')}: {each.get('status')}"
        for each in checks
        if isinstance(each, dict)
        and each.get("severity") == "blocker"
        and each.get("status") in ("fail", "unknown")
    )
