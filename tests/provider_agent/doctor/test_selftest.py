"""A selftest believes nothing that it did not verify, says where it ended, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from provider_agent import unix_sockets
from provider_agent.chip_server import ChipServer
from provider_agent.doctor.check import Check, Status, exit_status
from provider_agent.doctor.selftest import Bench, check_platform
from provider_agent.doctor.selftest_job import make_job, make_model
from provider_agent.doctor.selftest_rows import Facts, make_rows
from provider_agent.doctor.view import HostView
from provider_agent.errors import LaunchError
from provider_agent.launcher import Launcher
from provider_agent.runtime_image import measure_runtime
from provider_agent.simulated_chip import CHIP_FILE
from tests.provider_agent.fakes import make_runtime
from trust.model_files import check_model_files, parse_safetensors_header
from trust.simulated import SimulatedChip

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)  # the chip's certificates begin that day
WEIGHTS = 3 << 20

# The protocol as far as a selftest sees it, without any work behind it.
ENCLAVE = """
import os, socket, time
from trust.artifacts import Manifest
from trust.identity import PartyKey, verify_signed
from trust.jobs import JobManifest, LaunchDocument
from trust.messages import (
    End, EvidenceBundle, Hello, Metered, MeterRequest, Purpose, Receipt, ReleaseRequest,
    SignedMessage, Statement, parse_message
)
from trust.sealing import HpkePrivateKey
launch_bytes = open("/image/launch", "rb").read()
launch = LaunchDocument.parse(launch_bytes)
chip = socket.socket(fileno=5)
channel, _ = socket.socket(fileno=3).accept()
file = channel.makefile("rb")
def receive():
    body = file.read(int.from_bytes(file.read(4), "big"))
    return parse_message(body[48:])
def send(peer, payload):
    body = peer + os.urandom(16) + payload
    channel.sendall(len(body).to_bytes(4, "big") + body)
briefing = receive()
job = verify_signed(JobManifest, briefing.job, signer=None)
key, hpke = PartyKey.generate(), HpkePrivateKey.generate()
#BEFORE
for verifier, purpose in ((job.signer, Purpose.RELEASE), (launch.market, Purpose.METER)):
    hello = Hello(version=1, purpose=purpose, verifier=verifier, lease=launch.lease)
    send(verifier, hello.encode())
    challenge = receive()
    fields = dict(
        version=1, purpose=purpose, verifier=verifier, nonce=challenge.nonce, hpke_key=hpke.public,
        signing_key=key.identity, job=launch.job, lease=launch.lease, generation=1, rank=0, ranks=1,
        launch=launch.digest, gpu_evidence=None,
    )
    #FIELDS
    statement = Statement(**fields)
    chip.sendall(b"\\1" + statement.report_data)
    chip.recv(5, socket.MSG_WAITALL)
    report = chip.recv(1184, socket.MSG_WAITALL)
    bundle = dict(
        statement=statement.encode(), launch=launch_bytes, platform="sev-snp", report=report,
        gpu=None,
        endorsements=briefing.endorsements,
    )
    #BUNDLE
    evidence = EvidenceBundle(**bundle).encode()
    if purpose is Purpose.METER:
        request = MeterRequest(evidence=evidence)
    else:
        request = ReleaseRequest(
            evidence=evidence, job=briefing.job, order=briefing.order, terms=briefing.terms,
            manifests=briefing.manifests,
        )
    send(verifier, request.encode())
    receive()
#AFTER
blobs, _ = socket.socket(fileno=4).accept()
answers = blobs.makefile("rb")
def read(sha256, length):
    blobs.sendall(b"\\1" + sha256 + bytes(4) + length.to_bytes(4, "big"))
    assert answers.read(1) == b"\\0"
    return answers.read(int.from_bytes(answers.read(4), "big"))
manifest = verify_signed(Manifest, briefing.manifests[0], signer=None).document
names = read(manifest.segment_list, 32 * manifest.segments)
for at in range(0, len(names), 32):
    read(names[at : at + 32], 1 << 20)
