"""`blindhost facility`: endorse the machine that one stood in front of, and read endorsements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    local_time,
    now_milliseconds,
    open_home,
    show,
)
from client.facility import endorse, read_endorsement
from client.files import write_durably
from trust.encoding import parse_hex

facility = typer.Typer(no_args_is_help=True)


@facility.command("endorse")
def endorse_command(
    where: Annotated[str, typer.Argument(help="The building, in words.", metavar="FACILITY")],
    machine: Annotated[
        str, typer.Option(help="Its processor: a CHIP_ID (64 bytes) or a PPID (16 bytes), hex.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write the signed endorsement.")],
    home: HomeOption,
    gpu: Annotated[
        list[str] | None, typer.Option(help="Serial of a GPU's device certificate, hex; repeat.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it is good.")] = 30,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way
) -> None:
    """Sign that a machine stands in a building, with its GPUs, for some days.

    Take the ids from the machine itself, in the building: whatever the host says of it is what the
    endorsement is there to check.
    """
    opened, keys = open_home(home, key_file)
    signed = endorse(
        opened,
        keys,
        facility=where,
        machine=parse_hex(machine),
        gpus=[parse_hex(each) for each in gpu or []],
        days=days,
        now=now_milliseconds(),
    )
    write_durably(out, signed.encode())
    show(
        {"endorsement": signed.digest, "endorser": signed.signer, "file": out.name}, as_json=as_json
    )


@facility.command("show")
def show_command(
    file: Annotated[Path, typer.Argument(help="A signed endorsement.")],
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Read an endorsement and check its signature; whether its endorser counts is yours to say."""
    signed = read_endorsement(file.read_bytes())
    said = signed.document
    if as_json:
        show({"endorser": signed.signer, "endorsement": said}, as_json=True)
        return
    times = {"issued": local_time(said.issued_at), "expires": local_time(said.expires_at)}
    gpus = ", ".join(each.hex() for each in said.gpus) or "none"
    show(
        {"facility": said.facility, "processor": said.machine, "gpus": gpus, **times}
        | {"endorser": signed.signer, "signature": "good"},
        as_json=False,
    )
