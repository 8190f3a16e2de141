"""Scenes of Keys and consents."""

from __future__ import annotations

import dataclasses

from tests.tui.rig import NOW, OFFLINE, SETUP, USUAL
from tui.facts import BrokerState, Consent, Fact, KeyState, ReleaseEntry

BUYER, OWNER = "5f" * 32, "6d" * 32
JOB = "b0" * 32


def release(number: int, *, mine: bool = True, holds: bool = True, chip: str = "") -> ReleaseEntry:
    """One entry of a log."""
    return ReleaseEntry(
        as_of=NOW,
        number=number,
        custodian=BUYER if mine else OWNER,
        mine=mine,
        at=NOW - (60 - number) * 60_000,
        artifact="8f" * 32,
        job=JOB if number % 2 else "b1" * 32,
        generation=1 + number % 2,
        chip=chip or ("9c" * 32 if number % 2 else "02" * 32),
        policy="ab" * 32,
        words="passed, 3 not checked",
        fenced=number % 5 == 0,
        chain_holds=holds,
    )


KEYS = KeyState(
    as_of=NOW,
    epoch=1,
    locked=False,
    backed_up=False,
    lineages=(f"{'1a' * 32} epoch 1, real", f"{'1b' * 32} epoch 1, simulated"),
)
BROKERS = (
    BrokerState(
        as_of=NOW, custodian=BUYER, mine=True, words="running", last_seen=NOW, waiting_jobs=()
    ),
    BrokerState(
        as_of=NOW,
        custodian=OWNER,
        mine=False,
        words="silent",
        last_seen=NOW - 240_000,
        waiting_jobs=(JOB,),
    ),
)
CONSENT = Consent(
    as_of=NOW,
    id="c0" * 32,
    what="adapter of jobb_01hzy3",
    to=BUYER,
    answers=((OWNER, "yes"), (BUYER, "not answered")),
    sentences=(
        "The adapter leaves the enclave in plain, and goes to buyer 5f5f5f5f5f5f.",
        "It opens for good: what was handed over can't be taken back.",
    ),
    mine_to_answer=True,
)
ANSWERED = dataclasses.replace(
    CONSENT, id="c1" * 32, what="adapter of an old job", mine_to_answer=False
)
RELEASES = tuple(release(number) for number in range(1, 58))
THEIRS = release(12, mine=False, chip="9c" * 32)
ALL = (*USUAL, KEYS, *BROKERS, *RELEASES, THEIRS, CONSENT, ANSWERED)
LINK = ("keys",)
SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (LINK, ALL),
    "empty": (LINK, (*USUAL, KEYS, BROKERS[0])),
    "loading": (LINK, USUAL),
    "error": (LINK, (*ALL, release(31, holds=False))),
    "offline": (LINK, (*ALL, OFFLINE)),
}
LOCKED = dataclasses.replace(SETUP, locked=True, identity="")
