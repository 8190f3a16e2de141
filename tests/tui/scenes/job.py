"""Scenes of one job: a run whose first host died, its ends, and its waits."""

from __future__ import annotations

import dataclasses
import math

from tests.tui.rig import BALANCE, NOW, OFFLINE, SETUP, USUAL
from tests.tui.scenes.jobs import HEAD, JOB
from tui.facts import (
    STAGES,
    Checkpoint,
    Cost,
    Evaluation,
    Fact,
    Failure,
    JobEvent,
    Progress,
    ReceiptView,
    ResultFetch,
    Stage,
    StageState,
)

_TOOK = {
    "seal": 800,
    "queue": 4_000,
    "match": 200,
    "launch": 41_000,
    "evidence": 1_900,
    "release": 400,
    "train": 1_080_000,
}
_WHO = {
    "seal": "you",
    "queue": "the market",
    "match": "the market, under your order",
    "launch": "host 0202020202020202",
    "evidence": "the chip, and your broker",
    "release": "you and qwen-labs",
    "train": "the enclave",
    "receipt": "the enclave",
    "settle": "the market",
}


def stage(name: str, state: StageState, words: str = "", actor: str | None = None) -> Stage:
    took = _TOOK.get(name) if state in {StageState.DONE, StageState.RUNNING} else None
    return Stage(
        as_of=NOW,
        job=JOB,
        name=name,
        state=state,
        started_at=NOW - 1_200_000 if state is not StageState.WAITING else None,
        milliseconds=took,
        actor=_WHO[name] if actor is None else actor,
        words=words,
        ref="leas_01hzy40000000000000000000" if name == "match" else "",
    )


def stages_until(name: str, state: StageState, words: str = "", actor: str | None = None):
    """All before are done, `name` stands so, the rest waits."""
    at = STAGES.index(name)
    return (
        *(stage(each, StageState.DONE) for each in STAGES[:at]),
        stage(name, state, words, actor),
        *(stage(each, StageState.WAITING) for each in STAGES[at + 1 :]),
    )


def loss_at(step: int) -> str:
    return f"{1.4 + 1.66 * math.exp(-step / 300) + 0.03 * math.sin(step / 7):.4f}"


def progress(step: int, generation: int, words: str = "") -> Progress:
    return Progress(
        as_of=NOW - (1180 - step) * 1000,
        job=JOB,
        generation=generation,
        step=step,
        steps=2400,
        loss=loss_at(step),
        tokens_per_second=5210,
        milliseconds_left=3_720_000,
        words=words,
    )


CURVE = (
    *(progress(step, 1) for step in range(1, 613, 4)),
    *(progress(step, 2) for step in range(600, 1181, 4)),
)
EVENTS = tuple(
    JobEvent(
        as_of=NOW - (9 - number) * 1000,
        job=JOB,
        offset=number,
        at=NOW - (9 - number) * 60_000,
        kind=kind,
        words=words,
        refs=(),
    )
    for number, (kind, words) in enumerate(
        (
            ("submitted", "submitted; at most 6000000 microcredits are held for it"),
            ("matched", "matched host 0101010101010101 for rank 0"),
            ("released", "your broker released for generation 1 to chip 02bd02bd02bd02bd"),
            (
                "host-lost",
                "HOST LOST, generation 1: no word of it in time; paid up to its last receipt, once",
            ),
            ("matched", "matched host 0202020202020202 for rank 0"),
            ("released", "your broker released for generation 2 to chip 9c1e9c1e9c1e9c1e"),
            ("resumed", "resumed at step 600 on a second host: the same run, generation 2"),
            ("checkpoint", "step 1150 is safe: its checkpoint is sealed and counts in your log"),
        ),
        start=1,
    )
)
COST = Cost(
    as_of=NOW,
    job=JOB,
    spent=1_842_100,
    cap=6_000_000,
    projected=3_720_000,
    cap_lasts=9_660_000,
)
SAFE = Checkpoint(as_of=NOW, job=JOB, step=1150, artifact="c4" * 32, sealed_at=NOW - 38_000)
RUNNING = (HEAD, *stages_until("train", StageState.RUNNING), *CURVE, COST, SAFE, *EVENTS)
WAITING = (
    dataclasses.replace(
        HEAD,
        state="starting",
        generation=1,
        hosts=1,
        step=None,
        loss="",
        waiting_for="qwen-labs' broker, 4 m; it was last seen 09:40",
    ),
    *stages_until("release", StageState.RUNNING, "qwen-labs' broker has not answered", "qwen-labs"),
    *EVENTS[:3],
)
RECEIPT = ReceiptView(
    as_of=NOW,
    id="4e" * 32,
    job=JOB,
    lease="leas_01hzy40000000000000000000",
    generation=2,
    number=1,
    milliseconds=1_102_000,
    steps=2400,
    tokens=4_915_200,
    signer="a1" * 32,
    holds=True,
    words="",
    host_amount=3_146_700,
    owner_amount=370_200,
    fee_amount=185_100,
    state="pending",
    matures_at=NOW + 86_400_000,
)


def ended(state: str) -> object:
    return dataclasses.replace(HEAD, state=state, as_of=NOW + 1)


SUCCEEDED = (
    ended("succeeded"),
    *(stage(each, StageState.DONE) for each in STAGES),
    *CURVE,
    dataclasses.replace(COST, spent=3_702_000, projected=None, cap_lasts=None),
    SAFE,
    RECEIPT,
    Evaluation(
        as_of=NOW, job=JOB, base="2.31", tuned="1.61", exact_base="0.04", exact_tuned="0.38"
    ),
    ResultFetch(
        as_of=NOW, job=JOB, bytes_done=8_400_000, bytes_total=8_400_000, path="adapter-b0b0"
    ),
    *EVENTS,
)
FAILED = (
    dataclasses.replace(ended("failed"), captured=0, step=0, loss="", hosts=1, generation=1),
    *stages_until(
        "evidence", StageState.FAILED, "evidence-tcb-reported: found 22; wanted at least 27"
    ),
    dataclasses.replace(COST, spent=0, projected=None, cap_lasts=None),
    *EVENTS[:3],
)
EXHAUSTED = (
    ended("exhausted"),
    *stages_until("train", StageState.SKIPPED),
    *CURVE,
    dataclasses.replace(COST, spent=6_000_000, projected=None, cap_lasts=None),
    SAFE,
    *EVENTS,
)
CANCELLED = (ended("cancelled"), *stages_until("train", StageState.SKIPPED), *CURVE, COST, SAFE)
UNREAD = Failure(
    as_of=NOW + 1, where="job", code="timeout", words="no answer in 10 s", retry_in=4_000
)
_LINK = ("job", JOB)

SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (_LINK, (*USUAL, *RUNNING)),
    "empty": (_LINK, (*USUAL, *WAITING)),
    "loading": (_LINK, (*USUAL, HEAD)),
    "error": (_LINK, (*USUAL, *RUNNING, UNREAD)),
    "offline": (_LINK, (OFFLINE, BALANCE, SETUP, *RUNNING)),
    "succeeded": (_LINK, (*USUAL, *SUCCEEDED)),
    "failed": (_LINK, (*USUAL, *FAILED)),
    "exhausted": (_LINK, (*USUAL, *EXHAUSTED)),
    "cancelled": (_LINK, (*USUAL, *CANCELLED)),
}
