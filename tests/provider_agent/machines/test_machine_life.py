"""A machine's stages, each with its own end; and after every end nothing is left."""

# ruff: noqa: ASYNC240 - nothing else runs on a test's loop

import asyncio
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from provider_agent import unix_sockets
from provider_agent.machines.console import CONSOLE_FILE, OLDER_FILE
from provider_agent.machines.errors import MachineError, MachineExit, MachineRefusedError
from provider_agent.machines.fleet import Fleet
from provider_agent.machines.records import MachineStage
from provider_agent.machines.spec import SNP_POLICY, SNP_POLICY_DEBUG, Platform
from provider_agent.machines.wire import PrepareGpu
from tests.provider_agent.fakes import launch_document, lease
from tests.provider_agent.machines.doubles import FIRST, MEASUREMENT, SECOND, Host, alive
from trust.encoding import digest
from trust.errors import EncodingError

SNP_ANSWERS = {
    "query-sev": {"enabled": True, "sev-type": "sev-snp", "snp-policy": SNP_POLICY},
    "query-sev-capabilities": {"cbitpos": 51, "reduced-phys-bits": 1},
}
TDX_ANSWERS = {"qom-list": [{"name": "tee", "type": "child<tdx-guest>"}]}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a file or a process changes, and tells nobody
            await asyncio.sleep(0.01)


def stage(fleet: Fleet) -> MachineStage | None:
    records = fleet.view().machines
    return records[0].stage if records else None


async def started(host: Host, fleet: Fleet, number: int = 1, **changes: object) -> int:
    """Launch, wait until it is READY; QEMU's number."""
    record = (await host.launch(fleet, number, **changes)).record
    assert record.pid is not None
    await until(lambda: stage(fleet) is MachineStage.READY)
    return record.pid


def children() -> set[str]:
    """Processes of ours, zombies too."""
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def sockets_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def snp(tmp_path: Path) -> Host:
    host = Host(tmp_path, platform=Platform.SNP)
    host.behave(open=["frames", "blobs"], answers=SNP_ANSWERS)
    return host


async def test_a_machine_boots_becomes_ready_by_its_door_and_ends_when_the_guest_powers_off(
    host: Host,
) -> None:
    host.behave()
    fleet = host.fleet()
    view = await host.launch(fleet)
    assert view.record.stage is MachineStage.BOOTING
    assert view.record.measurement == MEASUREMENT
    assert view.record.host_data == digest(launch_document().encode())
    host.behave(open=["frames"])
    await asyncio.sleep(0.1)
    assert stage(fleet) is MachineStage.BOOTING  # one port is no door
    host.behave(open=["frames", "blobs"])
    await until(lambda: stage(fleet) is MachineStage.READY)
    host.behave(open=["frames", "blobs"], event="guest-shutdown")
    answer = await fleet.wait(lease())
    assert (answer.record.exit, answer.record.reason) == (MachineExit.ENDED, "guest-shutdown")
    assert not alive(view.record.pid)
    assert (await fleet.stop(lease())).known
    assert host.left_over() == []
    assert not (await fleet.stop(lease())).known


async def test_every_end_gives_back_all_descriptors(host: Host) -> None:
    fleet = host.fleet()
    before, family = sockets_open(), children()
    await started(host, fleet)
    assert sockets_open() > before
    await fleet.stop(lease())
    host.behave(exit=1, say="no")
    with pytest.raises(MachineError):
        await host.launch(fleet, 2)
    assert (sockets_open(), children()) == (before, family)


async def test_stop_asks_first_and_kills_what_does_not_end(host: Host) -> None:
    host.deadlines = dataclasses.replace(host.deadlines, quit=0.2)
    fleet = host.fleet()
    pid = await started(host, fleet)
    host.behave(open=["frames", "blobs"], ignore_quit=True)
    assert (await fleet.stop(lease())).known
    assert not alive(pid)
    assert host.left_over() == []


# --- each stage that fails -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ({"exit": 1, "say": "qemu: -device x: no\nsuch device\n"}, "start"),
        ({"mute": ["greeting"]}, "monitor-silent"),
        ({"mute": ["qmp_capabilities"]}, "monitor-silent"),
        ({"mute": ["query-version"]}, "monitor-silent"),
        ({"answers": {"query-version": {"qemu": {"major": 7, "minor": 2}}}}, "qemu-version"),
        ({"answers": {"query-version": {}}}, "monitor-refused"),
        ({"answers": {"query-status": {"status": "running"}}}, "not-prelaunch"),
        ({"answers": {"query-status": {"error": {"class": "X", "desc": "no"}}}}, "monitor-refused"),
        ({"answers": {"query-kvm": {"enabled": True}}}, "platform-wrong"),
        ({"answers": {"query-kvm": []}}, "platform-wrong"),
    ],
)
async def test_a_launch_that_fails_before_the_guest_runs_says_where_and_leaves_nothing(
    host: Host, behaviour: dict, code: str
) -> None:
    host.deadlines = dataclasses.replace(host.deadlines, greeting=0.5, answer=0.5)
    host.behave(**behaviour)
    fleet = host.fleet()
    before = sockets_open()
    with pytest.raises(MachineError) as failed:
        await host.launch(fleet)
    assert failed.value.code == code
    assert host.left_over() == []
    assert fleet.view().machines == ()
    assert sockets_open() == before
    if code == "start":
        assert failed.value.text == "qemu: -device x: no such device"


