"""A buyer's acts: seal rows, write and sign a job, follow it, take its outputs.

- A dataset is checked line by line before it is sealed; a broken line is named.
- Before a job is signed it is held against the documents that it names: the owner's word, its
  terms, the kinds of all lineages. What a broker would refuse is refused here, before a hold.
- Output ids come from the last receipt, signed by a key that the own release log shows as attested,
  and from nowhere else: whatever the market names is not looked at (attacks.md, 12 v).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from client.dataset import count_rows
from client.files import HomeError
from client.home import Home
from client.keystore import Keystore
from client.progress import open_progress, read_progress
from client.release_log import replay
from client.sealed import Step, seal_file
from trust.artifacts import ArtifactKind, Custodian, Manifest
from trust.custody import common_kind
from trust.errors import BlindhostError, RefusedError
from trust.identity import Signed, verify_signed
from trust.jobs import InputRole, JobKind, JobManifest, Terms
from trust.messages import End, Progress, Receipt
from trust.release_checks import check_recipe, require, shown
from trust.release_inputs import accept_inputs, accept_policies, accept_terms
from trust.release_state import Holdings, Memory

_MODEL: Final = InputRole.MODEL


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SealedRows:
    """A sealed dataset."""

    manifest: Signed[Manifest]
    rows: int


def seal_dataset(
    home: Home, keys: Keystore, path: Path, custodian: Custodian, step: Step
) -> SealedRows:
    """Check every row, then seal the file. Raises RowError for the first broken line."""
    rows = count_rows(path)
    manifest = seal_file(
        home,
        keys,
        kind=ArtifactKind.DATASET,
        custodian=custodian,
        path=path,
        public_files={},
        step=step,
    )
    return SealedRows(manifest=manifest, rows=rows)


def sign_job(
    home: Home,
    keys: Keystore,
    job: JobManifest,
    *,
    terms: Signed[Terms],
    manifests: Mapping[bytes, Signed[Manifest]],
    now: int,
    memory: Memory | None = None,
) -> Signed[JobManifest]:
    """Sign and keep a job, so that this party's broker will order its generations.

    (1) It is this buyer's, with this buyer's progress key. (2) Every input's manifest is there.
    (3) Of a serve job the broker's own checks hold, for `memory`, what the own release log says:
    inputs, kinds, policies, terms and undertaking; and each adapter is one that this log shows.
    (4) Of any other, each input is signed by its custodian, data is one's own, and real and
    simulated don't meet; (5) the terms are the model owner's, those that the job names, not
    expired, without a screen, and the job keeps them.

    Raises RefusedError, CustodyError or HomeError.
    """
    text = "the job names another buyer or another progress key than this home's"
    own = (job.buyer, job.progress_key) == (keys.party.identity, keys.progress.public)
    require(own, "job-not-own", text)  # (1)
    found = tuple(_input(manifests, each.artifact) for each in job.inputs)  # (2)
    signed = keys.party.sign(job)
    if job.kind is JobKind.SERVE:  # (3)
        _check_serve(home.holdings(keys), memory or Memory(), signed, found, terms, now)
    else:
        _check_inputs(keys.party.identity, job, found)  # (4)
        model = next(m for i, m in zip(job.inputs, found, strict=True) if i.role is _MODEL)
        _check_terms(job, model.document.core.custodians[0], terms, now)  # (5)
    home.keep(signed)
    return signed


def _input(manifests: Mapping[bytes, Signed[Manifest]], artifact: bytes) -> Signed[Manifest]:
    manifest = manifests.get(artifact)
    if manifest is None:
        raise HomeError(f"no manifest of input {artifact.hex()[:16]}…")
    return manifest


def _check_serve(
    holdings: Holdings,
    memory: Memory,
    job: Signed[JobManifest],
    manifests: Sequence[Signed[Manifest]],
    terms: Signed[Terms],
    now: int,
) -> None:
    for adapter in job.document.adapters:
        text = f"the own release log shows no output {shown(adapter)}"
        require(adapter in memory.outputs, "adapter-not-own", text)
    encoded = [each.encode() for each in manifests]
    inputs = accept_inputs(holdings, memory, job.document, encoded)
    accept_policies(holdings, inputs, job.document.buyer)
    accept_terms(holdings, memory, job, inputs, terms.encode(), now)


def _check_inputs(identity: bytes, job: JobManifest, manifests: Sequence[Signed[Manifest]]) -> None:
    for each, manifest in zip(job.inputs, manifests, strict=True):
        custodian = manifest.document.core.custodians[0].identity
        text = "an input is signed by its custodian"
        require(manifest.signer == custodian, "manifest-not-by-its-custodian", text)
        mine = manifest.signer == identity
        text = f"{each.role.value} is not one's own"
        require(mine or each.role is _MODEL, "input-not-own", text)
    common_kind(entry for each in manifests for entry in each.document.core.custodians)


def _check_terms(job: JobManifest, owner: Custodian, terms: Signed[Terms], now: int) -> None:
    said = terms.document
    by_owner = terms.signer == said.owner == owner.identity and owner.lineage in said.lineages
    require(by_owner, "terms-not-by-the-owner", "not the terms of this model's owner")
    require(terms.digest == job.terms, "terms-other", "not the terms that the job names")
    require(now < said.expires_at, "terms-expired", f"expired at {said.expires_at}")
    require(said.screen is None, "terms-screen", "screening does not exist yet")
    check_recipe(job, said)


# --- following -----------------------------------------------------------------------------------


class Follower:
    """Reads a job's progress as the broker keeps it, each record once."""

    def __init__(self, home: Home, keys: Keystore, job: bytes) -> None:
        self._home, self._keys, self._job = home, keys, job
        self._offset = 0

    def memory(self) -> Memory:
        """What the broker's log says now. Raises HomeError if there is no log yet."""
        if not self._home.log_path.exists():
            raise HomeError("no release log here: this home's broker never ran")
        return replay(self._home.log_path.read_bytes()).memory

    def new(self) -> Iterator[Progress]:
        """Records that came since the last call, verified again against the log."""
        records, self._offset = read_progress(self._home.progress_path(self._job), self._offset)
        if not records:
            return
        memory = self.memory()
        for sealed in records:
            yield open_progress(self._keys.progress, memory, self._job, sealed)


