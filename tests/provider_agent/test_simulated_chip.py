"""A chip certifies what it started itself, and each enclave by its own name alone."""

# ruff: noqa: ASYNC240 - nothing else runs on a test's loop that would have to wait

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa

from provider_agent import chip_wire, unix_sockets
from provider_agent.__main__ import NVIDIA_FILE, ROOT_FILE, main
from provider_agent.chip_server import ChipServer
from provider_agent.errors import LaunchError
from provider_agent.launcher import Chip, ChipRefusedError, Launcher
from provider_agent.runtime_image import measure_runtime
from provider_agent.simulated_chip import CHIP_FILE, GPU_FILE
from tests.provider_agent.conftest import NOW
from tests.provider_agent.fakes import Probe, launch_document, lease
from trust.evidence.claims import Product
from trust.evidence.nvidia import parse_gpu_report
from trust.evidence.snp import parse_snp_report
from trust.messages import GpuEvidence
from trust.simulated import SimulatedChip, SimulatedGpu, SimulatedNvidia, SimulatedRoot


class Running:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.launcher = Launcher(home)
        self.probes: list[Probe] = []

    def door(self, number: int) -> Path:
        folder = self.home / f"door{number}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    async def launch(self, number: int) -> tuple[chip_wire.EnclaveView, Probe]:
        view = await self.launcher.launch(launch_document(number).encode(), self.door(number))
        channel = await unix_sockets.dial(self.door(number), "messages", kind=socket.SOCK_STREAM)
        probe = Probe(channel)
        probe.ask_soon("globals().update(chip=socket.socket(fileno=5))")
        self.probes.append(probe)
        return view, probe


@pytest_asyncio.fixture
async def chip(
    tmp_path: Path, runtime: Path, simulated_chip: SimulatedChip
) -> AsyncIterator[Running]:
    async with running(tmp_path, runtime, simulated_chip) as server:
        yield server


@contextlib.asynccontextmanager
async def running(
    home: Path, runtime: Path, simulated_chip: SimulatedChip, gpu: SimulatedGpu | None = None
):
    home.chmod(0o700)
    stop = asyncio.Event()
    server = ChipServer(simulated_chip, runtime=runtime, home=home, gpu=gpu)
    with unix_sockets.listen(home, "socket", kind=socket.SOCK_SEQPACKET) as listener:
        task = asyncio.create_task(server.serve(listener, stop))
        here = Running(home)
        try:
            yield here
        finally:
            stop.set()
            await task
            for probe in here.probes:
                probe.close()


async def ask(probe: Probe, expression: str) -> object:
    return await asyncio.to_thread(probe.ask, expression)


async def report(probe: Probe, report_data: bytes):
    head, content = await ask(
        probe,
        f"(chip.sendall(bytes.fromhex('01{report_data.hex()}')),"
        " chip.recv(5, socket.MSG_WAITALL).hex(), chip.recv(1184, socket.MSG_WAITALL).hex())[1:]",
    )
    assert bytes.fromhex(head) == b"\x00" + (1184).to_bytes(4, "big")
    return parse_snp_report(bytes.fromhex(content))


async def test_a_report_is_of_the_files_and_the_document_that_were_started(
    chip: Running, runtime: Path
) -> None:
    view, probe = await chip.launch(1)
    found = await report(probe, b"\x5a" * 64)
    assert found.report_data == b"\x5a" * 64
    assert found.measurement == view.measurement == measure_runtime(runtime)
    assert found.host_data == view.host_data == launch_document(1).digest
    assert await ask(probe, "open('/image/launch', 'rb').read().hex()") == (
        launch_document(1).encode().hex()
    )


async def test_each_enclave_gets_reports_under_its_own_lease_whatever_it_says(
    chip: Running,
) -> None:
    _, first = await chip.launch(1)
    _, second = await chip.launch(2)
    # It asks with the other's launch digest, in every place that a request has.
    other = launch_document(2).digest * 2
    assert (await report(first, other)).host_data == launch_document(1).digest
    assert (await report(second, other)).host_data == launch_document(2).digest