receipt = dict(
    job=launch.job, lease=launch.lease, generation=1, rank=0, number=1, before=None, milliseconds=5,
    first_step=0, step=0, tokens=65536, committed=None, world_size=1, compute_class="cpu/test/1",
    same_class=True, end=None, outputs=(),
)
#RECEIPT
send(launch.market, SignedMessage(signed=key.sign(Receipt(**receipt)).encode()).encode())
time.sleep(60)
"""


class Stage:
    """A chip that runs in this process, under a home of an agent's."""

    def __init__(self, home: Path, chip: SimulatedChip) -> None:
        self.home, self.simulated = home, chip

    @contextlib.asynccontextmanager
    async def chip(self, runtime: Path) -> AsyncIterator[None]:
        folder = self.home / "chip"
        folder.mkdir(mode=0o700, parents=True)
        stop = asyncio.Event()
        server = ChipServer(self.simulated, runtime=runtime, home=folder)
        with unix_sockets.listen(folder, "socket", kind=socket.SOCK_SEQPACKET) as listener:
            task = asyncio.create_task(server.serve(listener, stop))
            try:
                yield
            finally:
                stop.set()
                await task

    def bench(self, runtime: Path, **changes: object) -> Bench:
        fields: dict[str, object] = {
            "home": self.home,
            "platform": "simulated",
            "runtime": runtime,
            "view": HostView(root=Path("/")),
            "now": NOW,
            "weights_bytes": WEIGHTS,
            "boot_seconds_max": 20.0,
        }
        return Bench(**(fields | changes))  # type: ignore[arg-type]

    async def test(self, runtime: Path, **changes: object) -> dict[str, Check]:
        async with self.chip(runtime):
            async with asyncio.timeout(60):  # half of what an enclave that goes on may take
                made = await check_platform(self.bench(runtime, **changes))
            assert (await Launcher(self.home / "chip").status()).enclaves == ()
        return by_id(made)


def by_id(made: tuple[Check, ...]) -> dict[str, Check]:
    return {each.row.id.removeprefix("selftest."): each for each in made}


@pytest_asyncio.fixture
async def stage(tmp_path: Path, simulated_chip: SimulatedChip) -> Stage:
    return Stage(tmp_path / "home", simulated_chip)


def runtime_of(folder: Path, **code: str) -> Path:
    """A runtime whose enclave runs `code` at the marks of these names."""
    program = ENCLAVE
    for mark, line in code.items():
        assert f"#{mark.upper()}" in program
        program = program.replace(f"#{mark.upper()}", line)
    return make_runtime(folder / "runtime", program=program)


async def test_a_good_enclave_passes_every_check(stage: Stage, tmp_path: Path) -> None:
    runtime = runtime_of(tmp_path)
    checks = await stage.test(runtime)
    assert {n for n, c in checks.items() if c.status is Status.FAIL} == set()
    assert exit_status(checks.values()) == 0
    assert checks["measurement"].actual == measure_runtime(runtime).hex()
    assert "simulated root" in str(checks["evidence"].actual)
    assert checks["statement"].actual == "both challenges"
    rate = checks["open"].actual
    assert isinstance(rate, int)
    assert rate > 0
    assert isinstance(checks["boot"].actual, int)
    assert checks["receipt"].actual == 1
    assert checks["teardown"].actual == "nothing"
    assert checks["gpu"].status in (Status.SKIP, Status.UNKNOWN)


