"""The files that a host gets: units, udev rules, module options, users. Text; no I/O.

Rules:
- Network or privilege, never both: the agent and the fetcher reach the network and may do nothing
  on the machine; the launcher, the updater and each VM's unit do, and have no network.
- The files depend on no host, so they are part of the signed release. What differs between hosts is
  in ``/etc/blindhost/agent.env``.
- Every value that is put into a unit goes through `escape`: ``%`` begins a specifier
  (systemd.unit(5)), and a line break would begin another setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from provider_agent.install.errors import InstallError

HOME: Final = "/opt/blindhost"
CURRENT: Final = "/opt/blindhost/current"
COMMAND: Final = "/usr/local/bin/blindhost-agent"
CONFIGURATION: Final = "/etc/blindhost"
IDENTITY: Final = "/etc/blindhost/identity"
RELEASE_KEY: Final = "/etc/blindhost/release-key"
AGENT_ENVIRONMENT: Final = "/etc/blindhost/agent.env"
UPDATE_ENVIRONMENT: Final = "/etc/blindhost/update.env"
LAUNCHER_SETTINGS: Final = "/etc/blindhost/launcher.json"
RECORDS: Final = "/var/lib/blindhost-install"
STATE: Final = "/var/lib/private/blindhost"
SPOOL: Final = "/var/lib/private/blindhost-fetch"
LAUNCHER_SOCKET: Final = "/run/blindhost/launcher.sock"

AGENT: Final = "blindhost-agent.service"
SOCKET: Final = "blindhost-launcher.socket"
LAUNCHER: Final = "blindhost-launcher.service"
FETCH: Final = "blindhost-fetch.service"
UPDATE: Final = "blindhost-update.service"
TIMER: Final = "blindhost-update.timer"
VM_PREFIX: Final = "blindhost-vm-"
GROUP: Final = "blindhost"
VM_USER: Final = "blindhost-vm"

SYSTEMD_FOLDER: Final = "etc/systemd/system/"


@dataclass(frozen=True, kw_only=True, slots=True)
class HostFile:
    """A file of the release that is copied onto the host, mode 0644."""

    path: str
    """Below the root, without a leading slash."""
    content: str


def escape(value: str) -> str:
    """A value for a unit file. Raises InstallError where no escaping helps."""
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise InstallError("a control character can't stand in a unit file")
    return value.replace("\\", "\\\\").replace("%", "%%")


# --- sandboxes -----------------------------------------------------------------------------------

Settings = tuple[tuple[str, str], ...]

_ALL: Final[Settings] = (
    ("NoNewPrivileges", "yes"),
    ("AmbientCapabilities", ""),
    ("ProtectSystem", "strict"),
    ("ProtectHome", "yes"),
    ("PrivateTmp", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectControlGroups", "yes"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("LockPersonality", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallErrorNumber", "EPERM"),
    ("KeyringMode", "private"),
    ("LimitCORE", "0"),
    ("UMask", "0077"),
)

_UNPRIVILEGED: Final[Settings] = (
    *_ALL,
    ("CapabilityBoundingSet", ""),
    ("PrivateDevices", "yes"),
    ("PrivateUsers", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectProc", "invisible"),
    ("RemoveIPC", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallFilter", "~@privileged @resources"),
)

LAUNCHER_SANDBOX: Final[Settings] = (
    *_ALL,
    ("PrivateNetwork", "yes"),
    ("IPAddressDeny", "any"),
    ("RestrictAddressFamilies", "AF_UNIX"),
    ("MemoryDenyWriteExecute", "yes"),
    # MSRs; PCI configuration beyond 64 bytes (pci-sysfs.c), which the GPU tool reads; VMs to end.
    ("CapabilityBoundingSet", "CAP_SYS_RAWIO CAP_SYS_ADMIN CAP_KILL"),
    ("DevicePolicy", "closed"),
    ("DeviceAllow", "/dev/kvm rw"),
    ("DeviceAllow", "/dev/sev rw"),
    ("DeviceAllow", "/dev/vhost-vsock rw"),
    ("DeviceAllow", "/dev/iommu rw"),
    ("DeviceAllow", "char-vfio rw"),
    ("DeviceAllow", "char-cpu/msr r"),
    ("DeviceAllow", "char-cpu/cpuid r"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallFilter", "~@privileged @resources"),
)

VM_SANDBOX: Final[Settings] = (
    *_ALL,
    ("User", VM_USER),
    ("Group", VM_USER),
    ("SupplementaryGroups", "kvm"),
    ("CapabilityBoundingSet", ""),
    ("PrivateNetwork", "yes"),
    ("IPAddressDeny", "any"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectProc", "invisible"),
    ("ProcSubset", "pid"),
    ("RemoveIPC", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("RestrictAddressFamilies", "AF_UNIX AF_VSOCK"),
    ("DevicePolicy", "closed"),
    ("DeviceAllow", "/dev/kvm rw"),
    ("DeviceAllow", "/dev/sev rw"),
    ("DeviceAllow", "/dev/vhost-vsock rw"),
    ("DeviceAllow", "/dev/iommu rw"),
    ("DeviceAllow", "char-vfio rw"),
    ("LimitMEMLOCK", "infinity"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallFilter", "~@privileged"),
    ("Restart", "no"),
)
"""What `blindhost-vm-<lease>.service` runs under. An emulated VM (TCG) writes code into memory and
runs it, so for that platform alone the launcher leaves MemoryDenyWriteExecute out."""


def vm_properties(*, emulated: bool) -> tuple[str, ...]:
    """`VM_SANDBOX` as ``systemd-run --property=`` takes it; `emulated`: QEMU without KVM."""
    return tuple(
        f"{name}={value}"
        for name, value in VM_SANDBOX
        if not (emulated and name == "MemoryDenyWriteExecute")
    )


def vm_unit(command: str) -> str:
    """The unit of a VM as text, to be analysed; the launcher makes a host's, one for each lease."""
    return _unit(
        ("Description", "Blindhost VM: one lease; no network, no privilege"),
        service=(("Type", "exec"), ("ExecStart", escape(command)), *VM_SANDBOX),
    )


