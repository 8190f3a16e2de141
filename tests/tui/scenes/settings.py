"""Scenes of Settings: it needs nobody, so all five look alike."""

from __future__ import annotations

from tests.tui.rig import OFFLINE, SETUP, USUAL
from tui.facts import Fact

SCENES: dict[str, tuple[tuple[str, ...], tuple[Fact, ...]]] = {
    "normal": (("settings",), USUAL),
    "empty": (("settings",), ()),
    "loading": (("settings",), (SETUP,)),
    "error": (("settings",), USUAL),
    "offline": (("settings",), (OFFLINE, SETUP)),
}
