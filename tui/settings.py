"""Settings: one TOML file in the home, with a sentence beside each. No secret is in it.

An unknown key or a value out of its range is refused with the nearest name; what is on the disk
then stays as it is.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from pathlib import Path
from typing import Final

FILE: Final = "tui.toml"
FILE_BYTES_MAX: Final = 64 << 10
MODE: Final = 0o600
THEMES: Final = (
    "blindhost", "blindhost-light", "blindhost-contrast", "blindhost-blue", "ansi-dark",
    "ansi-light",
)  # fmt: skip
PLOTS: Final = ("braille", "blocks", "words")


class SettingsError(ValueError):
    """A setting that is unknown, or out of its range: found and wanted."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the window looks."""

    theme: str = "blindhost"
    """One of `THEMES`."""
    plot: str = "braille"
    """One of `PLOTS`: how the loss is drawn."""
    plain: bool = False
    """No boxes, no braille, no animation."""


SENTENCES: Final = {
    "theme": "how it looks: " + ", ".join(THEMES),
    "plot": "how the loss is drawn: " + ", ".join(PLOTS),
    "plain": "no boxes, no braille, no animation",
}


def load_settings(home: Path) -> Settings:
    """The settings of a home; the usual ones where there are none. Raises SettingsError."""
    path = home / FILE
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return Settings()
    if len(content) > FILE_BYTES_MAX:
        raise SettingsError(f"{FILE}: over {FILE_BYTES_MAX} bytes")
    try:
        return parse_settings(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{FILE}: no UTF-8") from error


def parse_settings(text: str) -> Settings:
    """Parse. Raises SettingsError for the first thing that is wrong."""
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{FILE}: {error}") from error
    known = {each.name: each for each in dataclasses.fields(Settings)}
    for name, found in value.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SettingsError(f"{FILE}: no setting {name!r}{hint}")
        wanted = type(getattr(Settings(), name))
        if type(found) is not wanted:
            raise SettingsError(f"{FILE}: {name} is {found!r}, wanted a {wanted.__name__}")
    for name, choices in (("theme", THEMES), ("plot", PLOTS)):
        if name in value and value[name] not in choices:
            raise SettingsError(f"{FILE}: {name} is {value[name]!r}, wanted one of {choices}")
    return Settings(**value)


def settings_text(settings: Settings) -> str:
    """As the file says it, with a comment above each."""
    lines = []
    for each in dataclasses.fields(Settings):
        value = getattr(settings, each.name)
        shown = str(value).lower() if isinstance(value, bool) else f'"{value}"'
        lines += [f"# {SENTENCES[each.name]}", f"{each.name} = {shown}"]
    return "\n".join(lines) + "\n"


def save_settings(home: Path, settings: Settings) -> None:
    """Replace the file, whole or not at all."""
    path, partial = home / FILE, home / f"{FILE}.partial"
    partial.touch(mode=MODE)
    partial.write_text(settings_text(settings), encoding="utf-8")
    partial.replace(path)
