"""A dishonest host: forges and replays receipts for its own leases, and says what came of it.

    python -m demo.dishonest --home FOLDER --market URL --market-identity HEX --job HEX

It uses what such a host has: its key and its leases' briefings, in its own home, and what the
market shows to a host of the job. For its newest lease of the job it posts, as that lease:

- ``replayed``: a receipt of its own enclave that has settled already;
- ``altered``: that receipt, with more steps and time, under the old signature;
- ``stolen``: a settled receipt of another host's lease;
- ``relabelled``: the numbers of that receipt, claimed for this lease, under the host's own key;
- ``inflated``: steps and time made up, under the host's own key.

The market takes its box in order, so once it has answered the last, it has dealt with all. Prints
one JSON array: kind, digest of the receipt, and the market's answer: a refusal's code, ``posted``
(it is on record), or null where the market said nothing. Exit status 1 if the last is not answered.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from client.market_api import MarketAddress, MarketApi
from provider_agent.journal import Journal
from trust.encoding import parse_hex
from trust.identity import PartyKey, Signed, verify_signed
from trust.messages import (
    Receipt,
    ReceiptPosted,
    Refused,
    SignedMessage,
    lease_address,
    parse_message,
)

ANSWER_SECONDS: Final = 60.0
WAIT_SECONDS: Final = 5
MORE_STEPS: Final = 1_000_000
MORE_MILLISECONDS: Final = 100 * 3_600_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Forgery:
    """One receipt that ought not to settle (again)."""

    kind: str
    signed: bytes
    receipt: bytes
    """Digest of the receipt's document."""


def forge(
    lease: str, generation: int, job: bytes, key: PartyKey, known: Sequence[bytes]
) -> list[Forgery]:
    """What this host can make of the job's settled receipts `known`; the last has its own key."""
    settled = [verify_signed(Receipt, each, signer=None) for each in known]
    own = [each for each in settled if each.document.lease == lease]
    others = [each for each in settled if each.document.lease != lease]
    made = []
    if own:
        made.append(_as_it_is("replayed", own[-1]))
        more = _signed(key, _inflated(own[-1].document, before=own[-1].digest))
        cut = own[-1].signature + own[-1].signer + more.document.encode()
        made.append(Forgery(kind="altered", signed=cut, receipt=more.digest))
    if others:
        made.append(_as_it_is("stolen", others[-1]))
        mine = dataclasses.replace(
            others[-1].document, lease=lease, generation=generation, number=1, before=None
        )
        made.append(_as_it_is("relabelled", _signed(key, mine)))
    pattern = (own or others)[-1].document
    alone = dataclasses.replace(pattern, lease=lease, job=job, generation=generation)
    made.append(_as_it_is("inflated", _signed(key, _inflated(alone, before=None))))
    return made


def _inflated(receipt: Receipt, *, before: bytes | None) -> Receipt:
    return dataclasses.replace(
        receipt,
        number=1 if before is None else receipt.number + 1,
        before=before,
        step=receipt.step + MORE_STEPS,
        tokens=receipt.tokens + MORE_STEPS,
        milliseconds=receipt.milliseconds + MORE_MILLISECONDS,
        end=None,
        outputs=(),
    )


def _signed(key: PartyKey, receipt: Receipt) -> Signed[Receipt]:
    return key.sign(receipt)


def _as_it_is(kind: str, signed: Signed[Receipt]) -> Forgery:
    return Forgery(kind=kind, signed=signed.encode(), receipt=signed.digest)


async def post_all(api: MarketApi, lease: str, forgeries: Sequence[Forgery]) -> dict[bytes, str]:
    """Post in order; the market's answers, by the digest that they name.

    Raises TimeoutError if the last is not answered within `ANSWER_SECONDS`.
    """
    box, after = lease_address(lease), 0
    while page := await api.get_messages(box, after=after, lease=lease):
        after = page[-1].number
    for each in forgeries:
        await api.post_message(
            api.market,
            SignedMessage(signed=each.signed).encode(),
            message=secrets.token_bytes(16),
            lease=lease,
        )
    found: dict[bytes, str] = {}
    async with asyncio.timeout(ANSWER_SECONDS):
        while forgeries[-1].receipt not in found:
            page = await api.get_messages(box, after=after, wait_seconds=WAIT_SECONDS, lease=lease)
            for stored in page:
                after = stored.number
                if stored.sender == api.market:
                    match parse_message(stored.payload):
                        case Refused(nonce=nonce, code=code):
                            found[nonce] = code
                        case ReceiptPosted(receipt=receipt):
                            found[receipt] = "posted"
    return found


async def run(home: Path, address: MarketAddress, job: bytes) -> list[dict[str, Any]]:
    """Forge for this host's newest lease of the job."""
    key = PartyKey.from_bytes((home / "key").read_bytes())
    journal = Journal(home / "leases")
    briefings = [journal.briefing(each.lease) for each in journal.records()]
    lease = [each.lease for each in briefings if each.lease.job == job][-1]
    assert lease.generation is not None  # it was briefed
    async with aiohttp.ClientSession(trust_env=False) as session:
        api = MarketApi(
            session, address=address, key=key, clock=lambda: time.time_ns() // 1_000_000
        )
        known = [each.signed for each in await api.get_receipts(job)]
        forgeries = forge(lease.lease, lease.generation, job, key, known)
        answers = await post_all(api, lease.lease, forgeries)
    return [
        {
            "kind": each.kind,
            "receipt": each.receipt.hex(),
            "answer": answers.get(each.receipt),
        }
        for each in forgeries
    ]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="forge receipts, as a dishonest host would")
    parser.add_argument("--home", required=True, type=Path)
    for name in ("--market", "--market-identity", "--job"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    address = MarketAddress(url=arguments.market, identity=parse_hex(arguments.market_identity))
    try:
        made = asyncio.run(run(arguments.home, address, parse_hex(arguments.job)))
    except TimeoutError:
        sys.exit("the market did not answer the last forgery")
    print(json.dumps(made))


if __name__ == "__main__":
    main()
