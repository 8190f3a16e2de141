"""A party's home: its keystore, and what it signed and published, in files of its own.

- The folder is 0700. Nothing in it is anybody else's, and no other party reads it.
- Signed documents lie under their digest's hex; a file whose content has another digest, signer or
  type is refused: a home is not a place to slip a manifest into.
- The broker reads these files again for every decision, so what a command adds counts at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Final, TypeVar

from client.files import HomeError, check_private, make_folder, write_durably
from client.keystore import KeyFile, Keystore, Opener
from trust.artifacts import Manifest
from trust.encoding import Bytes32, Document, Size
from trust.identity import Signed, verify_signed
from trust.image_release import ReleaseDemands, ReleaseMemory
from trust.jobs import JobManifest, Terms, UsePolicy
from trust.release_state import AcceptedReleases, Holdings
from trust.verifier.policy import AppraisalPolicy

DOCUMENTS_MAX: Final = 4096  # of one kind in one home: a decision reads them all

D = TypeVar("D", bound=Document)

_FOLDERS: Final[Mapping[type[Document], str]] = {
    Manifest: "manifests",
    Terms: "terms",
    UsePolicy: "policies",
    JobManifest: "jobs",
}
_APPRAISAL: Final = "appraisal"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Config(Document):
    """Which market this party deals with."""

    LABEL: ClassVar[str] = "client/config"

    market_url: Annotated[str, Size(least=1, most=512)]
    market: Bytes32
    """The market's identity: pinned here, never learned from the market."""


class Home:
    """A party's home folder."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.config = folder, config

    @classmethod
    def create(cls, folder: Path, config: Config) -> Home:
        """Make a home. Raises HomeError if one is there."""
        if (folder / "config").exists():
            raise HomeError("a home is there already; it is never overwritten")
        make_folder(folder)
        for name in (*_FOLDERS.values(), _APPRAISAL, "sealed", "progress", "heads"):
            make_folder(folder / name)
        write_durably(folder / "config", config.encode())
        return cls(folder, config)

    @classmethod
    def open(cls, folder: Path) -> Home:
        """Open a home. Raises HomeError if it is none, or if others may read it."""
        if not (folder / "config").exists():
            raise HomeError("no home here: `blindhost init` makes one")
        check_private(folder)
        return cls(folder, Config.parse((folder / "config").read_bytes()))

    def keystore(self, opener: Opener | None = None) -> Keystore:
        """Open the keystore; by default with the key file that `init` made in the home."""
        return Keystore.open(self.folder, opener or self.key_file)

    @property
    def key_file(self) -> KeyFile:
        """Where the key file lies unless another is named."""
        return KeyFile(path=self.folder / "key")

    @property
    def log_path(self) -> Path:
        """The release log."""
        return self.folder / "release-log"

    def progress_path(self, job: bytes) -> Path:
        """Where a job's sealed progress is kept."""
        return self.folder / "progress" / job.hex()

    # --- documents -------------------------------------------------------------------------------

    def keep(self, signed: Signed[D]) -> None:
        """Keep an own signed document."""
        name = _FOLDERS[type(signed.document)]
        write_durably(self.folder / name / signed.digest.hex(), signed.encode())

    def keep_appraisal(self, policy: AppraisalPolicy) -> None:
        """Keep an appraisal policy; use policies name it by digest."""
        write_durably(self.folder / _APPRAISAL / policy.digest.hex(), policy.encode())

    def load(self, kind: type[D], signer: bytes) -> dict[bytes, Signed[D]]:
        """Every own document of a kind, by digest. Raises HomeError for one that is not its own."""
        found: dict[bytes, Signed[D]] = {}
        for path in _files(self.folder / _FOLDERS[kind]):
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # a command of the same party took it away meanwhile
                continue
            signed = verify_signed(kind, data, signer=signer)
            if signed.digest.hex() != path.name:
                raise HomeError(f"{kind.LABEL} {path.name[:16]}… holds another document")
            found[signed.digest] = signed
        return found

    def appraisal_policies(self) -> dict[bytes, AppraisalPolicy]:
        """Every appraisal policy of this home, by digest."""
        policies = [AppraisalPolicy.parse(p.read_bytes()) for p in _files(self.folder / _APPRAISAL)]
        return {each.digest: each for each in policies}

    def holdings(self, keys: Keystore) -> Holdings:
        """All that a decision needs of this home, read afresh."""
        identity = keys.party.identity
        return Holdings(
            key=keys.party,
            market=self.config.market,
            lineage_keys=keys.lineage_keys(),
            manifests=self.load(Manifest, identity),
            terms=self.load(Terms, identity),
            policies=tuple(self.load(UsePolicy, identity).values()),
            appraisal_policies=self.appraisal_policies(),
            jobs=self.load(JobManifest, identity),
            releases=self.releases(),
        )

    def releases(self) -> AcceptedReleases | None:
        """Images that `blindhost image accept` took from a log; None: it never did.

        Raises EncodingError, PolicyError.
        """
        folder = self.folder / "images"
        demands, memory = folder / "demands", folder / "memory"
        if not (demands.exists() and memory.exists()):
            return None
        return AcceptedReleases(
            demands=ReleaseDemands.parse(demands.read_bytes()),
            memory=ReleaseMemory.parse(memory.read_bytes()),
        )


def _files(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if len(paths) > DOCUMENTS_MAX:
        raise HomeError(f"{folder.name}: {len(paths)} files; at most {DOCUMENTS_MAX}")
    return paths
