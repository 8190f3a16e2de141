"""`blindhost job submit --adapter`, `job stop` and `gateway`: a served model's life by commands."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.cli.job import FILLED
from client.cli.serve import load_gateway_key
from client.client_key import load_client_key
from client.files import HomeError
from client.home import Home
from marketplace.wire import JobDocuments, JobState, JobView, LeaseState, LeaseView, MoneyView
from tests.client.serve_stage import RECIPE, ServeStage
from tests.client.test_cli import ROOT, blindhost, init, market
from tests.client.test_serve_jobs import Bench
from tests.trust import makers
from tests.trust import release_world as rw
from trust.artifacts import Manifest
from trust.identity import PartyKey, Signed, verify_signed
from trust.jobs import Close, GenerationOrder, JobKind, JobManifest, RankLease, Terms
from trust.messages import FollowUpKind, SignedMessage, Statement, lease_address, parse_message
from trust.release_budget import UNBOUNDED
from trust.release_state import NOTHING_USED, FollowedUp, Ordered, Released

__all__ = ["market"]  # a fixture


class FakeApi:
    """`client.market_api.MarketApi`, as far as these commands ask it."""

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self.documents: dict[bytes, bytes] = {}
        self.put: list[bytes] = []
        self.blobs: list[bytes] = []
        self.submitted: list[Signed[JobManifest]] = []
        self.posted: list[tuple[bytes, bytes]] = []
        self.closed: list[Signed[Close]] = []
        self.state = JobState.RUNNING
        self.ends_when_asked = True
        self.terms: Signed[Terms] | None = None
        self.job = bytes(32)

    async def get_document(self, sha256: bytes) -> bytes:
        return self.documents[sha256]

    async def get_terms(self, owner: bytes, lineage: bytes) -> Signed[Terms]:
        assert self.terms is not None
        return self.terms

    async def put_document(self, document: bytes) -> None:
        self.put.append(document)

    async def put_blob(self, content: bytes) -> None:
        self.blobs.append(content)

    async def submit_job(self, manifest: Signed[JobManifest], *, key: bytes) -> JobView:
        self.submitted.append(manifest)
        return await self.get_job(manifest.digest)

    async def get_job_documents(self, job: bytes) -> JobDocuments:
        manifests = tuple(self.documents.values())
        return JobDocuments(job=b"job", terms=b"terms", manifests=manifests, orders=(), close=None)

    async def post_message(self, box: bytes, payload: bytes, *, message: bytes) -> None:
        self.posted.append((box, payload))
        if self.ends_when_asked:
            self.state = JobState.SUCCEEDED

    async def close_job(self, close: Signed[Close], *, key: bytes) -> None:
        self.closed.append(close)
        self.state = JobState.CANCELLED

    async def get_job(self, job: bytes) -> JobView:
        leases = tuple(
            LeaseView(
                lease=rw.lease(number),
                offer="offr_" + "0" * 26,
                job=job,
                rank=0,
                ranks=1,
                generation=number,
                host=bytes(32),
                price_microcredits_per_gpu_hour=1,
                gpus=1,
                state=LeaseState.READY,
                version=1,
                ready_at=None,
                deadline=None,
            )
            for number in (2, 1)
        )
        return JobView(
            job=job,
            buyer=self.identity,
            owner=bytes(32),
            state=self.state,
            generation=2,
            generation_digest=None,
            waiting_for=None,
            money=MoneyView(reserved=0, captured=0, released=0),
            leases=leases,
            created_at=rw.NOW,
            deadline=None,
        )


def use(monkeypatch: pytest.MonkeyPatch, api: FakeApi) -> None:
    @contextlib.asynccontextmanager
    async def fake(*_: object) -> AsyncIterator[FakeApi]:
        yield api

    for module in ("job", "serve"):
        monkeypatch.setattr(f"client.cli.{module}.market", fake)
        monkeypatch.setattr(f"client.cli.{module}.now_milliseconds", lambda: rw.NOW)
    monkeypatch.setattr("client.cli.serve.POLL_SECONDS", 0.01)


# --- submit --------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> Bench:
    """A home whose log shows a training run of its own, and the adapter that it made."""
    bench = Bench(tmp_path)
    stage = bench.stage
    train = dataclasses.replace(
        makers.job_manifest(), buyer=bench.keys.party.identity, terms=bench.terms.digest
    )
    job = bench.keys.party.sign(train)
    order = bench.keys.party.sign(
        GenerationOrder(
            job=job.digest,
            number=1,
            leases=(RankLease(rank=0, lease=makers.LEASE),),
            expires_at=rw.NOW + rw.HOUR,
            before=None,
        )
    )
    statement: Statement = dataclasses.replace(
        makers.statement(), job=job.digest, signing_key=bench.trainer.identity
    )
    bench.origin = dataclasses.replace(bench.origin, job=job.digest)
    bench.adapter = bench.make()
    released = Released(
        job=job.encode(),
        orders=(order.encode(),),
        statement=statement.encode(),
        terms=bench.terms.digest,
        model=bench.owner_entry.lineage,
        policies=(bytes(32),),
        verdicts=(bytes(32),),
        collateral=(),
        chip_id=None,
        custodians=bench.entries,
        allowance=UNBOUNDED,
        checkpoint=None,
        grant=b"grant",
    )
    shared = FollowedUp(
        job=job.digest,
        generation=1,
        rank=0,
        number=1,
        question=bytes(32),
        kind=FollowUpKind.SHARE,
        account=NOTHING_USED,
        allowance=UNBOUNDED,
        artifacts=(bench.adapter.encode(),),
        grant=b"grant",
    )
    stage.log.append((Ordered(order=order.encode()), released, shared), now=rw.NOW)
    return bench


def job_file(folder: Path, **changed: Any) -> str:
    """The fields of a serve job that a person writes."""
    manifest = dataclasses.replace(makers.serve_manifest(), recipe=RECIPE, **changed)
    filled = FILLED | {"expires_at"}
    fields = {k: v for k, v in manifest.to_json().items() if k not in filled}
    path = folder / "job.json"
    path.write_text(json.dumps(fields))
    return str(path)


def test_serve_job_names_the_homes_client_key_and_the_adapters_of_its_log(
    trained: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = trained.stage.base
    api = FakeApi(trained.keys.party.identity)
    api.documents[base.digest] = base.encode()
    api.terms = trained.terms
    use(monkeypatch, api)
    home = ("--home", str(trained.home.folder))
    what = ("--model", base.digest.hex(), "--image", rw.IMAGE.hex())
    adapter = ("--adapter", trained.adapter.digest.hex())
    blindhost("job", "submit", job_file(tmp_path), *home, *what, *adapter)
    (signed,) = api.submitted
    job = signed.document
    assert job.kind is JobKind.SERVE
    assert job.adapters == (trained.adapter.digest,)
    client = load_client_key(trained.home.folder, trained.keys)
    assert [(each.identity, each.tokens) for each in job.client_keys] == [(client.identity, None)]
    assert api.put == [trained.adapter.encode()]
    assert api.blobs == []
    assert signed.digest in trained.home.load(JobManifest, trained.keys.party.identity)


def test_adapter_that_the_log_does_not_show_is_named_and_nothing_is_sent(
    trained: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, other = trained.stage.base, trained.make()
    api = FakeApi(trained.keys.party.identity)
    api.documents = {base.digest: base.encode(), other.digest: other.encode()}
    api.terms = trained.terms
    use(monkeypatch, api)
    home = ("--home", str(trained.home.folder), "--adapter", other.digest.hex())
    what = ("--model", base.digest.hex(), "--image", rw.IMAGE.hex())
    with pytest.raises(HomeError, match="log shows no output"):
        blindhost("job", "submit", job_file(tmp_path), *home, *what)
    assert (api.put, api.submitted) == ([], [])


# --- stop ----------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path) -> ServeStage:
    return ServeStage(tmp_path)


def stop(stage: ServeStage, job: Signed[JobManifest], *further: str) -> tuple[Any, str]:
    command = ["job", "stop", job.digest.hex(), "--home", str(stage.home.folder), "--json"]
    done = CliRunner().invoke(app, [*command, *further], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_stop_asks_the_newest_leases_enclave_to_end_and_waits_for_it(
    stage: ServeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeApi(stage.keys.party.identity)
    use(monkeypatch, api)
    view, words = stop(stage, stage.job)
    assert view["state"] == "succeeded"
    ((box, payload),) = api.posted
    assert box == lease_address(rw.lease(2))
    message = parse_message(payload)
    assert isinstance(message, SignedMessage)
    close = verify_signed(Close, message.signed, signer=stage.keys.party.identity)
    assert close.document.job == stage.job.digest
    assert api.closed == []
    assert f"asked the enclave under {rw.lease(2)} to end" in " ".join(words.split())


def test_stop_closes_at_the_market_when_the_enclave_does_not_end(
    stage: ServeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeApi(stage.keys.party.identity)
    api.ends_when_asked = False
    documents: tuple[Signed[Manifest], ...] = (stage.base, *stage.adapters)
    api.documents = {each.digest: each.encode() for each in documents}
    use(monkeypatch, api)
    view, words = stop(stage, stage.job, "--timeout", "0")
    assert view["state"] == "cancelled"
    assert "no end within 0 s: closing at the market" in " ".join(words.split())
    told = {stage.owner.identity, stage.keys.party.identity}
    assert {box for box, _ in api.posted} == {lease_address(rw.lease(2)), *told}
    assert [each.document.job for each in api.closed] == [stage.job.digest]


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.STARTING])
def test_stop_closes_a_serve_job_that_nobody_runs_yet_at_once(
    stage: ServeStage, monkeypatch: pytest.MonkeyPatch, state: JobState
) -> None:
    api = FakeApi(stage.keys.party.identity)
    api.state, api.ends_when_asked = state, False
    use(monkeypatch, api)
    stop(stage, stage.job)
    assert [box for box, _ in api.posted] == [stage.keys.party.identity]
    assert len(api.closed) == 1


def test_stop_closes_a_training_job_as_close_does(
    stage: ServeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = dataclasses.replace(makers.job_manifest(), buyer=stage.keys.party.identity)
    job = stage.keys.party.sign(train)
    stage.home.keep(job)
    api = FakeApi(stage.keys.party.identity)
    api.ends_when_asked = False
    use(monkeypatch, api)
    view, _ = stop(stage, job)
    assert view["state"] == "cancelled"
    assert [box for box, _ in api.posted] == [stage.keys.party.identity]


def test_stop_of_a_job_that_has_ended_or_is_anothers_sends_nothing(
    stage: ServeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeApi(stage.keys.party.identity)
    api.state = JobState.EXHAUSTED
    use(monkeypatch, api)
    view, _ = stop(stage, stage.job)
    assert view["state"] == "exhausted"
    stranger = dataclasses.replace(stage.job.document, nonce=bytes(32))
    with pytest.raises(HomeError, match="submitted no job"):
        stop(stage, PartyKey.generate().sign(stranger))
    assert (api.posted, api.closed) == ([], [])


# --- gateway -------------------------------------------------------------------------------------


def test_gateway_key_is_drawn_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "gateway-key"
    key = load_gateway_key(path)
    assert key.startswith("bh-")
    assert len(key) == 3 + 43
    assert load_gateway_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(HomeError, match="only its owner"):
        load_gateway_key(path)
    path.chmod(0o600)
    for bad in ("", "bh-short", "x" * 64):
        path.write_text(bad)
        with pytest.raises(HomeError, match="no key of a gateway"):
            load_gateway_key(path)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> Any:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)  # until it listens
    return json.loads(path.read_bytes())


async def get(url: str, headers: dict[str, str]) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.json()


@pytest.mark.slow
def test_gateway_says_where_it_listens_answers_its_key_alone_and_ends_on_sigterm(
    market: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "buyer"
    init(home, market["url"], market["identity"])
    endpoint = home / "gateway-endpoint.json"
    code = "from client.cli import main; main()"
    command = [sys.executable, "-c", code, "gateway", "--home", str(home), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            said = wait_for(endpoint, process)
            key = Path(said["key_file"]).read_text()
            models = said["url"] + "/v1/models"
            assert asyncio.run(get(models, {}))[0] == 401
            status, found = asyncio.run(get(models, {"Authorization": f"Bearer {key}"}))
            assert (status, found["data"]) == (200, [])
            second = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
            assert second.returncode == 1
            assert b"another gateway" in second.stderr
            assert endpoint.exists()
            process.send_signal(signal.SIGTERM)
            _, words = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, words
    assert b"gateway: ended" in words
    assert key.encode() not in words
    assert not endpoint.exists()
    opened = Home.open(home)
    assert load_client_key(home, opened.keystore()).identity != opened.keystore().party.identity
