"""Certificate chains of GPUs in PEM, and everything that is asked of one."""

from __future__ import annotations

import datetime as dt

from tests.fuzz import material
from trust.errors import BlindhostError
from trust.messages import GpuEvidence
from trust.verifier.gpu_device import certified_fwid, model_of
from trust.verifier.x509_ec import chain_fault, parse_pem_chain, validity_fault

_NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def seeds() -> list[bytes]:
    made = []
    for evidence in material.gpus():
        try:
            made += [device.chain for device in GpuEvidence.parse(evidence).devices]
        except BlindhostError:
            continue
    return made


def one(data: bytes) -> None:
    try:
        chain = parse_pem_chain(data)
        validity_fault(chain, _NOW)
        if len(chain) >= 2:
            chain_fault(chain)
        for each in chain:
            model_of(each)
            certified_fwid(each)
    except BlindhostError:
        return
