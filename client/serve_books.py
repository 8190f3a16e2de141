"""What a buyer's own home says of its serve jobs, read again when it has changed.

The gateway runs beside the broker, which writes the log, and beside commands, which add jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Final

from client.gateway.ports import SealedTo, ServedModel
from client.home import Home
from client.keystore import Keystore
from client.release_log import replay
from marketplace.wire import JobView
from trust.identity import Signed
from trust.jobs import GenerateRecipe, InputRole, JobKind, JobManifest
from trust.release_state import Holdings, Memory

NAME_HEX: Final = 16


class Books:
    """The buyer's home, for reading. Safe to ask from several threads."""

    def __init__(self, home: Home, keys: Keystore) -> None:
        self._home, self._keys = home, keys
        self._memory, self._log_seen = Memory(), (0, 0)
        self._jobs: dict[bytes, Signed[JobManifest]] = {}
        self._jobs_at = -1
        self._lock = threading.Lock()

    def holdings(self) -> Holdings:
        """All that the home holds."""
        return self._home.holdings(self._keys)

    def memory(self) -> Memory:
        """What the broker's log says. Raises ReleaseLogError if it is damaged."""
        path = self._home.log_path
        with self._lock:
            if path.exists():
                found = path.stat()  # before the bytes: what is written meanwhile is read next time
                seen = found.st_size, found.st_mtime_ns
                if seen != self._log_seen:
                    self._memory, self._log_seen = replay(path.read_bytes()).memory, seen
            return self._memory

    def serve_jobs(self) -> Mapping[bytes, Signed[JobManifest]]:
        """Own serve jobs by digest."""
        with self._lock:
            changed_at = (self._home.folder / "jobs").stat().st_mtime_ns
            if changed_at != self._jobs_at:
                found = self._home.load(JobManifest, self._keys.party.identity)
                self._jobs = {d: j for d, j in found.items() if j.document.kind is JobKind.SERVE}
                self._jobs_at = changed_at
            return self._jobs


def served_models(
    view: JobView,
    job: Signed[JobManifest],
    names: Mapping[bytes, str],
    sealed_to: SealedTo | None = None,
) -> Iterator[ServedModel]:
    """A serve job's base and adapters, under the names that they can be asked for by.

    `names` are names of base models by artifact id; one without a name goes by its id.
    """
    manifest, recipe = job.document, job.document.recipe
    assert isinstance(recipe, GenerateRecipe)
    model = manifest.input(InputRole.MODEL)
    base = names.get(model, model.hex()[:NAME_HEX])
    for adapter in (None, *manifest.adapters):
        yield ServedModel(
            name=base if adapter is None else f"ft:{base}:{adapter.hex()[:NAME_HEX]}",
            created_at=view.created_at // 1000,
            job=job.digest.hex(),
            adapter=adapter,
            length_max=manifest.length_max,
            reply_tokens_max=recipe.reply_tokens_max,
            sealed_to=sealed_to,
        )
