"""marketplace/wire.py: strict both ways, bounded, and light enough for an outsider to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace import wire
from marketplace.refusals import wire_error
from trust.encoding import Struct
from trust.errors import EncodingError, SizeLimitError
from trust.http_signature import sign_request
from trust.identity import PartyKey
from trust.jobs import RankLease

LEASE = "leas_" + "0" * 26
OFFER = "offr_" + "z" * 26


def asks() -> wire.AskList:
    generation = wire.GenerationAsk(
        job=bytes(32),
        number=2,
        before=bytes([1]) * 32,
        leases=(RankLease(rank=0, lease=LEASE),),
        hosts=(bytes(32),),
        expires_at=5,
    )
    return wire.AskList(asks=(generation, wire.ReadyAsk(job=bytes(32))))


@pytest.mark.parametrize(
    "body",
    [
        asks(),
        wire.Empty(),
        wire.WireError(code=wire.ErrorCode.NO_FUNDS, text="é"),
        wire.MessagePage(messages=()),
        wire.BlobsMissing(digests=(bytes(32), bytes([255]) * 32)),
    ],
    ids=lambda body: type(body).__name__,
)
def test_body_comes_back_as_it_was(body: Struct) -> None:
    assert wire.parse(type(body), wire.encode(body)) == body


@pytest.mark.parametrize(
    "data",
    [
        b'{"asks":[{"name":"other","job":"AA"}]}',
        b'{"asks":[{"job":"AA"}]}',
        b'{"asks":{}}',
        b'{"asks":[null]}',
        b'{"asks":[],"x":1}',
        b"{}",
        b'{"asks":[]} x',
    ],
)
def test_body_of_another_shape_is_refused(data: bytes) -> None:
    with pytest.raises(EncodingError):
        wire.parse(wire.AskList, data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_an_encoding_error(data: bytes) -> None:
    for kind in (wire.AskList, wire.OfferDraft, wire.LeaseReport):
        try:
            wire.parse(kind, data)
        except EncodingError:
            continue


def test_body_above_its_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(SizeLimitError):
        wire.parse(wire.Empty, b" " * (wire.JSON_BYTES_MAX + 1))


@pytest.mark.parametrize("offer", ["offr_" + "0" * 25, "leas_" + "0" * 26, "offr_" + "O" * 26])
def test_ids_have_one_form(offer: str) -> None:
    with pytest.raises(EncodingError):
        wire.OfferDraft(
            offer=offer,
            platform="sev-snp",
            compute_class="x",
            gpu_model="cpu",
            gpus=1,
            memory_mib=1,
            ask_microcredits_per_gpu_hour=1,
            floor_microcredits_per_gpu_hour=None,
            ends_at=1,
        )


def test_every_target_that_the_wire_builds_can_be_signed() -> None:
    parts = {"digest": bytes(32), "owner": bytes(32), "custodian": bytes(32), "box": bytes(32)}
    parts |= {"lineage": bytes(33), "message": bytes(16), "offer": OFFER, "lease": LEASE}
    routes = [v for k, v in vars(wire).items() if k.isupper() and str(v).startswith("/v1/")]
    assert len(routes) > 20
    for route in routes:
        target = wire.target(route, {"after": 3, "lease": LEASE}, **parts)
        assert "{" not in target
        signed = sign_request(
            PartyKey.generate(),
            market=bytes(32),
            method="GET",
            target=target,
            body=b"",
            idempotency_key=None,
            now=1,
        )
        assert signed.digest


def test_target_that_is_too_long_is_refused() -> None:
    with pytest.raises(SizeLimitError):
        wire.target(wire.LEASE, lease="x" * 2000)


def test_every_error_code_has_a_status_that_is_none_of_success() -> None:
    assert set(wire.STATUS) == set(wire.ErrorCode)
    assert all(400 <= status < 600 for status in wire.STATUS.values())


def test_refusals_text_is_cut_at_a_character() -> None:
    body = wire_error(wire.ErrorCode.REFUSED, "é" * 5000)
    assert wire.parse(wire.WireError, wire.encode(body)).text == "é" * 1024


def test_outsiders_import_the_wire_without_the_market() -> None:
    code = (
        "import sys, marketplace.wire as w;"
        "names={n.split('.')[0] for n in sys.modules};"
        "bad=names&{'sqlmodel','sqlalchemy','aiohttp','alembic','typer'};"
        "mine={n for n in sys.modules if n.startswith('marketplace.')}-{'marketplace.wire'};"
        "sys.exit(1 if bad or mine else 0)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=60)
    assert done.returncode == 0
