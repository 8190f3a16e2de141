"""Every device, object and property in the golden command lines is one that a real QEMU has.

This needs no hardware: QEMU lists what it takes. `tdx-guest` is not in QEMU 10.0, so nothing here
says a word about that object.
"""

import functools
import itertools
import json
import re
import shutil
import subprocess

import pytest

from provider_agent.machines.arguments import command_line
from tests.provider_agent.machines.golden_specs import SPECS

QEMU = shutil.which("qemu-system-x86_64")

UNLISTED = {
    # Of sev-guest's and sev-snp-guest's parent, which QEMU's help leaves out.
    "sev-snp-guest": {"cbitpos", "reduced-phys-bits"},
    # Machine options that QEMU hands on to its accelerator.
    "q35": {"kernel-irqchip"},
}


@functools.cache
def listed(*arguments: str) -> frozenset[str]:
    assert QEMU is not None
    said = subprocess.run([QEMU, *arguments], capture_output=True, text=True, check=False)
    return frozenset(re.findall(r"^\s*([A-Za-z0-9_.-]+)(?:=| )", said.stdout, re.MULTILINE))


def old() -> bool:
    if QEMU is None:
        return True
    said = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.partition("version ")[2].partition(".")[0]) < 10


pytestmark = pytest.mark.skipif(old(), reason="no QEMU of version 10 or newer")


@pytest.mark.parametrize("name", sorted(SPECS))
def test_qemu_has_every_device_object_and_property_of_the_command_line(name: str) -> None:
    arguments = command_line(SPECS[name])
    checked = set()
    for option, value in itertools.pairwise(arguments):
        if option not in ("-device", "-object", "-machine") or value.startswith("{"):
            continue
        kind, *pairs = value.split(",")
        names = {pair.partition("=")[0] for pair in pairs} - {"id", "bus"}
        known = listed(option, f"{kind},help") | UNLISTED.get(kind, set())
        assert known, kind
        assert names <= known, f"{kind} has no {names - known}"
        checked.add(kind)
    assert {"q35"} < checked


def test_the_processor_model_of_the_golden_snp_guest_is_one_of_qemus() -> None:
    arguments = command_line(SPECS["snp_with_gpu"])
    assert arguments[arguments.index("-cpu") + 1] in listed("-cpu", "help")


def test_the_tdx_object_is_one_json_object_with_the_fields_of_qemus_interface() -> None:
    (value,) = [a for a in command_line(SPECS["tdx_with_two_gpus"]) if a.startswith("{")]
    assert sorted(json.loads(value)) == [
        "attributes",
        "id",
        "mrconfigid",
        "qom-type",
        "quote-generation-socket",
    ]
