"""Themes. Colour doubles a word or a sign, and never stands alone for it.

`blindhost-contrast` keeps 7:1 between text and ground; `blindhost-blue` uses blue for good, and no
red beside a green. `ansi-dark` and `ansi-light` (textual's) are the terminal's own sixteen colours.
"""

from __future__ import annotations

from typing import Final

from textual.theme import Theme

DARK: Final = Theme(
    name="blindhost",
    dark=True,
    primary="#7aa2f7",
    secondary="#9aa5ce",
    accent="#e0af68",
    foreground="#d5d9e8",
    background="#12141c",
    surface="#1a1d29",
    panel="#242838",
    success="#9ece6a",
    warning="#e0af68",
    error="#ff8fa3",
)
LIGHT: Final = Theme(
    name="blindhost-light",
    dark=False,
    primary="#1f4fb0",
    secondary="#4a5470",
    accent="#7a4a00",
    foreground="#1b1f2a",
    background="#fbfbf8",
    surface="#f1f1ec",
    panel="#e4e5de",
    success="#1e6b2a",
    warning="#7a4a00",
    error="#a3132f",
)
CONTRAST: Final = Theme(
    name="blindhost-contrast",
    dark=True,
    primary="#9cc4ff",
    secondary="#e6e6e6",
    accent="#ffd866",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#101010",
    success="#8cff8c",
    warning="#ffd866",
    error="#ffb0b0",
)
BLUE: Final = Theme(
    name="blindhost-blue",
    dark=True,
    primary="#7cb7ff",
    secondary="#a8b0c0",
    accent="#f0c65a",
    foreground="#dde1ea",
    background="#12141c",
    surface="#1a1d29",
    panel="#242838",
    success="#6cb6ff",
    warning="#f0c65a",
    error="#ffa14d",
)
THEMES: Final = (DARK, LIGHT, CONTRAST, BLUE)
"""Ours; textual's stay available."""
