"""The launcher reads a closed list for the doctor, and nothing that is not on it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from provider_agent import unix_sockets
from provider_agent.doctor import cpu_snp, cpu_tdx
from provider_agent.doctor.probe import MappingProbe, Question
from provider_agent.doctor.view import AbsentError, UnreadError
from provider_agent.launcher import ChipRefusedError
from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.readings import READINGS, LauncherProbe, reader_of
from provider_agent.machines.server import LauncherServer
from provider_agent.machines.spec import Platform
from tests.provider_agent.machines.doubles import Host
from tests.provider_agent.machines.test_service import Running, serving

STATUS = {"api_major": 1, "api_minor": 55, "state": 1, "reported_tcb": "00" * 8}
ANSWERS: dict[Question, object] = {
    ("msr", 0xC0010010): 1 << 23 | 1 << 24,
    ("snp-platform-status",): STATUS,
    ("openable", "/dev/sev"): "",
    ("msr", 0x87): "!EIO",
    ("command", "dmesg"): {"status": 0, "output": "secret"},
}


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every server of these tests reads a machine in a mapping."""
    begun = LauncherServer.__init__

    def begin(self: LauncherServer, *arguments: object, **_: object) -> None:
        begun(self, *arguments, reader=MappingProbe(ANSWERS).ask)  # type: ignore[arg-type]

    monkeypatch.setattr(LauncherServer, "__init__", begin)


async def test_what_is_on_the_list_is_read_and_told(host: Host) -> None:
    async with serving(host) as running:
        client = running.client()
        assert json.loads(await client.read("msr:0xc0010010")) == 1 << 23 | 1 << 24
        assert json.loads(await client.read("snp-platform-status")) == STATUS
        with pytest.raises(ChipRefusedError, match=r"unread: msr:0x87: EIO"):
            await client.read("msr:0x87")


@pytest.mark.parametrize(
    "reading",
    ["command:dmesg", "msr:0x10", "/etc/shadow", "", "openable:/dev/mem", "gpu-admin:x:cc-mode"],
)
async def test_nothing_else_is_read_whoever_asks(host: Host, reading: str) -> None:
    async with serving(host) as running:
        with pytest.raises(ChipRefusedError, match="unknown-reading"):
            await running.client().read(reading)


def asked(running: Running, here: dict[Question, object], question: Question) -> object:
    probe = LauncherProbe(MappingProbe(here), reader_of(Platform.EMULATED, running.path))
    return probe.ask(question)


async def test_the_doctor_reads_itself_first_and_asks_for_what_it_may_not(host: Host) -> None:
    syscfg, sev = ("msr", 0xC0010010), ("openable", "/dev/sev")
    async with serving(host) as running:
        for here, question, wanted in (
            ({syscfg: 5}, syscfg, 5),
            ({syscfg: "!EACCES"}, syscfg, 1 << 23 | 1 << 24),
            ({sev: "EACCES"}, sev, ""),
            ({sev: "ENXIO"}, sev, "ENXIO"),
        ):
            assert await asyncio.to_thread(asked, running, here, question) == wanted
        with pytest.raises(AbsentError):  # no module, no register: the launcher has none either
            await asyncio.to_thread(asked, running, {}, syscfg)
        here = {("command", "dmesg"): "!EPERM"}
        with pytest.raises(UnreadError, match=r"EPERM$"):  # not on the list: its own reason alone
            await asyncio.to_thread(asked, running, here, ("command", "dmesg"))


async def test_a_launcher_that_is_away_leaves_the_doctor_with_both_reasons(
    host: Host, tmp_path: Path
) -> None:
    probe = LauncherProbe(
        MappingProbe({("msr", 0x87): "!EACCES"}), reader_of(Platform.EMULATED, tmp_path / "none")
    )
    with pytest.raises(UnreadError, match=r"EACCES; by the launcher: .*no answer to read"):
        await asyncio.to_thread(probe.ask, ("msr", 0x87))


def test_root_asks_no_launcher_of_a_real_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(MachineRefusedError, match="agent-is-root"):
        reader_of(Platform.SNP, Path("/run/none"))


def test_every_register_of_the_doctors_rows_is_on_the_list() -> None:
    read = {each for row in (*cpu_snp.ROWS, *cpu_tdx.ROWS) for each in row.read}
    wanted = {each for each in read if each.startswith("msr:")}
    assert wanted
    assert {f"msr:{int(each.partition(':')[2], 16):#x}" for each in wanted} <= set(READINGS)


def test_every_answer_fits_into_a_packet() -> None:
    assert len(json.dumps(STATUS)) * 4 < unix_sockets.PACKET_BYTES_MAX
