"""`--fix` writes five files at most, shows them first, and can be taken back to the byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provider_agent.doctor import fix
from provider_agent.doctor.check import Status
from provider_agent.doctor.engine import make_checks
from provider_agent.doctor.fix import HEADER, KVM, MODULES, PATHS, RECORD, SYSCTL, UDEV, VFIO
from provider_agent.doctor.rows import FIXED_IDS, ROWS
from provider_agent.errors import AgentError
from tests.provider_agent.doctor.machines import Machine, genoa
from trust.simulated import SimulatedChip


def tree(root: Path) -> dict[str, object]:
    """Every file with its content and mode, every link, every folder."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = (path.read_bytes(), path.stat().st_mode & 0o777)
    return found


@pytest.fixture
def poor(simulated_chip: SimulatedChip) -> Machine:
    """SNP off in the module, a driver of the host's, no iommufd, huge pages."""
    machine = genoa(simulated_chip)
    machine.files["sys/module/kvm_amd/parameters/sev_snp"] = "N\n"
    machine.files["proc/sys/vm/nr_hugepages"] = "64\n"
    machine.folders.add("sys/module/nouveau")
    machine.files["etc/sysctl.d/60-blindhost.conf"] = "vm.swappiness = 1\n"
    return machine


def planned(machine: Machine, root: Path) -> tuple[fix.Change, ...]:
    context = machine.context(root)
    return fix.plan(make_checks(ROWS, context), context)


def test_a_fix_is_taken_back_to_the_byte(tmp_path: Path, poor: Machine) -> None:
    root = poor.lay(tmp_path)
    (root / SYSCTL).chmod(0o640)
    before = tree(root)
    changes = planned(poor, root)
    assert {each.path for each in changes} == {KVM, VFIO, MODULES, UDEV, SYSCTL}
    fix.apply(root, changes)
    written = tree(root)
    assert {n for n in written if written[n] != before.get(n)} == {
        *PATHS,
        RECORD,
        *("etc/modprobe.d", "etc/modules-load.d", "etc/udev", "etc/udev/rules.d"),
        "var/lib/blindhost-doctor",
    }
    assert (root / VFIO).read_text() == HEADER + (
        "options vfio-pci ids=10de:2331 disable_idle_d3=1\n"
        "softdep nvidia pre: vfio-pci\nsoftdep nouveau pre: vfio-pci\n"
        "blacklist nvidia\nblacklist nouveau\n"
    )
    assert fix.undo(root) == ()
    assert tree(root) == before


def test_the_plan_is_shown_as_a_diff(tmp_path: Path, poor: Machine) -> None:
    diffs = {each.path: each.diff() for each in planned(poor, poor.lay(tmp_path))}
    assert "-vm.swappiness = 1\n" in diffs[SYSCTL]
    assert "+vm.nr_hugepages = 0\n" in diffs[SYSCTL]
    assert diffs[KVM].startswith("--- /dev/null\n+++ /etc/modprobe.d/blindhost-kvm.conf\n")
    assert "+options kvm_amd sev=1 sev-es=1 sev-snp=1\n" in diffs[KVM]


def test_planning_writes_nothing(tmp_path: Path, poor: Machine) -> None:
    root = poor.lay(tmp_path)
    before = tree(root)
    planned(poor, root)
    assert tree(root) == before


