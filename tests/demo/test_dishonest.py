"""What the demo's dishonest host posts is refused by a market over a real socket, and told so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from demo.dishonest import Forgery, forge, post_all
from demo.report import refused_forgeries
from tests.marketplace.api.rig import Enclave, Rig, serve_rig
from tests.marketplace.world import BUYER, HOST, HOST_2, HOUR
from trust.encoding import digest
from trust.messages import ReceiptPosted

KINDS = ["replayed", "altered", "stolen", "relabelled", "inflated"]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with serve_rig(tmp_path) as rig:
        yield rig


async def settled_by(enclave: Enclave, step: int) -> bytes:
    enclave.rig.time[0] += HOUR
    receipt = enclave.receipt(milliseconds=HOUR, step=step, tokens=step * 1024)
    assert await enclave.send_receipt(receipt) == ReceiptPosted(receipt=receipt.digest)
    return receipt.encode()


async def settled_at(rig: Rig, job: bytes) -> list[str]:
    return [digest(e.signed[96:]).hex() for e in await rig.api(BUYER).get_receipts(job)]


def told(forgeries: list[Forgery], answers: dict[bytes, str]) -> list[dict[str, object]]:
    return [
        {"kind": e.kind, "receipt": e.receipt.hex(), "answer": answers.get(e.receipt)}
        for e in forgeries
    ]


async def test_every_forgery_is_refused_and_the_books_do_not_move(rig: Rig) -> None:
    enclave, other = await rig.running(HOST), await rig.running(HOST_2)
    known = [await settled_by(enclave, 10), await settled_by(other, 20)]
    rig.time[0] += HOUR
    before = [await rig.api(each).get_account() for each in (HOST, HOST_2, BUYER)]
    listed = await settled_at(rig, enclave.job.digest)
    forgeries = forge(enclave.lease, 1, enclave.job.digest, HOST, known)
    assert [each.kind for each in forgeries] == KINDS
    answers = await post_all(rig.api(HOST), enclave.lease, forgeries)
    found = told(forgeries, answers)
    assert [each["answer"] for each in found] == [
        "posted",
        None,
        None,
        "receipt-unknown-key",
        "receipt-unknown-key",
    ]
    assert await settled_at(rig, enclave.job.digest) == listed
    assert [await rig.api(each).get_account() for each in (HOST, HOST_2, BUYER)] == before
    both = listed + await settled_at(rig, other.job.digest)
    assert refused_forgeries(found, [{"settled": [{"receipt": e} for e in both]}]) == found


async def test_a_forgery_that_settles_is_not_counted_as_refused(rig: Rig) -> None:
    """The words of a forgery under the key that is metered: it settles, and the count says so."""
    enclave = await rig.running(HOST)
    known = [await settled_by(enclave, 10)]
    forgeries = forge(enclave.lease, 1, enclave.job.digest, enclave.signing, known)
    taken = next(each for each in forgeries if each.kind == "altered")
    counts = {"milliseconds": HOUR, "step": 11, "tokens": 11 * 1024}
    honest = enclave.receipt(number=2, before=digest(known[0][96:]), **counts)
    genuine = Forgery(kind="inflated", signed=honest.encode(), receipt=honest.digest)
    answers = await post_all(rig.api(HOST), enclave.lease, [taken, genuine])
    listed = [{"receipt": each} for each in await settled_at(rig, enclave.job.digest)]
    found = told([taken, genuine], answers)
    assert found[1]["answer"] == "posted"
    assert refused_forgeries(found, [{"settled": listed}]) == found[:1]
