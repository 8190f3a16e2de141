"""The launcher answers whom the host named, in a closed list of verbs; a keeper works with it."""

# ruff: noqa: ASYNC222, ASYNC240 - nothing else runs on a test's loop

import argparse
import asyncio
import contextlib
import dataclasses
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from provider_agent import unix_sockets
from provider_agent.commands.launcher import listener
from provider_agent.errors import LaunchError
from provider_agent.launcher import ChipRefusedError
from provider_agent.machines import wire
from provider_agent.machines.callers import Peer, check_caller, check_door, peer_of
from provider_agent.machines.client import Certificates, MachineLauncher, MachineShape
from provider_agent.machines.config import VERBS, LauncherConfig, read_config
from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.fleet import Fleet
from provider_agent.machines.serve_options import (
    FoundLauncher,
    add_options,
    enrolment_of,
    machine_launcher,
)
from provider_agent.machines.server import LauncherServer
from provider_agent.machines.spec import Platform
from provider_agent.refusals import Enrolment
from tests.provider_agent.fakes import launch_document, lease
from tests.provider_agent.machines.doubles import FIRST, Host, alive
from tests.provider_agent.machines.test_machine_life import until
from trust.errors import DocumentError, EncodingError
from trust.messages import Endorsement

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
CERTIFICATES = Certificates(
    root=b"\x05" * 32, endorsements=(Endorsement(kind="vcek", content=b"a certificate"),)
)


@dataclasses.dataclass
class Running:
    host: Host
    fleet: Fleet
    path: Path

    def client(self, **changes: object) -> MachineLauncher:
        shape = MachineShape(
            platform=self.host.platform, image=self.host.image, memory_mib=1024, vcpus=1, gpus=()
        )
        shape = dataclasses.replace(shape, **changes)
        return MachineLauncher(shape, certificates=CERTIFICATES, path=self.path)

    def door(self) -> Path:
        folder = self.host.folder / "lease-door"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


@contextlib.asynccontextmanager
async def serving(host: Host, **changes: object) -> AsyncIterator[Running]:
    stop = asyncio.Event()
    fleet = host.fleet(**changes)
    server = LauncherServer(fleet, host.config(**changes))
    folder = host.folder / "run"
    folder.mkdir(mode=0o700)
    with unix_sockets.listen(folder, "sock", kind=socket.SOCK_SEQPACKET) as listening:
        task = asyncio.create_task(server.serve(listening, stop))
        try:
            yield Running(host, fleet, folder / "sock")
        finally:
            for record in fleet.view().machines:
                await fleet.stop(record.lease)
            stop.set()
            await task


@pytest_asyncio.fixture
async def running(host: Host) -> AsyncIterator[Running]:
    async with serving(host) as here:
        yield here


async def test_the_keepers_three_verbs_work_as_with_a_chip(running: Running) -> None:
    client = running.client()
    view = await client.launch(launch_document().encode(), running.door())
    assert (view.lease, view.exit) == (lease(), None)
    chip = await client.status()
    assert [each.lease for each in chip.enclaves] == [lease()]
    assert chip.incarnation == running.fleet.view().incarnation
    assert (chip.root, chip.endorsements) == (CERTIFICATES.root, CERTIFICATES.endorsements)
    for port in ("messages", "blobs"):  # QEMU listens where the agent bound
        (await unix_sockets.dial(running.door(), port, kind=socket.SOCK_STREAM)).close()
    waiting = asyncio.create_task(client.wait(lease()))
    await asyncio.sleep(0.05)
    assert (await client.stop(lease())).known
    assert (await waiting).exit == 137
    assert not alive(view.pid)
    assert not (await client.stop(lease())).known
    assert (await client.status()).enclaves == ()
    assert running.host.left_over() == []


async def test_a_refusal_reaches_the_agent_with_its_word(running: Running) -> None:
    with pytest.raises(ChipRefusedError) as refused:
        await running.client(image=bytes(32)).launch(launch_document().encode(), running.door())
    assert refused.value.code == "unknown-image"
    with pytest.raises(ChipRefusedError) as refused:
        await running.client(memory_mib=8192).launch(launch_document().encode(), running.door())
    assert refused.value.code == "too-much-memory"
    with pytest.raises(ChipRefusedError) as refused:
        await running.client().wait(lease(9))
    assert refused.value.code == "unknown"


async def test_a_launch_goes_on_when_the_agent_that_asked_is_gone(running: Running) -> None:
    messages, blobs = running.host.door()
    channel = await unix_sockets.dial(
        running.path.parent, running.path.name, kind=socket.SOCK_SEQPACKET
    )
    with messages, blobs, channel:
        sockets = messages.fileno(), blobs.fileno()
        await unix_sockets.send(channel, wire.encode_packet(running.host.ask()), sockets)
    client = running.client()
    await until(lambda: [m for m in running.fleet.view().machines if m.stage == "ready"])
    assert [each.lease for each in (await client.status()).enclaves] == [lease()]


