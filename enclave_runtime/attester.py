"""Who asks the hardware to sign: `Attester`, and Linux's own interface for SEV-SNP and TDX.

Rules (Documentation/ABI/testing/configfs-tsm):
- One folder for each report, made with mkdir, and removed afterwards. Its ``inblob`` takes exactly
  64 bytes, in one write; ``outblob`` is the report.
- A write is committed when the file is closed, where errors are lost. ``generation`` counts the
  writes: unless it is one more than before, another process wrote, and the report is not ours.
- ``provider`` says which hardware signs; another than the wanted one is refused.
- ``auxblob`` is what the host gives with an SNP report: an offer of endorsements, and no more.
- GPUs are asked first and the CPU last (`ask`): the CPU signs over what the GPUs said.
- The folder ``report`` exists on machines without such hardware too: only mkdir tells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from enclave_runtime.certificate_table import TABLE_BYTES_MAX, parse_certificate_table
from trust.encoding import digest
from trust.errors import EvidenceError
from trust.evidence.claims import Platform
from trust.messages import Statement

REPORT_DATA_BYTES: Final = 64
GPU_NONCE_BYTES: Final = 32
TSM_REPORTS: Final = "/sys/kernel/config/tsm/report"
PROVIDERS: Final = {Platform.SEV_SNP: "sev_guest", Platform.TDX: "tdx_guest"}
BLOB_BYTES_MAX: Final = TABLE_BYTES_MAX  # a report has 1,184 bytes, a quote some 8,000
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

    def gpu_evidence(self, nonce: bytes) -> bytes | None:
        """Bytes of a `GpuEvidence` over 32 bytes; None: no GPU here. Raises EvidenceError."""

    def offered(self) -> tuple[tuple[str, bytes], ...]:
        """(kind, bytes) of endorsements that came with the last report."""

    def set_ready(self) -> None:
        """Let the GPUs take work, once a custodian has granted. Raises EvidenceError."""


class Gpus(Protocol):
    """The GPUs, as far as an attester talks to them: `Attester` says what each does."""

    def gpu_evidence(self, nonce: bytes) -> bytes:
        """Never None: where there is no GPU, there is no `Gpus`."""

    def set_ready(self) -> None:
        """After the grant, and never before."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What the hardware gave for one statement."""

    report: bytes
    """The CPU's, over `stated(statement, gpu)`."""
    gpu: bytes | None
    """Bytes of a `GpuEvidence`, or None."""
    offered: tuple[tuple[str, bytes], ...]
    """(kind, bytes) of endorsements that came with the report."""


def ask(attester: Attester, statement: Statement) -> Shown:
    """Have a statement signed that names no GPU evidence yet. Raises EvidenceError.

    (1) The GPUs, under a nonce made from all of the statement. (2) The CPU, over the statement with
    the digest of their answer: without this, a GPU elsewhere could be shown with this CPU.
    """
    gpu = attester.gpu_evidence(statement.gpu_nonce)  # (1)
    report = attester.report(stated(statement, gpu).report_data)  # (2)
    return Shown(report=report, gpu=gpu, offered=attester.offered())


def stated(statement: Statement, gpu: bytes | None) -> Statement:
    """The statement that the CPU signs: with the digest of what the GPUs said, if there are any."""
    return dataclasses.replace(statement, gpu_evidence=None if gpu is None else digest(gpu))


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


