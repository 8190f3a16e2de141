"""What judges look at: files, answers, the wanted offer, and a time; parsed once, where needed.

Rules:
- A judge asks here and nowhere else. A missing fact raises; it is never put in place of a fact.
- PCI and processor are read as the kernel writes them; a line that is none of its own is unread.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from provider_agent.doctor.probe import Probe, Question, RememberingProbe, said
from provider_agent.doctor.view import AbsentError, HostView, UnreadError
from provider_agent.errors import AgentError

AMD: Final = "AuthenticAMD"
INTEL: Final = "GenuineIntel"
NVIDIA: Final = 0x10DE
CLASS_DISPLAY: Final = 0x03
CLASS_BRIDGE: Final = 0x06
CLASS_3D: Final = (0x0300, 0x0302)  # VGA on cards with a connector, 3D controller on boards
PCI: Final = "sys/bus/pci/devices"
DEVICES_MAX: Final = 1024

_BDF: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


T = TypeVar("T")


class NotApplicableError(AgentError):
    """It is no question on this machine: the check is skipped, and this says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What the host means to offer."""

    gpus: int | None = None
    """None: all that are there."""
    vms: int = 1
    """Confidential VMs at one time."""
    memory_mib: int | None = None
    """Guest memory, all VMs together; None: half of what is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processor:
    """The first processor of /proc/cpuinfo."""

    vendor: str
    family: int
    model: int
    name: str
    flags: frozenset[str]

    @property
    def is_confidential(self) -> bool:
        """A shipped policy accepts its generation: Genoa, Turin; Emerald, Granite Rapids."""
        if self.vendor == AMD:
            genoa = self.family == 0x19 and (
                self.model in range(0x10, 0x20) or self.model >> 4 == 10
            )
            return genoa or (self.family == 0x1A and self.model < 0x20)
        return self.vendor == INTEL and self.family == 6 and self.model in (207, 173)

    @property
    def runs_guests_that_nobody_accepts(self) -> bool:
        """Milan and Sapphire Rapids: they work, and no shipped policy accepts them."""
        milan = self.vendor == AMD and self.family == 0x19 and self.model < 0x10
        return milan or (self.vendor == INTEL and self.family == 6 and self.model == 143)


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A PCI function."""

    bdf: str
    vendor: int
    device: int
    kind: int
    """Class and subclass, 16 bits."""

    @property
    def slot(self) -> str:
        """Without the function."""
        return self.bdf.partition(".")[0]


class Context:
    """One look at one machine."""

    def __init__(
        self,
        *,
        view: HostView,
        probe: Probe,
        now: dt.datetime,
        wanted: Wanted | None = None,
        market_named: bool = False,
        roots: frozenset[bytes] | None = None,
    ) -> None:
        """`now` is aware. `roots`: SHA-256 of endorsement roots; None: the vendors' own."""
        self.view, self.now, self.market_named = view, now, market_named
        self.probe = RememberingProbe(probe)
        self.wanted = wanted or Wanted()
        self.roots = roots
        self._known: dict[str, object] = {}

    # --- answers ---------------------------------------------------------------------------------

    def number(self, *question: str | int) -> int:
        """A number of the probe's. Raises UnreadError."""
        answer = self._ask(question)
        if not isinstance(answer, int) or isinstance(answer, bool):
            raise UnreadError(f"{said(question)}: no number")
        return answer

    def word(self, *question: str | int) -> str:
        """A text of the probe's. Raises UnreadError."""
        answer = self._ask(question)
        if not isinstance(answer, str):
            raise UnreadError(f"{said(question)}: no text")
        return answer

    def truth(self, *question: str | int) -> bool:
        """A yes or no of the probe's. Raises UnreadError."""
        answer = self._ask(question)
        if not isinstance(answer, bool):
            raise UnreadError(f"{said(question)}: neither yes nor no")
        return answer

    def fields(self, *question: str | int) -> Mapping[str, object]:
        """An object of the probe's. Raises UnreadError."""
        answer = self._ask(question)
        if not isinstance(answer, Mapping):
            raise UnreadError(f"{said(question)}: no object")
        return answer

    def output(self, name: str) -> str:
        """What a program of the list says, if it ends well. Raises UnreadError."""
        answer = self.fields("command", name)
        status, text = answer.get("status"), answer.get("output")
        if status != 0 or not isinstance(text, str):
            raise UnreadError(f"command:{name}: ends with status {status}")
        return text

    def _ask(self, question: Question) -> object:
        return self.probe.ask(question)

    def _once(self, name: str, read: Callable[[], T]) -> T:
        """Read once, also in vain: what takes its whole time to be unread costs that once."""
        if name not in self._known:
            try:
                self._known[name] = read()
            except UnreadError as error:
                self._known[name] = error
        found = self._known[name]
        if isinstance(found, UnreadError):
            raise type(found)(str(found))
        return cast(T, found)

    # --- processor -------------------------------------------------------------------------------

    @property
    def processor(self) -> Processor:
        """Raises UnreadError."""
        return self._once("processor", self._processor)

    def _processor(self) -> Processor:
        fields: dict[str, str] = {}
        for line in self.view.text("proc/cpuinfo").splitlines():
            name, colon, value = line.partition(":")
            if not line.strip() and fields:
                break
            if colon:
                fields.setdefault(name.strip(), value.strip())
        try:
            return Processor(
                vendor=fields["vendor_id"],
                family=int(fields["cpu family"]),
                model=int(fields["model"]),
                name=fields.get("model name", ""),
                flags=frozenset(fields.get("flags", "").split()),
            )
        except (KeyError, ValueError) as error:
            raise UnreadError(f"proc/cpuinfo: no usable {error}") from error

    def require_vendor(self, vendor: str) -> None:
        """Raises NotApplicableError on the other vendor's machine."""
        if self.processor.vendor != vendor:
            raise NotApplicableError(f"for {vendor} alone; this is {self.processor.vendor[:40]}")

    @property
    def kernel(self) -> tuple[int, int]:
        """Major and minor version. Raises UnreadError."""
        return self._once("kernel", self._kernel)

    def _kernel(self) -> tuple[int, int]:
        text = self.view.text("proc/sys/kernel/osrelease", most=4096)
        match = re.match(r"(\d{1,4})\.(\d{1,4})", text)
        if match is None:
            raise UnreadError(f"proc/sys/kernel/osrelease: {text[:40]!r} is no version")
        return int(match[1]), int(match[2])

    @property
    def dmesg(self) -> str:
        """The kernel's log. Raises UnreadError."""
        return self.output("dmesg")

    # --- PCI -------------------------------------------------------------------------------------

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every PCI function, by address. Raises UnreadError."""
        return self._once("devices", self._devices)

    def _devices(self) -> tuple[Device, ...]:
        found = []
        for bdf in self.view.names(PCI):
            if not _BDF.fullmatch(bdf):
                raise UnreadError(f"{PCI}: {bdf[:40]!r} is no address")
            found.append(
                Device(
                    bdf=bdf,
                    vendor=self.view.number(f"{PCI}/{bdf}/vendor"),
                    device=self.view.number(f"{PCI}/{bdf}/device"),
                    kind=self.view.number(f"{PCI}/{bdf}/class") >> 8,
                )
            )
            if len(found) > DEVICES_MAX:
                raise UnreadError(f"{PCI}: over {DEVICES_MAX} functions")
        return tuple(found)

    @property
    def gpus(self) -> tuple[Device, ...]:
        """NVIDIA's display functions. Raises UnreadError; a machine without a bus has none."""
        return self._once("gpus", self._gpus)

    def _gpus(self) -> tuple[Device, ...]:
        try:
            devices = self.devices
        except AbsentError:
            if self.view.exists("sys/bus"):
                return ()
            raise
        return tuple(d for d in devices if d.vendor == NVIDIA and d.kind in CLASS_3D)

    @property
    def some_gpus(self) -> tuple[Device, ...]:
        """At least one. Raises NotApplicableError."""
        if not self.gpus:
            raise NotApplicableError("there is no NVIDIA GPU")
        return self.gpus

    def each_gpu(self, read: Callable[[Device], str]) -> dict[str, str]:
        """One word about each GPU. Raises UnreadError with its address."""
        found = {}
        for gpu in self.some_gpus:
            try:
                found[gpu.bdf] = read(gpu)
            except AbsentError as error:
                raise AbsentError(f"GPU {gpu.bdf}: {error}") from error
            except UnreadError as error:
                raise UnreadError(f"GPU {gpu.bdf}: {error}") from error
        return found

    def gpu_file(self, gpu: Device, name: str) -> str:
        """An attribute of a GPU's PCI function. Raises UnreadError."""
        return self.view.text(f"{PCI}/{gpu.bdf}/{name}", most=1 << 16)

    @property
    def market(self) -> Mapping[str, object]:
        """What the market answered. Raises NotApplicableError if none was named, or UnreadError."""
        if not self.market_named:
            raise NotApplicableError("no market was named: --market URL --market-identity HEX")
        return self.fields("market")
