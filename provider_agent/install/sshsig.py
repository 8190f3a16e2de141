"""Signatures that ``ssh-keygen -Y verify`` accepts (OpenSSH, PROTOCOL.sshsig), by an Ed25519 key.

They let people without our code check a bundle. The signed bytes begin with ``SSHSIG`` and our
namespace, so such a signature is never one over a document of ours, which begins with its label.
"""

from __future__ import annotations

import base64
import hashlib
import textwrap
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trust.identity import PartyKey

NAMESPACE: Final = "blindhost-release"
PRINCIPAL: Final = "release@blindhost"
_MAGIC: Final = b"SSHSIG"
_HASH: Final = b"sha512"
_KIND: Final = b"ssh-ed25519"


def public_line(identity: bytes) -> str:
    """The public key as OpenSSH writes it: ``ssh-ed25519 AAAA…``."""
    return f"{_KIND.decode()} {base64.b64encode(_public(identity)).decode()}"


def allowed_signers(identity: bytes) -> str:
    """The line of an allowed_signers file (ssh-keygen(1)) for a release key."""
    return f'{PRINCIPAL} namespaces="{NAMESPACE}" {public_line(identity)}\n'


def sign(key: PartyKey, content: bytes) -> str:
    """An armored signature over `content` in our namespace."""
    namespace = _string(NAMESPACE.encode())
    hashed = _string(_HASH) + _string(hashlib.sha512(content).digest())
    private = Ed25519PrivateKey.from_private_bytes(key.to_bytes())
    signature = private.sign(_MAGIC + namespace + _string(b"") + hashed)
    blob = (
        _MAGIC
        + (1).to_bytes(4, "big")
        + _string(_public(key.identity))
        + namespace
        + _string(b"")
        + _string(_HASH)
        + _string(_string(_KIND) + _string(signature))
    )
    body = "\n".join(textwrap.wrap(base64.b64encode(blob).decode(), 70))
    return f"-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----\n"


def _public(identity: bytes) -> bytes:
    return _string(_KIND) + _string(identity)


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value
