"""Nothing that names a machine, its owner or its network is in a bundle; what helps is."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path

import pytest

from provider_agent.doctor.bundle import make_bundle, write_bundle
from provider_agent.doctor.engine import make_checks
from provider_agent.doctor.redact import redact
from provider_agent.doctor.rows import ROWS
from tests.provider_agent.doctor.machines import Machine, genoa
from trust.simulated import SimulatedChip

CANARIES = {
    "serial": "CZX7340ABC",
    "board-serial": ".9K3XJ82.CN7016382901AB.",
    "chassis": "ASSET-00417",
    "uuid": "4c4c4544-0039-4b10-8033-b9c04f584a32",
    "bare-uuid": "4c4c454400394b108033b9c04f584a32",
    "disk-uuid": "7f6b0c1e-52d4-4c3a-9b0e-6d1f2a3b4c5d",
    "processor-number": "0x02F18C2D6AF8B1C3E5",
    "mac": "b4:45:06:1a:2b:3c",
    "mac-dashes": "B4-45-06-1A-2B-3D",
    "infiniband": "80:00:02:08:fe:80:00:00:00:00:00:00:ec:0d:9a:03:00:8a:4b:c6",
    "ipv4": "203.0.113.77",
    "ipv6": "2001:db8:85a3::8a2e:370:7334",
    "link-local": "fe80::b645:6ff:fe1a:2b3c%eno1",
    "hostname": "gpu-node-17",
    "domain": "gpu-node-17.rack4.kunde-mueller.example",
    "mail": "h.mueller@kunde-mueller.example",
    "user": "/home/hmueller/blindhost",
    "machine-id": "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "hex-key": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "base64-key": "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
    "url-key": "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQ_83vEjRWeJA",
    "slashed-key": "aB3/dE5+gH7/jK9+mN1/pQ3+sT5/vW7+yZ9/bC1+eF3=",
    "openssh-key": "AAAAC3NzaC1lZDI1NTE5AAAAIJl3dIeudNqd0DPMRD8OIh65tjkxFNOtGGWIDeG1eDNP",
    "token": "token=hunter2",
    "password": "password: hunter3",
    "pem": "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\nZm9vYmFy\n-----END PRIVATE KEY-----",
}
SECRETS = [
    *(line for value in CANARIES.values() for line in value.splitlines() if "-----" not in line),
    "hunter2",
    "hunter3",
    "hmueller",
    "h.mueller",
    "kunde-mueller",
]


def sown(chip: SimulatedChip) -> Machine:
    """Every canary, in every input of the bundle."""
    machine = genoa(chip)
    every = " | ".join(CANARIES.values())
    machine.files |= {
        "etc/hostname": "gpu-node-17\n",
        "proc/sys/kernel/hostname": "gpu-node-17\n",
        "etc/machine-id": CANARIES["machine-id"] + "\n",
        "sys/class/dmi/id/product_serial": CANARIES["serial"] + "\n",
        "sys/class/dmi/id/board_serial": CANARIES["board-serial"] + "\n",
        "sys/class/dmi/id/chassis_asset_tag": CANARIES["chassis"] + "\n",
        "sys/class/dmi/id/product_uuid": CANARIES["uuid"] + "\n",
        "proc/cmdline": (
            f"root=UUID={CANARIES['uuid']} ip=203.0.113.77::203.0.113.1 hostname=gpu-node-17 "
            f"amd_iommu=on iommu=pt {every}\n"
        ),
        "sys/class/dmi/id/sys_vendor": f"Dell Inc. {every}\n",
        "sys/class/dmi/id/product_name": f"PowerEdge R6615 {every}\n",
        "sys/class/dmi/id/bios_version": f"1.8.3 {every}\n",
        "etc/os-release": f'ID=debian\nVERSION_ID="13"\nHOME_URL="{every}"\n',
        "sys/kernel/security/lockdown": f"[{every}]\n",
        "etc/systemd/system/blindhost-launcher.service": f"[Service]\nLimitMEMLOCK={every}\n",
        "sys/module/kvm_amd/parameters/sev_snp": "no\n",
    }
    lines = [f"[    5.1] ccp 0000:22:00.5: SEV-SNP API:1.55 {c}" for c in CANARIES.values()]
    lines += [f"[    6.0] e1000e 0000:00:1f.6: eth0 {c}" for c in CANARIES.values()]
    lines += [f"[    5.2] kvm_amd: SEV-SNP enabled (ASIDs 1 - 99) on host {every}"]
    machine.answers["command", "dmesg"]["output"] += "\n".join(lines) + "\n"
    machine.answers["command", "qemu-version"]["output"] += every
    machine.answers["qmp", "qom-list-types"] = "!" + every
    return machine


def test_no_canary_of_any_kind_survives_in_any_file(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    machine = sown(simulated_chip)
    context = machine.context(machine.lay(tmp_path / "tree"))
    write_bundle(tmp_path / "b.tar.gz", make_checks(ROWS, context), context)
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        files = {m.name: archive.extractfile(m).read().decode() for m in archive.getmembers()}
    assert len(files) == 6
    for name, text in files.items():
        found = [secret for secret in SECRETS if secret.lower() in text.lower()]
        assert not found, (name, found)


def test_the_sown_canaries_would_have_been_there(
    tmp_path: Path, simulated_chip: SimulatedChip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without redaction every text of the bundle has some: the test above looks at something."""
    from provider_agent.doctor import bundle

    monkeypatch.setattr(bundle, "redact", lambda text, *, names: text)
    machine = sown(simulated_chip)
    context = machine.context(machine.lay(tmp_path))
    made = bundle.make_bundle(make_checks(ROWS, context), context)
    leaking = {name for name, text in made.items() if any(s in text for s in SECRETS)}
    assert leaking == set(made) - {"pci.txt"}


