"""What the host told its launcher: which QEMU, which images, which admin tool. Read, not obeyed."""

from __future__ import annotations

from typing import Final

from provider_agent.doctor.view import HostView, UnreadError
from provider_agent.machines.config import CONFIG_BYTES_MAX, CONFIG_PATH, LauncherConfig
from trust.encoding import parse_json
from trust.errors import EncodingError

SETTINGS: Final = str(CONFIG_PATH).lstrip("/")


def launcher_settings(view: HostView) -> LauncherConfig:
    """The launcher's file. Raises AbsentError where there is none, else UnreadError."""
    content = view.content(SETTINGS, most=CONFIG_BYTES_MAX)
    try:
        return LauncherConfig.from_json(parse_json(content))
    except EncodingError as error:
        raise UnreadError(f"{SETTINGS}: {error}") from error
