"""`blindhost money`: balances, how long they last, the statement, receipts checked here."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final

import typer

from client.account import (
    CheckedReceipt,
    as_beancount,
    as_csv,
    burn,
    kind_in_words,
    lasts,
    receipts,
    statement,
    within,
)
from client.cli.job import JobArgument, log_memory
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
    run,
    say,
    show,
)
from client.home import Home
from client.keystore import Keystore
from client.search import format_number
from marketplace.wire import AccountRole, AccountView, Direction, OfferNumber, StatementLine

LINES_SHOWN: Final = 20

money = typer.Typer(no_args_is_help=True, cls=ByNameGroup)


@money.command("show")
def show_money(
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show balances, what burns now and how long it lasts, and the statement's newest lines."""
    opened, keys = open_home(home, key_file)
    account, burned, found = run(_books(opened, keys))
    left = lasts(account.available + account.held, burned)
    if as_json:
        value: dict[str, Any] = {
            "account": account,
            "burn_microcredits_per_hour": burned,
            "lasts_milliseconds": left,
            "lines": found[-LINES_SHOWN:],
        }
        show(value, as_json=True)
        return
    say(f"free {_credits(account.available)}, held {_credits(account.held)} credits")
    if account.pending or account.payable:
        say(f"earned: {_credits(account.pending)} pending, {_credits(account.payable)} payable")
    if left is None:
        say("idle: nothing burns")
    else:
        hours, rest = divmod(left // 60_000, 60)
        say(f"empty in {hours} h {rest} m at {_credits(burned)} credits an hour")
    rows = []
    for each in found[: -LINES_SHOWN - 1 : -1]:
        sign = "+" if each.direction is Direction.IN else "-"
        when = dt.datetime.fromtimestamp(each.at / 1000, dt.UTC).isoformat(timespec="seconds")
        rows.append(
            (
                when,
                kind_in_words(each.kind),
                sign + _credits(each.amount),
                _credits(each.balance),
                each.transfer,
            )
        )
    lines(("when", "what", "amount", "balance", "transfer"), rows)


async def _books(home: Home, keys: Keystore) -> tuple[AccountView, int, tuple[StatementLine, ...]]:
    async with market(home, keys) as api:
        account = await api.get_account()
        burned = burn(await api.get_jobs())
        return account, burned, tuple([each async for each in statement(api)])


@money.command("statement")
def write_statement(
    home: HomeOption,
    month: Annotated[
        str | None, typer.Option(help="As 2026-11, UTC; this month where absent.")
    ] = None,
    account: Annotated[
        AccountRole, typer.Option(help="Which of this party's accounts.")
    ] = AccountRole.BUYER,
    csv: Annotated[bool, typer.Option("--csv", help="Microcredits, RFC 4180.")] = False,  # noqa: FBT002
    beancount: Annotated[bool, typer.Option("--beancount", help="Plain-text books.")] = False,  # noqa: FBT002
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Write a month's lines to the standard output, each checked against the one before."""
    if csv + beancount + as_json != 1:
        raise typer.BadParameter("say one of --csv, --beancount and --json")
    now = dt.datetime.fromtimestamp(now_milliseconds() / 1000, dt.UTC)
    chosen = month or f"{now.year:04d}-{now.month:02d}"
    opened, keys = open_home(home, key_file)

    async def ask() -> tuple[StatementLine, ...]:
        async with market(opened, keys) as api:
            return tuple([each async for each in statement(api, account)])

    found = run(ask())
    if csv:
        typer.echo(as_csv(found, chosen), nl=False)
    elif beancount:
        typer.echo(as_beancount(found, chosen), nl=False)
    else:
        show(within(found, chosen), as_json=True)


@money.command("receipts")
def list_receipts(
    name: JobArgument,
    home: HomeOption,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List a job's settled receipts: each signature checked here, and where its money went."""
    opened, keys = open_home(home, key_file)
    job = hex_bytes(name, what="job")
    memory = log_memory(opened, keys)

    async def ask() -> list[CheckedReceipt]:
        async with market(opened, keys) as api:
            return [each async for each in receipts(api, memory, job)]

    found = run(ask())
    if as_json:
        show(found, as_json=True)
    else:
        rows = []
        for each in found:
            said = each.receipt
            what = (
                "unreadable" if said is None else f"{said.number} of generation {said.generation}"
            )
            legs = (each.host_amount, each.owner_amount, each.fee_amount)
            sums = " + ".join(map(_credits, legs))
            rows.append(
                (
                    what,
                    _credits(each.total),
                    f"host + owner + market {sums}",
                    each.state.value,
                    f"DOES NOT HOLD: {each.fault}" if each.fault else "holds here",
                )
            )
        lines(("receipt", "amount", "legs", "state", "signature"), rows)
    if any(each.fault for each in found):
        raise typer.Exit(2)


def _credits(microcredits: int) -> str:
    return format_number(OfferNumber.PRICE, microcredits)
