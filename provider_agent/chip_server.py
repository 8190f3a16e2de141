"""What a simulated chip does: copies, measures and starts enclaves, and signs reports for each.

Rules:
- What it certifies, it did itself: it copies and measures the runtime, digests the launch document,
  and starts the enclave from exactly that copy. No caller names a measurement.
- An enclave gets reports over a socket of its own, with its own measurement and HOST_DATA: which
  enclave asks is decided by the socket, and nothing that is said on it can change that.
- The machine's simulated GPU, if it has one, answers on the same socket. It knows no enclave, as
  no GPU does: what ties the two is the nonce, and the statement that the chip signs.
- What it started is dead once it is dead, so it begins with nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provider_agent import chip_wire, sandbox, unix_sockets
from provider_agent.chip_wire import ChipRefusal, ChipView, EnclaveView, Stopped
from provider_agent.errors import LaunchError
from provider_agent.runtime_image import copy_image
from trust.encoding import digest
from trust.errors import EncodingError
from trust.jobs import LaunchDocument
from trust.messages import Endorsement, GpuEvidence
from trust.simulated import SimulatedChip, SimulatedGpu

ENCLAVES_FOLDER: Final = "enclaves"
ASKED_BYTES: Final = {b"\x01": 64, b"\x02": 32}
"""By operation: report data, of which a report is made; a GPU's nonce."""
ASK_REPORT: Final = b"\x01"
REPORTS_MAX: Final = 8192  # an enclave asks GPU and CPU for each relying party and attempt
CALLERS_MAX: Final = 128  # an agent waits on each enclave, and asks one thing besides
IDLE_SECONDS_MAX: Final = 180  # an enclave whose agent is gone ends after 120
STATUS_OK: Final = b"\x00"
STATUS_REFUSED: Final = b"\x01"
STATUS_NO_GPU: Final = b"\x02"

_log = logging.getLogger("blindhost.chip")


@dataclass(kw_only=True, slots=True)
class _Enclave:
    """One enclave, from its launch until somebody stops it."""

    launch: LaunchDocument
    measurement: bytes
    folder: Path
    enclosed: sandbox.Enclosed
    exit: int | None = None
    ended: asyncio.Event

    def view(self) -> EnclaveView:
        return EnclaveView(
            lease=self.launch.lease,
            pid=self.enclosed.pid,
            measurement=self.measurement,
            host_data=self.launch.digest,
            isolation=self.enclosed.isolation,
            exit=self.exit,
        )


