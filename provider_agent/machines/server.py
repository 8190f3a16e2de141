"""The launcher's service: one packet asks, one answers; only callers that the host named.

Rules:
- It has no network, and takes no path, flag or text for QEMU from a caller (`wire`).
- A caller is asked for by the kernel's word (SO_PEERCRED) before its first packet is read.
- An answer is lost with its caller; what it answers is done all the same, and is on record.
- When it stops, machines run on, and the next launcher adopts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Coroutine
from typing import Any, Final

from provider_agent import unix_sockets
from provider_agent.chip_wire import ChipRefusal, Status, Stop, Wait
from provider_agent.doctor.view import UnreadError
from provider_agent.errors import LaunchError
from provider_agent.machines import wire
from provider_agent.machines.callers import check_caller, peer_of
from provider_agent.machines.config import LauncherConfig
from provider_agent.machines.errors import MachineError
from provider_agent.machines.fleet import Fleet
from provider_agent.machines.readings import READINGS, Reader, read_here
from provider_agent.machines.wire import (
    LaunchMachine,
    MachineView,
    PrepareGpu,
    Probe,
    Read,
    WasRead,
)
from trust.errors import EncodingError

CALLERS_MAX: Final = 64  # an agent waits on each machine, and asks one thing besides
TEXT_CHARACTERS_MAX: Final = 1000  # QEMU's words are long
REFUSED_SECONDS_MAX: Final = 2.0
REFUSED_PACKETS_MAX: Final = 4

_log = logging.getLogger("blindhost.launcher")


class LauncherServer:
    """Answers agents for one fleet."""

    def __init__(self, fleet: Fleet, config: LauncherConfig, *, reader: Reader = read_here) -> None:
        self._fleet, self._config, self._reader = fleet, config, reader
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Answer callers until `stop` is set."""
        accepting = asyncio.create_task(self._accept(listener))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((accepting, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (accepting, stopping, *self._tasks):
                task.cancel()
            await asyncio.gather(accepting, stopping, *self._tasks, return_exceptions=True)
            await self._fleet.close()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            channel, _ = await asyncio.get_running_loop().sock_accept(listener)
            if len(self._tasks) >= CALLERS_MAX:
                channel.close()
                continue
            self._run(self._converse(channel))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, channel: socket.socket) -> None:
        with channel, contextlib.suppress(OSError):
            try:
                check_caller(peer_of(channel), self._config)
            except MachineError as error:
                _log.warning("caller-refused reason=%s", error)
                await self._say(channel, ChipRefusal(code=error.code, text=error.text))
                await _hear_out(channel)
                return
            while True:
                try:
                    packet = await unix_sockets.receive(channel)
                except LaunchError as error:
                    await self._say(channel, ChipRefusal(code="malformed", text=str(error)))
                    continue
                if not packet.content:
                    return
                await self._say(channel, await self.answer(packet))

    @staticmethod
    async def _say(channel: socket.socket, answer: wire.Answer) -> None:
        await unix_sockets.send(channel, wire.encode_packet(answer))

    async def answer(self, packet: unix_sockets.Packet) -> wire.Answer:
        """Do what one packet asks. Its descriptors are closed when this returns."""
        try:
            match wire.parse_ask(packet.content):
                case LaunchMachine() as ask:
                    return await self._launch(ask, packet.descriptors)
                case PrepareGpu() as ask:
                    return await self._fleet.prepare_gpu(ask)
                case Probe():
                    return await self._fleet.probe()
                case Read(reading=reading):
                    return await self._read(reading)
                case Wait(lease=lease):
                    return await self._fleet.wait(lease)
                case Stop(lease=lease):
                    return await self._fleet.stop(lease)
                case Status():
                    return self._fleet.view()
        except EncodingError as error:
            return ChipRefusal(code="malformed", text=str(error)[:TEXT_CHARACTERS_MAX])
        except MachineError as error:
            _log.warning("refused code=%s reason=%s", error.code, error.text)
            return ChipRefusal(code=error.code, text=error.text[:TEXT_CHARACTERS_MAX])
        except LaunchError as error:
            return ChipRefusal(code="failed", text=str(error)[:TEXT_CHARACTERS_MAX])
        finally:
            unix_sockets.close_all(packet.descriptors)

    async def _read(self, reading: str) -> WasRead | ChipRefusal:
        if (question := READINGS.get(reading)) is None:
            return ChipRefusal(code="unknown-reading", text=f"{reading[:40]!r} is not on the list")
        try:
            answer = await asyncio.to_thread(self._reader, question)
        except UnreadError as error:
            return ChipRefusal(code="unread", text=str(error)[:TEXT_CHARACTERS_MAX])
        return WasRead(answer=json.dumps(answer))

    async def _launch(self, ask: LaunchMachine, door: tuple[int, ...]) -> MachineView:
        view = await self._fleet.launch(ask, door)
        _log.info(
            "launched lease=%s pid=%s image=%s platform=%s",
            *(view.record.lease, view.record.pid, ask.image.hex(), ask.platform.value),
        )
        return view


async def _hear_out(channel: socket.socket) -> None:
    """Drop what a refused caller has sent: a close over unread packets would take our word back."""
    channel.shutdown(socket.SHUT_WR)
    with contextlib.suppress(TimeoutError, LaunchError):
        async with asyncio.timeout(REFUSED_SECONDS_MAX):
            for _ in range(REFUSED_PACKETS_MAX):
                packet = await unix_sockets.receive(channel)
                unix_sockets.close_all(packet.descriptors)
                if not packet.content:
                    return
