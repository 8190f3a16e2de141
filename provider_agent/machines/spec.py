"""One machine, fully said: everything that its command line is made of, and the rules it obeys.

Rules:
- A spec that exists is a good one: `MachineSpec` refuses in its constructor what no launch may be.
- Values that become part of a QEMU option hold no comma and no control character: a comma would
  begin another option (QEMU doubles them; we refuse them). Paths are absolute.
- No policy that lets the host debug or migrate the guest, and no command line that lets a panicked
  guest stand still.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider_agent.machines.errors import MachineRefusedError
from trust.encoding import digest

BDF_EXPRESSION: Final = r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
LEASE_EXPRESSION: Final = r"leas_[0-9a-hjkmnp-tv-z]{26}"
MEMORY_MIB_MIN: Final = 256  # a kernel, its initrd twice, and some room
MEMORY_MIB_MAX: Final = 1 << 24  # 16 TiB: no host has more
MEMORY_STEP_MIB: Final = 2  # private memory is mapped in pages of 2 MiB where it can be
TDX_WHOLE_GIB_FROM_MIB: Final = 61 * 1024  # above, some guest kernels panic on a part of a GiB
VCPUS_MAX: Final = 255  # x2APIC needs another command line above
GPUS_MAX: Final = 8
LAUNCH_BYTES_MAX: Final = 4096  # a launch document has some 400 bytes
COMMAND_LINE_BYTES_MAX: Final = 2047  # COMMAND_LINE_SIZE of x86 less its end
CID_MIN: Final = 3  # 0 to 2 are the hypervisor's, loopback's and the host's (vsock(7))
CID_MAX: Final = (1 << 32) - 2

SNP_POLICY_SMT: Final = 1 << 16
SNP_POLICY_RESERVED: Final = 1 << 17  # must be 1 (SNP ABI, 4.3)
SNP_POLICY_MIGRATE_AGENT: Final = 1 << 18
SNP_POLICY_DEBUG: Final = 1 << 19
SNP_POLICY: Final = SNP_POLICY_RESERVED | SNP_POLICY_SMT

TD_ATTRIBUTE_DEBUG: Final = 1 << 0
TD_ATTRIBUTE_SEPT_VE_DISABLE: Final = 1 << 28
TD_ATTRIBUTES: Final = TD_ATTRIBUTE_SEPT_VE_DISABLE

PANIC_ARGUMENT: Final = "panic=-1"  # boot again at once; QEMU's -no-reboot then ends the machine
_CPU_MODEL: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_OPTION_UNSAFE: Final = re.compile(r"[,\x00-\x1f\x7f]")


class Platform(enum.StrEnum):
    """What a machine is made of; also the rung that offer and status name."""

    SNP = "snp"
    TDX = "tdx"
    EMULATED = "emulated"
    """QEMU's own processor: protects nobody, and no offer calls it confidential."""

    @property
    def confidential(self) -> bool:
        """Whether hardware keeps the host out."""
        return self is not Platform.EMULATED


@dataclass(frozen=True, kw_only=True, slots=True)
class SerialDoor:
    """Two named virtio-serial ports on the listening sockets that came with the launch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VsockDoor:
    """A vsock device; the guest listens at two ports of its own."""

    cid: int
    """Unique on the host: the kernel refuses one that is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpShape:
    """What SEV-SNP needs besides."""

    policy: int
    cpu_model: str
    """A named model, never ``host``: its signature is in the launch digest."""
    cbitpos: int
    """Of this host's processor, asked of QEMU."""
    reduced_phys_bits: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxShape:
    """What TDX needs besides."""

    attributes: int
    quote_port: int
    """vsock port of the quote service on the host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """All that the command line of one machine depends on."""

    platform: Platform
    lease: str
    qemu: Path
    memory_mib: int
    """As the guest sees it: already rounded by `rounded_memory_mib`."""
    vcpus: int
    numa_node: int | None
    """Where the memory is bound; None: wherever the host has it."""
    firmware: Path | None
    """None: QEMU's own, on the emulated platform alone."""
    kernel: Path
    initrd: Path
    root: Path | None
    """A read-only disk; None: the initrd is all."""
    command_line: str
    """Measured. It holds `PANIC_ARGUMENT`."""
    launch: bytes
    """The encoded launch document."""
    door: SerialDoor | VsockDoor
    gpus: tuple[str, ...]
    """PCI addresses, in order."""
    shape: SnpShape | TdxShape | None
    """Of the platform; None on the emulated one."""

    def __post_init__(self) -> None:
        _check_machine(self)
        _check_files(self)
        _check_gpus(self)
        _check_platform(self)

    @property
    def host_data(self) -> bytes:
        """HOST_DATA of an SNP guest: the launch document's digest, 32 bytes."""
        return digest(self.launch)

    @property
    def mrconfigid(self) -> bytes:
        """MRCONFIGID of a TD: SHA-384 of the launch document, 48 bytes and none of them padding."""
        return hashlib.sha384(self.launch).digest()

    @property
    def launch_text(self) -> str:
        """The launch document as a fw_cfg string: base64 has no comma."""
        return base64.b64encode(self.launch).decode()


