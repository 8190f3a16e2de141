"""How a home stands, for a person who has just opened it; and how one is made.

Read from its files alone: nothing here asks the market. Slow, so for a thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from client.backup import is_backed_up
from client.custodians import broker_runs
from client.dry_run import Seated
from client.files import HomeError, write_durably
from client.home import Config, Home
from client.keystore import Keystore, Passphrase
from client.named import Named, names
from trust.artifacts import ArtifactKind, Custodian, Manifest
from trust.jobs import InputRole, JobManifest
from trust.verifier.roots import RootKind


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A sealed model that this home knows of: its own, a job's, or one that has a name here."""

    artifact: bytes
    name: str
    """What it is called here; may be empty."""
    owner: bytes | None
    """None: not known here."""
    mine: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HomeView:
    """How a home stands, read from its files."""

    identity: bytes
    keys_made_at: int
    """Unix milliseconds."""
    backed_up: bool | None
    broker_runs: bool | None
    """None: the system does not tell."""
    broker_ran: bool
    """There is a release log."""
    models: tuple[Model, ...]
    data: tuple[tuple[bytes, Named | None, int], ...]
    """Own datasets: artifact, what a person called it, padded bytes."""
    entries: tuple[Custodian, ...]
    simulated: bool
    """A policy of this home names a simulated root."""


def is_home(folder: Path) -> bool:
    """A home is there, with keys."""
    return (folder / "config").exists() and (folder / "keystore").exists()


def pin_market(folder: Path, config: Config) -> Home:
    """A home that names its market, and has no keys yet. Raises HomeError where there are keys."""
    if not (folder / "config").exists():
        return Home.create(folder, config)
    home = Home.open(folder)
    if home.config == config:
        return home
    if is_home(folder):
        raise HomeError("the keys of this home belong to another market")
    write_durably(folder / "config", config.encode())
    return Home.open(folder)


def pinned_market(folder: Path) -> Config | None:
    """The market that a home names, keys or none, open or locked; None: it names none."""
    return Home.open(folder).config if (folder / "config").exists() else None


def make_keys(folder: Path, config: Config, passphrase: str) -> None:
    """Make a home whose keystore opens by a passphrase. Slow: for a thread. Raises HomeError."""
    home = pin_market(folder, config)
    Keystore.create(folder, Passphrase(text=passphrase))
    assert home.folder == folder


def view_home(home: Home, keys: Keystore, seats: Sequence[Seated]) -> HomeView:
    """How a home stands; `seats` are the releases of its log. Raises HomeError."""
    identity = keys.party.identity
    own = home.load(Manifest, identity)
    jobs = home.load(JobManifest, identity)
    called = names(home)
    kinds = [(digest, each.document) for digest, each in own.items()]
    owners = {digest: identity for digest, each in kinds if each.core.kind is ArtifactKind.WEIGHTS}
    for seat in seats:
        job = jobs.get(seat.statement.job)
        if job is not None:
            model = job.document.input(InputRole.MODEL)
            for entry in seat.released.custodians:
                if entry.lineage == seat.released.model:
                    owners.setdefault(model, entry.identity)
    others = [
        digest
        for digest, each in called.items()
        if each.rows is None and digest not in own and digest not in jobs
    ]
    models = [
        Model(
            artifact=digest,
            name=called[digest].name if digest in called else "",
            owner=owners.get(digest),
            mine=owners.get(digest) == identity,
        )
        for digest in dict.fromkeys([*owners, *others])
    ]
    policies = home.appraisal_policies().values()
    return HomeView(
        identity=identity,
        keys_made_at=int((home.folder / "keystore").stat().st_mtime * 1000),
        backed_up=is_backed_up(home),
        broker_runs=broker_runs(home),
        broker_ran=home.log_path.exists(),
        models=tuple(models),
        data=tuple(
            (digest, called.get(digest), each.padded_bytes)
            for digest, each in kinds
            if each.core.kind is ArtifactKind.DATASET
        ),
        entries=keys.entries(),
        simulated=any(each.kind is RootKind.SIMULATED for each in policies),
    )
