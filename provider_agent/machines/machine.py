"""One machine from claim to end: stages with deadlines, a watch, and a clean place afterwards.

Rules:
- A stage is on record before its work begins. What is STARTING has never run a guest; what is
  BOOTING may have. So a launch that failed or was cut off before BOOTING leaves nothing, and one
  that came later leaves a record of its end until the agent stops the lease.
- Every end goes one way: QEMU dead, console and monitor closed, GPUs proven or in quarantine, and
  only then ENDED on record.
- The door counts as open when QEMU says that the guest has opened both ports. Nothing that a guest
  writes, to console or door, is read for a decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from provider_agent import unix_sockets
from provider_agent.errors import LaunchError
from provider_agent.machines.arguments import BLOBS, FRAMES, command_line
from provider_agent.machines.console import CONSOLE_SOCKET, ConsoleLog
from provider_agent.machines.errors import MachineError, MachineExit
from provider_agent.machines.gpus import Gpus
from provider_agent.machines.monitor import MONITOR_SOCKET, Monitor
from provider_agent.machines.platform_checks import check_platform, check_prelaunch
from provider_agent.machines.programs import Program, ProgramName, Started, Starter
from provider_agent.machines.records import MachineRecord, MachineStage, Records
from provider_agent.machines.spec import MachineSpec

WORDS_SECONDS: Final = 0.2
DOOR_PORTS: Final = frozenset({FRAMES, BLOBS})
STATES: Final = frozenset(
    {"guest-panicked", "internal-error", "io-error", "paused", "prelaunch", "suspended", "watchdog"}
)
"""States of QEMU's in which a machine stands still (qapi/run-state.json); only these are quoted."""
GUEST_ENDS: Final = {
    "guest-shutdown": MachineExit.ENDED,
    "guest-reset": MachineExit.RESET,
    "guest-panic": MachineExit.RESET,
}

_log = logging.getLogger("blindhost.launcher")


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadlines:
    """How long each stage may take, in seconds. A GPU's are in `gpu_tool` and `gpus`."""

    greeting: float = 10.0
    """From QEMU's start to its monitor's first word: 52 ms measured."""
    answer: float = 10.0
    """One question at the monitor."""
    boot: float = 300.0
    """From the first instruction to an open door."""
    door: float = 30.0
    """That a door may be shut again once it was open."""
    quit: float = 10.0
    """From the wish to end until SIGKILL."""
    kill: float = 60.0
    """From SIGKILL to the end: the kernel gives terabytes back."""
    silent: float = 60.0
    """That a monitor may give no answer; also from QEMU's last word to its end."""
    look: float = 0.5
    """Between two looks at a machine that runs."""


