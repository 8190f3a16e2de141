"""A signature is over a document of one label, by one signer."""

from __future__ import annotations

import dataclasses

import pytest

from trust.errors import BlindhostError, DocumentError, SignatureError, SizeLimitError
from trust.identity import SIGNED_BYTES_MAX, PartyKey, verify_signed
from trust.jobs import Close, Ready

KEY = PartyKey.from_bytes(bytes(range(32)))
CLOSE = Close(job=bytes(32), at=1)


def test_a_signed_document_reads_back_and_keeps_the_documents_digest() -> None:
    signed = KEY.sign(CLOSE)
    read = verify_signed(Close, signed.encode(), signer=KEY.identity)
    assert read == signed
    assert read.digest == CLOSE.digest


def test_a_key_reads_back() -> None:
    assert PartyKey.from_bytes(KEY.to_bytes()).identity == KEY.identity


def test_every_flipped_byte_is_refused() -> None:
    data = KEY.sign(CLOSE).encode()
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(BlindhostError):
            verify_signed(Close, flipped, signer=KEY.identity)
        with pytest.raises(BlindhostError):
            verify_signed(Close, flipped, signer=None)


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    ready = Ready(custodian=bytes(32), job=bytes(32), at=1)
    with pytest.raises(DocumentError, match="label is"):
        verify_signed(Close, KEY.sign(ready).encode(), signer=KEY.identity)


def test_another_signer_is_refused_although_the_signature_is_good() -> None:
    other = PartyKey.generate()
    with pytest.raises(SignatureError, match="wanted"):
        verify_signed(Close, other.sign(CLOSE).encode(), signer=KEY.identity)


def test_a_signature_moved_to_another_document_is_refused() -> None:
    moved = dataclasses.replace(KEY.sign(CLOSE), document=Close(job=bytes(32), at=2))
    with pytest.raises(SignatureError):
        verify_signed(Close, moved.encode(), signer=KEY.identity)


def test_oversized_and_cut_off_documents_are_refused() -> None:
    with pytest.raises(SizeLimitError):
        verify_signed(Close, bytes(SIGNED_BYTES_MAX + 1), signer=None)
    for length in (0, 63, 95, 96, 100):
        with pytest.raises(BlindhostError):
            verify_signed(Close, KEY.sign(CLOSE).encode()[:length], signer=None)
