"""The agent's side of the chip: launch, wait for, and stop enclaves; start the chip's process.

Rules:
- The chip outlives its agent: an agent that was killed finds the chip and its enclaves again.
- The door's two ports are bound in the lease's folder, handed to the chip, and closed here; whoever
  runs the agent next dials the same paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

from provider_agent import chip_wire, unix_sockets
from provider_agent.chip_wire import ChipRefusal, ChipView, EnclaveView, Stopped
from provider_agent.errors import LaunchError
from provider_agent.simulated_chip import SOCKET_NAME

MESSAGES_PORT: Final = "messages"
BLOBS_PORT: Final = "blobs"
ANSWER_SECONDS_MAX: Final = 60  # a launch copies a hundred files and starts a process
CHIP_START_TRIES: Final = 150
CHIP_START_PAUSE_SECONDS: Final = 0.1
STOP_SECONDS_MAX: Final = 20  # it kills its enclaves first

_PACKAGES: Final = str(Path(__file__).resolve().parent.parent)

A = TypeVar("A", EnclaveView, ChipView, Stopped)


class ChipRefusedError(LaunchError):
    """The chip says no. `code` is a word for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Launcher:
    """A client of the chip whose socket is in `home`. It holds no connection and no state."""

    def __init__(self, home: Path) -> None:
        self._home = home

    async def launch(self, document: bytes, door: Path) -> EnclaveView:
        """Start an enclave whose door's ports are bound in the folder `door` (mode 0700).

        Raises ChipRefusedError, or LaunchError if the chip does not answer.
        """
        stream = socket.SOCK_STREAM
        with (
            unix_sockets.listen(door, MESSAGES_PORT, kind=stream) as messages,
            unix_sockets.listen(door, BLOBS_PORT, kind=stream) as blobs,
        ):
            return await self._ask(
                chip_wire.Launch(document=document),
                EnclaveView,
                descriptors=(messages.fileno(), blobs.fileno()),
            )

    async def status(self) -> ChipView:
        """The chip, and all that it started."""
        return await self._ask(chip_wire.Status(), ChipView)

    async def wait(self, lease: str) -> EnclaveView:
        """Wait until the enclave has ended. Raises LaunchError if the chip goes before it."""
        return await self._ask(chip_wire.Wait(lease=lease), EnclaveView, seconds=None)

    async def stop(self, lease: str) -> Stopped:
        """Kill the enclave if it runs, and let the chip forget it."""
        return await self._ask(chip_wire.Stop(lease=lease), Stopped)

    async def _ask(
        self,
        ask: chip_wire.Ask,
        wanted: type[A],
        *,
        descriptors: tuple[int, ...] = (),
        seconds: float | None = ANSWER_SECONDS_MAX,
    ) -> A:
        try:
            with await unix_sockets.dial(
                self._home, SOCKET_NAME, kind=socket.SOCK_SEQPACKET
            ) as channel:
                await unix_sockets.send(channel, chip_wire.encode_packet(ask), descriptors)
                packet = await asyncio.wait_for(unix_sockets.receive(channel), seconds)
        except (OSError, TimeoutError) as error:
            raise LaunchError(f"chip: no answer to {ask.TAG}: {error}") from error
        unix_sockets.close_all(packet.descriptors)
        if not packet.content:
            raise LaunchError(f"chip: gone while it was asked to {ask.TAG}")
        answer = chip_wire.parse_answer(packet.content)
        if isinstance(answer, ChipRefusal):
            raise ChipRefusedError(answer.code, answer.text)
        if not isinstance(answer, wanted):
            raise LaunchError(f"chip: answered {ask.TAG} by {answer.TAG}")
        return answer


class Chip:
    """The chip's process, for the agent that looks after it.

    It is started if it does not run, and lives on if its agent is killed. Its log is HOME/log.
    """

    def __init__(self, home: Path, *, runtime: Path | None) -> None:
        self._home, self._runtime = home, runtime
        self._launcher = Launcher(home)
        self._process: subprocess.Popen[bytes] | None = None

    async def find_or_start(self) -> ChipView:
        """The chip, started if it does not answer. Raises LaunchError if that does not help."""
        with contextlib.suppress(LaunchError):
            return await self._launcher.status()
        self._reap()
        command = [sys.executable, "-B", "-m", "provider_agent.simulated_chip"]
        command += ["--home", str(self._home)]
        if self._runtime is not None:
            command += ["--runtime", str(self._runtime)]
        self._process = await asyncio.to_thread(_spawn, command, self._home / "log")
        for _ in range(CHIP_START_TRIES):
            with contextlib.suppress(LaunchError):
                return await self._launcher.status()
            if (status := self._process.poll()) is not None:
                self._process = None
                raise LaunchError(f"chip: ended with status {status}; its log says why")
            await asyncio.sleep(CHIP_START_PAUSE_SECONDS)
        self._reap()
        raise LaunchError("chip: does not answer")

    async def stop(self) -> None:
        """End the chip, and every enclave with it, whichever agent started it."""
        with contextlib.suppress(LaunchError, ProcessLookupError):
            pid = (await self._launcher.status()).pid
            with _pidfd(pid) as descriptor:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                await asyncio.to_thread(select.select, [descriptor], [], [], STOP_SECONDS_MAX)
        self._reap()

    def _reap(self) -> None:
        """A chip of ours that does not answer is no use; one that has ended is collected."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        log.chmod(0o600)
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            env={},
            cwd=_PACKAGES,
            start_new_session=True,  # an interrupt at the terminal is the agent's to answer
        )
