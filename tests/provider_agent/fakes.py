"""Stand-ins for what lies outside: a runtime folder, launch documents, a market in memory."""

# ruff: noqa: ASYNC240 - nothing else runs on a test's loop that would have to wait

import asyncio
import dataclasses
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path

from marketplace.wire import (
    LeaseBriefing,
    LeaseEvent,
    LeaseReport,
    LeaseState,
    LeaseView,
    OfferDraft,
    OfferState,
    OfferView,
    StoredMessage,
)
from provider_agent import sandbox, unix_sockets
from provider_agent.chip_wire import ChipView, EnclaveView, Stopped
from provider_agent.errors import RejectedError, UnavailableError
from provider_agent.launcher import BLOBS_PORT, MESSAGES_PORT, ChipRefusedError
from provider_agent.market_port import Patience
from trust.jobs import LaunchDocument, LaunchPurpose
from trust.messages import Endorsement, lease_address

MARKET = b"\x33" * 32

# A program that answers each request at the door's message port by the value of an expression.
PROBE = """
import ctypes, json, os, resource, socket, sys
ctypes.CDLL(None)
port = socket.socket(fileno=3)
channel, _ = port.accept()
file = channel.makefile("rw")
for line in file:
    try:
        answer = eval(line)
    except BaseException as error:
        answer = f"{type(error).__name__}: {error}"
    file.write(json.dumps(answer, default=str) + "\\n")
    file.flush()
"""


def lease(number: int = 1) -> str:
    return f"leas_{number:026d}"


def launch_document(number: int = 1) -> LaunchDocument:
    return LaunchDocument(
        version=1,
        purpose=LaunchPurpose.RUN,
        job=bytes([number]) * 32,
        lease=lease(number),
        generation=1,
        rank=0,
        ranks=1,
        market=MARKET,
    )


def make_runtime(folder: Path, *, program: str = PROBE) -> Path:
    """A runtime whose enclave is `program`; `trust` is the real one."""
    folder.mkdir(parents=True)
    (folder / "enclave_runtime").mkdir()
    (folder / "enclave_runtime" / "__init__.py").write_text("")
    body = "\n".join(f"    {line}" for line in program.splitlines())
    (folder / "enclave_runtime" / "simulated.py").write_text(f"def main():\n{body}\n")
    here = Path(__file__).parents[2]
    shutil.copytree(here / "trust", folder / "trust", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "constraints.txt").write_text("nothing==1\n")
    return folder


class Probe:
    """Talks to a running `PROBE`."""

    def __init__(self, channel: socket.socket) -> None:
        channel.settimeout(20)
        self._channel = channel
        self._file = channel.makefile("rw")

    def ask(self, expression: str) -> object:
        import json

        self._file.write(expression.replace("\n", " ") + "\n")
        self._file.flush()
        return json.loads(self._file.readline())

    def ask_soon(self, expression: str) -> None:
        self.ask(expression)

    def close(self) -> None:
        self._file.close()
        self._channel.close()


@dataclass
class Sandboxed:
    """A probe in a sandbox of its own, without a chip."""

    enclosed: sandbox.Enclosed
    probe: Probe
    chip: socket.socket
    sockets: list[socket.socket] = field(default_factory=list)

    async def end(self) -> int:
        self.probe.close()
        self.chip.close()
        return await self.enclosed.kill()


async def start_probe(folder: Path, *, program: str = PROBE) -> Sandboxed:
    folder.chmod(0o700)
    image, staging = folder / "image", folder / "root"
    image.mkdir()
    image.chmod(0o755)
    staging.mkdir()
    main = image / "__main__.py"
    main.write_text(program)
    main.chmod(0o444)
    messages, blobs = (socket.socket(socket.AF_UNIX) for _ in range(2))
    messages.bind(f"\0probe-{folder}"[:100])  # abstract: of the host's network namespace
    messages.listen()
    blobs.bind(f"\0blobs-{folder}"[:100])
    blobs.listen()
    ours, theirs = socket.socketpair()
    program_ = sandbox.Program(
        image=image,
        staging=staging,
        door=(messages.fileno(), blobs.fileno()),
        chip=theirs.fileno(),
    )
    try:
        enclosed = await sandbox.start(program_)
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(f"\0probe-{folder}"[:100])
    except BaseException:
        ours.close()
        raise
    finally:
        for each in (messages, blobs, theirs):
            each.close()
    return Sandboxed(enclosed=enclosed, probe=Probe(channel), chip=ours)


# --- the market, in memory -----------------------------------------------------------------------


