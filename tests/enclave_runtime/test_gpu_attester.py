"""NVML as its library declares it: structures of the real module, a driver that is ours."""

# ruff: noqa: N802 - the names are NVML's

from __future__ import annotations

import ctypes
import types

import pynvml
import pytest

from enclave_runtime.gpu_attester import NvmlGpuAttester
from trust.errors import EvidenceError
from trust.messages import GpuDeviceKind, GpuEvidence

NONCE = bytes(range(32))


class FakeDriver:
    """What stands behind libnvidia-ml.so: two GPUs of a confidential VM."""

    def __init__(self) -> None:
        self.count = 2
        self.settings = {
            "environment": pynvml.NVML_CC_SYSTEM_ENVIRONMENT_PROD,
            "ccFeature": pynvml.NVML_CC_SYSTEM_FEATURE_ENABLED,
            "devToolsMode": pynvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF,
            "multiGpuMode": pynvml.NVML_CC_SYSTEM_MULTIGPU_NONE,
        }
        self.settings_status = 0
        self.after_report: dict[str, int] = {}
        self.fails: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.ready = pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_FALSE
        self.takes_ready = True
        self.calls: list[str] = []

    def module(self) -> types.ModuleType:
        """As `pynvml`, with this driver."""
        module = types.ModuleType("pynvml")
        module.__dict__.update(
            {k: v for k, v in vars(pynvml).items() if k.startswith(("NVML", "c_nvml"))}
        )
        for name in (
            "nvmlInit",
            "nvmlDeviceGetCount",
            "nvmlDeviceGetHandleByIndex",
            "nvmlSystemGetConfComputeSettings",
            "nvmlDeviceGetConfComputeGpuAttestationReport",
            "nvmlDeviceGetConfComputeGpuCertificate",
            "nvmlSystemSetConfComputeGpusReadyState",
            "nvmlSystemGetConfComputeGpusReadyState",
        ):
            setattr(module, name, self._called(name))
        return module

    def _called(self, name: str) -> object:
        def call(*arguments: object) -> object:
            self.calls.append(name)
            if name in self.fails:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
            return getattr(self, name)(*arguments)

        return call

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return 100 + index

    def nvmlSystemGetConfComputeSettings(self, reference: object) -> int:
        structure = ctypes.cast(
            reference, ctypes.POINTER(pynvml.c_nvmlSystemConfComputeSettings_v1_t)
        ).contents
        assert structure.version == pynvml.nvmlSystemConfComputeSettings_v1
        for name, value in self.settings.items():
            setattr(structure, name, value)
        return self.settings_status

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, device: int, nonce: bytes) -> object:
        held = pynvml.c_nvmlConfComputeGpuAttestationReport_t()
        content = b"report of %d over " % device + nonce
        held.attestationReport[: len(content)] = content
        held.attestationReportSize = self.sizes.get("report", len(content))
        self.settings |= self.after_report
        return held

    def nvmlDeviceGetConfComputeGpuCertificate(self, device: int) -> object:
        held = pynvml.c_nvmlConfComputeGpuCertificate_t()
        content = b"chain of %d" % device
        held.attestationCertChain[: len(content)] = content
        held.attestationCertChainSize = self.sizes.get("chain", len(content))
        held.certChain[:6] = b"others"
        held.certChainSize = 6
        return held

    def nvmlSystemSetConfComputeGpusReadyState(self, state: int) -> int:
        if self.takes_ready:
            self.ready = state
        return 0

    def nvmlSystemGetConfComputeGpusReadyState(self) -> int:
        return self.ready


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


def attester(driver: FakeDriver, multi_gpu_mode: int = 0) -> NvmlGpuAttester:
    return NvmlGpuAttester(driver.module(), multi_gpu_mode=multi_gpu_mode)


def test_every_gpu_answers_for_the_one_nonce(driver: FakeDriver) -> None:
    devices = GpuEvidence.parse(attester(driver).gpu_evidence(NONCE)).devices
    assert [each.report for each in devices] == [
        b"report of 100 over " + NONCE,
        b"report of 101 over " + NONCE,
    ]
    assert [each.chain for each in devices] == [b"chain of 100", b"chain of 101"]
    assert {each.kind for each in devices} == {GpuDeviceKind.GPU}


