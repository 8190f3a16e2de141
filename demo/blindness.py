"""The blindness check: search everything that hosts and market held or carried for what is secret.

A *secret* is a byte string: a canary from the dataset, or the model's weights. It is looked for

- plain, as hexadecimal (both cases), as base64 and base64url at its three offsets;
- weights also re-encoded: bf16 read as fp32, and fp32 read as bf16.

Weights are searched by *windows*: any run of `WINDOW_BYTES` bytes of them, at every offset, is
found wherever it stands, because such a run holds a whole `BLOCK_BYTES`-aligned block of the
weights, and every such block is looked for at every offset of the haystack. Blocks of low entropy
(zeros, a repeated value) are left out: they stand in any file.

The search proves nothing by finding nothing, so whoever runs it must also find the canary where it
belongs, and a test plants each secret × encoding × place and wants it named.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

WINDOW_BYTES: Final = 32
BLOCK_BYTES: Final = 16  # a window of 32 holds an aligned block of 16 whole
WORD_BYTES: Final = 8
DISTINCT_BYTES_MIN: Final = 8  # of 16: fewer is a constant or a counter, not weights
TABLE_BITS: Final = 24
PIECE_BYTES: Final = 16 << 20  # of a haystack at a time; pieces overlap by a whole canary
OVERLAP_BYTES: Final = 4096
UNPACKED_BYTES_MIN: Final = 8  # shorter is chance, and shorter than any secret
UNPACKED_BYTES_MAX: Final = 1 << 30  # a compressed stream that grows beyond is searched up to here


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A secret that stands where it must not."""

    secret: str
    encoding: str
    place: str
    offset: int


