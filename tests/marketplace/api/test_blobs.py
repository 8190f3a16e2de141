"""Blobs over the socket: by their digest, verified, in ranges, within a party's share."""

from __future__ import annotations

import pytest

from client.market_api import MarketRefusedError
from marketplace import blobs, wire
from marketplace.home import Home
from tests.marketplace.api.rig import Rig, refused
from tests.marketplace.world import BUYER, HOST, STRANGER
from trust.encoding import digest

Code = wire.ErrorCode


async def test_blob_comes_back_to_anybody_by_its_digest(rig: Rig) -> None:
    for content in (b"x", b"s" * wire.BLOB_BYTES_MAX):
        sha256 = await rig.api(BUYER).put_blob(content)
        assert sha256 == digest(content)
        assert await rig.api(STRANGER).get_blob(sha256) == content


async def test_blob_stored_twice_exists(rig: Rig) -> None:
    target = wire.target(wire.BLOB, digest=digest(b"x"))
    for key, wanted in ((BUYER, "created"), (BUYER, "exists"), (HOST, "exists")):
        sent = await rig.send("PUT", target, b"x", key=key)
        assert wire.parse(wire.Stored, sent.body).result.value == wanted


async def test_bytes_under_anothers_digest_are_refused_and_not_stored(rig: Rig) -> None:
    target = wire.target(wire.BLOB, digest=digest(b"other"))
    (await rig.send("PUT", target, b"x")).expect(Code.MALFORMED)
    assert await rig.api(BUYER).missing_blobs([digest(b"other"), digest(b"x")]) == (
        digest(b"other"),
        digest(b"x"),
    )
    (await rig.send("PUT", wire.target(wire.BLOB, digest=digest(b"")), b"")).expect(Code.TOO_LARGE)


@pytest.mark.parametrize("name", ["00", "zz" * 32, "AA" * 32, "0" * 63, "x..", "0" * 66])
async def test_name_that_is_no_digest_is_refused(rig: Rig, name: str) -> None:
    (await rig.send("GET", f"/v1/blobs/{name}")).expect(Code.MALFORMED)


async def test_range_of_a_blob(rig: Rig) -> None:
    sha256 = await rig.api(BUYER).put_blob(b"0123456789")
    for first, last, wanted in ((0, 9, b"0123456789"), (3, 5, b"345"), (9, 9, b"9")):
        target = wire.target(wire.BLOB, {"first": first, "last": last}, digest=sha256)
        sent = await rig.send("GET", target)
        assert (sent.status, sent.body) == (200, wanted)


@pytest.mark.parametrize(
    "query",
    [
        "first=0",
        "last=3",
        "first=5&last=4",
        "first=0&last=10",
        "first=-1&last=3",
        "first=a&last=b",
        "first=0&last=99999999",
    ],
)
async def test_range_outside_a_blob_is_refused(rig: Rig, query: str) -> None:
    sha256 = await rig.api(BUYER).put_blob(b"0123456789")
    target = f"{wire.target(wire.BLOB, digest=sha256)}?{query}"
    (await rig.send("GET", target)).expect(Code.MALFORMED)


async def test_blob_that_is_not_there_is_not_found(rig: Rig) -> None:
    await refused(Code.NOT_FOUND, rig.api(BUYER).get_blob(bytes(32)))


async def test_flipped_bit_on_the_disk_is_found_and_not_handed_out(rig: Rig) -> None:
    sha256 = await rig.api(BUYER).put_blob(b"0123456789")
    path = rig.market.blobs.path(sha256)
    path.write_bytes(b"0123456780")
    await refused(Code.NOT_FOUND, rig.api(BUYER).get_blob(sha256))


async def test_blob_whose_bytes_are_gone_is_missing_whatever_the_row_says(rig: Rig) -> None:
    """▸ A custodian acknowledges a checkpoint once its every segment is there: bytes, not rows."""
    sha256 = await rig.api(BUYER).put_blob(b"0123456789")
    assert await rig.api(HOST).missing_blobs([sha256]) == ()
    rig.market.blobs.path(sha256).unlink()
    assert await rig.api(HOST).missing_blobs([sha256, sha256]) == (sha256, sha256)


async def test_party_beyond_its_share_is_refused_and_fills_no_disk(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "SHARE_BYTES_MAX", 10)
    sha256 = await rig.api(BUYER).put_blob(b"0123456789")
    with pytest.raises(MarketRefusedError, match="full"):
        await rig.api(BUYER).put_blob(b"z")
    assert not rig.market.blobs.has(digest(b"z"))
    assert await rig.api(HOST).get_blob(sha256) == b"0123456789"
    await rig.api(HOST).put_blob(b"z")


def test_leftovers_of_a_killed_process_go_at_the_next_start(tmp_path) -> None:
    home = Home(tmp_path / "market")
    left = home.open_blobs().path(bytes(32)).parent.parent / ".arriving-abc"
    left.write_bytes(b"half")
    home.open_blobs()
    assert not left.exists()
