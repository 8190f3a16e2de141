"""The images that this host may launch: named by digest, and verified before every launch.

Rules:
- An image is a folder ``IMAGES/<digest in hex>`` with `MANIFEST_FILE` and the files that it names.
  Its name is the manifest's digest, and the host's configuration lists the names that may run.
- Everything is read and digested again at each launch: a bad disk, or a hand in the folder, is a
  refusal and not a guest that fails to be believed an hour later.
- Nobody but root and this process may be able to write what QEMU is about to open by name.
- A shape (vCPUs and processor model) that the manifest gives no measurement for is refused: no
  relying party could believe it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final

from provider_agent.machines.errors import MachineRefusedError
from provider_agent.machines.spec import Platform
from trust.encoding import Count, Digest, Document, Name, Size
from trust.encoding import Struct as _Struct
from trust.errors import EncodingError
from trust.image import MEASUREMENT_BYTES

MANIFEST_FILE: Final = "manifest"
KERNEL_FILE: Final = "kernel"
INITRD_FILE: Final = "initrd"
FIRMWARE_FILE: Final = "firmware"
ROOT_FILE: Final = "root"
MANIFEST_BYTES_MAX: Final = 1 << 18
SHAPES_MAX: Final = 512  # 255 vCPU counts for two processor models
READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredShape(_Struct):
    """What a launch of this shape measures as, by whoever published the image."""

    vcpus: Count
    cpu_model: Name
    measurement: Annotated[bytes, Size(least=MEASUREMENT_BYTES, most=MEASUREMENT_BYTES)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageManifest(Document):
    """An image: its files by digest, its command line, and what it measures as."""

    LABEL: ClassVar[str] = "machine-image"

    platform: Platform
    kernel: Digest
    initrd: Digest
    firmware: Digest | None
    root: Digest | None
    command_line: Annotated[str, Size(least=1, most=2047)]
    shapes: Annotated[tuple[MeasuredShape, ...], Size(least=1, most=SHAPES_MAX)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image whose every file was just read and is what its name says."""

    digest: bytes
    manifest: ImageManifest
    folder: Path

    @property
    def kernel(self) -> Path:
        """Path of the kernel."""
        return self.folder / KERNEL_FILE

    @property
    def initrd(self) -> Path:
        """Path of the initial file system."""
        return self.folder / INITRD_FILE

    @property
    def firmware(self) -> Path | None:
        """Path of the firmware; None: QEMU's own."""
        return self.folder / FIRMWARE_FILE if self.manifest.firmware is not None else None

    @property
    def root(self) -> Path | None:
        """Path of the root disk; None: there is none."""
        return self.folder / ROOT_FILE if self.manifest.root is not None else None

    def shape(self, vcpus: int) -> MeasuredShape:
        """The measured shape with so many vCPUs. Raises MachineRefusedError."""
        for shape in self.manifest.shapes:
            if shape.vcpus == vcpus:
                return shape
        known = sorted({shape.vcpus for shape in self.manifest.shapes})
        raise MachineRefusedError(
            "unmeasured-shape", f"{vcpus} vCPUs; this image was measured for {known[:16]}"
        )


class ImageStore:
    """The images in one folder, of which `allowed` may run."""

    def __init__(self, folder: Path, *, platform: Platform, allowed: frozenset[bytes]) -> None:
        self._folder, self._platform, self._allowed = folder, platform, allowed

    def open(self, name: bytes) -> Image:
        """Verify an image whole; it blocks while it reads. Raises MachineRefusedError.

        (1) The host's configuration names it. (2) Nobody else can write its files. (3) The manifest
        is the one so named, for this platform. (4) Each file has the digest that it states.
        """
        if name not in self._allowed:  # (1)
            raise MachineRefusedError("unknown-image", f"{name.hex()} may not run here")
        folder = self._folder / name.hex()
        try:
            _check_owner(folder)  # (2)
            manifest = _manifest(folder)
            if manifest.digest != name:  # (3)
                found = manifest.digest.hex()
                raise MachineRefusedError("wrong-image", f"the manifest is that of {found}")
            if manifest.platform is not self._platform:
                text = f"made for {manifest.platform}; this host is {self._platform}"
                raise MachineRefusedError("wrong-image", text)
            for file, wanted in _files(manifest).items():
                _check_owner(folder / file)
                if (found_digest := _digest(folder / file)) != wanted:  # (4)
                    text = f"{file} is {found_digest.hex()}; wanted {wanted.hex()}"
                    raise MachineRefusedError("wrong-image", text)
        except OSError as error:
            text = f"{name.hex()}: {error.strerror}: {Path(str(error.filename)).name}"
            raise MachineRefusedError("no-image", text) from error
        return Image(digest=name, manifest=manifest, folder=folder)


def _files(manifest: ImageManifest) -> dict[str, bytes]:
    files = {KERNEL_FILE: manifest.kernel, INITRD_FILE: manifest.initrd}
    if manifest.firmware is not None:
        files[FIRMWARE_FILE] = manifest.firmware
    if manifest.root is not None:
        files[ROOT_FILE] = manifest.root
    return files


def _manifest(folder: Path) -> ImageManifest:
    with (folder / MANIFEST_FILE).open("rb") as file:
        content = file.read(MANIFEST_BYTES_MAX + 1)
    try:
        return ImageManifest.parse(content)
    except EncodingError as error:
        raise MachineRefusedError("wrong-image", f"manifest: {error}") from error


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise MachineRefusedError("open-image", f"{path.name} is a symbolic link")
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise MachineRefusedError("open-image", f"{path.name} can be written by others")


def _digest(path: Path) -> bytes:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            hasher.update(part)
    return hasher.digest()
