"""A draft of a job, kept over a quit: ids and numbers, never a path, a row or a word of content.

- One file, 0600, replaced whole. What in it is not an id or a number of its field is left out: a
  draft is a convenience, and an odd file must not keep the window from opening.
- `submit` is the id under which the draft was signed, if it was: a window that opens it again says
  so, because the job may be there.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from tui.state.job_fields import FIELDS, KeptDraft, fault_of

__all__ = ["DraftFile", "DraftsPort", "KeptDraft"]

BYTES_MAX: Final = 1 << 16
_ID: Final = re.compile(r"\A[A-Za-z0-9_-]{1,128}\Z")


class DraftsPort(Protocol):
    """Where a draft is kept."""

    def load(self) -> KeptDraft | None:
        """The draft; None: there is none."""

    def save(self, draft: KeptDraft) -> None:
        """Keep this one in its place. Raises OSError."""

    def forget(self) -> None:
        """There is none any more."""


class DraftFile:
    """A draft in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> KeptDraft | None:
        """(1) A regular file of at most `BYTES_MAX`. (2) JSON of the kept form. (3) Fields that
        hold. What fails (1) or (2) is no draft; what fails (3) is left out.
        """
        try:
            found = self._path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > BYTES_MAX:  # (1)
                return None
            value = json.loads(self._path.read_text("utf-8"))  # (2)
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or value.get("version") != 1:
            return None
        fields = value.get("fields")
        return KeptDraft(  # (3)
            model=_id(value.get("model")),
            data=_id(value.get("data")),
            heldout=_id(value.get("heldout")),
            offer=_id(value.get("offer")),
            submit=_id(value.get("submit")),
            fields=_sound(fields if isinstance(fields, dict) else {}),
        )

    def save(self, draft: KeptDraft) -> None:
        """Keep this one. Raises OSError."""
        value = {
            "version": 1,
            **{name: _id(getattr(draft, name)) for name in _IDS},
            "fields": _sound(draft.fields),
        }
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_name(self._path.name + ".new")
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file)
        beside.replace(self._path)

    def forget(self) -> None:
        """There is none any more."""
        self._path.unlink(missing_ok=True)


_IDS: Final = ("model", "data", "heldout", "offer", "submit")


def _id(value: object) -> str:
    return value if isinstance(value, str) and _ID.match(value) else ""


def _sound(fields: Mapping[str, object]) -> dict[str, str]:
    return {
        name: value
        for name, value in fields.items()
        if name in FIELDS and isinstance(value, str) and not fault_of(FIELDS[name], value)
    }
