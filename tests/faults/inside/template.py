"""Everybody's disk before the first tick: made once, and copied for every run.

Model and rows are sealed and uploaded, terms and policies signed, a job of four steps with a
checkpoint after each is submitted, and its money held: by the shipped code throughout.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from client import buyer
from client.home import Config, Home
from client.keystore import Keystore
from client.market_api import MarketAddress, MarketApi
from client.market_port import HttpMarket
from client.sealed import seal_file, upload
from marketplace import ledger
from marketplace.home import Home as MarketHome
from tests.faults.inside.office import URL_OF_MARKET, Line, Office
from tests.faults.inside.points import Points
from tests.marketplace.world import _migrated, xfer
from tests.trust import makers
from tests.trust import release_world as rw
from trust.artifacts import ArtifactKind, Manifest
from trust.custody import LineageKind
from trust.identity import Signed
from trust.jobs import Input, InputRole, JobManifest, UsePolicy
from trust.verifier.policy import simulated_policy

STEPS: Final = 4
INTERVAL: Final = 1
HOUR: Final = 3_600_000
CREDIT: Final = 1_000_000
WEIGHTS: Final = b"weights " * 500
ROWS: Final = b'{"messages": []}\n' * 100
CUSTODIANS: Final = ("owner", "buyer")


MEMORY: Final = Path("/dev/shm")


def scratch() -> str | None:
    """Where towns are built: in memory, where the system has a place for it; None: anywhere."""
    return str(MEMORY) if os.access(MEMORY, os.W_OK) else None


class Clock:
    """Unix milliseconds; moves when the town says so."""

    def __init__(self) -> None:
        self.now = rw.NOW

    def __call__(self) -> int:
        return self.now


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """A folder with everybody's disk, and the job that was submitted."""

    folder: Path
    job: bytes


_MADE: Final[list[Template]] = []


async def template() -> Template:
    """The template, made at the first call; it goes with the process."""
    if not _MADE:
        folder = Path(tempfile.mkdtemp(prefix="blindhost-inside-", dir=scratch()))
        atexit.register(shutil.rmtree, folder)
        _MADE.append(Template(folder=folder, job=await _make(folder)))
    return _MADE[0]


async def _make(folder: Path) -> bytes:
    market = MarketHome(folder / "market")
    market.load_key()
    (folder / "market" / "market.db").write_bytes(_migrated())
    appraisal = simulated_policy(rw.root().fingerprint, [rw.IMAGE])
    market.save_policy(appraisal)
    clock, points = Clock(), Points()
    office = Office(folder / "market", points=points, clock=clock)
    homes, ports, keys, entries = {}, {}, {}, {}
    for name in CUSTODIANS:
        config = Config(market_url=URL_OF_MARKET, market=office.identity)
        home = homes[name] = Home.create(folder / name, config)
        keys[name] = Keystore.create(home.folder, home.key_file)
        entries[name] = keys[name].new_lineage(LineageKind.SIMULATED)
        api = MarketApi(
            Line(office, name, points),  # type: ignore[arg-type]
            address=MarketAddress(url=URL_OF_MARKET, identity=office.identity),
            key=keys[name].party,
            clock=clock,
        )
        ports[name] = HttpMarket(api)
        policy = UsePolicy(
            version=1,
            custodian=keys[name].party.identity,
            number=1,
            lineages=(entries[name].lineage,),
            appraisal_policy=appraisal.digest,
            jobs_signed_by=None,
            adapter_to=(),
        )
        home.keep_appraisal(appraisal)
        home.keep(keys[name].party.sign(policy))

    async def sealed(
        name: str, kind: ArtifactKind, content: bytes, files: dict[str, bytes]
    ) -> Signed[Manifest]:
        path = folder / "plain"
        path.write_bytes(content)
        signed = seal_file(
            homes[name],
            keys[name],
            kind=kind,
            custodian=entries[name],
            path=path,
            public_files=files,
            step=_no_step,
        )
        path.unlink()
        await upload(homes[name], signed, ports[name], _no_step)
        return signed

    model = await sealed("owner", ArtifactKind.WEIGHTS, WEIGHTS, {"config.json": b"{}"})
    rows = await sealed("buyer", ArtifactKind.DATASET, ROWS, {})
    terms = keys["owner"].party.sign(
        dataclasses.replace(
            makers.terms(),
            owner=keys["owner"].party.identity,
            lineages=(entries["owner"].lineage,),
            expires_at=rw.JOB_ENDS,
        )
    )
    homes["owner"].keep(terms)
    await ports["owner"].put_document(terms.encode())
    base = makers.job_manifest()
    recipe = dataclasses.replace(
        makers.lora(), steps=STEPS, rows_per_step=8, warmup_steps=0, evaluation=None
    )
    manifest = dataclasses.replace(
        base,
        nonce=os.urandom(32),
        buyer=keys["buyer"].party.identity,
        progress_key=keys["buyer"].progress.public,
        inputs=(
            Input(role=InputRole.MODEL, artifact=model.digest),
            Input(role=InputRole.DATASET, artifact=rows.digest),
        ),
        terms=terms.digest,
        recipe=recipe,
        local_ranks=1,
        images=(rw.IMAGE,),
        checkpoint_steps=INTERVAL,
        uncommitted_checkpoints_max=1,
        generations_max=12,
        spend_max_microcredits=2 * CREDIT,
        ceiling_microcredits_per_step=100_000,
        expires_at=rw.NOW + 24 * HOUR,
    )
    job: Signed[JobManifest] = buyer.sign_job(
        homes["buyer"],
        keys["buyer"],
        manifest,
        terms=terms,
        manifests={model.digest: model, rows.digest: rows},
        now=clock(),
    )
    assert office.market is not None
    with office.market.store.transaction() as session:
        paid = ledger.TopUp(
            id=xfer(), buyer=keys["buyer"].party.identity, provider="test", amount=20 * CREDIT
        )
        assert ledger.top_up(session, paid, clock()) is ledger.LedgerResult.CREATED
    await ports["buyer"].submit_job(job)
    office.close()
    return job.digest


def _no_step(_done: int, _total: int) -> None:
    pass
