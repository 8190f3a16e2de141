"""`blindhost offers`: what can be rented, in the search language, and why so little fits."""

from __future__ import annotations

from typing import Annotated

import typer

from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    errors,
    lines,
    market,
    now_milliseconds,
    open_home,
    run,
    say,
    show,
)
from client.dry_run import Would, preview_offer
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

HEAD = ("offer", "price", "total", "GPU", "memory", "platform", "left", "host", "own keys")


def add_to(app: typer.Typer) -> None:
    """Add the command, at the top."""
    app.command()(offers)


def offers(
    home: HomeOption,
    query: Annotated[
        str, typer.Argument(help="Clauses: 'gpu=H100 vram>=80GiB price<=2.00'; all where absent.")
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

    With --json: a list of offers; with --explain the funnel, as the market says it.
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
    opened, keys = open_home(home, key_file)

    async def ask() -> OfferPage | OfferFunnel:
        async with market(opened, keys) as api:
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
    holdings = opened.holdings(keys)
    kept = []
    for each in found.offers:
        preview = preview_offer(holdings, each, now)
        refused = preview.would is Would.REFUSE
        kept.append((*_row(each, now), preview.words if refused else ""))
    lines(HEAD, kept)
    say(f"{found.total} of {found.listed} fit")


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
