"""Scenes of New job."""

from __future__ import annotations

from tests.tui.rig import BALANCE, NOW, OFFLINE, ONLINE
from tests.tui.scenes.start import DATA, HOME, MODEL, NO_KEYS
from tui.drafts import KeptDraft
from tui.facts import (
    DatasetCheck,
    Fact,
    JobDraft,
    Quote,
    RowFault,
    SealProgress,
    SubmitResult,
    Submitted,
)
from tui.state.job_fields import DEFAULTS, draft_of

PATH = "/home/ana/support.jsonl"
FIELDS = {**DEFAULTS, "name": "support-tone-v3", "spend_max": "6", "price_max": "2.00"}
KEPT = KeptDraft(model=MODEL.id, data=DATA.id, fields=FIELDS)
DRAFT = draft_of(FIELDS, model=MODEL.id, data=DATA.id, heldout="")
assert isinstance(DRAFT, JobDraft)


def checked(*, faults: int = 0, done: bool = True) -> DatasetCheck:
    """A check of the file."""
    return DatasetCheck(
        as_of=NOW,
        path=PATH,
        done=done,
        rows=12_400,
        bytes=8_100_000 if done else 5_100_000,
        bytes_total=8_100_000,
        longest=16_048,
        faults=tuple(
            RowFault(line=8_112 + each, words="no 'messages'") for each in range(min(faults, 100))
        ),
        faults_total=faults,
    )


def sealing(stage: str, done: int) -> SealProgress:
    """The file, on its way."""
    return SealProgress(
        as_of=NOW,
        path=PATH,
        stage=stage,
        bytes_done=done,
        bytes_total=8_100_000,
        bytes_per_second=1_200_000_000,
        artifact="8d" * 32 if stage == "done" else "",
    )


def quote(draft: JobDraft = DRAFT, *, expires_at: int = NOW + 41_000, refused: str = "") -> Quote:
    """A quote of the draft."""
    return Quote(
        as_of=NOW,
        draft=draft,
        cost_max=draft.spend_max,
        cost_low=3_720_000,
        cost_high=4_100_000,
        milliseconds=4_080_000,
        sentences=(
            "You tune qwen3-8b (of 6d6d6d6d6d6d…) on support, LoRA rank 16, 200 steps, seed 7.",
            "The adapter opens only if its owner and you both say so.",
        ),
        manifest='{\n  "kind": "train",\n  "rank": 16\n}',
        refused=refused,
        expires_at=expires_at,
    )


def result(command: str, outcome: Submitted = Submitted.ACCEPTED) -> SubmitResult:
    """An answer to a signature."""
    refused = outcome is Submitted.REFUSED
    return SubmitResult(
        as_of=NOW,
        command=command,
        outcome=outcome,
        job="" if refused else "b0" * 32,
        check="terms" if refused else "",
        words="rank 16 is over the owner's 8" if refused else "",
    )


LINK = ("new",)
SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (LINK, (ONLINE, BALANCE, HOME)),
    "empty": (LINK, (ONLINE, BALANCE, NO_KEYS)),
    "loading": (LINK, ()),
    "error": (LINK, (ONLINE, BALANCE, HOME, checked(faults=3))),
    "offline": (LINK, (OFFLINE, BALANCE, HOME)),
}
