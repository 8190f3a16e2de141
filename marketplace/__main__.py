"""The operator's command, ``blindhost-market``: serve, credit, books, policy.

`credit` moves money in while the market may be running: the database takes one writer at a time,
and the transfer's id makes a repetition harmless. The wall clock is read here and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from marketplace.home import Home
from marketplace.ids import IdKind, make_id
from marketplace.ledger import LedgerResult, TopUp, audit, balance, top_up, trial_balance
from marketplace.models import AccountRole
from marketplace.server import Listen, open_market
from marketplace.server import serve as serve_market
from marketplace.service import MarketSettings
from trust.encoding import parse_hex
from trust.errors import BlindhostError, EncodingError
from trust.verifier.policy import AppraisalPolicy, simulated_policy_of
from trust.verifier.roots import parse_simulated_root

FEE_PPM: Final = 30_000  # 3 %
PROVIDER: Final = "operator"  # whoever took the outside money; here, nobody did

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
policy_app = typer.Typer(no_args_is_help=True, help="The appraisal policy of purpose *meter*.")
app.add_typer(policy_app, name="policy")

HomeOption = Annotated[Path, typer.Option("--home", help="The market's folder (mode 0700).")]


def wall_clock() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def _say(text: str) -> None:
    typer.echo(text)
    sys.stdout.flush()  # whoever reads a pipe waits for this line


@app.command()
def serve(
    home: HomeOption,
    port: Annotated[int, typer.Option(help="0: any free port.")] = 0,
    host: Annotated[str, typer.Option(help="Beyond loopback, a certificate is wanted.")] = (
        "127.0.0.1"
    ),
    certificate: Annotated[Path | None, typer.Option(help="PEM, for https.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="PEM, for https.")] = None,
    fee_ppm: Annotated[int, typer.Option(min=0, max=1_000_000)] = FEE_PPM,
) -> None:
    """Run the market until it is told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    listen = Listen(host=host, port=port, certificate=certificate, private_key=private_key)
    listen.check()
    folder = Home(home)
    market = open_market(folder, MarketSettings(fee_ppm=fee_ppm), wall_clock)
    typer.echo(f"market {market.identity.hex()}")
    asyncio.run(serve_market(market, folder, listen, _say))


@app.command()
def credit(
    home: HomeOption,
    identity: Annotated[str, typer.Option(help="The buyer's identity, hex.")],
    microcredits: Annotated[int, typer.Option(min=1)],
    transfer: Annotated[
        str, typer.Option("--id", help="xfer_…, to repeat a credit safely; else a new one.")
    ] = "",
) -> None:
    """Top up a buyer's account from outside."""
    buyer = parse_hex(identity)
    if len(buyer) != 32:
        raise EncodingError(f"an identity has 32 bytes, this one {len(buyer)}")
    now = wall_clock()
    name = transfer or make_id(IdKind.TRANSFER, now=now, random=secrets.token_bytes(10))
    store = Home(home).open_store()
    try:
        with store.transaction() as session:
            command = TopUp(id=name, buyer=buyer, amount=microcredits, provider=PROVIDER)
            result = top_up(session, command, now)
            left = balance(session, AccountRole.BUYER, buyer)
    finally:
        store.close()
    if result not in {LedgerResult.CREATED, LedgerResult.EXISTS}:
        raise EncodingError(f"{name}: {result.value}")
    typer.echo(f"{name} {result.value}: available {left} microcredits")


@app.command()
def books(
    home: HomeOption,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print the trial balance and the audit; the status is 1 if anything does not hold."""
    store = Home(home).open_store()
    try:
        with store.reading() as session:
            lines, findings = trial_balance(session), audit(session)
    finally:
        store.close()
    total = sum(line.balance for line in lines)
    is_balanced = total == 0 and not findings
    if as_json:
        value = {
            "balanced": is_balanced,
            "accounts": [
                {"account": line.account, "role": line.role, "balance": line.balance}
                for line in lines
            ],
            "findings": [str(finding) for finding in findings],
        }
        typer.echo(json.dumps(value))
    else:
        for line in lines:
            typer.echo(f"{line.balance:>20,}  {line.account}")
        typer.echo(f"{total:>20,}  sum")
        for finding in findings:
            typer.echo(f"does not hold: {finding}")
        typer.echo("the books balance" if is_balanced else "THE BOOKS DO NOT BALANCE")
    if not is_balanced:
        raise typer.Exit(1)


@policy_app.command("show")
def policy_show(home: HomeOption) -> None:
    """Print the policy that is in force, as JSON, and its digest."""
    policy = Home(home).load_policy()
    if policy is None:
        typer.echo("no policy is named: nothing is metered")
        raise typer.Exit(1)
    typer.echo(json.dumps(policy.to_json(), indent=2))
    typer.echo(f"digest {policy.digest.hex()}")


@policy_app.command("set")
def policy_set(home: HomeOption, file: Annotated[Path, typer.Argument()]) -> None:
    """Name the policy in FILE, an encoded document, in place of the one before."""
    policy = AppraisalPolicy.parse(file.read_bytes())
    Home(home).save_policy(policy)
    typer.echo(f"digest {policy.digest.hex()}")


@policy_app.command("accept-simulated-roots")
def policy_accept_simulated_roots(
    home: HomeOption,
    root: Annotated[list[str], typer.Option(help="A simulated root, [ANCHOR=]FINGERPRINT.")],
    measurement: Annotated[list[str], typer.Option(help="Of a runtime image, hex.")],
) -> None:
    """Meter simulated chips under these roots: what they say proves nothing about hardware."""
    roots = [parse_simulated_root(each) for each in root]
    policy = simulated_policy_of(roots, [parse_hex(each) for each in measurement])
    Home(home).save_policy(policy)
    typer.echo(f"digest {policy.digest.hex()}")


def main() -> None:
    """Run the command; an error of ours ends it with its text and status 1."""
    try:
        app()
    except BlindhostError as error:
        typer.echo(f"blindhost-market: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
