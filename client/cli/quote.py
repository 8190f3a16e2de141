"""`blindhost quote`: what a fine-tune would cost on each offer. Nothing is signed or held."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Final

import aiohttp
import typer

from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    hex_bytes,
    lines,
    now_milliseconds,
    opener,
    run,
    say,
    show,
)
from client.drafting import Quote, TuneDraft
from client.dry_run import Would
from client.home import Home
from client.search import format_number
from client.window import Party
from marketplace.wire import OfferNumber, OfferView
from trust.encoding import Json, parse_json
from trust.errors import EncodingError, RefusedError

FILE_BYTES_MAX: Final = 1 << 16
OFFERS_MAX: Final = 50
NUMBERS: Final = frozenset(
    {
        "rows", "rank", "alpha", "steps", "rows_per_step", "length_max", "seed",
        "checkpoint_steps", "spend_max", "price_max",
    }
)  # fmt: skip
TEXTS: Final = frozenset({"learning_rate", "precision"})
HEAD: Final = ("offer", "at most", "estimate", "takes", "GPUs", "own keys", "rests on")


def add_to(app: typer.Typer) -> None:
    """Add the command, at the top."""
    app.command()(quote)


def quote(
    file: Annotated[Path, typer.Argument(help="JSON of a draft: recipe, rows, spend_max, …")],
    home: HomeOption,
    model: Annotated[str, typer.Option(help="Artifact id of the model, hex.")],
    dataset: Annotated[str, typer.Option(help="Own artifact to train on, hex.")],
    query: Annotated[
        str, typer.Argument(help="On which offers, in the search language; all where absent.")
    ] = "",
    heldout: Annotated[str | None, typer.Option(help="Own artifact to evaluate on, hex.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=OFFERS_MAX, help="How many offers.")] = 10,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Price a draft on the cheapest offers: never more than its spend_max, on any of them.

    The file has rows, rank, alpha, steps, rows_per_step, learning_rate, length_max, seed,
    precision, checkpoint_steps, spend_max and price_max; money is microcredits. Nothing is signed.
    """
    draft = read_draft(file, model=model, dataset=dataset, heldout=heldout)
    opened = Home.open(home)

    async def ask() -> list[tuple[OfferView, Quote, str]]:
        async with aiohttp.ClientSession() as session:
            party = await Party.open(home, opener(opened, key_file), session, now_milliseconds)
            _, page = await party.search(query, "price", 0, rows)
            return [(each, *await _quoted(party, draft, each)) for each in page.offers]

    found = run(ask())
    if as_json:
        show([_plain(*each) for each in found], as_json=True)
        return
    lines(HEAD, [_row(*each) for each in found])
    say(f"{len(found)} offers; nothing is signed and nothing is held")


async def _quoted(party: Party, draft: TuneDraft, offer: OfferView) -> tuple[Quote, str]:
    """A quote, and why this job could not be submitted for it; empty: it could."""
    prepared, found = await party.quote(draft, offer)
    try:
        await party.check(prepared)
    except RefusedError as error:
        return found, f"{error.code}: {error.text}"
    (preview,) = await party.preview([offer])
    if offer.draft.ask_microcredits_per_gpu_hour > draft.price_max:
        return found, "dearer than price_max"
    return found, preview.words if preview.would is Would.REFUSE else ""


def read_draft(file: Path, *, model: str, dataset: str, heldout: str | None) -> TuneDraft:
    """A draft from a file and ids. Raises EncodingError with what is missing, odd or too much."""
    if file.stat().st_size > FILE_BYTES_MAX:
        raise EncodingError(f"{file.name}: over {FILE_BYTES_MAX} bytes")
    value = parse_json(file.read_bytes())
    if not isinstance(value, dict):
        raise EncodingError(f"{file.name}: a JSON object is wanted")
    if odd := sorted(set(value) ^ (NUMBERS | TEXTS)):
        how = "is missing" if odd[0] in NUMBERS | TEXTS else "is no field of a draft"
        raise EncodingError(f"{file.name}: {odd[0][:64]} {how}")
    fields: dict[str, Any] = {name: _field(file, name, each) for name, each in value.items()}
    return TuneDraft(
        model=hex_bytes(model, what="model"),
        data=hex_bytes(dataset, what="dataset"),
        heldout=None if heldout is None else hex_bytes(heldout, what="heldout"),
        images=(),
        **fields,
    )


def _field(file: Path, name: str, value: Json) -> int | str:
    if name in NUMBERS and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if name in TEXTS and isinstance(value, str):
        return value
    wanted = "a whole number" if name in NUMBERS else "a word in quotes"
    raise EncodingError(f"{file.name}: {name}: {wanted} is wanted")


def _plain(offer: OfferView, found: Quote, why: str) -> dict[str, Any]:
    return {"offer": offer.draft.offer, "refused": why, **dataclasses.asdict(found)}


def _row(offer: OfferView, found: Quote, why: str) -> tuple[str, ...]:
    estimate = "not known"
    if found.cost_low is not None and found.cost_high is not None:
        estimate = f"{_credits(found.cost_low)} to {_credits(found.cost_high)}"
    takes = "not known" if found.milliseconds is None else f"{found.milliseconds // 1000} s"
    gpus = f"{offer.draft.gpus} × {offer.draft.gpu_model}"
    at_most = _credits(found.cost_max)
    return (offer.draft.offer, at_most, estimate, takes, gpus, why, found.rests_on)


def _credits(microcredits: int) -> str:
    return format_number(OfferNumber.PRICE, microcredits)
