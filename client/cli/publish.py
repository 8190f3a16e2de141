"""`blindhost terms publish`, `policy publish`: what an owner or a buyer consents to."""

from __future__ import annotations

from pathlib import Path
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
from client.images import ImageFolder
from client.keystore import Keystore
from client.owner import next_number, sign_terms, sign_use_policy
from client.policies import genuine, read_policy
from trust.errors import EncodingError, PolicyError
from trust.identity import Signed
from trust.jobs import Budgets, OutputTerms, RecipeTerms, Terms, Undertaking, UsePolicy
from trust.verifier.policy import MEASUREMENT_BYTES, simulated_policy_of
from trust.verifier.roots import parse_simulated_root

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
        list[str] | None,
        typer.Option(help="Runtime images that are good, hex of 48 bytes; repeat."),
    ] = None,
    facility_endorser: Annotated[
        list[str] | None,
        typer.Option(help="Whom to believe about where a machine stands, identity, hex; repeat."),
    ] = None,
    any_facility: Annotated[  # noqa: FBT002 - typer's way
        bool, typer.Option("--any-facility", help="A genuine machine may stand anywhere.")
    ] = False,
    processor_alone: Annotated[  # noqa: FBT002 - typer's way
        bool, typer.Option("--processor-alone", help="No GPU is demanded of a genuine machine.")
    ] = False,
    released_images: Annotated[  # noqa: FBT002 - typer's way
        bool,
        typer.Option(
            "--released-images", help="Images count that `blindhost image accept` let pass."
        ),
    ] = False,
    appraisal: Annotated[
        Path | None, typer.Option(help="An appraisal policy of one's own, JSON or YAML.")
    ] = None,
    accept_simulated_evidence_from: Annotated[
        list[str] | None,
        typer.Option(help="A simulated root, [ANCHOR=]FINGERPRINT: proves nothing; repeat."),
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

    Whose hardware counts is said in one of three ways: of genuine machines, who endorses the
    facility that they stand in (recommended), or that any facility will do; a file; or simulated
    roots, whose evidence proves nothing.

    Without --buyer a model opens for whoever keeps its terms, a dataset for its own buyer alone.
    Without --adapter-to an adapter that was made with this lineage is handed to nobody.
    """
    opened, keys = open_home(home, key_file)
    lineages = _lineages(lineage)
    images = [
        hex_bytes(each, what="measurement", length=MEASUREMENT_BYTES) for each in measurement or ()
    ]
    endorsers = [hex_bytes(each, what="facility-endorser") for each in facility_endorser or ()]
    genuine_words = bool(endorsers) or any_facility or processor_alone
    ways = (appraisal is not None, bool(accept_simulated_evidence_from), genuine_words)
    if sum(ways) > 1:
        raise PolicyError("a file, simulated roots, or genuine machines: one of the three")
    releases = ImageFolder(opened).demands() if released_images else None
    if appraisal is not None:
        if images or releases:
            raise PolicyError("a policy from a file names its images itself")
        made = read_policy(appraisal)
    elif accept_simulated_evidence_from:
        roots = [parse_simulated_root(each) for each in accept_simulated_evidence_from]
        made = simulated_policy_of(roots, images, releases=releases)
    else:
        made = genuine(
            images,
            endorsers=endorsers,
            market=opened.config.market,
            allow_any_facility=any_facility,
            processor_alone=processor_alone,
            releases=releases,
        )
    own = opened.load(UsePolicy, keys.party.identity).values()
    document = UsePolicy(
        version=1,
        custodian=keys.party.identity,
        number=next_number(own, lineages),
        lineages=lineages,
        appraisal_policy=made.digest,
        jobs_signed_by=None if not buyer else tuple(hex_bytes(b, what="buyer") for b in buyer),
        adapter_to=tuple(hex_bytes(each, what="adapter-to") for each in adapter_to or ()),
    )
    signed = sign_use_policy(opened, keys, document, made)
    _publish(opened, keys, signed)
    found = {
        "use_policy": signed.digest,
        "appraisal_policy": made.digest,
        "number": document.number,
    }
    show(found, as_json=as_json)


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
