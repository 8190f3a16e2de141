"""`blindhost init`, `broker`, `account`, `lineage`: a party, its keys and its money."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from client.broker import Broker, open_incarnation
from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    errors,
    hex_bytes,
    market,
    now_milliseconds,
    open_home,
    output,
    run,
    show,
)
from client.home import Config, Home
from client.keystore import KeyFile, Keystore, Opener, Passphrase
from client.market_port import HttpMarket
from client.release_log import HeadPlace, ReleaseLog
from trust.release_state import Standing

lineage = typer.Typer(no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands that stand at the top."""
    for command in (init, broker, account):
        app.command()(command)


def init(
    home: HomeOption,
    market_url: Annotated[str, typer.Option("--market", help="URL of the market.")],
    market_identity: Annotated[str, typer.Option(help="The market's identity, hex.")],
    key_file: KeyFileOption = None,
    passphrase: Annotated[  # noqa: FBT002 - typer's way
        bool, typer.Option("--passphrase", help="Protect the keystore by a passphrase.")
    ] = False,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Make a home: draw a party's keys and pin the market's."""
    identity = hex_bytes(market_identity, what="market identity")
    made = Home.create(home, Config(market_url=market_url, market=identity))
    how: Opener = KeyFile(path=key_file or made.key_file.path)
    if passphrase:
        text = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
        how = Passphrase(text=text)
    keys = Keystore.create(home, how)
    show({"identity": keys.party.identity}, as_json=as_json)


def broker(
    home: HomeOption,
    key_file: KeyFileOption = None,
    heads: Annotated[
        Path | None,
        typer.Option(help="Where own log heads are kept: a place outside this home's backups."),
    ] = None,
    opens: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--open-incarnation",
            help="This home was restored or copied: close every generation before now, and go on.",
        ),
    ] = False,
) -> None:
    """Run the key broker: it decides who is given this party's shares. Ends on SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    opened, keys = open_home(home, key_file)
    log = ReleaseLog.open(opened.log_path, now=now_milliseconds())
    place = HeadPlace(heads or opened.folder / "heads")
    try:
        run(_serve(opened, keys, log, place, opens=opens))
    finally:
        log.close()


async def _serve(
    home: Home, keys: Keystore, log: ReleaseLog, place: HeadPlace, *, opens: bool
) -> None:
    async with market(home, keys) as api:
        if opens:
            own = keys.party.identity
            seen = [place.newest(own), place.ahead(own), await api.get_head(own)]
            number = open_incarnation(log, [head for head in seen if head], now_milliseconds())
            errors.print(f"incarnation {number} is open: every generation before it is closed")
        daemon = Broker(
            home=home,
            keys=keys,
            release_log=log,
            place=place,
            market=HttpMarket(api),
            clock=now_milliseconds,
        )
        if daemon.standing is Standing.BEHIND:
            errors.print("[bold red]this log is older than its own head: nothing is released[/]")
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            await daemon.serve()
        except asyncio.CancelledError:
            errors.print("broker: ended")


def account(home: HomeOption, key_file: KeyFileOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """Show this party's balances, in microcredits."""
    opened, keys = open_home(home, key_file)

    async def ask() -> None:
        async with market(opened, keys) as api:
            show(await api.get_account(), as_json=as_json)

    run(ask())


@lineage.command("list")
def list_lineages(
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List the lineages that this home holds keys of."""
    _, keys = open_home(home, key_file)
    show(keys.entries(), as_json=as_json)


@lineage.command("new-epoch")
def new_epoch(
    lineage_hex: Annotated[str, typer.Argument(metavar="LINEAGE")],
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Draw a lineage's next key: what is sealed from now on is under it. Older ones still open."""
    _, keys = open_home(home, key_file)
    entry = keys.new_epoch(hex_bytes(lineage_hex, what="lineage", length=33))
    show({"lineage": entry.lineage, "epoch": entry.epoch}, as_json=as_json)


@lineage.command("shred")
def shred_lineage(
    lineage_hex: Annotated[str, typer.Argument(metavar="LINEAGE")],
    home: HomeOption,
    yes: Annotated[
        bool, typer.Option("--destroy-its-artifacts", help="There is no way back but a backup.")
    ],
    key_file: KeyFileOption = None,
) -> None:
    """Destroy a lineage's keys: nothing sealed under it opens again, its neighbours do."""
    _, keys = open_home(home, key_file)
    if not yes:
        raise typer.BadParameter("say --destroy-its-artifacts")
    count = keys.shred_lineage(hex_bytes(lineage_hex, what="lineage", length=33))
    output.print(f"{count} keys destroyed")
