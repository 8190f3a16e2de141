"""Make the golden vectors again. Run it, and git must see no change.

Everything is drawn from counters, so the files are the same each time. HPKE draws its own
ephemeral key, so its vectors cannot be made twice: hpke.json and serving_request.json are kept,
and tests open them.
"""

from __future__ import annotations

import json
from pathlib import Path

from trust.artifacts import ArtifactKind, ArtifactSealer, Core, Custodian, Origin, commitment
from trust.custody import (
    LineageKind,
    artifact_key,
    artifact_share,
    derived_share,
    group_key,
    group_share,
    input_share,
    lineage_id,
    output_share,
)
from trust.encoding import Json, canonical_json, derive, digest
from trust.identity import PartyKey
from trust.jobs import Close
from trust.messages import RequestKey
from trust.serving import (
    ChatMessage,
    Finish,
    FinishReason,
    GenerateRequest,
    RecordKind,
    ReplySealer,
    RequestHeader,
    Role,
    record,
    request_plaintext,
)

HERE = Path(__file__).parent
OWNER = PartyKey.from_bytes(bytes(range(32)))
BUYER = PartyKey.from_bytes(bytes(range(32, 64)))
OWNER_LINEAGE, BUYER_LINEAGE = bytes(range(64, 96)), bytes(range(96, 128))
JOB = bytes(range(128, 160))


def custodian(key: PartyKey, entropy: int) -> Custodian:
    lineage = lineage_id(LineageKind.SIMULATED, key.identity, bytes([entropy]) * 32)
    return Custodian(identity=key.identity, lineage=lineage, epoch=0)


WEIGHTS = Core(
    kind=ArtifactKind.WEIGHTS,
    seal_id=bytes([0xA0]) * 32,
    custodians=(custodian(OWNER, 1),),
    origin=None,
)
ADAPTER = Core(
    kind=ArtifactKind.ADAPTER,
    seal_id=bytes([0xA1]) * 32,
    custodians=tuple(sorted([custodian(OWNER, 1), custodian(BUYER, 2)])),
    origin=Origin(job=JOB, generation=2),
)


def encoding() -> Json:
    """A document, its digest, and a signature over it."""
    close = Close(job=JOB, at=1_790_000_000_000)
    signed = BUYER.sign(close)
    return {
        "document": close.encode().hex(),
        "digest": close.digest.hex(),
        "private_key": BUYER.to_bytes().hex(),
        "identity": BUYER.identity.hex(),
        "signature": signed.signature.hex(),
        "signed": signed.encode().hex(),
    }


def custody() -> Json:
    """Every derivation of docs/spec/custody.md."""
    shares = {
        OWNER.identity: artifact_share(OWNER_LINEAGE, ADAPTER),
        BUYER.identity: artifact_share(BUYER_LINEAGE, ADAPTER),
    }
    output = output_share(OWNER_LINEAGE, JOB, 2)
    group = [group_share(key, JOB, 2) for key in (OWNER_LINEAGE, BUYER_LINEAGE)]
    in_order = [shares[entry.identity] for entry in ADAPTER.custodians]
    return {
        "owner_lineage_key": OWNER_LINEAGE.hex(),
        "buyer_lineage_key": BUYER_LINEAGE.hex(),
        "owner_lineage_id": WEIGHTS.custodians[0].lineage.hex(),
        "weights_core": WEIGHTS.encode().hex(),
        "weights_input_share": input_share(OWNER_LINEAGE, WEIGHTS).hex(),
        "weights_key": artifact_key([input_share(OWNER_LINEAGE, WEIGHTS)], WEIGHTS).hex(),
        "job": JOB.hex(),
        "generation": 2,
        "adapter_core": ADAPTER.encode().hex(),
        "owner_output_share": output.hex(),
        "owner_derived_share": derived_share(output, ADAPTER).hex(),
        "adapter_key": artifact_key(in_order, ADAPTER).hex(),
        "adapter_commitment": commitment(artifact_key(in_order, ADAPTER), ADAPTER).hex(),
        "group_key": group_key(group, JOB, 2).hex(),
    }


def artifact() -> Json:
    """A sealed artifact of one segment, whole."""
    key = artifact_key([input_share(OWNER_LINEAGE, WEIGHTS)], WEIGHTS)
    content = b"weights, pretended"
    sealer = ArtifactSealer(
        core=WEIGHTS, key=key, content_bytes=len(content), entropy=bytes(range(39))
    )
    (segment,) = sealer.segments([content])
    return {
        "key": key.hex(),
        "entropy": bytes(range(39)).hex(),
        "content": content.hex(),
        "segment": segment.hex(),
        "segment_list": sealer.segment_list().hex(),
        "manifest": sealer.manifest().encode().hex(),
        "artifact_id": sealer.manifest().digest.hex(),
    }


CLIENT = PartyKey.from_bytes(bytes(range(160, 192)))
BODY = GenerateRequest(
    adapter=bytes([0xA2]) * 32,
    messages=(ChatMessage(role=Role.USER, content="a prompt, pretended"),),
    prompt=None,
    tokens_max=16,
    temperature="0",
    top_p="1",
    seed=7,
    stop=(),
)
HEADER = RequestHeader(
    statement=bytes(range(192, 224)),
    session=bytes(range(16)),
    sequence=3,
    request=digest(BODY.encode()),
    response_secret=bytes(range(224, 256)),
)
SALT = bytes(range(32, 64))
FINISH = Finish(reason=FinishReason.STOP, code="", text="", prompt_tokens=12, completion_tokens=2)


def request_key(hpke_key: bytes) -> RequestKey:
    """The request key of serving_request.json."""
    return RequestKey(job=JOB, generation=2, rank=0, number=1, hpke_key=hpke_key)


def serving() -> Json:
    """A request before it is sealed, and its whole reply in frames of 128 bytes."""
    sealer = ReplySealer(HEADER, salt=SALT, frame_bytes=128)
    ending = FINISH.encode()
    chunks = [
        sealer.chunk(record(RecordKind.TEXT, "a reply ✓".encode())),
        sealer.chunk(record(RecordKind.FINISH, ending[:60])),
        sealer.chunk(record(RecordKind.FINISH, ending[60:]), final=True),
        sealer.chunk(b""),
    ]
    secret = (HEADER.response_secret,)
    return {
        "client_key": CLIENT.to_bytes().hex(),
        "body": BODY.encode().hex(),
        "header": HEADER.encode().hex(),
        "plaintext": request_plaintext(BODY, HEADER, CLIENT).hex(),
        "salt": SALT.hex(),
        "key": derive(secret, "response/key", HEADER.request, SALT).hex(),
        "nonce": derive(secret, "response/nonce", HEADER.request, SALT)[:12].hex(),
        "finish": ending.hex(),
        "chunks": [chunk.hex() for chunk in chunks],
    }


def main() -> None:
    """Write all vectors beside this script."""
    for name, value in (
        ("encoding", encoding()),
        ("custody", custody()),
        ("artifact", artifact()),
        ("serving", serving()),
    ):
        assert canonical_json(value)
        text = json.dumps(value, indent=1) + "\n"
        (HERE / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
