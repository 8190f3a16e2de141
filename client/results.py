"""Fetching a result: an adapter, handed over by its custodians, opened, written as a folder.

The answers come to a box of this one fetch: the home's own is its broker's to read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aiohttp

from client.hand_over import Waiting, check_free, collect_shares, open_adapter, write_adapter_folder
from client.home import Home
from client.keystore import Keystore
from client.market_api import MarketAddress, MarketApi
from client.market_port import HttpMarket
from client.sealed import Step
from trust.artifacts import Manifest
from trust.identity import PartyKey, verify_signed
from trust.release_state import Memory


async def fetch_adapter(
    home: Home,
    keys: Keystore,
    memory: Memory,
    artifact: bytes,
    to: Path,
    *,
    base_name: str | None,
    seconds: float,
    clock: Callable[[], int],
    waiting: Waiting,
    step: Step,
) -> int:
    """Fetch an adapter into a new folder; returns how many bytes its tensors have.

    Raises HomeError if the folder is there, RefusedError in a custodian's own words, HandOverError.
    """
    check_free(to)
    address = MarketAddress(url=home.config.market_url, identity=home.config.market)
    async with aiohttp.ClientSession() as session:
        api = MarketApi(session, address=address, key=PartyKey.generate(), clock=clock)
        signed = memory.outputs.get(artifact)
        if signed is None:
            signed = verify_signed(Manifest, await api.get_document(artifact), signer=None)
        port = HttpMarket(api)
        shares = await collect_shares(
            home.holdings(keys), memory, signed, port, seconds=seconds, now=clock(), waiting=waiting
        )
        content = await open_adapter(signed.document, shares, port, step)
    write_adapter_folder(to, content, base_name=base_name)
    return len(content)
