"""What every command needs: the home, the market, the clock, and a way to print."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import enum
import json
import os
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import aiohttp
import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from typer.core import TyperGroup

from client.home import Home
from client.keystore import KeyFile, Keystore, Opener, Passphrase
from client.market_api import MarketAddress, MarketApi
from client.sealed import Step
from client.text import TEXT_CHARACTERS_MAX, clean
from trust.encoding import parse_hex
from trust.errors import EncodingError

T = TypeVar("T")

HomeOption = Annotated[Path, typer.Option("--home", help="This party's folder, 0700.")]
KeyFileOption = Annotated[
    Path | None,
    typer.Option("--key-file", help="Opens the keystore; by default the home's own key file."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON value on the last line.")]
PASSPHRASE_VARIABLE: Final = "BLINDHOST_PASSPHRASE"  # noqa: S105 - a variable's name
VALUE_CHARACTERS_MAX: Final = 1 << 16  # of one field that a person asked to see

output = Console()
errors = Console(stderr=True)


def now_milliseconds() -> int:
    """The wall clock: read here, and a parameter everywhere below."""
    return time.time_ns() // 1_000_000


def local_time(at: int) -> str:
    """A moment (Unix milliseconds) as this machine's clock shows it, with its offset."""
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).astimezone().isoformat(timespec="seconds")


def hex_bytes(text: str, *, what: str, length: int = 32) -> bytes:
    """Parse an identity, digest or lineage of the command line."""
    value = parse_hex(text)
    if len(value) != length:
        raise EncodingError(f"{what}: {len(value)} bytes, wanted {length}")
    return value


def opener(home: Home, key_file: Path | None) -> Opener:
    """How the keystore opens: a key file, or a passphrase from a person or the environment."""
    if key_file is not None:
        return KeyFile(path=key_file)
    if home.key_file.path.exists():
        return home.key_file
    text = os.environ.get(PASSPHRASE_VARIABLE)  # noqa: TID251 - an entry point
    return Passphrase(text=text or typer.prompt("Passphrase", hide_input=True, err=True))


def open_home(folder: Path, key_file: Path | None) -> tuple[Home, Keystore]:
    """Open a home and its keystore."""
    home = Home.open(folder)
    return home, home.keystore(opener(home, key_file))


@contextlib.asynccontextmanager
async def market(home: Home, keys: Keystore) -> AsyncIterator[MarketApi]:
    """The market of this home, asked in this party's name."""
    address = MarketAddress(url=home.config.market_url, identity=home.config.market)
    async with aiohttp.ClientSession() as session:
        yield MarketApi(session, address=address, key=keys.party, clock=now_milliseconds)


def run(step: Coroutine[Any, Any, T]) -> T:
    """Run to the end."""
    return asyncio.run(step)


def show(value: object, *, as_json: bool) -> None:
    """Print a value for programs, or its fields for people."""
    plain = plain_value(value)
    if as_json:
        typer.echo(json.dumps(plain, sort_keys=True))
        return
    if not isinstance(plain, dict):
        output.print(plain)
        return
    for name, each in plain.items():
        shown = json.dumps(each, sort_keys=True) if isinstance(each, list | dict) else each
        output.print(f"[dim]{name}[/]", end="  ")
        text = clean(str(shown), limit=VALUE_CHARACTERS_MAX)
        output.print(text, markup=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line for people: no markup, and nothing that acts on a terminal."""
    shown = clean(text, limit=TEXT_CHARACTERS_MAX)
    output.print(shown, markup=False, highlight=False, soft_wrap=True)


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns, a row a line, without boxes: for pipes and screen readers too."""
    table = [[clean(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for row in table:
        say("  ".join(set_cell_size(*each) for each in zip(row, widths, strict=True)).rstrip())


def plain_value(value: object) -> Any:
    """A value as JSON has it: bytes as hex, enums as their words, dataclasses as objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return plain_value(named)
    match value:
        case bytes():
            return value.hex()
        case enum.Enum():
            return value.value
        case dict():
            return {str(key): plain_value(each) for key, each in value.items()}
        case tuple() | list():
            return [plain_value(each) for each in value]
        case _:
            return value


@contextlib.contextmanager
def progress(what: str) -> Iterator[Step]:
    """A bar on the error stream while something long goes on; silent where nobody looks."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def step(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield step


class ByNameGroup(TyperGroup):
    """A group whose first command is meant where none is named: ``trust ID`` is ``trust show ID``.

    An option in front of it is that command's too.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the first command's name where no command's stands."""
        named = args and (args[0] in self.commands or args[0] in {"--help", "-h"})
        if not named and args:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)
