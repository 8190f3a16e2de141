"""A log of releases in a folder that any web server can serve: C2SP tlog-tiles, written whole.

- `Tree` is the pure part: leaf hashes → roots, proofs, tiles. A log is small, and is read whole.
- Files: ``checkpoint``, ``tile/…``, ``tile/entries/…`` as tlog-tiles says; and a folder of ours,
  ``checkpoints/<size>``: every checkpoint that was signed, with the cosignatures it gathered.
- The checkpoint is written last. What a crash leaves behind is tiles that no checkpoint covers, and
  the next append writes them again.
- A file that is there is never changed, but for ``checkpoint`` and the notes of `gather`; files are
  world-readable: there is no secret in a log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from client.files import HomeError, write_durably
from trust.errors import EncodingError, SignatureError, SizeLimitError
from trust.merkle import HASH_BYTES, leaf_hash, root_hash
from trust.transparency import (
    Checkpoint,
    Note,
    NoteKey,
    NoteSignature,
    NoteSigner,
    TlogProof,
    parse_note,
    verify_checkpoint,
    verify_cosignatures,
)

TILE_WIDTH: Final = 256
ENTRIES_MAX: Final = 1 << 16  # a release a day for a century
ENTRY_BYTES_MAX: Final = (1 << 16) - 1
_PUBLIC_MODE: Final = 0o644


class Tree:
    """A Merkle tree over leaf hashes (RFC 6962 §2.1), as its log's operator has it."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.leaves = tuple(leaves)

    def root(self, size: int) -> bytes:
        """The root over the first `size` leaves."""
        return root_hash(self.leaves[:size])

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """PATH(index, D[size]) of RFC 6962 §2.1.1."""
        if not 0 <= index < size <= len(self.leaves):
            raise HomeError(f"entry {index} is not among the first {size} of {len(self.leaves)}")
        return tuple(_path(index, self.leaves[:size]))

    def consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        """PROOF(old, D[size]) of RFC 6962 §2.1.2; none leads from nothing, or to itself."""
        if not 0 <= old <= size <= len(self.leaves):
            raise HomeError(f"{old} and {size} are no sizes of a log of {len(self.leaves)}")
        if old in {0, size}:
            return ()
        return tuple(_grown(old, self.leaves[:size], whole=True))

    def tiles(self, size: int) -> dict[str, bytes]:
        """Path → content of every tile of the tree of `size` leaves, the last ones partial."""
        found, level, row = {}, 0, list(self.leaves[:size])
        while row:
            for start in range(0, len(row), TILE_WIDTH):
                hashes = row[start : start + TILE_WIDTH]
                name = tile_path(str(level), start // TILE_WIDTH, len(hashes))
                found[name] = b"".join(hashes)
            full = len(row) - len(row) % TILE_WIDTH
            row = [root_hash(row[at : at + TILE_WIDTH]) for at in range(0, full, TILE_WIDTH)]
            level += 1
        return found


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*_path(index, leaves[:middle]), root_hash(leaves[middle:])]
    return [*_path(index - middle, leaves[middle:]), root_hash(leaves[:middle])]


