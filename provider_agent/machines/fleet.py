"""All machines of one host: what may be launched beside what runs, and who takes over what.

Rules:
- A lease has one machine; its record stays until the agent stops it, so no second one is started.
- What a machine may have is the host's configuration less what runs: memory, vCPUs, number, GPUs.
- A launcher that starts takes over every machine that it finds before it answers anybody.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.chip_wire import ChipRefusal, Stopped
from provider_agent.machines.callers import check_door
from provider_agent.machines.config import LauncherConfig
from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.gpus import REMEDIES, Gpus, GpuState
from provider_agent.machines.host_facts import check_host
from provider_agent.machines.images import Image, ImageStore
from provider_agent.machines.machine import Deadlines, Machine
from provider_agent.machines.probing import probe
from provider_agent.machines.programs import Starter
from provider_agent.machines.records import MachineRecord, MachineStage, Records
from provider_agent.machines.spec import (
    TD_ATTRIBUTES,
    MachineSpec,
    Platform,
    SerialDoor,
    SnpShape,
    TdxShape,
    rounded_memory_mib,
)
from provider_agent.machines.wire import (
    GpuView,
    LaunchMachine,
    MachinesView,
    MachineView,
    Prepared,
    PrepareGpu,
    Probed,
)
from trust.encoding import digest
from trust.jobs import LaunchDocument

RECORDS_FOLDER: Final = "machines"
CLAIMS_FOLDER: Final = "gpus"
ENDED_MAX: Final = 32  # ends that no agent has asked to forget yet

_log = logging.getLogger("blindhost.launcher")


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What a fleet works with, apart from its configuration."""

    home: Path
    """Records and claims; mode 0700."""
    root: Path
    """Where /proc is."""
    boot: bytes
    """This boot of the host, 16 bytes."""
    starter: Starter
    gpus: Gpus | None
    deadlines: Deadlines
    clock: Callable[[], int]
    """Unix milliseconds."""


