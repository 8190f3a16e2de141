"""Settings: what is written reads back; what is wrong is refused with what was wanted."""

from __future__ import annotations

import itertools

import pytest

from tests.tui.rig import window
from tui.settings import (
    PLOTS,
    THEMES,
    Settings,
    SettingsError,
    load_settings,
    parse_settings,
    save_settings,
    settings_text,
)
from tui.themes import THEMES as OURS


def test_settings_read_back_as_they_were_written(tmp_path):
    for theme, plot, plain in itertools.product(THEMES, PLOTS, (True, False)):
        settings = Settings(theme=theme, plot=plot, plain=plain)
        save_settings(tmp_path, settings)
        assert load_settings(tmp_path) == settings
    assert (tmp_path / "tui.toml").stat().st_mode & 0o077 == 0
    assert load_settings(tmp_path / "none") == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("them = 'x'", "did you mean 'theme'"),
        ("theme = 'pink'", "wanted one of"),
        ("plain = 'yes'", "wanted a bool"),
        ("theme = ", "tui.toml"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_was_wanted(text, said):
    with pytest.raises(SettingsError, match=said):
        parse_settings(text)


def test_every_theme_of_ours_can_be_set():
    assert {each.name for each in OURS} <= set(THEMES)
    assert parse_settings(settings_text(Settings())) == Settings()


async def test_a_theme_is_seen_under_the_cursor_and_stays_once_chosen():
    async with window(link=("settings",)) as rig:
        await rig.until_words("theme: how it looks")
        await rig.press("down")
        await rig.until(lambda: rig.app.theme == "blindhost-light")
        await rig.press("up")
        await rig.until(lambda: rig.app.theme == "blindhost")
        await rig.press("down", "enter")
        await rig.until_words("for this window alone")
        assert rig.app.theme == "blindhost-light"


def luminance(color) -> float:
    def part(value: int) -> float:
        share = value / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    return 0.2126 * part(color.r) + 0.7152 * part(color.g) + 0.0722 * part(color.b)


def contrast(one, other) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", OURS, ids=lambda each: each.name)
def test_every_pair_of_text_and_ground_has_contrast(theme):
    from textual.color import Color

    least = 7.0 if theme.name == "blindhost-contrast" else 4.5
    for ink in ("foreground", "primary", "secondary", "accent", "success", "warning", "error"):
        for ground in ("background", "surface", "panel"):
            found = contrast(Color.parse(getattr(theme, ink)), Color.parse(getattr(theme, ground)))
            assert found >= least, f"{theme.name}: {ink} on {ground} has {found:.2f}"
