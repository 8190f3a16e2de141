"""Keys in memory: who released each, what it is for, and when it is forgotten.

Rules:
- A share enters with the custodian entry that released it and the one thing that it opens. A second
  share for the same thing is refused unless it is the same: no grant replaces another in silence.
- Each scope has a moment after which the run needs it no more, and there it is erased: input shares
  when the inputs are in memory, the share of a checkpoint when it is loaded, the rest at the end.
- Shares are kept in byte arrays and overwritten before they are dropped. Python may have made
  copies on the way (the KDF takes bytes), so this shortens a secret's life and promises no more.
- Nothing here prints, logs or compares a secret in variable time.
"""

from __future__ import annotations

import dataclasses
import enum
import hmac
from typing import Final

from trust.artifacts import Core, Custodian
from trust.custody import artifact_key, derived_share
from trust.encoding import KEY_BYTES
from trust.errors import CustodyError
from trust.messages import ScopeKind

SHARES_MAX: Final = 256  # 16 inputs, 8 entries, and a few dozen reopened outputs


class Moment(enum.IntEnum):
    """When a share is forgotten, in the order of a run."""

    FILLED = 1
    """All inputs are in memory."""
    BEGUN = 2
    """The checkpoint is loaded."""
    STOPPED = 3
    """The run has ended, however it did."""


_FORGOTTEN_AT: Final = {
    ScopeKind.INPUT: Moment.FILLED,
    ScopeKind.DERIVED: Moment.BEGUN,
    ScopeKind.OUTPUT: Moment.STOPPED,
    ScopeKind.GROUP: Moment.STOPPED,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Opens:
    """What one share opens, and who released it."""

    scope: ScopeKind
    entry: Custodian
    """The custodian entry that consented."""
    core: bytes | None
    """Digest of the core; None for output and group shares."""


class Vault:
    """The shares that one run holds."""

    __slots__ = ("_erased", "_shares")

    def __init__(self) -> None:
        self._shares: dict[Opens, bytearray] = {}
        self._erased = False

    def __repr__(self) -> str:
        return f"Vault({len(self._shares)} shares)"

    def __len__(self) -> int:
        return len(self._shares)

    def put(self, opens: Opens, share: bytes) -> None:
        """Keep a share. Raises CustodyError once erased, when full, or against another share."""
        if self._erased:
            raise CustodyError("the vault is erased: nothing is kept any more")
        if len(share) != KEY_BYTES:
            raise CustodyError(f"a share of {len(share)} bytes, wanted {KEY_BYTES}")
        held = self._shares.get(opens)
        if held is not None:
            if not hmac.compare_digest(held, share):
                raise CustodyError(f"another {opens.scope.value} share for the same thing")
            return
        if len(self._shares) >= SHARES_MAX:
            raise CustodyError(f"more than {SHARES_MAX} shares")
        self._shares[opens] = bytearray(share)

    def missing(self, scope: ScopeKind, core: Core) -> tuple[Custodian, ...]:
        """Entries of `core` whose `scope` share of it is not here."""
        return tuple(
            entry
            for entry in core.custodians
            if self._opens(scope, entry, core) not in self._shares
        )

    def key(self, scope: ScopeKind, core: Core) -> bytes:
        """Key of `core` from the shares that its custodians gave for it: INPUT or DERIVED.

        Raises CustodyError that names the first custodian whose share is missing.
        """
        if absent := self.missing(scope, core):
            raise CustodyError(
                f"no {scope.value} share of {core.digest.hex()} by {absent[0].identity.hex()}"
            )
        shares = [bytes(self._shares[self._opens(scope, e, core)]) for e in core.custodians]
        return artifact_key(shares, core)

    def output_key(self, core: Core) -> bytes:
        """Key of something that this run makes, from the output shares. Raises CustodyError."""
        shares = []
        for entry in core.custodians:
            held = self._shares.get(Opens(scope=ScopeKind.OUTPUT, entry=entry, core=None))
            if held is None:
                raise CustodyError(f"no output share by {entry.identity.hex()}")
            shares.append(derived_share(bytes(held), core))
        return artifact_key(shares, core)

    def forget(self, moment: Moment) -> None:
        """Erase what the run needs no more after `moment`."""
        for opens in [o for o in self._shares if _FORGOTTEN_AT[o.scope] <= moment]:
            _overwrite(self._shares.pop(opens))

    def erase(self) -> None:
        """Erase everything, for good. May be called again."""
        self.forget(Moment.STOPPED)
        self._erased = True

    @staticmethod
    def _opens(scope: ScopeKind, entry: Custodian, core: Core) -> Opens:
        return Opens(scope=scope, entry=entry, core=core.digest)


def _overwrite(secret: bytearray) -> None:
    secret[:] = bytes(len(secret))
