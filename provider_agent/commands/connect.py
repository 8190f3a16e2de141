"""What commands that ask the market share: its address, the host's key, the wall clock.

A command reads the host's home as its agent left it, and makes nothing there.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from provider_agent.earnings.host_market import HostMarket
from provider_agent.errors import AgentError
from provider_agent.market_client import MarketAddress
from provider_agent.refusals import check_identity_file
from trust.encoding import parse_hex
from trust.identity import PartyKey

KEY_FILE: Final = "key"


def wall_clock() -> int:
    """Unix milliseconds."""
    return int(dt.datetime.now(dt.UTC).timestamp() * 1000)  # noqa: TID251 - the entry point


def say(text: str) -> None:
    """Print a command's answer."""
    print(text)  # noqa: T201 - the command's answer


def add_home(parser: argparse.ArgumentParser) -> None:
    """The option that names the agent's home."""
    parser.add_argument("--home", type=Path, required=True, help="home of the agent")


def add_market(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options that name the market, as ``serve`` has them."""
    parser.add_argument("--market", required=required, help="URL of the market")
    parser.add_argument("--market-identity", required=required, help="hex")
    parser.add_argument("--market-certificate", help="SHA-256 of its certificate, hex: for https")


def home_of(options: argparse.Namespace) -> Path:
    """The home, which is there. Raises AgentError."""
    home: Path = options.home
    if not home.is_dir():
        raise AgentError(f"no agent has a home at {home.name}")
    return home.resolve()


@asynccontextmanager
async def market_of(options: argparse.Namespace) -> AsyncIterator[HostMarket]:
    """The market that the options name, asked with the home's key. Raises AgentError."""
    path = home_of(options) / KEY_FILE
    if not path.exists():
        raise AgentError(f"home {options.home.name} has no key yet: start its agent once")
    check_identity_file(path.stat().st_mode)
    if options.market is None or options.market_identity is None:
        raise AgentError("--market and --market-identity are wanted for this")
    certificate = options.market_certificate
    address = MarketAddress(
        url=options.market,
        identity=parse_hex(options.market_identity),
        certificate_sha256=parse_hex(certificate) if certificate else None,
    )
    key = PartyKey.from_bytes(path.read_bytes())
    async with aiohttp.ClientSession(trust_env=False, auto_decompress=False) as session:
        yield HostMarket(session, address=address, key=key, clock=wall_clock)