TAMPERED = {
    "nonce": ("fields['nonce'] = bytes(32)", "", "statement", "nonce"),
    "old nonce of the other purpose": (
        "fields['nonce'] = globals().setdefault('first', challenge.nonce)",
        "",
        "statement",
        "nonce",
    ),
    "purpose": (
        "fields['purpose'] = Purpose.METER if purpose is Purpose.RELEASE else Purpose.RELEASE",
        "",
        "statement",
        "purpose",
    ),
    "lease": ("fields['lease'] = 'leas_' + '1' * 26", "", "statement", "lease"),
    "another statement than was signed": (
        "",
        "bundle['statement'] = Statement(**(fields | {'signing_key': bytes(32)})).encode()",
        "evidence",
        "report-data",
    ),
    "a flipped bit of the report": (
        "",
        "bundle['report'] = report[:0x90] + bytes([report[0x90] ^ 1]) + report[0x91:]",
        "evidence",
        "SNP check",
    ),
    "no revocation list": (
        "",
        "bundle['endorsements'] = tuple(e for e in briefing.endorsements if e.kind != 'crl')",
        "evidence",
        "SNP check",
    ),
    "another platform": ("", "bundle['platform'] = 'tdx'", "evidence", "platform"),
    "another launch document": (
        "",
        "bundle['launch'] = launch_bytes + b' '",
        "statement",
        "launch document",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
async def test_evidence_that_is_not_of_this_enclave_and_this_moment_gets_no_key(
    stage: Stage, tmp_path: Path, case: str
) -> None:
    fields, bundle, failing, words = TAMPERED[case]
    # An enclave that is granted a key all the same would go on to fetch the weights.
    checks = await stage.test(runtime_of(tmp_path, fields=fields, bundle=bundle))
    assert checks[failing].status is Status.FAIL
    assert words in str(checks[failing].actual)
    assert checks["open"].status is Status.SKIP
    assert exit_status(checks.values()) == 1
    assert checks["teardown"].status is Status.PASS


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("os._exit(7)", "ended with status 7"),
        ("channel.sendall(b'\\xff' * 64)", "frame of"),
        ("time.sleep(60)", "nothing after 3 s"),
        ("send(job.signer, b'junk' * 9)", "no message of ours"),
    ],
)
async def test_an_enclave_that_does_not_greet_fails_its_boot(
    stage: Stage, tmp_path: Path, before: str, words: str
) -> None:
    checks = await stage.test(runtime_of(tmp_path, before=before), boot_seconds_max=3.0)
    failed = [n for n, c in checks.items() if c.status is Status.FAIL]
    assert set(failed) == {"boot"}
    assert words in "".join(str(checks[n].actual) for n in failed)
    assert exit_status(checks.values()) == 1


@pytest.mark.parametrize(
    ("receipt", "words"),
    [
        ("receipt['end'] = End.FAILED", "the run ended: failed"),
        ("receipt['lease'] = 'leas_' + '1' * 26", "another job or lease"),
        ("key = PartyKey.generate()", "signed by"),
    ],
)
async def test_a_receipt_of_another_key_lease_or_end_is_none(
    stage: Stage, tmp_path: Path, receipt: str, words: str
) -> None:
    checks = await stage.test(runtime_of(tmp_path, receipt=receipt))
    assert checks["receipt"].status is Status.FAIL
    assert words in str(checks["receipt"].actual)
    assert exit_status(checks.values()) == 1


