"""The real machine behind `Probe`: registers, ioctls, programs. Reads alone; nothing is set.

Rules:
- The lists of programs and of their arguments are closed, and no caller adds to them.
- The root of the file system is the machine's own: a fake tree comes with a `MappingProbe`.

Sources: Linux include/uapi/linux/{kvm,psp-sev}.h, arch/x86/include/uapi/asm/kvm.h, msr(4),
cpuid(4), adjtimex(2); NVIDIA/gpu-admin-tools (option names and log lines).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import re
import secrets
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.doctor.market_probe import MarketProbe
from provider_agent.doctor.probe import Question, run_bounded, said
from provider_agent.doctor.view import AbsentError, UnreadError

QEMU: Final = "qemu-system-x86_64"
QMP_SECONDS_MAX: Final = 20.0
BOOT_SECONDS_MAX: Final = 10.0  # a boot sector takes one; where KVM cannot boot, it takes for ever
ADMIN_SECONDS_MAX: Final = 60.0
ADMIN_OUTPUT_BYTES_MAX: Final = 1 << 20
ADMIN_TOOL: Final = ("/opt/blindhost/gpu-admin-tools/bin/python", "-I", "-m", "nvidia_gpu_tools")
"""NVIDIA's tool, in an environment of its own: its packages have names that hide others."""

COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "dmesg": ("dmesg",),
    "mpa-status": ("mpa_manage", "-get_registration_status"),
}