def _grown(old: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [root_hash(leaves)]
    middle = _split(len(leaves))
    if old <= middle:
        return [*_grown(old, leaves[:middle], whole=whole), root_hash(leaves[middle:])]
    return [*_grown(old - middle, leaves[middle:], whole=False), root_hash(leaves[:middle])]


def tile_path(level: str, number: int, width: int) -> str:
    """``tile/<level>/x…/NNN[.p/width]``; `level` is a number, or ``entries``."""
    digits = f"{number:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*(f"x{each}" for each in parts[:-1]), parts[-1]])
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{name}{partial}"


def entry_bundles(entries: Sequence[bytes]) -> dict[str, bytes]:
    """Path → content: each entry behind its length, u16 big endian."""
    found = {}
    for start in range(0, len(entries), TILE_WIDTH):
        some = entries[start : start + TILE_WIDTH]
        content = b"".join(len(each).to_bytes(2, "big") + each for each in some)
        found[tile_path("entries", start // TILE_WIDTH, len(some))] = content
    return found


def parse_entry_bundle(content: bytes, width: int) -> list[bytes]:
    """Part a bundle of `width` entries. Raises EncodingError unless it is used up exactly."""
    entries, at = [], 0
    for _ in range(width):
        length = int.from_bytes(content[at : at + 2], "big")
        entry = content[at + 2 : at + 2 + length]
        if len(content) < at + 2 or len(entry) != length:
            raise EncodingError("an entry bundle ends in the middle of an entry")
        entries.append(entry)
        at += 2 + length
    if at != len(content):
        raise EncodingError(f"an entry bundle of {width} entries goes on behind them")
    return entries


class LogFolder:
    """A log's folder, as its operator writes it and as a web server shows it to everybody."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # --- reading: nothing here is believed -------------------------------------------------------

    def head(self) -> Note | None:
        """The newest checkpoint, parsed and not believed; None: nothing was published."""
        try:
            return parse_note((self._folder / "checkpoint").read_bytes())
        except FileNotFoundError:
            return None

    def checkpoint(self, size: int) -> Note:
        """A checkpoint that was signed, with its cosignatures."""
        return parse_note((self._folder / "checkpoints" / str(size)).read_bytes())

    def sizes(self) -> tuple[int, ...]:
        """Sizes at which there are checkpoints, rising."""
        folder = self._folder / "checkpoints"
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return tuple(sorted(int(each) for each in names if each.isdecimal()))

    def entries(self, size: int) -> list[bytes]:
        """The first `size` entries. Raises EncodingError, HomeError for what is not there."""
        if size > ENTRIES_MAX:
            raise SizeLimitError(f"a log of {size} entries; at most {ENTRIES_MAX}")
        found: list[bytes] = []
        for start in range(0, size, TILE_WIDTH):
            width = min(TILE_WIDTH, size - start)
            content = self._read_tile("entries", start // TILE_WIDTH, width)
            found += parse_entry_bundle(content, width)
        return found

    def tile(self, name: str) -> bytes:
        """A tile by its path, as `Tree.tiles` names it."""
        path = self._folder / name
        if not path.is_file():
            raise HomeError(f"the log has no {name}")
        return path.read_bytes()

    def leaves(self, size: int) -> list[bytes]:
        """Leaf hashes from the tiles of level 0. Raises EncodingError, HomeError."""
        if size > ENTRIES_MAX:
            raise SizeLimitError(f"a log of {size} entries; at most {ENTRIES_MAX}")
        content = b"".join(
            self._read_tile("0", start // TILE_WIDTH, min(TILE_WIDTH, size - start))
            for start in range(0, size, TILE_WIDTH)
        )
        if len(content) != size * HASH_BYTES:
            raise EncodingError(f"the tiles hold {len(content)} bytes of {size} hashes")
        return [content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)]

    def _read_tile(self, level: str, number: int, width: int) -> bytes:
        """A partial tile, or the full one that has taken its place, cut to `width`."""
        partial = self._folder / tile_path(level, number, width)
        if partial.is_file():
            return partial.read_bytes()
        content = self.tile(tile_path(level, number, TILE_WIDTH))
        if level == "entries":
            some = parse_entry_bundle(content, TILE_WIDTH)[:width]
            return b"".join(len(each).to_bytes(2, "big") + each for each in some)
        return content[: width * HASH_BYTES]

    def prove(self, index: int, size: int) -> TlogProof:
        """The proof of an entry under the checkpoint of `size`."""
        path = Tree(self.leaves(size)).inclusion(index, size)
        return TlogProof(index=index, path=path, checkpoint=self.checkpoint(size))

    # --- writing: the operator's -----------------------------------------------------------------

    def append(
        self, entry: bytes, signer: NoteSigner, check: Callable[[list[bytes]], None]
    ) -> Checkpoint:
        """Append an entry, and sign the checkpoint that covers it.

        (1) One writer. (2) What is there is whole, and is what this key signed: nothing is built on
        a folder that somebody changed. (3) `check` has nothing against the entry among those that
        are there; it raises otherwise. (4) Entries and tiles. (5) The checkpoint, under its size
        and then as the newest.
        """
        if not 0 < len(entry) <= ENTRY_BYTES_MAX:
            raise SizeLimitError(f"an entry of {len(entry)} bytes; at most {ENTRY_BYTES_MAX}")
        with self._locked():  # (1)
            entries = [] if self.head() is None else self.own(signer.key)[1]  # (2)
            check(entries)  # (3)
            entries.append(entry)
            if len(entries) > ENTRIES_MAX:
                raise SizeLimitError(f"a log has at most {ENTRIES_MAX} entries")
            tree = Tree([leaf_hash(each) for each in entries])
            size = len(entries)
            self._write_new({**entry_bundles(entries), **tree.tiles(size)})  # (4)
            made = Checkpoint(origin=signer.key.name, size=size, root=tree.root(size))
            note = Note(text=made.text, signatures=(signer.sign(made),)).encode()
            self._write(f"checkpoints/{size}", note)  # (5)
            self._write("checkpoint", note)
        return made

    def gather(self, line: NoteSignature, log: NoteKey, witness: NoteKey) -> Checkpoint:
        """Add a witness's line to the checkpoint that it is over, and verify it first.

        The first line of a witness stays: it proves the longer time.
        """
        with self._locked():
            for size in reversed(self.sizes()):
                note = self.checkpoint(size)
                if _is_over(note.text, line, witness):
                    made = verify_checkpoint(note, log)
                    break
            else:
                raise HomeError("that line is this witness's over none of the log's checkpoints")
            if not any(each.is_of(witness) for each in note.signatures):
                full = Note(text=note.text, signatures=(*note.signatures, line)).encode()
                self._write(f"checkpoints/{size}", full)
                if size == self.sizes()[-1]:
                    self._write("checkpoint", full)
        return made

    def own(self, log: NoteKey) -> tuple[Checkpoint, list[bytes]]:
        """The newest checkpoint, verified, and its entries, which have its root.

        Raises SignatureError, EncodingError, HomeError.
        """
        note = self.head()
        if note is None:
            raise HomeError("nothing was published in this folder")
        found = verify_checkpoint(note, log)
        entries = self.entries(found.size)
        if root_hash([leaf_hash(each) for each in entries]) != found.root:
            raise HomeError("the log's entries do not have its checkpoint's root")
        return found, entries

    def _write_new(self, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():
            path = self._folder / name
            done = path.is_file() and stat.S_IMODE(path.stat().st_mode) == _PUBLIC_MODE
            if not done or path.read_bytes() != content:
                self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content)
        path.chmod(_PUBLIC_MODE)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _is_over(text: str, line: NoteSignature, witness: NoteKey) -> bool:
    """The line is this witness's, and verifies over this checkpoint."""
    try:
        return bool(verify_cosignatures(Note(text=text, signatures=(line,)), [witness]))
    except SignatureError:
        return False