async def test_a_probe_and_the_stages_are_told(running: Running) -> None:
    assert (await running.client().probe()).qemu_major == 10
    assert (await running.client().machines()).platform is Platform.EMULATED
    with pytest.raises(ChipRefusedError, match="gpu-not-offered"):
        await running.client(gpus=(FIRST,)).prepare_gpu(lease())


async def test_a_launcher_that_is_away_is_an_error_of_the_agents_kind(running: Running) -> None:
    running.path.unlink()
    with pytest.raises(LaunchError, match="no answer to status"):
        await running.client().status()


# --- a closed list -------------------------------------------------------------------------------


def test_the_verbs_are_the_ones_that_the_host_can_read_about() -> None:
    assert sorted(str(kind.TAG) for kind in wire.ASKS) == sorted(VERBS)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "shell", "command": "id"},
        {"name": "status", "flags": "-monitor stdio"},
        {"qemu": "/tmp/qemu"},
        {"kernel": "/tmp/kernel"},
        {"command_line": "init=/bin/sh"},
        {"image": "../../etc"},
        {"gpus": ["0000:41:00.0,x-igd-opregion=on"]},
        {"platform": "none"},
        {"memory_mib": "1024,hugetlb=on"},
        {"memory_mib": -1},
        {"vcpus": 1.5},
    ],
)
def test_an_ask_with_a_path_a_flag_or_a_wrong_type_is_no_ask(host: Host, change: dict) -> None:
    import json

    good = json.loads(wire.encode_packet(host.ask()))
    assert wire.parse_ask(json.dumps(good, separators=(",", ":"), sort_keys=True).encode())
    bad = change if change.get("name") in ("shell", "status") else good | change
    with pytest.raises(EncodingError):
        wire.parse_ask(json.dumps(bad, separators=(",", ":"), sort_keys=True).encode())


async def test_what_is_no_ask_is_answered_and_the_next_one_is_heard(running: Running) -> None:
    with await unix_sockets.dial(
        running.path.parent, running.path.name, kind=socket.SOCK_SEQPACKET
    ) as channel:
        for bad in (b"{", b'{"name":"shell"}', b"[]", b"x" * 4096):
            await unix_sockets.send(channel, bad)
            answer = wire.parse_answer((await unix_sockets.receive(channel)).content)
            assert getattr(answer, "code", None) == "malformed"
        await unix_sockets.send(channel, wire.encode_packet(wire.Status()))
        answer = wire.parse_answer((await unix_sockets.receive(channel)).content)
        assert isinstance(answer, wire.MachinesView)


# --- who may call --------------------------------------------------------------------------------


def snp_config(host: Host, **changes: object) -> LauncherConfig:
    host.platform, host.gpus = Platform.SNP, (FIRST,)
    return host.config(**changes)


def test_a_caller_is_named_by_user_or_group_and_never_root_on_a_real_host(host: Host) -> None:
    config = snp_config(host, caller_uids=(1001,), caller_gids=(4711,))
    check_caller(Peer(pid=1, uid=1001, gids=frozenset({1001})), config)
    check_caller(Peer(pid=1, uid=61234, gids=frozenset({61234, 4711})), config)
    with pytest.raises(MachineRefusedError, match="stranger"):
        check_caller(Peer(pid=1, uid=1002, gids=frozenset({1002})), config)
    with pytest.raises(MachineRefusedError, match="agent-is-root"):
        check_caller(Peer(pid=1, uid=0, gids=frozenset({0, 4711})), config)


async def test_the_kernel_tells_who_calls_with_all_groups() -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two:
        peer = peer_of(one)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert peer.gids >= {os.getgid(), *os.getgroups()}


async def test_a_stranger_is_told_no_before_its_first_packet_is_read(host: Host) -> None:
    async with serving(host, caller_uids=(os.getuid() + 1,)) as here:
        with pytest.raises(ChipRefusedError) as refused:
            await here.client().status()
    assert refused.value.code == "stranger"


def test_an_agent_that_runs_as_root_on_a_real_host_refuses_to_start(tmp_path: Path) -> None:
    shape = MachineShape(
        platform=Platform.SNP, image=bytes(32), memory_mib=1024, vcpus=1, gpus=(FIRST,)
    )
    with pytest.raises(MachineRefusedError, match="agent-is-root"):
        MachineLauncher(shape, certificates=CERTIFICATES, path=tmp_path / "sock", uid=0)
    MachineLauncher(shape, certificates=CERTIFICATES, path=tmp_path / "sock", uid=1000)


@AS_ROOT
async def test_a_launcher_socket_that_is_not_roots_is_not_dialled(running: Running) -> None:
    os.chown(running.path, 65534, -1)
    with pytest.raises(MachineRefusedError, match="launcher-not-root"):
        await running.client().status()


