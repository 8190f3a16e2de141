"""Vendors' services on loopback, and a round against them with a clock of its own."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from provider_agent.endorsements.fetch import Fetcher, Waits, new_session
from provider_agent.endorsements.rounds import Round, fetch_round
from provider_agent.endorsements.services import Service, Services
from provider_agent.endorsements.store import Store
from provider_agent.endorsements.subjects import Wanted
from tests.provider_agent.endorsements import minted
from tests.provider_agent.endorsements.minted import NOW

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


def says(body: bytes | Callable[[], bytes], status: int = 200, **headers: str) -> Reply:
    async def reply(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(
            body=body if isinstance(body, bytes) else body(), status=status, headers=named
        )

    return reply


async def ocsp(request: web.Request) -> web.StreamResponse:
    assert request.content_type == "application/ocsp-request"
    return web.Response(body=minted.ocsp_answer(await request.read()))


def good() -> dict[str, Reply]:
    """What each path answers, of all vendors."""
    subject, amd, intel = minted.snp_subject(), minted.amd(), minted.intel()
    header = {
        "TCB_Info_Issuer_Chain": minted.as_header(intel["tdx-tcb-info-chain"]),
        "SGX_Enclave_Identity_Issuer_Chain": minted.as_header(intel["tdx-qe-identity-chain"]),
        "SGX_PCK_CRL_Issuer_Chain": minted.as_header(intel["tdx-pck-crl-chain"]),
    }
    return {
        f"/vcek/v1/Genoa/{subject.chip_id.hex()}": says(amd["vcek"]),
        "/vcek/v1/Genoa/cert_chain": says(minted.amd_chain()),
        "/vcek/v1/Genoa/crl": says(amd["crl"]),
        "/tdx/certification/v4/tcb": says(intel["tdx-tcb-info"], **header),
        "/tdx/certification/v4/qe/identity": says(intel["tdx-qe-identity"], **header),
        "/sgx/certification/v4/pckcrl": says(intel["tdx-pck-crl"], **header),
        "/sgx/certification/v4/rootcacrl": says(intel["tdx-root-crl"].hex().encode()),
        "/IntelSGXRootCA.der": says(intel["tdx-root-crl"]),
        f"/v1/rim/{minted.RIM_ID}": says(minted.rim_answer()),
        "/": ocsp,
    }


def everything() -> Wanted:
    return Wanted(snp=minted.snp_subject(), tdx=minted.tdx_subject(), gpu=minted.gpu_subject())


def snp_alone() -> Wanted:
    return Wanted(snp=minted.snp_subject())


CRL = "/vcek/v1/Genoa/crl"


@dataclass(kw_only=True)
class Rig:
    """Change `replies` and `now`; then `round`."""

    store: Store
    services: Services
    replies: dict[str, Reply] = field(default_factory=good)
    now: dt.datetime = NOW
    asked: list[str] = field(default_factory=list)
    """Path and query of each request."""
    slept: list[float] = field(default_factory=list)
    """Seconds that a fetcher waited, of its own clock."""
    request_seconds: float = 5.0
    elapsed: float = 0.0

    async def round(self, wanted: Wanted | None = None) -> Round:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            self.elapsed += seconds

        waits = Waits(
            monotonic=lambda: self.elapsed,
            sleep=sleep,
            now=lambda: self.now,
            request_seconds=self.request_seconds,
        )
        async with new_session() as session:
            fetcher = Fetcher(session, waits)
            wanted = everything() if wanted is None else wanted
            return await fetch_round(self.store, wanted, self.services, fetcher, self.now)

    def states(self, done: Round) -> dict[str, str]:
        return {each.name: each.state.value for each in done.objects}

    def problems(self, done: Round) -> dict[str, str]:
        return {each.name: each.problem for each in done.objects if each.problem}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        reply = self.replies.get(request.path)
        return web.Response(status=404) if reply is None else await reply(request)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Rig]:
    app = web.Application()
    rig: Rig | None = None

    async def answer(request: web.Request) -> web.StreamResponse:
        assert rig is not None
        return await rig.answer(request)

    app.router.add_route("*", "/{tail:.*}", answer)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    base = str(server.make_url("")).rstrip("/")
    services = Services()
    named: dict[str, Service] = {
        name: replace(getattr(services, name), base=base)
        for name in ("kds", "pcs", "root_list", "rim", "ocsp")
    }
    rig = Rig(store=Store(folder), services=replace(services, **named))
    try:
        yield rig
    finally:
        await server.close()


async def never(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def half(request: web.Request) -> web.StreamResponse:
    """Promises more than it sends, and hangs up."""
    response = web.StreamResponse(headers={"Content-Length": "5000"})
    await response.prepare(request)
    await response.write(b"\x30\x82" + bytes(500))
    assert request.transport is not None
    request.transport.close()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(bytes(1 << 16))
    except (ConnectionError, asyncio.CancelledError):
        return response
