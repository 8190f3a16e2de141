"""Make-believe vendors: mint the *real* formats under roots that nobody trusts by default.

Rules:
- What comes out of here differs from a vendor's bytes in the keys alone, so the same verifier runs
  over both, and nothing anywhere asks whether it is being simulated.
- It is believed only by a policy that names its root's SHA-256. It proves nothing about hardware.
- Keys are made inside cryptography; every time is a parameter.
"""

from trust.simulated.chip import SimulatedChip
from trust.simulated.nvidia import SimulatedNvidia
from trust.simulated.nvidia_gpu import SimulatedGpu
from trust.simulated.nvidia_models import GpuArchitecture
from trust.simulated.root import SimulatedRoot

__all__ = ["GpuArchitecture", "SimulatedChip", "SimulatedGpu", "SimulatedNvidia", "SimulatedRoot"]
