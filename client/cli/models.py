"""`blindhost model add`: know a model of somebody else's by a name, to tune it."""

from __future__ import annotations

from typing import Annotated

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
from client.named import Named, keep_name, shortened
from trust.artifacts import ArtifactKind, Manifest
from trust.errors import RefusedError
from trust.identity import Signed, verify_signed


def add_to(model: typer.Typer) -> None:
    """Add the command to the models' group."""
    model.command("add")(add)


def add(
    artifact: Annotated[str, typer.Argument(help="The model: its artifact id, hex.")],
    name: Annotated[str, typer.Option(help="What to call it here.")],
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way
) -> None:
    """Look a model up by its id, and keep a name for it on this machine: the window offers it.

    The id is the model: its owner gives it to you. The market is asked for the manifest alone.
    """
    opened, keys = open_home(home, key_file)
    wanted = hex_bytes(artifact, what="model")

    async def ask() -> Signed[Manifest]:
        async with market(opened, keys) as api:
            return verify_signed(Manifest, await api.get_document(wanted), signer=None)

    core = run(ask()).document.core
    if core.kind is not ArtifactKind.WEIGHTS:
        raise RefusedError("no-model", f"{artifact[:16]}… is a {core.kind.value}, and no model")
    named = Named(about=wanted, name=shortened(name), rows=None, bytes=None, at=now_milliseconds())
    keep_name(opened, named)
    show({"model": wanted, "owner": core.custodians[0].identity, "name": name}, as_json=as_json)
