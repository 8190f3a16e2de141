"""Fetch the newest release into a folder. Nobody believes what was fetched until it is verified.

Rules:
- https alone, no redirect, and no more bytes than a release has.
- ``URL/latest`` holds a version; ``URL/blindhost-agent-X.Y.Z.tar`` is the bundle.
- A file is whole or not there.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final, cast

from provider_agent.install.archive import ARCHIVE_BYTES_MAX
from provider_agent.install.errors import InstallError
from provider_agent.install.release import parse_version

LATEST: Final = "latest"
FETCHED: Final = "release.tar"
FETCHED_VERSION: Final = "version"
_LATEST_BYTES_MAX: Final = 64
_CHUNK_BYTES: Final = 1 << 20
_SECONDS_MAX: Final = 60  # for each read

Opener = Callable[[str], AbstractContextManager[BinaryIO]]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A redirect could lead to plaintext: it is an error instead."""


def open_https(url: str) -> AbstractContextManager[BinaryIO]:
    """Open a URL. Raises InstallError where it is no https or does not answer."""
    if not url.startswith("https://"):
        raise InstallError("a release is fetched by https, and by nothing else")
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        return cast(AbstractContextManager[BinaryIO], opener.open(url, timeout=_SECONDS_MAX))
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise InstallError(f"{url}: {error}") from error


def bundle_name(version: str) -> str:
    """The file name of a bundle."""
    return f"blindhost-agent-{version}.tar"


def fetch(
    url: str, folder: Path, *, running: str | None, opener: Opener = open_https
) -> str | None:
    """Fetch a release newer than `running` and not here yet; its version, None: nothing new.

    Raises InstallError.
    """
    base = url.rstrip("/")
    with opener(f"{base}/{LATEST}") as answer:
        text = answer.read(_LATEST_BYTES_MAX + 1)
    if len(text) > _LATEST_BYTES_MAX:
        raise InstallError(f"{LATEST}: over {_LATEST_BYTES_MAX} bytes")
    version = text.decode("ascii", "replace").strip()
    newest = parse_version(version)
    if running is not None and newest <= parse_version(running):
        return None
    note = folder / FETCHED_VERSION
    if note.exists() and note.read_text(encoding="ascii") == version:
        return None
    partial, received = folder / f"{FETCHED}.partial", 0
    with opener(f"{base}/{bundle_name(version)}") as answer, partial.open("wb") as out:
        while chunk := answer.read(_CHUNK_BYTES):
            received += len(chunk)
            if received > ARCHIVE_BYTES_MAX:
                raise InstallError(f"{bundle_name(version)}: over {ARCHIVE_BYTES_MAX} bytes")
            out.write(chunk)
    note.unlink(missing_ok=True)
    partial.replace(folder / FETCHED)
    note.write_text(version, encoding="ascii")
    return version