async def test_a_guest_that_does_not_resume_has_a_record_because_it_may_have_run(
    host: Host,
) -> None:
    host.deadlines = dataclasses.replace(host.deadlines, answer=0.3)
    host.behave(mute=["cont"])
    fleet = host.fleet()
    with pytest.raises(MachineError) as failed:
        await host.launch(fleet)
    assert failed.value.code == "resume"
    (record,) = fleet.view().machines
    assert (record.stage, record.exit) == (MachineStage.ENDED, MachineExit.RESUME)
    with pytest.raises(MachineRefusedError, match="exists"):
        await host.launch(fleet)
    await fleet.stop(lease())
    assert host.left_over() == []


async def ended_with(host: Host, fleet: Fleet) -> tuple[int | None, str | None]:
    async with asyncio.timeout(20):
        answer = await fleet.wait(lease())
    found = answer.record.exit, answer.record.reason
    assert not alive(answer.record.pid)
    await fleet.stop(lease())
    assert host.left_over() == []
    return found


async def test_a_marker_that_never_comes_ends_the_machine_at_its_deadline(host: Host) -> None:
    host.deadlines = dataclasses.replace(host.deadlines, boot=0.3)
    host.behave(open=["frames"])
    fleet = host.fleet()
    await host.launch(fleet)
    assert await ended_with(host, fleet) == (MachineExit.BOOT, "boot-timeout")


async def test_a_panic_is_told_from_a_power_off(host: Host) -> None:
    fleet = host.fleet()
    await started(host, fleet)
    host.behave(open=["frames", "blobs"], event="guest-reset")
    assert await ended_with(host, fleet) == (MachineExit.RESET, "guest-reset")


async def test_a_door_that_the_guest_shuts_ends_the_machine_unless_it_opens_again_in_time(
    host: Host,
) -> None:
    host.deadlines = dataclasses.replace(host.deadlines, door=0.4)
    fleet = host.fleet()
    await started(host, fleet)
    host.behave(open=["frames"])
    await asyncio.sleep(0.1)
    host.behave(open=["frames", "blobs"])
    await asyncio.sleep(0.6)
    assert stage(fleet) is MachineStage.READY
    host.behave(open=[])
    assert await ended_with(host, fleet) == (MachineExit.DOOR, "door-shut")


async def test_qemu_killed_by_somebody_is_lost(host: Host) -> None:
    fleet = host.fleet()
    os.kill(await started(host, fleet), 9)
    assert await ended_with(host, fleet) == (MachineExit.LOST, "lost")


async def test_a_machine_that_stands_still_is_ended(host: Host) -> None:
    fleet = host.fleet()
    await started(host, fleet)
    state = {"query-status": {"status": "internal-error", "running": False}}
    host.behave(open=["frames", "blobs"], answers=state)
    assert await ended_with(host, fleet) == (MachineExit.STOOD_STILL, "state-internal-error")


async def test_a_monitor_that_hangs_is_given_some_chances_and_then_the_machine_ends(
    host: Host,
) -> None:
    host.deadlines = dataclasses.replace(host.deadlines, answer=0.1, silent=0.6)
    fleet = host.fleet()
    await started(host, fleet)
    host.behave(open=["frames", "blobs"], mute=["query-status", "query-chardev"])
    await asyncio.sleep(0.15)
    host.behave(open=["frames", "blobs"])
    await asyncio.sleep(0.3)
    assert stage(fleet) is MachineStage.READY  # one hiccup is no end
    host.behave(open=["frames", "blobs"], mute=["query-status", "query-chardev"])
    assert await ended_with(host, fleet) == (MachineExit.MONITOR, "monitor-silent")


async def test_a_second_client_at_the_monitor_waits_and_learns_nothing(host: Host) -> None:
    import socket

    fleet = host.fleet()
    await started(host, fleet)
    folder = host.home / "machines" / lease()
    other = await unix_sockets.dial(folder, "monitor", kind=socket.SOCK_STREAM)
    with other:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(other, 100), 0.3)
        assert stage(fleet) is MachineStage.READY
    await fleet.stop(lease())