class Machine:
    """One lease's machine. `record` is what is on disk."""

    def __init__(
        self,
        record: MachineRecord,
        *,
        records: Records,
        gpus: Gpus | None,
        deadlines: Deadlines,
        clock: Callable[[], int],
    ) -> None:
        self.record = record
        self.ended = asyncio.Event()
        self._records, self._gpus, self._deadlines = records, gpus, deadlines
        self._clock = clock
        self._folder = records.folder(record.lease)
        self._program: Program | None = None
        self._started: Started | None = None
        self._monitor: Monitor | None = None
        self._console: ConsoleLog | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False
        self._reason: str | None = None

    # --- launch ----------------------------------------------------------------------------------

    async def launch(self, spec: MachineSpec, starter: Starter, door: tuple[int, ...]) -> None:
        """Start the guest. Raises MachineError with the code of the stage that failed.

        (1) Its GPUs are claimed and fit. (2) QEMU is on record, then runs, stopped. (3) Its monitor
        answers, and it has run nothing. (4) It is the machine that was asked for. (5) BOOTING is on
        record, then the guest runs. Who watches it says when it is READY.
        """
        try:
            self._write(MachineStage.CLAIMED)
            if self._gpus is not None and spec.gpus:
                self._gpus.claim(spec.lease, spec.gpus)  # (1)
                await self._gpus.prepare(spec.lease, spec.gpus)
            self._write(MachineStage.STARTING)
            await self._start(spec, starter, door)  # (2)
            await self._meet(spec)  # (3) (4)
            if self._stopping:
                raise MachineError("stopped", "its lease was stopped while it started")
            self._write(MachineStage.BOOTING)
        except BaseException as error:
            said = await self._words()
            await self._clear_up()
            if isinstance(error, MachineError) and said and error.code.startswith("monitor"):
                raise MachineError("start", said[:500]) from error
            raise
        await self._run()  # (5)

    async def _start(self, spec: MachineSpec, starter: Starter, door: tuple[int, ...]) -> None:
        stream = socket.SOCK_STREAM
        try:
            with (
                unix_sockets.listen(self._folder, MONITOR_SOCKET, kind=stream) as monitor,
                unix_sockets.listen(self._folder, CONSOLE_SOCKET, kind=stream) as console,
            ):
                sockets = (monitor.fileno(), console.fileno(), *door)
                self._started = await starter.start(
                    spec.lease, command_line(spec), sockets, self._note_name
                )
        except MachineError:
            raise
        except LaunchError as error:
            raise MachineError("start", str(error)) from error
        self._program = self._started.program

    def _note_name(self, name: ProgramName) -> None:
        self._write(MachineStage.STARTING, pid=name.pid, started=name.started)

    async def _meet(self, spec: MachineSpec) -> None:
        self._monitor = await Monitor.connect(self._folder, seconds=self._deadlines.greeting)
        self._monitor.patience = self._deadlines.answer
        self._console = ConsoleLog(self._folder)
        await self._console.open()
        await check_prelaunch(self._monitor)
        await check_platform(self._monitor, spec)

    async def _run(self) -> None:
        """Let the guest run, and watch it. Raises MachineError once it has been cleared up."""
        assert self._monitor is not None
        try:
            await self._monitor.ask("cont")
        except MachineError as error:
            await self._end(MachineExit.RESUME, "resume")
            raise MachineError("resume", error.text) from error
        self._watch = asyncio.create_task(self._watch_over())
        if self._stopping and self._program is not None:
            self._program.kill()

    # --- take over -------------------------------------------------------------------------------

    async def adopt(self, boot: bytes) -> bool:
        """Take over what another launcher left; False: nothing is left of it, not even a record.

        (1) An end on record is an end. (2) Another boot of the host: it is gone with it. (3) What
        never ran is killed and forgotten. (4) What runs no more is LOST. (5) The rest is watched
        again, if its monitor answers.
        """
        if self.record.stage is MachineStage.ENDED:  # (1)
            self.ended.set()
            return True
        if self.record.boot != boot:  # (2)
            await self._end(MachineExit.HOST_LOST, "host-lost")
            return True
        if self.record.pid is not None and self.record.started is not None:
            name = ProgramName(pid=self.record.pid, started=self.record.started)
            self._program = Program.find(name)
        if self.record.stage in (MachineStage.CLAIMED, MachineStage.STARTING):  # (3)
            await self._clear_up()
            return False
        if self._program is None:  # (4)
            await self._end(MachineExit.LOST, "lost")
            return True
        try:
            self._monitor = await Monitor.connect(self._folder, seconds=self._deadlines.greeting)
            self._monitor.patience = self._deadlines.answer
            self._console = ConsoleLog(self._folder)
            await self._console.open()
            if await self._monitor.status() == "prelaunch":
                await self._monitor.ask("cont")  # all checks had passed, and that was on record
        except MachineError as error:
            _log.warning("not-adopted lease=%s reason=%s", self.record.lease, error)
            await self._end(MachineExit.MONITOR, error.code)
            return True
        self._watch = asyncio.create_task(self._watch_over())  # (5)
        _log.info("adopted lease=%s pid=%s", self.record.lease, self.record.pid)
        return True

    # --- watch -----------------------------------------------------------------------------------

    async def _watch_over(self) -> None:
        """Look at it until it ends, or has to."""
        assert self._program is not None
        how: tuple[MachineExit, str] | None = None
        clock = asyncio.get_running_loop().time
        since = heard = clock()  # `since`: of the boot, or of the door's last opening
        while how is None and not await self._program.wait(self._deadlines.look):
            try:
                state, ports = await self._look()
                heard = clock()
            except MachineError as error:
                if clock() - heard > self._deadlines.silent:
                    how = self._guests_end() or (MachineExit.MONITOR, error.code)
                continue
            now = clock()
            if state not in ("running", "shutdown"):
                how = MachineExit.STOOD_STILL, f"state-{state if state in STATES else 'unknown'}"
            elif ports >= DOOR_PORTS:
                since = now
                if self.record.stage is MachineStage.BOOTING:
                    self._write(MachineStage.READY)
            elif self.record.stage is MachineStage.BOOTING and now - since > self._deadlines.boot:
                how = MachineExit.BOOT, "boot-timeout"
            elif self.record.stage is MachineStage.READY and now - since > self._deadlines.door:
                how = MachineExit.DOOR, "door-shut"
        if how is None:
            how = await self._why()
        await self._end(*how)

    async def _look(self) -> tuple[str, frozenset[str]]:
        if self._monitor is None or not self._monitor.connected:
            if self._monitor is not None:
                self._reason = self._monitor.shutdown_reason or self._reason
                await self._monitor.close()
                self._monitor = None
            self._monitor = await Monitor.connect(self._folder, seconds=self._deadlines.greeting)
            self._monitor.patience = self._deadlines.answer
        return await self._monitor.status(), await self._monitor.open_ports()

    async def _why(self) -> tuple[MachineExit, str]:
        """Why QEMU has ended by itself."""
        if self._stopping:
            return MachineExit.KILLED, "stopped"
        if self._monitor is not None:
            await self._monitor.drain()
        if (told := self._guests_end()) is not None:
            return told
        return MachineExit.LOST, "lost"

    def _guests_end(self) -> tuple[MachineExit, str] | None:
        """The end that QEMU has told of; None: it has told of none."""
        if self._monitor is not None:
            self._reason = self._monitor.shutdown_reason or self._reason
        if self._reason in GUEST_ENDS:
            return GUEST_ENDS[self._reason], self._reason
        return None

    # --- end -------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """End it: ask QEMU, then kill it, and clear up. Returns once it is ENDED."""
        self._stopping = True
        program = self._program  # the watch lets go of it once it has ended
        if program is not None and self._watch is not None and not self.ended.is_set():
            if self._monitor is not None:
                # Its answer may be cut off by its end.
                with contextlib.suppress(MachineError):
                    await self._monitor.ask("quit", seconds=self._deadlines.quit)
            if not await program.wait(self._deadlines.quit):
                program.kill()
        await self.ended.wait()

    async def let_go(self) -> None:
        """The launcher ends: watch no more. The machine runs on, for the next one to adopt."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._close()

    async def _end(self, how: MachineExit, reason: str) -> None:
        """The one way to ENDED."""
        shut_away = await self._tear_down()
        self._write(MachineStage.ENDED, exit=int(how), reason=reason, quarantined=shut_away)
        _log.info(
            "ended lease=%s exit=%d reason=%s quarantined=%s",
            *(self.record.lease, int(how), reason, ",".join(shut_away) or "none"),
        )
        self.ended.set()

    async def _clear_up(self) -> None:
        """A launch that ran no guest leaves nothing."""
        await self._tear_down()
        self._records.remove(self.record.lease)
        self.ended.set()

    async def _tear_down(self) -> tuple[str, ...]:
        """QEMU dead, descriptors closed, GPUs back or shut away: the addresses of the latter."""
        if self._program is not None:
            self._program.kill()
            if not await self._program.wait(self._deadlines.kill):
                _log.error("unkillable lease=%s pid=%d", self.record.lease, self._program.name.pid)
        await self._close()
        for name in (MONITOR_SOCKET, CONSOLE_SOCKET):
            (self._folder / name).unlink(missing_ok=True)
        if self._gpus is None:
            return ()
        try:
            return await self._gpus.release(self.record.lease)
        except OSError as error:  # the claims stand, so nobody gets the GPUs; a stop tries again
            _log.error("disk lease=%s reason=%s", self.record.lease, error.strerror)
            return self.record.gpus

    async def _close(self) -> None:
        if self._console is not None:
            await self._console.close()
        if self._monitor is not None:
            await self._monitor.close()
            self._monitor = None
        if self._program is not None:
            ended = self._program.ended
            self._program.let_go()
            self._program = None
            if self._started is not None:
                if ended:
                    await asyncio.to_thread(self._started.collect)
                else:
                    self._started.leave()

    async def _words(self) -> str:
        """What QEMU said on its standard error, which comes by another way than its end."""
        if self._started is None:
            return ""
        await self._started.program.wait(WORDS_SECONDS)
        return self._started.words.text

    def _write(self, stage: MachineStage, **changes: Any) -> None:
        """Put a stage on record. Raises MachineError where work must not begin without it."""
        record = dataclasses.replace(self.record, stage=stage, since=self._clock(), **changes)
        try:
            self._records.write(record)
        except OSError as error:
            # What runs is not ended by a full disk: an older record of it is true enough.
            if stage not in (MachineStage.READY, MachineStage.ENDED):
                raise MachineError("disk", f"no record: {error.strerror}") from error
            _log.error("disk lease=%s reason=%s", record.lease, error.strerror)
        self.record = record
        _log.info("stage lease=%s stage=%s", record.lease, stage.value)
