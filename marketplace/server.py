"""The market's process: one socket, one meter, one sweep, until it is told to stop.

Plain http is for loopback alone. On any other address it refuses to listen without a certificate,
whose SHA-256 its parties pin: the name and the issuer of a certificate say nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import ipaddress
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from marketplace.api.app import build_app
from marketplace.home import Home, HomeError
from marketplace.meter_loop import MeterLoop
from marketplace.service import Clock, Market, MarketSettings
from marketplace.sweep import sweep_forever

SHUTDOWN_SECONDS: Final = 2.0  # for requests on their way; long polls are ended


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Listen:
    """Where to listen."""

    host: str
    """An address, or ``localhost``."""
    port: int
    """0: any free one."""
    certificate: Path | None
    """PEM of the certificate chain; None: plain http, on loopback alone."""
    private_key: Path | None

    @property
    def is_loopback(self) -> bool:
        """Whether nothing beyond this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name may mean anything

    def check(self) -> None:
        """Raises HomeError for an address that plain http may not be served on."""
        if (self.certificate is None) != (self.private_key is None):
            raise HomeError("a certificate and its private key come together")
        if self.certificate is None and not self.is_loopback:
            raise HomeError(f"{self.host} is not loopback: https is wanted, with a certificate")

    def tls(self) -> ssl.SSLContext | None:
        """TLS 1.3 with the certificate; None: plain http."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.certificate, self.private_key)
        return context

    def certificate_sha256(self) -> bytes | None:
        """What parties pin: SHA-256 of the first certificate's DER; None: plain http."""
        if self.certificate is None:
            return None
        pem = self.certificate.read_text()
        end = "-----END CERTIFICATE-----"
        der = ssl.PEM_cert_to_DER_cert(pem[: pem.index(end) + len(end)] + "\n")
        return hashlib.sha256(der).digest()


def open_market(home: Home, settings: MarketSettings, clock: Clock) -> Market:
    """A market over its home. Close it when done."""
    return Market(
        key=home.load_key(),
        store=home.open_store(),
        blobs=home.open_blobs(),
        settings=settings,
        meter_policy=home.load_policy,
        clock=clock,
    )


@contextlib.asynccontextmanager
async def serving(market: Market, home: Home, listen: Listen) -> AsyncIterator[str]:
    """Listen, meter and sweep inside the block; yields the URL. The endpoint file says so too."""
    listen.check()
    home.remove_endpoint()  # a market that was killed left it
    runner = web.AppRunner(
        build_app(market), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handle_signals=False
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, listen.host, listen.port, ssl_context=listen.tls())
        await site.start()
        url = _url(runner, listen)
        async with asyncio.TaskGroup() as tasks:
            own = [
                tasks.create_task(MeterLoop(market).run(), name="meter"),
                tasks.create_task(sweep_forever(market), name="sweep"),
            ]
            home.save_endpoint(
                url=url,
                identity=market.identity,
                certificate_sha256=listen.certificate_sha256(),
            )
            try:
                yield url
            finally:
                home.remove_endpoint()
                for task in own:
                    task.cancel()
    finally:
        await runner.cleanup()


async def serve(market: Market, home: Home, listen: Listen, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `say` tells the operator where, once it does."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    try:
        async with serving(market, home, listen) as url:
            say(f"listening on {url}")
            await stop.wait()
    finally:
        market.close()


def _url(runner: web.AppRunner, listen: Listen) -> str:
    host, port = runner.addresses[0][:2]
    scheme = "http" if listen.certificate is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
