"""Signed notes, checkpoints, proofs of a log, and keys."""

from __future__ import annotations

from trust.errors import BlindhostError
from trust.transparency import (
    COSIGNATURE,
    ED25519,
    Checkpoint,
    Note,
    NoteKey,
    NoteSigner,
    TlogProof,
    parse_checkpoint,
    parse_note,
    parse_tlog_proof,
    verify_checkpoint,
    verify_cosignatures,
)

_LOG = NoteSigner("log.example/images", ED25519, bytes(32))
_WITNESS = NoteSigner("witness.example", COSIGNATURE, bytes([1]) * 32)
_SIGNED = [
    Checkpoint(origin="log.example/images", size=size, root=bytes([size]) * 32)
    for size in (0, 1, 255)
]


def _note(checkpoint: Checkpoint) -> Note:
    signatures = (_LOG.sign(checkpoint), _WITNESS.cosign(checkpoint, 1_790_000_000))
    return Note(text=checkpoint.text, signatures=signatures)


def seeds() -> list[bytes]:
    notes = [_note(each) for each in _SIGNED]
    proofs = [TlogProof(index=7, path=(bytes(32), bytes(32)), checkpoint=each) for each in notes]
    keys = [str(_LOG.key).encode(), str(_WITNESS.key).encode()]
    return [*(each.encode() for each in (*notes, *proofs)), *keys]


def one(data: bytes) -> None:
    for parse in (_key, _proof, _whole_note):
        try:
            parse(data)
        except BlindhostError:
            continue


def _key(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert str(NoteKey.parse(text)) == text


def _proof(data: bytes) -> None:
    assert parse_tlog_proof(data).encode() == data


def _whole_note(data: bytes) -> None:
    note = parse_note(data)
    assert note.encode() == data
    assert parse_checkpoint(note.text).text == note.text
    assert verify_checkpoint(note, _LOG.key) in _SIGNED, "believed, and the log did not sign it"
    verify_cosignatures(note, [_WITNESS.key])
