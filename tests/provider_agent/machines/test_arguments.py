"""QEMU's command line, to the byte, and what must never stand in one."""

import base64
import json

import pytest

from provider_agent.machines.arguments import command_line, probe_line
from provider_agent.machines.spec import Platform
from tests.provider_agent.machines.golden_specs import GOLDEN, SNP, SPECS, TDX, golden


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_command_line_is_the_golden_one_to_the_byte(name: str) -> None:
    assert golden(name) == (GOLDEN / f"{name}.txt").read_text()


def test_every_golden_file_belongs_to_a_spec() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SPECS)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_no_machine_has_a_network_card_a_share_a_display_or_a_second_monitor(name: str) -> None:
    arguments = command_line(SPECS[name])
    text = " ".join(arguments)
    for absent in ("-net ", "-netdev", "virtio-net", "e1000", "slirp", "hostfwd", "9p", "virtiofs"):
        assert absent not in text
    for absent in ("-vga", "-vnc", "-spice", "-usb", "-monitor", "-qmp", "-gdb", "-s"):
        assert absent not in arguments
    assert arguments.count("-mon") == 1


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_machine_starts_stopped_sandboxed_and_ends_where_it_would_boot_again(
    name: str,
) -> None:
    arguments = command_line(SPECS[name])
    wanted = {"-S", "-no-reboot", "-nodefaults", "-no-user-config", "-nographic"}
    assert wanted <= set(arguments)
    sandbox = arguments[arguments.index("-sandbox") + 1]
    assert sandbox == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert "panic=-1" in arguments[arguments.index("-append") + 1].split()


def test_an_snp_guest_binds_the_launch_document_and_the_measured_command_line() -> None:
    (guest,) = [a for a in command_line(SNP) if a.startswith("sev-snp-guest,")]
    fields = dict(part.split("=", 1) for part in guest.split(",")[1:])
    assert base64.b64decode(fields["host-data"]) == SNP.host_data
    assert fields["kernel-hashes"] == "on"
    assert int(fields["policy"], 16) == 0x30000


def test_a_td_binds_the_launch_document_and_allows_no_debug() -> None:
    (guest,) = [json.loads(a) for a in command_line(TDX) if a.startswith("{")]
    assert base64.b64decode(guest["mrconfigid"]) == TDX.mrconfigid
    assert guest["attributes"] & 1 == 0


@pytest.mark.parametrize("platform", list(Platform))
def test_a_probe_makes_no_machine(platform: Platform) -> None:
    arguments = probe_line("/usr/bin/qemu-system-x86_64", platform)
    assert arguments[arguments.index("-machine") + 1] == "none"
    assert "-device" not in arguments
