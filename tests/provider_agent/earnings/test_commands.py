"""The commands beside a serving agent read its home, plan, pin and price, and say no plainly."""

import argparse
import json
import os
from pathlib import Path

import pytest

from provider_agent.cache import BlobCache
from provider_agent.commands import cache as cache_command
from provider_agent.commands import connect
from provider_agent.commands import maintenance as maintenance_command
from provider_agent.commands import pricing as pricing_command
from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.maintenance import Plan
from provider_agent.earnings.pricing import chosen
from provider_agent.earnings.strategies import FloorDemand
from provider_agent.errors import AgentError, LaunchError
from provider_agent.journal import Journal, LeaseRecord, Stage
from provider_agent.refusals import HostRefusedError
from tests.marketplace.world import manifest, terms
from tests.provider_agent.earnings.made import CREDIT, HOUR, START, match
from tests.provider_agent.fakes import FakeMarket
from tests.provider_agent.test_offers import Scene
from trust.artifacts import ArtifactKind, Core, Custodian, Manifest
from trust.encoding import digest
from trust.errors import EncodingError
from trust.identity import PartyKey

MODULES = (cache_command, maintenance_command, pricing_command)
OWNER = PartyKey.from_bytes(b"\x02" * 32)


class Shell:
    def __init__(self, home: Path, said: list[str]) -> None:
        self.home, self.said = home, said

    def parse(self, *words: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        commands = parser.add_subparsers(dest="command", required=True)
        for module in MODULES:
            module.add_parser(commands)
        return parser.parse_args([*words, "--home", str(self.home)])

    def run(self, *words: str) -> int:
        options = self.parse(*words)
        return next(each for each in MODULES if options.command == each.NAME).run(options)

    @property
    def last(self) -> str:
        return self.said[-1]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    said: list[str] = []
    for module in MODULES:
        monkeypatch.setattr(module, "say", said.append)
        if hasattr(module, "wall_clock"):
            monkeypatch.setattr(module, "wall_clock", lambda: START)
    return Shell(tmp_path, said)


# --- cache ----------------------------------------------------------------------------------------


def test_cache_lists_pins_unpins_and_drops(shell: Shell) -> None:
    with pytest.raises(AgentError, match="no cache yet"):
        shell.run("cache", "list")
    agent = BlobCache(shell.home / "cache", bytes_max=1 << 20)
    name = digest(b"ciphertext")
    agent.put(name, b"ciphertext", lease="leas_1")
    assert shell.run("cache", "list") == os.EX_OK
    assert f"{name.hex()}        10  may go  leas_1" in shell.last
    shell.run("cache", "pin", name.hex())
    shell.run("cache", "list", "--json")
    (row,) = json.loads(shell.last)["objects"]
    assert row == {"digest": name.hex(), "bytes": 10, "lease": "leas_1", "pinned": True}
    shell.run("cache", "unpin", name.hex())
    shell.run("cache", "drop", name.hex(), "00" * 32)
    assert shell.last == "dropped 1 of 2 objects"
    assert agent.get(name) is None


@pytest.mark.parametrize("text", ["abc", "zz" * 32, "00" * 31, "../../etc/passwd"])
def test_what_is_no_digest_names_no_file(shell: Shell, text: str) -> None:
    BlobCache(shell.home / "cache", bytes_max=1 << 20)
    with pytest.raises((AgentError, EncodingError)):
        shell.run("cache", "drop", text)


def sealed(segments: list[bytes]) -> tuple[bytes, bytes, bytes]:
    """A signed manifest of these segments, its digest, and their list."""
    listed = b"".join(digest(each) for each in segments)
    found = Manifest(
        core=Core(
            kind=ArtifactKind.WEIGHTS,
            seal_id=bytes(32),
            custodians=(Custodian(identity=OWNER.identity, lineage=b"s" + bytes(32), epoch=0),),
            origin=None,
        ),
        padded_bytes=1_000_000 * len(segments),
        segments=len(segments),
        segment_list=digest(listed),
        commitment=bytes(32),
        public_files=(),
    )
    signed = OWNER.sign(found)
    return signed.encode(), signed.digest, listed


class Documents(FakeMarket):
    def __init__(self) -> None:
        super().__init__()
        self.documents: dict[bytes, bytes] = {}

    async def document(self, sha256: bytes) -> bytes:
        return self.documents[sha256]


async def test_prefetch_fetches_an_artifacts_segments_verified_from_its_id_down(
    shell: Shell,
) -> None:
    cache, market = BlobCache(shell.home / "cache", bytes_max=1 << 20), Documents()
    segments = [b"one", b"two"]
    signed, artifact, listed = sealed(segments)
    market.documents[artifact] = signed
    with pytest.raises(AgentError, match="segment list"):
        await cache_command._segments(market, artifact)
    market.blobs = {digest(each): each for each in (*segments, listed)}
    names = await cache_command._segments(market, artifact)
    assert [await cache_command._fetch(market, cache, each) for each in names] == [True] * 3
    assert cache.get(digest(b"two")) == b"two"
    calls = len(market.calls)
    assert await cache_command._fetch(market, cache, names[1])
    assert len(market.calls) == calls  # what is here is not fetched again
    market.lies = {digest(b"three"): b"a lie"}
    assert not await cache_command._fetch(market, cache, digest(b"three"))
    market.documents[artifact] = sealed([b"other"])[0]
    with pytest.raises(AgentError, match="another document"):
        await cache_command._segments(market, artifact)
    cache.close()


# --- maintenance ----------------------------------------------------------------------------------


def running(home: Path) -> str:
    """A lease on the agent's record, whose job may take until its manifest's end."""
    market = FakeMarket()
    name = market.open_lease()
    job = manifest(terms(), expires_at=START + 10 * HOUR)
    journal = Journal(home / "leases")
    journal.write(
        LeaseRecord(
            lease=name, stage=Stage.SERVING, since=START, incarnation=None, event=None, reason=None
        )
    )
    briefing = market.briefings[name]
    journal.write_briefing(name, type(briefing)(**{
        **{each: getattr(briefing, each) for each in briefing.__slots__}, "job": job.encode()
    }))  # fmt: skip
    return name


def offered(home: Path, until: int) -> None:
    keeper = Scene(home).keeper()
    keeper._draft = type(keeper.draft)(**{
        **{each: getattr(keeper.draft, each) for each in keeper.draft.__slots__}, "ends_at": until
    })  # fmt: skip
    keeper._store()


def test_a_window_is_planned_listed_and_cancelled(shell: Shell) -> None:
    words = ("--for", "90m", "--reason", "new kernel")
    assert shell.run("maintenance", "plan", "--at", "2027-02-01T03:00", *words) == os.EX_OK
    (window,) = Plan(shell.home).windows()
    assert window.end - window.at == 90 * 60_000
    assert "planned  2027-02-01T03:00:00Z to 2027-02-01T04:30:00Z  new kernel" in shell.last
    shell.run("maintenance", "list")
    assert window.id in shell.last
    shell.run("maintenance", "cancel", window.id)
    shell.run("maintenance", "list")
    assert shell.last == "nothing is planned"


@pytest.mark.parametrize(("until", "cut"), [(START + 20 * HOUR, True), (START + 2 * HOUR, False)])
def test_a_window_over_what_a_running_lease_may_take_needs_a_drain(
    shell: Shell, until: int, cut: bool
) -> None:
    """It may take until the earlier of its job's end, in ten hours, and its offer's."""
    name = running(shell.home)
    offered(shell.home, until)
    plan = ("maintenance", "plan", "--at", "2027-01-15T05:00", "--for", "1h", "--reason", "x")
    if cut:
        with pytest.raises(AgentError, match=name):
            shell.run(*plan)
        shell.run(*plan, "--drain")
        assert f"{name} is ended at the start if it still runs" in shell.last
    else:
        shell.run(*plan)
    assert len(Plan(shell.home).windows()) == 1


@pytest.mark.parametrize(
    ("at", "length"), [("soon", "1h"), ("2027-02-01", "0h"), ("2027-02-01", "1w"), ("now", "1.5h")]
)
def test_times_that_are_none_are_refused(shell: Shell, at: str, length: str) -> None:
    with pytest.raises(AgentError, match=r"--at|--for"):
        shell.run("maintenance", "plan", "--at", at, "--for", length, "--reason", "x")


# --- pricing --------------------------------------------------------------------------------------


def test_a_strategy_is_replayed_before_it_is_set(shell: Shell) -> None:
    words = ("--strategy", "floor+demand", "--floor", "500000")
    with pytest.raises(AgentError, match="not replayed"):
        shell.run("pricing", "set", *words)
    assert shell.run("pricing", "replay", *words) == pricing_command.TOO_FEW
    assert shell.last == "not enough data: 0 leases, 20 wanted"
    with Book(shell.home / BOOK_FILE) as book:
        book.keep_matches(tuple(match(START - n * HOUR, CREDIT) for n in range(20)))
    with pytest.raises(AgentError, match="not replayed"):
        shell.run("pricing", "set", *words)
    assert shell.run("pricing", "replay", *words) == os.EX_OK
    assert "of 20 leases would have been won" in shell.last
    assert shell.run("pricing", "set", *words) == os.EX_OK
    assert chosen(shell.home) == FloorDemand(floor=500_000)
    shell.run("pricing", "show")
    assert "500000" in shell.last
    shell.run("pricing", "unset")
    assert chosen(shell.home) is None


@pytest.mark.parametrize(
    "words",
    [
        ("--strategy", "fixed", "--floor", "5"),
        ("--strategy", "fixed", "--floor", "5", "--ask", "4"),
        ("--strategy", "script", "--floor", "5"),
        ("--strategy", "script", "--floor", "5", "--script", "/nowhere/price"),
    ],
)
def test_half_a_strategy_is_refused(shell: Shell, words: tuple[str, ...]) -> None:
    with pytest.raises(AgentError):
        shell.run("pricing", "replay", *words)


# --- the home -------------------------------------------------------------------------------------


async def test_a_command_speaks_with_no_identity_that_others_can_read(tmp_path: Path) -> None:
    options = argparse.Namespace(
        home=tmp_path, market="http://127.0.0.1:9", market_identity="00" * 32,
        market_certificate=None,
    )  # fmt: skip
    with pytest.raises(AgentError, match="no key yet"):
        async with connect.market_of(options):
            raise LaunchError("never here")
    key = tmp_path / connect.KEY_FILE
    key.write_bytes(OWNER.to_bytes())
    key.chmod(0o640)
    with pytest.raises(HostRefusedError, match="open-identity"):
        async with connect.market_of(options):
            raise LaunchError("never here")
    key.chmod(0o600)
    async with connect.market_of(options) as market:
        assert market is not None
    with pytest.raises(AgentError, match="no agent has a home"):
        connect.home_of(argparse.Namespace(home=tmp_path / "nowhere"))
