"""How a launch is refused and how a machine ends: one word and one number for each way.

    LaunchError
    └── MachineError           a stage of a launch that failed; `code` is a word for programs
        └── MachineRefusedError    not tried, because a rule forbids it: asking again does not help

Rules:
- Each stage of a launch has a code of its own, so that a host sees which one it was.
- An exit number below 64 is the guest's; ours begin at 80, and none is among the numbers that mean
  a run that came to an end of its own (`lifecycle.RUN_ENDS`) but for `MachineExit.ENDED`.
"""

from __future__ import annotations

import enum

from provider_agent.errors import LaunchError


class MachineError(LaunchError):
    """A stage of a launch, or of an end, that failed. `code` is a word for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class MachineRefusedError(MachineError):
    """A rule forbids it, so nothing was started."""


class MachineExit(enum.IntEnum):
    """How a machine ended."""

    ENDED = 0
    """The guest powered off."""
    MONITOR = 81
    """QEMU did not answer at its monitor."""
    STOOD_STILL = 82
    """The machine ran no more: an error of KVM's, or of a device."""
    RESUME = 83
    """It did not begin to run."""
    BOOT = 84
    """The guest did not open its door in time."""
    RESET = 85
    """The guest wanted to boot again: a panic."""
    DOOR = 86
    """The guest shut its door and stayed."""
    LOST = 87
    """QEMU ended without a word, or while nobody watched."""
    HOST_LOST = 88
    """The host booted again."""
    KILLED = 137
    """Stopped by the agent: 128 + SIGKILL, as for a sandboxed enclave."""
