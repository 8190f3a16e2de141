"""An offer says what was found, and what cannot be read is an error."""

from pathlib import Path

import pytest

from provider_agent.errors import AgentError
from provider_agent.inventory import read_inventory

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
flags\t\t: fpu avx2 avx512f

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 25
flags\t\t: fpu avx2 avx512f
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       8388608 kB\nMemFree: 1 kB\n")
    devices = tmp_path / "sys/bus/pci/devices"
    for address, vendor, kind, device in (
        ("0000:01:00.0", "0x10de", "0x030200", "0x2330"),
        ("0000:01:00.1", "0x10de", "0x040300", "0x22ba"),  # its audio function
        ("0000:02:00.0", "0x1022", "0x060400", "0x14ab"),
        ("0000:03:00.0", "0x10de", "0x030200", "0x2331"),
    ):
        folder = devices / address
        folder.mkdir(parents=True)
        for name, value in (("vendor", vendor), ("class", kind), ("device", device)):
            (folder / name).write_text(value + "\n")
    return tmp_path


def test_a_machine_is_described_as_it_is_laid_out(machine: Path) -> None:
    found = read_inventory(machine)
    assert (found.processors, found.memory_mib) == (2, 8192)
    assert found.gpus == ("0x2330", "0x2331")
    assert found.compute_class("h100") == "processor=AuthenticAMD/25;vectors=AVX512;gpu=h100"


def test_a_machine_without_a_pci_bus_has_no_gpu(machine: Path) -> None:
    import shutil

    shutil.rmtree(machine / "sys")
    assert read_inventory(machine).gpus == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("proc/cpuinfo", ""),
        ("proc/cpuinfo", "processor\t: 0\ncpu family\t: 25\n"),
        ("proc/meminfo", "MemFree: 1 kB\n"),
        ("proc/meminfo", "MemTotal: lots kB\n"),
    ],
)
def test_what_cannot_be_read_is_an_error_and_no_default(
    machine: Path, name: str, content: str
) -> None:
    (machine / name).write_text(content)
    with pytest.raises(AgentError, match="inventory"):
        read_inventory(machine)


def test_this_machine_can_be_described() -> None:
    found = read_inventory(Path("/"))
    assert found.processors >= 1
    assert found.memory_mib > 0
