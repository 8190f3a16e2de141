"""QEMU, the images it boots, and the market: what the machine is offered with."""

from __future__ import annotations

import re
from typing import Final

from provider_agent.doctor.check import (
    Category,
    Judge,
    Outcome,
    Remedy,
    RemedyKind,
    Row,
    Severity,
    bad,
    decided,
    good,
    warn,
)
from provider_agent.doctor.context import AMD, Context
from provider_agent.doctor.host import judge_images
from provider_agent.doctor.settings import SETTINGS
from provider_agent.doctor.view import AbsentError, UnreadError

BOOT_MILLISECONDS_MAX: Final = 10_000
KILOBITS_LEAST: Final = 100_000
LATENCY_MILLISECONDS_MAX: Final = 250
ROUND_TRIPS_LEAST: Final = 20

_VERSION: Final = re.compile(r"version (\d{1,4})\.(\d{1,4})")
_SNP_LEAST: Final = (9, 1)
_GPU_OR_TDX_LEAST: Final = (10, 1)


# --- QEMU ----------------------------------------------------------------------------------------


def _version(context: Context) -> Outcome:
    try:
        text = context.output("qemu-version")
    except AbsentError:
        return bad("not installed")
    match = _VERSION.search(text)
    if match is None:
        raise UnreadError("qemu: no version in its answer")
    found = int(match[1]), int(match[2])
    plain_snp = context.processor.vendor == AMD and not context.gpus
    least = _SNP_LEAST if plain_snp else _GPU_OR_TDX_LEAST
    actual, required = (f"{each[0]}.{each[1]}" for each in (found, least))
    return decided(found >= least, actual, required=required)


def _capable(context: Context) -> Outcome:
    """The type of guest exists; on AMD, the firmware answers through this very QEMU too."""
    wanted = "sev-snp-guest" if context.processor.vendor == AMD else "tdx-guest"
    types = context.probe.ask(("qmp", "qom-list-types"))
    if not isinstance(types, list | tuple):
        raise UnreadError("qmp:qom-list-types: no list")
    names = {each.get("name") if isinstance(each, dict) else each for each in types}
    if wanted not in names:
        return bad(f"no {wanted}")
    if context.processor.vendor == AMD and not context.fields("qmp", "query-sev-capabilities"):
        return bad("no SEV capabilities")
    return good(wanted)


def _boots(context: Context) -> Outcome:
    answer = context.probe.ask(("qemu-boot",))
    if isinstance(answer, str):
        return bad(answer)
    milliseconds = context.number("qemu-boot")
    note = "one sector, without encryption; the image itself is for selftest"
    return decided(milliseconds <= BOOT_MILLISECONDS_MAX, milliseconds, note=note)


# --- market --------------------------------------------------------------------------------------


def _out(context: Context) -> Outcome:
    signed = context.market.get("signed")
    if not isinstance(signed, bool):
        raise UnreadError("market: no answer that we know")
    return good("signed answer") if signed else bad("an answer that is not the market's")


def _speed(context: Context) -> Outcome:
    _ = context.market
    kilobits = context.number("market-speed")
    return decided(kilobits >= KILOBITS_LEAST, kilobits)