@AS_ROOT
async def test_a_listener_that_is_not_roots_is_not_talked_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(tmp_path / "s"))
    child = os.fork()
    if child == 0:  # the kernel remembers who called listen(2)
        os.setresuid(65534, 65534, 65534)
        listening.listen()
        os._exit(0)
    os.waitpid(child, 0)
    shape = MachineShape(
        platform=Platform.SNP, image=bytes(32), memory_mib=1024, vcpus=1, gpus=(FIRST,)
    )
    client = MachineLauncher(shape, certificates=CERTIFICATES, path=tmp_path / "s", uid=1000)
    with listening, pytest.raises(MachineRefusedError, match="user 65534 listens"):
        await client.status()


# --- what a door may be --------------------------------------------------------------------------


async def test_a_door_that_is_no_pair_of_listening_unix_sockets_is_refused(host: Host) -> None:
    messages, blobs = host.door()
    connected, other = socket.socketpair()
    network = socket.create_server(("127.0.0.1", 0))
    packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with messages, blobs, connected, other, network, packets, host.qemu.open() as file:
        check_door((messages.fileno(), blobs.fileno()))
        for bad in (network, connected, packets, file):
            with pytest.raises(MachineRefusedError, match="bad-door"):
                check_door((messages.fileno(), bad.fileno()))
        for number in ((), (messages.fileno(),)):
            with pytest.raises(MachineRefusedError, match="bad-door"):
                check_door(number)
        fleet = host.fleet()
        with pytest.raises(MachineRefusedError, match="bad-door"):
            await fleet.launch(host.ask(), (messages.fileno(), network.fileno()))


# --- configuration and enrolment -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"caller_uids": (), "caller_gids": ()}, "nobody may call"),
        ({"caller_uids": (0,)}, "never runs as root"),
        ({"units": False}, "units of their own"),
        ({"gpu_tool": None}, "come together"),
        ({"gpus": ()}, "come together"),
        ({"machines_max": 17}, "at most 16"),
        ({"qemu": "qemu"}, "qemu"),
        ({"qemu": "/usr/bin/qemu,x"}, "qemu"),
    ],
)
def test_a_configuration_that_gives_safety_away_is_none(
    host: Host, changes: dict, text: str
) -> None:
    with pytest.raises(DocumentError, match=text):
        snp_config(host, **changes)


def test_gpus_on_the_emulated_platform_are_no_configuration(host: Host) -> None:
    with pytest.raises(DocumentError, match="takes no GPU"):
        host.config(gpus=(FIRST,), gpu_tool="/opt/tool/bin/python")


def test_a_configuration_that_others_can_write_is_refused(host: Host, tmp_path: Path) -> None:
    import json

    path = tmp_path / "launcher.json"
    path.write_text(json.dumps(host.config().to_json()))
    path.chmod(0o644)
    assert read_config(path) == host.config()
    path.chmod(0o664)
    with pytest.raises(MachineRefusedError, match="open-config"):
        read_config(path)
    path.chmod(0o600)
    path.write_text("{}")
    with pytest.raises(MachineRefusedError, match="bad-config"):
        read_config(path)
    with pytest.raises(MachineRefusedError, match="no-config"):
        read_config(tmp_path / "absent")


def test_the_launcher_listens_where_systemd_says_or_says_why_not(tmp_path: Path) -> None:
    with pytest.raises(MachineRefusedError, match="no-socket"):
        listener(None, {})
    with pytest.raises(MachineRefusedError, match="no-socket"):
        listener(None, {"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    tmp_path.chmod(0o700)
    listener(tmp_path / "sock", {}).close()


# --- the agent's options -------------------------------------------------------------------------


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(arguments)


def told(*arguments: str) -> MachineLauncher | None:
    return machine_launcher(options(*arguments), memory_mib=1024, certificates=CERTIFICATES)


async def test_an_agent_finds_the_launcher_that_its_options_name(running: Running) -> None:
    launcher = told(
        *("--launcher", str(running.path), "--machine-platform", "emulated"),
        *("--machine-image", running.host.image.hex()),
    )
    assert launcher is not None
    found = FoundLauncher(launcher)
    assert (await found.find_or_start()).enclaves == ()
    await launcher.launch(launch_document().encode(), running.door())
    await found.stop()  # the service and its machines are not the agent's to end
    assert [each.lease for each in (await found.find_or_start()).enclaves] == [lease()]


def test_without_a_launcher_the_host_serves_a_simulated_chip() -> None:
    assert told() is None


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--machine-platform", "emulated"),
        ("--machine-platform", "emulated", "--machine-image", "00"),
        ("--machine-platform", "emulated", "--machine-image", "zz" * 32),
        ("--machine-platform", "emulated", "--machine-image", "00" * 32, "--machine-gpu", "x"),
    ],
)
def test_half_a_machine_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(MachineRefusedError, match="no-machine"):
        told("--launcher", "/run/blindhost/launcher.sock", *arguments)


def test_an_emulated_host_is_not_enrolled_as_a_real_one() -> None:
    assert {each: enrolment_of(each) for each in Platform} == {
        Platform.SNP: Enrolment.REAL,
        Platform.TDX: Enrolment.REAL,
        Platform.EMULATED: Enrolment.SIMULATED,
    }
