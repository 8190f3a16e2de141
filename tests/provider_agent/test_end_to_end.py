"""A lease at the real market runs in the real sandbox under the real chip, carried by the relay."""

# ruff: noqa: ASYNC240 - nothing else runs on a test's loop that would have to wait

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from marketplace.wire import LeaseState
from provider_agent import unix_sockets
from provider_agent.cache import BlobCache
from provider_agent.chip_server import ChipServer
from provider_agent.journal import Journal
from provider_agent.keeper import Keeper
from provider_agent.launcher import Launcher
from provider_agent.runtime_image import measure_runtime
from tests.marketplace.api.rig import Rig, chip, root, serve_rig
from tests.marketplace.world import HOST
from tests.provider_agent.fakes import make_runtime
from tests.provider_agent.test_market_client import market
from trust.encoding import digest
from trust.verifier.policy import simulated_policy

REPOSITORY = Path(__file__).parents[2]

ENCLAVE = """
import os, socket
from pathlib import Path
from trust.encoding import digest
from trust.identity import PartyKey
from trust.jobs import LaunchDocument
from trust.messages import (EvidenceBundle, Hello, MeterRequest, Metered, Purpose, Receipt,
    Statement, ReceiptPosted, SignedMessage, parse_message)

launch = LaunchDocument.parse((Path(__file__).parents[1] / "launch").read_bytes())
messages, blobs, chip = (socket.socket(fileno=n) for n in (3, 4, 5))
door, store = messages.accept()[0], blobs.accept()[0]

def exactly(channel, length):
    return channel.recv(length, socket.MSG_WAITALL)

def take():
    body = exactly(door, int.from_bytes(exactly(door, 4), "big"))
    return body[:32], parse_message(body[48:])

def send(payload):
    body = launch.market + os.urandom(16) + payload
    door.sendall(len(body).to_bytes(4, "big") + body)

sender, briefing = take()
assert sender == bytes(32)
send(Hello(version=1, purpose=Purpose.METER, verifier=launch.market, lease=launch.lease).encode())
sender, challenge = take()
assert sender == launch.market
key = PartyKey.generate()
statement = Statement(version=1, purpose=Purpose.METER, verifier=launch.market,
    nonce=challenge.nonce, hpke_key=bytes(1216), signing_key=key.identity, job=launch.job,
    lease=launch.lease, generation=launch.generation, rank=0, ranks=1, launch=launch.digest,
    gpu_evidence=None)
chip.sendall(b"\\x01" + statement.report_data)
assert exactly(chip, 5)[0] == 0
report = exactly(chip, 1184)
send(MeterRequest(evidence=EvidenceBundle(statement=statement.encode(), launch=launch.encode(),
    platform="sev-snp", report=report, gpu=None,
    endorsements=briefing.endorsements).encode()).encode())
assert isinstance(take()[1], Metered)
content = b"sealed checkpoint" * 1000
store.sendall(b"\\x02" + digest(content) + len(content).to_bytes(4, "big") + content)
assert exactly(store, 5) == bytes(5)
store.sendall(b"\\x01" + digest(content) + bytes(4) + len(content).to_bytes(4, "big"))
assert exactly(store, 5) == b"\\x00" + len(content).to_bytes(4, "big")
assert exactly(store, len(content)) == content
receipt = key.sign(Receipt(job=launch.job, lease=launch.lease, generation=launch.generation, rank=0,
    number=1, before=None, milliseconds=0, first_step=0, step=0, tokens=0, committed=None,
    world_size=2, compute_class="cpu/x86", same_class=True, end=None, outputs=()))
send(SignedMessage(signed=receipt.encode()).encode())
assert isinstance(take()[1], ReceiptPosted)
os._exit(0)
"""


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    (tmp_path / "market").mkdir()
    async with serve_rig(tmp_path / "market") as served:
        yield served


@contextlib.asynccontextmanager
async def chip_of(home: Path, runtime: Path) -> AsyncIterator[Launcher]:
    home.mkdir(mode=0o700)
    stop = asyncio.Event()
    server = ChipServer(chip(), runtime=runtime, home=home)
    with unix_sockets.listen(home, "socket", kind=socket.SOCK_SEQPACKET) as listener:
        task = asyncio.create_task(server.serve(listener, stop))
        try:
            yield Launcher(home)
        finally:
            stop.set()
            await task


