"""An endorser's side: say in a signed file where a machine stands, and read such files.

- Whoever endorses was there. This signs what it is told, and only under the endorser's own key.
- A file is passed to the host, which shows it with its evidence; nothing here asks a network.
"""

from __future__ import annotations

from collections.abc import Sequence

from client.home import Home
from client.keystore import Keystore
from trust.errors import EncodingError, RefusedError
from trust.identity import Signed, verify_signed
from trust.verifier.facility import CHIP_ID_BYTES, PPID_BYTES, FacilityEndorsement

DAY_MILLISECONDS = 86_400_000


def endorse(
    home: Home,
    keys: Keystore,
    *,
    facility: str,
    machine: bytes,
    gpus: Sequence[bytes],
    days: int,
    now: int,
) -> Signed[FacilityEndorsement]:
    """Endorse one machine for `days` of 86,400 s from `now` (Unix milliseconds).

    `machine` is a CHIP_ID (64 bytes) or a PPID (16 bytes); `gpus` are serials of device
    certificates, in any order.

    Raises RefusedError (the market endorses nothing), EncodingError, EvidenceFormatError.
    """
    if keys.party.identity == home.config.market:
        raise RefusedError("endorse-market", "the market's endorsement counts for nothing")
    if len(machine) not in {CHIP_ID_BYTES, PPID_BYTES}:
        raise EncodingError(f"a machine's id of {len(machine)} bytes, wanted 64 or 16")
    return keys.party.sign(
        FacilityEndorsement(
            version=1,
            endorser=keys.party.identity,
            facility=facility,
            chip_id=machine if len(machine) == CHIP_ID_BYTES else None,
            ppid=machine if len(machine) == PPID_BYTES else None,
            gpus=tuple(sorted(set(gpus))),
            issued_at=now,
            expires_at=now + days * DAY_MILLISECONDS,
        )
    )


def read_endorsement(data: bytes) -> Signed[FacilityEndorsement]:
    """Read a signed endorsement; who signed it is for the reader to judge.

    Raises EncodingError, EvidenceFormatError, SignatureError.
    """
    return verify_signed(FacilityEndorsement, data, signer=None)
