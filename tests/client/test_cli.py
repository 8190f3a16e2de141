"""The `blindhost` command, and a broker as a process of its own behind a real market's socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from client.cli import app, main
from client.cli.job import seconds_left
from client.home import Home
from client.market_api import MarketAddress, MarketApi
from marketplace.wire import StoredMessage
from provider_agent.runtime_image import measure_runtime
from tests.client.test_owner_and_buyer import ASSETS, MODEL_FILES, ROW
from tests.trust.release_world import Enclave, World
from trust.identity import PartyKey
from trust.messages import (
    FollowUpKind,
    Progress,
    ProgressEvent,
    Refused,
    ReleaseRequest,
    SignedMessage,
    parse_message,
)

ROOT = Path(__file__).parents[2]
MARKET = "00" * 32


def blindhost(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def init(home: Path, url: str = "http://127.0.0.1:1", identity: str = MARKET) -> Any:
    return blindhost("init", "--home", str(home), "--market", url, "--market-identity", identity)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init(tmp_path / "home")
    return tmp_path / "home"


def fails(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["blindhost", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_init_makes_a_private_home_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert home.stat().st_mode & 0o777 == 0o700
    again = ("--market", "http://127.0.0.1:1", "--market-identity", MARKET)
    assert fails(monkeypatch, "init", "--home", str(home), *again) == 1
    assert "never overwritten" in capsys.readouterr().err


def test_seal_commands_say_what_they_sealed(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in MODEL_FILES:
        (folder / name).write_bytes((ASSETS / name).read_bytes())
    model = blindhost("model", "seal", str(folder), "--home", str(home), "--kind", "simulated")
    rows = str(ASSETS / "eval.jsonl")
    data = blindhost("dataset", "seal", rows, "--home", str(home), "--kind", "simulated")
    assert data["rows"] == 200
    assert len(bytes.fromhex(model["artifact"])) == 32
    assert {each["lineage"] for each in blindhost("lineage", "list", "--home", str(home))} == {
        model["lineage"],
        data["lineage"],
    }


def test_kind_of_a_lineage_has_no_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = str(ASSETS / "eval.jsonl")
    assert fails(monkeypatch, "dataset", "seal", rows, "--home", str(home)) == 2


def test_lineage_is_not_used_as_another_kind(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(ASSETS / "eval.jsonl")
    made = blindhost("dataset", "seal", rows, "--home", str(home), "--kind", "simulated")
    wrong = ("--kind", "real", "--lineage", made["lineage"])
    assert fails(monkeypatch, "dataset", "seal", rows, "--home", str(home), *wrong) == 1
    assert "no real lineage" in capsys.readouterr().err


def test_broken_line_is_named_on_the_command_line(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROW + "{}\n" + ROW)
    seal = ("dataset", "seal", str(path), "--home", str(home), "--kind", "simulated")
    assert fails(monkeypatch, *seal) == 1
    assert "line 2" in capsys.readouterr().err


def test_shredding_wants_to_be_said_in_so_many_words(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = str(ASSETS / "eval.jsonl")
    made = blindhost("dataset", "seal", rows, "--home", str(home), "--kind", "simulated")
    shred = ("lineage", "shred", made["lineage"], "--home", str(home))
    assert fails(monkeypatch, *shred) == 2
    assert len(blindhost("lineage", "list", "--home", str(home))) == 1
    done = CliRunner().invoke(app, [*shred, "--destroy-its-artifacts"], catch_exceptions=False)
    assert done.exit_code == 0
    assert blindhost("lineage", "list", "--home", str(home)) == []


def test_image_measure_refuses_what_does_not_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("__main__.py", "constraints.txt"):
        (tmp_path / name).write_text("")
    for package in ("enclave_runtime", "trust"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    first = blindhost("image", "measure", str(tmp_path))["measurement"]
    assert len(bytes.fromhex(first)) == 48
    (tmp_path / "launch").write_text("differs each time")
    assert blindhost("image", "measure", str(tmp_path))["measurement"] == first
    (tmp_path / "trust" / "__init__.py").write_text("pass")
    assert blindhost("image", "measure", str(tmp_path))["measurement"] != first
    (tmp_path / "sly.so").write_text("")
    assert fails(monkeypatch, "image", "measure", str(tmp_path)) == 1
    assert "does not belong" in capsys.readouterr().err


def test_checkout_measures_what_a_chip_measures_and_leaves_the_rest_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = Path(__file__).parents[2]
    measured = blindhost("image", "measure", str(checkout), "--checkout")["measurement"]
    assert measured == measure_runtime(checkout).hex()
    assert fails(monkeypatch, "image", "measure", str(tmp_path), "--checkout") == 1
    assert "constraints.txt is no regular file" in capsys.readouterr().err


def test_time_left_counts_from_where_this_generation_began() -> None:
    record = Progress(
        job=bytes(32),
        generation=2,
        rank=0,
        number=3,
        event=ProgressEvent.STEP,
        step=100,
        steps=150,
        tokens=0,
        milliseconds=10_000,
        measures=(),
        text="",
        tensors=None,
        resumed_from=None,
    )
    assert seconds_left(record, began_at=75) == 20.0  # 25 steps in 10 s, 50 to go
    assert seconds_left(record, began_at=0) == 5.0
    assert seconds_left(record, began_at=100) is None


def test_job_file_cannot_name_a_buyer(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"buyer": "x"}')
    rest = ("--model", MARKET, "--image", "00" * 48, "--home", str(home))
    assert fails(monkeypatch, "job", "submit", str(path), *rest) == 1
    assert "filled in" in capsys.readouterr().err


def test_unreachable_market_is_one_line_and_status_1(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("client.market_api.BACKOFF_SECONDS", (0.0,) * 4)
    assert fails(monkeypatch, "offers", "--home", str(home)) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("blindhost: MarketUnreachableError")
    assert "Traceback" not in said


# --- real processes ------------------------------------------------------------------------------


@pytest.fixture
def market(tmp_path: Path) -> Iterator[dict[str, str]]:
    folder = tmp_path / "market"
    folder.mkdir(mode=0o700)
    command = [sys.executable, "-m", "marketplace", "serve", "--home", str(folder), "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not (folder / "endpoint.json").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)  # until it listens
            yield json.loads((folder / "endpoint.json").read_bytes())
        finally:
            process.terminate()


@pytest.fixture
def owner(
    market: dict[str, str], tmp_path: Path
) -> Iterator[tuple[bytes, subprocess.Popen[bytes]]]:
    """A party's identity, and its broker as a process of its own."""
    home = tmp_path / "owner"
    identity = bytes.fromhex(init(home, market["url"], market["identity"])["identity"])
    code = "from client.cli import main; main()"
    command = [sys.executable, "-c", code, "broker", "--home", str(home)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            yield identity, process
        finally:
            process.kill()


async def answer_of(api: MarketApi, broker: bytes, payload: bytes, after: int) -> Refused:
    await api.post_message(broker, payload, message=os.urandom(16))
    found: tuple[StoredMessage, ...] = ()
    while not found:
        found = await api.get_messages(api.identity, after=after, wait_seconds=20)
    refused = parse_message(found[0].payload)
    assert isinstance(refused, Refused)
    return refused


@pytest.mark.slow
async def test_brokers_refusals_over_the_real_processes_sockets(
    market: dict[str, str], owner: tuple[bytes, subprocess.Popen[bytes]]
) -> None:
    broker, process = owner
    world, enclave, stranger = World(), Enclave(), PartyKey.generate()
    follow_up = world.follow_up(
        world.owner, enclave, 1, FollowUpKind.ACCOUNT, custodian=broker
    ).encode()
    request = ReleaseRequest(
        evidence=b"\x00", job=world.job.encode(), order=b"\x00", terms=b"\x00", manifests=()
    )
    address = MarketAddress(url=market["url"], identity=bytes.fromhex(market["identity"]))
    async with aiohttp.ClientSession() as session:
        api = MarketApi(session, address=address, key=stranger, clock=now_of_this_machine)
        first = await answer_of(api, broker, request.encode(), 0)
        assert first.code == "evidence-malformed"
        second = await answer_of(api, broker, SignedMessage(signed=follow_up).encode(), 1)
        assert (second.code, second.verifier) == ("no-seat", broker)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert b"broker: ended" in said


@pytest.mark.slow
def test_a_person_opens_a_new_incarnation_and_nobody_else_does(
    market: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "restored"
    init(home, market["url"], market["identity"])
    code = "from client.cli import main; main()"
    command = [sys.executable, "-c", code, "broker", "--home", str(home)]
    for further, wanted in (((), 1), (("--open-incarnation",), 2), ((), 2)):
        with subprocess.Popen([*command, *further], cwd=ROOT, stderr=subprocess.PIPE) as process:
            try:
                address = MarketAddress(
                    url=market["url"], identity=bytes.fromhex(market["identity"])
                )
                assert asyncio.run(incarnation(address, home, wanted)) == wanted
            finally:
                process.kill()


async def incarnation(address: MarketAddress, home: Path, wanted: int) -> int:
    """The incarnation of the head that the market has of this home, once it is `wanted`."""
    key = Home.open(home).keystore().party
    deadline = time.monotonic() + 60
    async with aiohttp.ClientSession() as session:
        api = MarketApi(session, address=address, key=key, clock=now_of_this_machine)
        while time.monotonic() < deadline:
            head = await api.get_head(key.identity)
            if head is not None and head.document.incarnation == wanted:
                break
            await asyncio.sleep(0.05)
    assert head is not None
    return head.document.incarnation


def now_of_this_machine() -> int:
    return time.time_ns() // 1_000_000