class Fleet:
    """The machines of one host."""

    def __init__(self, config: LauncherConfig, around: Surroundings) -> None:
        self._config, self._around = config, around
        self._records = Records(around.home / RECORDS_FOLDER)
        self._images = ImageStore(
            Path(config.images_folder),
            platform=config.platform,
            allowed=frozenset(config.images),
        )
        self._machines: dict[str, Machine] = {}
        self._probed: Probed | None = None

    async def adopt(self) -> None:
        """Take over what an earlier launcher left. Raises MachineError for a broken record."""
        for record in self._records.load():
            machine = self._machine(record)
            if await machine.adopt(self._around.boot):
                self._machines[record.lease] = machine
        if self._around.gpus is not None:  # claimed by a launch of which nothing else is left
            for lease in self._around.gpus.claimants() - set(self._machines):
                await self._around.gpus.release(lease)

    async def close(self) -> None:
        """Watch no more; machines run on."""
        for machine in self._machines.values():
            await machine.let_go()

    def _machine(self, record: MachineRecord) -> Machine:
        return Machine(
            record,
            records=self._records,
            gpus=self._around.gpus,
            deadlines=self._around.deadlines,
            clock=self._around.clock,
        )

    # --- verbs -----------------------------------------------------------------------------------

    def view(self) -> MachinesView:
        """All that is here."""
        standings = self._around.gpus.standings() if self._around.gpus is not None else ()
        return MachinesView(
            incarnation=self._around.boot,
            platform=self._config.platform,
            machines=tuple(machine.record for machine in self._machines.values()),
            gpus=tuple(
                GpuView(
                    address=each.address,
                    state=each.state,
                    detail=each.detail,
                    remedy=REMEDIES.get(each.detail, "")
                    if each.state is GpuState.QUARANTINED
                    else "",
                )
                for each in standings
            ),
        )

    async def probe(self) -> Probed:
        """What this host's QEMU can do; asked once. Raises MachineError."""
        check_host(self._around.root, self._config.platform)
        if self._probed is None:
            self._probed = await probe(self._config, self._around.home)
        return self._probed

    async def prepare_gpu(self, ask: PrepareGpu) -> Prepared:
        """Claim and prove GPUs ahead of a launch. Raises MachineError."""
        if self._around.gpus is None:
            raise MachineRefusedError("gpu-not-offered", "this host offers no GPU")
        self._around.gpus.claim(ask.lease, ask.gpus)
        try:
            await self._around.gpus.prepare(ask.lease, ask.gpus)
        except BaseException:
            await self._around.gpus.release(ask.lease)
            raise
        return Prepared(lease=ask.lease)

    async def wait(self, lease: str) -> MachineView | ChipRefusal:
        """Wait until a machine has ended."""
        if (machine := self._machines.get(lease)) is None:
            return ChipRefusal(code="unknown", text=f"no machine of {lease}")
        await machine.ended.wait()
        return MachineView(record=machine.record)

    async def stop(self, lease: str) -> Stopped:
        """End a machine, and forget it."""
        machine = self._machines.get(lease)
        if machine is not None:
            await machine.stop()
            self._records.remove(lease)
            self._machines.pop(lease, None)
        if self._around.gpus is not None:  # what was prepared, and never launched
            await self._around.gpus.release(lease)
        return Stopped(lease=lease, known=machine is not None)

    async def launch(self, ask: LaunchMachine, door: tuple[int, ...]) -> MachineView:
        """Start a machine. Raises MachineError, or EncodingError for a bad launch document.

        (1) The host is a real one, and of the platform that the agent is enrolled as. (2) The
        launch document is whole, and its lease has no machine. (3) The door is two listening UNIX
        sockets. (4) It fits beside what runs. (5) The image may run, is whole, and was measured in
        this shape. (6) The spec keeps the rules. (7) The machine's own stages.
        """
        config = self._config
        check_host(self._around.root, config.platform)  # (1)
        if ask.platform is not config.platform:
            text = f"the agent is enrolled as {ask.platform}; this launcher is {config.platform}"
            raise MachineRefusedError("wrong-rung", text)
        document = LaunchDocument.parse(ask.document)  # (2)
        if document.lease in self._machines:
            raise MachineRefusedError("exists", f"{document.lease} has its machine")
        check_door(door)  # (3)
        if ask.gpus and self._around.gpus is None:
            raise MachineRefusedError("gpu-not-offered", "this host offers no GPU")
        memory = rounded_memory_mib(config.platform, ask.memory_mib)
        self._check_room(memory, ask.vcpus)  # (4)
        record = self._new_record(ask, document.lease, memory)
        machine = self._machines[document.lease] = self._machine(record)  # holds its room
        try:
            image = await asyncio.to_thread(self._images.open, ask.image)  # (5)
            machine.record = dataclasses.replace(
                record, measurement=image.shape(ask.vcpus).measurement
            )
            spec = await self._spec(ask, image, document.lease, memory)  # (6)
            await machine.launch(spec, self._around.starter, door)  # (7)
        except BaseException:
            if machine.record.stage in (
                MachineStage.CLAIMED,
                MachineStage.STARTING,
            ):  # no guest ran
                machine.ended.set()
                self._machines.pop(document.lease, None)
                if self._around.gpus is not None:  # prepared ahead of this launch
                    await self._around.gpus.release(document.lease)
            raise
        return MachineView(record=machine.record)

    # --- pieces ----------------------------------------------------------------------------------

    def _check_room(self, memory_mib: int, vcpus: int) -> None:
        running = [m.record for m in self._machines.values() if not m.ended.is_set()]
        if len(self._machines) - len(running) >= ENDED_MAX:
            raise MachineRefusedError("full", f"{ENDED_MAX} ended machines wait to be stopped")
        if len(running) >= self._config.machines_max:
            raise MachineRefusedError("full", f"{len(running)} machines run here")
        memory = memory_mib + sum(each.memory_mib for each in running)
        if memory > self._config.memory_mib:
            text = f"{memory} MiB with what runs; offered {self._config.memory_mib}"
            raise MachineRefusedError("too-much-memory", text)
        processors = vcpus + sum(each.vcpus for each in running)
        if processors > self._config.vcpus:
            text = f"{processors} with what runs; offered {self._config.vcpus}"
            raise MachineRefusedError("too-many-vcpus", text)

    def _new_record(self, ask: LaunchMachine, lease: str, memory: int) -> MachineRecord:
        return MachineRecord(
            lease=lease,
            platform=self._config.platform,
            stage=MachineStage.CLAIMED,
            since=self._around.clock(),
            boot=self._around.boot,
            pid=None,
            started=None,
            image=ask.image,
            measurement=bytes(48),  # until the image has been read: not on disk before
            host_data=digest(ask.document),
            memory_mib=memory,
            vcpus=ask.vcpus,
            gpus=ask.gpus,
            quarantined=(),
            exit=None,
            reason=None,
        )

    async def _spec(
        self, ask: LaunchMachine, image: Image, lease: str, memory_mib: int
    ) -> MachineSpec:
        config = self._config
        return MachineSpec(
            platform=config.platform,
            lease=lease,
            qemu=Path(config.qemu),
            memory_mib=memory_mib,
            vcpus=ask.vcpus,
            numa_node=config.numa_node,
            firmware=image.firmware,
            kernel=image.kernel,
            initrd=image.initrd,
            root=image.root,
            command_line=image.manifest.command_line,
            launch=ask.document,
            door=SerialDoor(),
            gpus=ask.gpus,
            shape=await self._shape(image, ask.vcpus),
        )

    async def _shape(self, image: Image, vcpus: int) -> SnpShape | TdxShape | None:
        match self._config.platform:
            case Platform.SNP:
                probed = await self.probe()
                if probed.cbitpos is None or probed.reduced_phys_bits is None:
                    raise MachineRefusedError("no-sev", "QEMU tells no position of the C-bit")
                return SnpShape(
                    policy=self._config.snp_policy,
                    cpu_model=image.shape(vcpus).cpu_model,
                    cbitpos=probed.cbitpos,
                    reduced_phys_bits=probed.reduced_phys_bits,
                )
            case Platform.TDX:
                return TdxShape(attributes=TD_ATTRIBUTES, quote_port=self._config.quote_port)
            case Platform.EMULATED:
                return None