# --- units ---------------------------------------------------------------------------------------


def _unit(
    *head: tuple[str, str], service: Settings, kind: str = "Service", wanted: str = ""
) -> str:
    lines = ["[Unit]", *(f"{name}={value}" for name, value in head), "", f"[{kind}]"]
    lines += [f"{name}={value}" for name, value in service]
    if wanted:
        lines += ["", "[Install]", f"WantedBy={wanted}"]
    return "\n".join(lines) + "\n"


def _program(arguments: str) -> str:
    return f"{escape(CURRENT)}/bin/blindhost-agent {arguments}"


def agent_unit() -> str:
    """The agent: network, no privilege."""
    serve = _program(
        "serve --home %S/blindhost --market ${BLINDHOST_MARKET} "
        "--market-identity ${BLINDHOST_MARKET_IDENTITY} --ask ${BLINDHOST_ASK} $BLINDHOST_MORE"
    )
    return _unit(
        ("Description", "Blindhost agent: offers this machine; network, no privilege"),
        ("Wants", "network-online.target"),
        ("Requires", SOCKET),
        ("After", f"network-online.target {SOCKET}"),
        ("ConditionPathExists", AGENT_ENVIRONMENT),
        ("StartLimitIntervalSec", "300"),
        ("StartLimitBurst", "20"),
        service=(
            ("Type", "notify"),
            ("NotifyAccess", "main"),
            ("WatchdogSec", "60"),
            ("EnvironmentFile", AGENT_ENVIRONMENT),
            ("ExecStart", serve),
            ("Restart", "on-failure"),
            ("RestartSec", "5"),
            ("TimeoutStartSec", "120"),
            ("TimeoutStopSec", "60"),
            ("DynamicUser", "yes"),
            ("User", "blindhost-agent"),
            ("SupplementaryGroups", GROUP),
            ("LoadCredential", f"identity:{IDENTITY}"),
            ("StateDirectory", "blindhost"),
            ("StateDirectoryMode", "0700"),
            ("CacheDirectory", "blindhost"),
            ("CacheDirectoryMode", "0700"),
            *_UNPRIVILEGED,
        ),
        wanted="multi-user.target",
    )


def launcher_socket() -> str:
    """Where the agent asks: packets, for root and one group."""
    return _unit(
        ("Description", "Blindhost launcher's socket"),
        # A launcher that was told nothing would start and end until systemd gives its socket up.
        ("ConditionPathExists", LAUNCHER_SETTINGS),
        kind="Socket",
        service=(
            ("ListenSequentialPacket", LAUNCHER_SOCKET),
            ("SocketMode", "0660"),
            ("SocketUser", "root"),
            ("SocketGroup", GROUP),
            ("DirectoryMode", "0755"),
            ("RemoveOnStop", "yes"),
        ),
        wanted="sockets.target",
    )


