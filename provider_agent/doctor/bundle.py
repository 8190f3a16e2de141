"""A support archive that a host may hand to strangers: what is wrong, and not whose it is.

Rules:
- A closed list of inputs. Every text goes through `redact`, file names are ours, and the archive
  carries no user, no group and no time of this machine's.
- Firmware tables are taken field by field: serial numbers and UUIDs are never read at all.
- Of the kernel's log, lines about SEV, SNP, RMP, CCP, TDX, IOMMU and VFIO, and no others.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from provider_agent.doctor.check import Check, report_json
from provider_agent.doctor.context import PCI, Context
from provider_agent.doctor.redact import redact
from provider_agent.doctor.render import offers
from provider_agent.doctor.view import UnreadError

LOG_LINES_MAX: Final = 2000
_LOG_LINE: Final = re.compile(r"(?i)\b(sev|snp|rmp|ccp|tdx|iommu|vfio)")
_DMI: Final = (
    "sys_vendor",
    "product_name",
    "product_version",
    "board_vendor",
    "board_name",
    "board_version",
    "bios_vendor",
    "bios_version",
    "bios_date",
)
_VERSIONS: Final = ("qemu-version",)
_NAMES_OF: Final = (
    "etc/hostname",
    "proc/sys/kernel/hostname",
    "proc/sys/kernel/domainname",
)
_FOUND: Final = ("actual", "required", "read_error", "note")
"""What a check says of this machine; all else in it is a row's own text."""
_SECRET_FILES: Final = (
    "etc/machine-id",
    "sys/class/dmi/id/product_serial",
    "sys/class/dmi/id/board_serial",
    "sys/class/dmi/id/chassis_serial",
    "sys/class/dmi/id/product_uuid",
    "sys/class/dmi/id/chassis_asset_tag",
)
"""Read only so that their content is taken out wherever else it stands."""


def write_bundle(path: Path, checks: Sequence[Check], context: Context) -> tuple[str, ...]:
    """Write the archive, mode 0600, in place of nothing: an existing file is an error.

    The names in it. Raises OSError.
    """
    content = make_bundle(checks, context)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_archive(content))
    return tuple(content)


def make_bundle(checks: Sequence[Check], context: Context) -> dict[str, str]:
    """Name in the archive → redacted text."""
    names = _names(context)
    raw = {
        "dmi.txt": _each({name: f"sys/class/dmi/id/{name}" for name in _DMI}, context),
        "cmdline.txt": _or_why(lambda: context.view.text("proc/cmdline", most=1 << 16)),
        "versions.txt": _versions(context),
        "pci.txt": _pci(context),
        "dmesg.txt": _or_why(lambda: _log(context)),
    }
    clean = {name: redact(text, names=names) + "\n" for name, text in raw.items()}
    made = json.loads(report_json(checks, command="doctor", offers=offers(checks)))
    for each in made["checks"]:
        each |= {field: _redacted(each[field], names) for field in _FOUND}
    clean["checks.json"] = json.dumps(made, indent=1) + "\n"
    return clean


def _names(context: Context) -> list[str]:
    """What this machine calls itself: whole, and without its domain."""
    found = []
    for path in (*_NAMES_OF, *_SECRET_FILES):
        try:
            value = context.view.text(path, most=1 << 12)
        except UnreadError:
            continue
        if value and value.lower() not in _NO_NAMES:
            found += [value, value.partition(".")[0]]
    return found


_NO_NAMES: Final = frozenset(
    {"(none)", "localhost", "none", "not specified", "default string", "to be filled by o.e.m."}
)


def _redacted(value: Any, names: list[str]) -> Any:
    """Text by text, so that what is left still is JSON."""
    if isinstance(value, list):
        return [_redacted(each, names) for each in value]
    return redact(value, names=names) if isinstance(value, str) else value


def _each(paths: dict[str, str], context: Context) -> str:
    return "\n".join(
        f"{name}: " + _or_why(lambda path=path: context.view.text(path, most=1 << 12))  # type: ignore[misc]
        for name, path in paths.items()
    )


def _versions(context: Context) -> str:
    files = {"kernel": "proc/sys/kernel/osrelease", "system": "etc/os-release"}
    lines = [_each(files, context)]
    lines += [f"{n}: {_or_why(lambda n=n: context.output(n))}" for n in _VERSIONS]  # type: ignore[misc]
    lines.append(f"processor: {_or_why(lambda: context.processor.name)}")
    return "\n".join(lines)


def _pci(context: Context) -> str:
    def listed() -> str:
        lines = []
        for each in context.devices:
            try:
                driver = context.view.link(f"{PCI}/{each.bdf}/driver")
            except UnreadError:
                driver = "-"
            ids = f"{each.vendor:04x}:{each.device:04x}"
            lines.append(f"{each.bdf} {each.kind:04x} {ids} {driver}")
        return "\n".join(lines)

    return _or_why(listed)


def _log(context: Context) -> str:
    lines = [line for line in context.dmesg.splitlines() if _LOG_LINE.search(line)]
    return "\n".join(lines[-LOG_LINES_MAX:])


def _or_why(read: Callable[[], str]) -> str:
    try:
        return read()
    except UnreadError as error:
        return f"unread: {error}"


def _archive(content: dict[str, str]) -> bytes:
    """A tar of regular files, owned by nobody, at no time."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name, text in content.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"blindhost-doctor/{name}")
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()
