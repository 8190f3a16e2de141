"""Transparency logs as C2SP writes them: signed notes, checkpoints, cosignatures, tlog-proofs.

Rules (docs/spec/image-releases.md §2; c2sp.org signed-note, tlog-checkpoint, tlog-cosignature,
tlog-proof):
- Sizes are looked at before anything is parsed; text has one form, and any other is refused.
- A note counts by its known keys alone. A line of an unknown key is passed over; one line of a
  known key that does not verify refuses the whole note.
- A key is a name, a signature type and a public key, pinned by whoever verifies. Two types are
  spoken: Ed25519 (0x01) for logs, timestamped Ed25519 cosignatures (0x04) for witnesses.
- A log's key has the log's origin for its name: a checkpoint of another origin is another log's.
- Whether a proof's hashes lead to the checkpoint's root is `trust.merkle`'s to say.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trust.errors import EncodingError, SignatureError, SizeLimitError
from trust.merkle import HASH_BYTES, LOG_SIZE_MAX, PROOF_HASHES_MAX

NOTE_BYTES_MAX: Final = 1 << 15
NOTE_SIGNATURES_MAX: Final = 64  # signed-note wants 16 at least
TLOG_PROOF_BYTES_MAX: Final = NOTE_BYTES_MAX + 4096  # 63 hashes of 45 bytes, and some lines
NAME_CHARACTERS_MAX: Final = 255
TIMESTAMP_MAX: Final = (1 << 63) - 1

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04
_TYPES: Final = frozenset({ED25519, COSIGNATURE})

_EM_DASH: Final = "\u2014 "
_TLOG_PROOF: Final = "c2sp.org/tlog-proof@v1"
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,15}")


# --- signed notes --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class NoteKey:
    """A verifier key: who signs notes, and how."""

    name: str
    type: int
    """`ED25519` or `COSIGNATURE`."""
    public: bytes
    """Raw Ed25519 public key: 32 bytes."""

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if self.type not in _TYPES:
            raise EncodingError(f"note key of type {self.type:#04x}; wanted 0x01 or 0x04")
        if len(self.public) != 32:
            raise EncodingError(f"note key of {len(self.public)} bytes, wanted 32")

    @property
    def id(self) -> bytes:
        """``SHA-256(name ‖ 0x0A ‖ type ‖ public key)[:4]``."""
        named = self.name.encode() + b"\n" + bytes((self.type,)) + self.public
        return hashlib.sha256(named).digest()[:4]

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """Parse ``name+id+base64``. Raises EncodingError; an id that is not the key's, too."""
        if len(text) > NAME_CHARACTERS_MAX + 64:
            raise SizeLimitError(f"verifier key of {len(text)} characters")
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise EncodingError("a verifier key is name+id+key")
        raw = parse_base64(parts[2])
        if not raw:
            raise EncodingError("a verifier key without a type")
        key = cls(name=parts[0], type=raw[0], public=raw[1:])
        if key.id.hex() != parts[1]:
            raise EncodingError(f"verifier key of {key.name}: id {parts[1][:16]!r} is not its own")
        return key

    def __str__(self) -> str:
        raw = base64.b64encode(bytes((self.type,)) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{raw}"


@dataclass(frozen=True, kw_only=True, slots=True)
class NoteSignature:
    """One signature line, not yet believed."""

    name: str
    key_id: bytes
    """4 bytes."""
    value: bytes
    """What stands behind the key id; its form is the signature type's."""

    def is_of(self, key: NoteKey) -> bool:
        """Name and id are this key's."""
        return self.name == key.name and self.key_id == key.id

    def __str__(self) -> str:
        blob = base64.b64encode(self.key_id + self.value).decode()
        return f"{_EM_DASH}{self.name} {blob}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A text that ends with a newline, and its signature lines. Parsed and not believed."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """As it stands in a file."""
        lines = "".join(f"{each}\n" for each in self.signatures)
        return f"{self.text}\n{lines}".encode()


def parse_note(data: bytes) -> Note:
    """Parse a signed note: its shape alone.

    (1) Size. (2) UTF-8 without control characters but newlines. (3) The last empty line parts text
    from signatures. (4) Every signature line is whole; there is one, and not too many.

    Raises EncodingError, SizeLimitError.
    """
    if len(data) > NOTE_BYTES_MAX:  # (1)
        raise SizeLimitError(f"a note of {len(data)} bytes; at most {NOTE_BYTES_MAX}")
    try:  # (2)
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EncodingError("a note is UTF-8") from error
    if any(each < " " and each != "\n" for each in whole):
        raise EncodingError("a note has no control characters but newlines")
    text, parted, lines = whole.rpartition("\n\n")  # (3)
    if not parted or not lines.endswith("\n"):
        raise EncodingError("a note is text, an empty line, and whole signature lines")
    found = lines[:-1].split("\n")  # (4)
    if len(found) > NOTE_SIGNATURES_MAX:
        raise SizeLimitError(f"a note of {len(found)} signatures; at most {NOTE_SIGNATURES_MAX}")
    return Note(text=text + "\n", signatures=tuple(parse_signature_line(each) for each in found))


def parse_signature_line(line: str) -> NoteSignature:
    """Parse ``— name base64(id ‖ signature)``, without its newline. Raises EncodingError."""
    if not line.startswith(_EM_DASH):
        raise EncodingError("a signature line begins with an em dash and a space")
    name, _, blob = line.removeprefix(_EM_DASH).partition(" ")
    check_key_name(name)
    raw = parse_base64(blob)
    if len(raw) < 5:
        raise EncodingError(f"a note's signature of {len(raw)} bytes, wanted 5 at least")
    return NoteSignature(name=name, key_id=raw[:4], value=raw[4:])


def check_key_name(name: str) -> None:
    """Raise EncodingError for a name that is empty, too long, or has spaces or a plus."""
    if not 0 < len(name) <= NAME_CHARACTERS_MAX or "+" in name or not name.isprintable():
        raise EncodingError("a key name is short, and has no plus and no control character")
    if any(each.isspace() for each in name):
        raise EncodingError("a key name has no spaces")


def parse_base64(text: str) -> bytes:
    """Decode standard base64 with its padding, strictly. Raises EncodingError."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise EncodingError("not base64") from error
    if base64.b64encode(data).decode() != text:
        raise EncodingError("not the canonical base64 of its bytes")
    return data


# --- checkpoints ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A log's head at one size. Who vouches for it is the note's matter."""

    origin: str
    size: int
    root: bytes
    """32 bytes."""
    extensions: tuple[str, ...] = ()
    """Lines that nothing of ours reads; a log of ours has none."""

    @property
    def text(self) -> str:
        """The note's text."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode())
        return "".join(f"{each}\n" for each in (*lines, *self.extensions))


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse a checkpoint's text: origin, size, root, and lines that are not empty.

    Raises EncodingError.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise EncodingError("a checkpoint is three lines or more, none of them empty")
    if not _DECIMAL.fullmatch(lines[1]) or int(lines[1]) > LOG_SIZE_MAX:
        raise EncodingError(f"a checkpoint's size is a decimal: got {lines[1][:32]!r}")
    root = parse_base64(lines[2])
    if len(root) != HASH_BYTES:
        raise EncodingError(f"a checkpoint's root has {len(root)} bytes, wanted {HASH_BYTES}")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root, extensions=tuple(lines[3:-1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosigned:
    """A witness's word: at `at` this was the newest consistent checkpoint that it had seen."""

    witness: NoteKey
    at: int
    """Unix seconds."""


def verify_checkpoint(note: Note, log: NoteKey) -> Checkpoint:
    """Verify that a log signed this checkpoint.

    (1) The key is a log's. (2) The text is a checkpoint of that log's origin. (3) There is a line
    of this key, and every line of it verifies over the text.

    Raises EncodingError, SignatureError.
    """
    if log.type != ED25519:  # (1)
        raise SignatureError(f"{log.name} is no log's key: type {log.type:#04x}, wanted 0x01")
    checkpoint = parse_checkpoint(note.text)  # (2)
    if checkpoint.origin != log.name:
        raise SignatureError(f"a checkpoint of {checkpoint.origin[:64]!r}, wanted {log.name!r}")
    own = [each for each in note.signatures if each.is_of(log)]  # (3)
    if not own:
        raise SignatureError(f"no signature of the log {log.name} ({log.id.hex()})")
    for each in own:
        _verify(log, each.value, note.text.encode())
    return checkpoint


def verify_cosignatures(note: Note, witnesses: Iterable[NoteKey]) -> tuple[Cosigned, ...]:
    """Verify the lines of these witnesses, and of no others: one `Cosigned` for each that signed.

    Of two good lines of one witness the earlier counts: it proves the longer time. Left to the
    caller: `verify_checkpoint`, how many witnesses are wanted, and their timestamps.

    Raises SignatureError if one line of a known witness does not verify.
    """
    found = []
    for witness in witnesses:
        if witness.type != COSIGNATURE:
            raise SignatureError(f"{witness.name} is no witness's key: wanted type 0x04")
        times = [
            _verify_cosignature(witness, each.value, note.text)
            for each in note.signatures
            if each.is_of(witness)
        ]
        if times:
            found.append(Cosigned(witness=witness, at=min(times)))
    return tuple(found)


def _verify_cosignature(witness: NoteKey, value: bytes, text: str) -> int:
    if len(value) != 72:
        raise SignatureError(f"a cosignature of {len(value)} bytes, wanted 72")
    at = int.from_bytes(value[:8], "big")
    if at > TIMESTAMP_MAX:
        raise SignatureError(f"cosigned at {at}; at most {TIMESTAMP_MAX}")
    _verify(witness, value[8:], cosigned_message(text, at))
    return at


def cosigned_message(text: str, at: int) -> bytes:
    """What a witness signs (tlog-cosignature, Ed25519): `at` is in Unix seconds."""
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _verify(key: NoteKey, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(f"a note's signature of {key.name} does not verify") from error


class NoteSigner:
    """A log's or a witness's private key. It signs checkpoints of one kind, and nothing else."""

    __slots__ = ("_private", "key")

    def __init__(self, name: str, kind: int, private: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        public = self._private.public_key().public_bytes_raw()
        self.key = NoteKey(name=name, type=kind, public=public)

    def sign(self, checkpoint: Checkpoint) -> NoteSignature:
        """Sign a checkpoint as its log. Raises SignatureError for another log's."""
        if self.key.type != ED25519 or checkpoint.origin != self.key.name:
            raise SignatureError(f"{self.key.name} signs checkpoints of its own log alone")
        return self._line(self._private.sign(checkpoint.text.encode()))

    def cosign(self, checkpoint: Checkpoint, at: int) -> NoteSignature:
        """Cosign a checkpoint that was checked, at `at` (Unix seconds)."""
        if self.key.type != COSIGNATURE:
            raise SignatureError(f"{self.key.name} is no witness's key")
        signature = self._private.sign(cosigned_message(checkpoint.text, at))
        return self._line(at.to_bytes(8, "big") + signature)

    def _line(self, value: bytes) -> NoteSignature:
        return NoteSignature(name=self.key.name, key_id=self.key.id, value=value)


# --- proofs that travel --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class TlogProof:
    """Where an entry stands, and the checkpoint that covers it. Parsed and not believed."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: Note

    def encode(self) -> bytes:
        """As it stands in a ``.tlog-proof`` file, without extra data."""
        hashes = "".join(f"{base64.b64encode(each).decode()}\n" for each in self.path)
        return f"{_TLOG_PROOF}\nindex {self.index}\n{hashes}\n".encode() + self.checkpoint.encode()


def parse_tlog_proof(data: bytes) -> TlogProof:
    """Parse a tlog-proof. Extra data, which nobody signs, is refused: nothing of ours has any.

    Raises EncodingError, SizeLimitError.
    """
    if len(data) > TLOG_PROOF_BYTES_MAX:
        raise SizeLimitError(f"a proof of {len(data)} bytes; at most {TLOG_PROOF_BYTES_MAX}")
    head, parted, note = data.partition(b"\n\n")
    lines = head.decode("utf-8", "replace").split("\n")
    if not parted or lines[0] != _TLOG_PROOF or len(lines) < 2:
        raise EncodingError(f"a proof begins with {_TLOG_PROOF} and an index")
    index = lines[1].removeprefix("index ")
    if index == lines[1] or not _DECIMAL.fullmatch(index):
        raise EncodingError(f"a proof's second line is its index: got {lines[1][:32]!r}")
    if len(lines) - 2 > PROOF_HASHES_MAX:
        raise SizeLimitError(f"a proof of {len(lines) - 2} hashes; at most {PROOF_HASHES_MAX}")
    path = tuple(parse_base64(each) for each in lines[2:])
    if any(len(each) != HASH_BYTES for each in path):
        raise EncodingError(f"a proof's hashes have {HASH_BYTES} bytes")
    return TlogProof(index=int(index), path=path, checkpoint=parse_note(note))