async def test_a_changed_byte_of_the_runtime_gives_another_measurement(
    tmp_path: Path, runtime: Path, simulated_chip: SimulatedChip
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(runtime, changed)
    (changed / "trust" / "sealing.py").write_bytes(
        (changed / "trust" / "sealing.py").read_bytes() + b"\n# a host was here\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    async with running(home, changed, simulated_chip) as chip:
        view, probe = await chip.launch(1)
        assert view.measurement != measure_runtime(runtime)
        assert (await report(probe, bytes(64))).measurement == view.measurement


@pytest.mark.parametrize("asked", ["01" + "00" * 63, "02" + "00" * 31, "00", "03" + "00" * 64])
async def test_half_a_request_or_another_gets_no_report_and_harms_nobody(
    chip: Running, asked: str
) -> None:
    _, first = await chip.launch(1)
    _, second = await chip.launch(2)
    half = f"(chip.sendall(bytes.fromhex('{asked}')), chip.shutdown(1), chip.recv(5))[2].hex()"
    said = await ask(first, half)
    assert said == ""
    assert (await report(second, bytes(64))).host_data == launch_document(2).digest


async def test_a_lease_has_one_enclave(chip: Running) -> None:
    await chip.launch(1)
    with pytest.raises(ChipRefusedError) as refused:
        await chip.launcher.launch(launch_document(1).encode(), chip.door(9))
    assert refused.value.code == "exists"


@pytest.mark.parametrize("cut", [0, 1, 40])
async def test_a_launch_document_that_is_not_whole_starts_nothing(chip: Running, cut: int) -> None:
    document = launch_document(1).encode()
    bad = document[:-cut] if cut else document.replace(b'"rank":0', b'"rank":0,"rank":0')
    with pytest.raises(ChipRefusedError, match="malformed"):
        await chip.launcher.launch(bad, chip.door(1))
    assert (await chip.launcher.status()).enclaves == ()
    assert list((chip.home / "enclaves").iterdir()) == []


async def test_a_launch_without_its_sockets_is_refused(chip: Running) -> None:
    ask_ = chip_wire.encode_packet(chip_wire.Launch(document=launch_document(1).encode()))
    with await unix_sockets.dial(chip.home, "socket", kind=socket.SOCK_SEQPACKET) as channel:
        await unix_sockets.send(channel, ask_)
        answer = chip_wire.parse_answer((await unix_sockets.receive(channel)).content)
    assert isinstance(answer, chip_wire.ChipRefusal)
    assert answer.code == "malformed"


@pytest.mark.parametrize("packet", [b"{}", b"\x00\xff", b'{"name":"launch"}', b"[" * 5000])
async def test_a_malformed_packet_is_answered_and_the_chip_lives_on(
    chip: Running, packet: bytes
) -> None:
    with await unix_sockets.dial(chip.home, "socket", kind=socket.SOCK_SEQPACKET) as channel:
        await unix_sockets.send(channel, packet)
        answer = chip_wire.parse_answer((await unix_sockets.receive(channel)).content)
        assert isinstance(answer, chip_wire.ChipRefusal)
        # The same connection still answers.
        await unix_sockets.send(channel, chip_wire.encode_packet(chip_wire.Status()))
        answer = chip_wire.parse_answer((await unix_sockets.receive(channel)).content)
        assert isinstance(answer, chip_wire.ChipView)


async def test_stop_leaves_no_process_and_no_file(chip: Running) -> None:
    view, _ = await chip.launch(1)
    assert (await chip.launcher.stop(lease(1))).known
    assert not Path(f"/proc/{view.pid}").exists()
    assert list((chip.home / "enclaves").iterdir()) == []
    assert not (await chip.launcher.stop(lease(1))).known
    with pytest.raises(ChipRefusedError, match="unknown"):
        await chip.launcher.wait(lease(1))


async def test_wait_tells_the_exit_status(chip: Running) -> None:
    _, probe = await chip.launch(1)
    waiting = asyncio.create_task(chip.launcher.wait(lease(1)))
    with contextlib.suppress(ValueError, OSError):
        await ask(probe, "os._exit(7)")
    assert (await waiting).exit == 7
    assert [each.exit for each in (await chip.launcher.status()).enclaves] == [7]


async def test_the_socket_and_the_folder_are_the_owners_alone(chip: Running) -> None:
    assert (chip.home / "socket").stat().st_mode & 0o777 == 0o600
    open_folder = chip.home / "open"
    open_folder.mkdir()
    open_folder.chmod(0o755)
    with pytest.raises(LaunchError, match="0700"):
        await chip.launcher.launch(launch_document(1).encode(), open_folder)


async def test_endorsements_lead_to_the_root_that_is_named(
    chip: Running, simulated_chip: SimulatedChip
) -> None:
    view = await chip.launcher.status()
    assert view.root == simulated_chip.root_fingerprint
    assert tuple((e.kind, e.content) for e in view.endorsements) == simulated_chip.endorsements()


# --- its GPU -------------------------------------------------------------------------------------


def simulated_gpu() -> SimulatedGpu:
    nvidia = SimulatedNvidia.create(NOW)
    return nvidia.staple(nvidia.issue_gpu(bytes(8)), NOW)


async def said_of_gpu(probe: Probe, nonce: bytes) -> tuple[int, bytes]:
    head = await ask(
        probe,
        f"(chip.sendall(bytes.fromhex('02{nonce.hex()}')),"
        " chip.recv(5, socket.MSG_WAITALL).hex())[1]",
    )
    assert isinstance(head, str)
    length = int.from_bytes(bytes.fromhex(head)[1:], "big")
    content = await ask(probe, f"chip.recv({length}, socket.MSG_WAITALL).hex() if {length} else ''")
    assert isinstance(content, str)
    return bytes.fromhex(head)[0], bytes.fromhex(content)


async def test_the_gpu_answers_each_enclave_for_the_nonce_that_it_asks_with(
    tmp_path: Path, runtime: Path, simulated_chip: SimulatedChip
) -> None:
    gpu = simulated_gpu()
    async with running(tmp_path, runtime, simulated_chip, gpu) as chip:
        view, probe = await chip.launch(1)
        for nonce in (b"\x5a" * 32, b"\xa5" * 32):
            status, content = await said_of_gpu(probe, nonce)
            (device,) = GpuEvidence.parse(content).devices
            assert status == 0
            assert parse_gpu_report(device.report).nonce == nonce
            assert device.chain == gpu.chain_pem()
        # The same socket goes on to give reports of this enclave.
        found = await report(probe, b"\x5a" * 64)
        assert found.measurement == view.measurement


async def test_a_machine_without_a_gpu_says_so_and_no_more(chip: Running) -> None:
    _, probe = await chip.launch(1)
    assert await said_of_gpu(probe, bytes(32)) == (2, b"")
    assert (await report(probe, bytes(64))).host_data == launch_document(1).digest


async def test_endorsements_of_the_gpu_come_with_the_chips_in_one_packet(
    tmp_path: Path, runtime: Path, simulated_chip: SimulatedChip
) -> None:
    gpu = simulated_gpu()
    async with running(tmp_path, runtime, simulated_chip, gpu) as chip:
        view = await chip.launcher.status()
    found = tuple((e.kind, e.content) for e in view.endorsements)
    assert found == simulated_chip.endorsements() + gpu.endorsements()
    assert [kind for kind, _ in found] == ["vcek", "ask", "ark", "crl"] + ["gpu-rim"] * 2 + (
        ["gpu-ocsp"] * 6
    )


# --- the process ---------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def home(tmp_path: Path, simulated_chip: SimulatedChip) -> Path:
    home = tmp_path / "chip"
    home.mkdir(mode=0o700)
    (home / CHIP_FILE).write_bytes(simulated_chip.to_bytes())
    return home


@pytest.mark.parametrize("with_gpu", [False, True])
async def test_the_process_has_the_gpu_that_lies_in_its_home(
    home: Path, runtime: Path, with_gpu: bool
) -> None:
    if with_gpu:
        (home / GPU_FILE).write_bytes(simulated_gpu().to_bytes())
    chip = Chip(home, runtime=runtime)
    view = await chip.find_or_start()
    try:
        assert ("gpu-rim" in {each.kind for each in view.endorsements}) == with_gpu
    finally:
        await chip.stop()


async def test_an_enclave_dies_with_its_chip_and_the_next_chip_knows_nothing_of_it(
    home: Path, runtime: Path
) -> None:
    chip = Chip(home, runtime=runtime)
    first = await chip.find_or_start()
    try:
        # Another agent finds the chip that runs.
        assert (await Chip(home, runtime=runtime).find_or_start()).incarnation == first.incarnation
        (door := home / "door").mkdir(mode=0o700)
        view = await Launcher(home).launch(launch_document().encode(), door)
        gone = os.pidfd_open(view.pid)
        try:
            os.kill(first.pid, signal.SIGKILL)
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            loop.add_reader(gone, ended.set)
            await asyncio.wait_for(ended.wait(), 20)
            loop.remove_reader(gone)
        finally:
            os.close(gone)
        second = await chip.find_or_start()
        assert second.incarnation != first.incarnation
        assert second.enclaves == ()
        assert list((home / "enclaves").iterdir()) == []
    finally:
        await chip.stop()
    assert not Path(f"/proc/{second.pid}").exists()


async def test_the_chips_key_is_in_no_enclave_and_no_starter(home: Path, runtime: Path) -> None:
    chip = Chip(home, runtime=runtime)
    found = await chip.find_or_start()
    try:
        (door := home / "door").mkdir(mode=0o700)
        view = await Launcher(home).launch(launch_document().encode(), door)
        status = Path(f"/proc/{view.pid}/status").read_text()
        starter = int(dict(x.split(":\t", 1) for x in status.splitlines() if ":\t" in x)["PPid"])
        assert starter != found.pid
        # An interpreter of its own, started by execve: nothing of the chip's memory is in it.
        assert b"enclosure" in Path(f"/proc/{starter}/cmdline").read_bytes()
    finally:
        await chip.stop()
    assert not Path(f"/proc/{view.pid}").exists()
    assert not Path(f"/proc/{starter}").exists()


async def test_two_chips_in_one_home_are_refused(home: Path, runtime: Path) -> None:
    chip = Chip(home, runtime=runtime)
    await chip.find_or_start()
    try:
        command = [sys.executable, "-m", "provider_agent.simulated_chip", "--home", str(home)]
        second = await asyncio.to_thread(
            subprocess.run,
            command,
            check=False,
            capture_output=True,
            timeout=30,
            cwd=Path(__file__).parents[2],
        )
        assert second.returncode == os.EX_TEMPFAIL
        assert b"another chip" in second.stderr
    finally:
        await chip.stop()


async def test_a_chip_without_its_key_says_so(tmp_path: Path, runtime: Path) -> None:
    (home := tmp_path / "empty").mkdir(mode=0o700)
    with pytest.raises(LaunchError, match="its log says why"):
        await Chip(home, runtime=runtime).find_or_start()
    assert "No such file" in (home / "log").read_text()


# --- the commands --------------------------------------------------------------------------------


def said_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert main(list(arguments)) == 0
    said: dict[str, str] = json.loads(capsys.readouterr().out)
    return said


@pytest.fixture
def maker(tmp_path: Path) -> Path:
    """A home with an AMD root in it, of keys that are quick to make."""
    keys = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
    root = SimulatedRoot.certify(*keys, product=Product.GENOA, now=NOW, revoked_serials=())
    folder = tmp_path / "maker"
    folder.mkdir(mode=0o700)
    (folder / ROOT_FILE).write_bytes(root.to_bytes())
    return folder


def test_the_commands_make_both_vendors_and_a_gpu_once_and_name_all_roots(
    maker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = said_by(capsys, "simulated-root", "--home", str(maker))
    assert made == said_by(capsys, "simulated-root", "--home", str(maker))
    nvidia = SimulatedNvidia.from_bytes((maker / NVIDIA_FILE).read_bytes())
    assert made["nvidia_device_fingerprint"] == nvidia.device_fingerprint.hex()
    assert made["nvidia_rim_fingerprint"] == nvidia.rim_fingerprint.hex()
    arguments = ("simulated-chip", "--root", str(maker), "--home", str(tmp_path / "host"))
    chip = said_by(capsys, *arguments)
    path = tmp_path / "host" / "chip" / GPU_FILE
    first = SimulatedGpu.from_bytes(path.read_bytes())
    assert chip == said_by(capsys, *arguments)
    again = SimulatedGpu.from_bytes(path.read_bytes())
    assert chip["gpu_root"] == made["nvidia_device_fingerprint"]
    assert chip["gpu_serial"] == first.serial
    assert (again.chain, again.key) == (first.chain, first.key)
    assert again.ocsp != first.ocsp  # fresh each time: policies take them for a day
    for secret in (path, maker / NVIDIA_FILE):
        assert secret.stat().st_mode & 0o777 == 0o600


def test_a_root_that_is_older_than_gpus_makes_a_chip_without_one(
    maker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = tmp_path / "host"
    said = said_by(capsys, "simulated-chip", "--root", str(maker), "--home", str(host))
    assert set(said) == {"chip_id", "root"}
    assert not (host / "chip" / GPU_FILE).exists()
