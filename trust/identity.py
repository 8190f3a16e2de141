"""Ed25519 identities (RFC 8032). One key for each party; its raw public key is the party's name.

A signature is over a document's bytes, so it begins with that document's label: there is no way to
sign bytes without one. A *signed document* on the wire is ``signature 64 ‖ signer 32 ‖ document``;
its digest is the document's, so who signs twice makes one id.
"""

from __future__ import annotations

import dataclasses
from typing import Final, Generic, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trust.encoding import DOCUMENT_BYTES_MAX, Document
from trust.errors import EncodingError, SignatureError, SizeLimitError

IDENTITY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_HEAD_BYTES: Final = SIGNATURE_BYTES + IDENTITY_BYTES
SIGNED_BYTES_MAX: Final = _HEAD_BYTES + DOCUMENT_BYTES_MAX

D = TypeVar("D", bound=Document)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Signed(Generic[D]):
    """A document and a signature over its bytes that has been verified.

    Only `PartyKey.sign` and `verify_signed` make one: to hold it is to know that it holds.
    """

    document: D
    signer: bytes
    """Identity of the signer: 32 bytes."""
    signature: bytes
    """64 bytes."""

    @property
    def digest(self) -> bytes:
        """The document's digest; it does not cover the signature."""
        return self.document.digest

    def encode(self) -> bytes:
        """``signature 64 ‖ signer 32 ‖ document``."""
        return self.signature + self.signer + self.document.encode()


class PartyKey:
    """A party's private signing key. It signs documents, and nothing else."""

    __slots__ = ("_private", "identity")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.identity: bytes = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> PartyKey:
        """Draw a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, private: bytes) -> PartyKey:
        """Load the 32 private bytes of `to_bytes`."""
        return cls(Ed25519PrivateKey.from_private_bytes(private))

    def to_bytes(self) -> bytes:
        """The 32 private bytes, for a keystore."""
        return self._private.private_bytes_raw()

    def sign(self, document: D) -> Signed[D]:
        """Sign a document's bytes, label included."""
        signature = self._private.sign(document.encode())
        return Signed(document=document, signer=self.identity, signature=signature)


def verify_signed(kind: type[D], data: bytes, *, signer: bytes | None) -> Signed[D]:
    """Parse a signed document and verify it.

    (1) Size before anything else. (2) Parse the document completely. (3) The signer is the one
    wanted; `None` where anybody may sign: the caller then decides by `Signed.signer`.
    (4) The signature verifies over exactly these bytes.

    Raises SizeLimitError, DocumentError, or SignatureError.
    """
    if len(data) > SIGNED_BYTES_MAX:  # (1)
        raise SizeLimitError(f"signed {kind.LABEL}: {len(data)} bytes; at most {SIGNED_BYTES_MAX}")
    if len(data) < _HEAD_BYTES:
        raise EncodingError(f"signed {kind.LABEL}: {len(data)} bytes, at least {_HEAD_BYTES}")
    signature, found = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:_HEAD_BYTES]
    document = kind.parse(data[_HEAD_BYTES:])  # (2)
    if signer is not None and found != signer:  # (3)
        raise SignatureError(f"{kind.LABEL} is signed by {found.hex()}, wanted {signer.hex()}")
    verify(found, signature, data[_HEAD_BYTES:])  # (4)
    return Signed(document=document, signer=found, signature=signature)


def verify(identity: bytes, signature: bytes, document: bytes) -> None:
    """Verify a signature over a document's bytes. Raises SignatureError."""
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, document)
    except (InvalidSignature, ValueError) as error:
        label = document.partition(b"\x00")[0][:64].decode("ascii", "replace")
        raise SignatureError(f"{label}: no good signature by {identity.hex()}") from error
