"""`blindhost job events`: a job's story as lines, from any event on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from client.account import CheckedReceipt
from client.cli.job import JobArgument
from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    hex_bytes,
    local_time,
    market,
    now_milliseconds,
    open_home,
    run,
    say,
    show,
)
from client.home import Home
from client.keystore import Keystore
from client.search import format_number
from client.stages import StageState
from client.story import StoryEvent
from client.watch import JobStanding, JobUpdate, watch_job
from marketplace.wire import JobState, OfferNumber
from trust.messages import Progress


def add_to(job: typer.Typer) -> None:
    """Add the command to the jobs' group."""
    job.command("events")(events)


def events(
    name: JobArgument,
    home: HomeOption,
    after: Annotated[int, typer.Option(min=0, help="Only events behind this number.")] = 0,
    follow: Annotated[  # noqa: FBT002 - typer's way
        bool, typer.Option("--follow", help="Go on until the job has ended.")
    ] = False,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Print what happened to a job, a line for each event, and where it stands.

    Events are numbered and stay so: `--after` goes on exactly. With --json a value a line: an event
    has `number`; records of the enclave and standings have none.
    """
    opened, keys = open_home(home, key_file)
    last = run(
        _print(opened, keys, hex_bytes(name, what="job"), after, follow=follow, as_json=as_json)
    )
    if follow and last is not None and last.view.state is not JobState.SUCCEEDED:
        raise typer.Exit(2)


async def _print(
    home: Home, keys: Keystore, job: bytes, after: int, *, follow: bool, as_json: bool
) -> JobStanding | None:
    last = None
    async with market(home, keys) as api:
        updates = watch_job(
            api, home, keys, job, clock=now_milliseconds, after_event=after, follow=follow
        )
        async for each in updates:
            if isinstance(each, JobStanding):
                last = each
            if as_json:
                show(_plain(each), as_json=True)
            elif isinstance(each, StoryEvent):
                say(f"{each.number} {local_time(each.at)} {each.words}")
    if last is not None and not as_json:
        print_standing(last)
    return last


def print_standing(standing: JobStanding) -> None:
    """Where a job stands: its stage, who acts, what it costs, what is safe."""
    view, cost = standing.view, standing.cost
    say(f"state {view.state.value}, generation {view.generation}")
    if len(standing.hosts) > 1:
        say(f"it has had {len(standing.hosts)} hosts")
    for each in standing.stages:
        took = "" if each.milliseconds is None else f" {each.milliseconds / 1000:.1f} s"
        if each.state in {StageState.RUNNING, StageState.FAILED}:
            say(f"stage {each.name} {each.state.value}{took}: {each.actor}: {each.words}")
    spent = format_number(OfferNumber.PRICE, cost.spent)
    cap = format_number(OfferNumber.PRICE, cost.cap)
    about = ""
    if cost.projected is not None:
        about = f", about {format_number(OfferNumber.PRICE, cost.projected)} at the end"
    say(f"cost {spent} of at most {cap} credits{about}")
    if cost.cap_lasts is not None:
        say(f"the cap lasts {cost.cap_lasts // 60_000} m at the present burn")
    safe = standing.known.safe
    if safe is not None:
        say(f"safe: step {safe.at.step} of generation {safe.at.generation}")


def _plain(update: JobUpdate) -> dict[str, Any]:
    match update:
        case StoryEvent():
            return {"number": update.number, "event": update}
        case Progress():
            return {"progress": update}
        case CheckedReceipt():
            return {"receipt": update}
        case JobStanding():
            return {
                "standing": {
                    "job": update.view,
                    "stages": update.stages,
                    "cost": update.cost,
                    "safe": update.known.safe,
                    "hosts": update.hosts,
                    "milliseconds_left": update.milliseconds_left,
                    "as_of": update.as_of,
                }
            }
