"""The market's process: its home, its address, its command; stopped, restarted, killed."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.market_api import MarketAddress, MarketApi
from marketplace import wire
from marketplace.__main__ import main, wall_clock
from marketplace.home import Home, HomeError
from marketplace.server import Listen
from tests.marketplace.world import BUYER, STRANGER
from trust.encoding import digest
from trust.verifier.policy import simulated_policy

ROOT = Path(__file__).parents[2]
START_SECONDS = 30


def certificate_of(folder: Path) -> tuple[Path, Path, bytes]:
    """A self-signed certificate: its PEM, its key's PEM, SHA-256 of its DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "market")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "market.pem", folder / "market.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return (
        pem,
        secret,
        hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest(),
    )


class Process:
    """`blindhost-market serve`, as an operator starts it."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        command = [sys.executable, "-m", "marketplace", "serve", "--home", str(home), *options]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    async def endpoint(self) -> dict[str, str]:
        """What the endpoint file says, once the process says that it listens."""
        async with asyncio.timeout(START_SECONDS):
            while "listening" not in (
                line := await asyncio.to_thread(self.process.stdout.readline)
            ):
                assert line, f"it ended with {self.process.wait()}"
        return json.loads((self.home / "endpoint.json").read_text())

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        status = self.process.wait(START_SECONDS)
        self.process.stdout.close()
        return status


def address_of(endpoint: dict[str, str]) -> MarketAddress:
    pin = endpoint["certificate_sha256"]
    return MarketAddress(
        url=endpoint["url"],
        identity=bytes.fromhex(endpoint["identity"]),
        certificate_sha256=None if pin is None else bytes.fromhex(pin),
    )


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command as its entry point does, in this process."""

    def command(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["blindhost-market", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code or 0, *capsys.readouterr())

    return command


# --- home ----------------------------------------------------------------------------------------


def test_home_is_its_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "market")
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    home.load_key()
    home.open_store().close()
    for name in ("key", "market.db"):
        assert stat.S_IMODE((home.folder / name).stat().st_mode) == 0o600
    home.folder.chmod(0o750)
    with pytest.raises(HomeError, match="wanted 700"):
        Home(home.folder)


def test_key_is_made_once_and_a_damaged_one_is_never_replaced(tmp_path: Path) -> None:
    home = Home(tmp_path / "market")
    identity = home.load_key().identity
    assert Home(home.folder).load_key().identity == identity
    (home.folder / "key").write_bytes(b"short")
    with pytest.raises(HomeError, match="5 bytes"):
        home.load_key()


def test_policy_is_replaced_whole_and_may_be_absent(tmp_path: Path) -> None:
    home = Home(tmp_path / "market")
    assert home.load_policy() is None
    for number in range(2):
        policy = simulated_policy(bytes([number]) * 32, [bytes(48)])
        home.save_policy(policy)
        assert home.load_policy() == policy


# --- where it listens ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", ""])
def test_plain_http_beyond_loopback_is_refused(host: str) -> None:
    with pytest.raises(HomeError, match="https is wanted"):
        Listen(host=host, port=0, certificate=None, private_key=None).check()


def test_loopback_is_loopback() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        Listen(host=host, port=0, certificate=None, private_key=None).check()


def test_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="together"):
        Listen(host="::1", port=0, certificate=tmp_path, private_key=None).check()


def test_command_refuses_to_bind_beyond_loopback_without_a_certificate(
    tmp_path: Path, run: Run
) -> None:
    done = run("serve", "--home", str(tmp_path / "m"), "--host", "0.0.0.0")
    assert done.returncode == 1
    assert "https is wanted" in done.stderr
    assert not (tmp_path / "m").exists()


# --- the process ---------------------------------------------------------------------------------


async def test_served_over_https_with_the_pinned_certificate(tmp_path: Path) -> None:
    pem, secret, sha256 = certificate_of(tmp_path)
    process = Process(
        tmp_path / "m",
        "--host",
        "127.0.0.1",
        "--certificate",
        str(pem),
        "--private-key",
        str(secret),
    )
    try:
        endpoint = await process.endpoint()
        assert endpoint["certificate_sha256"] == sha256.hex()
        async with aiohttp.ClientSession() as http:
            api = MarketApi(http, address=address_of(endpoint), key=BUYER, clock=wall_clock)
            assert (await api.get_market()).identity.hex() == endpoint["identity"]
    finally:
        assert process.end() == 0