def _latency(context: Context) -> Outcome:
    trips = context.market.get("round_trip_milliseconds")
    if not isinstance(trips, list | tuple) or len(trips) < ROUND_TRIPS_LEAST:
        raise UnreadError(f"market: fewer than {ROUND_TRIPS_LEAST} round trips")
    ordered = sorted(int(each) for each in trips)
    p95 = ordered[-(-len(ordered) * 95 // 100) - 1]
    return good(p95) if p95 <= LATENCY_MILLISECONDS_MAX else warn(p95)


def _identity(context: Context) -> Outcome:
    enrolled = context.market.get("enrolled")
    if not isinstance(enrolled, bool):
        raise UnreadError("market: it was asked under no key of this host's: --home DIR")
    return decided(enrolled, "enrolled" if enrolled else "unknown to the market")


def _row(
    name: str,
    title: str,
    judge: Judge,
    *,
    category: Category,
    severity: Severity = Severity.BLOCKER,
    read: tuple[str, ...],
    operator: str,
    required: bool | int | str,
    unit: str | None = None,
    purpose: str,
    remedies: tuple[Remedy, ...],
    needs: tuple[str, ...] = (),
    depends_on: tuple[str, ...] = (),
) -> Row:
    return Row(
        id=name,
        title=title,
        category=category,
        severity=severity,
        read=read,
        operator=operator,
        required=required,
        unit=unit,
        purpose=purpose,
        judge=judge,
        remedies=remedies,
        needs=needs,
        depends_on=depends_on,
    )


QEMU_ROWS: Final = (
    _row(
        "qemu.version",
        "QEMU is new enough",
        _version,
        category=Category.KVM,
        read=("command:qemu-system-x86_64 --version",),
        operator=">=",
        required="9.1 for SNP, 10.1 for TDX and GPUs",
        purpose="Older ones cannot start such guests; another version is another measurement.",
        remedies=(
            Remedy(kind=RemedyKind.PACKAGE, text="qemu-system-x86 of Debian 13's backports"),
        ),
        depends_on=("cpu.generation",),
    ),
    _row(
        "qemu.capable",
        "This QEMU makes confidential guests here",
        _capable,
        category=Category.KVM,
        read=("qmp:qom-list-types", "qmp:query-sev-capabilities"),
        operator="contains",
        required="sev-snp-guest or tdx-guest",
        purpose="Built with it, and let at /dev/sev: only QEMU itself knows both.",
        remedies=(
            Remedy(kind=RemedyKind.COMMAND, text="Group of /dev/sev: that of the VM's user"),
        ),
        needs=("launcher",),
        depends_on=("qemu.version", "snp.vm_type", "tdx.vm_type"),
    ),
    _row(
        "qemu.probe",
        "KVM boots a machine",
        _boots,
        category=Category.KVM,
        read=("boot:one sector, to its marker line",),
        operator="<=",
        required=BOOT_MILLISECONDS_MAX,
        unit="ms",
        purpose="/dev/kvm opens on hosts where no guest ever gets beyond its first instructions.",
        remedies=(
            Remedy(kind=RemedyKind.VENDOR, text="Bare metal with virtualisation on: AMD SVM, VT-x"),
        ),
        needs=("launcher",),
        depends_on=("qemu.version",),
    ),
    _row(
        "fw.images",
        "Firmware and images are those that they are named for",
        judge_images,
        category=Category.STORAGE,
        read=(f"file:{SETTINGS}", "file:IMAGES/*/{manifest,kernel,initrd,firmware,root}"),
        operator="==",
        required="each file's digest",
        purpose="One flipped byte is another measurement, which no buyer accepts.",
        remedies=(Remedy(kind=RemedyKind.COMMAND, text="Unpack the release's images again"),),
        depends_on=("cpu.generation",),
    ),
)

MARKET_ROWS: Final = (
    _row(
        "net.out",
        "The market answers, and it is this market",
        _out,
        category=Category.NETWORK,
        read=("net:market",),
        operator="==",
        required="signed answer",
        purpose="All traffic goes out by one TLS connection; nothing comes in, no port is open.",
        remedies=(
            Remedy(kind=RemedyKind.COMMAND, text="Let port 443 out. Address translation is fine."),
        ),
        needs=("market",),
    ),
    _row(
        "net.speed",
        "The line is fast enough",
        _speed,
        category=Category.NETWORK,
        severity=Severity.DEGRADED,
        read=("net:market's blobs, 64 MiB down and up",),
        operator=">=",
        required=KILOBITS_LEAST,
        unit="kbit/s",
        purpose="A model that is not cached is fetched while the buyer waits.",
        remedies=(Remedy(kind=RemedyKind.VENDOR, text="500 Mbit/s for big GPUs"),),
        needs=("market",),
        depends_on=("net.out",),
    ),
    _row(
        "net.latency",
        "The market is near",
        _latency,
        category=Category.NETWORK,
        severity=Severity.ADVICE,
        read=("net:market, 20 round trips",),
        operator="<=",
        required=LATENCY_MILLISECONDS_MAX,
        unit="ms",
        purpose="Messages between enclave and parties go through it.",
        remedies=(Remedy(kind=RemedyKind.VENDOR, text="Another region"),),
        needs=("market",),
        depends_on=("net.out",),
    ),
    _row(
        "market.identity",
        "The market knows this host",
        _identity,
        category=Category.MARKET,
        read=("net:market", "file:HOME/key"),
        operator="==",
        required="enrolled",
        purpose="Offers and earnings belong to a key, which the market never sees.",
        remedies=(
            Remedy(
                kind=RemedyKind.COMMAND,
                text="Register this host's key with the market, or name its HOME by --home",
            ),
        ),
        needs=("market",),
        depends_on=("net.out",),
    ),
)
