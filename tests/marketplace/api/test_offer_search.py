"""The search over the socket: typed clauses in, a page or a funnel out."""

from __future__ import annotations

import json

from client.search import parse_query
from marketplace import wire
from tests.marketplace.api.rig import Rig, key16
from tests.marketplace.world import BUYER, CREDIT, HOST, HOST_2, STRANGER

Code = wire.ErrorCode


def query(text: str, **changes: object) -> wire.OfferQuery:
    values = {
        "clauses": parse_query(text),
        "order": wire.OfferOrder.PRICE,
        "descending": False,
        "after": None,
        "skip": 0,
        "rows": 10,
    }
    return wire.OfferQuery(**values | changes)


async def listed(rig: Rig) -> list[wire.OfferDraft]:
    """Three offers: a small cheap one, and two of H100s."""
    drafts = [
        rig.draft(ask_microcredits_per_gpu_hour=CREDIT // 2),
        rig.draft(gpu_model="H100", gpus=8, memory_mib=80 * 1024, platform="sev-snp"),
        rig.draft(
            gpu_model="H100",
            memory_mib=94 * 1024,
            platform="sev-snp",
            ask_microcredits_per_gpu_hour=3 * CREDIT,
        ),
    ]
    for host, draft in zip((HOST, HOST_2, HOST_2), drafts, strict=True):
        await rig.api(host).post_offer(draft, key=key16())
    return drafts


async def test_anybody_finds_what_fits_and_learns_how_many(rig: Rig) -> None:
    _, big, dear = await listed(rig)
    page = await rig.api(STRANGER).search_offers(query("gpu=h100 vram>=80GiB tee=snp left>=12h"))
    assert [each.draft for each in page.offers] == [big, dear]
    assert (page.listed, page.total, page.next) == (3, 2, None)
    assert page.offers[0] == await rig.api(BUYER).get_offer(big.offer)


async def test_pages_go_on_behind_the_last_row_although_the_book_changes(rig: Rig) -> None:
    small, big, dear = await listed(rig)
    api = rig.api(BUYER)
    first = await api.search_offers(query("", rows=1))
    assert [each.draft for each in first.offers] == [small]
    await rig.api(HOST).withdraw_offer(small.offer, key=key16())
    second = await api.search_offers(query("", after=first.next))
    assert [each.draft for each in second.offers] == [big, dear]
    assert second.version > first.version


async def test_the_funnel_names_the_clause_that_bites_and_the_nearest_miss(rig: Rig) -> None:
    _, big, _ = await listed(rig)
    funnel = await rig.api(BUYER).explain_offers(query("gpu=H100 price<=0.9 gpus>=2"))
    assert [(step.left, step.without) for step in funnel.steps] == [(2, 0), (0, 1), (0, 0)]
    looser = funnel.steps[1].looser
    assert looser is not None
    assert (looser.clause, looser.gain, looser.cheapest) == (
        *parse_query("price<=1"),
        1,
        CREDIT,
    )
    assert funnel.nearest_miss is not None
    assert funnel.nearest_miss.offer.draft == big
    assert funnel.nearest_miss.misses == (1,)


async def test_a_claimed_book_that_is_cached_is_not_shown_after_a_change(rig: Rig) -> None:
    _, big, _ = await listed(rig)
    api = rig.api(BUYER)
    assert (await api.search_offers(query("gpus=8"))).total == 1
    cheaper = rig.draft(
        offer=big.offer,
        gpu_model="H100",
        gpus=4,
        memory_mib=80 * 1024,
        platform="sev-snp",
    )
    await rig.api(HOST_2).post_offer(cheaper, key=key16())
    assert (await api.search_offers(query("gpus=8"))).total == 0
    assert (await api.search_offers(query("gpus=4"))).total == 1
    rig.time[0] = big.ends_at  # the sweep that expires them has not run
    assert (await api.search_offers(query(""))).listed == 0


async def test_a_query_out_of_bounds_is_refused_before_it_is_evaluated(rig: Rig) -> None:
    good = json.loads(wire.encode(query("gpu=H100 price<=2")))
    for change in (
        {"clauses": good["clauses"] * 9},
        {"clauses": [{**good["clauses"][0], "values": ["x"] * 17}]},
        {"clauses": [{**good["clauses"][0], "values": ["x" * 513]}]},
        {"clauses": [{**good["clauses"][1], "value": -1}]},
        {"clauses": [{**good["clauses"][1], "field": "region"}]},
        {"rows": 201},
        {"rows": 0},
        {"order": "floor"},
        {"more": 1},
    ):
        body = json.dumps(good | change).encode()
        sent = await rig.send("POST", wire.OFFER_SEARCH, body, key=BUYER)
        sent.expect(Code.MALFORMED)
