"""A dishonest host at its own enclave's door: a well-sealed request, and no client's key.

    python -m demo.dishonest_door --home FOLDER --record FOLDER --job HEX

It uses what such a host has: the messages that it carries (here: what the demo's tap recorded at
its door, which is what its agent saw), so the enclave's request key and the clients' identities;
the door's own socket; and a key that it draws. It dials the door in its agent's place, seals a
request to the enclave in a client's name, signed by its own key, and waits for the answer. Prints
one JSON object: the enclave's answer (a code), or ``answered`` if it was served.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import socket
import sys
from pathlib import Path
from typing import Final

from provider_agent import unix_sockets
from provider_agent.frames import Frame, read_frame
from provider_agent.journal import Journal
from provider_agent.launcher import MESSAGES_PORT
from provider_agent.unix_sockets import Stream
from trust.encoding import digest, parse_hex
from trust.errors import BlindhostError
from trust.identity import PartyKey, verify_signed
from trust.messages import (
    EvidenceBundle,
    RequestKey,
    ServeFrames,
    ServeOffer,
    ServeRefused,
    ServeRequest,
    Statement,
    parse_message,
)
from trust.serving import GenerateRequest, RequestHeader, seal_request

ANSWER_SECONDS: Final = 30.0
HEAD_BYTES: Final = 4


def newest_offer(record: Path, lease: str) -> tuple[Statement, RequestKey, bytes]:
    """Of all that the enclave sent through its door: statement, request key, its client."""
    found = None
    for path in sorted(record.glob(f"{lease}-door-{MESSAGES_PORT}-*.in")):
        data = path.read_bytes()
        while len(data) >= HEAD_BYTES:
            length = int.from_bytes(data[:HEAD_BYTES], "big")
            frame, data = data[HEAD_BYTES : HEAD_BYTES + length], data[HEAD_BYTES + length :]
            with contextlib.suppress(BlindhostError):
                message = parse_message(frame[48:])
                if isinstance(message, ServeOffer):
                    bundle = EvidenceBundle.parse(message.evidence)
                    key = verify_signed(RequestKey, message.request_key, signer=None)
                    found = Statement.parse(bundle.statement), key.document, frame[:32]
    if found is None:
        raise SystemExit("the enclave gave no request key through this door yet")
    return found


def forge(statement: Statement, key: RequestKey, signer: PartyKey) -> bytes:
    """A request that is sealed as well as any, and signed by nobody's client key."""
    body = GenerateRequest(
        adapter=None,
        messages=None,
        prompt="Dear Noor,",
        tokens_max=64,
        temperature="0",
        top_p="1",
        seed=None,
        stop=(),
    )
    header = RequestHeader(
        statement=statement.digest,
        session=secrets.token_bytes(16),
        sequence=0,
        request=digest(body.encode()),
        response_secret=secrets.token_bytes(32),
    )
    return seal_request(body, header, signer, hpke_key=key.hpke_key, key=key.digest)


async def ask(door: Path, client: bytes, key: RequestKey, sealed: bytes) -> str:
    """Dial the door in the agent's place, ask in the client's name; the enclave's answer."""
    channel = await unix_sockets.dial(door, MESSAGES_PORT, kind=socket.SOCK_STREAM)
    stream = Stream(channel)
    try:
        request = ServeRequest(request_key=key.digest, sealed=sealed).encode()
        await stream.sendall(
            Frame(peer=client, id=secrets.token_bytes(16), payload=request).encode()
        )
        exchange = digest(sealed)
        async with asyncio.timeout(ANSWER_SECONDS):
            while (frame := await read_frame(stream)) is not None:
                match parse_message(frame.payload):
                    case ServeRefused(exchange=named, code=code) if named == exchange:
                        return code
                    case ServeFrames(frames=frames) if any(f.exchange == exchange for f in frames):
                        return "answered"
        return "the door was shut"
    finally:
        stream.close()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="ask an enclave without a client's key")
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--record", required=True, type=Path)
    parser.add_argument("--job", required=True)
    arguments = parser.parse_args()
    journal, job = Journal(arguments.home / "leases"), parse_hex(arguments.job)
    briefings = [journal.briefing(each.lease) for each in journal.records()]
    lease = [each.lease.lease for each in briefings if each.lease.job == job][-1]
    statement, key, client = newest_offer(arguments.record, lease)
    sealed = forge(statement, key, PartyKey.generate())
    try:
        answer = asyncio.run(ask(journal.door(lease), client, key, sealed))
    except TimeoutError:
        sys.exit(f"the enclave did not answer within {ANSWER_SECONDS:.0f} s")
    print(json.dumps({"answer": answer}))


if __name__ == "__main__":
    main()
