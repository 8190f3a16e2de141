"""The `blindhost` command: parse, call, print. What decides anything lies below it.

`--json` prints one JSON value on the last line: bytes as lower-case hex, money in microcredits.
"""

from __future__ import annotations

import sys

import typer

from client.cli import (
    adapter,
    events,
    evidence,
    facility,
    image,
    job,
    models,
    money,
    offers,
    party,
    publish,
    quote,
    seal,
    serve,
    trust,
)
from client.cli.shared import errors
from client.text import TEXT_CHARACTERS_MAX, clean
from trust.errors import BlindhostError

app = typer.Typer(
    name="blindhost",
    help="Rent GPUs from people you don't trust: seal, submit, follow, and keep your keys.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
party.add_to(app)
offers.add_to(app)
quote.add_to(app)
trust.add_to(app)
evidence.add_to(app)
serve.add_to(app, job.job)
events.add_to(job.job)
models.add_to(seal.model)
app.add_typer(seal.model, name="model", help="Seal and publish a model.")
app.add_typer(seal.dataset, name="dataset", help="Seal rows.")
app.add_typer(publish.terms, name="terms", help="Under which terms a model opens.")
app.add_typer(publish.policy, name="policy", help="For whom, and on what machine.")
app.add_typer(job.job, name="job", help="Submit a job and follow it.")
app.add_typer(adapter.adapter, name="adapter", help="Have an adapter outside enclaves.")
image.add_to(seal.image)
app.add_typer(
    seal.image,
    name="image",
    help="Measure, publish, rebuild, witness, audit and accept runtime images.",
)
app.add_typer(facility.facility, name="facility", help="Say where a machine stands.")
app.add_typer(money.money, name="money", help="Balances, statement, receipts.")
app.add_typer(party.lineage, name="lineage", help="Lineages and their keys.")


def main() -> None:
    """Entry point: an error of ours is one line and exit status 1."""
    try:
        app()
    except (BlindhostError, OSError) as error:
        errors.print(f"[bold red]blindhost:[/] {type(error).__name__}: ", end="")
        errors.print(
            clean(str(error), limit=TEXT_CHARACTERS_MAX, keep="\n"), markup=False, highlight=False
        )
        sys.exit(1)
