"""`doctor --fix`: writes what can be taken back, and nothing else.

Rules:
- Files of a closed list, each ours by its name, below /etc: modprobe.d, modules-load.d, udev rules,
  sysctl.d. Never firmware, boot loader, VBIOS, a commit of the chip's, nor a running module.
- The plan is data. It is shown as a diff before anything is written, and each file is written whole
  or not at all (written beside, flushed, renamed).
- The record of what was there comes first: `undo` brings the tree back to the byte, and leaves a
  file that somebody changed since as it is, and says so.
"""

from __future__ import annotations

import difflib
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provider_agent.doctor.check import Check, Status
from provider_agent.doctor.context import AMD, Context
from provider_agent.doctor.view import AbsentError, HostView
from provider_agent.errors import AgentError
from trust.encoding import base64url, digest, parse_base64url

RECORD: Final = "var/lib/blindhost-doctor/fixed.json"
RECORD_BYTES_MAX: Final = 1 << 20
FILE_BYTES_MAX: Final = 1 << 16
HEADER: Final = "# Written by blindhost-agent doctor --fix; taken back by doctor --fix --undo.\n"

KVM: Final = "etc/modprobe.d/blindhost-kvm.conf"
VFIO: Final = "etc/modprobe.d/blindhost-vfio.conf"
MODULES: Final = "etc/modules-load.d/blindhost.conf"
UDEV: Final = "etc/udev/rules.d/60-blindhost.rules"
SYSCTL: Final = "etc/sysctl.d/60-blindhost.conf"
PATHS: Final = (KVM, VFIO, MODULES, UDEV, SYSCTL)
"""All that is ever written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One file, before and after."""

    path: str
    """Below the root."""
    before: bytes | None
    """None: there was no file."""
    after: bytes

    def diff(self) -> str:
        """For a person to read before it is done."""
        old = (self.before or b"").decode("utf-8", "replace").splitlines(keepends=True)
        new = self.after.decode("utf-8").splitlines(keepends=True)
        name = "/dev/null" if self.before is None else f"/{self.path}"
        return "".join(difflib.unified_diff(old, new, name, f"/{self.path}"))


def plan(checks: Iterable[Check], context: Context) -> tuple[Change, ...]:
    """What would be written for the checks that did not pass. Empty: nothing that this can do.

    Raises UnreadError where an existing file cannot be read: it could not be brought back.
    """
    poor = {each.row.id for each in checks if each.status in (Status.FAIL, Status.WARN)}
    wanted: dict[str, str] = {}
    if poor & {"snp.kvm", "tdx.kvm"}:
        amd = context.processor.vendor == AMD
        options = "kvm_amd sev=1 sev-es=1 sev-snp=1" if amd else "kvm_intel tdx=1"
        wanted[KVM] = f"options {options}\n"
    if poor & {"gpu.driver_absent", "gpu.idle_power", "iommufd"} and context.gpus:
        wanted[VFIO] = _vfio(context)
        wanted[MODULES] = "iommufd\nvfio-pci\n"
        wanted[UDEV] = (
            'SUBSYSTEM=="vfio", GROUP="blindhost", MODE="0660"\n'
            'KERNEL=="iommu", GROUP="blindhost", MODE="0660"\n'
        )
    if "host.hugepages" in poor:
        wanted[SYSCTL] = "vm.nr_hugepages = 0\n"
    changes = []
    for path in PATHS:
        if path in wanted:
            before, after = _read(context.view, path), (HEADER + wanted[path]).encode()
            if before != after:
                changes.append(Change(path=path, before=before, after=after))
    return tuple(changes)


