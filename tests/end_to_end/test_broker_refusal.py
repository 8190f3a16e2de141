"""A stranger's job over my dataset, put to my real broker through a real market.

Everything of it is genuine but the stranger's right: its own signed and paid job, a lease, a
generation order, an enclave on an endorsed chip in the measured image.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from demo.display import Display
from demo.jobs import JOB
from demo.parties import Stage, StepError
from demo.story import Story
from marketplace.store import Store
from tests.end_to_end.live import Live, LiveEnclave
from tests.marketplace.api.rig import key16
from tests.marketplace.world import HOST, MARKET, STRANGER, fund
from trust.encoding import Document
from trust.jobs import Input, InputRole
from trust.messages import Challenge, Purpose, Refused, ReleaseRequest, parse_message

pytestmark = [pytest.mark.slow]

ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.fixture
def told() -> Iterator[Story]:
    """A market, and a buyer with a sealed, uploaded dataset, a use policy and a running broker."""
    with Stage() as stage:
        (stage.home("market") / "key").write_bytes(MARKET.to_bytes())
        story = Story(stage, Display())
        story.open_market()
        story.make_parties()
        story.publish_model()
        rows = stage.home("buyer") / "rows.jsonl"
        rows.write_text((json.dumps(ROW) + "\n") * 16, encoding="utf-8")
        sealed = story.blindhost("buyer", "dataset", "seal", str(rows), "--kind", "simulated")
        story.rows, story.row_count = sealed["artifact"], sealed["rows"]
        story.publish_policy("buyer", sealed["lineage"])
        with pytest.raises(StepError, match="no-funds"):  # it was uploaded before that
            story.submit(JOB | {"recipe": JOB["recipe"] | {"evaluation": None}})
        stage.start("broker-buyer", "blindhost", "broker", "--home", str(stage.home("buyer")))
        yield story


@pytest.fixture
async def live(told: Story) -> AsyncIterator[Live]:
    store = Store.open_file(told.stage.home("market") / "market.db")
    async with aiohttp.ClientSession() as session:
        yield Live(told=told, http=session, store=store)
    store.close()


async def ask_broker(live: Live, enclave: LiveEnclave, message: Document) -> object:
    """The buyer's broker's answer to a message from the enclave."""
    broker = bytes.fromhex(live.told.buyer)
    await enclave.post(message.encode(), box=broker)
    while True:
        page = await live.api(HOST).get_messages(
            enclave.address, after=enclave.after, wait_seconds=20, lease=enclave.lease
        )
        assert page, live.told.stage.log_tail("broker-buyer")
        enclave.after = page[-1].number
        for each in page:
            if each.sender == broker:
                return parse_message(each.payload)


async def test_a_strangers_job_over_my_dataset_is_refused_by_my_broker(live: Live) -> None:
    with live.store.transaction() as session:
        fund(session, buyer=STRANGER)
    pattern = await live.published()
    mine = Input(role=InputRole.DATASET, artifact=bytes.fromhex(live.told.rows))
    job = await live.published(buyer=STRANGER, inputs=(pattern.document.inputs[0], mine))
    await live.api(STRANGER).submit_job(job, key=key16())
    lease = await live.claimed(job)
    order = await live.order(job, STRANGER)
    await live.api(STRANGER).order_generation(order, key=key16())
    enclave = await LiveEnclave.start(live, job, lease, HOST)

    broker = {"purpose": Purpose.RELEASE, "verifier": bytes.fromhex(live.told.buyer)}
    challenge = await ask_broker(live, enclave, enclave.hello(**broker))
    assert isinstance(challenge, Challenge), challenge
    documents = await live.api(STRANGER).get_job_documents(job.digest)
    request = ReleaseRequest(
        evidence=enclave.request(enclave.statement(challenge.nonce, **broker)).evidence,
        job=documents.job,
        order=order.encode(),
        terms=documents.terms,
        manifests=documents.manifests,
    )
    answer = await ask_broker(live, enclave, request)
    assert isinstance(answer, Refused), answer
    assert (answer.nonce, answer.code) == (challenge.nonce, "buyer-not-allowed")