def rounded_memory_mib(platform: Platform, memory_mib: int) -> int:
    """Guest memory in MiB, rounded up to what the platform's kernels stand."""
    step = MEMORY_STEP_MIB
    if platform is Platform.TDX and memory_mib >= TDX_WHOLE_GIB_FROM_MIB:
        step = 1024
    return -(-memory_mib // step) * step


def _refuse(code: str, text: str) -> MachineRefusedError:
    return MachineRefusedError(code, text)


def _check_machine(spec: MachineSpec) -> None:
    if not re.fullmatch(LEASE_EXPRESSION, spec.lease):
        raise _refuse("bad-lease", f"{spec.lease[:40]!r} is no lease's name")
    if not MEMORY_MIB_MIN <= spec.memory_mib <= MEMORY_MIB_MAX:
        found = f"{spec.memory_mib} MiB; wanted {MEMORY_MIB_MIN} to {MEMORY_MIB_MAX}"
        raise _refuse("bad-memory", found)
    if (wanted := rounded_memory_mib(spec.platform, spec.memory_mib)) != spec.memory_mib:
        raise _refuse("bad-memory", f"{spec.memory_mib} MiB; rounded up that is {wanted}")
    if not 1 <= spec.vcpus <= VCPUS_MAX:
        raise _refuse("bad-vcpus", f"{spec.vcpus}; wanted 1 to {VCPUS_MAX}")
    if spec.numa_node is not None and not 0 <= spec.numa_node < 1024:
        raise _refuse("bad-numa-node", f"{spec.numa_node}; wanted 0 to 1023")
    if not 1 <= len(spec.launch) <= LAUNCH_BYTES_MAX:
        raise _refuse("bad-launch", f"{len(spec.launch)} bytes; wanted 1 to {LAUNCH_BYTES_MAX}")
    if isinstance(spec.door, VsockDoor) and not CID_MIN <= spec.door.cid <= CID_MAX:
        raise _refuse("bad-cid", f"{spec.door.cid}; wanted {CID_MIN} to {CID_MAX}")


def _check_files(spec: MachineSpec) -> None:
    files = {"qemu": spec.qemu, "kernel": spec.kernel, "initrd": spec.initrd}
    files |= {"firmware": spec.firmware} if spec.firmware is not None else {}
    files |= {"root": spec.root} if spec.root is not None else {}
    for name, path in files.items():
        if not path.is_absolute() or ".." in path.parts:
            raise _refuse("bad-path", f"{name}: {str(path)!r} is not absolute and plain")
        if _OPTION_UNSAFE.search(str(path)):
            raise _refuse("bad-path", f"{name}: a comma or control character in {str(path)!r}")
    line = spec.command_line
    if len(line.encode()) > COMMAND_LINE_BYTES_MAX or re.search(r"[\x00-\x1f\x7f]", line):
        raise _refuse("bad-command-line", "control characters, or over 2047 bytes")
    if PANIC_ARGUMENT not in line.split():
        raise _refuse("bad-command-line", f"{PANIC_ARGUMENT} is missing: a panic would stand still")


def _check_gpus(spec: MachineSpec) -> None:
    for address in spec.gpus:
        if not re.fullmatch(BDF_EXPRESSION, address):
            raise _refuse("bad-gpu", f"{address[:20]!r} is no PCI address")
    if len(set(spec.gpus)) != len(spec.gpus):
        raise _refuse("bad-gpu", "one GPU twice")
    if len(spec.gpus) > GPUS_MAX:
        raise _refuse("bad-gpu", f"{len(spec.gpus)} GPUs; at most {GPUS_MAX}")
    if spec.gpus and not spec.platform.confidential:
        raise _refuse("bad-gpu", "the emulated platform takes no GPU")


def _check_platform(spec: MachineSpec) -> None:
    if spec.platform.confidential and spec.firmware is None:
        raise _refuse("bad-firmware", f"{spec.platform} boots by measured firmware alone")
    match spec.platform, spec.shape:
        case Platform.SNP, SnpShape() as shape:
            _check_snp(shape)
        case Platform.TDX, TdxShape() as shape:
            if shape.attributes & TD_ATTRIBUTE_DEBUG:
                raise _refuse("debug-policy", f"TD attributes {shape.attributes:#x} allow debug")
            if not 0 <= shape.attributes < 1 << 64 or not 1 <= shape.quote_port < 1 << 32:
                raise _refuse("bad-shape", "TD attributes or quote port out of range")
        case Platform.EMULATED, None:
            pass
        case _:
            raise _refuse("bad-shape", f"{type(spec.shape).__name__} for {spec.platform}")


def _check_snp(shape: SnpShape) -> None:
    if shape.policy & SNP_POLICY_DEBUG:
        raise _refuse("debug-policy", f"SNP policy {shape.policy:#x} allows debug")
    if shape.policy & SNP_POLICY_MIGRATE_AGENT:
        raise _refuse("migratable-policy", f"SNP policy {shape.policy:#x} allows migration")
    if not shape.policy & SNP_POLICY_RESERVED or shape.policy >> 21:
        raise _refuse("bad-shape", f"SNP policy {shape.policy:#x} has wrong reserved bits")
    if not re.fullmatch(_CPU_MODEL, shape.cpu_model) or shape.cpu_model in ("host", "max"):
        raise _refuse("bad-shape", f"processor {shape.cpu_model[:64]!r}: a named model is wanted")
    if not 32 <= shape.cbitpos <= 63 or not 1 <= shape.reduced_phys_bits <= 16:
        raise _refuse("bad-shape", f"C-bit {shape.cbitpos}, {shape.reduced_phys_bits} bits reduced")
