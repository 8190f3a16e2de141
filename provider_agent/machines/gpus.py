"""Claims GPUs for leases, proves that they are fit before and after, and shuts away what is not.

Rules:
- A claim is a file that is made once (`O_EXCL`): two leases on one GPU are impossible, whoever asks
  and however often a launcher starts again. It is removed after a release that was proven.
- Fit means: bound to vfio-pci, alone in its IOMMU group, CC mode *on* before and after a reset, and
  every free GPU of the host in that same mode.
- Anything unexpected after a lease is quarantine, not a retry. A person looks, and removes the
  file. The next buyer does not depend on this (the enclave verifies a fresh report of the card);
  the host does: no lease starts on a dead card.
"""

from __future__ import annotations

import asyncio
import enum
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.doctor.gpu_table import MODELS, Generation
from provider_agent.journal import replace_file
from provider_agent.machines.errors import MachineError, MachineRefusedError
from provider_agent.machines.gpu_tool import CcMode, GpuAdmin
from provider_agent.machines.pci import VFIO_DRIVER, PciView

HELD_TRIES_MAX: Final = 50
HELD_PAUSE_SECONDS: Final = 0.2  # 10 s together: QEMU is dead, the kernel lets go of its memory
CLAIM_SUFFIX: Final = ".claim"
QUARANTINE_SUFFIX: Final = ".quarantine"
REMEDIES: Final = {
    "gpu-tool": "run the admin tool by hand; --recover-broken-gpu, else a cold power cycle",
    "gpu-mode": "set CC mode on for all GPUs: --set-cc-mode=on --reset-after-cc-mode-switch",
    "gpu-driver": "bind the card to vfio-pci; no NVIDIA driver belongs on the host",
    "gpu-held": "find and end the process that holds the card, then a cold power cycle",
}


class GpuState(enum.StrEnum):
    """What a GPU is to this host."""

    FREE = "free"
    CLAIMED = "claimed"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuStanding:
    """One GPU as it stands."""

    address: str
    state: GpuState
    detail: str
    """The lease that claims it, or the code that it is quarantined for; empty: free."""


