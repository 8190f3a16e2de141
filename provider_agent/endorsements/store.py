"""Endorsements on the host's disk: a file for each, and a note of where and when it came from.

    FOLDER/wanted.json           of what hardware they are (`subjects`)
    FOLDER/{snp,tdx,gpu}/NAME    the object itself, as a verifier gets it
    FOLDER/{snp,tdx,gpu}/notes.json

Rules:
- A file is whole, or the one before it. One whose digest is not its note's is *damaged*: it is not
  carried, and is fetched again. A file without a note is somebody's own, and carried.
- An object that begins earlier than the one that is here is refused: nobody rolls a list back.
- `since` of a trouble is when it began, and lasts until the object is here and good again.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provider_agent.endorsements import shapes
from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.shapes import Lifetime
from provider_agent.endorsements.subjects import WANTED_BYTES_MAX, Wanted
from provider_agent.journal import replace_file
from trust.encoding import digest

WANTED_FILE: Final = "wanted.json"
NOTES_FILE: Final = "notes.json"
LOCK_FILE: Final = "lock"
PARTIAL: Final = ".partial"
NOTES_BYTES_MAX: Final = 1 << 20
ROTATING_SECONDS: Final = 86_400
"""A list is asked for again after a day, however long it says that it is good."""
EARLY: Final = 4
"""What has less than a quarter of its life left is asked for again,"""
EARLY_MAX: Final = dt.timedelta(days=7)
"""or less than a week, if that is less."""


class State(enum.StrEnum):
    """What an object is worth at a moment."""

    GOOD = "good"
    ENDS_SOON = "ends-soon"
    ENDED = "ended"
    NO_END = "no-end"
    """It does not say when it ends, as every list must."""
    DAMAGED = "damaged"
    ABSENT = "absent"

    @property
    def carried(self) -> bool:
        """Whether it travels with evidence."""
        return self in {State.GOOD, State.ENDS_SOON}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """One object, as it is on disk now."""

    platform: str
    name: str
    state: State
    content: bytes
    """Empty if there is none."""
    life: Lifetime | None
    """None: there is none, or it is not of its kind."""
    fetched_at: dt.datetime | None
    """None: there is none, or it is somebody's own."""
    source: str | None
    """Name of the service; None as above."""
    problem: str | None
    """Why the last try to fetch it failed; None: it did not."""
    problem_since: dt.datetime | None

    def is_due(self, now: dt.datetime) -> bool:
        """Whether to ask for it now."""
        if self.state is not State.GOOD:
            return True
        if shapes.kind_of(self.name) not in shapes.ROTATING or self.fetched_at is None:
            return False
        return (now - self.fetched_at).total_seconds() >= ROTATING_SECONDS


