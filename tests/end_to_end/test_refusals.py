"""The market's refusals over the real process's socket, each in the market's own words."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from client.market_api import MarketAddress, MarketApi, MarketRefusedError
from demo.display import Display
from demo.parties import Stage, StepError
from demo.story import JOB, Story
from marketplace.wire import ErrorCode
from tests.trust.makers import order, terms
from trust.identity import PartyKey
from trust.jobs import Close

pytestmark = [pytest.mark.slow]

STRANGER = PartyKey.generate()


@pytest.fixture(scope="module")
def told() -> Iterator[Story]:
    """A market, two parties, a published model and a job of a buyer without money."""
    with Stage() as stage:
        story = Story(stage, Display())
        story.open_market()
        story.make_parties()
        story.publish_model()
        yield story


@pytest.fixture
async def api(told: Story) -> AsyncIterator[MarketApi]:
    address = MarketAddress(url=told.market_url, identity=bytes.fromhex(told.market_identity))
    async with aiohttp.ClientSession() as session:
        yield MarketApi(
            session,
            address=address,
            key=STRANGER,
            clock=lambda: time.time_ns() // 1_000_000,
        )


def test_a_job_without_funds_is_refused_and_nothing_is_held(told: Story) -> None:
    home = told.stage.home("buyer")
    rows = home / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text("".join(json.dumps(row) + "\n" for _ in range(16)), encoding="utf-8")
    sealed = told.blindhost("buyer", "dataset", "seal", str(rows), "--kind", "simulated")
    told.rows, told.row_count = sealed["artifact"], sealed["rows"]
    told.publish_policy("buyer", sealed["lineage"])
    job = JOB | {"recipe": JOB["recipe"] | {"evaluation": None}}
    with pytest.raises(StepError, match="no-funds"):
        told.submit(job)
    account = told.blindhost("buyer", "account")
    assert (account["available"], account["held"]) == (0, 0)


def test_a_dataset_with_a_broken_line_is_refused_by_its_number(told: Story) -> None:
    rows = told.stage.home("buyer") / "broken.jsonl"
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text(json.dumps(row) + '\n{"messages": []}\n', encoding="utf-8")
    with pytest.raises(StepError, match="line 2"):
        told.blindhost("buyer", "dataset", "seal", str(rows), "--kind", "simulated")


async def refused(code: ErrorCode, asking: object) -> None:
    with pytest.raises(MarketRefusedError) as error:
        await asking  # type: ignore[misc]
    assert error.value.code == code


async def test_the_market_refuses_strangers_over_its_real_socket(
    told: Story, api: MarketApi
) -> None:
    key = secrets.token_bytes(16)
    unknown = order(bytes(32))
    await refused(
        ErrorCode.NOT_FOUND, api.order_generation(STRANGER.sign(unknown), key=key)
    )  # a generation of a job that nobody submitted
    close = STRANGER.sign(Close(job=bytes(32), at=1))
    await refused(ErrorCode.NOT_FOUND, api.close_job(close, key=secrets.token_bytes(16)))
    await refused(ErrorCode.FORBIDDEN, api.get_messages(bytes.fromhex(told.buyer), after=0))
    await refused(ErrorCode.REFUSED, api.put_document(STRANGER.sign(terms())))


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/accounts/me", b"", 401, "unsigned"),
        ("POST", "/v1/jobs", b"{}", 401, "unsigned"),
        ("GET", "/v1/books", b"", 404, "no-route"),
    ],
)
async def test_what_is_unsigned_or_unknown_is_refused_before_anything_else(
    told: Story, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, told.market_url + path, data=body or None) as answer,
    ):
        assert (answer.status, (await answer.json())["code"]) == (status, code)