async def test_another_image_than_the_measured_one_is_named(stage: Stage, tmp_path: Path) -> None:
    """The chip that runs has other files: whatever it signs, the number differs."""
    runtime = runtime_of(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(runtime, other)
    (other / "trust" / "sealing.py").write_bytes(
        (other / "trust" / "sealing.py").read_bytes() + b"\n# changed\n"
    )
    async with stage.chip(other):
        checks = by_id(await check_platform(stage.bench(runtime)))
    assert checks["measurement"].status is Status.FAIL
    assert checks["measurement"].required == measure_runtime(runtime).hex()
    assert checks["evidence"].cause == checks["statement"].cause == "selftest.measurement"
    assert checks["open"].status is Status.SKIP


async def test_evidence_of_a_chip_whose_list_has_run_out_is_refused(
    stage: Stage, tmp_path: Path
) -> None:
    checks = await stage.test(runtime_of(tmp_path), now=NOW + dt.timedelta(days=400))
    assert checks["evidence"].status is Status.FAIL
    assert checks["open"].status is Status.SKIP


async def test_without_a_chip_it_says_how_to_make_one(stage: Stage, tmp_path: Path) -> None:
    (stage.home / "chip").mkdir(mode=0o700, parents=True)
    checks = by_id(await check_platform(stage.bench(runtime_of(tmp_path))))
    assert checks["chip"].status is Status.FAIL
    assert "simulated-chip" in checks["chip"].row.remedies[0].text
    assert {checks[n].cause for n in ("boot", "evidence", "open")} == {"selftest.chip"}


async def test_a_runtime_that_is_not_whole_is_not_started(stage: Stage, tmp_path: Path) -> None:
    runtime = runtime_of(tmp_path)
    (runtime / "constraints.txt").unlink()
    checks = by_id(await check_platform(stage.bench(runtime)))
    assert checks["image"].status is Status.FAIL
    assert not (stage.home / "chip").exists()


@pytest.mark.parametrize(
    ("platform", "parameter"),
    [
        ("sev-snp", "sys/module/kvm_amd/parameters/sev_snp"),
        ("tdx", "sys/module/kvm_intel/parameters/tdx"),
    ],
)
@pytest.mark.parametrize(("value", "status"), [(None, 1), ("N", 1), ("Y", 2)])
async def test_a_platform_that_is_not_there_fails_and_says_so_and_none_passes_unbooted(
    stage: Stage, tmp_path: Path, platform: str, parameter: str, value: str | None, status: int
) -> None:
    if value is not None:
        (tmp_path / "root" / parameter).parent.mkdir(parents=True)
        (tmp_path / "root" / parameter).write_text(value + "\n")
    bench = dataclasses.replace(
        stage.bench(tmp_path, platform=platform), view=HostView(root=tmp_path / "root")
    )
    made = await check_platform(bench)
    assert exit_status(made) == status
    assert not [each for each in made if each.status is Status.PASS]
    found = by_id(made)["platform"]
    if status == 1:
        assert found.actual == "not on this machine"
        assert f"KVM takes no {platform} guest here" in (found.note or "")
    else:
        assert "nothing about it was tested" in (found.note or "")


async def test_a_platform_of_no_vendor_is_refused(stage: Stage, tmp_path: Path) -> None:
    made = await check_platform(stage.bench(tmp_path, platform="sgx"))
    assert exit_status(made) == 1
    assert not [each for each in made if each.status is Status.PASS]


async def test_a_running_agents_chip_is_left_running(stage: Stage, tmp_path: Path) -> None:
    runtime = runtime_of(tmp_path)
    async with stage.chip(runtime):
        before = await Launcher(stage.home / "chip").status()
        await check_platform(stage.bench(runtime))
        assert (await Launcher(stage.home / "chip").status()).incarnation == before.incarnation


def test_the_job_is_one_that_the_enclave_would_take() -> None:
    """Its public files pass the enclave's own schema, and all that it names is there."""
    job = make_job(measurement=bytes(48), weights_bytes=WEIGHTS, now=1_795_000_000_000)
    parsed = job.holdings.jobs[job.launch.job].document
    files, weights = make_model(WEIGHTS)
    checked = check_model_files(files, template=parsed.template)
    header = parse_safetensors_header(weights[: 1 << 16], len(weights))
    shapes = {span.name: span.shape for span in header.tensors}
    assert shapes["model.embed_tokens.weight"] == (
        checked.config["vocab_size"],
        checked.config["hidden_size"],
    )
    assert abs(len(weights) - WEIGHTS) < 100_000
    assert set(job.weights) <= set(job.blobs)
    assert job.weights_bytes > len(weights)
    assert parsed.images == (bytes(48),)


def test_no_two_selftests_share_a_key_or_a_lease() -> None:
    one, two = (
        make_job(measurement=bytes(48), weights_bytes=1 << 16, now=1_795_000_000_000)
        for _ in range(2)
    )
    assert one.launch.lease != two.launch.lease
    assert one.party.identity != two.party.identity
    assert not set(one.weights) & set(two.weights)


def test_rows_of_a_selftest_stand_after_their_parents() -> None:
    seen: set[str] = set()
    for row in make_rows(Facts(platform="simulated")):
        assert set(row.depends_on) <= seen
        seen.add(row.id)


@pytest.mark.slow
async def test_the_real_enclave_boots_is_verified_and_opens_sealed_weights(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    """The installed runtime, a chip in a process of its own: started, used, and stopped again."""
    home = tmp_path / "home"
    (home / "chip").mkdir(mode=0o700, parents=True)
    (home / "chip" / CHIP_FILE).write_bytes(simulated_chip.to_bytes())
    bench = Stage(home, simulated_chip).bench(
        Path(__file__).parents[3], boot_seconds_max=150.0, weights_bytes=8 << 20
    )
    checks = by_id(await check_platform(bench))
    bad = {n: (c.actual, c.read_error) for n, c in checks.items() if c.status is Status.FAIL}
    assert bad == {}
    assert checks["open"].status is Status.PASS
    assert checks["receipt"].status is Status.PASS
    assert exit_status(checks.values()) == 0
    with pytest.raises(LaunchError):  # it was started for the test, and is gone with it
        await Launcher(home / "chip").status()
