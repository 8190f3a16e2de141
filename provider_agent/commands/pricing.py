"""``blindhost-agent pricing``: replay a strategy on history, make it live, show what is live."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any, Final

from marketplace.wire_hosts import PastMatch
from provider_agent.commands.connect import (
    add_home,
    add_market,
    home_of,
    market_of,
    say,
    wall_clock,
)
from provider_agent.commands.leases import offer_of
from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.pricing import HISTORY_HOURS, PRICING_FILE, choose, chosen
from provider_agent.earnings.render import credits_of
from provider_agent.earnings.replay import LEASES_MIN, Replay, replay
from provider_agent.earnings.scripts import run_script
from provider_agent.earnings.strategies import (
    Fixed,
    FloorDemand,
    Situation,
    Strategy,
    ask,
    name_of,
    script_of,
)
from provider_agent.errors import AgentError

NAME: Final = "pricing"
TOO_FEW: Final = 1


def add_parser(commands: Any) -> None:
    """Add the command to ``blindhost-agent``'s."""
    parser = commands.add_parser(NAME, help="price strategies, replayed before they go live")
    verbs = parser.add_subparsers(dest="verb", required=True)
    played = verbs.add_parser("replay", help="what a strategy would have earned")
    add_home(played)
    add_market(played, required=False)
    played.add_argument("--gpus", type=int, default=1)
    _add_strategy(played)
    put = verbs.add_parser("set", help="make a strategy live that was replayed")
    add_home(put)
    _add_strategy(put)
    show = verbs.add_parser("show", help="what is live")
    add_home(show)
    unset = verbs.add_parser("unset", help="back to the price that serve was given")
    add_home(unset)


def _add_strategy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--strategy", choices=("fixed", "floor+demand", "script"), required=True)
    parser.add_argument("--floor", type=int, required=True, help="microcredits per GPU-hour")
    parser.add_argument("--ask", type=int, help="of a fixed strategy")
    parser.add_argument("--script", type=Path, help="of a script strategy")


def run(options: argparse.Namespace) -> int:
    """Do what the verb says."""
    home = home_of(options)
    match options.verb:
        case "replay":
            return _replay(options, home)
        case "set":
            with Book(home / BOOK_FILE) as book:
                leases = choose(home, book, strategy_of(options))
            say(f"live from the next hour on; replayed on {leases} leases")
        case "unset":
            (home / PRICING_FILE).unlink(missing_ok=True)
            say("the price is the one that serve was given, from its next start on")
        case _:
            live = chosen(home)
            say("no strategy is live" if live is None else str(live))
    return os.EX_OK


def strategy_of(options: argparse.Namespace) -> Strategy:
    """The strategy that the options name. Raises AgentError."""
    if options.strategy == "fixed":
        if options.ask is None or options.ask < options.floor:
            raise AgentError("a fixed strategy has an --ask that is not below its --floor")
        return Fixed(ask=options.ask, floor=options.floor)
    if options.strategy == "floor+demand":
        return FloorDemand(floor=options.floor)
    if options.script is None:
        raise AgentError("a script strategy has a --script")
    return script_of(options.script, floor=options.floor)


def _replay(options: argparse.Namespace, home: Path) -> int:
    strategy = strategy_of(options)
    matches = asyncio.run(_history(options, home))
    if len(matches) < LEASES_MIN:
        say(f"not enough data: {len(matches)} leases, {LEASES_MIN} wanted")
        return TOO_FEW
    found = replay(strategy, matches, _ask, gpus=options.gpus)
    with Book(home / BOOK_FILE) as book:
        book.note_replayed(name_of(strategy), leases=len(found.steps), now=wall_clock())
    say(replay_text(found))
    return os.EX_OK


async def _history(options: argparse.Namespace, home: Path) -> tuple[PastMatch, ...]:
    """What is recorded, and what the market adds to it, if one is named."""
    fresh: tuple[PastMatch, ...] = ()
    if options.market is not None:
        async with market_of(options) as market:
            fresh = (await market.demand(offer_of(home), hours=HISTORY_HOURS)).matches
    with Book(home / BOOK_FILE) as book:
        book.keep_matches(fresh)
        return book.matches()


def _ask(strategy: Strategy, situation: Situation) -> int:
    return ask(strategy, situation, run_script)


def replay_text(found: Replay) -> str:
    """What a replay found, for people: with the number of leases that it stands on."""
    percent = 100 * found.busy_minutes // found.span_minutes if found.span_minutes else 0
    asked = sorted(each.asked for each in found.steps)
    return "\n".join(
        (
            f"{found.won} of {len(found.steps)} leases would have been won",
            f"gross {credits_of(found.gross)} before the market's fee",
            f"busy {found.busy_minutes} of {found.span_minutes} minutes ({percent} %)",
            f"asked {credits_of(asked[0])} to {credits_of(asked[-1])} an hour",
            "orders that found no machine are not in this history: compare, do not forecast",
        )
    )
