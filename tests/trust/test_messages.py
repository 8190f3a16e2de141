"""Messages: known by label, complete, and bound to what they speak of."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trust.makers import LEASE, statement
from trust.errors import BlindhostError, DocumentError
from trust.jobs import LaunchDocument, LaunchPurpose
from trust.messages import (
    Challenge,
    End,
    Hello,
    Purpose,
    Receipt,
    Scope,
    ScopeKind,
    Statement,
    lease_address,
    parse_message,
)

RECEIPT = Receipt(
    job=bytes(32),
    lease=LEASE,
    generation=1,
    rank=0,
    number=1,
    before=None,
    milliseconds=1000,
    first_step=4,
    step=8,
    tokens=4 * 8 * 64,
    committed=None,
    world_size=2,
    compute_class="cpu",
    same_class=True,
    end=None,
    outputs=(),
)


def test_a_message_is_known_by_its_label() -> None:
    hello = Hello(version=1, purpose=Purpose.RELEASE, verifier=bytes(32), lease=LEASE)
    challenge = Challenge(verifier=bytes(32), purpose=Purpose.METER, nonce=bytes(32))
    assert parse_message(hello.encode()) == hello
    assert parse_message(challenge.encode()) == challenge
    with pytest.raises(DocumentError, match="no message of ours"):
        parse_message(statement().encode())


@given(st.binary(max_size=300))
def test_random_bytes_are_no_message(data: bytes) -> None:
    with pytest.raises(BlindhostError):
        parse_message(data)
    with pytest.raises(BlindhostError):
        parse_message(b"blindhost/v1/session/hello\x00" + data)


def test_report_data_is_the_sha_512_of_the_statement() -> None:
    made = statement()
    assert made.report_data == hashlib.sha512(made.encode()).digest()
    assert Statement.parse(made.encode()).report_data == made.report_data


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": Purpose.METER},
        {"verifier": bytes([1]) * 32},
        {"nonce": bytes([1]) * 32},
        {"hpke_key": bytes([1]) * 1216},
        {"signing_key": bytes([1]) * 32},
        {"job": bytes([1]) * 32},
        {"lease": LEASE[:-1] + "1"},
        {"generation": 2},
        {"rank": 1},
        {"ranks": 2},
        {"launch": bytes([1]) * 32},
    ],
)
def test_every_field_of_a_statement_is_in_the_report_data_and_in_the_gpus_nonce(
    changes: dict[str, object],
) -> None:
    made, other = statement(), dataclasses.replace(statement(), **changes)
    assert other.report_data != made.report_data
    assert other.gpu_nonce != made.gpu_nonce


def test_the_gpus_nonce_does_not_depend_on_the_gpus_evidence_and_the_report_data_does() -> None:
    made, shown = statement(), dataclasses.replace(statement(), gpu_evidence=bytes(32))
    assert shown.gpu_nonce == made.gpu_nonce
    assert shown.report_data != made.report_data


def test_a_receipt_that_contradicts_itself_is_refused() -> None:
    assert Receipt.parse(RECEIPT.encode()) == RECEIPT
    for changes in ({"step": 3}, {"outputs": (bytes(32),)}, {"generation": 0}, {"end": "done"}):
        with pytest.raises(DocumentError):
            dataclasses.replace(RECEIPT, **changes)
    dataclasses.replace(RECEIPT, end=End.DONE, outputs=(bytes(32),))


def test_a_scope_names_a_core_where_it_opens_one_and_nowhere_else() -> None:
    for kind in ScopeKind:
        needs = kind in (ScopeKind.INPUT, ScopeKind.DERIVED)
        core = bytes(32)
        Scope(scope=kind, lineage=bytes(33), epoch=0, core=core if needs else None)
        with pytest.raises(DocumentError):
            Scope(scope=kind, lineage=bytes(33), epoch=0, core=None if needs else core)


def test_a_launch_document_with_a_rank_outside_its_job_is_refused() -> None:
    made = LaunchDocument(
        version=1,
        purpose=LaunchPurpose.RUN,
        job=bytes(32),
        lease=LEASE,
        generation=1,
        rank=0,
        ranks=1,
        market=bytes(32),
    )
    with pytest.raises(DocumentError, match="rank 1 of 1"):
        dataclasses.replace(made, rank=1)


def test_mailboxes_of_two_leases_are_two() -> None:
    assert lease_address(LEASE) != lease_address(LEASE[:-1] + "1")