async def test_a_chatty_guest_fills_no_disk(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from provider_agent.machines import console

    monkeypatch.setattr(console.ConsoleLog.__init__, "__kwdefaults__", {"bytes_max": 4096})
    host.behave(open=["frames", "blobs"], console="guest says\n" * 20_000)
    fleet = host.fleet()
    await started(host, fleet)
    folder = host.home / "machines" / lease()
    await until((folder / OLDER_FILE).exists)
    await asyncio.sleep(0.2)
    sizes = [
        path.stat().st_size
        for path in (folder / CONSOLE_FILE, folder / OLDER_FILE)
        if path.exists()
    ]
    assert sum(sizes) <= 2 * (4096 + console.READ_BYTES)
    await fleet.stop(lease())


# --- what does not fit, or may not be ------------------------------------------------------------


async def refused(host: Host, fleet: Fleet, number: int = 1, **changes: object) -> str:
    with pytest.raises(MachineError) as error:
        await host.launch(fleet, number, **changes)
    assert error.value.code
    return error.value.code


async def test_more_than_the_host_offers_is_refused_and_what_ended_makes_room(host: Host) -> None:
    fleet = host.fleet(memory_mib=2048, vcpus=2, machines_max=2)
    assert await refused(host, fleet, memory_mib=2049) == "too-much-memory"
    await started(host, fleet)
    assert await refused(host, fleet, 2, memory_mib=1026) == "too-much-memory"
    assert await refused(host, fleet, 2, vcpus=2) == "too-many-vcpus"
    await host.launch(fleet, 2)
    assert await refused(host, fleet, 3, memory_mib=256) == "full"
    await fleet.stop(lease(1))
    assert await refused(host, fleet, 3, memory_mib=256, vcpus=7) == "too-many-vcpus"
    await host.launch(fleet, 3)
    for number in (2, 3):
        await fleet.stop(lease(number))
    assert host.left_over() == []


async def test_a_lease_has_one_machine(host: Host) -> None:
    fleet = host.fleet()
    first, second = await asyncio.gather(
        host.launch(fleet), host.launch(fleet), return_exceptions=True
    )
    assert isinstance(second, MachineRefusedError)
    assert second.code == "exists"
    assert not isinstance(first, BaseException)
    await fleet.stop(lease())


async def test_a_stop_during_the_launch_ends_it(host: Host) -> None:
    host.behave(mute=["greeting"])
    host.deadlines = dataclasses.replace(host.deadlines, greeting=1)
    fleet = host.fleet()
    launching = asyncio.create_task(host.launch(fleet))
    await until(lambda: stage(fleet) is MachineStage.STARTING)
    stopping = asyncio.create_task(fleet.stop(lease()))
    await asyncio.sleep(0.05)
    host.behave(open=["frames", "blobs"])
    with pytest.raises(MachineError):
        await launching
    await stopping
    assert host.left_over() == []


async def test_a_launch_document_that_is_not_whole_is_refused(host: Host) -> None:
    with pytest.raises(EncodingError):
        await host.launch(host.fleet(), document=launch_document().encode()[:-1])
    assert host.left_over() == []


async def test_an_image_that_the_host_did_not_name_is_refused_at_launch(host: Host) -> None:
    assert await refused(host, host.fleet(), image=bytes(32)) == "unknown-image"
    assert host.left_over() == []


async def test_an_agent_that_is_enrolled_as_something_else_is_refused(host: Host) -> None:
    assert await refused(host, host.fleet(), platform=Platform.SNP) == "wrong-rung"


async def test_a_virtual_machine_is_no_host_for_confidential_ones(snp: Host) -> None:
    cpuinfo = snp.root / "proc/cpuinfo"
    cpuinfo.write_text("processor : 0\nflags\t\t: fpu hypervisor sse2\n")
    assert await refused(snp, snp.fleet()) == "virtual-host"
    cpuinfo.write_text("")
    assert await refused(snp, snp.fleet()) == "unknown-host"
    cpuinfo.unlink()
    assert await refused(snp, snp.fleet()) == "unknown-host"
    assert snp.left_over() == []


async def test_a_host_whose_policy_allows_debug_launches_nothing(snp: Host) -> None:
    fleet = snp.fleet(snp_policy=SNP_POLICY | SNP_POLICY_DEBUG)
    assert await refused(snp, fleet, gpus=(FIRST,)) == "debug-policy"
    assert fleet.view().gpus[0].detail == ""
    assert snp.left_over() == []


# --- confidential machines and GPUs, with a QEMU that answers as one would ------------------------


async def test_an_snp_machine_gets_the_c_bit_of_this_host_and_its_gpu_and_gives_it_back(
    snp: Host,
) -> None:
    answers = SNP_ANSWERS | {"query-sev-capabilities": {"cbitpos": 47, "reduced-phys-bits": 5}}
    snp.behave(open=["frames", "blobs"], answers=answers)
    fleet = snp.fleet()
    pid = await started(snp, fleet, gpus=(FIRST,))
    arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    (guest,) = [each for each in arguments if each.startswith("sev-snp-guest")]
    assert guest.endswith(",cbitpos=47,reduced-phys-bits=5")
    assert any(each.startswith(f"vfio-pci,host={FIRST},") for each in arguments)
    assert snp.admin.resets == [FIRST]
    assert await refused(snp, fleet, 2, gpus=(FIRST,)) == "gpu-taken"
    await fleet.stop(lease())
    assert snp.admin.resets == [FIRST, FIRST]
    assert [each.state for each in fleet.view().gpus] == ["free", "free"]
    assert snp.left_over() == []


@pytest.mark.parametrize(
    "answer",
    [
        {"enabled": False},
        {"enabled": True, "sev-type": "sev-es", "snp-policy": SNP_POLICY},
        {"enabled": True, "sev-type": "sev-snp", "snp-policy": SNP_POLICY | SNP_POLICY_DEBUG},
        [],
    ],
)
async def test_a_machine_that_is_not_the_snp_guest_that_was_asked_for_never_runs(
    snp: Host, answer: object
) -> None:
    snp.behave(answers=SNP_ANSWERS | {"query-sev": answer})
    fleet = snp.fleet()
    assert await refused(snp, fleet, gpus=(FIRST,)) == "platform-wrong"
    assert snp.left_over() == []  # and no claim


async def test_a_machine_that_is_no_td_never_runs(tmp_path: Path) -> None:
    host = Host(tmp_path, platform=Platform.TDX)
    host.behave(open=["frames", "blobs"], answers=TDX_ANSWERS)
    fleet = host.fleet()
    await started(host, fleet)
    await fleet.stop(lease())
    host.behave(answers={"qom-list": [{"name": "tee", "type": "child<sev-guest>"}]})
    assert await refused(host, fleet, 2) == "platform-wrong"


async def test_a_gpu_that_is_broken_after_its_lease_is_told_with_its_remedy(snp: Host) -> None:
    fleet = snp.fleet()
    await started(snp, fleet, gpus=(FIRST, SECOND))
    snp.admin.broken.add(SECOND)
    snp.behave(open=["frames", "blobs"], answers=SNP_ANSWERS, event="guest-shutdown")
    answer = await fleet.wait(lease())
    assert answer.record.quarantined == (SECOND,)
    await fleet.stop(lease())
    free, shut = fleet.view().gpus
    assert (free.state, shut.state, shut.detail) == ("free", "quarantined", "gpu-tool")
    assert "cold power cycle" in shut.remedy
    assert await refused(snp, fleet, 2, gpus=(SECOND,)) == "gpu-quarantined"


async def test_gpus_prepared_ahead_are_given_back_when_the_launch_is_refused_or_never_comes(
    snp: Host,
) -> None:
    fleet = snp.fleet()
    await fleet.prepare_gpu(PrepareGpu(lease=lease(1), gpus=(FIRST,)))
    assert await refused(snp, fleet, gpus=(FIRST,), image=bytes(32)) == "unknown-image"
    assert [each.state for each in fleet.view().gpus] == ["free", "free"]
    await fleet.prepare_gpu(PrepareGpu(lease=lease(2), gpus=(FIRST,)))
    assert not (await fleet.stop(lease(2))).known
    assert [each.state for each in fleet.view().gpus] == ["free", "free"]


async def test_a_probe_tells_what_the_hosts_qemu_can_and_leaves_no_process(snp: Host) -> None:
    fleet = snp.fleet()
    probed = await fleet.probe()
    assert (probed.qemu_major, probed.cbitpos, probed.reduced_phys_bits) == (10, 51, 1)
    assert snp.left_over() == []


async def test_a_probe_of_a_qemu_that_knows_no_sev_is_a_refusal(snp: Host) -> None:
    snp.behave(answers=SNP_ANSWERS | {"query-sev-capabilities": {}})
    with pytest.raises(MachineRefusedError, match="no-sev"):
        await snp.fleet().probe()


async def test_a_gpu_on_a_host_that_offers_none_is_refused(tmp_path: Path) -> None:
    host = Host(tmp_path, platform=Platform.SNP)
    host.gpus = ()
    host.behave(open=["frames", "blobs"], answers=SNP_ANSWERS)
    assert await refused(host, host.fleet(), gpus=(FIRST,)) == "gpu-not-offered"