def encodings(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """A secret in every spelling that is looked for: name and bytes."""
    yield "plain", secret
    yield "hex", secret.hex().encode()
    yield "HEX", secret.hex().upper().encode()
    for offset in range(3):
        # Leading zeros shift the groups of three; characters that mix with neighbours are cut off.
        text = base64.b64encode(bytes(offset) + secret)
        cut = text[(0, 2, 3)[offset] : -4 if len(text) > 8 else None]
        yield f"base64+{offset}", cut
        if cut != (url := cut.replace(b"+", b"-").replace(b"/", b"_")):
            yield f"base64url+{offset}", url


def reencodings(weights: bytes) -> Iterator[tuple[str, bytes]]:
    """Weights as they are, and as the other float type would hold them."""
    yield "", weights
    halves = np.frombuffer(weights[: len(weights) // 2 * 2], dtype="<u2")
    yield "bf16→fp32 ", (halves.astype("<u4") << 16).tobytes()
    words = np.frombuffer(weights[: len(weights) // 4 * 4], dtype="<u4")
    yield "fp32→bf16 ", (words >> 16).astype("<u2").tobytes()


class WindowIndex:
    """Finds any window of some weights, in any of their spellings, in a haystack."""

    def __init__(self, name: str, weights: bytes) -> None:
        self.name = name
        words, spellings = [], []
        self._spellings: list[str] = []
        for prefix, encoded in reencodings(weights):
            for spelling, text in encodings(encoded):
                found = _block_heads(text)
                words.append(found)
                spellings.append(np.full(len(found), len(self._spellings), dtype=np.int16))
                self._spellings.append(prefix + spelling)
        every = np.concatenate(words)
        order = np.argsort(every[:, 0], kind="stable")
        self._heads, self._tails = every[order, 0], every[order, 1]
        self._spelling = np.concatenate(spellings)[order]
        self._table = np.zeros(1 << TABLE_BITS, dtype=bool)
        self._table[_slots(self._heads)] = True

    def __len__(self) -> int:
        return len(self._heads)

    def search(self, piece: bytes) -> Iterator[tuple[str, int]]:
        """Yield spelling and offset of the first block found in each spelling."""
        seen: set[str] = set()
        for shift in range(WORD_BYTES):
            count = (len(piece) - shift) // WORD_BYTES
            if count < 2:
                return
            words = np.frombuffer(piece, dtype="<u8", count=count, offset=shift)
            places = np.flatnonzero(self._table[_slots(words[:-1])])
            left = np.searchsorted(self._heads, words[places], side="left")
            right = np.searchsorted(self._heads, words[places], side="right")
            for place, low, high in zip(
                places[right > left], left[right > left], right[right > left], strict=True
            ):
                same = np.flatnonzero(self._tails[low:high] == words[place + 1])
                for which in {int(self._spelling[low + s]) for s in same}:
                    if (name := self._spellings[which]) not in seen:
                        seen.add(name)
                        yield name, int(place) * WORD_BYTES + shift


def _block_heads(text: bytes) -> npt.NDArray[np.uint64]:
    """The high-entropy aligned blocks of a text, as two words each: shape (blocks, 2)."""
    count = len(text) // BLOCK_BYTES
    blocks = np.frombuffer(text, dtype=np.uint8, count=count * BLOCK_BYTES).reshape(count, -1)
    ordered = np.sort(blocks, axis=1)
    distinct = 1 + np.count_nonzero(np.diff(ordered, axis=1), axis=1)
    kept: npt.NDArray[np.uint8] = blocks[distinct >= DISTINCT_BYTES_MIN]
    return kept.view("<u8").reshape(-1, 2)


def _slots(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # Multiplicative hashing: any odd constant spreads text and floats alike over the table.
    return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - TABLE_BITS)


class Searcher:
    """Counts what it searched, and names what it found."""

    def __init__(self, *, canaries: dict[str, bytes], weights: dict[str, bytes]) -> None:
        self._canaries = [
            (name, spelling, text)
            for name, secret in canaries.items()
            for spelling, text in encodings(secret)
        ]
        self._indexes = [WindowIndex(name, content) for name, content in weights.items()]
        self.bytes_searched = 0
        self.hits: list[Hit] = []

    def search(self, place: str, content: bytes) -> list[Hit]:
        """Search one file, one stream or one process's memory of names; return its own hits."""
        before = len(self.hits)
        for name, view in _views(content):
            self._search_view(f"{place}{name}", view)
        return self.hits[before:]

    def _search_view(self, place: str, content: bytes) -> None:
        self.bytes_searched += len(content)
        found: set[tuple[str, str]] = set()
        for start in range(0, max(1, len(content)), PIECE_BYTES):
            piece = content[start : start + PIECE_BYTES + OVERLAP_BYTES]
            for secret, spelling, offset in self._in_piece(piece):
                if (secret, spelling) not in found:
                    found.add((secret, spelling))
                    self.hits.append(
                        Hit(secret=secret, encoding=spelling, place=place, offset=start + offset)
                    )

    def _in_piece(self, piece: bytes) -> Iterator[tuple[str, str, int]]:
        for name, spelling, text in self._canaries:
            if (at := piece.find(text)) >= 0:
                yield name, spelling, at
        for index in self._indexes:
            for spelling, at in index.search(piece):
                yield index.name, spelling, at


def _views(content: bytes) -> Iterator[tuple[str, bytes]]:
    """A byte string as it is, and with each compressed stream in it undone."""
    yield "", content
    for name, magic, bits in (
        ("!gzip", b"\x1f\x8b\x08", zlib.MAX_WBITS | 16),
        ("!zlib", b"\x78\x9c", zlib.MAX_WBITS),
        ("!zlib", b"\x78\x01", zlib.MAX_WBITS),
        ("!zlib", b"\x78\xda", zlib.MAX_WBITS),
    ):
        for offset in _occurrences(content, magic):
            unpacked = _undo(content, offset, bits)
            if len(unpacked) >= UNPACKED_BYTES_MIN:
                yield f"{name}@{offset}", unpacked


def _occurrences(content: bytes, magic: bytes) -> Iterable[int]:
    at = content.find(magic)
    while at >= 0:
        yield at
        at = content.find(magic, at + 1)


def _undo(content: bytes, offset: int, bits: int) -> bytes:
    """What unpacks before the first error; ciphertext that looks like a header gives nothing."""
    unpacker = zlib.decompressobj(wbits=bits)
    unpacked = bytearray()
    for start in range(offset, len(content), 4096):
        try:
            unpacked += unpacker.decompress(content[start : start + 4096], UNPACKED_BYTES_MAX)
        except zlib.error:
            break
        if unpacker.eof or len(unpacked) >= UNPACKED_BYTES_MAX:
            break
    return bytes(unpacked)


def search_all(searcher: Searcher, places: list[Path], words: list[tuple[str, bytes]]) -> None:
    """Search every file below the places, their names too, and words seen in /proc."""
    for place in places:
        for path in sorted(place.rglob("*")):
            name = str(path.relative_to(place.parent))
            searcher.search(f"name of {name}", name.encode("utf-8", "surrogateescape"))
            if path.is_file() and not path.is_symlink():
                with contextlib.suppress(FileNotFoundError):  # its process may remove it meanwhile
                    searcher.search(name, path.read_bytes())
    for name, content in words:
        searcher.search(name, content)


def tensor_bytes(path: Path) -> bytes:
    """A safetensors file without its header: tensor names are in every config, and no secret."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]
