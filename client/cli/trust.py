"""`blindhost trust`, `releases`: who opened what, on what evidence, and what nobody checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from client.cli.shared import (
    ByNameGroup,
    HomeOption,
    JsonOption,
    KeyFileOption,
    hex_bytes,
    lines,
    market,
    now_milliseconds,
    open_home,
    output,
    run,
    say,
    show,
)
from client.custodians import OtherCustodian, other_custodians
from client.dry_run import Appraisal, Outcome, Seated, appraise_job, log_entries, releases
from client.evidence import EvidenceFolder
from client.files import HomeError
from client.home import Home
from client.keystore import Keystore
from client.transcript import make_transcript, open_transcript, write_transcript

SIMULATED = "SIMULATED: proves nothing about hardware"

trust = typer.Typer(no_args_is_help=True, cls=ByNameGroup)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(trust, name="trust", help="Appraise again what keys were released on.")
    app.command("releases")(releases_command)


JobArgument = Annotated[str, typer.Argument(help="The job's name: its digest, hex.")]
GenerationOption = Annotated[
    int | None, typer.Option(min=1, help="One generation; all of them where absent.")
]


@trust.command("show")
def show_trust(
    name: JobArgument,
    home: HomeOption,
    generation: GenerationOption = None,
    export: Annotated[
        Path | None, typer.Option(help="Write a transcript that opens offline; one generation.")
    ] = None,
    offline: Annotated[  # noqa: FBT002 - typer's way
        bool, typer.Option("--offline", help="Don't ask the market for the others' log heads.")
    ] = False,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Appraise again, now and here, the evidence on which this party's broker decided.

    Failed checks stand first, then those that nobody made. The other custodians' words are theirs:
    their appraisal is not seen here.
    """
    opened, keys = open_home(home, key_file)
    job, now = hex_bytes(name, what="job"), now_milliseconds()
    entries = log_entries(opened)
    found = [
        each
        for each in appraise_job(opened, entries, job, now)
        if generation in {None, each.generation}
    ]
    seats = [each for each in releases(entries) if each.statement.job == job]
    others = () if offline else run(_others(opened, keys, seats))
    if export is not None:
        write_transcript(export, _transcript(opened, keys, seats, generation, now))
    if as_json:
        verdicts = [_plain(each) for each in found]
        show({"verdicts": verdicts, "others": others}, as_json=True)
    else:
        print_verdicts(found, others)
        if export is not None:
            say(f"written: {export.name}")
    if any(each.count(Outcome.FAILED) for each in found):
        raise typer.Exit(2)


def _plain(verdict: Appraisal) -> dict[str, Any]:
    named = {f.name: getattr(verdict, f.name) for f in dataclasses.fields(verdict)}
    return {"headline": verdict.headline} | named


def print_verdicts(found: Sequence[Appraisal], others: Sequence[OtherCustodian]) -> None:
    """A verdict's sentence, its counts, then a line for each check."""
    if not found:
        say("NOT YET: this home's log shows no release of this job, and no evidence is kept")
    for each in found:
        say(f"generation {each.generation} rank {each.rank}: {each.headline}")
        if each.simulated:
            say(SIMULATED)
        counts = ", ".join(f"{each.count(outcome)} {outcome.value}" for outcome in Outcome)
        say(f"{counts}; verified here, now")
        if each.words:
            say(each.words)
        if each.lines:
            rows = [(e.outcome.value, e.group, e.id, e.found, e.wanted) for e in each.lines]
            lines(("verdict", "group", "check", "found", "wanted"), rows)
    for other in others:
        say(f"custodian {other.identity.hex()[:16]}: {other.words}")


async def _others(
    home: Home, keys: Keystore, seats: Sequence[Seated]
) -> tuple[OtherCustodian, ...]:
    identities = {entry.identity for seat in seats for entry in seat.released.custodians} - {
        keys.party.identity
    }
    async with market(home, keys) as api:
        return await other_custodians(api, sorted(identities))


def _transcript(
    home: Home, keys: Keystore, seats: Sequence[Seated], generation: int | None, now: int
) -> bytes:
    chosen = [
        each
        for each in seats
        if generation in {None, each.statement.generation} and each.statement.rank == 0
    ]
    if not chosen:
        raise HomeError("the release log shows no such release: there is nothing to export")
    return transcript_of(home, keys, chosen[-1], now)


def transcript_of(home: Home, keys: Keystore, seat: Seated, now: int) -> bytes:
    """A transcript of one release. Raises HomeError if its evidence or policy is not kept."""
    kept = EvidenceFolder(home.folder).find(seat.name)
    policy = home.appraisal_policies().get(seat.released.policies[0])
    if kept is None or kept.refused is not None or policy is None:
        raise HomeError("its evidence or its policy is not in this home")
    return make_transcript(keys.party, home.config.market, kept, policy, seat, now)


@trust.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="A transcript.")],
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Verify a transcript offline: no home, no keys, no market.

    The hardware's word is checked here. That keys were released on it is the word of whoever signed
    the transcript.
    """
    transcript = open_transcript(file.read_bytes())
    verdict = transcript.appraise(now_milliseconds())
    if as_json:
        show({"signer": transcript.word.signer, "verdict": _plain(verdict)}, as_json=True)
    else:
        say(f"by custodian {transcript.word.signer.hex()}: its word")
        print_verdicts([verdict], ())
    if verdict.count(Outcome.FAILED):
        raise typer.Exit(2)


def releases_command(
    home: HomeOption,
    by_chip: Annotated[  # noqa: FBT002
        bool, typer.Option("--by-chip", help="What each chip ever opened.")
    ] = False,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List what this party's broker ever released, from its own log, newest first."""
    opened, _ = open_home(home, key_file)
    found = releases(log_entries(opened))[::-1]
    if by_chip:
        found = tuple(sorted(found, key=lambda each: each.released.chip_id or b""))
    if as_json:
        show([_release(each) for each in found], as_json=True)
        return
    rows = [
        (
            str(each.entry.number),
            "no chip named" if each.released.chip_id is None else each.released.chip_id.hex()[:16],
            each.statement.job.hex()[:16],
            str(each.statement.generation),
            each.released.policies[0].hex()[:16],
            each.statement.lease,
        )
        for each in found
    ]
    if not rows:
        output.print("nothing was ever released")
        return
    lines(("entry", "chip", "job", "generation", "policy", "lease"), rows)


def _release(seat: Seated) -> dict[str, Any]:
    return {
        "entry": seat.entry.number,
        "at": seat.entry.at,
        "job": seat.statement.job,
        "generation": seat.statement.generation,
        "rank": seat.statement.rank,
        "lease": seat.statement.lease,
        "chip": seat.released.chip_id,
        "policies": seat.released.policies,
        "collateral": seat.released.collateral,
        "model": seat.released.model,
    }