def test_a_good_machine_and_one_with_other_faults_get_no_change(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    machine = genoa(simulated_chip)
    assert planned(machine, machine.lay(tmp_path / "good")) == ()
    # Firmware settings, boot loader, GPU mode: never.
    machine.answers["msr", 0xC0010010] = 0
    machine.answers["gpu-admin", "0000:41:00.0", "cc-mode"] = "off"
    machine.files["proc/sys/kernel/osrelease"] = "6.1.0\n"
    assert planned(machine, machine.lay(tmp_path / "bad")) == ()


def test_what_is_promised_to_be_fixed_is_what_is_planned_for(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    """Each id of FIXED_IDS alone gives a plan; no other row's failure does."""
    machine = genoa(simulated_chip)
    context = machine.context(machine.lay(tmp_path))
    made = make_checks(ROWS, context)
    for each in made:
        failed = type(each)(row=each.row, status=Status.FAIL, actual=None, required=None)
        assert bool(fix.plan([failed], context)) == (each.row.id in FIXED_IDS), each.row.id


def test_what_somebody_changed_since_is_left_and_named(tmp_path: Path, poor: Machine) -> None:
    root = poor.lay(tmp_path)
    fix.apply(root, planned(poor, root))
    (root / VFIO).write_text("options vfio-pci ids=1234:5678\n")
    assert fix.undo(root) == (VFIO,)
    assert (root / VFIO).read_text() == "options vfio-pci ids=1234:5678\n"
    assert not (root / KVM).exists()
    assert list(json.loads((root / RECORD).read_text())) == [VFIO]


def test_an_error_half_way_takes_back_what_was_written(
    tmp_path: Path, poor: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = poor.lay(tmp_path)
    before, changes, real = tree(root), planned(poor, root), fix._write

    def full(path: Path, content: bytes, *, mode: int) -> None:
        if path == root / UDEV:
            raise OSError(28, "No space left on device", str(path))
        real(path, content, mode=mode)

    monkeypatch.setattr(fix, "_write", full)
    with pytest.raises(AgentError, match=r"No space left on device; taken back"):
        fix.apply(root, changes)
    monkeypatch.undo()
    assert tree(root) == before


def test_a_file_that_changed_after_it_was_shown_is_not_written(
    tmp_path: Path, poor: Machine
) -> None:
    root = poor.lay(tmp_path)
    changes = planned(poor, root)
    (root / SYSCTL).write_text("vm.swappiness = 2\n")
    before = tree(root)
    with pytest.raises(AgentError, match="has changed since it was shown"):
        fix.apply(root, changes)
    assert tree(root) == before


def test_a_second_fix_does_not_forget_what_the_first_found(tmp_path: Path, poor: Machine) -> None:
    root = poor.lay(tmp_path)
    fix.apply(root, planned(poor, root))
    (root / KVM).write_text("# by hand\n")
    with pytest.raises(AgentError, match="was fixed before"):
        fix.apply(root, [c for c in planned(poor, root) if c.path == KVM])


def test_a_path_that_is_a_link_is_refused(tmp_path: Path, poor: Machine) -> None:
    root = poor.lay(tmp_path)
    (root / "etc/modprobe.d").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / KVM).symlink_to("../passwd")
    changes = [c for c in planned(poor, root) if c.path == KVM]
    with pytest.raises(AgentError, match="is a link"):
        fix.apply(root, changes)
    assert (root / "etc/passwd").read_text() == "root:x:0:0::/:/bin/sh\n"


def test_no_other_path_is_ever_written(tmp_path: Path) -> None:
    change = fix.Change(path="etc/default/grub", before=None, after=b"x")
    with pytest.raises(AgentError, match="no file of this program"):
        fix.apply(tmp_path, [change])
    assert list(tmp_path.iterdir()) == []


_ENTRY = '{"before": null, "after_sha256": "", "folders": ["var"], "mode": null}'


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[]",
        '{"etc/passwd": {"before": null, "after_sha256": "", "folders": [], "mode": null}}',
        '{"etc/sysctl.d/60-blindhost.conf": {"before": null, "folders": ["var"]}}',
        '{"etc/sysctl.d/60-blindhost.conf": ' + _ENTRY + "}",
    ],
)
def test_a_record_that_is_not_ours_moves_nothing(tmp_path: Path, record: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("x")
    (tmp_path / RECORD).parent.mkdir(parents=True)
    (tmp_path / RECORD).write_text(record)
    before = tree(tmp_path)
    with pytest.raises(AgentError, match=r"fixed\.json"):
        fix.undo(tmp_path)
    assert tree(tmp_path) == before
