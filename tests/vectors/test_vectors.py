"""The golden vectors are what the code makes today, and what docs/spec shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.vectors import build
from trust.artifacts import ArtifactOpener, Manifest
from trust.encoding import Json
from trust.errors import HpkeError
from trust.identity import verify_signed
from trust.jobs import Close
from trust.sealing import HpkePrivateKey
from trust.serving import ReplyOpener, open_request

HERE = Path(__file__).parent
SPECS = HERE.parents[1] / "docs" / "spec"


def stored(name: str) -> dict[str, str]:
    value: dict[str, str] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return value


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("encoding", build.encoding()),
        ("custody", build.custody()),
        ("artifact", build.artifact()),
        ("serving", build.serving()),
    ],
)
def test_vectors_are_made_again_as_they_are_stored(name: str, made: Json) -> None:
    assert stored(name) == made


def test_the_stored_artifact_opens() -> None:
    vector = {name: bytes.fromhex(text) for name, text in stored("artifact").items()}
    manifest = Manifest.parse(vector["manifest"])
    assert manifest.digest == vector["artifact_id"]
    opener = ArtifactOpener(
        manifest=manifest,
        segment_list=vector["segment_list"],
        key=vector["key"],
        first_segment=vector["segment"],
    )
    assert opener.open(0, vector["segment"]) == (0, vector["content"])


def test_the_stored_signature_verifies() -> None:
    vector = stored("encoding")
    signed = verify_signed(
        Close, bytes.fromhex(vector["signed"]), signer=bytes.fromhex(vector["identity"])
    )
    assert signed.digest.hex() == vector["digest"]


def test_the_stored_hpke_message_opens() -> None:
    vector = {name: bytes.fromhex(text) for name, text in stored("hpke").items()}
    key = HpkePrivateKey.from_bytes(vector["private_key"])
    assert key.public == vector["public_key"]
    assert key.open(vector["sealed"], info=vector["info"]) == vector["plaintext"]
    with pytest.raises(HpkeError):
        key.open(vector["sealed"], info=vector["info"] + b"!")


def test_the_stored_request_opens() -> None:
    vector = {name: bytes.fromhex(text) for name, text in stored("serving_request").items()}
    private = HpkePrivateKey.from_bytes(vector["private_key"])
    key = build.request_key(private.public)
    assert key.digest == vector["request_key"]
    opened = open_request(vector["sealed"], private, key=key.digest)
    assert opened.body == build.BODY
    assert opened.header == build.HEADER
    assert opened.client == build.CLIENT.identity
    plain = private.open(vector["sealed"], info=vector["info"])
    assert plain.hex() == stored("serving")["plaintext"]


def test_the_stored_reply_opens() -> None:
    opener = ReplyOpener(build.HEADER)
    opened = [
        opener.open(number, bytes.fromhex(chunk))
        for number, chunk in enumerate(stored("serving")["chunks"])
    ]
    assert [each.text for each in opened] == ["a reply ✓", "", "", ""]
    assert [each.finish for each in opened] == [None, None, build.FINISH, None]


@pytest.mark.parametrize(
    ("spec", "name", "field"),
    [
        ("encoding.md", "encoding", "digest"),
        ("custody.md", "custody", "weights_key"),
        ("custody.md", "custody", "adapter_key"),
        ("custody.md", "custody", "group_key"),
        ("artifacts.md", "artifact", "artifact_id"),
        ("serving.md", "serving", "key"),
        ("serving.md", "serving", "nonce"),
        ("serving.md", "serving_request", "request_key"),
    ],
)
def test_the_specification_shows_the_stored_bytes(spec: str, name: str, field: str) -> None:
    assert stored(name)[field] in (SPECS / spec).read_text(encoding="utf-8")
