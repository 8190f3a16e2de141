"""The two sealers. Version 1 fixes every algorithm, and nothing is negotiated.

1. *HPKE* (RFC 9180) for small secrets to a key: base mode, ``MLKEM768_X25519`` + HKDF-SHA256 +
   AES-256-GCM. A public key is 1,216 bytes: ML-KEM-768 encapsulation key ‖ X25519. Base mode
   authenticates no sender, so whoever cares signs, inside or around.
2. *Streaming AEAD* for big things under a key: Tink's ``AES256_GCM_HKDF_1MB``, byte for byte.
   File = segments of 2²⁰ bytes, the last one shorter. Segment 0 begins with a header of 40 bytes
   (its length, 32 of salt, 7 of nonce prefix), each segment ends with a GCM tag of 16.
   Segment key = HKDF-SHA256(key, salt, info = associated data); nonce = prefix ‖ u32be index ‖
   1 for the last segment, else 0. Salt and prefix are fresh for each file, never derived:
   sealing one plaintext twice shares no byte, and no key ever meets one nonce twice.

Source: Tink, "Streaming AEAD", AES-GCM-HKDF (developers.google.com/tink/wire-format).
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trust.errors import HpkeError, SealingError, SegmentError

SEGMENT_BYTES: Final = 1 << 20
HEADER_BYTES: Final = 40
TAG_BYTES: Final = 16
SALT_BYTES: Final = 32
NONCE_PREFIX_BYTES: Final = 7
FIRST_PLAIN_BYTES: Final = SEGMENT_BYTES - HEADER_BYTES - TAG_BYTES
PLAIN_BYTES: Final = SEGMENT_BYTES - TAG_BYTES
SEGMENTS_MAX: Final = (1 << 32) - 1  # the counter in the nonce has 32 bits

HPKE_KEY_BYTES: Final = 1216
HPKE_ADDED_BYTES: Final = 1120 + TAG_BYTES  # enc ‖ tag
HPKE_PLAINTEXT_BYTES_MAX: Final = 1 << 20  # one message; anything bigger is an artifact
_MLKEM_PUBLIC_BYTES: Final = 1184
_MLKEM_SEED_BYTES: Final = 64

_SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


# --- HPKE ----------------------------------------------------------------------------------------


class HpkePrivateKey:
    """A recipient's key pair. It opens what was sealed to `public`, and nothing else."""

    __slots__ = ("_mlkem", "_private", "_x25519", "public")

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._mlkem, self._x25519 = mlkem, x25519
        self._private = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public: bytes = (
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls) -> HpkePrivateKey:
        """Draw a new pair."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, private: bytes) -> HpkePrivateKey:
        """Load the 96 private bytes of `to_bytes`."""
        return cls(
            MLKEM768PrivateKey.from_seed_bytes(private[:_MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(private[_MLKEM_SEED_BYTES:]),
        )

    def to_bytes(self) -> bytes:
        """ML-KEM seed (64) ‖ X25519 private key (32), for a keystore."""
        return self._mlkem.private_bytes_raw() + self._x25519.private_bytes_raw()

    def open(self, sealed: bytes, *, info: bytes) -> bytes:
        """Open what was sealed to this key under exactly this `info`. Raises HpkeError."""
        if len(sealed) > HPKE_PLAINTEXT_BYTES_MAX + HPKE_ADDED_BYTES:
            raise HpkeError(f"{len(sealed)} sealed bytes are above the limit of one message")
        try:
            return _SUITE.decrypt(sealed, self._private, info)
        except (InvalidTag, ValueError) as error:
            raise HpkeError("does not open under this key and info") from error


def hpke_seal(plaintext: bytes, public: bytes, *, info: bytes) -> bytes:
    """Seal to a public key of 1,216 bytes. Returns enc (1,120) ‖ ciphertext ‖ tag (16).

    `info` binds version, purpose and parties: a document with a label of its own.
    Raises HpkeError for a malformed key or a message that is too long.
    """
    if len(plaintext) > HPKE_PLAINTEXT_BYTES_MAX:
        raise HpkeError(
            f"{len(plaintext)} bytes; at most {HPKE_PLAINTEXT_BYTES_MAX} in one message"
        )
    if len(public) != HPKE_KEY_BYTES:
        raise HpkeError(f"HPKE key of {len(public)} bytes, wanted {HPKE_KEY_BYTES}")
    try:
        recipient = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:]),
        )
        return _SUITE.encrypt(plaintext, recipient, info)
    except ValueError as error:
        raise HpkeError("not an HPKE key of ours") from error


# --- streaming AEAD ------------------------------------------------------------------------------


def segment_count(plain_bytes: int) -> int:
    """How many segments a plaintext of this length makes; an empty one makes one."""
    rest = plain_bytes - FIRST_PLAIN_BYTES
    return 1 if rest <= 0 else 1 + -(-rest // PLAIN_BYTES)


def plain_span(index: int, plain_bytes: int) -> tuple[int, int]:
    """Where segment `index` of a plaintext of this length begins and ends, in plaintext bytes."""
    start = 0 if index == 0 else FIRST_PLAIN_BYTES + (index - 1) * PLAIN_BYTES
    return start, min(FIRST_PLAIN_BYTES + index * PLAIN_BYTES, plain_bytes)


class SegmentCipher:
    """One file under one key: seals and opens its segments, in any order.

    `header` is the file's first 40 bytes. `plain_bytes`, the plaintext's length, tells which
    segment is the last: a file that ends earlier or later does not open.
    """

    __slots__ = ("_aead", "_prefix", "count", "header", "plain_bytes")

    def __init__(
        self, *, key: bytes, associated_data: bytes, header: bytes, plain_bytes: int
    ) -> None:
        if len(header) != HEADER_BYTES or header[0] != HEADER_BYTES:
            raise SegmentError(f"segment 0: no header of {HEADER_BYTES} bytes")
        self.header = header
        self.plain_bytes = plain_bytes
        self.count = segment_count(plain_bytes)
        if self.count > SEGMENTS_MAX:
            raise SealingError(f"{plain_bytes} bytes are above the format's limit")
        self._prefix = header[1 + SALT_BYTES :]
        kdf = HKDF(hashes.SHA256(), 32, salt=header[1 : 1 + SALT_BYTES], info=associated_data)
        self._aead = AESGCM(kdf.derive(key))

    @classmethod
    def new(
        cls, *, key: bytes, associated_data: bytes, entropy: bytes, plain_bytes: int
    ) -> SegmentCipher:
        """Begin a file. `entropy` is 39 fresh random bytes: salt and nonce prefix."""
        if len(entropy) != SALT_BYTES + NONCE_PREFIX_BYTES:
            raise SealingError(f"{len(entropy)} bytes of entropy, wanted 39")
        header = bytes([HEADER_BYTES]) + entropy
        return cls(key=key, associated_data=associated_data, header=header, plain_bytes=plain_bytes)

    def seal(self, index: int, plaintext: bytes | memoryview) -> bytes:
        """Seal segment `index`: the file's next bytes, the header before them in segment 0."""
        start, end = plain_span(index, self.plain_bytes)
        if not 0 <= index < self.count or len(plaintext) != end - start:
            raise SealingError(f"segment {index}: {len(plaintext)} bytes, wanted {end - start}")
        sealed = self._aead.encrypt(self._nonce(index), plaintext, None)
        return self.header + sealed if index == 0 else sealed

    def open(self, index: int, ciphertext: bytes | memoryview) -> bytes:
        """Open segment `index`. Raises SegmentError if it is not this file's segment there."""
        if not 0 <= index < self.count:
            raise SegmentError(f"segment {index} of a file of {self.count}")
        if index == 0:
            if bytes(ciphertext[:HEADER_BYTES]) != self.header:
                raise SegmentError("segment 0: another header than this file's")
            ciphertext = ciphertext[HEADER_BYTES:]
        start, end = plain_span(index, self.plain_bytes)
        if len(ciphertext) != end - start + TAG_BYTES:
            raise SegmentError(
                f"segment {index}: {len(ciphertext)} bytes, wanted {end - start + TAG_BYTES}"
            )
        try:
            return self._aead.decrypt(self._nonce(index), ciphertext, None)
        except InvalidTag as error:
            raise SegmentError(f"segment {index} does not authenticate") from error

    def _nonce(self, index: int) -> bytes:
        last = index == self.count - 1
        return self._prefix + index.to_bytes(4, "big") + (b"\x01" if last else b"\x00")
