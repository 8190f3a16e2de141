"""A client and an engine for the tests of serve jobs."""

from __future__ import annotations

import array
import dataclasses
import os

from enclave_runtime.events import Generated, Tokens
from enclave_runtime.serve_desk import Asked
from enclave_runtime.tokens import RowError
from tests.enclave_runtime.fakes import FakeWork
from trust.encoding import digest
from trust.errors import SessionError
from trust.identity import PartyKey, Signed, verify_signed
from trust.messages import (
    Challenge,
    EvidenceBundle,
    Purpose,
    RequestKey,
    ServeCancel,
    ServeFrames,
    ServeOffer,
    ServeRefused,
    ServeRequest,
    SignedMessage,
    Statement,
    parse_message,
)
from trust.serving import (
    ChatMessage,
    Finish,
    GenerateRequest,
    ReplyOpener,
    RequestHeader,
    Role,
    seal_request,
)


def request(text: str = "hello", **changes: object) -> GenerateRequest:
    fields = {
        "adapter": None,
        "messages": (ChatMessage(role=Role.USER, content=text),),
        "prompt": None,
        "tokens_max": 8,
        "temperature": "0",
        "top_p": "1",
        "seed": None,
        "stop": (),
    }
    return GenerateRequest(**(fields | changes))


@dataclasses.dataclass
class Reply:
    """One request, and what came of it."""

    opener: ReplyOpener
    text: str = ""
    finish: Finish | None = None
    chunks: list[bytes] = dataclasses.field(default_factory=list)
    refused: str | None = None


class Client:
    """A client that believes every evidence."""

    def __init__(self, key: PartyKey, job: bytes, generation: int = 1) -> None:
        self.key, self.job, self.generation = key, job, generation
        self.session, self.sequence = os.urandom(16), 0
        self.nonce = os.urandom(32)
        self.statement: Statement | None = None
        self.request_key: Signed[RequestKey] | None = None
        self.replies: dict[bytes, Reply] = {}
        self.overtaken: list[bytes] = []
        """Nonces of answers to challenges that this client has given up."""

    def challenge(self, **changes: object) -> bytes:
        fields = {"verifier": self.key.identity, "purpose": Purpose.SERVE, "nonce": self.nonce}
        signed = self.key.sign(Challenge(**(fields | changes)))
        return SignedMessage(signed=signed.encode()).encode()

    def hear(self, payload: bytes) -> list[bytes]:
        match parse_message(payload):
            case ServeOffer(evidence=evidence, request_key=key):
                bundle = EvidenceBundle.parse(evidence)
                statement = Statement.parse(bundle.statement)
                assert bundle.report.startswith(statement.report_data)
                if statement.nonce != self.nonce:
                    self.overtaken.append(statement.nonce)
                    return []
                self.statement = statement
                assert self.statement.purpose is Purpose.SERVE
                assert self.statement.verifier == self.key.identity
                self.request_key = verify_signed(RequestKey, key, signer=self.statement.signing_key)
            case ServeFrames(frames=frames):
                for frame in frames:
                    reply = self.replies[frame.exchange]
                    opened = reply.opener.open(frame.number, frame.chunk)
                    reply.chunks.append(frame.chunk)
                    reply.text += opened.text
                    reply.finish = opened.finish or reply.finish
            case ServeRefused(exchange=exchange, code=code):
                self.replies[exchange].refused = code
            case other:
                raise AssertionError(other)
        return []

    def ask(self, body: GenerateRequest, *, signer: PartyKey | None = None, **changes) -> bytes:
        """A sealed request; its reply is under the digest of what is sealed."""
        fields = {
            "statement": self.statement.digest,
            "session": self.session,
            "sequence": self.sequence,
            "request": digest(body.encode()),
            "response_secret": os.urandom(32),
        }
        header = RequestHeader(**(fields | changes))
        self.sequence += 1
        key = self.request_key
        sealed = seal_request(
            body, header, signer or self.key, hpke_key=key.document.hpke_key, key=key.digest
        )
        self.replies[digest(sealed)] = Reply(opener=ReplyOpener(header))
        return ServeRequest(request_key=key.digest, sealed=sealed).encode()

    def cancel(self, exchange: bytes, **changes: object) -> bytes:
        fields = {"job": self.job, "generation": self.generation, "exchange": exchange}
        signed = self.key.sign(ServeCancel(**(fields | changes)))
        return SignedMessage(signed=signed.encode()).encode()

    @property
    def newest(self) -> Reply:
        return list(self.replies.values())[-1]


class FakeEngine(FakeWork):
    """Tokens are characters; a reply is the prompt in capitals, as long as it may be."""

    def __init__(self, job, *, make_checkpoint) -> None:
        super().__init__(job, make_checkpoint=make_checkpoint)
        self.adapters: list[bytes] = []
        self.asked: list[Asked] = []
        self.cancelled: list[int] = []
        self.holds = False
        """Answers nothing until `release`."""
        self.dead = False

    def fill(self, role, opener, read) -> None:
        if role == "adapter":
            self.adapters.append(b"".join(opener.open(i, read(i))[1] for i in range(len(opener))))
        else:
            super().fill(role, opener, read)

    def begin(self, checkpoint: bytes | None) -> None:
        self.begun_with.append(checkpoint)

    def prompt(self, asked: GenerateRequest) -> bytes:
        if self.dead:
            raise SessionError("the tokenizing child is gone")
        text = asked.prompt if asked.messages is None else asked.messages[-1].content
        if text == "broken":
            raise RowError(1, "the template does not take it")
        return array.array("I", [ord(c) for c in text]).tobytes()

    def decode(self, ids: bytes) -> str:
        if array.array("I", ids)[-1:].tolist() == [ord("!")]:
            raise RowError(1, "a tokenizer that panics")
        return "".join(map(chr, array.array("I", ids)))

    def ask(self, asked: Asked) -> None:
        self.asked.append(asked)
        if not self.holds:
            self.answer(asked)

    def answer(self, asked: Asked) -> None:
        prompt = "".join(map(chr, array.array("I", asked.ids)))
        text = (prompt.upper() * asked.tokens_max)[: asked.tokens_max]
        half = len(text) // 2
        for part, finish in ((text[:half], ""), (text[half:], "length")):
            ids = tuple(map(ord, part))
            item = Tokens(handle=asked.handle, ids=ids, finish=finish, text="")
            self._say(Generated(items=(item,)))

    def cancel(self, handle: int) -> None:
        self.cancelled.append(handle)
