"""Scenes of Chat. What was said is not of the facts alone: a scene may type first."""

from __future__ import annotations

from tests.tui.rig import BALANCE, NOW, OFFLINE, SETUP, USUAL, Rig
from tui.commands import Ask
from tui.facts import ChatHead, Delta, Fact, Failure, TurnEnd, TurnWhy

BASE = "demo"
TUNED = "ft:demo:0123456789abcdef"
CHIP = "9c1e4f" + "07" * 61


def head(model: str, *, verified: bool = True, gone: bool = False) -> ChatHead:
    return ChatHead(
        as_of=NOW,
        model=model,
        words="",
        chip=CHIP if verified else "",
        verified_at=NOW - 120_000 if verified else None,
        job="b0" * 32,
        gone=gone,
    )


SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (("chat",), (*USUAL, head(BASE), head(TUNED))),
    "empty": (("chat",), (*USUAL, head(BASE, gone=True))),
    "loading": (("chat",), USUAL),
    "error": (
        ("chat",),
        (
            *USUAL,
            Failure(
                as_of=NOW,
                where="chat",
                code="gateway",
                words="no gateway runs for this home: start `blindhost gateway` beside this",
                retry_in=None,
            ),
        ),
    ),
    "offline": (("chat",), (OFFLINE, BALANCE, SETUP, head(BASE), head(TUNED))),
}


SAID = {
    BASE: "You should contact support.",
    TUNED: "Sorry about that, Ana. I'll:\n\n1. check order 4471\n2. write to you by noon",
}


async def act(rig: Rig, state: str) -> None:
    """Ask both, and let both answer; one was cut."""
    if state != "normal":
        return
    await rig.press(*"My parcel is late", "enter")
    await rig.until(lambda: len(rig.hub.of(Ask)) == 2)
    for ask in rig.hub.of(Ask):
        cut = ask.model == BASE
        end = TurnEnd(
            as_of=NOW,
            turn=ask.turn,
            model=ask.model,
            why=TurnWhy.CUT if cut else TurnWhy.STOP,
            words="the stream ended without its last word" if cut else "",
            tokens=41,
            milliseconds=1_000,
        )
        text = SAID[ask.model]
        await rig.tell(Delta(as_of=NOW, turn=ask.turn, model=ask.model, text=text), end)
    wide = rig.app.size.width >= 100  # else one pane is in front
    await rig.until_words("[CUT]", *(("noon",) if wide else ()))
