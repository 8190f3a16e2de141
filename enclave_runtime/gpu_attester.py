"""Evidence of NVIDIA GPUs by NVML, and what the guest alone can see of their settings (check 39).

Rules:
- DevTools mode stands in no report, so the enclave itself looks: environment PROD, CC on, DevTools
  off, multi-GPU mode as this image wants it. It looks before each report and before the ready
  state, and shows no GPU that fails.
- The ready state opens the GPUs to work, so it waits until their evidence has passed. The enclave
  holds no verifier (docs/adr): who verifies is the custodian, and its grant is the word that this
  very evidence passed. So `set_ready` comes after the first grant and before the first tensor; a
  host that sets it earlier gains nothing, for until a grant there is no key and no plaintext.
- The driver is a library in this VM's measured image; the PCIe bus and the GPU are not believed.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from enclave_runtime.attester import GPU_NONCE_BYTES
from trust.errors import EncodingError, EvidenceError
from trust.messages import GPU_DEVICES_MAX, GpuDevice, GpuDeviceKind, GpuEvidence


class NvmlGpuAttester:
    """All GPUs of this VM. `nvml` is nvidia-ml-py's module ``pynvml``, or what acts like it."""

    def __init__(self, nvml: ModuleType, *, multi_gpu_mode: int) -> None:
        """Load the driver's library; before the lockdown, which forbids that. Raises."""
        self._nvml, self._mode = nvml, multi_gpu_mode
        with self._calls("initialise"):
            nvml.nvmlInit()
            count: int = nvml.nvmlDeviceGetCount()
            if not 1 <= count <= GPU_DEVICES_MAX:
                raise EvidenceError(f"{count} GPUs, wanted 1 to {GPU_DEVICES_MAX}")
            self._devices = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
        self.check()

    @classmethod
    def find(cls, *, multi_gpu_mode: int = 0) -> NvmlGpuAttester:
        """The GPUs of this machine; mode 0 is NVML's for single GPUs. Raises EvidenceError."""
        import pynvml

        return cls(pynvml, multi_gpu_mode=multi_gpu_mode)

    def check(self) -> None:
        """Whether the driver says that all GPUs are confidential. Raises EvidenceError."""
        nvml = self._nvml
        settings = nvml.c_nvmlSystemConfComputeSettings_v1_t()
        with self._calls("tell its settings"):
            # The one call that returns its status, and raises nothing (nvidia-ml-py 13).
            if status := nvml.nvmlSystemGetConfComputeSettings(ctypes.byref(settings)):
                raise EvidenceError(f"NVML does not tell its settings: status {status}")
        for name, found, wanted in (
            ("environment", settings.environment, nvml.NVML_CC_SYSTEM_ENVIRONMENT_PROD),
            ("ccFeature", settings.ccFeature, nvml.NVML_CC_SYSTEM_FEATURE_ENABLED),
            ("devToolsMode", settings.devToolsMode, nvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF),
            ("multiGpuMode", settings.multiGpuMode, self._mode),
        ):
            if found != wanted:
                raise EvidenceError(f"GPU: {name} is {found}, wanted {wanted}")

    def gpu_evidence(self, nonce: bytes) -> bytes:
        """Ask every GPU over one nonce: bytes of a `GpuEvidence`. Raises EvidenceError.

        (1) 32 bytes, or NVML would fill them up. (2) The settings. (3) Each GPU, its report and its
        certificates, of exactly the lengths that the driver states. (4) The settings once more.
        """
        if len(nonce) != GPU_NONCE_BYTES:  # (1)
            raise EvidenceError(f"nonce of {len(nonce)} bytes, wanted {GPU_NONCE_BYTES}")
        self.check()  # (2)
        with self._calls("give evidence"):
            devices = tuple(self._ask(device, nonce) for device in self._devices)  # (3)
        self.check()  # (4)
        return GpuEvidence(devices=devices).encode()

    def set_ready(self) -> None:
        """Let the GPUs take work; only after a grant, as this module's head says."""
        self.check()
        accepting = self._nvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE
        with self._calls("take the ready state"):
            self._nvml.nvmlSystemSetConfComputeGpusReadyState(accepting)
            if (found := self._nvml.nvmlSystemGetConfComputeGpusReadyState()) != accepting:
                raise EvidenceError(f"GPU: ready state is {found}, wanted {accepting}")

    def _ask(self, device: Any, nonce: bytes) -> GpuDevice:
        report = self._nvml.nvmlDeviceGetConfComputeGpuAttestationReport(device, nonce)
        held = self._nvml.nvmlDeviceGetConfComputeGpuCertificate(device)
        return GpuDevice(
            kind=GpuDeviceKind.GPU,
            report=_filled(report.attestationReport, report.attestationReportSize),
            chain=_filled(held.attestationCertChain, held.attestationCertChainSize),
        )

    @contextlib.contextmanager
    def _calls(self, what: str) -> Iterator[None]:
        try:
            yield
        except (self._nvml.NVMLError, EncodingError) as error:
            raise EvidenceError(f"NVML does not {what}: {error}") from error


def _filled(buffer: Any, size: int) -> bytes:
    if not 0 < size <= len(buffer):
        raise EvidenceError(f"GPU: {size} bytes in a buffer of {len(buffer)}")
    return bytes(buffer[:size])