class ChipServer:
    """Answers the agent's asks, and the enclaves' requests for reports."""

    def __init__(
        self,
        chip: SimulatedChip,
        *,
        runtime: Path,
        home: Path,
        gpu: SimulatedGpu | None = None,
    ) -> None:
        """`gpu` None: a machine without one, as there are."""
        self._chip, self._gpu, self._runtime, self._home = chip, gpu, runtime, home
        self._incarnation = secrets.token_bytes(16)
        self._enclaves: dict[str, _Enclave] = {}
        self._starting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers = 0
        # What lies here was started by a chip that is dead, so it is dead too.
        shutil.rmtree(home / ENCLAVES_FOLDER, ignore_errors=True)
        (home / ENCLAVES_FOLDER).mkdir(mode=0o700)

    # --- the agent's side ------------------------------------------------------------------------

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Answer callers until `stop` is set, or nobody calls and nothing runs."""
        accepting = asyncio.create_task(self._accept(listener))
        try:
            idle = 0
            while not stop.is_set() and idle < IDLE_SECONDS_MAX and not accepting.done():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1)
                running = any(each.exit is None for each in self._enclaves.values())
                idle = 0 if self._callers or running or self._starting else idle + 1
        finally:
            accepting.cancel()
            await self.close()

    async def close(self) -> None:
        """Kill every enclave, and remove what was made for it."""
        for lease in tuple(self._enclaves):
            await self._stop(lease)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            channel, _ = await asyncio.get_running_loop().sock_accept(listener)
            if self._callers >= CALLERS_MAX:
                channel.close()
                continue
            self._run(self._converse(channel))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, channel: socket.socket) -> None:
        self._callers += 1
        with channel, contextlib.suppress(OSError):
            try:
                while True:
                    try:
                        packet = await unix_sockets.receive(channel)
                    except LaunchError as error:
                        refusal = ChipRefusal(code="malformed", text=str(error))
                        await unix_sockets.send(channel, chip_wire.encode_packet(refusal))
                        continue
                    if not packet.content:
                        return
                    answer = await self.answer(packet)
                    await unix_sockets.send(channel, chip_wire.encode_packet(answer))
            finally:
                self._callers -= 1

    async def answer(self, packet: unix_sockets.Packet) -> chip_wire.Answer:
        """Do what one packet asks. Its descriptors are closed when this returns."""
        try:
            match chip_wire.parse_ask(packet.content):
                case chip_wire.Launch(document=document):
                    return await self._launch(document, packet.descriptors)
                case chip_wire.Stop(lease=lease):
                    return Stopped(lease=lease, known=await self._stop(lease))
                case chip_wire.Wait(lease=lease):
                    if (enclave := self._enclaves.get(lease)) is None:
                        return ChipRefusal(code="unknown", text=f"no enclave of {lease}")
                    await enclave.ended.wait()
                    return enclave.view()
                case chip_wire.Status():
                    return self._view()
        except EncodingError as error:
            return ChipRefusal(code="malformed", text=str(error))
        except LaunchError as error:
            _log.warning("launch-failed reason=%s", error)
            return ChipRefusal(code="failed", text=str(error))
        finally:
            unix_sockets.close_all(packet.descriptors)

    def _view(self) -> ChipView:
        endorsements = self._chip.endorsements()
        if self._gpu is not None:
            endorsements += self._gpu.endorsements()
        return ChipView(
            incarnation=self._incarnation,
            pid=os.getpid(),
            root=self._chip.root_fingerprint,
            endorsements=tuple(Endorsement(kind=k, content=c) for k, c in endorsements),
            enclaves=tuple(each.view() for each in self._enclaves.values()),
        )

    # --- launch and end --------------------------------------------------------------------------

    async def _launch(
        self, document: bytes, descriptors: tuple[int, ...]
    ) -> EnclaveView | ChipRefusal:
        """Start an enclave from files that are measured as they are copied.

        (1) The launch document is whole and canonical, and no other enclave has its lease.
        (2) Copy and measure. (3) Start from exactly that copy. (4) Answer what it asks with
        this measurement and this document's digest, for as long as it lives.
        """
        launch = LaunchDocument.parse(document)  # (1)
        if launch.lease in self._enclaves or launch.lease in self._starting:
            return ChipRefusal(code="exists", text=f"{launch.lease} has its enclave")
        if len(self._enclaves) + len(self._starting) >= chip_wire.ENCLAVES_MAX:
            return ChipRefusal(code="full", text=f"{chip_wire.ENCLAVES_MAX} enclaves are here")
        if len(descriptors) != 2:
            return ChipRefusal(code="malformed", text=f"{len(descriptors)} sockets; wanted 2")
        folder = self._home / ENCLAVES_FOLDER / launch.lease
        self._starting.add(launch.lease)
        try:
            enclave = await self._start(launch, document, folder, descriptors)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self._starting.discard(launch.lease)
        self._enclaves[launch.lease] = enclave
        return enclave.view()

    async def _start(
        self,
        launch: LaunchDocument,
        document: bytes,
        folder: Path,
        descriptors: tuple[int, ...],
    ) -> _Enclave:
        image, staging = folder / "image", folder / "root"
        measurement = self._copy(image, staging, document)  # (2)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                program = sandbox.Program(
                    image=image,
                    staging=staging,
                    door=(descriptors[0], descriptors[1]),
                    chip=theirs.fileno(),
                )
                enclosed = await sandbox.start(program)  # (3)
        except BaseException:
            ours.close()
            raise
        enclave = _Enclave(
            launch=launch,
            measurement=measurement,
            folder=folder,
            enclosed=enclosed,
            ended=asyncio.Event(),
        )
        walls = enclosed.isolation
        _log.info(
            "launched lease=%s pid=%d measurement=%s namespaces=%s refused=%s read_only_root=%s",
            launch.lease,
            enclosed.pid,
            measurement.hex(),
            ",".join(walls.namespaces),
            "; ".join(walls.refused) or "none",
            walls.read_only_root,
        )
        self._run(self._answer_enclave(ours, measurement=measurement, host_data=digest(document)))
        self._run(self._watch(enclave))
        return enclave

    def _copy(self, image: Path, staging: Path, document: bytes) -> bytes:
        try:
            image.parent.mkdir(mode=0o700)
            staging.mkdir()
        except OSError as error:
            raise LaunchError(f"image: no folder: {error.strerror}") from error
        return copy_image(self._runtime, image, launch=document)

    async def _answer_enclave(
        self, channel: socket.socket, *, measurement: bytes, host_data: bytes
    ) -> None:
        """(4) One request is an operation and its bytes; the answer: status, u32 length, bytes."""
        reader, writer = await asyncio.open_connection(sock=channel)
        try:
            for number in range(REPORTS_MAX + 1):
                operation = await reader.readexactly(1)
                if operation not in ASKED_BYTES:
                    return  # nobody knows where the next question begins
                asked = await reader.readexactly(ASKED_BYTES[operation])
                status, answer = STATUS_REFUSED, b""
                if number < REPORTS_MAX and operation == ASK_REPORT:
                    status, answer = (
                        STATUS_OK,
                        self._chip.report(
                            report_data=asked, host_data=host_data, measurement=measurement
                        ),
                    )
                elif number < REPORTS_MAX:
                    status, answer = self._ask_gpu(asked)
                writer.write(status + len(answer).to_bytes(4, "big") + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the enclave has ended, or asks half a question: there is no other half
        finally:
            writer.close()

    def _ask_gpu(self, nonce: bytes) -> tuple[bytes, bytes]:
        if self._gpu is None:
            return STATUS_NO_GPU, b""
        return STATUS_OK, GpuEvidence(devices=(self._gpu.device(nonce),)).encode()

    async def _watch(self, enclave: _Enclave) -> None:
        enclave.exit = await enclave.enclosed.wait()
        shutil.rmtree(enclave.folder, ignore_errors=True)
        _log.info("ended lease=%s exit=%d", enclave.launch.lease, enclave.exit)
        enclave.ended.set()

    async def _stop(self, lease: str) -> bool:
        enclave = self._enclaves.get(lease)
        if enclave is None:
            return False
        await enclave.enclosed.kill()
        await enclave.ended.wait()
        self._enclaves.pop(lease, None)
        return True