def apply(root: Path, changes: Sequence[Change]) -> None:
    """Write them, after the record of what was there. Raises AgentError, with nothing half done.

    (1) Nothing of an earlier fix is still recorded for these files. (2) Every file still is what
    the diff showed. (3) Record. (4) Write; what was written before an error is taken back.
    """
    record = _load(root)
    for each in changes:
        if each.path not in PATHS:
            raise AgentError(f"fix: {each.path} is no file of this program's")
        if (root / each.path).is_symlink():
            raise AgentError(f"fix: /{each.path} is a link, which could not be brought back")
        if each.path in record:  # (1)
            raise AgentError(f"fix: /{each.path} was fixed before; take that back first: --undo")
        if _read(HostView(root=root), each.path) != each.before:  # (2)
            raise AgentError(f"fix: /{each.path} has changed since it was shown")
    for each in changes:
        record[each.path] = {
            "before": None if each.before is None else base64url(each.before),
            "after_sha256": digest(each.after).hex(),
            "mode": None if each.before is None else HostView(root=root).mode(each.path),
            "folders": _missing_folders(root, each.path),
        }
    _store(root, record)  # (3)
    try:
        for each in changes:  # (4)
            _write(root / each.path, each.after, mode=0o644)
    except OSError as error:
        undo(root)
        raise AgentError(f"fix: {error.filename}: {error.strerror}; taken back") from error


def undo(root: Path) -> tuple[str, ...]:
    """Bring every fixed file back; the paths that were left alone, for somebody changed them.

    Raises AgentError.
    """
    record, left = _load(root), []
    for path in PATHS:
        if (entry := record.get(path)) is None:
            continue
        now = _read(HostView(root=root), path)
        before = None if entry["before"] is None else parse_base64url(entry["before"])
        if now is not None and digest(now).hex() != entry["after_sha256"] and now != before:
            left.append(path)
            continue
        if before is None:
            (root / path).unlink(missing_ok=True)
            for folder in reversed(entry["folders"]):
                _remove_empty(root / folder)
        elif now != before:
            _write(root / path, before, mode=int(entry["mode"]))
        del record[path]
    _store(root, record)
    return tuple(left)


def _vfio(context: Context) -> str:
    """GPUs by vendor and device id: their addresses may change with a slot."""
    ids = sorted({f"{gpu.vendor:04x}:{gpu.device:04x}" for gpu in context.gpus})
    return (
        f"options vfio-pci ids={','.join(ids)} disable_idle_d3=1\n"
        "softdep nvidia pre: vfio-pci\n"
        "softdep nouveau pre: vfio-pci\n"
        "blacklist nvidia\n"
        "blacklist nouveau\n"
    )


# --- files ---------------------------------------------------------------------------------------


def _read(view: HostView, path: str) -> bytes | None:
    try:
        return view.content(path, most=FILE_BYTES_MAX)
    except AbsentError:
        return None


def _load(root: Path) -> dict[str, Any]:
    try:
        content = HostView(root=root).content(RECORD, most=RECORD_BYTES_MAX)
    except AbsentError:
        return {}
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AgentError(f"fix: /{RECORD} is broken: {error}") from error
    if not isinstance(record, dict) or not all(
        path in PATHS
        and isinstance(entry, dict)
        and {"before", "after_sha256", "folders", "mode"} == set(entry)
        and all(f in _parents(path) for f in entry["folders"])
        for path, entry in record.items()
    ):
        raise AgentError(f"fix: /{RECORD} is no record of this program's")
    return record


def _store(root: Path, record: dict[str, Any]) -> None:
    path = root / RECORD
    if record:
        _write(path, json.dumps(record, indent=1).encode(), mode=0o600)
        return
    path.unlink(missing_ok=True)
    _remove_empty(path.parent)


def _parents(path: str) -> list[str]:
    return [parent.as_posix() for parent in reversed(Path(path).parents[:-1])]


def _missing_folders(root: Path, path: str) -> list[str]:
    """Folders that writing will make, outermost first: `undo` removes them again."""
    return [each for each in _parents(path) if not (root / each).exists()]


def _write(path: Path, content: bytes, *, mode: int) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