class FakeMarket:
    """A market that keeps its promises, unless `away` or told to lie."""

    def __init__(self) -> None:
        self.away = 0
        """So many calls find nobody."""
        self.drains = False
        """A lease whose host reported its end stays listed, for its last receipt."""
        self.calls: list[str] = []
        self.views: dict[str, LeaseView] = {}
        self.briefings: dict[str, LeaseBriefing] = {}
        self.reports: dict[str, list[tuple[str, str]]] = {}
        self.boxes: dict[bytes, list[StoredMessage]] = {}
        self.acknowledged: dict[str, int] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.lies: dict[bytes, bytes] = {}
        self.rejects: dict[str, RejectedError] = {}
        self.arrived = asyncio.Event()
        self._moved = asyncio.Event()

    async def _call(self, name: str) -> None:
        await asyncio.sleep(0)
        self.calls.append(name)
        if self.away > 0:
            self.away -= 1
            raise UnavailableError("away")
        self._move()
        if name in self.rejects:
            raise self.rejects[name]

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def moved(self) -> None:
        """Wait until somebody asks something, and give the one who asked his turn."""
        await self._moved.wait()
        await asyncio.sleep(0)

    def open_lease(self, number: int = 1, *, generation: int | None = 1) -> str:
        name = lease(number)
        self.views[name] = LeaseView(
            lease=name,
            offer=f"offr_{number:026d}",
            job=bytes([number]) * 32,
            rank=0,
            ranks=1,
            generation=generation,
            host=b"\x11" * 32,
            price_microcredits_per_gpu_hour=1,
            gpus=1,
            state=LeaseState.PROVISIONING,
            version=1,
            ready_at=None,
            deadline=None,
        )
        self.briefings[name] = LeaseBriefing(
            lease=self.views[name],
            launch=launch_document(number).encode(),
            job=b"job",
            order=b"order",
            terms=b"terms",
            manifests=(b"model", b"dataset"),
            checkpoints=(),
        )
        return name

    def set_lease(self, name: str, **changes: object) -> None:
        self.views[name] = dataclasses.replace(self.views[name], **changes)

    async def leases(self) -> tuple[LeaseView, ...]:
        await self._call("leases")
        return tuple(self.views.values())

    async def briefing(self, name: str) -> LeaseBriefing | None:
        await self._call("briefing")
        return self.briefings.get(name) if self.views[name].generation else None

    async def report_lease(self, name: str, report: LeaseReport) -> None:
        await self._call("report_lease")
        said = (report.event.value, report.reason)
        if said not in self.reports.setdefault(name, []):  # its idempotency key is of what it says
            self.reports[name].append(said)
        if report.event is not LeaseEvent.LAUNCHED and self.drains:
            self.set_lease(name, state=LeaseState.DRAINING)
        elif report.event is not LeaseEvent.LAUNCHED:
            self.views.pop(name, None)

    async def post_message(self, box: bytes, message: bytes, payload: bytes, name: str) -> None:
        await self._call("post_message")
        self.deliver(box, message, payload, lease_address(name))

    def deliver(self, box: bytes, message: bytes, payload: bytes, sender: bytes) -> None:
        held = self.boxes.setdefault(box, [])
        if any(each.message == message for each in held):
            return
        number = len(held) + 1
        held.append(
            StoredMessage(number=number, message=message, sender=sender, payload=payload, at=number)
        )
        self.arrived.set()
        self._move()

    async def read_messages(self, name: str, after: int, wait: int) -> tuple[StoredMessage, ...]:
        await self._call("read_messages")
        floor = max(after, self.acknowledged.get(name, 0))
        while True:
            self.arrived.clear()
            box = self.boxes.get(lease_address(name), [])
            found = tuple(each for each in box if each.number > floor)[:64]
            if found or not wait:
                return found
            await self.arrived.wait()

    async def acknowledge(self, name: str, through: int) -> None:
        await self._call("acknowledge")
        self._move()
        self.acknowledged[name] = max(through, self.acknowledged.get(name, 0))

    async def get_blob(self, sha256: bytes) -> bytes | None:
        await self._call("get_blob")
        return self.lies.get(sha256) or self.blobs.get(sha256)

    async def put_blob(self, sha256: bytes, content: bytes) -> None:
        await self._call("put_blob")
        self.blobs[sha256] = content

    async def put_offer(self, draft: OfferDraft, key: bytes) -> OfferView:
        await self._call("put_offer")
        self.offer = OfferView(
            host=b"\x11" * 32, state=OfferState.LISTED, terms_number=1, draft=draft, deadline=None
        )
        return self.offer

    async def heartbeat(self, offer: str) -> OfferView:
        await self._call("heartbeat")
        return self.offer

    async def withdraw(self, offer: str) -> None:
        await self._call("withdraw")


# --- a chip, in memory ---------------------------------------------------------------------------

WALLS = sandbox.Isolation(namespaces=("mount",), refused=(), read_only_root=True, uid=65534)


class FakeChip:
    """A chip whose enclaves are a pair of listening sockets and a number."""

    def __init__(self) -> None:
        self.incarnation = 1
        self.launched: list[str] = []
        self.enclaves: dict[str, EnclaveView] = {}
        self.sockets: dict[str, list[socket.socket]] = {}

    async def status(self) -> ChipView:
        await asyncio.sleep(0)
        return ChipView(
            incarnation=self.incarnation.to_bytes(16, "big"),
            pid=1,
            root=bytes(32),
            endorsements=(Endorsement(kind="ark", content=b"ark"),),
            enclaves=tuple(self.enclaves.values()),
        )

    async def launch(self, document: bytes, door: Path) -> EnclaveView:
        launch = LaunchDocument.parse(document)
        if launch.lease in self.enclaves:
            raise ChipRefusedError("exists", launch.lease)
        self.sockets[launch.lease] = [
            unix_sockets.listen(door, name, kind=socket.SOCK_STREAM)
            for name in (MESSAGES_PORT, BLOBS_PORT)
        ]
        self.launched.append(launch.lease)
        self.enclaves[launch.lease] = EnclaveView(
            lease=launch.lease,
            pid=len(self.launched),
            measurement=bytes(48),
            host_data=launch.digest,
            isolation=WALLS,
            exit=None,
        )
        return self.enclaves[launch.lease]

    def exit(self, name: str, status: int) -> None:
        self.enclaves[name] = dataclasses.replace(self.enclaves[name], exit=status)
        for each in self.sockets.pop(name):
            each.close()

    async def stop(self, name: str) -> Stopped:
        known = self.enclaves.pop(name, None) is not None
        for each in self.sockets.pop(name, []):
            each.close()
        return Stopped(lease=name, known=known)

    def crash(self) -> None:
        """It dies, and its enclaves with it; another starts."""
        for name in tuple(self.enclaves):
            for each in self.sockets.pop(name, []):
                each.close()
        self.enclaves.clear()
        self.incarnation += 1


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


PATIENCE = Patience(pause=no_pause)
