"""A machine's spec as QEMU's command line: pure, and tested to the byte.

Rules:
- No network card on any platform. The guest's one way out is its door.
- Nothing by default, nothing from configuration files, no monitor but the launcher's, no display.
- QEMU is given sockets as descriptors, in the order of `Descriptors`: no path of a lease's folder
  stands here, and QEMU need not be able to open one.
- `-S`: nothing runs before the launcher has looked. `-no-reboot`: a guest that resets has ended.
"""

from __future__ import annotations

import base64
import enum
import json
from typing import Final

from provider_agent.machines.spec import (
    MachineSpec,
    Platform,
    SerialDoor,
    SnpShape,
    TdxShape,
    VsockDoor,
)

FRAMES: Final = "frames"
"""Character device of the message port."""
BLOBS: Final = "blobs"
"""Character device of the blob port."""
FRAMES_PORT: Final = "blindhost.frames"
"""Its name in the guest, below /dev/virtio-ports."""
BLOBS_PORT: Final = "blindhost.blobs"
LAUNCH_ITEM: Final = "opt/blindhost/launch"
"""The launch document in the guest's fw_cfg, as base64."""
GPU_WINDOW_MIB: Final = 262_144
"""64-bit MMIO that firmware reserves for one GPU: above any card's memory."""

_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Descriptors(enum.IntEnum):
    """Which descriptor of QEMU's is which listening socket."""

    MONITOR = 3
    CONSOLE = 4
    FRAMES = 5
    BLOBS = 6


def command_line(spec: MachineSpec) -> tuple[str, ...]:
    """QEMU's whole argument vector, its own path first."""
    return (
        str(spec.qemu),
        *_nothing_by_default(spec),
        *_platform(spec),
        *_measured_boot(spec),
        *_monitor_and_console(),
        *_root_disk(spec),
        *_door(spec),
        *_launch_document(spec),
        *_gpus(spec),
    )


def probe_line(qemu: str, platform: Platform) -> tuple[str, ...]:
    """A QEMU without a machine, to ask what this host's processor can."""
    accelerator = "kvm" if platform.confidential else "tcg"
    return (
        *(qemu, "-nodefaults", "-no-user-config", "-nographic", "-S", "-sandbox", _SANDBOX),
        *("-accel", accelerator, "-machine", "none"),
        *_socket_device("monitor", Descriptors.MONITOR),
        *("-mon", "chardev=monitor,mode=control"),
    )


def _nothing_by_default(spec: MachineSpec) -> tuple[str, ...]:
    return (
        *("-name", spec.lease),
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-S"),
        *("-sandbox", _SANDBOX),
    )


def _platform(spec: MachineSpec) -> tuple[str, ...]:
    match spec.shape:
        case SnpShape() as shape:
            return _snp(spec, shape)
        case TdxShape() as shape:
            return _tdx(spec, shape)
        case None:
            return _emulated(spec)


def _snp(spec: MachineSpec, shape: SnpShape) -> tuple[str, ...]:
    host_data = base64.b64encode(spec.host_data).decode()
    guest = (
        f"sev-snp-guest,id=tee,policy={shape.policy:#x},kernel-hashes=on,host-data={host_data}"
        f",cbitpos={shape.cbitpos},reduced-phys-bits={shape.reduced_phys_bits}"
    )
    memory = f"memory-backend-memfd,id=ram,size={spec.memory_mib}M,share=on,prealloc=off"
    return (
        *("-accel", "kvm", "-cpu", shape.cpu_model, *_size(spec)),
        *("-machine", _confidential_machine()),
        *("-object", memory + _bound(spec)),
        *("-object", guest),
    )


def _tdx(spec: MachineSpec, shape: TdxShape) -> tuple[str, ...]:
    guest = {
        "qom-type": "tdx-guest",
        "id": "tee",
        "attributes": shape.attributes,
        "mrconfigid": base64.b64encode(spec.mrconfigid).decode(),
        # The host, at the port of its quote service.
        "quote-generation-socket": {"type": "vsock", "cid": "2", "port": str(shape.quote_port)},
    }
    memory = f"memory-backend-ram,id=ram,size={spec.memory_mib}M"
    return (
        # A TD's processor is the host's own: its model is in RTMR0, not in MRTD.
        *("-accel", "kvm", "-cpu", "host", *_size(spec)),
        *("-machine", _confidential_machine()),
        *("-object", memory + _bound(spec)),
        *("-object", json.dumps(guest, separators=(",", ":"))),
    )


