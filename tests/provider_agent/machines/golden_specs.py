"""The machines whose command lines are golden files, one argument a line.

``python -m tests.provider_agent.machines.golden_specs`` writes them anew; git shows what changed.
"""

import dataclasses
from pathlib import Path

from provider_agent.machines.arguments import command_line
from provider_agent.machines.spec import (
    SNP_POLICY,
    TD_ATTRIBUTES,
    MachineSpec,
    Platform,
    SerialDoor,
    SnpShape,
    TdxShape,
    VsockDoor,
)
from tests.provider_agent.fakes import lease

GOLDEN = Path(__file__).with_name("golden")
IMAGE = Path("/var/lib/blindhost-images/5f")
LAUNCH = b"a launch document"
COMMAND_LINE = "console=ttyS0 panic=-1 lockdown=integrity swiotlb=262144,force roothash=00ff"

EMULATED = MachineSpec(
    platform=Platform.EMULATED,
    lease=lease(1),
    qemu=Path("/usr/bin/qemu-system-x86_64"),
    memory_mib=1024,
    vcpus=2,
    numa_node=None,
    firmware=None,
    kernel=IMAGE / "kernel",
    initrd=IMAGE / "initrd",
    root=None,
    command_line=COMMAND_LINE,
    launch=LAUNCH,
    door=SerialDoor(),
    gpus=(),
    shape=None,
)
SNP = dataclasses.replace(
    EMULATED,
    platform=Platform.SNP,
    memory_mib=65536,
    vcpus=8,
    numa_node=1,
    firmware=IMAGE / "firmware",
    root=IMAGE / "root",
    gpus=("0000:41:00.0",),
    shape=SnpShape(policy=SNP_POLICY, cpu_model="EPYC-v4", cbitpos=51, reduced_phys_bits=1),
)
TDX = dataclasses.replace(
    SNP,
    platform=Platform.TDX,
    numa_node=None,
    gpus=("0000:41:00.0", "0000:61:00.0"),
    shape=TdxShape(attributes=TD_ATTRIBUTES, quote_port=4050),
)
SPECS = {
    "emulated": EMULATED,
    "emulated_with_disk": dataclasses.replace(EMULATED, root=IMAGE / "root", numa_node=0),
    "snp_with_gpu": SNP,
    "snp_without_gpu": dataclasses.replace(SNP, gpus=(), root=None),
    "snp_vsock": dataclasses.replace(SNP, door=VsockDoor(cid=0x1F00_0001)),
    "tdx_with_two_gpus": TDX,
}


def golden(name: str) -> str:
    return "\n".join(command_line(SPECS[name])) + "\n"


if __name__ == "__main__":
    for name in SPECS:
        (GOLDEN / f"{name}.txt").write_text(golden(name))
