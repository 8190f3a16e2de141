"""The buyer's last word on a job, told to whom it concerns."""

from __future__ import annotations

from client.keystore import Keystore
from client.market_api import MarketApi
from client.market_port import HttpMarket
from trust.artifacts import Manifest
from trust.identity import Signed, verify_signed
from trust.jobs import Close
from trust.messages import SignedMessage


async def send_close(api: MarketApi, keys: Keystore, signed: Signed[Close]) -> None:
    """Close a job at its custodians and at the market."""
    port = HttpMarket(api)
    documents = await port.job_documents(signed.document.job)
    manifests = [verify_signed(Manifest, each, signer=None) for each in documents.manifests]
    told = {e.identity for m in manifests for e in m.document.core.custodians}
    message = SignedMessage(signed=signed.encode()).encode()
    for custodian in sorted(told | {keys.party.identity}):
        await port.post_message(custodian, message)
    await port.post_close(signed)