def outputs(memory: Memory, job: bytes) -> tuple[bytes, ...] | None:
    """Artifact ids of what a job made, from its last receipt; None: it is not done."""
    last = last_receipt(memory, job)
    return None if last is None or last.end is not End.DONE else last.outputs


def last_receipt(memory: Memory, job: bytes) -> Receipt | None:
    """The newest receipt of the newest generation, rank 0; None: there is none."""
    found = [each.document for each in memory.receipts.get(job, ()) if each.document.rank == 0]
    return max(found, key=lambda each: (each.generation, each.number), default=None)


def check_receipts(memory: Memory, job: bytes, shown: Sequence[bytes]) -> list[str]:
    """What is wrong with the receipts that the market shows: one line for each that does not hold.

    A receipt holds if the key that signed it is one that the own log shows as attested for its
    job, generation and rank, under that lease.
    """
    faults = []
    for data in shown:
        try:
            signed = verify_signed(Receipt, data, signer=None)
            said = signed.document
            seat = memory.seats.get((said.job, said.generation, said.rank))
            require(
                seat is not None
                and said.job == job
                and (signed.signer, said.lease)
                == (seat.statement.signing_key, seat.statement.lease),
                "receipt-not-by-the-seat",
                f"receipt {said.number} of generation {said.generation}: no enclave of this log",
            )
        except RefusedError as error:
            faults.append(error.text)
        except BlindhostError as error:
            faults.append(str(error))
    return faults
