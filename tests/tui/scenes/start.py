"""Scenes of Start."""

from __future__ import annotations

import dataclasses

from tests.tui.rig import BALANCE, NOW, OFFLINE, ONLINE, SETUP
from tui.facts import Fact, Failure, NamedModel, SealedData

MODEL = NamedModel(
    id="3a" * 32,
    name="qwen3-8b",
    owner="6d" * 32,
    mine=False,
    tunable=True,
    words="its owner's terms hold: rank at most 64",
)
OWN = NamedModel(
    id="3b" * 32, name="tiny-lab", owner="5f" * 32, mine=True, tunable=True, words="your own"
)
BARRED = NamedModel(
    id="3c" * 32,
    name="llama-serve",
    owner="6d" * 32,
    mine=False,
    tunable=False,
    words="its terms name no recipe",
)
DATA = SealedData(
    id="8f" * 32, name="support", rows=12_400, bytes=8_100_000, sealed_at=NOW - 3_600_000
)
HELDOUT = SealedData(
    id="8e" * 32, name="support-heldout", rows=400, bytes=262_144, sealed_at=NOW - 3_500_000
)
HOME = dataclasses.replace(SETUP, models=(MODEL, OWN, BARRED), data=(DATA, HELDOUT))
NO_KEYS = dataclasses.replace(
    SETUP,
    identity="",
    keys_made_at=None,
    backed_up=None,
    market_url="",
    market_identity="",
    broker="never ran",
    simulated=False,
)
LOCKED = dataclasses.replace(NO_KEYS, locked=True, broker="not known")
SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (("start",), (ONLINE, dataclasses.replace(BALANCE, free=0, held=0), HOME)),
    "empty": (("start",), (NO_KEYS,)),
    "loading": (("start",), ()),
    "error": (
        ("start",),
        (
            LOCKED,
            Failure(
                as_of=NOW, where="home", code="locked", words="the keys are locked", retry_in=None
            ),
        ),
    ),
    "offline": (("start",), (OFFLINE, BALANCE, HOME)),
}
