"""Which checkpoints are reported, acknowledged and committed.

- A report names the one before it: a custodian sees that none is missing.
- A checkpoint is committed once every custodian acknowledged that very report. A later one that is
  committed settles all before it: custodians remember the newest.
"""

from __future__ import annotations

import dataclasses

from trust.artifacts import Manifest
from trust.errors import SessionError
from trust.identity import Signed
from trust.jobs import LaunchDocument
from trust.messages import CheckpointReport


@dataclasses.dataclass(kw_only=True, slots=True)
class Reported:
    """A checkpoint that custodians were told of."""

    step: int
    artifact: bytes
    """Its artifact id."""
    report: bytes
    """Digest of the report."""
    missing: set[bytes]
    """Custodians that have not acknowledged it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class At:
    """A committed checkpoint."""

    step: int
    artifact: bytes


class Commits:
    """The reports of one run, in order."""

    def __init__(self, launch: LaunchDocument, custodians: frozenset[bytes]) -> None:
        self._launch, self._custodians = launch, custodians
        self._open: list[Reported] = []
        self._last: bytes | None = None
        self.newest: At | None = None
        """The newest committed checkpoint; None: there is none."""

    def report(self, step: int, manifest: Signed[Manifest]) -> CheckpointReport:
        """The report of a checkpoint that is in the blob store."""
        report = CheckpointReport(
            job=self._launch.job,
            generation=self._launch.generation,
            rank=self._launch.rank,
            step=step,
            manifest=manifest.encode(),
            before=self._last,
        )
        self._last = report.digest
        self._open.append(
            Reported(
                step=step,
                artifact=manifest.digest,
                report=report.digest,
                missing=set(self._custodians),
            )
        )
        return report

    def acknowledge(self, custodian: bytes, report: bytes) -> list[Reported]:
        """Note a verified acknowledgement; returns what is settled by it, the committed one last.

        Raises SessionError if that report waits for none by this custodian.
        """
        index = next((i for i, each in enumerate(self._open) if each.report == report), None)
        if index is None:
            raise SessionError("an acknowledgement of no report that waits for one")
        reported = self._open[index]
        if custodian not in reported.missing:
            raise SessionError("an acknowledgement that was here before")
        reported.missing.discard(custodian)
        if reported.missing:
            return []
        settled = self._open[: index + 1]
        del self._open[: index + 1]
        self.newest = At(step=reported.step, artifact=reported.artifact)
        return settled