def test_what_helps_is_still_there(tmp_path: Path, simulated_chip: SimulatedChip) -> None:
    machine = sown(simulated_chip)
    context = machine.context(machine.lay(tmp_path))
    made = make_bundle(make_checks(ROWS, context), context)
    assert "0000:41:00.0 0302 10de:2331 vfio-pci" in made["pci.txt"]
    assert "amd_iommu=on iommu=pt" in made["cmdline.txt"]
    assert "PowerEdge R6615" in made["dmi.txt"]
    assert "6.17.4-amd64" in made["versions.txt"]
    assert "AMD EPYC 9354 32-Core Processor" in made["versions.txt"]
    assert "ccp 0000:22:00.5: SEV-SNP API:1.55" in made["dmesg.txt"]
    assert "[0x40000000 - 0x7fffffff]" in made["dmesg.txt"]
    assert "e1000e" not in made["dmesg.txt"]
    checks = {each["id"]: each for each in json.loads(made["checks.json"])["checks"]}
    assert checks["snp.kvm"]["status"] == "fail"
    assert checks["snp.bios.smee"]["read"] == ["msr:0xc0010010"]


def test_a_good_machines_checks_lose_nothing(tmp_path: Path, simulated_chip: SimulatedChip) -> None:
    from provider_agent.doctor.check import report_json
    from provider_agent.doctor.render import offers

    machine = genoa(simulated_chip)
    context = machine.context(machine.lay(tmp_path))
    made = make_checks(ROWS, context)
    plain = json.loads(report_json(made, command="doctor", offers=offers(made)))
    assert json.loads(make_bundle(made, context)["checks.json"]) == plain


def test_the_archive_says_nothing_of_who_made_it_and_when(
    tmp_path: Path, simulated_chip: SimulatedChip
) -> None:
    machine = genoa(simulated_chip)
    context = machine.context(machine.lay(tmp_path / "tree"))
    made = make_checks(ROWS, context)
    first, second = tmp_path / "one.tar.gz", tmp_path / "two.tar.gz"
    write_bundle(first, made, context)
    write_bundle(second, made, context)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(first.read_bytes())) as archive:
        for member in archive.getmembers():
            assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
            assert member.mtime == 0
            assert member.name.startswith("blindhost-doctor/")


def test_a_bundle_replaces_no_file(tmp_path: Path, simulated_chip: SimulatedChip) -> None:
    machine = genoa(simulated_chip)
    context = machine.context(machine.lay(tmp_path / "tree"))
    (tmp_path / "x").write_text("mine")
    (tmp_path / "link").symlink_to("x")
    for name in ("x", "link"):
        with pytest.raises(FileExistsError):
            write_bundle(tmp_path / name, (), context)
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    [
        "12:30:01 ok",
        "0000:41:00.0 Class 0302",
        "MSR 0xc0010132 = 0x0000000040000000",
        "options kvm_amd sev=1 sev-es=1 sev-snp=1",
        "/sys/module/vfio_pci/parameters/disable_idle_d3",
        "CONFIG_KVM_AMD_SEV=y",
        "EPYC 9354 at 3.25 GHz",
        "/etc/modprobe.d/blindhost-vfio.conf",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_redaction_of_a_hostile_log_is_quick() -> None:
    begun = time.monotonic()
    for piece in ("a-", "a.", ":", "aa:", "A" * 50 + "@", "serial", "1.", "-----BEGIN X-----", "/"):
        redact(piece * 10_000)
    assert time.monotonic() - begun < 10


def test_a_machine_of_which_nothing_is_read_gives_a_bundle_of_reasons(tmp_path: Path) -> None:
    machine = Machine()
    context = machine.context(tmp_path)
    made = make_bundle(make_checks(ROWS, context), context)
    assert made["dmesg.txt"].startswith("unread: command:dmesg")