def _emulated(spec: MachineSpec) -> tuple[str, ...]:
    memory = f"memory-backend-ram,id=ram,size={spec.memory_mib}M"
    return (
        *("-accel", "tcg,thread=multi", "-cpu", "max", *_size(spec)),
        *("-machine", "q35,memory-backend=ram,hpet=off,vmport=off,usb=off,smbus=off,sata=off"),
        *("-object", memory + _bound(spec)),
    )


def _size(spec: MachineSpec) -> tuple[str, ...]:
    return ("-smp", str(spec.vcpus), "-m", f"{spec.memory_mib}M")


def _confidential_machine() -> str:
    return (
        "q35,kernel-irqchip=split,confidential-guest-support=tee,memory-backend=ram"
        ",hpet=off,vmport=off,usb=off,smbus=off,sata=off"
    )


def _bound(spec: MachineSpec) -> str:
    if spec.numa_node is None:
        return ""
    return f",host-nodes={spec.numa_node},policy=bind"


def _measured_boot(spec: MachineSpec) -> tuple[str, ...]:
    # By -bios and not by a flash device: confidential guests have no read-only memory slots.
    firmware = ("-bios", str(spec.firmware)) if spec.firmware is not None else ()
    kernel, initrd = str(spec.kernel), str(spec.initrd)
    return (*firmware, "-kernel", kernel, "-initrd", initrd, "-append", spec.command_line)


def _monitor_and_console() -> tuple[str, ...]:
    return (
        *_socket_device("monitor", Descriptors.MONITOR),
        *("-mon", "chardev=monitor,mode=control"),
        *_socket_device("console", Descriptors.CONSOLE),
        *("-serial", "chardev:console"),
    )


def _socket_device(name: str, descriptor: Descriptors) -> tuple[str, ...]:
    return ("-chardev", f"socket,id={name},fd={descriptor.value},server=on,wait=off")


def _root_disk(spec: MachineSpec) -> tuple[str, ...]:
    if spec.root is None:
        return ()
    return (
        *("-drive", f"file={spec.root},if=none,id=root,format=raw,readonly=on"),
        *("-device", f"virtio-blk-pci,drive=root{_virtio(spec)}"),
    )


def _door(spec: MachineSpec) -> tuple[str, ...]:
    match spec.door:
        case VsockDoor(cid=cid):
            return ("-device", f"vhost-vsock-pci,guest-cid={cid}{_virtio(spec)}")
        case SerialDoor():
            # Port 0 is a console's by the standard, so ours are 1 and 2.
            return (
                *("-device", f"virtio-serial-pci,id=door,max_ports=3{_virtio(spec)}"),
                *_socket_device(FRAMES, Descriptors.FRAMES),
                *_port(1, FRAMES, FRAMES_PORT),
                *_socket_device(BLOBS, Descriptors.BLOBS),
                *_port(2, BLOBS, BLOBS_PORT),
            )


def _port(number: int, device: str, name: str) -> tuple[str, ...]:
    return ("-device", f"virtserialport,bus=door.0,nr={number},chardev={device},name={name}")


def _virtio(spec: MachineSpec) -> str:
    # Confidential guests share bounce buffers alone, which is what iommu_platform means there.
    return ",disable-legacy=on" + (",iommu_platform=on" if spec.platform.confidential else "")


def _launch_document(spec: MachineSpec) -> tuple[str, ...]:
    return ("-fw_cfg", f"name={LAUNCH_ITEM},string={spec.launch_text}")


def _gpus(spec: MachineSpec) -> tuple[str, ...]:
    if not spec.gpus:
        return ()
    arguments = ["-object", "iommufd,id=iommufd0"]
    for number, address in enumerate(spec.gpus, 1):
        port = f"pcie-root-port,id=gpu-port{number},bus=pcie.0,chassis={number}"
        arguments += ["-device", port]
        arguments += ["-device", f"vfio-pci,host={address},bus=gpu-port{number},iommufd=iommufd0"]
    window = GPU_WINDOW_MIB * len(spec.gpus)
    return (*arguments, "-fw_cfg", f"name=opt/ovmf/X-PciMmio64Mb,string={window}")