class TsmAttester:
    """Reports and quotes by configfs-tsm, and evidence of the GPUs, if there are any."""

    PLATFORM: Platform

    def __init__(
        self, files: TsmFiles, *, reports: str = TSM_REPORTS, gpus: Gpus | None = None
    ) -> None:
        self._files, self._reports, self._gpus = files, reports, gpus
        self._offered: tuple[tuple[str, bytes], ...] = ()

    @property
    def platform(self) -> str:
        """``sev-snp`` or ``tdx``."""
        return self.PLATFORM.value

    @property
    def writes_under(self) -> str | None:
        """The kernel's folder of reports."""
        return self._reports

    def provider(self) -> str:
        """Which hardware signs here. Raises EvidenceError."""
        with self._entry() as entry:
            return self._provider(entry)

    def check(self) -> None:
        """Whether this machine gives reports at all; asks for none. Raises EvidenceError."""
        with self._entry() as entry:
            self._check_provider(entry)

    def report(self, report_data: bytes) -> bytes:
        """Ask for one report, in an entry of its own.

        (1) 64 bytes, or the kernel would fail later and say less. (2) mkdir: without the hardware,
        the error comes here. (3) The provider is the platform's. (4) One write, one read. (5) The
        generation says that this write, and no other, is what was signed.
        """
        if len(report_data) != REPORT_DATA_BYTES:  # (1)
            raise EvidenceError(f"report data of {len(report_data)} bytes, wanted 64")
        with self._entry() as entry:  # (2)
            self._check_provider(entry)  # (3)
            return self._ask(entry, report_data)

    def gpu_evidence(self, nonce: bytes) -> bytes | None:
        """Ask the GPUs, if there are any. Raises EvidenceError."""
        return None if self._gpus is None else self._gpus.gpu_evidence(nonce)

    def offered(self) -> tuple[tuple[str, bytes], ...]:
        """What the host gave with the last report: nothing with a quote."""
        return self._offered

    def set_ready(self) -> None:
        """Let the GPUs take work. Raises EvidenceError."""
        if self._gpus is not None:
            self._gpus.set_ready()

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

    def _provider(self, entry: str) -> str:
        return self._files.read(f"{entry}/provider").strip().decode("ascii", "replace")

    def _check_provider(self, entry: str) -> None:
        provider = self._provider(entry)
        if provider != PROVIDERS[self.PLATFORM]:
            raise EvidenceError(
                f"reports by {provider[:32]!r}, wanted {PROVIDERS[self.PLATFORM]!r}"
            )

    def _ask(self, entry: str, report_data: bytes) -> bytes:
        before = self._generation(entry)
        self._files.write(f"{entry}/inblob", report_data)  # (4)
        report = self._read_patiently(f"{entry}/outblob")
        offered = self._offer(entry)
        after = self._generation(entry)
        if after != before + 1:  # (5)
            raise EvidenceError(
                f"generation {after} after {before}: the report is not of this write"
            )
        self._offered = offered
        return report

    def _offer(self, entry: str) -> tuple[tuple[str, bytes], ...]:
        if self.PLATFORM is Platform.SEV_SNP:
            # A host that gives no table, or half of one, withholds; the briefing has others.
            with contextlib.suppress(EvidenceError, FileNotFoundError):
                return parse_certificate_table(self._read_patiently(f"{entry}/auxblob"))
        return ()

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


class SnpTsmAttester(TsmAttester):
    """Reports of an SNP guest, with the certificates that its host offers."""

    PLATFORM = Platform.SEV_SNP


class TdxTsmAttester(TsmAttester):
    """Quotes of a TD."""

    PLATFORM = Platform.TDX


def hardware_attester(
    files: TsmFiles, *, reports: str = TSM_REPORTS, gpus: Gpus | None = None
) -> TsmAttester:
    """The attester of this machine, by the interface's own word. Raises EvidenceError."""
    snp = SnpTsmAttester(files, reports=reports, gpus=gpus)
    tdx = TdxTsmAttester(files, reports=reports, gpus=gpus)
    found = tdx if snp.provider() == PROVIDERS[Platform.TDX] else snp
    found.check()
    return found


def no_interface(reports: str, error: OSError) -> str:
    """What is wrong where no entry can be made."""
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    return (
        f"no confidential-VM report interface at {reports} (mkdir gives {name}): "
        "this machine is no SEV-SNP or TDX guest, or its kernel is older than 6.7"
    )
