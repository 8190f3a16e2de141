"""What a policy demands of GPUs, and which wiring of a whole machine it believes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.trust.verifier.gpu_vendor import Case, refusing
from trust.errors import DocumentError, PolicyError
from trust.evidence.nvidia import FeatureMode
from trust.verifier.gpu_appraisal import appraise_gpu_claims
from trust.verifier.gpu_device import Architecture, GpuClaims
from trust.verifier.gpu_policy import (
    BLACKWELL_FLOOR,
    HOPPER_FLOOR,
    GpuDemands,
    GpuFloor,
    driver_number,
    gpu_demands,
    vbios_number,
)
from trust.verifier.results import Verdict

SWITCH_FLOOR = GpuFloor(architecture=Architecture.SWITCH_LS10, driver=None, vbios="96.10.55.00.01")
PPCIE = GpuDemands(
    architectures=(HOPPER_FLOOR, SWITCH_FLOOR),
    gpus_least=8,
    gpus_most=8,
    modes=(FeatureMode.PPCIE,),
    fwid_demanded=True,
    hold_allowed=False,
    ocsp_age_hours_most=24,
)
GPUS = tuple(f"gpu{n}".encode().ljust(8) for n in range(8))
SWITCHES = tuple(f"switch{n}".encode().ljust(8) for n in range(4))


def gpu(index: int = 0, **changes: Any) -> GpuClaims:
    claims = GpuClaims(
        index=index,
        architecture=Architecture.HOPPER,
        chip="GH100",
        serial=bytes((1, index)),
        device_id=GPUS[index % 8],
        driver_version="580.95.05",
        vbios_version="96.00.9F.00.01",
        fwid=bytes(48),
        feature_flag=FeatureMode.SPT,
        protected_pcie=False,
        switch_pdis=(),
        gpu_pdis=(),
        measurements={},
        on_hold=(),
    )
    return dataclasses.replace(claims, **changes)


def blackwell(index: int = 0, **changes: Any) -> GpuClaims:
    own = {
        "architecture": Architecture.BLACKWELL,
        "chip": "GB100",
        "vbios_version": "97.00.88.00.0F",
    }
    return gpu(index, **{**own, "protected_pcie": None, **changes})


def machine() -> list[GpuClaims]:
    """Eight GPUs and four switches, each wired to all of the other kind."""
    gpus = [
        gpu(n, feature_flag=FeatureMode.PPCIE, protected_pcie=True, switch_pdis=SWITCHES)
        for n in range(8)
    ]
    switches = [
        gpu(
            8 + n,
            architecture=Architecture.SWITCH_LS10,
            chip="LS10",
            device_id=SWITCHES[n],
            driver_version=None,
            vbios_version="96.10.73.00.01",
            fwid=None,
            feature_flag=None,
            protected_pcie=None,
            switch_pdis=(SWITCHES[n],),
            gpu_pdis=GPUS,
        )
        for n in range(4)
    ]
    return [*gpus, *switches]


def refusals(devices: list[GpuClaims], demands: GpuDemands) -> set[str]:
    return {line.id for line in appraise_gpu_claims(devices, demands) if not line.passed}


# --- a whole machine -----------------------------------------------------------------------------


def test_a_whole_machine_in_ppcie_is_believed_where_it_is_allowed() -> None:
    assert refusals(machine(), PPCIE) == set()


def test_a_whole_machine_in_ppcie_is_refused_by_shipped_demands() -> None:
    shipped = gpu_demands(HOPPER_FLOOR, BLACKWELL_FLOOR, gpus_most=8)
    assert refusals(machine(), shipped) == {"gpu-mode", "gpu-architecture", "gpu-vbios"}


@pytest.mark.parametrize("missing", range(12))
def test_no_device_of_the_machine_may_be_missing(missing: int) -> None:
    devices = machine()
    del devices[missing]
    assert "gpu-topology" in refusals(devices, PPCIE)


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (0, {"switch_pdis": SWITCHES[:3]}),
        (7, {"switch_pdis": (*SWITCHES, bytes(8))}),
        (3, {"switch_pdis": ()}),
        (8, {"gpu_pdis": GPUS[:7]}),
        (11, {"gpu_pdis": (*GPUS, bytes(8))}),
        (9, {"switch_pdis": (bytes(8),)}),
        (10, {"switch_pdis": ()}),
    ],
)
def test_gpus_and_switches_that_name_others_are_refused(
    place: int, changes: dict[str, Any]
) -> None:
    devices = machine()
    devices[place] = dataclasses.replace(devices[place], **changes)
    assert refusals(devices, PPCIE) == {"gpu-topology"}


def test_a_switch_shown_twice_in_place_of_another_is_refused() -> None:
    devices = machine()
    devices[11] = dataclasses.replace(devices[10], index=11)
    assert {"gpu-topology", "gpu-unique"} == refusals(devices, PPCIE)


def test_switches_without_ppcie_are_refused() -> None:
    devices = [gpu(), dataclasses.replace(machine()[8], index=1)]
    assert "gpu-topology" in refusals(devices, gpu_demands(HOPPER_FLOOR))


def test_switches_alone_are_no_gpus() -> None:
    found = refusals(machine()[8:], PPCIE)
    assert {"gpu-count", "gpu-mode", "gpu-driver", "gpu-topology"} <= found


# --- modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "mode"),
    [
        (gpu(), FeatureMode.SPT),
        (gpu(feature_flag=None), FeatureMode.SPT),
        (gpu(feature_flag=None, protected_pcie=True), FeatureMode.PPCIE),
        (gpu(feature_flag=None, protected_pcie=None), None),
        (gpu(protected_pcie=True), None),
        (gpu(feature_flag=FeatureMode.PPCIE), None),
        (blackwell(), FeatureMode.SPT),
        (blackwell(feature_flag=FeatureMode.MPT), FeatureMode.MPT),
        (blackwell(feature_flag=None), None),
        (blackwell(feature_flag=None, protected_pcie=False), None),
    ],
)
def test_a_mode_is_what_flag_and_status_say_together(
    claims: GpuClaims, mode: FeatureMode | None
) -> None:
    assert claims.mode is mode


def test_one_of_several_in_another_mode_is_refused() -> None:
    both = gpu_demands(HOPPER_FLOOR, BLACKWELL_FLOOR, gpus_most=8)
    all_mpt = [blackwell(n, feature_flag=FeatureMode.MPT) for n in range(8)]
    assert refusals(all_mpt, both) == set()
    for place in range(8):
        mixed = [*all_mpt]
        mixed[place] = blackwell(place)
        assert refusals(mixed, both) == {"gpu-mode"}


# --- numbers -------------------------------------------------------------------------------------


def test_versions_are_compared_as_numbers_and_not_as_text() -> None:
    assert driver_number("580.100") > driver_number("580.95.05")
    assert driver_number("1000.1") > driver_number("580.95.05")
    assert vbios_number("96.00.A0.00.01") > vbios_number("96.00.9F.00.0F")


def test_floors_are_those_of_each_architecture() -> None:
    both = gpu_demands(HOPPER_FLOOR, BLACKWELL_FLOOR, gpus_most=2)
    assert refusals([blackwell(vbios_version="96.00.9F.00.01")], both) == {"gpu-vbios"}
    assert refusals([gpu(driver_version="580.95.04")], both) == {"gpu-driver"}


def test_what_is_not_demanded_says_so() -> None:
    demands = dataclasses.replace(gpu_demands(HOPPER_FLOOR), fwid_demanded=False, hold_allowed=True)
    lines = {
        e.id: e.verdict for e in appraise_gpu_claims([gpu(fwid=None, on_hold=("x",))], demands)
    }
    assert {check for check, verdict in lines.items() if verdict is Verdict.NOT_DEMANDED} == {
        "gpu-fwid-stated", "ocsp-hold", "gpu-topology",
    }  # fmt: skip
    assert all(verdict is not Verdict.REFUSED for verdict in lines.values())


# --- demands that do not load --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"architectures": (HOPPER_FLOOR, HOPPER_FLOOR)}, "architecture twice"),
        ({"modes": (FeatureMode.SPT, FeatureMode.SPT)}, "mode twice"),
        ({"architectures": (SWITCH_FLOOR,)}, "switches alone"),
        ({"gpus_least": 2, "gpus_most": 1}, "at least 2 and at most 1"),
        ({"modes": (FeatureMode.MPT,)}, "Blackwell is not allowed"),
        ({"modes": (FeatureMode.PPCIE,)}, "allow both, or neither"),
        ({"architectures": (HOPPER_FLOOR, SWITCH_FLOOR)}, "allow both, or neither"),
        (
            {"architectures": (BLACKWELL_FLOOR, SWITCH_FLOOR), "modes": (FeatureMode.PPCIE,)},
            "Hopper is not allowed",
        ),
    ],
)
def test_demands_that_contradict_themselves_do_not_load(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        dataclasses.replace(gpu_demands(HOPPER_FLOOR), **changes)


@pytest.mark.parametrize(
    ("architecture", "driver"),
    [(Architecture.HOPPER, None), (Architecture.SWITCH_LS10, "580.95.05")],
)
def test_gpus_have_a_driver_floor_and_switches_none(
    architecture: Architecture, driver: str | None
) -> None:
    with pytest.raises(PolicyError, match="GPUs have drivers"):
        GpuFloor(architecture=architecture, driver=driver, vbios="96.00.9F.00.01")


@pytest.mark.parametrize(
    ("driver", "vbios"), [("580", "96.00.9F.00.01"), ("580.95", "96.00.9f.00.01"), ("", "96")]
)
def test_floors_that_are_no_versions_do_not_load(driver: str, vbios: str) -> None:
    with pytest.raises(DocumentError):
        GpuFloor(architecture=Architecture.HOPPER, driver=driver, vbios=vbios)


def test_demands_come_back_from_json() -> None:
    demands = gpu_demands(HOPPER_FLOOR, BLACKWELL_FLOOR, gpus_least=2, gpus_most=8)
    assert GpuDemands.from_json(demands.to_json()) == demands
    assert GpuDemands.from_json(PPCIE.to_json()) == PPCIE


def test_the_good_case_passes() -> None:
    assert refusing(Case()) == set()
