"""Scenes of Money."""

from __future__ import annotations

from tests.tui.rig import BALANCE, NOW, OFFLINE, ONLINE, SETUP, USUAL
from tui.facts import Entry, Fact, Failure, ReceiptView

JOB = "b0" * 32
_SAID = (
    ("paid in", "paid in", 47_200_000, 47_200_000, ""),
    ("hold", "hold for the job", -6_000_000, 41_200_000, JOB),
    ("capture", "receipt 3, from the hold", -1_102_100, 41_200_000, JOB),
    ("release", "rest of the hold", 4_897_900, 46_097_900, JOB),
)
ENTRIES = tuple(
    Entry(
        as_of=NOW,
        account="buyer",
        number=number,
        at=NOW - (5 - number) * 600_000,
        kind=kind,
        words=words,
        amount=amount,
        balance_after=balance,
        transfer=f"xfer_01hzy{number:021d}",
        job=job,
    )
    for number, (kind, words, amount, balance, job) in enumerate(_SAID, start=1)
)


def receipt(number: int, *, holds: bool = True) -> ReceiptView:
    return ReceiptView(
        as_of=NOW,
        id=f"{number:02x}" * 32,
        job=JOB,
        lease=f"leas_{number:026d}",
        generation=1 + number // 3,
        number=number,
        milliseconds=1_102_000,
        steps=612,
        tokens=1_254_400,
        signer="a1" * 32,
        holds=holds,
        words="" if holds else "no enclave of this log signed it",
        host_amount=936_800,
        owner_amount=110_200,
        fee_amount=55_100,
        state="pending",
        matures_at=NOW + 86_400_000,
    )


SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (("money",), (*USUAL, *ENTRIES, receipt(1), receipt(2), receipt(3, holds=False))),
    "empty": (("money",), USUAL),
    "loading": (("money",), (ONLINE, SETUP)),
    "error": (
        ("money",),
        (
            *USUAL,
            *ENTRIES,
            Failure(
                as_of=NOW,
                where="look:money:",
                code="not-signed",
                words="an answer of the market that it did not sign",
                retry_in=4_000,
            ),
        ),
    ),
    "offline": (("money",), (OFFLINE, BALANCE, SETUP, *ENTRIES)),
}
