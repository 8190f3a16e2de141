"""Two brokers with real homes, keys, logs and decisions, around a market in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from client.broker import Broker
from client.home import Config, Home
from client.keystore import KeyFile, Keystore
from client.release_log import HeadPlace, ReleaseLog
from marketplace.wire import GenerationAsk, JobDocuments, ReadyAsk, StoredMessage
from tests.trust import release_world as rw
from trust.artifacts import Custodian
from trust.custody import LineageKind
from trust.encoding import digest
from trust.errors import RefusedError
from trust.identity import PartyKey, Signed, verify_signed
from trust.jobs import GenerationOrder, JobManifest, Ready, UsePolicy
from trust.messages import (
    Challenge,
    Grant,
    GrantInfo,
    Hello,
    LogHead,
    Purpose,
    Refused,
    SignedMessage,
    lease_address,
    parse_message,
)
from trust.release_state import Seat
from trust.verifier.policy import simulated_policy


class Clock:
    """Moves when a test moves it."""

    def __init__(self) -> None:
        self.now = rw.NOW

    def __call__(self) -> int:
        self.now += 1
        return self.now


class Crash(BaseException):
    """SIGKILL, as far as a test can say it: nothing catches it."""


class Faults:
    """Crashes at one chosen action: before it, in the middle of it, or right after it."""

    def __init__(self, at: int | None = None, how: str = "before") -> None:
        self.at, self.how, self.count = at, how, 0

    def act(self, whole: Callable[[], None], half: Callable[[], None] = lambda: None) -> None:
        self.count += 1
        if self.count != self.at:
            whole()
            return
        if self.how == "middle":
            half()
        elif self.how == "after":
            whole()
        raise Crash


class FaultyLog(ReleaseLog):
    """A release log whose every write may be the last."""

    faults = Faults()

    def _write(self, data: bytes) -> None:
        def half() -> None:
            os.write(self._descriptor, data[: len(data) // 2])

        self.faults.act(lambda: ReleaseLog._write(self, data), half)


class FakeMarket:
    """Everything that the port promises, in memory; it forgets heads if it is told to."""

    def __init__(self) -> None:
        self.boxes: dict[bytes, list[StoredMessage]] = defaultdict(list)
        self.blobs: dict[bytes, bytes] = {}
        self.heads: dict[bytes, bytes] = {}
        self.orders: dict[bytes, list[Signed[GenerationOrder]]] = defaultdict(list)
        self.all_orders: list[bytes] = []
        self.ready: list[Signed[Ready]] = []
        self.asks: dict[bytes, list[GenerationAsk | ReadyAsk]] = defaultdict(list)
        self.documents: dict[bytes, tuple[bytes, bytes, tuple[bytes, ...]]] = {}
        self.hides_heads = False
        self.shown_close: bytes | None = None

    def post(self, box: bytes, payload: bytes, sender: bytes) -> None:
        self.boxes[box].append(
            StoredMessage(
                number=len(self.boxes[box]) + 1,
                message=secrets.token_bytes(16),
                sender=sender,
                payload=payload,
                at=rw.NOW,
            )
        )


class Port:
    """One party's way to the fake market; each sending may be the last thing that it does."""

    def __init__(self, market: FakeMarket, identity: bytes, faults: Faults) -> None:
        self._market, self._identity, self._faults = market, identity, faults
        self._read = 0

    async def post_message(self, box: bytes, payload: bytes) -> None:
        self._faults.act(lambda: self._market.post(box, payload, self._identity))

    async def read_messages(self, *, after: int, wait_seconds: int) -> Sequence[StoredMessage]:
        found = self._market.boxes[self._identity][after:]
        if not found:
            await asyncio.Event().wait()
        return found

    async def acknowledge(self, through: int) -> None:
        self._read = through

    async def asks(self) -> Sequence[GenerationAsk | ReadyAsk]:
        return list(self._market.asks[self._identity])

    async def say_ready(self, ready: Signed[Ready]) -> None:
        self._market.ready.append(ready)

    async def post_order(self, order: Signed[GenerationOrder]) -> None:
        def whole() -> None:
            self._market.all_orders.append(order.encode())
            orders = self._market.orders[order.document.job]
            if order.document.number == len(orders) + 1:
                orders.append(order)

        self._faults.act(whole)

    async def post_head(self, head: Signed[LogHead]) -> None:
        def whole() -> None:
            self._market.heads[head.signer] = head.encode()

        self._faults.act(whole)

    async def newest_head(self, custodian: bytes) -> bytes | None:
        return None if self._market.hides_heads else self._market.heads.get(custodian)

    async def job_documents(self, job: bytes) -> JobDocuments:
        if job not in self._market.documents:
            raise RefusedError("not-found", "no such job")
        manifest, terms, manifests = self._market.documents[job]
        orders = tuple(each.encode() for each in self._market.orders[job])
        return JobDocuments(
            job=manifest,
            terms=terms,
            manifests=manifests,
            orders=orders,
            close=self._market.shown_close,
        )

    async def get_blob(self, digest: bytes) -> bytes:
        return self._market.blobs[digest]

    async def missing_blobs(self, digests: Sequence[bytes]) -> Sequence[bytes]:
        return [each for each in digests if each not in self._market.blobs]

    async def put_blob(self, content: bytes) -> None:
        self._market.blobs[digest(content)] = content

    async def put_document(self, signed: bytes) -> None:
        self._market.documents[digest(signed[96:])] = (signed, b"", ())