WRONG = [
    ("environment", pynvml.NVML_CC_SYSTEM_ENVIRONMENT_SIM),
    ("environment", pynvml.NVML_CC_SYSTEM_ENVIRONMENT_UNAVAILABLE),
    ("ccFeature", pynvml.NVML_CC_SYSTEM_FEATURE_DISABLED),
    ("devToolsMode", pynvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_ON),
    ("multiGpuMode", pynvml.NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_gpus_with_a_wrong_setting_stop_the_boot(driver: FakeDriver, name: str, value: int) -> None:
    driver.settings[name] = value
    with pytest.raises(EvidenceError, match=f"{name} is {value}"):
        attester(driver)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_setting_that_turns_wrong_later_gives_neither_evidence_nor_ready_state(
    driver: FakeDriver, name: str, value: int
) -> None:
    gpus = attester(driver)
    driver.settings[name] = value
    for ask in (lambda: gpus.gpu_evidence(NONCE), gpus.set_ready):
        with pytest.raises(EvidenceError, match=f"{name} is {value}"):
            ask()
    assert driver.ready == pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_FALSE
    assert "nvmlDeviceGetConfComputeGpuAttestationReport" not in driver.calls


def test_a_setting_that_turns_wrong_under_the_report_gives_no_evidence(
    driver: FakeDriver,
) -> None:
    gpus = attester(driver)
    driver.after_report = {"devToolsMode": pynvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_ON}
    with pytest.raises(EvidenceError, match="devToolsMode is 1"):
        gpus.gpu_evidence(NONCE)


def test_an_image_for_several_gpus_wants_their_mode(driver: FakeDriver) -> None:
    driver.settings["multiGpuMode"] = pynvml.NVML_CC_SYSTEM_MULTIGPU_NVLE
    with pytest.raises(EvidenceError, match="multiGpuMode is 2, wanted 0"):
        attester(driver)
    mode = pynvml.NVML_CC_SYSTEM_MULTIGPU_NVLE
    assert attester(driver, multi_gpu_mode=mode).gpu_evidence(NONCE)


def test_settings_that_the_driver_does_not_tell_are_not_taken_for_good(
    driver: FakeDriver,
) -> None:
    driver.settings_status = pynvml.NVML_ERROR_NOT_SUPPORTED
    with pytest.raises(EvidenceError, match="status 3"):
        attester(driver)


@pytest.mark.parametrize("count", [0, 17])
def test_no_gpu_and_too_many_are_refused(driver: FakeDriver, count: int) -> None:
    driver.count = count
    with pytest.raises(EvidenceError, match=f"{count} GPUs"):
        attester(driver)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_nonce_of_another_length_never_reaches_the_driver(
    driver: FakeDriver, length: int
) -> None:
    gpus = attester(driver)
    with pytest.raises(EvidenceError, match="wanted 32"):
        gpus.gpu_evidence(bytes(length))
    assert "nvmlDeviceGetConfComputeGpuAttestationReport" not in driver.calls


@pytest.mark.parametrize(("what", "size"), [("report", 0), ("report", 8193), ("chain", 5121)])
def test_a_size_beyond_its_buffer_is_refused(driver: FakeDriver, what: str, size: int) -> None:
    driver.sizes[what] = size
    with pytest.raises(EvidenceError, match=f"{size} bytes in a buffer"):
        attester(driver).gpu_evidence(NONCE)


@pytest.mark.parametrize(
    "call",
    [
        "nvmlInit",
        "nvmlDeviceGetCount",
        "nvmlDeviceGetHandleByIndex",
        "nvmlSystemGetConfComputeSettings",
    ],
)
def test_a_driver_that_fails_stops_the_boot(driver: FakeDriver, call: str) -> None:
    driver.fails = {call}
    with pytest.raises(EvidenceError, match="NVML does not"):
        attester(driver)


@pytest.mark.parametrize(
    "call",
    [
        "nvmlDeviceGetConfComputeGpuAttestationReport",
        "nvmlDeviceGetConfComputeGpuCertificate",
    ],
)
def test_one_gpu_that_fails_leaves_no_evidence_of_the_others(driver: FakeDriver, call: str) -> None:
    driver.fails = {call}
    with pytest.raises(EvidenceError, match="NVML does not give evidence"):
        attester(driver).gpu_evidence(NONCE)


def test_evidence_does_not_set_the_ready_state_and_a_grant_does(driver: FakeDriver) -> None:
    gpus = attester(driver)
    gpus.gpu_evidence(NONCE)
    assert driver.ready == pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_FALSE
    gpus.set_ready()
    assert driver.ready == pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE


def test_a_ready_state_that_is_not_taken_is_an_error(driver: FakeDriver) -> None:
    driver.takes_ready = False
    with pytest.raises(EvidenceError, match="ready state is 0"):
        attester(driver).set_ready()
    driver.fails = {"nvmlSystemSetConfComputeGpusReadyState"}
    with pytest.raises(EvidenceError, match="NVML does not take"):
        attester(driver).set_ready()