class Gpus:
    """The GPUs that a host offers. Their claims lie in one folder of mode 0700."""

    def __init__(
        self, folder: Path, *, offered: tuple[str, ...], pci: PciView, admin: GpuAdmin
    ) -> None:
        self._folder, self._offered, self._pci, self._admin = folder, offered, pci, admin
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def standings(self) -> tuple[GpuStanding, ...]:
        """Every offered GPU."""
        return tuple(self._standing(address) for address in self._offered)

    def claim(self, lease: str, addresses: tuple[str, ...]) -> None:
        """Claim all or none. Raises MachineRefusedError."""
        taken: list[str] = []
        try:
            for address in addresses:
                if self._claim_one(lease, address):
                    taken.append(address)  # noqa: PERF401 - what was taken before a refusal counts
        except BaseException:
            for address in taken:
                self._path(address, CLAIM_SUFFIX).unlink()
            raise

    def _claim_one(self, lease: str, address: str) -> bool:
        """Claim one; False: it is this lease's already."""
        if address not in self._offered:
            raise MachineRefusedError("gpu-not-offered", f"{address} is not among this host's GPUs")
        standing = self._standing(address)
        if standing.state is GpuState.QUARANTINED:
            raise MachineRefusedError("gpu-quarantined", f"{address}: {standing.detail}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path(address, CLAIM_SUFFIX), flags, 0o600)
        except FileExistsError as error:
            if (found := self._standing(address).detail) == lease:
                return False
            raise MachineRefusedError("gpu-taken", f"{address} is {found}'s") from error
        with open(descriptor, "wb") as file:  # noqa: PTH123 - opened with its mode
            file.write(lease.encode())
        return True

    async def prepare(self, lease: str, addresses: tuple[str, ...]) -> None:
        """Prove that claimed GPUs are fit for a lease. Raises MachineError.

        (1) They are this lease's. (2) Present and bound to vfio-pci. (3) Alone in their IOMMU
        groups. (4) None of them in PPCIe mode; all GPUs of the host in one mode, and that is *on*.
        (5) Reset. (6) Still *on*.
        A failure from (5) on is quarantine.
        """
        for address in addresses:
            standing = self._standing(address)
            if standing.state is not GpuState.CLAIMED or standing.detail != lease:  # (1)
                raise MachineRefusedError("gpu-not-claimed", f"{address} is not {lease}'s")
            self._check_binding(address)  # (2) (3)
            await self._check_alone(address)  # (4)
        await self._check_modes(addresses)
        for address in addresses:
            await self._renew(address)  # (5) (6)

    def _check_binding(self, address: str) -> None:
        if not self._pci.present(address):
            raise MachineError("gpu-absent", f"{address} is not on the bus")
        if (driver := self._pci.driver(address)) != VFIO_DRIVER:
            raise MachineRefusedError(
                "gpu-driver", f"{address} is bound to {driver}; wanted {VFIO_DRIVER}"
            )
        strangers = self._pci.strangers(address)
        if strangers is None:
            raise MachineRefusedError("gpu-group", f"{address} has no IOMMU group")
        if strangers:
            text = f"{address} shares its IOMMU group with {', '.join(strangers[:8])}"
            raise MachineRefusedError("gpu-group", text)

    async def _check_alone(self, address: str) -> None:
        """Refuse PPCIe mode, which Hopper alone has: a card that sysfs does not name is asked too.

        In it a whole board with its switches serves one guest, and their links are not encrypted.
        Policies refuse its evidence unless they say otherwise, and this launcher gives a guest
        single cards.
        """
        model = MODELS.get(self._pci.device(address) or 0)
        if model is not None and model.generation is not Generation.HOPPER:
            return
        if await self._admin.ppcie_on(address):
            text = f"{address} is in PPCIe mode, of a whole board in one guest; wanted off"
            raise MachineRefusedError("gpu-ppcie", f"{text}: --set-ppcie-mode=off, then reset")

    async def _check_modes(self, addresses: tuple[str, ...]) -> None:
        # A card in a guest's hands is not touched; it was *on* when it was given away.
        free = {s.address for s in self.standings() if s.state is GpuState.FREE}
        busy = any(
            s.state is GpuState.CLAIMED and s.address not in addresses for s in self.standings()
        )
        modes = {
            address: await self._admin.cc_mode(address) for address in sorted(free | set(addresses))
        }
        kinds = set(modes.values()) | ({CcMode.ON} if busy else set())
        told = ", ".join(f"{address} {mode}" for address, mode in modes.items())
        if len(kinds) > 1:
            raise MachineRefusedError("gpu-mixed-modes", told)
        if kinds != {CcMode.ON}:
            raise MachineRefusedError("gpu-mode", f"{told}; wanted on")

    async def _renew(self, address: str) -> None:
        """Reset, and read the mode again; else quarantine. Raises MachineError."""
        try:
            await self._admin.reset(address)
            if (mode := await self._admin.cc_mode(address)) is not CcMode.ON:
                raise MachineError("gpu-mode", f"{address} is {mode} after its reset; wanted on")
            if (driver := self._pci.driver(address)) != VFIO_DRIVER:
                raise MachineError("gpu-driver", f"{address} is bound to {driver} after its reset")
        except MachineError as error:
            self._quarantine(address, error.code)
            raise

    async def release(self, lease: str) -> tuple[str, ...]:
        """Give back what a lease claimed; the addresses that went into quarantine instead.

        (1) Nobody holds the card. (2) Reset. (3) Mode *on*. (4) Only then the claim goes.
        """
        shut_away = []
        for standing in self.standings():
            claim = self._path(standing.address, CLAIM_SUFFIX)
            if not claim.exists() or claim.read_text() != lease:
                continue
            if standing.state is not GpuState.QUARANTINED:
                try:
                    await self._wait_until_let_go(standing.address)  # (1)
                    await self._renew(standing.address)  # (2) (3)
                except MachineError as error:
                    self._quarantine(standing.address, error.code)
                    shut_away.append(standing.address)
            else:
                shut_away.append(standing.address)
            claim.unlink()  # (4)
        return tuple(shut_away)

    async def _wait_until_let_go(self, address: str) -> None:
        for _ in range(HELD_TRIES_MAX):
            if (holder := await asyncio.to_thread(self._pci.holder, address)) is None:
                return
            await asyncio.sleep(HELD_PAUSE_SECONDS)
        raise MachineError("gpu-held", f"{address} is held by {holder}")

    def _quarantine(self, address: str, code: str) -> None:
        replace_file(self._path(address, QUARANTINE_SUFFIX), code.encode())

    def _standing(self, address: str) -> GpuStanding:
        quarantine, claim = (
            self._path(address, suffix) for suffix in (QUARANTINE_SUFFIX, CLAIM_SUFFIX)
        )
        if quarantine.exists():
            state, detail = GpuState.QUARANTINED, quarantine.read_text()
        elif claim.exists():
            state, detail = GpuState.CLAIMED, claim.read_text()
        else:
            state, detail = GpuState.FREE, ""
        return GpuStanding(address=address, state=state, detail=detail)

    def _path(self, address: str, suffix: str) -> Path:
        # Not with_suffix, which would take the function's number for one.
        return self._folder / (address + suffix)

    def claimants(self) -> frozenset[str]:
        """Every lease that claims a GPU here, or did when a launcher was killed."""
        claims = (self._path(address, CLAIM_SUFFIX) for address in self._offered)
        return frozenset(claim.read_text() for claim in claims if claim.exists())