class Store:
    """A folder. It is made at the first write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- what is wanted --------------------------------------------------------------------------

    def wanted(self) -> Wanted | None:
        """None: nobody said yet. Raises EndorsementError."""
        path = self.folder / WANTED_FILE
        try:
            return Wanted.from_bytes(_read(path, WANTED_BYTES_MAX))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EndorsementError("unreadable", f"{WANTED_FILE}: {error.strerror}") from error

    def want(self, wanted: Wanted) -> None:
        """Note it. Raises OSError."""
        self._make(self.folder)
        replace_file(self.folder / WANTED_FILE, wanted.to_bytes())

    # --- objects ---------------------------------------------------------------------------------

    def names(self, platform: str) -> tuple[str, ...]:
        """Names of the files of a platform that are endorsements, sorted."""
        found = []
        folder = self.folder / platform
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            try:
                kind = shapes.kind_of(shapes.check_name(path.name))
            except EndorsementError:
                continue
            if path.suffix == PARTIAL:  # left by a write that was cut off
                continue
            if shapes.platform_of(kind) == platform:
                found.append(path.name)
        return tuple(found)

    def get(self, platform: str, name: str, now: dt.datetime) -> Kept:
        """What is here under a name. Raises EndorsementError only where a disk refuses."""
        note = self._notes(platform).get(name, {})
        kind = shapes.kind_of(shapes.check_name(name))
        try:
            content = _read(self.folder / platform / name, shapes.RIM_BYTES_MAX + 1)
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise EndorsementError("unreadable", f"{name}: {error.strerror}") from error
        life, state = None, State.ABSENT
        if content:
            state = State.DAMAGED
            if note.get("sha256") in {None, digest(content).hex()}:
                life, state = _judged(kind, content, now)
        return Kept(
            platform=platform,
            name=name,
            state=state,
            content=content,
            life=life,
            fetched_at=_time(note.get("fetched_at")),
            source=note.get("source"),
            problem=note.get("problem"),
            problem_since=_time(note.get("problem_since")),
        )

    def put(
        self, platform: str, name: str, content: bytes, *, source: str, now: dt.datetime
    ) -> None:
        """Keep an object in place of the one before.

        (1) It is of its kind. (2) It has not ended. (3) It does not begin before the one that is
        here. (4) The file, then the note. Raises EndorsementError, or OSError.
        """
        kind = shapes.kind_of(shapes.check_name(name))
        life, state = _judged(kind, content, now)  # (1)
        if life is None:
            shapes.lifetime(kind, content)  # says what is wrong
        assert life is not None
        if not state.carried:  # (2)
            ends = "it does not say when it ends" if life.ends is None else f"it ended {life.ends}"
            raise EndorsementError("stale-answer", f"{name}: {ends}")
        if life.begins > now + dt.timedelta(days=1):
            raise EndorsementError("stale-answer", f"{name}: it begins {life.begins}")
        here = self.get(platform, name, now)
        before = here.life if here.state.carried and kind in shapes.ROTATING else None
        if before is not None and life.begins < before.begins:  # (3)
            raise EndorsementError(
                "stale-answer", f"{name}: of {life.begins}, and the one of {before.begins} is here"
            )
        self._make(self.folder)
        self._make(self.folder / platform)
        replace_file(self.folder / platform / name, content)  # (4)
        self._note(
            platform,
            name,
            {
                "sha256": digest(content).hex(),
                "bytes": len(content),
                "fetched_at": now.isoformat(),
                "source": source,
            },
        )

    def trouble(self, platform: str, name: str, text: str, now: dt.datetime) -> None:
        """Note that a try failed. Raises OSError."""
        self._make(self.folder)
        self._make(self.folder / platform)
        note = dict(self._notes(platform).get(name, {}))
        note.setdefault("problem_since", now.isoformat())
        note["problem"] = text[:300]
        self._note(platform, name, note)

    def forget_others(self, platform: str, names: tuple[str, ...]) -> None:
        """Remove what is no longer wanted: RIMs of an older driver, lists of a GPU that is gone."""
        for name in set(self.names(platform)) - set(names):
            (self.folder / platform / name).unlink(missing_ok=True)
        notes = {n: v for n, v in self._notes(platform).items() if n in names}
        if (self.folder / platform).is_dir():
            replace_file(self.folder / platform / NOTES_FILE, _encode(notes))

    # --- notes -----------------------------------------------------------------------------------

    def _notes(self, platform: str) -> dict[str, dict[str, Any]]:
        """Notes that cannot be read are none: then the files stand for themselves."""
        try:
            value = json.loads(_read(self.folder / platform / NOTES_FILE, NOTES_BYTES_MAX))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(value, dict):
            return {}
        return {str(n): v for n, v in value.items() if isinstance(v, dict)}

    def _note(self, platform: str, name: str, note: dict[str, Any]) -> None:
        notes = {**self._notes(platform), name: note}
        replace_file(self.folder / platform / NOTES_FILE, _encode(notes))

    def _make(self, folder: Path) -> None:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)


def _judged(kind: str, content: bytes, now: dt.datetime) -> tuple[Lifetime | None, State]:
    try:
        life = shapes.lifetime(kind, content)
    except EndorsementError:
        return None, State.DAMAGED
    if life.ends is None:
        return life, State.NO_END
    if life.ends <= now:
        return life, State.ENDED
    early = min((life.ends - life.begins) / EARLY, EARLY_MAX)
    return life, State.ENDS_SOON if life.ends - now <= early else State.GOOD


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(27, f"over {most} bytes")
    return content


def _encode(notes: dict[str, dict[str, Any]]) -> bytes:
    return json.dumps(notes, indent=1, sort_keys=True).encode()


def _time(value: object) -> dt.datetime | None:
    if not isinstance(value, str):
        return None
    try:
        found = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
