"""What a serve job adds to a session, without I/O: clients, request keys, requests, frames.

Rules (docs/spec/serving.md):
- Only the clients that the job manifest names are heard. A request counts when such a key signed
  it, inside, over a statement that was made for that client, with a number never taken before.
- A request key lives for an hour, under the attested key, and is then erased with all that it could
  still open: a replay of an older request finds no key.
- Once a request has opened, everything that is said of it is sealed: errors, too.
- Frames go out at ticks of the clock, from the request on, one for each reply, all of one size. A
  reply's end is inside the sealing; outside its frames go on until a power of two is full.
- Tokens are set aside before a reply begins, so no allowance is passed however many replies run.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Final

from enclave_runtime.briefing import Brief
from enclave_runtime.transcript import Transcript
from trust.encoding import digest
from trust.errors import BlindhostError, RefusedError, SessionError
from trust.identity import PartyKey, Signed
from trust.jobs import ClientKey, GenerateRecipe
from trust.messages import RequestKey, ServeFrame, ServeFrames, ServeRequest, Statement
from trust.sealing import HpkePrivateKey
from trust.serving import (
    RECORD_BYTES,
    SALT_BYTES,
    Finish,
    FinishReason,
    GenerateRequest,
    RecordKind,
    ReplayWindow,
    ReplySealer,
    open_request,
    record,
    ticks_shown,
)

REQUEST_KEY_MS: Final = 3_600_000  # DESIGN §4: renewed hourly
STATEMENTS_MAX: Final = 4  # of one client: it asks once an hour, and again after a restart
SESSIONS_MAX: Final = 256  # of one client under one request key: restarts of its gateway
QUEUED_PER_SLOT: Final = 4  # requests that wait; more are told that we are busy
MESSAGE_BYTES: Final = 1 << 19  # of frames in one message
FRAME_ADDED_BYTES: Final = 256  # names and base64 of one frame's other fields


@dataclasses.dataclass(kw_only=True, slots=True, eq=False)
class Exchange:
    """One request and its reply."""

    handle: int
    """What the engine calls it."""
    client: bytes
    name: bytes
    """Digest of the sealed request: what frames are told apart by."""
    request: GenerateRequest
    sealer: ReplySealer
    transcript: Transcript
    prompt_tokens: int = 0
    reserved: int = 0
    """Tokens that are set aside for it and not used yet."""
    new_ids: list[int] = dataclasses.field(default_factory=list)
    """That came from the engine and are no text yet."""
    ended: FinishReason | None = None
    """The engine has no more tokens."""
    text: bytes = b""
    """UTF-8 that no frame has taken yet."""
    finish: Finish | None = None
    finish_bytes: bytes | None = None
    """What of the finish is still to be sent; empty: the final frame went."""
    ticks: int = 0

    @property
    def is_said(self) -> bool:
        """The final frame went; what follows is cover."""
        return self.finish_bytes == b""


class Serving:
    """The clients of one serve job. Only the session and its shell's desk use it."""

    def __init__(self, brief: Brief, signing_key: PartyKey) -> None:
        job = brief.job.document
        assert isinstance(job.recipe, GenerateRecipe)
        self._launch, self._signing = brief.launch, signing_key
        self.recipe, self._length_max = job.recipe, job.length_max
        self._clients: Mapping[bytes, ClientKey] = {each.identity: each for each in job.client_keys}
        self._adapters = {artifact: n for n, artifact in enumerate(job.adapters, start=1)}
        self._statements: dict[bytes, list[bytes]] = {}
        self._windows: dict[tuple[bytes, bytes], ReplayWindow] = {}
        self._used: dict[bytes, int] = {}
        self._key: HpkePrivateKey | None = None
        self._key_document: Signed[RequestKey] | None = None
        self._key_ms = 0
        self._handles = 0
        self.exchanges: dict[int, Exchange] = {}

    def check_client(self, identity: bytes) -> None:
        """Raises SessionError unless the job manifest names this key."""
        if identity not in self._clients:
            raise SessionError(f"{identity.hex()} is no client of this job")

    # --- keys ------------------------------------------------------------------------------------

    def offer(self, statement: Statement, clock_ms: int) -> Signed[RequestKey]:
        """The request key to give with evidence over `statement`, which is remembered."""
        mine = self._statements.setdefault(statement.verifier, [])
        mine.append(statement.digest)
        del mine[:-STATEMENTS_MAX]
        self.renew(clock_ms)
        assert self._key_document is not None
        return self._key_document

    def renew(self, clock_ms: int) -> None:
        """Draw a request key, and erase the one before, if that is an hour old or there is none."""
        if self._key_document is not None and clock_ms - self._key_ms < REQUEST_KEY_MS:
            return
        number = 1 if self._key_document is None else self._key_document.document.number + 1
        self._key, self._key_ms = HpkePrivateKey.generate(), clock_ms
        self._windows.clear()
        self._key_document = self._signing.sign(
            RequestKey(
                job=self._launch.job,
                generation=self._launch.generation,
                rank=self._launch.rank,
                number=number,
                hpke_key=self._key.public,
            )
        )

    def erase(self) -> None:
        """Forget the request key and every reply."""
        self._key = None
        self.exchanges.clear()

    # --- requests --------------------------------------------------------------------------------

    def open(self, client: bytes, asked: ServeRequest, clock_ms: int) -> Exchange:
        """Open a request.

        (1) It is sealed to the key that is valid now. (2) It opens, and its header is signed by
        (3) the client in whose name it came, whom the job names, (4) over a statement made for that
        client. (5) Its number was not taken before in its session.

        Raises RefusedError, whose code is a hint for the client: nothing was computed.
        """
        self.renew(clock_ms)
        assert self._key_document is not None
        if self._key is None or asked.request_key != self._key_document.digest:  # (1)
            raise RefusedError("request-key-unknown", "sealed to another request key")
        try:
            opened = open_request(asked.sealed, self._key, key=asked.request_key)  # (2)
        except BlindhostError as error:
            raise RefusedError("malformed", "a request that does not open") from error
        if opened.client != client or client not in self._clients:  # (3)
            raise RefusedError("client-unknown", "not signed by a client of this job")
        if opened.header.statement not in self._statements.get(client, ()):  # (4)
            raise RefusedError("statement-unknown", "over a statement that was not made for it")
        self._take_number(client, opened.header.session, opened.header.sequence)  # (5)
        self._handles += 1
        exchange = Exchange(
            handle=self._handles,
            client=client,
            name=digest(asked.sealed),
            request=opened.body,
            sealer=ReplySealer(
                opened.header,
                salt=os.urandom(SALT_BYTES),
                frame_bytes=self.recipe.frame_bytes,
            ),
            transcript=Transcript(opened.body.stop),
        )
        self.exchanges[exchange.handle] = exchange
        return exchange

    def _take_number(self, client: bytes, session: bytes, sequence: int) -> None:
        window = self._windows.get((client, session))
        if window is None:
            if sum(known == client for known, _ in self._windows) >= SESSIONS_MAX:
                raise RefusedError("sessions", f"over {SESSIONS_MAX} sessions under one key")
            window = self._windows[client, session] = ReplayWindow()
        if not window.take(sequence):
            raise RefusedError("replayed", f"number {sequence} of this session was taken before")

    # --- before it runs --------------------------------------------------------------------------

    def adapter(self, exchange: Exchange) -> int:
        """Its place in the batch's adapters, 0 for the base.

        Raises RefusedError: ``model-not-found``, or ``busy`` where too many wait already.
        """
        wanted = exchange.request.adapter
        if wanted is not None and wanted not in self._adapters:
            raise RefusedError("model-not-found", "this job serves no such adapter")
        running = sum(each.finish is None for each in self.exchanges.values())
        if running > self.recipe.slots * (1 + QUEUED_PER_SLOT):
            raise RefusedError("busy", f"{running - 1} requests are running or waiting")
        return 0 if wanted is None else self._adapters[wanted]

    def reserve(self, exchange: Exchange, prompt_tokens: int, left: int | None) -> int:
        """Set tokens aside; returns how many the reply may have.

        `left` is what the custodians' allowances still give, None: no bound. Raises RefusedError:
        ``too-long``, or ``out-of-tokens``.
        """
        room = self._length_max - prompt_tokens
        if room < 1:
            text = f"a prompt of over {self._length_max - 1} tokens leaves no room for a reply"
            raise RefusedError("too-long", text)
        reply = min(exchange.request.tokens_max, self.recipe.reply_tokens_max, room)
        wanted = prompt_tokens + reply
        if left is not None and wanted > left - self.reserved:
            raise RefusedError("out-of-tokens", "the owner's allowance is used up for now")
        of_client = self._clients[exchange.client].tokens
        mine = sum(e.reserved for e in self.exchanges.values() if e.client == exchange.client)
        if of_client is not None and wanted > of_client - self.used_by(exchange.client) - mine:
            raise RefusedError("out-of-tokens", "this client key's tokens are used up")
        exchange.prompt_tokens, exchange.reserved = prompt_tokens, wanted
        return reply

    @property
    def reserved(self) -> int:
        """Tokens set aside and not used yet."""
        return sum(each.reserved for each in self.exchanges.values())

    @property
    def is_quiet(self) -> bool:
        """Every reply has been said to its end."""
        return all(each.is_said for each in self.exchanges.values())

    def used_by(self, client: bytes) -> int:
        """Tokens that a client has used."""
        return self._used.get(client, 0)

    def use(self, exchange: Exchange, tokens: int) -> None:
        """Tokens that were set aside are used."""
        exchange.reserved = max(0, exchange.reserved - tokens)
        self._used[exchange.client] = self.used_by(exchange.client) + tokens

    def finish(self, exchange: Exchange, finish: Finish) -> None:
        """There is no more to this reply; what was set aside and not used is free again."""
        exchange.finish, exchange.reserved = finish, 0
        exchange.finish_bytes = finish.encode()

    def find(self, client: bytes, name: bytes) -> Exchange | None:
        """The exchange that a client calls so, if it has not ended."""
        mine = (e for e in self.exchanges.values() if (e.client, e.name) == (client, name))
        return next((each for each in mine if each.finish is None), None)

    # --- frames ----------------------------------------------------------------------------------

    def frames(self) -> Iterator[tuple[bytes, ServeFrames]]:
        """The messages of one tick: (client, frames). Replies that have run out their ticks end."""
        by_client: dict[bytes, list[ServeFrame]] = {}
        for handle, exchange in list(self.exchanges.items()):
            number = exchange.sealer.count
            records, final = _fill(exchange, self.recipe.frame_bytes)
            chunk = exchange.sealer.chunk(records, final=final)
            exchange.ticks += 1
            frame = ServeFrame(exchange=exchange.name, number=number, chunk=chunk)
            by_client.setdefault(exchange.client, []).append(frame)
            if exchange.is_said and exchange.ticks == ticks_shown(exchange.ticks):
                del self.exchanges[handle]
        at_once = max(
            1, min(256, MESSAGE_BYTES // (2 * self.recipe.frame_bytes + FRAME_ADDED_BYTES))
        )
        for client, frames in by_client.items():
            for start in range(0, len(frames), at_once):
                yield client, ServeFrames(frames=tuple(frames[start : start + at_once]))


def _fill(exchange: Exchange, room: int) -> tuple[bytes, bool]:
    """The records of the next frame, and whether it is the final one."""
    records = b""
    if exchange.text:
        taken = _whole_characters(exchange.text, room - RECORD_BYTES)
        exchange.text = exchange.text[len(taken) :]
        records = record(RecordKind.TEXT, taken)
    room -= len(records) + RECORD_BYTES
    if exchange.text or not exchange.finish_bytes or room < 1:
        return records, False
    part, exchange.finish_bytes = exchange.finish_bytes[:room], exchange.finish_bytes[room:]
    return records + record(RecordKind.FINISH, part), not exchange.finish_bytes


def _whole_characters(text: bytes, most: int) -> bytes:
    """As many bytes as fit without cutting a character."""
    end = min(len(text), most)
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end]
