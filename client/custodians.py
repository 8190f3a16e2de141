"""The custodians around a party: its own keys and broker, and what others let be seen of theirs.

- Of another custodian one sees its signed word: how far its log goes, and the terms and policies
  that it published. What it appraised, and on what ground, it does not show.
- Whether a broker runs is told by the lock on its log, where the system says who holds locks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from client.home import Home
from client.keystore import Keystore
from trust.artifacts import Custodian
from trust.identity import Signed
from trust.messages import LogHead

LOCKS: Final = Path("/proc/locks")
LOCKS_BYTES_MAX: Final = 1 << 20


class HeadsPort(Protocol):
    """The market, as a place where heads are published."""

    async def get_head(self, custodian: bytes) -> Signed[LogHead] | None:
        """The newest head that the market knows, verified; None: it knows none."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OtherCustodian:
    """What another custodian says of its log."""

    identity: bytes
    entries: int | None
    """None: the market shows no head of it."""
    said_at: int | None
    """By its own clock; Unix milliseconds."""
    words: str


async def other_custodians(
    port: HeadsPort, identities: Sequence[bytes]
) -> tuple[OtherCustodian, ...]:
    """The signed word of each of these."""
    found = []
    for identity in identities:
        head = await port.get_head(identity)
        if head is None:
            words = "the market shows no log head of it; what it released is not seen here"
            other = OtherCustodian(identity=identity, entries=None, said_at=None, words=words)
        else:
            said = head.document
            words = (
                f"its signed word: {said.entries} entries in its log;"
                " on what evidence it released is not seen here"
            )
            other = OtherCustodian(
                identity=identity, entries=said.entries, said_at=said.at, words=words
            )
        found.append(other)
    return tuple(found)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KeyState:
    """One's own keystore, open."""

    identity: bytes
    epoch: int
    """The highest of any lineage; 0: there is none."""
    entries: tuple[Custodian, ...]
    by_passphrase: bool
    """Opened by a passphrase; else by a key file that lies somewhere."""


def key_state(home: Home, keys: Keystore) -> KeyState:
    """What the keystore holds. Whether a backup exists is nowhere recorded, and not guessed."""
    entries = keys.entries()
    return KeyState(
        identity=keys.party.identity,
        epoch=max((each.epoch for each in entries), default=0),
        entries=entries,
        by_passphrase=not home.key_file.path.exists(),
    )


def broker_runs(home: Home, locks: Path = LOCKS) -> bool | None:
    """Whether some process holds this home's release log; None: the system does not tell.

    Nothing is locked to find out: a broker that starts just now must not find its log taken.
    """
    try:
        status = home.log_path.stat()
    except FileNotFoundError:
        return False
    try:
        with locks.open("rb") as file:
            text = file.read(LOCKS_BYTES_MAX).decode("ascii", "replace")
    except OSError:
        return None
    for entry in text.splitlines():
        # A line names kind, mode, process and then device:device:inode of the file (proc_locks 5).
        fields = entry.split()
        if "FLOCK" in fields and "WRITE" in fields:
            place = next((each for each in fields if each.count(":") == 2), "")
            if place.rpartition(":")[2] == str(status.st_ino):
                return True
    return False
