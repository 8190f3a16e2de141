"""Who asks the hardware to sign: `Attester`, and Linux's own interface for AMD SEV-SNP.

Rules (Documentation/ABI/testing/configfs-tsm):
- One folder for each report, made with mkdir, and removed afterwards. Its ``inblob`` takes exactly
  64 bytes, in one write; ``outblob`` is the report.
- A write is committed when the file is closed, where errors are lost. ``generation`` counts the
  writes: unless it is one more than before, another process wrote, and the report is not ours.
- ``provider`` says which hardware signs; another than the wanted one is refused.
- The folder ``report`` exists on machines without such hardware too: only mkdir tells.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from trust.errors import EvidenceError
from trust.evidence.claims import Platform

REPORT_DATA_BYTES: Final = 64
TSM_REPORTS: Final = "/sys/kernel/config/tsm/report"
SNP_PROVIDER: Final = "sev_guest"
BLOB_BYTES_MAX: Final = 1 << 14  # a report has 1,184 bytes
TRIES_MAX: Final = 8  # EBUSY and EINTR pass within milliseconds


class Attester(Protocol):
    """The hardware, as far as the enclave talks to it."""

    @property
    def platform(self) -> str:
        """Name of the platform, as evidence bundles carry it."""

    @property
    def writes_under(self) -> str | None:
        """The folder in which reports are asked for; None: by a descriptor that is open."""

    def report(self, report_data: bytes) -> bytes:
        """A report over 64 bytes. Raises EvidenceError."""


class TsmFiles(Protocol):
    """The four operations on configfs that a report takes. Each may raise OSError."""

    def mkdir(self, path: str) -> None:
        """Make an entry."""

    def write(self, path: str, content: bytes) -> None:
        """Write an attribute, whole, in one call."""

    def read(self, path: str) -> bytes:
        """Read an attribute, whole."""

    def rmdir(self, path: str) -> None:
        """Remove an entry, with its attributes."""


class KernelTsmFiles:
    """The real ones."""

    def mkdir(self, path: str) -> None:
        """Call mkdir."""
        Path(path).mkdir()

    def write(self, path: str, content: bytes) -> None:
        """Open without creating, one write, close."""
        descriptor = os.open(path, os.O_WRONLY)
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.EIO, "short write")
        finally:
            os.close(descriptor)

    def read(self, path: str) -> bytes:
        """Up to `BLOB_BYTES_MAX` bytes."""
        with Path(path).open("rb") as file:
            return file.read(BLOB_BYTES_MAX)

    def rmdir(self, path: str) -> None:
        """Call rmdir."""
        Path(path).rmdir()


class SnpTsmAttester:
    """Reports of an SNP guest by configfs-tsm."""

    def __init__(self, files: TsmFiles, *, reports: str = TSM_REPORTS) -> None:
        self._files, self._reports = files, reports

    @property
    def platform(self) -> str:
        """``sev-snp``."""
        return Platform.SEV_SNP.value

    @property
    def writes_under(self) -> str | None:
        """The kernel's folder of reports."""
        return self._reports

    def check(self) -> None:
        """Whether this machine gives reports at all; asks for none. Raises EvidenceError."""
        with self._entry() as entry:
            self._check_provider(entry)

    def report(self, report_data: bytes) -> bytes:
        """Ask for one report, in an entry of its own.

        (1) 64 bytes, or the kernel would fail later and say less. (2) mkdir: without the hardware,
        the error comes here. (3) The provider is SNP's. (4) One write, one read. (5) The generation
        says that this write, and no other, is what was signed.
        """
        if len(report_data) != REPORT_DATA_BYTES:  # (1)
            raise EvidenceError(f"report data of {len(report_data)} bytes, wanted 64")
        with self._entry() as entry:  # (2)
            self._check_provider(entry)  # (3)
            return self._ask(entry, report_data)

    @contextlib.contextmanager
    def _entry(self) -> Iterator[str]:
        entry = f"{self._reports}/blindhost-{secrets.token_hex(8)}"
        try:
            self._files.mkdir(entry)
        except OSError as error:
            raise EvidenceError(no_interface(self._reports, error)) from error
        try:
            yield entry
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "unknown error")
            raise EvidenceError(f"the report interface fails with {name}") from error
        finally:
            self._files.rmdir(entry)

    def _check_provider(self, entry: str) -> None:
        provider = self._files.read(f"{entry}/provider").strip().decode("ascii", "replace")
        if provider != SNP_PROVIDER:
            raise EvidenceError(f"reports by {provider[:32]!r}, wanted {SNP_PROVIDER!r}")

    def _ask(self, entry: str, report_data: bytes) -> bytes:
        before = self._generation(entry)
        self._files.write(f"{entry}/inblob", report_data)  # (4)
        report = self._read_patiently(f"{entry}/outblob")
        after = self._generation(entry)
        if after != before + 1:  # (5)
            raise EvidenceError(
                f"generation {after} after {before}: the report is not of this write"
            )
        return report

    def _generation(self, entry: str) -> int:
        text = self._files.read(f"{entry}/generation").strip()
        if not text.isdigit():
            raise EvidenceError("the report interface gives no generation")
        return int(text)

    def _read_patiently(self, path: str) -> bytes:
        for _try in range(TRIES_MAX - 1):
            try:
                return self._files.read(path)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.EINTR):
                    raise
        return self._files.read(path)


def no_interface(reports: str, error: OSError) -> str:
    """What is wrong where no entry can be made."""
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    return (
        f"no confidential-VM report interface at {reports} (mkdir gives {name}): "
        "this machine is no SEV-SNP guest, or its kernel is older than 6.7"
    )