def launcher_unit() -> str:
    """The launcher: privilege, no network. Started by the first packet on its socket."""
    modules = "modprobe@vfio_pci.service modprobe@iommufd.service modprobe@vhost_vsock.service"
    return _unit(
        ("Description", "Blindhost launcher: starts VMs; privilege, no network"),
        ("Wants", f"{modules} modprobe@msr.service"),
        ("Requires", SOCKET),
        ("After", f"{SOCKET} {modules}"),
        service=(
            ("Type", "exec"),
            ("ExecStart", _program("launcher")),
            ("Restart", "on-failure"),
            ("RestartSec", "2"),
            ("StateDirectory", "blindhost-launcher"),
            ("StateDirectoryMode", "0700"),
            ("RuntimeDirectory", "blindhost-launcher"),
            ("RuntimeDirectoryMode", "0711"),
            ("RuntimeDirectoryPreserve", "yes"),
            *LAUNCHER_SANDBOX,
        ),
    )


def fetch_unit() -> str:
    """Fetches a release into its own folder: network, no privilege, believed by nobody."""
    return _unit(
        ("Description", "Blindhost: fetch the newest release; network, no privilege"),
        ("Wants", "network-online.target"),
        ("After", "network-online.target"),
        ("ConditionPathExists", UPDATE_ENVIRONMENT),
        service=(
            ("Type", "oneshot"),
            ("EnvironmentFile", UPDATE_ENVIRONMENT),
            (
                "ExecStart",
                _program("upgrade --fetch ${BLINDHOST_RELEASES} --into %S/blindhost-fetch"),
            ),
            ("TimeoutStartSec", "1800"),
            ("DynamicUser", "yes"),
            ("User", "blindhost-fetch"),
            ("StateDirectory", "blindhost-fetch"),
            ("StateDirectoryMode", "0700"),
            *_UNPRIVILEGED,
        ),
    )


def update_unit() -> str:
    """Verifies what was fetched and changes to it; it writes to the machine, and has no network."""
    return _unit(
        ("Description", "Blindhost: change to a fetched release; privilege, no network"),
        ("Wants", FETCH),
        ("After", FETCH),
        ("ConditionPathExists", UPDATE_ENVIRONMENT),
        service=(
            ("Type", "oneshot"),
            ("EnvironmentFile", UPDATE_ENVIRONMENT),
            ("ExecStart", _program("upgrade --unattended $BLINDHOST_UPDATE_MORE")),
            ("TimeoutStartSec", "1800"),
            ("PrivateNetwork", "yes"),
            ("RestrictAddressFamilies", "AF_UNIX"),
            ("NoNewPrivileges", "yes"),
            ("ProtectHome", "yes"),
            ("PrivateTmp", "yes"),
            ("UMask", "0022"),
        ),
    )


def update_timer() -> str:
    """Once an hour, at a moment that differs between hosts."""
    return _unit(
        ("Description", "Blindhost: look for a release"),
        kind="Timer",
        service=(
            ("OnCalendar", "hourly"),
            ("RandomizedDelaySec", "3000"),
            ("Persistent", "yes"),
            ("Unit", UPDATE),
        ),
        wanted="timers.target",
    )


# --- the rest ------------------------------------------------------------------------------------

_UDEV = f"""\
# A VM's process opens these, and no other user of the machine.
SUBSYSTEM=="misc", KERNEL=="sev", GROUP="{VM_USER}", MODE="0660"
SUBSYSTEM=="misc", KERNEL=="iommu", GROUP="{VM_USER}", MODE="0660"
SUBSYSTEM=="misc", KERNEL=="vhost-vsock", GROUP="{VM_USER}", MODE="0660"
SUBSYSTEM=="vfio", GROUP="{VM_USER}", MODE="0660"
SUBSYSTEM=="vfio-dev", GROUP="{VM_USER}", MODE="0660"
"""

_MODPROBE = """\
# A GPU belongs to the enclave: the host's own drivers stay away from it.
options kvm_amd sev=1 sev-es=1 sev-snp=1
options vfio-pci disable_idle_d3=1
softdep nvidia pre: vfio-pci
softdep nouveau pre: vfio-pci
blacklist nouveau
"""

_SYSUSERS = f"""\
g {GROUP} - -
u {VM_USER} - "Blindhost VM" / /usr/sbin/nologin
"""


def host_files() -> tuple[HostFile, ...]:
    """Every file of this release that is copied onto a host, in the order in which it is."""
    units = {
        SOCKET: launcher_socket(),
        LAUNCHER: launcher_unit(),
        AGENT: agent_unit(),
        FETCH: fetch_unit(),
        UPDATE: update_unit(),
        TIMER: update_timer(),
    }
    return (
        HostFile(path="etc/sysusers.d/blindhost.conf", content=_SYSUSERS),
        HostFile(path="etc/udev/rules.d/70-blindhost.rules", content=_UDEV),
        HostFile(path="etc/modprobe.d/blindhost.conf", content=_MODPROBE),
        *(HostFile(path=SYSTEMD_FOLDER + n, content=text) for n, text in units.items()),
    )
