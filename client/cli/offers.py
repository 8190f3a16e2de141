"""`blindhost offers`: what can be rented, in the search language, and why so little fits."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from client.cli.shared import (
    JsonOption,
    KeyFileOption,
    errors,
    hex_bytes,
    lines,
    market,
    now_milliseconds,
    open_home,
    run,
    say,
    show,
)
from client.dry_run import Would, preview_offer
from client.files import HomeError
from client.market_api import MarketAddress, MarketApi
from client.search import (
    QueryError,
    format_clause,
    format_number,
    miss_in_words,
    parse_order,
    parse_query,
)
from marketplace.wire import (
    PAGE_ROWS_MAX,
    OfferFunnel,
    OfferNumber,
    OfferPage,
    OfferQuery,
    OfferView,
)
from trust.identity import PartyKey

HEAD = ("offer", "price", "total", "GPU", "memory", "platform", "left", "host", "own keys")


def add_to(app: typer.Typer) -> None:
    """Add the command, at the top."""
    app.command()(offers)


def offers(
    query: Annotated[
        str, typer.Argument(help="Clauses: 'gpu=H100 vram>=80GiB price<=2.00'; all where absent.")
    ] = "",
    home: Annotated[
        Path | None, typer.Option("--home", help="This party's folder: with what own policies say.")
    ] = None,
    market_url: Annotated[
        str, typer.Option("--market", help="Without a home: the market's address.")
    ] = "",
    market_key: Annotated[
        str, typer.Option("--market-key", help="Without a home: its identity, hex.")
    ] = "",
    sort: Annotated[
        str, typer.Option(help="price, total, gpus, memory, left; -price: dearest first.")
    ] = "price",
    explain: Annotated[  # noqa: FBT002 - typer's way
        bool, typer.Option("--explain", help="What each clause leaves, and what a looser one adds.")
    ] = False,
    rows: Annotated[int, typer.Option(min=1, max=PAGE_ROWS_MAX, help="How many to list.")] = 50,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List what can be rented: credits per GPU-hour, and whether own policies rule it out.

    Without --home nobody's keys are used: --market and --market-key, as in an invite, are enough to
    look. With --json: a list of offers; with --explain the funnel, as the market says it.
    """
    try:
        clauses = parse_query(query)
        order, descending = parse_order(sort)
    except QueryError as error:
        _point_at(query if error.at <= len(query) else "", error)
        raise
    asked = OfferQuery(
        clauses=clauses, order=order, descending=descending, after=None, skip=0, rows=rows
    )
    own = None if home is None else open_home(home, key_file)
    visited = None if own is not None else _address(market_url, market_key)

    async def ask() -> OfferPage | OfferFunnel:
        async with market(*own) if own is not None else _visiting(visited) as api:
            return await (api.explain_offers(asked) if explain else api.search_offers(asked))

    found = run(ask())
    now = now_milliseconds()
    if isinstance(found, OfferFunnel):
        if as_json:
            show(found, as_json=True)
        else:
            print_funnel(found, now)
        return
    if as_json:
        show(found.offers, as_json=True)
        return
    if own is None:
        lines(HEAD[:-1], [_row(each, now) for each in found.offers])
    else:
        holdings = own[0].holdings(own[1])
        kept = []
        for each in found.offers:
            preview = preview_offer(holdings, each, now)
            refused = preview.would is Would.REFUSE
            kept.append((*_row(each, now), preview.words if refused else ""))
        lines(HEAD, kept)
    say(f"{found.total} of {found.listed} fit")


def _address(url: str, key: str) -> MarketAddress:
    """The market of somebody without a home. Raises HomeError or EncodingError."""
    if not url or not key:
        raise HomeError("--home, or --market and --market-key: whose offers?")
    return MarketAddress(url=url, identity=hex_bytes(key, what="market-key"))


@contextlib.asynccontextmanager
async def _visiting(address: MarketAddress | None) -> AsyncIterator[MarketApi]:
    """The market, asked under a key drawn for this one look."""
    assert address is not None
    async with aiohttp.ClientSession() as session:
        yield MarketApi(session, address=address, key=PartyKey.generate(), clock=now_milliseconds)


def print_funnel(funnel: OfferFunnel, now: int) -> None:
    """One line for each clause: what is left, and what a looser value would add."""
    rows = [(str(funnel.listed), "all offers", "")]
    for step in funnel.steps:
        looser = ""
        if step.looser is not None:
            price = format_number(OfferNumber.PRICE, step.looser.cheapest)
            clause = format_clause(step.looser.clause)
            looser = f"{clause}: +{step.looser.gain}, cheapest {price}"
        rows.append((str(step.left), format_clause(step.clause), looser))
    lines(("left", "clause", "looser"), rows)
    if funnel.nearest_miss is not None:
        clauses = tuple(each.clause for each in funnel.steps)
        say(f"nearest miss: {miss_in_words(funnel.nearest_miss, clauses, now)}")


def _row(view: OfferView, now: int) -> tuple[str, ...]:
    draft = view.draft
    ask = draft.ask_microcredits_per_gpu_hour
    return (
        draft.offer,
        format_number(OfferNumber.PRICE, ask),
        format_number(OfferNumber.TOTAL, ask * draft.gpus),
        f"{draft.gpus} × {draft.gpu_model}",
        format_number(OfferNumber.MEMORY, draft.memory_mib),
        draft.platform,
        f"{max(0, draft.ends_at - now) // 3_600_000} h",
        view.host.hex()[:16],
    )


def _point_at(query: str, error: QueryError) -> None:
    """The query with a mark under the column, for people."""
    if query.isprintable() and query:
        errors.print(query, markup=False, highlight=False, soft_wrap=True)
        errors.print(" " * error.at + "▲", markup=False, highlight=False, soft_wrap=True)
