"""The agent keeps what it carried, once, and nothing that is no receipt; and never stops for it."""

import asyncio
from pathlib import Path

import pytest

from provider_agent.earnings import book as book_module
from provider_agent.earnings.book import BOOK_FILE, Book, Span
from provider_agent.earnings.receipts import AccountKeeper
from provider_agent.errors import AgentError, RejectedError
from provider_agent.frames import Frame
from provider_agent.relay import Relay, RelayTask
from tests.provider_agent import test_relay as relay_scene
from tests.provider_agent.earnings.made import (
    CREDIT,
    START,
    chain,
    lease_name,
    lease_view,
    match,
    receipt,
)
from tests.provider_agent.fakes import PATIENCE
from trust.messages import ReceiptPosted, SignedMessage

MARKET = b"\x33" * 32


class Scene:
    def __init__(self, folder: Path) -> None:
        self.book = Book(folder / BOOK_FILE)
        self.now = START
        self.keeper = AccountKeeper(self.book, market=MARKET, clock=lambda: self.now)

    def carry(self, payload: bytes, *, peer: bytes = MARKET, lease: str = lease_name()) -> None:
        self.keeper(lease, Frame(peer=peer, id=bytes(16), payload=payload))

    def kept(self) -> list[int]:
        return [each.number for each in self.book.receipts(lease_name())]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def message(signed: bytes) -> bytes:
    return SignedMessage(signed=signed).encode()


def test_a_carried_receipt_is_kept_whole_and_once(scene: Scene) -> None:
    receipts = chain(2)
    for each in (*receipts, *receipts):
        scene.carry(message(each.encode()))
        scene.now += 1
    assert scene.kept() == [1, 2]
    first = scene.book.receipts(lease_name())[0]
    assert (first.signed, first.at, first.signer) == (
        receipts[0].encode(),
        START,
        receipts[0].signer,
    )


def test_what_is_no_receipt_of_this_lease_to_the_market_is_not_kept(scene: Scene) -> None:
    good = receipt().encode()
    scene.carry(message(good), peer=b"\x44" * 32)
    scene.carry(message(good), lease=lease_name(2))
    scene.carry(b"sealed to a custodian")
    scene.carry(ReceiptPosted(receipt=bytes(32)).encode())
    scene.carry(message(good[:-1]))
    scene.carry(message(bytes([good[0] ^ 1]) + good[1:]))
    scene.carry(message(b"x" * 400))
    assert scene.kept() == []


def test_an_enclave_cannot_fill_the_book(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "RECEIPTS_MAX", 2)
    for each in chain(3):
        scene.carry(message(each.encode()))
    assert scene.kept() == [1, 2]


def test_a_book_that_cannot_be_written_stops_no_traffic(scene: Scene) -> None:
    scene.book.close()
    scene.carry(message(receipt().encode()))
    scene.keeper.opened(lease_view())
    scene.keeper.offer_is("listed")


def test_a_leases_terms_are_those_that_were_seen_first(scene: Scene) -> None:
    scene.keeper.fee_ppm = 100_000
    scene.keeper.opened(lease_view())
    scene.keeper.fee_ppm = 200_000
    scene.keeper.opened(lease_view(price_microcredits_per_gpu_hour=1))
    (kept,) = scene.book.leases().values()
    assert (kept.price, kept.fee_ppm, kept.gpus, kept.at) == (CREDIT, 100_000, 1, START)


def test_states_become_spans_and_silence_a_gap(scene: Scene) -> None:
    for state, step in (
        ("listed", 0),
        ("listed", 60_000),
        ("claimed", 60_000),
        ("claimed", 600_000),
    ):
        scene.now += step
        scene.keeper.offer_is(state)
    assert scene.book.spans() == (
        Span(state="listed", since=START, until=START + 60_000),
        Span(state="claimed", since=START + 60_000, until=START + 120_000),
        Span(state="claimed", since=START + 720_000, until=START + 720_000),
    )


def test_a_clock_that_is_set_back_makes_no_span_shorter(scene: Scene) -> None:
    scene.keeper.offer_is("listed")
    scene.now += 60_000
    scene.keeper.offer_is("listed")
    scene.now -= 3_600_000
    scene.keeper.offer_is("listed")
    scene.keeper.offer_is("claimed")
    assert all(each.until >= each.since for each in scene.book.spans())
    assert scene.book.spans()[0].until == START + 60_000


def test_two_equal_matches_are_two_and_a_second_look_changes_but_their_minutes(
    scene: Scene,
) -> None:
    running = match(START, minutes=0)
    scene.book.keep_matches((running, running))
    ended = match(START, minutes=30)
    scene.book.keep_matches((ended, ended))
    assert scene.book.matches() == (ended, ended)
    scene.book.keep_matches((running, running))
    assert scene.book.matches() == (ended, ended)


def test_the_book_is_the_owners_alone_and_a_broken_one_is_never_made_anew(tmp_path: Path) -> None:
    file = tmp_path / BOOK_FILE
    with Book(file):
        assert file.stat().st_mode & 0o077 == 0
    broken = b"no database at all" * 500
    file.write_bytes(broken)
    with pytest.raises(AgentError, match="does not open"):
        Book(file)
    assert file.read_bytes() == broken


# --- through the relay ----------------------------------------------------------------------------


async def test_the_relay_shows_what_the_market_took_and_nothing_that_it_refused(
    tmp_path: Path,
) -> None:
    relayed = relay_scene.Scene(tmp_path)
    shown: list[tuple[str, bytes]] = []
    relay = Relay(
        RelayTask(lease=lease_name(), door=relayed.door.folder, briefing=relay_scene.BRIEFING),
        market=relayed.market,
        cache=relayed.cache,
        patience=PATIENCE,
        witness=lambda lease, frame: shown.append((lease, frame.payload)),
    )
    relayed.running.append(asyncio.create_task(relay.run()))
    try:
        door = await relayed.connected()
        relayed.market.rejects["post_message"] = RejectedError("full", "no room")
        await door.send(relay_scene.frame(1, b"refused").encode())
        await relayed.market.moved()
        while "post_message" not in relayed.market.calls:
            await relayed.market.moved()
        del relayed.market.rejects["post_message"]
        await door.send(relay_scene.frame(2, b"taken").encode())
        await door.send(relay_scene.frame(2, b"taken").encode())
        await door.send(relay_scene.frame(3, b"last").encode())
        await relayed.posted(2)
        async with asyncio.timeout(20):
            while len(shown) < 2:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)
    finally:
        await relayed.close()
    assert shown == [(lease_name(), b"taken"), (lease_name(), b"last")]
