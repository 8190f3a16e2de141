"""Leak on purpose: each secret × encoding × place, and the demo's own search must name it."""

from __future__ import annotations

import base64
import gzip
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from demo.blindness import Searcher, search_all

CANARY = b"canary-4be1b0c0ffee42"
WEIGHTS = np.random.default_rng(5).normal(size=2048).astype("<f4")
BF16 = (WEIGHTS.view("<u4") >> 16).astype("<u2").tobytes()
PIECE = BF16[101:181]  # 80 bytes, at no round offset

SECRETS = {"canary": CANARY, "weights": PIECE}
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "hex": lambda secret: secret.hex().encode(),
    "base64": base64.b64encode,
    "base64 shifted by one": lambda secret: base64.b64encode(b"a" + secret),
    "base64 shifted by two": lambda secret: base64.b64encode(b"ab" + secret),
    "base64url": base64.urlsafe_b64encode,
    "gzip": gzip.compress,
}


def _file(*parts: str) -> Callable[[Path, bytes], None]:
    def plant(root: Path, leak: bytes) -> None:
        path = root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"before " + leak + b" after")

    return plant


def _database(root: Path, leak: bytes) -> None:
    (root / "market").mkdir()
    with sqlite3.connect(root / "market" / "market.db") as connection:
        connection.execute("CREATE TABLE message (payload BLOB)")
        connection.execute("INSERT INTO message VALUES (?)", (b"before " + leak,))
    connection.close()


PLACES: dict[str, Callable[[Path, bytes], None]] = {
    "market's database": _database,
    "market's blob store": _file("market", "blobs", "ab", "abcdef"),
    "market's log": _file("market", "log"),
    "host's cache": _file("host-1", "cache", "00", "segment"),
    "host's lease": _file("host-2", "leases", "leas_1", "briefing"),
    "chip's log": _file("host-1", "chip", "log"),
    "image of an enclave": _file("host-1", "chip", "images", "1", "trust", "leak.py"),
    "a socket of the market": _file("taps", "market", "tcp-000000.out"),
    "an enclave's door": _file("taps", "host-1", "leas_1-door-messages-000000.in"),
    "a connection of Ray's": _file("taps", "ray", "40000-to-6379-000001.out"),
    "Ray's session folder": _file("ray", "session", "logs", "worker.out"),
}


def searched(root: Path, words: list[tuple[str, bytes]] | None = None) -> Searcher:
    searcher = Searcher(canaries={"canary": CANARY}, weights={"weights": BF16})
    search_all(searcher, sorted(path for path in root.iterdir()), words or [])
    return searcher


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_leak_is_named(tmp_path: Path, secret: str, encoding: str, place: str) -> None:
    PLACES[place](tmp_path, ENCODINGS[encoding](SECRETS[secret]))
    assert {hit.secret for hit in searched(tmp_path).hits} == {secret}


@pytest.mark.parametrize("secret", SECRETS)
def test_a_leak_in_a_process_environment_is_named(tmp_path: Path, secret: str) -> None:
    words = [("/proc/1/environ", b"KEY=" + ENCODINGS["base64"](SECRETS[secret]))]
    assert [hit.place for hit in searched(tmp_path, words).hits] == ["/proc/1/environ"]


def test_a_leak_in_a_file_name_is_named(tmp_path: Path) -> None:
    _file("host-1", CANARY.decode())(tmp_path, b"nothing")
    assert {hit.secret for hit in searched(tmp_path).hits} == {"canary"}


def test_ciphertext_and_logs_are_no_leak(tmp_path: Path) -> None:
    for number, plant in enumerate(PLACES.values()):
        plant(tmp_path, np.random.default_rng(number).bytes(4096))
    assert searched(tmp_path).hits == []
