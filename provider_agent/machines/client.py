"""The agent's side of the launcher: what the keeper asks of a chip, answered by real machines.

Rules:
- It is a `keeper.ChipPort`, as `provider_agent.launcher.Launcher` is: a keeper works with either.
- The door's two ports are bound in the lease's folder, handed over, and closed here; whoever runs
  the agent next dials the same paths.
- The launcher of a confidential platform is root's, by the owner of its socket and by the kernel's
  word on who listens; and this agent is not root.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from provider_agent import unix_sockets
from provider_agent.chip_wire import (
    ChipRefusal,
    ChipView,
    EnclaveView,
    Status,
    Stop,
    Stopped,
    Wait,
)
from provider_agent.errors import LaunchError
from provider_agent.launcher import BLOBS_PORT, MESSAGES_PORT, ChipRefusedError
from provider_agent.machines import wire
from provider_agent.machines.callers import peer_of
from provider_agent.machines.config import SOCKET_PATH
from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.records import MachineRecord
from provider_agent.machines.spec import Platform
from provider_agent.machines.wire import (
    LaunchMachine,
    MachinesView,
    MachineView,
    Prepared,
    PrepareGpu,
    Probe,
    Probed,
)
from provider_agent.sandbox import Isolation
from trust.messages import Endorsement

ANSWER_SECONDS_MAX: Final = 60.0
LAUNCH_SECONDS_MAX: Final = 600.0  # eight GPUs are read, reset and read again, one after another
STOP_SECONDS_MAX: Final = 900.0  # QEMU's end, then eight resets

A = TypeVar("A", MachineView, MachinesView, Prepared, Probed, Stopped, wire.WasRead)


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineShape:
    """What each of this host's leases gets."""

    platform: Platform
    image: bytes
    """The image's name, 32 bytes."""
    memory_mib: int
    vcpus: int
    gpus: tuple[str, ...]
    """PCI addresses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificates:
    """What the platform's vendor certified, as the agent's cache has it."""

    root: bytes
    """Fingerprint of the vendor's root, 32 bytes; of zeros on the emulated platform: none."""
    endorsements: tuple[Endorsement, ...]


