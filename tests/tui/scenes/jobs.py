"""Scenes of the list of jobs."""

from __future__ import annotations

import dataclasses

from tests.tui.rig import BALANCE, NOW, OFFLINE, SETUP, USUAL
from tui.facts import Fact, Failure, JobHead

JOB = "b0" * 32
SECOND = "b1" * 32
SERVED = "5e" * 32
DEAD = "dd" * 32
WAITS = "a7" * 32

HEAD = JobHead(
    as_of=NOW,
    id=JOB,
    name="support-tone-v3",
    kind="train",
    state="running",
    waiting_for="",
    generation=2,
    offer="offr_01hzy40000000000000000000",
    host="02" * 32,
    hosts=2,
    simulated=True,
    step=1180,
    steps=2400,
    loss="1.500",
    captured=1_842_100,
    reserved=6_000_000,
    created_at=NOW - 3_600_000,
    gone=False,
)
HEADS = (
    HEAD,
    dataclasses.replace(
        HEAD,
        id=SECOND,
        name="support-tone-v2",
        state="succeeded",
        generation=1,
        hosts=1,
        step=2400,
        loss="1.422",
        captured=3_702_000,
        created_at=NOW - 86_400_000,
    ),
    dataclasses.replace(
        HEAD,
        id=SERVED,
        name="support-tone-v2 served",
        kind="serve",
        generation=1,
        hosts=1,
        step=None,
        steps=None,
        loss="",
        captured=12_000,
        created_at=NOW - 1_800_000,
    ),
    dataclasses.replace(
        HEAD,
        id=DEAD,
        name="first try",
        state="failed",
        generation=1,
        hosts=1,
        step=0,
        loss="",
        captured=0,
        created_at=NOW - 90_000_000,
    ),
    dataclasses.replace(
        HEAD,
        id=WAITS,
        name="日本語の返信",
        state="starting",
        waiting_for="qwen-labs' broker, 4 m; it was last seen 09:40",
        generation=1,
        hosts=1,
        step=None,
        steps=2400,
        loss="",
        captured=0,
        created_at=NOW - 240_000,
    ),
)
REFUSED = Failure(
    as_of=NOW + 1,
    where="jobs",
    code="not-signed",
    words="an answer of the market that it did not sign",
    retry_in=4_000,
)

SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (("jobs",), (*USUAL, *HEADS)),
    "empty": (("jobs",), USUAL),
    "loading": (("jobs",), (SETUP, BALANCE)),
    "error": (("jobs",), (*USUAL, *HEADS, REFUSED)),
    "offline": (("jobs",), (OFFLINE, BALANCE, SETUP, *HEADS)),
    "unknown": (("job", "bb"), (*USUAL, *HEADS)),
}
