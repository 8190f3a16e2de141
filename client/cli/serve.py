"""`blindhost gateway` and `blindhost job stop`: a buyer's endpoint, and a served model's end."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import typer

from client.cli.job import ENDED, POLL_SECONDS, JobArgument
from client.cli.shared import (
    HomeOption,
    JsonOption,
    KeyFileOption,
    errors,
    hex_bytes,
    market,
    now_milliseconds,
    open_home,
    run,
    show,
)
from client.client_key import load_client_key
from client.closing import send_close
from client.files import HomeError, check_private, write_durably
from client.gateway import app as gateway_app
from client.gateway.config import GatewayConfig, load_config
from client.home import Home
from client.keystore import Keystore
from client.market_api import MarketAddress, MarketApi
from client.market_port import HttpMarket
from client.serve_books import Books
from client.serving import MarketServePort
from client.tuning import MarketTunePort
from client.tuning_store import TuningStore
from marketplace.wire import JobState, JobView
from trust.jobs import Close, JobKind, JobManifest
from trust.messages import SignedMessage, lease_address

PORT: Final = 8642
KEY_BYTES: Final = 32
KEY_FILE: Final = "gateway-key"
ENDPOINT_FILE: Final = "gateway-endpoint.json"
STOP_SECONDS: Final = 60  # a last receipt, and its settlement


def add_to(top: typer.Typer, job: typer.Typer) -> None:
    """Add the commands, at the top and under `job`."""
    top.command()(gateway)
    job.command("stop")(stop)


# --- the gateway ---------------------------------------------------------------------------------


def gateway(
    home: HomeOption,
    port: Annotated[int, typer.Option(help="On 127.0.0.1; 0: any free one.")] = PORT,
    config: Annotated[
        Path | None, typer.Option(help="JSON: which bases may be asked for and tuned by name.")
    ] = None,
    key_file: KeyFileOption = None,
) -> None:
    """Serve the OpenAI and Ray Jobs APIs on loopback, sealed from here on. Ends on SIGTERM.

    Clients send the bearer key that lies in the home's file `gateway-key`. Where the gateway
    listens stands in `gateway-endpoint.json` beside it, as long as it does.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    opened, keys = open_home(home, key_file)
    loaded = GatewayConfig(models={}) if config is None else load_config(config)
    store = TuningStore.open(opened.folder)  # locked: one gateway for each home
    try:
        run(_serve(opened, keys, loaded, store, port))
    finally:
        store.close()


async def _serve(
    home: Home, keys: Keystore, config: GatewayConfig, store: TuningStore, port: int
) -> None:
    endpoint = home.folder / ENDPOINT_FILE
    endpoint.unlink(missing_ok=True)  # a gateway that was killed left it
    key_path = home.folder / KEY_FILE

    def ready(url: str) -> None:
        value = {"url": url, "key_file": str(key_path)}
        write_durably(endpoint, json.dumps(value).encode())
        errors.print(f"gateway: {url}/v1, key in {key_path}", soft_wrap=True, highlight=False)

    task = asyncio.current_task()
    assert task is not None
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, task.cancel)
    try:
        async with _ports(home, keys, config, store) as (serve_port, tune_port):
            await gateway_app.serve(
                serve_port=serve_port,
                tune_port=tune_port,
                key=load_gateway_key(key_path),
                port=port,
                folder=home.folder / "gateway",
                on_ready=ready,
            )
    except asyncio.CancelledError:
        errors.print("gateway: ended")
    finally:
        endpoint.unlink(missing_ok=True)


@asynccontextmanager
async def _ports(
    home: Home, keys: Keystore, config: GatewayConfig, store: TuningStore
) -> AsyncIterator[tuple[MarketServePort, MarketTunePort]]:
    """Both ports over one market: in the buyer's name, and messages in the client key's."""
    address = MarketAddress(url=home.config.market_url, identity=home.config.market)
    client = load_client_key(home.folder, keys)
    connector = aiohttp.TCPConnector(limit=0)  # a long poll must not wait behind requests
    async with aiohttp.ClientSession(connector=connector) as session:
        buyer = MarketApi(session, address=address, key=keys.party, clock=now_milliseconds)
        mail = MarketApi(session, address=address, key=client, clock=now_milliseconds)
        tune_port = MarketTunePort(
            home=home, keys=keys, api=buyer, config=config, store=store, clock=now_milliseconds
        )
        async with MarketServePort(
            books=Books(home, keys),
            client=client,
            jobs=buyer,
            mail=HttpMarket(mail),
            clock=now_milliseconds,
            names={each.model: each.name for each in config.models.values()},
        ) as serve_port:
            yield serve_port, tune_port


def load_gateway_key(path: Path) -> str:
    """What this machine's clients show, drawn at the first call: ``bh-`` and 32 random bytes.

    Raises HomeError if others may read it, or if it is no such key.
    """
    if not path.exists():
        text = base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).rstrip(b"=")
        write_durably(path, b"bh-" + text)
    check_private(path)
    key = path.read_text("ascii").strip()
    if not key.startswith("bh-") or len(key) < KEY_BYTES:
        raise HomeError(f"{path.name}: no key of a gateway; remove it, and another is drawn")
    return key


# --- the end of a served model -------------------------------------------------------------------


def stop(
    name: JobArgument,
    home: HomeOption,
    timeout: Annotated[
        int, typer.Option(min=0, help="Seconds that a served model's enclave has to end.")
    ] = STOP_SECONDS,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Stop a job. A served model's enclave is asked to end its run; any other job is closed.

    An enclave that does not end in time is not waited for: the job is closed at the market.
    """
    opened, keys = open_home(home, key_file)
    show(run(_stop(opened, keys, hex_bytes(name, what="job"), timeout)), as_json=as_json)


async def _stop(home: Home, keys: Keystore, name: bytes, seconds: int) -> JobView:
    own = home.load(JobManifest, keys.party.identity).get(name)
    if own is None:
        raise HomeError(f"this home submitted no job {name.hex()[:16]}…")
    close = keys.party.sign(Close(job=name, at=now_milliseconds()))
    async with market(home, keys) as api:
        view = await api.get_job(name)
        if view.state in ENDED:
            errors.print(f"the job has ended: {view.state.value}")
            return view
        serves = own.document.kind is JobKind.SERVE
        if serves and view.state is JobState.RUNNING and view.leases:
            lease = view.leases[0].lease
            message = SignedMessage(signed=close.encode()).encode()
            await HttpMarket(api).post_message(lease_address(lease), message)
            errors.print(
                f"asked the enclave under {lease} to end; waiting up to {seconds} s for its last "
                "receipt and the market's word that it settled"
            )
            view = await _ended(api, name, seconds)
            if view.state in ENDED:
                return view
            errors.print(f"no end within {seconds} s: closing at the market, by the last receipt")
        await send_close(api, keys, close)
        return await api.get_job(name)


async def _ended(api: MarketApi, name: bytes, seconds: int) -> JobView:
    """The job, once it has ended or the time is up."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    view = await api.get_job(name)
    while view.state not in ENDED and loop.time() < until:
        await asyncio.sleep(POLL_SECONDS)
        view = await api.get_job(name)
    return view