async def test_a_lease_is_launched_metered_carried_and_torn_down(rig: Rig, tmp_path: Path) -> None:
    runtime = make_runtime(tmp_path / "runtime", program=ENCLAVE)
    image = measure_runtime(runtime)
    rig.home.save_policy(simulated_policy(root().fingerprint, [image]))
    job = await rig.submitted(images=(image,))
    lease = await rig.claimed(job)
    await rig.ordered(job, lease)
    async with chip_of(tmp_path / "chip", runtime) as launcher:
        keeper = Keeper(
            journal=Journal(tmp_path / "leases"),
            market=market(rig),
            chip=launcher,
            cache=BlobCache(tmp_path / "cache", bytes_max=1 << 22),
            clock=lambda: rig.time[0],
        )
        try:
            await keeper.round()
            assert await rig.lease_state(lease) is LeaseState.ATTESTING
            async with asyncio.timeout(60):
                assert (await launcher.wait(lease)).exit == 0
                while keeper.busy:
                    await keeper.round()
            assert await rig.lease_state(lease) is LeaseState.DRAINING
        finally:
            await keeper.close()
        assert (await launcher.status()).enclaves == ()
    # The market challenged the enclave itself, posted its receipt, and has what it stored.
    (receipt,) = await rig.api(HOST).get_receipts(job.digest)
    assert receipt.signed
    content = b"sealed checkpoint" * 1000
    assert await market(rig).get_blob(digest(content)) == content
    assert list((tmp_path / "chip" / "enclaves").iterdir()) == []
    left = {path.name for path in (tmp_path / "leases").rglob("*")}
    assert left <= {lease, "record"}


# --- the command ---------------------------------------------------------------------------------


def agent(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "provider_agent", *arguments]


async def run(*arguments: str) -> dict[str, str]:
    process = await asyncio.create_subprocess_exec(
        *agent(*arguments), stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


async def started(rig: Rig, home: Path, runtime: Path) -> tuple[asyncio.subprocess.Process, dict]:
    process = await asyncio.create_subprocess_exec(
        *agent("serve", "--home", str(home), "--market", rig.url),
        *("--market-identity", rig.market.identity.hex(), "--ask", "5"),
        *("--memory-mib", "512", "--runtime", str(runtime)),
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        async for line in process.stderr:
            if b"listed offer=" in line:
                break
    return process, json.loads((home / "agent.json").read_text())


async def test_the_command_makes_root_and_chip_once(tmp_path: Path) -> None:
    made = await run("simulated-root", "--home", str(tmp_path / "root"))
    again = await run("simulated-root", "--home", str(tmp_path / "root"))
    assert made == again
    arguments = ("simulated-chip", "--root", str(tmp_path / "root"), "--home", str(tmp_path / "a"))
    chip_ = await run(*arguments)
    assert chip_ == await run(*arguments)
    assert chip_["root"] == made["fingerprint"]
    for path in (tmp_path / "root" / "root", tmp_path / "a" / "chip" / "chip"):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_an_agent_finds_its_chip_and_offer_after_a_kill_and_leaves_nothing_when_it_ends(
    rig: Rig, tmp_path: Path, runtime: Path
) -> None:
    import time

    rig.time[0] = time.time_ns() // 1_000_000  # the agent's process has the real clock
    home = tmp_path / "host"
    (home / "chip").mkdir(mode=0o700, parents=True)
    home.chmod(0o700)
    (home / "chip" / "chip").write_bytes(chip().to_bytes())
    first, status = await started(rig, home, runtime)
    first.send_signal(signal.SIGKILL)
    await first.wait()
    second, again = await started(rig, home, runtime)
    assert again["chip_pid"] == status["chip_pid"]
    assert again["identity"] == status["identity"]
    offers = await rig.api(HOST).get_offers()
    assert [each.host.hex() for each in offers] == [again["identity"]]
    second.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        assert await second.wait() == 0
    # The first agent's chip has nobody left to collect it but init, so it may be a zombie yet.
    stat = Path(f"/proc/{again['chip_pid']}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    assert await rig.api(HOST).get_offers() == ()


async def test_two_agents_in_one_home_are_refused(rig: Rig, tmp_path: Path, runtime: Path) -> None:
    import fcntl

    home = tmp_path / "host"
    home.mkdir(mode=0o700)
    with (home / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = await asyncio.create_subprocess_exec(
            *agent("serve", "--home", str(home), "--market", rig.url),
            *("--market-identity", "00" * 32, "--ask", "5"),
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        _, said = await process.communicate()
    assert process.returncode == os.EX_TEMPFAIL
    assert b"another agent" in said


async def test_a_home_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    process = await asyncio.create_subprocess_exec(
        *agent("simulated-root", "--home", str(tmp_path / "open")),
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    _, said = await process.communicate()
    assert process.returncode == os.EX_CONFIG
    assert b"0700" in said
