"""What ``blindhost-agent serve`` is told of real machines, and what it works with then.

Without ``--launcher`` there is none of this: the host serves a simulated chip.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from provider_agent.chip_wire import ChipView
from provider_agent.endorsements import shapes
from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.options import FOLDER, add_services, services_of
from provider_agent.endorsements.refresh import refresh
from provider_agent.endorsements.rounds import carried
from provider_agent.endorsements.store import Store
from provider_agent.machines.client import Certificates, MachineLauncher, MachineShape
from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.spec import BDF_EXPRESSION, Platform
from provider_agent.refusals import Enrolment
from trust.encoding import DIGEST_BYTES, digest, parse_hex
from trust.errors import BlindhostError, EncodingError
from trust.messages import Endorsement

FETCH_SECONDS: Final = 3600.0
_FOLDERS: Final = {Platform.SNP: shapes.SNP, Platform.TDX: shapes.TDX}

_log = logging.getLogger("blindhost.agent")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to ``serve``."""
    group = parser.add_argument_group("real machines", "instead of a simulated chip")
    group.add_argument("--launcher", type=Path, help="socket of the launcher's service")
    group.add_argument("--machine-platform", choices=[each.value for each in Platform])
    group.add_argument("--machine-image", help="digest of the image, hex")
    group.add_argument("--machine-vcpus", type=int, default=1)
    group.add_argument(
        "--machine-endorsements",
        type=Path,
        default=FOLDER,
        help="folder of `blindhost-agent endorsements`",
    )
    group.add_argument("--machine-gpu", action="append", default=[], help="PCI address; repeat it")
    add_services(parser)


class FoundLauncher:
    """The launcher's service, where `launcher.Chip` stands for a chip's process.

    It is systemd's to start. It is never ended by an agent: machines outlive both.
    """

    def __init__(self, launcher: MachineLauncher) -> None:
        self._launcher = launcher

    async def find_or_start(self) -> ChipView:
        """The host's view; asking it starts the service. Raises LaunchError."""
        return await self._launcher.status()

    async def stop(self) -> None:
        """Nothing: machines run on, and the next agent adopts them."""


def machine_launcher(
    options: argparse.Namespace, *, memory_mib: int, certificates: Certificates
) -> MachineLauncher | None:
    """The launcher that the options name; None: a simulated chip. Raises MachineRefusedError."""
    if options.launcher is None:
        return None
    if options.machine_platform is None or options.machine_image is None:
        raise MachineRefusedError("no-machine", "--launcher wants --machine-platform and -image")
    try:
        image = parse_hex(options.machine_image)
    except EncodingError as error:
        raise MachineRefusedError("no-machine", f"--machine-image: {error}") from error
    if len(image) != DIGEST_BYTES:
        raise MachineRefusedError("no-machine", f"--machine-image: {len(image)} bytes; wanted 32")
    for address in options.machine_gpu:
        if not re.fullmatch(BDF_EXPRESSION, address):
            raise MachineRefusedError("no-machine", f"--machine-gpu: {address[:20]!r}")
    shape = MachineShape(
        platform=Platform(options.machine_platform),
        image=image,
        memory_mib=memory_mib,
        vcpus=options.machine_vcpus,
        gpus=tuple(options.machine_gpu),
    )
    return MachineLauncher(shape, certificates=certificates, path=options.launcher)


def read_certificates(options: argparse.Namespace, now: dt.datetime) -> Certificates:
    """What the vendors certify of this host, as `endorsements` keeps it: of the CPU, and of GPUs.

    It is carried, and not believed here: a verifier leads the chains. An emulated machine has
    none. Raises MachineRefusedError where something is missing, or has run out.
    """
    if options.machine_platform is None:
        raise MachineRefusedError("no-machine", "--launcher wants --machine-platform")
    platform = Platform(options.machine_platform)
    if not platform.confidential:
        return Certificates(root=bytes(DIGEST_BYTES), endorsements=())
    platforms = [_FOLDERS[platform], *([shapes.GPU] if options.machine_gpu else [])]
    try:
        found = carried(Store(options.machine_endorsements), platforms, now)
    except EndorsementError as error:
        raise MachineRefusedError("no-endorsements", error.text) from error
    return Certificates(root=_root_of(found), endorsements=found)


def _root_of(endorsements: Sequence[Endorsement]) -> bytes:
    """Fingerprint of the certificate that the host says is the CPU vendor's root, 32 bytes."""
    content = {each.kind: each.content for each in endorsements}
    if "ark" in content:
        return digest(content["ark"])
    root = shapes.pem_chain(content["tdx-pck-crl-chain"])[-1]
    return digest(root.public_bytes(Encoding.DER))


async def first_certificates(
    options: argparse.Namespace, clock: Callable[[], dt.datetime]
) -> Certificates:
    """What is here; and only if it won't do, what can be fetched now: a start waits for nobody.

    Raises MachineRefusedError.
    """
    try:
        return read_certificates(options, clock())
    except MachineRefusedError as error:
        if error.code != "no-endorsements":
            raise
    await fetch_certificates(options, clock)
    return read_certificates(options, clock())


async def keep_certificates(
    options: argparse.Namespace, launcher: MachineLauncher, clock: Callable[[], dt.datetime]
) -> None:
    """Fetch what is due, once an hour, and let the launcher's next leases carry it. Never ends.

    What can't be fetched is logged, and what was carried before is carried on: whether it has run
    out is for a verifier's clock, and not for this one.
    """
    while True:
        await fetch_certificates(options, clock)
        try:
            launcher.carry(read_certificates(options, clock()))
        except MachineRefusedError as error:
            _log.warning("endorsements reason=%s", error)
        await asyncio.sleep(FETCH_SECONDS)


async def fetch_certificates(options: argparse.Namespace, clock: Callable[[], dt.datetime]) -> None:
    """One round of fetching, where `endorsements fetch` was told once what is wanted."""
    store = Store(options.machine_endorsements)
    try:
        wanted = store.wanted()
        if wanted is not None:
            await refresh(store, wanted, services_of(options), clock)
    except (BlindhostError, OSError) as error:
        _log.warning("endorsements reason=%s", error)


def enrolment_of(platform: Platform) -> Enrolment:
    """What a host of this platform is enrolled as: an emulated machine is no real one."""
    return Enrolment.REAL if platform.confidential else Enrolment.SIMULATED
