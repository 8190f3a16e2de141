"""What the doctor may have read by the launcher: a closed list of registers and answers.

Rules:
- A caller names a reading of the list by its word; no number and no path of a caller's is used.
- Reading changes nothing. Cards are not among it: one in a guest's hands is not touched.
- The kernel's log is not either: the launcher has not the capability.

Registers: AMD SYSCFG and RMP, CPUID 0x8000001F; Intel TME, SEAM, MCHECK and module state
(`doctor.snp_judges`, `doctor.cpu_tdx`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from provider_agent.doctor.probe import Probe, Question, said
from provider_agent.doctor.view import AbsentError, UnreadError
from provider_agent.errors import LaunchError
from provider_agent.machines.client import Certificates, MachineLauncher, MachineShape
from provider_agent.machines.spec import Platform

_QUESTIONS: Final[tuple[Question, ...]] = (
    *(("msr", each) for each in (0xC001_0010, 0xC001_0132, 0xC001_0133, 0xC001_0136)),
    *(("msr", each) for each in (0x87, 0xA0, 0xCE, 0x503, 0x982, 0x1401)),
    ("cpuid", 1, "ecx"),
    ("cpuid", 0x8000_001F, "edx"),
    ("kvm-vm-types",),
    ("snp-platform-status",),
    ("openable", "/dev/sev"),
)
READINGS: Final[dict[str, Question]] = {said(each): each for each in _QUESTIONS}

Reader = Callable[[Question], object]


def read_here(question: Question) -> object:
    """Read in this process. Raises UnreadError."""
    # Late: a launcher that nobody asks loads no client of a market, which this module brings.
    from provider_agent.doctor.hardware import HostProbe

    return HostProbe(cache=Path("/"), market=None).ask(question)


class LauncherProbe:
    """Reads here, and what this user may not read has the launcher read."""

    def __init__(self, here: Probe, launcher: MachineLauncher) -> None:
        self._here, self._launcher = here, launcher

    def ask(self, question: Question) -> object:
        """The answer. Raises UnreadError with both reasons, or AbsentError: it is not there."""
        word = said(question)
        try:
            answer = self._here.ask(question)
        except AbsentError:
            raise
        except UnreadError as error:
            if word not in READINGS:
                raise
            return self._from_launcher(word, str(error))
        if word == "openable:/dev/sev" and answer in ("EACCES", "EPERM"):
            return self._from_launcher(word, f"{word}: {answer}")
        return answer

    def _from_launcher(self, word: str, before: str) -> object:
        try:
            answer: object = json.loads(asyncio.run(self._launcher.read(word)))
        except (LaunchError, ValueError) as error:
            raise UnreadError(f"{before}; by the launcher: {error}") from error
        return answer


def reader_of(platform: Platform, path: Path) -> MachineLauncher:
    """A client that launches nothing. Raises MachineRefusedError for root on a real host."""
    shape = MachineShape(platform=platform, image=bytes(32), memory_mib=0, vcpus=0, gpus=())
    return MachineLauncher(
        shape, certificates=Certificates(root=bytes(32), endorsements=()), path=path
    )