@dataclasses.dataclass
class Custody:
    """One party: its home, its keys, and its broker while it runs."""

    home: Home
    keys: Keystore
    entry: Custodian
    broker: Broker | None = None
    log: ReleaseLog | None = None
    read: int = 0


class Stage(rw.World):
    """The release world, with its parties moved into homes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.market = folder, Clock(), FakeMarket()
        self.custody: dict[str, Custody] = {}
        super().__init__()
        for name, party in (("owner", self.owner), ("buyer", self.buyer)):
            home = Home.create(
                folder / name, Config(market_url="http://127.0.0.1:1", market=rw.MARKET)
            )
            keys = Keystore.create(home.folder, home.key_file)
            entry = keys.new_lineage(LineageKind.SIMULATED)
            self.custody[name] = Custody(home=home, keys=keys, entry=entry)
            party.key, party.entry = keys.party, entry
            party.lineage_key = keys.lineage_key(entry)
            party.manifests.clear()
            party.terms.clear()
        self._publish()

    def _publish(self) -> None:
        from trust.artifacts import ArtifactKind

        self.model = rw.sealed(self.owner.key, ArtifactKind.WEIGHTS, self.owner.entry)
        self.rows = rw.sealed(self.buyer.key, ArtifactKind.DATASET, self.buyer.entry)
        self.heldout = rw.sealed(self.buyer.key, ArtifactKind.DATASET, self.buyer.entry)
        owner, buyer = self.custody["owner"], self.custody["buyer"]
        owner.home.keep(self.model)
        buyer.home.keep(self.rows)
        buyer.home.keep(self.heldout)
        self.terms = self.publish(number=1)
        owner.home.keep(self.terms)
        appraisal = simulated_policy(rw.root().fingerprint, [rw.IMAGE])
        for each in (owner, buyer):
            each.home.keep_appraisal(appraisal)
            policy = UsePolicy(
                version=1,
                custodian=each.keys.party.identity,
                number=1,
                lineages=(each.entry.lineage,),
                appraisal_policy=appraisal.digest,
                jobs_signed_by=None,
                adapter_to=(),
            )
            each.home.keep(each.keys.party.sign(policy))
        self.enter(self.submit())

    def enter(self, job: Signed[JobManifest]) -> None:
        """A job, kept by its buyer and known to the market."""
        self.job = job
        self.orders.clear()
        self.custody["buyer"].home.keep(job)
        self.market.documents[job.digest] = (job.encode(), self.terms.encode(), self.manifests)

    # --- brokers ---------------------------------------------------------------------------------

    async def start(
        self,
        name: str,
        *,
        faults: Faults | None = None,
        folder: Path | None = None,
        place: Path | None = None,
    ) -> Broker:
        """Start a party's broker, on its home or on another copy of it."""
        each = self.custody[name]
        faults = faults or Faults()
        home = Home.open(folder or each.home.folder)
        keys = home.keystore(KeyFile(path=home.folder / "key"))
        log = type("Log", (FaultyLog,), {"faults": faults}).open(home.log_path, now=self.clock())
        each.log = log
        each.broker = Broker(
            home=home,
            keys=keys,
            release_log=log,
            place=HeadPlace(place or home.folder / "heads"),
            market=Port(self.market, keys.party.identity, faults),
            clock=self.clock,
        )
        await each.broker.start()
        return each.broker

    def stop(self, name: str) -> None:
        """The process is gone: its lock too."""
        log = self.custody[name].log
        if log is not None:
            log.close()
        self.custody[name].log = self.custody[name].broker = None

    async def pump(self) -> None:
        """Deliver what lies in the brokers' boxes until nothing new comes."""
        moved = True
        while moved:
            moved = False
            for each in self.custody.values():
                if each.broker is None:
                    continue
                box = self.market.boxes[each.keys.party.identity]
                while each.read < len(box):
                    each.read += 1
                    moved = True
                    await each.broker.accept(box[each.read - 1])

    # --- an enclave over the mailbox -------------------------------------------------------------

    async def ask(
        self, name: str, enclave: rw.Enclave, generation: int = 1, **changed: object
    ) -> bytes | Refused | None:
        """Greet and ask, as an enclave does; returns grant, refusal, or None for silence."""
        identity = self.custody[name].keys.party.identity
        lease = rw.lease(100 * generation)
        box = self.market.boxes[lease_address(lease)]
        hello = Hello(version=1, purpose=Purpose.RELEASE, verifier=identity, lease=lease)
        before = len(box)
        self.market.post(identity, hello.encode(), lease_address(lease))
        await self.pump()
        challenges = [parse_message(each.payload) for each in box[before:]]
        challenge = next(each for each in challenges if isinstance(each, Challenge))
        party = self.owner if name == "owner" else self.buyer
        asked = self.request(party, enclave, generation, nonce=challenge.nonce, **changed)  # type: ignore[arg-type]
        before = len(box)
        self.market.orders[self.job.digest][:] = self.orders
        self.market.post(identity, asked.request.encode(), lease_address(lease))
        await self.pump()
        answers = [parse_message(each.payload) for each in box[before:]]
        for answer in answers:
            if isinstance(answer, Grant):
                return answer.encode()
            if isinstance(answer, Refused):
                return answer
        return None

    async def say(self, name: str, signed: bytes, generation: int = 1) -> list[object]:
        """Send a signed document from under a lease; returns what came to the lease's box."""
        identity = self.custody[name].keys.party.identity
        address = lease_address(rw.lease(100 * generation))
        before = len(self.market.boxes[address])
        self.market.post(identity, SignedMessage(signed=signed).encode(), address)
        await self.pump()
        return [parse_message(each.payload) for each in self.market.boxes[address][before:]]

    def seat(self, name: str, generation: int = 1) -> Seat:  # type: ignore[override]
        """What a broker's log says of a seat."""
        log = self.custody[name].log
        assert log is not None
        return log.memory.seats[self.job.digest, generation, 0]

    def grants(self, identity: bytes, generation: int = 1) -> set[bytes]:
        """Every different seat grant that this custodian ever sent for a generation."""
        found = set()
        for box in self.market.boxes.values():
            for message in box:
                parsed = parse_message(message.payload)
                if isinstance(parsed, Grant):
                    info = GrantInfo.parse(parsed.info)
                    if (info.custodian, info.generation, info.number) == (identity, generation, 0):
                        found.add(message.payload)
        return found


def head_of(market: FakeMarket, key: PartyKey) -> LogHead:
    return verify_signed(LogHead, market.heads[key.identity], signer=key.identity).document
