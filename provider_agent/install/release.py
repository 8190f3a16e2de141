"""What a release key signs: the manifest of a bundle. Shape, limits and signature; no I/O.

The signed manifest is a signed document as trust/identity.py writes it, ``signature 64 ‖ signer 32
‖ label ‖ 0x00 ‖ canonical JSON``, read here with the standard library alone (see the package).
`bundle.ReleaseDocument` is the same document in trust's terms; a test holds the two together.

Rules:
- A `VerifiedRelease` is made by `verify_release` alone.
- Every path is of a closed form, so a bundle can't name a place that is not ours.
- A version is three integers; of two releases the greater is the newer.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Final

from provider_agent.install import ed25519
from provider_agent.install.errors import BundleError

LABEL: Final = b"blindhost/v1/release/bundle\x00"
PYTHON: Final = (3, 11)

MANIFEST_BYTES_MAX: Final = 1 << 18  # 200 files at some 200 bytes, and room
FILES_MAX: Final = 200  # the agent's closure has about 25 wheels
FILE_BYTES_MAX: Final = 512 << 20
BUNDLE_BYTES_MAX: Final = 1 << 30
VERSION_PART_MAX: Final = 999_999

INSTALLER: Final = "installer.pyz"
REQUIREMENTS: Final = "requirements.txt"
WHEELS: Final = "wheels/"
HOST_FILES: Final = "files/"

_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")
_WHEEL = re.compile(r"wheels/[A-Za-z0-9][A-Za-z0-9._+-]{0,120}\.whl")
_HOST_FILE = re.compile(
    r"files/etc/(systemd/system/blindhost-[a-z-]{1,40}\.(service|socket|timer)"
    r"|udev/rules\.d/70-blindhost\.rules|modprobe\.d/blindhost\.conf|sysusers\.d/blindhost\.conf)"
)
_FIELDS: Final = {"created", "files", "version"}
_FILE_FIELDS: Final = {"path", "sha256", "size"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseFile:
    """One file of a bundle."""

    path: str
    """Inside the bundle; of a closed form."""
    size: int
    """Bytes."""
    sha256: bytes
    """32 bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedRelease:
    """A manifest whose signature by the release key holds."""

    version: str
    created: int
    """Unix milliseconds; for people, nothing depends on it."""
    files: tuple[ReleaseFile, ...]
    digest: bytes
    """SHA-256 of the signed document's bytes: the name of this release."""


def parse_version(text: str) -> tuple[int, int, int]:
    """``X.Y.Z`` as integers, for comparison. Raises BundleError."""
    found = _VERSION.fullmatch(text)
    if not found:
        raise BundleError(f"version is {text[:40]!r}, wanted X.Y.Z")
    major, minor, patch = (int(part) for part in found.groups())
    return major, minor, patch


def parse_release_key(text: str) -> bytes:
    """A release key's public half: 64 digits of lower-case hexadecimal. Raises BundleError."""
    if not re.fullmatch(r"[0-9a-f]{64}", text.strip()):
        raise BundleError("a release key is 64 digits of lower-case hexadecimal")
    return bytes.fromhex(text.strip())


def verify_release(signed: bytes, *, release_key: bytes, digest: bytes) -> VerifiedRelease:
    """Verify and parse a signed manifest; `digest` is the SHA-256 of `signed`.

    (1) Size. (2) The signer is the release key, and no other. (3) The signature holds over exactly
    these bytes. (4) They begin with the label of releases, so no other document of that key passes.
    (5) The JSON is canonical, and has exactly the fields. (6) Version, paths and sizes are in
    bounds, each path once, and installer and requirements are there.

    Raises BundleError.
    """
    head = ed25519.SIGNATURE_BYTES + ed25519.KEY_BYTES
    if not head < len(signed) <= head + MANIFEST_BYTES_MAX:  # (1)
        raise BundleError(f"manifest of {len(signed)} bytes; at most {head + MANIFEST_BYTES_MAX}")
    signature, signer = signed[: ed25519.SIGNATURE_BYTES], signed[ed25519.SIGNATURE_BYTES : head]
    document = signed[head:]
    if signer != release_key:  # (2)
        raise BundleError(f"signed by {signer.hex()}, wanted the release key {release_key.hex()}")
    if not ed25519.verify(release_key, signature, document):  # (3)
        raise BundleError("the release key's signature does not hold")
    if not document.startswith(LABEL):  # (4)
        raise BundleError(f"a document of another kind: {document[:40]!r}")
    value = _parse_json(document[len(LABEL) :])  # (5)
    files = value["files"]
    if not isinstance(files, list) or not 0 < len(files) <= FILES_MAX:
        raise BundleError(f"a list of 1 to {FILES_MAX} files is wanted")
    created = value["created"]
    if not isinstance(created, int) or not _is_size(created, 1 << 53):
        raise BundleError("created is not a time")
    release = VerifiedRelease(  # (6)
        version=str(value["version"]),
        created=created,
        files=tuple(_parse_file(each) for each in files),
        digest=digest,
    )
    parse_version(release.version)
    paths = [each.path for each in release.files]
    if len(set(paths)) != len(paths):
        raise BundleError("a path twice")
    for wanted in (INSTALLER, REQUIREMENTS):
        if wanted not in paths:
            raise BundleError(f"no {wanted}")
    if sum(each.size for each in release.files) > BUNDLE_BYTES_MAX:
        raise BundleError(f"over {BUNDLE_BYTES_MAX} bytes")
    return release


def _parse_json(text: bytes) -> dict[str, object]:
    try:
        value = json.loads(text)
        # Keys and values are ASCII, numbers are integers: then this is RFC 8785.
        again = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"manifest: not JSON: {type(error).__name__}") from error
    if again.encode() != text:
        raise BundleError("manifest: JSON is not canonical")
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise BundleError(f"manifest: the fields {', '.join(sorted(_FIELDS))} are wanted")
    return value


def _parse_file(value: object) -> ReleaseFile:
    if not isinstance(value, dict) or set(value) != _FILE_FIELDS:
        raise BundleError(f"file: the fields {', '.join(sorted(_FILE_FIELDS))} are wanted")
    path, size, sha256 = value["path"], value["size"], value["sha256"]
    known = (INSTALLER, REQUIREMENTS)
    if not isinstance(path, str) or not (
        path in known or _WHEEL.fullmatch(path) or _HOST_FILE.fullmatch(path)
    ):
        raise BundleError(f"a path that no release has: {str(path)[:80]!r}")
    if not _is_size(size, FILE_BYTES_MAX):
        raise BundleError(f"{path}: size {size!r}; at most {FILE_BYTES_MAX}")
    return ReleaseFile(path=path, size=size, sha256=_parse_digest(path, sha256))


def _is_size(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _parse_digest(path: str, text: object) -> bytes:
    try:
        encoded = str(text).encode("ascii")
        found = base64.b64decode(encoded + b"=", altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise BundleError(f"{path}: sha256 is not base64url") from error
    if len(found) != 32 or base64.urlsafe_b64encode(found).rstrip(b"=") != encoded:
        raise BundleError(f"{path}: sha256 is not 32 bytes in canonical base64url")
    return found