_KVM_CHECK_EXTENSION: Final = 0xAE03
_KVM_CAP_VM_TYPES: Final = 235
_SEV_ISSUE_CMD: Final = 0xC010_5300  # _IOWR('S', 0, 16 bytes)
_SNP_PLATFORM_STATUS: Final = 9
_SNP_STATUS: Final = struct.Struct("<BBBBIIIQQ")
_CPUID_REGISTERS: Final = {"eax": 0, "ebx": 1, "ecx": 2, "edx": 3}
_TIMEX: Final = struct.Struct("@I q q q q i")  # modes, offset, freq, maxerror, esterror, status
_STA_UNSYNC, _STA_NANO, _TIME_ERROR = 0x0040, 0x2000, 5
_BDF: Final = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_ADMIN_QUERY: Final = {
    "cc-mode": ("--query-cc-mode", re.compile(r"\bCC mode is (on|off|devtools)\b")),
    "ppcie-mode": ("--query-ppcie-mode", re.compile(r"\bPPCIe mode is (on|off)\b", re.IGNORECASE)),
}
_QGS_VSOCK: Final = (2, 4050)
_QGS_SOCKET: Final = "/var/run/tdx-qgs/qgs.socket"
_DISK_BYTES: Final = 64 << 20
_DISK_SECONDS_MAX: Final = 5.0
BOOT_MARKER: Final = b"blindhost-boot-marker"
# Real mode at 0x7C00: write the marker to COM1, then leave by isa-debug-exit.
_BOOT_CODE: Final = bytes.fromhex(
    "31c0 8ed8 fc be1c7c ac 84c0 7406 baf803 ee ebf5 b010 baf400 ee f4 ebfd"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostProbe:
    """The machine that this runs on."""

    cache: Path
    """Where ciphertext is or would be kept: its disk is the one that counts."""
    market: MarketProbe | None
    admin_tool: tuple[str, ...] = ADMIN_TOOL
    qemu: str = QEMU
    """The launcher's own, which is pinned: another version is another measurement."""

    def ask(self, question: Question) -> object:
        """Answer, or raise UnreadError."""
        asked = said(question)
        try:
            return self._answer(question)
        except FileNotFoundError as error:
            raise AbsentError(f"{asked}: absent") from error
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            raise UnreadError(f"{asked}: {name}") from error

    def _answer(self, question: Question) -> object:
        match question:
            case ("msr", int(register)):
                return read_msr(register)
            case ("cpuid", int(leaf), str(register)):
                return read_cpuid(leaf, register)
            case ("kvm-vm-types",):
                return kvm_vm_types()
            case ("snp-platform-status",):
                return snp_platform_status()
            case ("openable", "/dev/sev"):
                return openable("/dev/sev")
            case ("command", str(name)):
                return self._command(name)
            case ("qmp", str(command)) if command in _QMP_COMMANDS:
                return ask_qmp(self.qemu, command)
            case ("gpu-admin", str(bdf), str(what)):
                return ask_gpu_admin(self.admin_tool, bdf, what)
            case ("market" | "market-speed",):
                if self.market is None:
                    raise UnreadError("no market was named")
                return self.market.ask(question)
            case (str(name),) if name in _PLAIN:
                return _PLAIN[name](self)
            case _:
                raise UnreadError(f"{said(question)}: no such question")

    def _command(self, name: str) -> dict[str, object]:
        known = COMMANDS | {"qemu-version": (self.qemu, "--version")}
        if name not in known:
            raise UnreadError(f"command:{name[:40]}: no such program of the list")
        output = run_bounded(known[name])
        return {"status": output.status, "output": output.text}


# --- registers and ioctls ------------------------------------------------------------------------


def read_msr(register: int) -> int:
    """A model-specific register of processor 0. Raises OSError: the module, or a privilege."""
    return int.from_bytes(_pread("/dev/cpu/0/msr", 8, register), "little")


def read_cpuid(leaf: int, register: str) -> int:
    """A register of a CPUID leaf, subleaf 0. Raises OSError."""
    content = _pread("/dev/cpu/0/cpuid", 16, leaf)
    offset = 4 * _CPUID_REGISTERS[register]
    return int.from_bytes(content[offset : offset + 4], "little")


def _pread(path: str, length: int, offset: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)
    if len(content) != length:
        raise OSError(errno.EIO, "short read")
    return content


def kvm_vm_types() -> int:
    """Bit mask of the kinds of VM that this kernel makes: 0 plain, 4 SNP, 5 TDX. Raises OSError."""
    descriptor = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(descriptor, _KVM_CHECK_EXTENSION, _KVM_CAP_VM_TYPES)
    finally:
        os.close(descriptor)


def snp_platform_status() -> dict[str, object]:
    """SNP_PLATFORM_STATUS, as the firmware answers it. Raises OSError.

    TCB values are eight bytes in hex, in the firmware's order.
    """
    buffer = ctypes.create_string_buffer(_SNP_STATUS.size)
    command = bytearray(struct.pack("<IQI", _SNP_PLATFORM_STATUS, ctypes.addressof(buffer), 0))
    descriptor = os.open("/dev/sev", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SEV_ISSUE_CMD, command)
    finally:
        os.close(descriptor)
    return parse_snp_status(buffer.raw)


def parse_snp_status(content: bytes) -> dict[str, object]:
    """Read struct sev_user_data_snp_status; byte 3 as the SEV-SNP ABI has it."""
    major, minor, state, flags, build, masks, guests, current, reported = _SNP_STATUS.unpack(
        content
    )
    return {
        "api": f"{major}.{minor}",
        "api_major": major,
        "api_minor": minor,
        "build": build,
        "state": state,
        "rmp_initialised": bool(flags & 1),
        "alias_check_complete": bool(flags & 2),
        "mask_chip_id": bool(masks & 1),
        "mask_chip_key": bool(masks & 2),
        "guests": guests,
        "current_tcb": current.to_bytes(8, "little").hex(),
        "reported_tcb": reported.to_bytes(8, "little").hex(),
    }


def openable(path: str) -> str:
    """Empty if this process may open a device for reading and writing, else why not."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "EUNKNOWN")
    return ""


def read_clock(_: HostProbe) -> dict[str, object]:
    """adjtimex(2) with nothing to set. Raises OSError."""
    buffer = ctypes.create_string_buffer(256)  # struct timex has 208 bytes
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _, offset, _, _, _, status = _TIMEX.unpack_from(buffer.raw)
    return {
        "synchronised": state != _TIME_ERROR and not status & _STA_UNSYNC,
        "offset_microseconds": offset // 1000 if status & _STA_NANO else offset,
    }


# --- QEMU ----------------------------------------------------------------------------------------

_QMP_COMMANDS: Final = {
    "query-sev-capabilities": {"execute": "query-sev-capabilities"},
    "qom-list-types": {"execute": "qom-list-types", "arguments": {"implements": "object"}},
}


def ask_qmp(qemu: str, command: str) -> object:
    """Ask a QEMU that runs no machine. Raises UnreadError, with QEMU's own word for it."""
    asks = [{"execute": "qmp_capabilities"}, _QMP_COMMANDS[command], {"execute": "quit"}]
    output = run_bounded(
        (
            *(qemu, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "none,accel=kvm:tcg", "-qmp", "stdio"),
        ),
        given="".join(json.dumps(each) + "\n" for each in asks).encode(),
        seconds=QMP_SECONDS_MAX,
    )
    return parse_qmp(output.text)


def parse_qmp(text: str) -> object:
    """The second answer in a QMP session. Raises UnreadError."""
    answers = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a warning on standard error
        if isinstance(value, dict) and ("return" in value or "error" in value):
            answers.append(value)
    if len(answers) < 2:
        raise UnreadError("qemu: it did not answer by QMP")
    if "error" in answers[1]:
        raise UnreadError(f"qemu: {str(answers[1]['error'])[:200]}")
    answer: object = answers[1]["return"]
    return answer


def boot_sector() -> bytes:
    """A disk of one sector that says the marker at COM1."""
    return (_BOOT_CODE + BOOT_MARKER + b"\0").ljust(510, b"\0") + b"\x55\xaa"


def boot_qemu(qemu: str, accelerator: str, cpu: str, disk: bytes) -> int | str:
    """Boot a disk: milliseconds to its marker, or why there was none. Raises AbsentError.

    `cpu` is *host* under KVM, so that KVM must take this processor as it is: a kernel that only
    makes believe fails there, and not in a customer's boot.
    """
    with tempfile.TemporaryDirectory(prefix="blindhost-doctor-") as folder:
        path = Path(folder) / "disk"
        path.write_bytes(disk)
        command = (
            *(qemu, "-accel", accelerator, "-machine", "pc", "-cpu", cpu, "-m", "64"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-drive", f"file={path},format=raw,if=ide,snapshot=on"),
            *("-chardev", "stdio,id=c0", "-device", "isa-serial,chardev=c0"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
        )
        begun = time.monotonic()
        try:
            output = run_bounded(command, seconds=BOOT_SECONDS_MAX, until=BOOT_MARKER)
        except AbsentError:
            raise
        except UnreadError as error:
            return str(error)
        if BOOT_MARKER not in output.content:
            words = output.text.strip().splitlines()
            return words[-1][-200:] if words else f"ended with status {output.status}"
        return int((time.monotonic() - begun) * 1000)


# --- GPU admin tool ------------------------------------------------------------------------------


def ask_gpu_admin(tool: Sequence[str], bdf: str, what: str) -> str:
    """Ask NVIDIA's admin tool for one mode of one GPU. Raises UnreadError.

    Its arguments are fixed but for the address, which has one form; only its log line is read.
    """
    if not _BDF.fullmatch(bdf) or what not in _ADMIN_QUERY:
        raise UnreadError(f"gpu-admin: {bdf[:40]!r} {what[:40]!r} is no question")
    option, wanted = _ADMIN_QUERY[what]
    output = run_bounded(
        (*tool, f"--gpu-bdf={bdf}", option),
        seconds=ADMIN_SECONDS_MAX,
        output_max=ADMIN_OUTPUT_BYTES_MAX,
    )
    return parse_admin(output.text, bdf, wanted)


def parse_admin(text: str, bdf: str, wanted: re.Pattern[str]) -> str:
    """The mode in the line about this GPU. Two different answers are none. Raises UnreadError."""
    lines = [line for line in text.splitlines() if bdf in line.lower()]
    found = {match[1].lower() for line in lines if (match := wanted.search(line))}
    if len(found) == 1:
        return found.pop()
    errors = [line for line in text.splitlines() if "ERROR" in line]
    said_ = errors[-1][-160:] if errors else f"{len(found)} answers in {len(lines)} lines about it"
    raise UnreadError(f"gpu-admin: {said_}")


# --- disk and quotes -----------------------------------------------------------------------------


def free_space(probe: HostProbe) -> int:
    """Bytes that an ordinary user may still write below the cache. Raises OSError."""
    folder = next(each for each in (probe.cache, *probe.cache.parents) if each.exists())
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def disk_read_rate(probe: HostProbe) -> int:
    """Write 64 MiB past the page cache, read them back: bytes a second. Raises OSError."""
    folder = next(each for each in (probe.cache, *probe.cache.parents) if each.is_dir())
    path = folder / f".doctor-{secrets.token_hex(8)}"
    piece = mmap.mmap(-1, 1 << 20)  # O_DIRECT wants memory at a page's edge
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        begun = time.monotonic()
        written = 0
        while written < _DISK_BYTES and time.monotonic() - begun < _DISK_SECONDS_MAX:
            written += os.write(descriptor, piece)
        os.lseek(descriptor, 0, os.SEEK_SET)
        begun, read = time.monotonic(), 0
        while read < written and time.monotonic() - begun < _DISK_SECONDS_MAX:
            if not (length := os.readv(descriptor, [piece])):
                break
            read += length
        return int(read / max(time.monotonic() - begun, 1e-6))
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        piece.close()


def quote_service(_: HostProbe) -> bool:
    """Whether the quote generation service takes a connection, by vsock or by its socket."""
    for family, address in ((socket.AF_VSOCK, _QGS_VSOCK), (socket.AF_UNIX, _QGS_SOCKET)):
        with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as channel:
            channel.settimeout(2)
            channel.connect(address)
            return True
    return False


_PLAIN: Final[dict[str, Callable[[HostProbe], object]]] = {
    "clock": read_clock,
    "disk-read": disk_read_rate,
    "qemu-boot": lambda probe: boot_qemu(probe.qemu, "kvm", "host", boot_sector()),
    "qgs": quote_service,
    "space": free_space,
}