class MachineLauncher:
    """A client of the launcher. It holds no connection, and no state of a lease."""

    def __init__(
        self,
        shape: MachineShape,
        *,
        certificates: Certificates,
        path: Path = SOCKET_PATH,
        uid: int | None = None,
    ) -> None:
        """`uid` is who the agent runs as. Raises MachineRefusedError for root on a real host."""
        self._shape, self._certificates, self._path = shape, certificates, path
        self._uid = os.geteuid() if uid is None else uid
        if shape.platform.confidential and self._uid == 0:
            raise MachineRefusedError(
                "agent-is-root", "the agent of a real host never runs as root"
            )

    @property
    def certificates(self) -> Certificates:
        """What leases launched from now on carry."""
        return self._certificates

    def carry(self, certificates: Certificates) -> None:
        """Carry these from now on."""
        self._certificates = certificates

    async def launch(self, document: bytes, door: Path) -> EnclaveView:
        """Start a machine whose door's ports are bound in the folder `door` (mode 0700).

        Raises ChipRefusedError, or LaunchError if the launcher does not answer.
        """
        shape, stream = self._shape, socket.SOCK_STREAM
        with (
            unix_sockets.listen(door, MESSAGES_PORT, kind=stream) as messages,
            unix_sockets.listen(door, BLOBS_PORT, kind=stream) as blobs,
        ):
            ask = LaunchMachine(
                platform=shape.platform,
                image=shape.image,
                memory_mib=shape.memory_mib,
                vcpus=shape.vcpus,
                gpus=shape.gpus,
                document=document,
            )
            sockets = messages.fileno(), blobs.fileno()
            answer = await self._ask(
                ask, MachineView, descriptors=sockets, seconds=LAUNCH_SECONDS_MAX
            )
        return self._enclave(answer.record)

    async def status(self) -> ChipView:
        """The host, and the machines that run or ran on it."""
        view = await self.machines()
        return ChipView(
            incarnation=view.incarnation,
            pid=os.getpid(),
            root=self._certificates.root,
            endorsements=self._certificates.endorsements,
            # One that has no process yet is being launched: its launch has the word on it.
            enclaves=tuple(self._enclave(each) for each in view.machines if each.pid is not None),
        )

    async def machines(self) -> MachinesView:
        """The host as the launcher tells it: stages, GPUs, quarantines."""
        return await self._ask(Status(), MachinesView)

    async def wait(self, lease: str) -> EnclaveView:
        """Wait until the machine has ended. Raises LaunchError if the launcher goes before it."""
        return self._enclave((await self._ask(Wait(lease=lease), MachineView, seconds=None)).record)

    async def stop(self, lease: str) -> Stopped:
        """End the machine if it runs, and let the launcher forget it."""
        return await self._ask(Stop(lease=lease), Stopped, seconds=STOP_SECONDS_MAX)

    async def probe(self) -> Probed:
        """What the host's QEMU can do."""
        return await self._ask(Probe(), Probed)

    async def read(self, reading: str) -> str:
        """Have one of `readings.READINGS` read: JSON. Raises LaunchError."""
        return (await self._ask(wire.Read(reading=reading), wire.WasRead)).answer

    async def prepare_gpu(self, lease: str) -> Prepared:
        """Claim and prove this host's GPUs for a lease, ahead of its launch."""
        ask = PrepareGpu(lease=lease, gpus=self._shape.gpus)
        return await self._ask(ask, Prepared, seconds=LAUNCH_SECONDS_MAX)

    def _enclave(self, record: MachineRecord) -> EnclaveView:
        return EnclaveView(
            lease=record.lease,
            pid=record.pid or os.getpid(),
            measurement=record.measurement,
            host_data=record.host_data,
            # No namespace of the host's, and no disk that it can write: a machine of its own, whose
            # only user that the host knows of is the guest's root.
            isolation=Isolation(namespaces=(), refused=(), read_only_root=True, uid=0),
            exit=record.exit,
        )

    async def _ask(
        self,
        ask: wire.Ask,
        wanted: type[A],
        *,
        descriptors: tuple[int, ...] = (),
        seconds: float | None = ANSWER_SECONDS_MAX,
    ) -> A:
        try:
            with await self._dial() as channel:
                await unix_sockets.send(channel, wire.encode_packet(ask), descriptors)
                packet = await asyncio.wait_for(unix_sockets.receive(channel), seconds)
        except (OSError, TimeoutError) as error:
            raise LaunchError(f"launcher: no answer to {ask.TAG}: {error}") from error
        unix_sockets.close_all(packet.descriptors)
        if not packet.content:
            raise LaunchError(f"launcher: gone while it was asked to {ask.TAG}")
        answer = wire.parse_answer(packet.content)
        if isinstance(answer, ChipRefusal):
            raise ChipRefusedError(answer.code, answer.text)
        if not isinstance(answer, wanted):
            raise LaunchError(f"launcher: answered {ask.TAG} by {answer.TAG}")
        return answer

    async def _dial(self) -> socket.socket:
        """(1) The socket is root's. (2) Connect. (3) So is who listens.

        Raises OSError, or LaunchError.
        """
        owners = {0} if self._shape.platform.confidential else {0, self._uid}
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            status = os.stat(self._path.name, dir_fd=folder, follow_symlinks=False)
            if status.st_uid not in owners:  # (1)
                raise MachineRefusedError("launcher-not-root", f"its socket is {status.st_uid}'s")
            channel.settimeout(0)
            short = f"/proc/self/fd/{folder}/{self._path.name}"
            await asyncio.get_running_loop().sock_connect(channel, short)  # (2)
            if (found := peer_of(channel).uid) not in owners:  # (3)
                raise MachineRefusedError("launcher-not-root", f"user {found} listens there")
        except BaseException:
            channel.close()
            raise
        finally:
            os.close(folder)
        return channel
