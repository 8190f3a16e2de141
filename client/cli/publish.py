"""`blindhost terms publish`, `policy publish`: what an owner or a buyer consents to."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    hex_bytes,
    market,
    now_milliseconds,
    open_home,
    run,
    show,
)
from client.home import Home
from client.keystore import Keystore
from client.owner import next_number, sign_terms, sign_use_policy
from trust.errors import EncodingError
from trust.identity import Signed
from trust.jobs import Budgets, OutputTerms, RecipeTerms, Terms, Undertaking, UsePolicy
from trust.verifier.policy import MEASUREMENT_BYTES, AppraisalPolicy, production, simulated_policy

DAY_MILLISECONDS: Final = 86_400_000

terms = typer.Typer(no_args_is_help=True)
policy = typer.Typer(no_args_is_help=True)

Lineages = Annotated[list[str], typer.Option("--lineage", help="Which it is about, hex; repeat.")]


@terms.command("publish")
def publish_terms(
    lineage: Lineages,
    home: HomeOption,
    recipe: Annotated[
        list[str], typer.Option(help="NAME:RANK_MAX:STEPS_MAX, e.g. lora:16:1000; repeat.")
    ],
    price_per_job: Annotated[int, typer.Option(help="Microcredits, flat.")] = 0,
    royalty_per_million_tokens: Annotated[int, typer.Option(help="Microcredits.")] = 0,
    reports_max: Annotated[int, typer.Option(help="Numbers that may leave in one job.")] = 2000,
    report_tokens_min: int = 256,
    report_rows_min: int = 64,
    reply_tokens_max: int = 256,
    adapter_leaves: Annotated[  # noqa: FBT002
        bool, typer.Option("--adapter-leaves", help="Gives away a gradient oracle of the base.")
    ] = False,
    budget_tokens: Annotated[int, typer.Option(help="Of one buyer in a period.")] = 1 << 40,
    budget_steps: int = 1 << 20,
    budget_reports: int = 1 << 16,
    period_seconds: int = 86_400,
    days: Annotated[int, typer.Option(help="Until they expire, for new jobs.")] = 90,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Sign and publish terms: the next number, in place of the ones before."""
    opened, keys = open_home(home, key_file)
    lineages = _lineages(lineage)
    until = now_milliseconds() + days * DAY_MILLISECONDS
    own = opened.load(Terms, keys.party.identity).values()
    document = Terms(
        version=1,
        owner=keys.party.identity,
        number=next_number(own, lineages),
        lineages=lineages,
        price_microcredits_per_job=price_per_job,
        royalty_microcredits_per_million_tokens=royalty_per_million_tokens,
        recipes=tuple(_recipe(each) for each in recipe),
        reports_max=reports_max,
        report_tokens_min=report_tokens_min,
        report_rows_min=report_rows_min,
        output=OutputTerms(adapter_leaves=adapter_leaves, reply_tokens_max=reply_tokens_max),
        screen=None,
        budgets=Budgets(
            tokens=budget_tokens,
            steps=budget_steps,
            reports=budget_reports,
            period_seconds=period_seconds,
        ),
        undertaking=Undertaking(
            until=until, price_microcredits_per_million_tokens=royalty_per_million_tokens
        ),
        expires_at=until,
    )
    signed = sign_terms(opened, keys, document)
    _publish(opened, keys, signed)
    show({"terms": signed.digest, "number": document.number}, as_json=as_json)


@policy.command("publish")
def publish_policy(
    lineage: Lineages,
    home: HomeOption,
    measurement: Annotated[
        list[str], typer.Option(help="Runtime images that are good, hex of 48 bytes; repeat.")
    ],
    accept_simulated_evidence_from: Annotated[
        list[str] | None,
        typer.Option(help="Fingerprint of a simulated root, hex: proves nothing; repeat."),
    ] = None,
    buyer: Annotated[
        list[str] | None,
        typer.Option(help="Whose jobs may open it, hex; repeat. None: see below."),
    ] = None,
    adapter_to: Annotated[
        list[str] | None,
        typer.Option(help="Who may be given adapters made with it, outside enclaves; repeat."),
    ] = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Sign and publish a use policy: on what machines, with which images, for whose jobs.

    Without --buyer a model opens for whoever keeps its terms, a dataset for its own buyer alone.
    Without a simulated root, the policy demands genuine hardware. Without --adapter-to an adapter
    that was made with this lineage is handed to nobody.
    """
    opened, keys = open_home(home, key_file)
    lineages = _lineages(lineage)
    images = [hex_bytes(each, what="measurement", length=MEASUREMENT_BYTES) for each in measurement]
    appraisal = _appraisal(images, accept_simulated_evidence_from or [])
    own = opened.load(UsePolicy, keys.party.identity).values()
    document = UsePolicy(
        version=1,
        custodian=keys.party.identity,
        number=next_number(own, lineages),
        lineages=lineages,
        appraisal_policy=appraisal.digest,
        jobs_signed_by=None if not buyer else tuple(hex_bytes(b, what="buyer") for b in buyer),
        adapter_to=tuple(hex_bytes(each, what="adapter-to") for each in adapter_to or ()),
    )
    signed = sign_use_policy(opened, keys, document, appraisal)
    _publish(opened, keys, signed)
    found = {
        "use_policy": signed.digest,
        "appraisal_policy": appraisal.digest,
        "number": document.number,
    }
    show(found, as_json=as_json)


def _appraisal(images: list[bytes], roots: list[str]) -> AppraisalPolicy:
    if not roots:
        return production(images)
    first, *further = [hex_bytes(each, what="root fingerprint") for each in roots]
    return simulated_policy(first, images, further_roots=further)


def _lineages(texts: list[str]) -> tuple[bytes, ...]:
    return tuple(hex_bytes(each, what="lineage", length=33) for each in texts)


def _recipe(text: str) -> RecipeTerms:
    name, *limits = text.split(":")
    if len(limits) != 2 or not all(each.isdigit() for each in limits):
        raise EncodingError(f"recipe {text!r}: wanted NAME:RANK_MAX:STEPS_MAX")
    return RecipeTerms(recipe=name, rank_max=int(limits[0]), steps_max=int(limits[1]))


def _publish(home: Home, keys: Keystore, signed: Signed[Terms] | Signed[UsePolicy]) -> None:
    async def send() -> None:
        async with market(home, keys) as api:
            await api.put_document(signed)

    run(send())
