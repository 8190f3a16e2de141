"""A rebuilder's side: build an image from its source, compare, and sign only what came out equal.

- Every measurement that a release names is measured here, or nothing is signed. What this machine
  has no tool or no files for is *not rebuilt*, and that is a refusal.
- SEV-SNP launch measurements are computed by `sev-snp-measure`, a program of its own, from the
  firmware, kernel and initial file system; TDX registers by a tool of the rebuilder's choice.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from client.files import HomeError
from client.home import Home
from client.keystore import Keystore
from trust.encoding import digest, parse_hex
from trust.errors import RefusedError
from trust.identity import Signed
from trust.image import MEASUREMENT_BYTES
from trust.image_release import ImageRelease
from trust.verifier.tdx_policy import TdxImage

MEASURE_COMMAND: Final = "sev-snp-measure"
MEASURE_SECONDS_MAX: Final = 120
SHAPES_MAX: Final = 512


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rebuilt:
    """What came out of a build."""

    image: bytes
    """SHA-256 of the image's manifest; see `image_digest`."""
    snp: frozenset[bytes] = frozenset()
    tdx: frozenset[TdxImage] = frozenset()
    simulated: frozenset[bytes] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SnpBuild:
    """Files that an SEV-SNP guest is launched from, and the shapes that it is launched in."""

    firmware: Path
    kernel: Path
    initrd: Path
    command_line: str
    shapes: tuple[tuple[int, str], ...]
    """vCPUs, and QEMU's name of the processor model."""


def image_digest(manifest: bytes | None, simulated: bytes | None) -> bytes:
    """What names an image: SHA-256 of its manifest, or, without one, of its simulated measurement.

    Raises HomeError without either.
    """
    named = manifest if manifest is not None else simulated
    if named is None:
        raise HomeError("an image is named by its manifest or by its simulated measurement")
    return digest(named)


def measure_snp(build: SnpBuild, command: str = MEASURE_COMMAND) -> frozenset[bytes]:
    """Launch measurements of these files, one for each shape: 48 bytes each.

    Raises RefusedError (``not-rebuilt``) if the program is missing or fails.
    """
    if not 0 < len(build.shapes) <= SHAPES_MAX:
        raise HomeError(f"{len(build.shapes)} shapes, wanted 1 to {SHAPES_MAX}")
    return frozenset(_measure(build, vcpus, model, command) for vcpus, model in build.shapes)


def _measure(build: SnpBuild, vcpus: int, model: str, command: str) -> bytes:
    files = (build.firmware, build.kernel, build.initrd)
    if missing := [each.name for each in files if not each.is_file()]:
        raise RefusedError("not-rebuilt", f"SEV-SNP: {missing[0]} is not here")
    arguments = [
        command,
        *("--mode", "snp", "--output-format", "hex"),
        *("--vcpus", str(vcpus), "--vcpu-type", model),
        *("--ovmf", str(build.firmware), "--kernel", str(build.kernel)),
        *("--initrd", str(build.initrd), "--append", build.command_line),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - the caller's own program, and no shell
            arguments, capture_output=True, text=True, check=False, timeout=MEASURE_SECONDS_MAX
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise RefusedError("not-rebuilt", f"SEV-SNP: {command}: {type(error).__name__}") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RefusedError("not-rebuilt", f"SEV-SNP: {command} failed, and says {said[:200]}")
    measured = parse_hex(done.stdout.strip())
    if len(measured) != MEASUREMENT_BYTES:
        raise RefusedError(
            "not-rebuilt", f"SEV-SNP: {len(measured)} bytes measured, wanted {MEASUREMENT_BYTES}"
        )
    return measured


def sign_rebuilt(
    home: Home, keys: Keystore, release: ImageRelease, rebuilt: Rebuilt
) -> Signed[ImageRelease]:
    """Sign a release as one of its rebuilders.

    (1) The market rebuilds nothing that counts. (2) Every platform that the release names was
    rebuilt. (3) What came out is what the release says, no more and no less. (4) So is its digest.

    Raises RefusedError.
    """
    if keys.party.identity == home.config.market:  # (1)
        raise RefusedError("rebuild-market", "the market's signature counts for nothing")
    values = release.values
    for name, wanted, found in (
        ("SEV-SNP", frozenset(values.snp), rebuilt.snp),
        ("TDX", frozenset(values.tdx), rebuilt.tdx),
        ("simulated", frozenset(values.simulated), rebuilt.simulated),
    ):
        if wanted and not found:  # (2)
            raise RefusedError("not-rebuilt", f"{name}: nothing was measured here")
        if wanted != found:  # (3)
            raise RefusedError("rebuilt-otherwise", _difference(name, wanted, found))
    if rebuilt.image != release.image:  # (4)
        raise RefusedError(
            "rebuilt-otherwise", f"image {rebuilt.image.hex()}, released as {release.image.hex()}"
        )
    return keys.party.sign(release)


def _difference(name: str, wanted: frozenset[object], found: frozenset[object]) -> str:
    here, there = len(found - wanted), len(wanted - found)
    shown = _shown([*(found - wanted), *(wanted - found)])
    return f"{name}: {here} measured here alone, {there} in the release alone, e.g. {shown}"


def _shown(values: Sequence[object]) -> str:
    first = values[0]
    return first.hex() if isinstance(first, bytes) else str(first)
