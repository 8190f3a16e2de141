"""What ``blindhost-agent serve`` is told of real machines, and what it works with then.

Without ``--launcher`` there is none of this: the host serves a simulated chip.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Final

from provider_agent.chip_wire import ChipView
from provider_agent.machines.client import Certificates, MachineLauncher, MachineShape
from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.spec import BDF_EXPRESSION, Platform
from provider_agent.refusals import Enrolment
from trust.encoding import DIGEST_BYTES, parse_hex
from trust.errors import BlindhostError, EncodingError
from trust.messages import Endorsement
from trust.verifier.endorsements import parse_snp_endorsements

ENDORSEMENTS: Final = Path("/var/lib/blindhost/endorsements")
SNP_ENDORSEMENTS: Final = ("vcek", "ask", "ark", "crl")
ENDORSEMENT_BYTES_MAX: Final = 1 << 18


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
        default=ENDORSEMENTS,
        help="folder with the vendor's certificates of this chip",
    )
    group.add_argument("--machine-gpu", action="append", default=[], help="PCI address; repeat it")


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
        """Nothing: the keeper has ended the leases, and each with it its machine."""


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


def read_certificates(options: argparse.Namespace) -> Certificates:
    """The vendor's certificates of this host's chip, as DER files of a folder.

    They are carried, and not believed here: a verifier leads the chain. An emulated machine has
    none. Raises MachineRefusedError where one is missing, or is no certificate.
    """
    if options.machine_platform is None:
        raise MachineRefusedError("no-machine", "--launcher wants --machine-platform")
    platform = Platform(options.machine_platform)
    if not platform.confidential:
        return Certificates(root=bytes(DIGEST_BYTES), endorsements=())
    if platform is not Platform.SNP:
        text = f"certificates of {platform.value} can't be carried yet"
        raise MachineRefusedError("no-endorsements", text)
    folder: Path = options.machine_endorsements / "snp"
    content = []
    for kind in SNP_ENDORSEMENTS:
        try:
            with (folder / kind).open("rb") as file:
                content.append((kind, file.read(ENDORSEMENT_BYTES_MAX)))
        except OSError as error:
            raise MachineRefusedError("no-endorsements", f"{kind}: {error.strerror}") from error
    try:
        root = parse_snp_endorsements(content).root.fingerprint
    except BlindhostError as error:
        raise MachineRefusedError("no-endorsements", str(error)) from error
    found = tuple(Endorsement(kind=kind, content=each) for kind, each in content)
    return Certificates(root=root, endorsements=found)


def enrolment_of(platform: Platform) -> Enrolment:
    """What a host of this platform is enrolled as: an emulated machine is no real one."""
    return Enrolment.REAL if platform.confidential else Enrolment.SIMULATED
