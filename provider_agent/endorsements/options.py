"""What the command line says of services and hardware, for every command that fetches."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Final

from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.services import Service, Services
from provider_agent.endorsements.subjects import (
    QUOTE_BYTES_MAX,
    GpuSubject,
    SnpSubject,
    TdxSubject,
    Wanted,
    snp_subject,
    tdx_subject,
)
from trust.encoding import parse_hex
from trust.errors import EncodingError
from trust.evidence.claims import Product

FOLDER: Final = Path("/var/lib/blindhost/endorsements")
_SERVICES: Final = ("kds", "pcs", "root_list", "rim", "ocsp")


def add_services(parser: argparse.ArgumentParser) -> None:
    """The options that name services."""
    group = parser.add_argument_group("services", "the vendors' own, but where one is named here")
    for name in _SERVICES:
        flag = name.replace("_", "-")
        group.add_argument(f"--{flag}-url", metavar="URL", help="https, or http to loopback")
    group.add_argument("--pccs-url", metavar="URL", help="a cache of Intel's, in place of its PCS")
    group.add_argument("--pccs-certificate", help="SHA-256 of the cache's certificate, hex")


def services_of(options: argparse.Namespace) -> Services:
    """The services that the options name. Raises EndorsementError."""
    services = Services()
    changes: dict[str, Service] = {}
    for name in _SERVICES:
        url = getattr(options, f"{name}_url")
        if url is not None:
            changes[name] = dataclasses.replace(getattr(services, name), base=url.rstrip("/"))
    services = dataclasses.replace(services, **changes)  # type: ignore[arg-type]
    if options.pccs_url is None:
        return services
    pin = options.pccs_certificate
    return services.with_pccs(options.pccs_url.rstrip("/"), None if pin is None else _hex(pin))


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """The options that say of what hardware endorsements are wanted."""
    group = parser.add_argument_group(
        "hardware", "said once, and kept; what is left out stays as it was"
    )
    group.add_argument("--snp-report", type=Path, metavar="FILE", help="a report of the chip's")
    group.add_argument("--snp-product", choices=[each.value for each in Product])
    group.add_argument("--snp-chip-id", metavar="HEX", help="as snphost show identifier says it")
    group.add_argument("--snp-tcb", metavar="HEX", help="the reported TCB, 8 bytes")
    group.add_argument("--tdx-quote", type=Path, metavar="FILE", help="a quote of the platform's")
    group.add_argument("--tdx-fmspc", metavar="HEX")
    group.add_argument("--tdx-authority", choices=["platform", "processor"], default="platform")
    group.add_argument("--gpu-rim", action="append", default=[], metavar="ID", help="repeat it")
    group.add_argument(
        "--gpu-chain", action="append", default=[], type=Path, metavar="FILE", help="PEM; repeat it"
    )


def wanted_of(options: argparse.Namespace, before: Wanted) -> Wanted:
    """What is wanted now. Raises EndorsementError, or OSError where a file can't be read."""
    snp, tdx, gpu = before.snp, before.tdx, before.gpu
    product = None if options.snp_product is None else Product(options.snp_product)
    if options.snp_report is not None:
        snp = snp_subject(_read(options.snp_report), product)
    elif options.snp_chip_id is not None:
        if product is None or options.snp_tcb is None:
            raise EndorsementError("bad-subject", "--snp-product and --snp-tcb are wanted too")
        chip_id = _hex(options.snp_chip_id)
        if product is Product.TURIN and len(chip_id) == 8:
            chip_id = chip_id.ljust(64, b"\0")  # as AMD's report writes it
        snp = SnpSubject(product=product, chip_id=chip_id, tcb=_hex(options.snp_tcb))
    if options.tdx_quote is not None:
        tdx = tdx_subject(_read(options.tdx_quote))
    elif options.tdx_fmspc is not None:
        tdx = TdxSubject(fmspc=_hex(options.tdx_fmspc), authority=options.tdx_authority)
    if options.gpu_rim or options.gpu_chain:
        known = gpu or GpuSubject(rims=(), chains=())
        gpu = GpuSubject(
            rims=tuple(options.gpu_rim) or known.rims,
            chains=tuple(_read(each) for each in options.gpu_chain) or known.chains,
        )
    return Wanted(snp=snp, tdx=tdx, gpu=gpu)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4 * QUOTE_BYTES_MAX)


def _hex(text: str) -> bytes:
    try:
        return parse_hex(text.lower())
    except EncodingError as error:
        raise EndorsementError("bad-subject", f"{text[:24]!r}: {error}") from error
