"""`blindhost adapter`: have an adapter outside enclaves, where every custodian lets it go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from client.cli.job import log_memory
from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    errors,
    hex_bytes,
    now_milliseconds,
    open_home,
    progress,
    run,
    show,
)
from client.hand_over import check_free
from client.home import Home
from client.keystore import Keystore
from client.results import fetch_adapter

WAIT_SECONDS: Final = 120

adapter = typer.Typer(no_args_is_help=True)


@adapter.callback()
def _commands() -> None:
    """A group, although it has one command."""


@adapter.command("fetch")
def fetch(
    artifact: Annotated[str, typer.Argument(help="The adapter: its artifact id, hex.")],
    to: Annotated[Path, typer.Option(help="The folder to make; never overwritten.")],
    home: HomeOption,
    base_name: Annotated[
        str | None,
        typer.Option(help="Name or path of the base in its config; else the base's artifact id."),
    ] = None,
    timeout: Annotated[
        int, typer.Option(min=1, help="Seconds to wait for the custodians' brokers.")
    ] = WAIT_SECONDS,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Ask every custodian for its shares of an adapter, and write it as PEFT and vLLM load it.

    A custodian consents by `adapter_to` of its use policy, and a model's owner by
    `output.adapter_leaves` of the terms that the adapter was trained under. A refusal says whose
    line it is.
    """
    opened, keys = open_home(home, key_file)
    check_free(to)
    name = hex_bytes(artifact, what="artifact")
    show(run(_fetch(opened, keys, name, to, base_name, timeout)), as_json=as_json)


async def _fetch(
    home: Home, keys: Keystore, name: bytes, to: Path, base_name: str | None, seconds: int
) -> dict[str, Any]:
    with progress("fetching segments") as step:
        size = await fetch_adapter(
            home,
            keys,
            log_memory(home, keys),
            name,
            to,
            base_name=base_name,
            seconds=seconds,
            clock=now_milliseconds,
            waiting=lambda custodians: _say_waiting(custodians, seconds),
            step=step,
        )
    return {"adapter": name, "folder": str(to), "bytes": size}


def _say_waiting(custodians: Sequence[bytes], seconds: int) -> None:
    names = ", ".join(each.hex()[:16] for each in custodians)
    errors.print(f"waiting up to {seconds} s for custodian {names}", soft_wrap=True)
