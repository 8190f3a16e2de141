"""A spec that exists is one that may be launched: every bad one is refused with its own word."""

import dataclasses
from pathlib import Path

import pytest

from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.spec import (
    SNP_POLICY,
    SNP_POLICY_DEBUG,
    SNP_POLICY_MIGRATE_AGENT,
    TD_ATTRIBUTE_DEBUG,
    TD_ATTRIBUTES,
    MachineSpec,
    Platform,
    SnpShape,
    TdxShape,
    VsockDoor,
    rounded_memory_mib,
)
from tests.provider_agent.machines.golden_specs import EMULATED, SNP, TDX

TWO = ("0000:41:00.0", "0000:41:00.0")


def snp(**changes: object) -> SnpShape:
    return dataclasses.replace(SNP.shape, **changes)


@pytest.mark.parametrize(
    ("good", "change", "code"),
    [
        (SNP, {"shape": snp(policy=SNP_POLICY | SNP_POLICY_DEBUG)}, "debug-policy"),
        (SNP, {"shape": snp(policy=SNP_POLICY | SNP_POLICY_MIGRATE_AGENT)}, "migratable-policy"),
        (SNP, {"shape": snp(policy=1 << 16)}, "bad-shape"),
        (SNP, {"shape": snp(policy=SNP_POLICY | 1 << 40)}, "bad-shape"),
        (SNP, {"shape": snp(cpu_model="host")}, "bad-shape"),
        (SNP, {"shape": snp(cpu_model="EPYC,+avx")}, "bad-shape"),
        (SNP, {"shape": snp(cbitpos=5)}, "bad-shape"),
        (SNP, {"shape": TDX.shape}, "bad-shape"),
        (SNP, {"shape": None}, "bad-shape"),
        (SNP, {"firmware": None}, "bad-firmware"),
        (
            TDX,
            {"shape": TdxShape(attributes=TD_ATTRIBUTES | TD_ATTRIBUTE_DEBUG, quote_port=4050)},
            "debug-policy",
        ),
        (TDX, {"shape": TdxShape(attributes=0, quote_port=0)}, "bad-shape"),
        (TDX, {"firmware": None}, "bad-firmware"),
        (TDX, {"memory_mib": 61 * 1024 + 2}, "bad-memory"),
        (EMULATED, {"shape": SNP.shape}, "bad-shape"),
        (EMULATED, {"gpus": ("0000:41:00.0",)}, "bad-gpu"),
        (EMULATED, {"lease": "leas_,x"}, "bad-lease"),
        (EMULATED, {"memory_mib": 255}, "bad-memory"),
        (EMULATED, {"memory_mib": 1025}, "bad-memory"),
        (EMULATED, {"memory_mib": 1 << 25}, "bad-memory"),
        (EMULATED, {"vcpus": 0}, "bad-vcpus"),
        (EMULATED, {"vcpus": 256}, "bad-vcpus"),
        (EMULATED, {"numa_node": -1}, "bad-numa-node"),
        (EMULATED, {"launch": b""}, "bad-launch"),
        (EMULATED, {"launch": bytes(4097)}, "bad-launch"),
        (EMULATED, {"door": VsockDoor(cid=2)}, "bad-cid"),
        (SNP, {"gpus": TWO}, "bad-gpu"),
        (SNP, {"gpus": ("41:00.0",)}, "bad-gpu"),
        (SNP, {"gpus": ("0000:41:00.0,x-y=1",)}, "bad-gpu"),
        (SNP, {"gpus": tuple(f"0000:{n:02x}:00.0" for n in range(1, 10))}, "bad-gpu"),
    ],
)
def test_a_spec_that_may_not_be_launched_is_refused_with_its_word(
    good: MachineSpec, change: dict, code: str
) -> None:
    with pytest.raises(MachineRefusedError) as refused:
        dataclasses.replace(good, **change)
    assert refused.value.code == code


@pytest.mark.parametrize("field", ["qemu", "kernel", "initrd", "firmware", "root"])
@pytest.mark.parametrize(
    "path", ["kernel", "../kernel", "/a/../kernel", "/a,if=none", "/a\nb", "/a\x00b"]
)
def test_a_path_that_is_relative_or_would_begin_another_option_is_refused(
    field: str, path: str
) -> None:
    with pytest.raises(MachineRefusedError) as refused:
        dataclasses.replace(SNP, **{field: Path(path)})
    assert refused.value.code == "bad-path"


@pytest.mark.parametrize("line", ["console=ttyS0", "panic=-10", "xpanic=-1", "panic=-1\n", "a\x00"])
def test_a_command_line_that_lets_a_panic_stand_still_or_breaks_a_line_is_refused(
    line: str,
) -> None:
    with pytest.raises(MachineRefusedError) as refused:
        dataclasses.replace(EMULATED, command_line=line)
    assert refused.value.code == "bad-command-line"


def test_memory_is_rounded_up_and_on_tdx_to_whole_gib_where_kernels_panic_otherwise() -> None:
    assert rounded_memory_mib(Platform.SNP, 1023) == 1024
    assert rounded_memory_mib(Platform.TDX, 61 * 1024 - 3) == 61 * 1024 - 2
    assert rounded_memory_mib(Platform.TDX, 61 * 1024 + 1) == 62 * 1024
    assert rounded_memory_mib(Platform.SNP, 61 * 1024 + 1) == 61 * 1024 + 2


def test_the_launch_document_is_bound_whole_without_padding() -> None:
    other = dataclasses.replace(SNP, launch=SNP.launch + b".")
    assert (len(SNP.host_data), len(SNP.mrconfigid)) == (32, 48)
    assert SNP.host_data != other.host_data
    assert SNP.mrconfigid != other.mrconfigid
    assert SNP.mrconfigid.rstrip(b"\x00") == SNP.mrconfigid
