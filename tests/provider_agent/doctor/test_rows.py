"""Each row has a machine on which it fails, and nothing else does."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from provider_agent.doctor.check import Severity, Status, exit_status
from provider_agent.doctor.render import offers, render
from provider_agent.doctor.rows import FIXED_IDS, ROWS
from tests.provider_agent.doctor.cases import (
    AMD_CASES,
    INTEL_CASES,
    STATUS,
    Change,
    part,
    virtual,
)
from tests.provider_agent.doctor.machines import (
    SNP_ENDORSEMENTS,
    TDX_ENDORSEMENTS,
    Machine,
    emerald_rapids,
    genoa,
    laptop,
)
from trust.encoding import digest
from trust.simulated import SimulatedChip

UNREADABLE = {"snp.bios.tsme", "gpu.firmware", "gpu.ecc"}
"""Rows that no host can read: always unknown, never more than advice."""
POOR = (Status.FAIL, Status.WARN)


def poor(machine: Machine, folder: Path) -> set[str]:
    return {name for name, each in machine.checks(folder).items() if each.status in POOR}


@pytest.mark.parametrize(
    ("name", "_case", "change"), AMD_CASES, ids=[f"{c[0]}-{c[1]}" for c in AMD_CASES]
)
def test_it_fails_alone_on_a_genoa(
    tmp_path: Path, simulated_chip: SimulatedChip, name: str, _case: str, change: Change
) -> None:
    machine = genoa(simulated_chip)
    change(machine)
    assert poor(machine, tmp_path) == {name}


@pytest.mark.parametrize(
    ("name", "_case", "change"), INTEL_CASES, ids=[f"{c[0]}-{c[1]}" for c in INTEL_CASES]
)
def test_it_fails_alone_on_an_emerald_rapids(
    tmp_path: Path, name: str, _case: str, change: Change
) -> None:
    machine = emerald_rapids()
    change(machine)
    assert poor(machine, tmp_path) == {name}


def test_every_row_that_can_be_read_has_its_case() -> None:
    cases = {name for name, _, _ in (*AMD_CASES, *INTEL_CASES)}
    assert cases == {row.id for row in ROWS} - UNREADABLE


# --- whole machines ------------------------------------------------------------------------------


def test_a_good_genoa_passes_everything_that_can_be_read(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    checks = genoa(simulated_chip).checks(tmp_path)
    assert {n for n, c in checks.items() if c.status is Status.UNKNOWN} == UNREADABLE
    assert {n.split(".")[0] for n, c in checks.items() if c.status is Status.SKIP} == {"tdx"}
    assert not [n for n, c in checks.items() if c.status in POOR]
    made = tuple(checks.values())
    assert exit_status(made) == 0
    assert offers(made) == ("sev-snp", "simulated")


def test_a_turins_segmented_rmp_is_no_missing_one(
    tmp_path: Path, turin_chip: SimulatedChip
) -> None:
    checks = genoa(turin_chip, turin=True).checks(tmp_path)
    assert checks["snp.bios.rmp"].actual == "segmented"
    assert exit_status(checks.values()) == 0
    assert not [n for n, c in checks.items() if c.status in POOR]


def test_a_turin_without_segments_and_without_an_end_has_no_table(
    tmp_path: Path, turin_chip: SimulatedChip
) -> None:
    machine = genoa(turin_chip, turin=True)
    machine.answers["msr", 0xC0010136] = 0
    assert poor(machine, tmp_path) == {"snp.bios.rmp"}


def test_a_turin_whose_configuration_refuses_is_unknown(
    tmp_path: Path, turin_chip: SimulatedChip
) -> None:
    machine = genoa(turin_chip, turin=True)
    machine.answers["msr", 0xC0010136] = "!EIO"
    checks = machine.checks(tmp_path)
    assert checks["snp.bios.rmp"].status is Status.UNKNOWN
    assert checks["snp.bios.rmp"].actual is None
    assert "EIO" in str(checks["snp.bios.rmp"].read_error)
    assert exit_status(checks.values()) == 2


def test_a_good_emerald_rapids_passes(tmp_path: Path) -> None:
    checks = emerald_rapids().checks(tmp_path)
    made = tuple(checks.values())
    assert not [n for n, c in checks.items() if c.status in POOR]
    assert {n for n, c in checks.items() if c.status is Status.UNKNOWN} <= UNREADABLE
    assert exit_status(made) == 0
    assert offers(made) == ("tdx", "simulated")


def test_auto_snp_shows_the_setting_and_hides_what_follows_from_it(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    """As such a machine really is: no table, no KVM parameter, a firmware that is not started."""
    machine = genoa(simulated_chip)
    machine.answers["msr", 0xC0010010] = 1 << 23
    machine.answers["msr", 0xC0010132] = machine.answers["msr", 0xC0010133] = 0
    machine.files["sys/module/kvm_amd/parameters/sev_snp"] = "N\n"
    machine.answers["kvm-vm-types",] = 1
    part(STATUS, "state", 0)(machine)
    checks = machine.checks(tmp_path)
    assert {n for n, c in checks.items() if c.status in POOR} == {"snp.bios.snp"}
    for hidden in ("snp.bios.rmp", "snp.kvm", "snp.vm_type", "snp.init", "snp.tcb", "qemu.capable"):
        assert checks[hidden].status is Status.SKIP
        assert checks[hidden].cause == "snp.bios.snp"
    text = render(tuple(checks.values()), vendor="dell")
    first = text.splitlines()[0]
    assert first == "FAILED snp.bios.snp (blocker): SEV-SNP is on in the firmware"
    # The machine's own maker comes first.
    assert text.index("Secure Nested Paging") < text.index("Auto reads as off")


def test_a_grey_tme_hides_the_keys_and_the_module(tmp_path: Path) -> None:
    machine = emerald_rapids()
    machine.answers["msr", 0x982] = machine.answers["msr", 0x87] = 0
    machine.answers["msr", 0x1401] = 0
    machine.answers["command", "dmesg"]["output"] = "virt/tdx: initialization failed (-5)\n"
    checks = machine.checks(tmp_path)
    assert {n for n, c in checks.items() if c.status in POOR} == {"tdx.bios.tme"}
    assert "Limit CPU PA to 46 bits" in render(tuple(checks.values()), vendor="intel")


def test_an_unregistered_platform_has_no_collateral_to_blame(tmp_path: Path) -> None:
    machine = emerald_rapids()
    del machine.files[f"{TDX_ENDORSEMENTS}/tdx-tcb-info"]
    machine.answers["command", "mpa-status"] = {"status": 1, "output": "no such device"}
    machine.files["var/log/mpa_registration.log"] = "INFO: Registration Flow - failed, error 5\n"
    assert poor(machine, tmp_path) == {"tdx.registered"}


def test_a_virtual_machine_hears_one_thing(tmp_path: Path, simulated_chip: SimulatedChip) -> None:
    """Its brand says EPYC, every register is zero: all of that follows from the first."""
    machine = genoa(simulated_chip)
    virtual(machine)
    for question in machine.answers:
        if question[0] in ("msr", "cpuid"):
            machine.answers[question] = 0
    del machine.files["dev/sev"]
    checks = machine.checks(tmp_path)
    assert {n for n, c in checks.items() if c.status in POOR} == {"host.bare_metal"}
    assert exit_status(checks.values()) == 1


def test_a_laptop_fails_and_is_offered_the_simulated_platform_by_its_commands(
    tmp_path: Path,
) -> None:
    made = tuple(laptop().checks(tmp_path).values())
    assert exit_status(made) == 1
    assert offers(made) == ("simulated",)
    text = render(made, vendor=None)
    assert "cpu.generation" in text
    assert "no confidential platform" in text
    assert "blindhost-agent selftest --home HOME --platform simulated" in text
    assert "never listed as confidential" in " ".join(text.split())


def test_a_whole_hopper_board_may_have_ppcie_on(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    machine = genoa(simulated_chip)
    for number in range(2, 8):
        machine.add_gpu(f"0000:a{number}:00.0", group=20 + number)
    for number in range(4):
        machine.add_device(
            f"0000:b{number}:00.0",
            vendor=0x10DE,
            device=0x22A3,
            kind=0x0680,
            group=40 + number,
            driver="vfio-pci",
        )
    for question in machine.answers:
        if question[-1] == "ppcie-mode":
            machine.answers[question] = "on"
    assert machine.checks(tmp_path / "two-vms")["gpu.ppcie"].status is Status.FAIL
    machine.wanted = type(machine.wanted)(gpus=8, vms=1)
    assert machine.checks(tmp_path / "one-vm")["gpu.ppcie"].status is Status.PASS


def test_other_endorsements_than_the_pinned_are_nobodys(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    machine = genoa(simulated_chip)
    machine.roots = None  # the vendors' own
    checks = machine.checks(tmp_path)
    assert checks["snp.vcek"].status is Status.FAIL
    assert checks["snp.vcek"].actual == "a root that is nobody's"


@pytest.mark.parametrize("kind", ["vcek", "ask", "ark"])
def test_a_chain_with_a_flipped_bit_does_not_hold(
    tmp_path: Path, simulated_chip: SimulatedChip, kind: str
) -> None:
    machine = genoa(simulated_chip)
    content = machine.files[f"{SNP_ENDORSEMENTS}/{kind}"]
    assert isinstance(content, bytes)
    changed = content[:-1] + bytes([content[-1] ^ 1])  # of the signature
    machine.files[f"{SNP_ENDORSEMENTS}/{kind}"] = changed
    if kind == "ark":  # as if somebody had pinned that very copy
        machine.roots = frozenset({digest(changed)})
    checks = machine.checks(tmp_path)
    assert {n for n, c in checks.items() if c.status in POOR} == {"snp.vcek"}
    assert checks["snp.vcek"].actual == "a chain that does not hold"


def test_the_key_of_an_older_tcb_is_another_key(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    machine = genoa(simulated_chip)
    newer = bytes((10, 0, 0, 0, 0, 0, 28, 88)).hex()
    machine.answers[STATUS] |= {"reported_tcb": newer, "current_tcb": newer}
    assert poor(machine, tmp_path) == {"snp.vcek"}


def test_a_revocation_list_that_has_run_out_is_none(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    machine = genoa(simulated_chip)
    machine.now += dt.timedelta(days=366)
    checks = machine.checks(tmp_path)
    assert {n for n, c in checks.items() if c.status in POOR} == {"snp.vcek"}
    assert checks["snp.vcek"].actual == "a revocation list that has run out"


# --- what the rows promise -----------------------------------------------------------------------


def test_rows_have_one_id_each_and_stand_after_their_parents() -> None:
    seen: set[str] = set()
    for row in ROWS:
        assert row.id not in seen
        assert set(row.depends_on) <= seen, row.id
        seen.add(row.id)
    assert seen >= FIXED_IDS


def test_every_row_says_why_and_what_to_do() -> None:
    for row in ROWS:
        assert row.purpose.endswith("."), row.id
        assert row.remedies, row.id


def test_a_blockers_parents_are_blockers() -> None:
    """Otherwise a smaller matter would hide one that decides."""
    by_id = {row.id: row for row in ROWS}
    for row in ROWS:
        if row.severity is Severity.BLOCKER:
            assert all(by_id[each].severity is Severity.BLOCKER for each in row.depends_on), row.id


def test_what_nobody_can_read_is_no_more_than_advice() -> None:
    assert {r.id for r in ROWS if not r.read} == UNREADABLE
    assert all(r.severity is Severity.ADVICE for r in ROWS if r.id in UNREADABLE)
