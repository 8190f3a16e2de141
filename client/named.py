"""Names that people gave to what a digest names: datasets and jobs. They stay on this machine.

A name decides nothing; whoever loses this folder loses words, and the number of rows of a dataset.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Final

from client.files import make_folder, write_durably
from client.home import Home
from trust.encoding import Digest, Document, Size, Uint53, UnixMilliseconds
from trust.errors import EncodingError

NAME_BYTES_MAX: Final = 255
NAMES_MAX: Final = 4096


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Named(Document):
    """What a person called something."""

    LABEL: ClassVar[str] = "client/named"

    about: Digest
    name: Annotated[str, Size(least=0, most=NAME_BYTES_MAX)]
    rows: Uint53 | None
    """Of a dataset; None: it is none."""
    bytes: Uint53 | None
    """Of its plaintext; None: it is no dataset."""
    at: UnixMilliseconds


def keep_name(home: Home, named: Named) -> None:
    """Keep a name, in the place of an older one."""
    folder = home.folder / "names"
    make_folder(folder)
    write_durably(folder / named.about.hex(), named.encode())


def names(home: Home) -> dict[bytes, Named]:
    """All names, by digest; a file that is none of ours is passed over: it decides nothing."""
    folder = home.folder / "names"
    if not folder.is_dir():
        return {}
    found: dict[bytes, Named] = {}
    for path in sorted(folder.iterdir())[:NAMES_MAX]:
        if path.name.startswith("."):
            continue
        try:
            named = Named.parse(path.read_bytes())
        except (EncodingError, OSError):
            continue
        found[named.about] = named
    return found


def shortened(name: str) -> str:
    """A name that fits."""
    return name.encode("utf-8", "replace")[:NAME_BYTES_MAX].decode("utf-8", "ignore")
