"""Submitting once, whoever asks how often: what a command became is kept before it is sent.

- A *command* is a person's one wish to submit, under an id that outlives the window. The first time
  its job is made, signed and kept, and then the command's record, durably; only then is it sent.
  Whoever sends the command again, after a crash too, sends that same job, and the market holds
  money for one job once.
- A record is made once and never replaced: two windows that send a command agree on one job.
- A command belongs to one draft. Under another draft it is refused: neither is submitted.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, ClassVar, Final

from client.files import HomeError, make_folder, sync_folder, write_durably
from client.home import Home
from trust.encoding import Digest, Document, Size, labelled_digest
from trust.errors import RefusedError
from trust.identity import Signed
from trust.jobs import JobManifest

COMMAND_BYTES_MAX: Final = 128
_FOLDER: Final = "submissions"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Submission(Document):
    """What a command became."""

    LABEL: ClassVar[str] = "client/submission"

    command: Annotated[str, Size(least=1, most=COMMAND_BYTES_MAX)]
    draft: Digest
    """Of what the person asked for."""
    job: Digest


async def signed_once(
    home: Home,
    buyer: bytes,
    command: str,
    draft: bytes,
    make: Callable[[], Awaitable[Signed[JobManifest]]],
) -> Signed[JobManifest]:
    """The job of a command: the one that was kept for it, else a new one by `make`, then kept.

    (1) A record of the command: its draft is this one. (2) Its job lies in the home: that is it.
    (3) There is none yet: `make` signs and keeps a job, and the record is made, if meanwhile nobody
    made one; whose record lies there, whose job counts.

    Raises RefusedError (*command-reused*), HomeError, and what `make` raises.
    """
    found = find(home, command)
    if found is None:  # (3)
        signed = await make()
        own = Submission(command=command, draft=draft, job=signed.digest)
        found = _keep(home, own)
        if found == own:
            return signed
        forget_job(home, signed.digest)
    if found.draft != draft:  # (1)
        raise RefusedError("command-reused", "under this id another draft was signed already")
    kept = home.load(JobManifest, buyer).get(found.job)
    if kept is None:  # it may be the market's: a second one could be paid twice
        text = f"job {found.job.hex()[:16]}… was signed for it, and is not in this home any more"
        raise HomeError(f"{text}: `blindhost job list` says whether the market has it")
    return kept  # (2)


def find(home: Home, command: str) -> Submission | None:
    """What a command became. Raises EncodingError for a file that is no such record."""
    path = _path(home, command)
    try:
        return Submission.parse(path.read_bytes())
    except FileNotFoundError:
        return None


def forget(home: Home, command: str, job: bytes) -> None:
    """The market has stored nothing for it, and said so: the command may become another job.

    The job goes first: a record without its job is refused, a job without its record is not sent.
    """
    forget_job(home, job)
    path = _path(home, command)
    if path.exists():
        path.unlink()
        sync_folder(path.parent)


def forget_job(home: Home, job: bytes) -> None:
    """Drop an own job that was never accepted: the own broker orders nothing for it."""
    (home.folder / "jobs" / job.hex()).unlink(missing_ok=True)


def _keep(home: Home, submission: Submission) -> Submission:
    """Make the record, durably; returns the one that is there."""
    path = _path(home, submission.command)
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_durably(beside, submission.encode())
    try:
        os.link(beside, path)  # fails where one is there: nothing is replaced
    except FileExistsError:
        found = find(home, submission.command)
        return submission if found is None else found
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return submission


def _path(home: Home, command: str) -> Path:
    """Named by a digest: an id is any text, and names no place."""
    name = labelled_digest("client/command", command.encode()).hex()
    return home.folder / _FOLDER / name
