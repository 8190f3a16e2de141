"""Scenes of Trust."""

from __future__ import annotations

import dataclasses

from tests.tui.rig import BALANCE, NOW, OFFLINE, SETUP, USUAL
from tests.tui.scenes.jobs import HEAD, JOB
from tui.facts import Attestation, CheckLine, Fact, Failure, ReleaseEntry, Verdict

IMAGE = "3fd1" * 24
OTHER_IMAGE = "3fd1" * 5 + "00aa" + "3fd1" * 18
ME, OWNER = "5f" * 32, "7a" * 32


def check(name: str, group: str, verdict: Verdict, found: str = "", wanted: str = "") -> CheckLine:
    return CheckLine(id=name, group=group, verdict=verdict, found=found, wanted=wanted, words="")


LINES = (
    check("gpu", "gpu", Verdict.NOT_CHECKED, "none looked at", "anything"),
    check("facility", "facility", Verdict.NOT_CHECKED, "none looked at", "anything"),
    check("report-format", "cpu", Verdict.PASSED, "version 5", "1184 bytes of a known version"),
    check("report-signature", "cpu", Verdict.PASSED, "one that verifies", "an ECDSA P-384 one"),
    check("chain", "cpu", Verdict.PASSED, "Genoa, simulated 4c6598d1", "RSASSA-PSS SHA-384"),
    check("tcb-reported", "cpu", Verdict.PASSED, "bl 10 tee 0 snp 27 uc 88", "at least the floor"),
    check("guest-debug", "cpu", Verdict.PASSED, "clear", "clear"),
    check("measurement", "image", Verdict.PASSED, IMAGE, IMAGE),
    check("host-data", "session", Verdict.PASSED, "c1" * 32, "c1" * 32),
    check("report-data", "session", Verdict.PASSED, "aa" * 64, "aa" * 64),
    check("guest-smt", "cpu", Verdict.NOT_DEMANDED, "set", "anything"),
    check("platform-tsme", "cpu", Verdict.NOT_DEMANDED, "clear", "anything"),
)
PASSED = Attestation(
    as_of=NOW,
    job=JOB,
    generation=2,
    chip="9c1e" * 32,
    platform="sev-snp",
    image=IMAGE,
    policy="19fa" * 16,
    headline="PASSED, 2 checks not made",
    simulated=False,
    lines=LINES,
    verified_at=NOW - 12_000,
    was="",
)
FIRST = dataclasses.replace(
    PASSED, generation=1, chip="02bd" * 32, verified_at=NOW - 900_000, as_of=NOW - 900_000
)
REFUSED = dataclasses.replace(
    PASSED,
    as_of=NOW + 5,
    verified_at=NOW,
    lines=tuple(
        dataclasses.replace(each, verdict=Verdict.FAILED, found=OTHER_IMAGE)
        if each.id == "measurement"
        else each
        for each in LINES
    ),
)
CLEAN = dataclasses.replace(
    PASSED, lines=tuple(each for each in LINES if each.verdict is not Verdict.NOT_CHECKED)
)


def release(number: int, generation: int, *, mine: bool) -> ReleaseEntry:
    return ReleaseEntry(
        as_of=NOW,
        number=number,
        custodian=ME if mine else OWNER,
        mine=mine,
        at=NOW - 60_000,
        artifact="8f2a" * 16,
        job=JOB,
        generation=generation,
        chip="9c1e" * 32 if mine else "",
        policy="19fa" * 16 if mine else "",
        words="" if mine else "its log reaches entry 31, as it says",
        fenced=generation == 1,
        chain_holds=True,
    )


RELEASES = (
    release(56, 1, mine=True),
    release(57, 2, mine=True),
    release(31, 2, mine=False),
)
UNREAD = Failure(
    as_of=NOW + 9, where="trust", code="policy-missing", words="its policy is not in this home",
    retry_in=None,
)  # fmt: skip
_LINK = ("trust", JOB)

SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (_LINK, (*USUAL, FIRST, PASSED, *RELEASES)),
    "empty": (("trust",), USUAL),
    "loading": (_LINK, (*USUAL, HEAD)),
    "error": (_LINK, (*USUAL, FIRST, PASSED, *RELEASES, UNREAD)),
    "offline": (_LINK, (OFFLINE, BALANCE, SETUP, FIRST, PASSED, *RELEASES)),
    "refused": (_LINK, (*USUAL, FIRST, REFUSED, *RELEASES)),
    "clean": (_LINK, (*USUAL, CLEAN, *RELEASES)),
}