async def test_killed_market_keeps_all_that_it_answered_and_goes_on(
    tmp_path: Path, run: Run
) -> None:
    process = Process(tmp_path / "m")
    try:
        endpoint = await process.endpoint()
        credit = run(
            *("credit", "--home", str(tmp_path / "m"), "--microcredits", "1000"),
            *("--identity", BUYER.identity.hex()),
        )
        assert credit.returncode == 0, credit.stderr
        async with aiohttp.ClientSession() as http:
            api = MarketApi(http, address=address_of(endpoint), key=BUYER, clock=wall_clock)
            blob = await api.put_blob(b"segment")
            await api.post_message(STRANGER.identity, b"hello", message=bytes(16))
            assert (await api.get_account()).available == 1000
    finally:
        process.end(signal.SIGKILL)
    assert (tmp_path / "m" / "endpoint.json").exists()  # stale: the next start replaces it
    process = Process(tmp_path / "m")
    try:
        again = await process.endpoint()
        assert again["identity"] == endpoint["identity"]
        async with aiohttp.ClientSession() as http:
            api = MarketApi(http, address=address_of(again), key=BUYER, clock=wall_clock)
            assert await api.get_blob(blob) == b"segment"
            assert await api.missing_blobs([blob, digest(b"x")]) == (digest(b"x"),)
            stored = await api.post_message(STRANGER.identity, b"hello", message=bytes(16))
            assert stored is wire.StoredResult.EXISTS
            assert (await api.get_account()).available == 1000
    finally:
        assert process.end() == 0
    assert not (tmp_path / "m" / "endpoint.json").exists()


async def test_stop_does_not_wait_for_long_polls(tmp_path: Path) -> None:
    process = Process(tmp_path / "m")
    endpoint = await process.endpoint()
    async with aiohttp.ClientSession() as http:
        api = MarketApi(http, address=address_of(endpoint), key=BUYER, clock=wall_clock)
        await api.get_market()
        waiting = asyncio.create_task(
            api.get_messages(BUYER.identity, after=0, wait_seconds=wire.WAIT_SECONDS_MAX)
        )
        await api.get_account()
        began = asyncio.get_running_loop().time()
        status = await asyncio.to_thread(process.end)
        assert asyncio.get_running_loop().time() - began < 10
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert status == 0


# --- credit and books ----------------------------------------------------------------------------


def test_credit_repeated_under_its_id_counts_once_and_the_books_balance(
    tmp_path: Path, run: Run
) -> None:
    home, name = str(tmp_path / "m"), "xfer_" + "0" * 26
    for wanted in ("created", "exists"):
        done = run(
            *("credit", "--home", home, "--microcredits", "500", "--id", name),
            *("--identity", BUYER.identity.hex()),
        )
        assert (done.returncode, wanted in done.stdout) == (0, True), done.stderr
        assert "available 500" in done.stdout
    other = run(
        *("credit", "--home", home, "--microcredits", "501", "--id", name),
        *("--identity", BUYER.identity.hex()),
    )
    assert other.returncode == 1
    assert "exists_with_different_amount" in other.stderr
    books = run("books", "--home", home, "--json")
    found = json.loads(books.stdout)
    assert found["balanced"] is True
    assert {each["role"]: each["balance"] for each in found["accounts"]} == {
        "external": -500,
        "buyer": 500,
    }
    assert "the books balance" in run("books", "--home", home).stdout


@pytest.mark.parametrize("identity", ["00", "zz" * 32, "AB" * 32])
def test_credit_to_what_is_no_identity_is_refused(tmp_path: Path, run: Run, identity: str) -> None:
    done = run(
        *("credit", "--home", str(tmp_path / "m"), "--microcredits", "1", "--identity", identity)
    )
    assert done.returncode == 1
    assert "hexadecimal" in done.stderr or "32 bytes" in done.stderr


def test_policy_is_named_and_shown(tmp_path: Path, run: Run) -> None:
    home = str(tmp_path / "m")
    assert run("policy", "show", "--home", home).returncode == 1
    roots = ("--root", "01" * 32, "--root", "02" * 32, "--measurement", "03" * 48)
    named = run("policy", "accept-simulated-roots", "--home", home, *roots)
    assert named.returncode == 0, named.stderr
    wanted = simulated_policy(b"\x01" * 32, [b"\x03" * 48], further_roots=[b"\x02" * 32])
    assert wanted.digest.hex() in named.stdout
    shown = run("policy", "show", "--home", home)
    assert wanted.digest.hex() in shown.stdout
    path = tmp_path / "policy"
    path.write_bytes(wanted.encode())
    assert run("policy", "set", "--home", home, str(path)).returncode == 0
    path.write_bytes(wanted.encode()[:-1])
    assert run("policy", "set", "--home", home, str(path)).returncode == 1
    assert [each.name for each in (tmp_path / "m").iterdir()] == ["meter-policy"]
