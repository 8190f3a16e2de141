"""NVIDIA: from the evidence of all devices to evidence that pinned roots stand behind.

Rules (docs/spec/evidence-nvidia.md §3 to §6):
- Each check is made over all devices and gives one line, which names the first device that it
  refuses. All lines are made even when an early one refuses.
- The checks are about who says it and whether it is said whole, and whether what was measured is
  what NVIDIA published. Which devices and versions are *good* is for `gpu_appraisal`.
- Endorsements come from the host: one that is withheld is a refusal. Only manifests count that a
  device's own versions name; there must be exactly one for each.
- None of it says that a GPU is in the machine whose CPU shows it: that is the statement's work.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass
from types import MappingProxyType
from typing import Final

from trust.errors import EvidenceSignatureError
from trust.evidence.nvidia import parse_gpu_report
from trust.messages import GpuDeviceKind, GpuEvidence
from trust.verifier.certificates import Certificate
from trust.verifier.gpu_device import (
    CHAIN_LENGTH,
    Architecture,
    Device,
    GpuClaims,
    architecture_of,
    certified_fwid,
    claims_of,
    model_of,
)
from trust.verifier.gpu_subject import OCSP_KIND, RIM_KIND, Subject, parse_subject
from trust.verifier.ocsp import Standing
from trust.verifier.results import (
    _SEAL,
    CheckLine,
    Collateral,
    Verdict,
    _require_seal,
    line,
    not_demanded,
)
from trust.verifier.rims import Rim
from trust.verifier.roots import Anchor, PinnedRoot, find_root
from trust.verifier.x509_ec import chain_fault, validity_fault, verify_p384_numbers

# Which of the checks of the field's list (docs/evidence-checks.md) each line is.
CHECK_NUMBERS: Final = MappingProxyType(
    {
        "gpu-format": 27,
        "gpu-nonce": 27,
        "gpu-chain": 28,
        "gpu-validity": 28,
        "gpu-model": 28,
        "gpu-signature": 29,
        "gpu-fwid": 30,
        "ocsp-device": 31,
        "ocsp-rim": 31,
        "rim-driver": 32,
        "rim-vbios": 32,
        "rim-signature": 33,
        "rim-chain": 33,
        "rim-validity": 33,
        "rim-measurements": 34,
    }
)
_VIDEO_DECODER_INDEX: Final = 35
# The switches' provisioner is certified by the authority of Hopper.
_CERTIFIED_BY: Final = MappingProxyType({"LS_10": ("LS_10", "GH100")})


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedGpus:
    """GpuClaims whose signatures, chains, revocation and measurements hold under pinned roots."""

    devices: tuple[GpuClaims, ...]
    roots: tuple[PinnedRoot, ...]
    """Those that stand behind it."""
    status_of: dt.datetime
    """thisUpdate of the oldest OCSP response that was used."""
    collateral: tuple[Collateral, ...]
    checks: tuple[CheckLine, ...]
    """The verifier's own checks, all of them passed."""
    verified_at: dt.datetime
    expires_at: dt.datetime
    """When the first of its certificates or responses ends: not believed from then on."""
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        _require_seal(seal, type(self).__name__)


def verify_gpu(
    evidence: GpuEvidence,
    endorsements: Iterable[tuple[str, bytes]],
    roots: tuple[PinnedRoot, ...],
    nonce: bytes,
    now: dt.datetime,
) -> VerifiedGpus:
    """Make all checks over all devices at the aware time `now`; all must hold.

    `endorsements` are (kind, bytes); kinds of other platforms are not looked at. `nonce` has 32
    bytes: `Statement.gpu_nonce`. Raises SizeLimitError and EvidenceFormatError for bytes that are
    no evidence, EvidenceSignatureError for the first check that does not hold. Left to the caller:
    that the evidence's digest stands in the statement, and everything that a policy says.
    """
    checks, verified = judge_gpu(evidence, endorsements, roots, nonce, now)
    if verified is None:
        failed = next(check for check in checks if not check.passed)
        raise EvidenceSignatureError(f"GPU check {CHECK_NUMBERS[failed.id]}, {failed}")
    return verified


def check_gpu(
    evidence: GpuEvidence,
    endorsements: Iterable[tuple[str, bytes]],
    roots: tuple[PinnedRoot, ...],
    nonce: bytes,
    now: dt.datetime,
) -> tuple[CheckLine, ...]:
    """All lines, whatever they say: for a person who asks why. Nothing is believed by it."""
    return judge_gpu(evidence, endorsements, roots, nonce, now)[0]


def judge_gpu(
    evidence: GpuEvidence,
    endorsements: Iterable[tuple[str, bytes]],
    roots: tuple[PinnedRoot, ...],
    nonce: bytes,
    now: dt.datetime,
) -> tuple[tuple[CheckLine, ...], VerifiedGpus | None]:
    """Both in one: all lines; and what is verified, or None if one of them is no pass.

    Raises SizeLimitError and EvidenceFormatError for bytes that are no evidence.
    """
    subject = parse_subject(evidence, endorsements, roots, nonce, now)
    checks = tuple(check(subject) for check in _CHECKS)
    if not all(check.passed for check in checks):
        return checks, None
    return checks, _verified(subject, checks)


def _verified(subject: Subject, checks: tuple[CheckLine, ...]) -> VerifiedGpus:
    used, standings = subject.used(), (*subject.of_devices, *subject.of_rims)
    responses = {each.sha256: each for found in standings for each in found.used}
    chains = [each.chain for each in subject.devices] + [each.chain for each in used]
    ends = [found.ends for found in standings if found.ends is not None]
    return VerifiedGpus(
        devices=tuple(_claims(subject, each) for each in subject.devices),
        roots=tuple({chain[-1].fingerprint: _pin(subject, chain) for chain in chains}.values()),
        status_of=min(each.this_update for each in responses.values()),
        collateral=(
            *(Collateral(kind=RIM_KIND, sha256=each.sha256) for each in used),
            *(Collateral(kind=OCSP_KIND, sha256=each) for each in responses),
        ),
        checks=checks,
        verified_at=subject.now,
        expires_at=min(*ends, *(each.not_after for chain in chains for each in chain)),
        seal=_SEAL,
    )


def _claims(subject: Subject, device: Device) -> GpuClaims:
    architecture = architecture_of(device)
    if architecture is None:
        raise AssertionError("check 28 holds, and can't")
    own = {each.sha256 for each in (*subject.drivers(device), *subject.vbioses(device))}
    on_hold = subject.of_devices[device.index].on_hold
    for rim, standing in zip(subject.used(), subject.of_rims, strict=True):
        on_hold += standing.on_hold if rim.sha256 in own else ()
    return claims_of(device, architecture, on_hold)


def _pin(subject: Subject, chain: Sequence[Certificate]) -> PinnedRoot:
    root = find_root(subject.roots, chain[-1].fingerprint)
    if root is None:
        raise AssertionError("checks 28 and 33 hold, and one of them can't")
    return root


# --- the checks ----------------------------------------------------------------------------------


def _check_format(subject: Subject) -> CheckLine:
    """(27) A report's fields are what its own bytes say; the parser refuses all else."""
    faults = [
        None
        if parse_gpu_report(each.report.raw) == each.report
        else f"{each.name}: fields that its bytes do not say"
        for each in subject.devices
    ]
    return _line("gpu-format", "reports of exact lengths, each block once", faults)


def _check_nonce(subject: Subject) -> CheckLine:
    """(27) The nonce in each *request* is ours; the one in a response is the device's own."""
    faults = [
        None if each.report.nonce == subject.nonce else f"{each.name}: {each.report.nonce.hex()}"
        for each in subject.devices
    ]
    return _line("gpu-nonce", f"nonce {subject.nonce.hex()} in each request", faults)


def _check_chain(subject: Subject) -> CheckLine:
    """(28) Five certificates from the firmware's key to a root that is pinned for devices."""
    faults = []
    for each in subject.devices:
        fault = _pin_fault(subject, each.chain, Anchor.NVIDIA_DEVICE) or chain_fault(each.chain)
        if len(each.chain) != CHAIN_LENGTH:
            fault = f"{len(each.chain)} certificates"
        faults.append(None if fault is None else f"{each.name}: {fault}")
    wanted = f"{CHAIN_LENGTH} certificates, ECDSA P-384, to {_named(subject, Anchor.NVIDIA_DEVICE)}"
    return _line("gpu-chain", wanted, faults)


def _check_validity(subject: Subject) -> CheckLine:
    """(28) All certificates of devices are valid now."""
    faults = [_validity(each.name, each.chain, subject.now) for each in subject.devices]
    return _line("gpu-validity", f"certificates valid at {subject.now}", faults)


def _check_model(subject: Subject) -> CheckLine:
    """(28) All subjects below the root name one chip, and it is of the kind that was stated."""
    faults = []
    for each in subject.devices:
        model, architecture = model_of(each.leaf), architecture_of(each)
        models = [model_of(certificate) for certificate in each.chain[:-1]]
        authorities = _CERTIFIED_BY.get(model or "", (model,))
        switch = architecture is Architecture.SWITCH_LS10
        good = (
            architecture is not None
            and models[-1] in authorities
            and set(models[:-1]) == {model}
            and switch is (each.kind is GpuDeviceKind.SWITCH)
        )
        named = ", ".join(m or "none" for m in models)
        faults.append(None if good else f"{each.name}: a {each.kind.value} of {named}")
    return _line("gpu-model", "one chip of the stated kind in all subjects", faults)


def _check_signature(subject: Subject) -> CheckLine:
    """(29) ECDSA P-384 with SHA-384 over request and response, under the leaf's key."""
    faults = [
        None
        if verify_p384_numbers(
            each.leaf.public_key,
            each.report.signature_r,
            each.report.signature_s,
            each.report.signed_bytes,
        )
        else f"{each.name}: one that does not verify"
        for each in subject.devices
    ]
    return _line("gpu-signature", "an ECDSA P-384 signature of the leaf's key", faults)


def _check_fwid(subject: Subject) -> CheckLine:
    """(30) The firmware that a report names is the one that the leaf's key belongs to.

    An old driver and a switch report none: whether that will do is for the policy.
    """
    faults = []
    for each in subject.devices:
        reported, certified = each.report.fwid, certified_fwid(each.leaf)
        good = certified is not None and reported in {None, certified}
        shown = f"{_hex(reported)}, certified {_hex(certified)}"
        faults.append(None if good else f"{each.name}: reported {shown}")
    silent = sum(each.report.fwid is None for each in subject.devices)
    wanted = "the firmware that the leaf is certified for"
    return _line("gpu-fwid", wanted, faults, done=f"{silent} without")


def _check_ocsp_device(subject: Subject) -> CheckLine:
    """(31) Fresh word on every certificate between a leaf and its root: not revoked."""
    names = [each.name for each in subject.devices]
    return _ocsp_line("ocsp-device", subject, names, subject.of_devices)


def _check_ocsp_rim(subject: Subject) -> CheckLine:
    """(31, 33) Fresh word on every certificate of a manifest below its root: not revoked."""
    names = [each.name for each in subject.used()]
    return _ocsp_line("ocsp-rim", subject, names, subject.of_rims)


def _check_rim_driver(subject: Subject) -> CheckLine:
    """(32) Exactly one manifest for the product and version of each GPU's driver."""
    faults = [
        _count_fault(each, f"driver {each.report.driver_version}", subject.drivers(each))
        for each in subject.devices
        if each.kind is GpuDeviceKind.GPU
    ]
    if not faults:
        return not_demanded("rim-driver", "switches alone, which have no driver")
    return _line("rim-driver", "one manifest of each GPU's driver", faults)


def _check_rim_vbios(subject: Subject) -> CheckLine:
    """(32) Exactly one manifest for the product and version of each device's VBIOS."""
    faults = [
        _count_fault(each, f"VBIOS {each.report.vbios_version}", subject.vbioses(each))
        for each in subject.devices
    ]
    return _line("rim-vbios", "one manifest of each device's VBIOS", faults)


def _check_rim_signature(subject: Subject) -> CheckLine:
    """(33) The digest is that of the signed tree; its signature holds under the first certificate.

    Size, DTD, form, one signature and one reference are the parser's.
    """
    faults = []
    for each in subject.used():
        fault = each.signature_fault()
        faults.append(None if fault is None else f"{each.name}: {fault}")
    return _line("rim-signature", "an ECDSA P-384 signature of the whole manifest", faults)


def _check_rim_chain(subject: Subject) -> CheckLine:
    """(33) From the signer to a root that is pinned for manifests."""
    faults = []
    for each in subject.used():
        fault = _pin_fault(subject, each.chain, Anchor.NVIDIA_RIM) or chain_fault(each.chain)
        faults.append(None if fault is None else f"{each.name}: {fault}")
    wanted = f"a chain, ECDSA P-384, to {_named(subject, Anchor.NVIDIA_RIM)}"
    return _line("rim-chain", wanted, faults)


def _check_rim_validity(subject: Subject) -> CheckLine:
    """(33) All certificates of manifests are valid now."""
    faults = [_validity(each.name, each.chain, subject.now) for each in subject.used()]
    return _line("rim-validity", f"certificates valid at {subject.now}", faults)


def _check_measurements(subject: Subject) -> CheckLine:
    """(34) Each device measures, at every active index of its manifests, one of the good values."""
    wanted = "at each active index one of the manifests' values"
    faults: list[str | None] = []
    missing: list[str] = []
    for each in subject.devices:
        manifests = [found for found in (subject.drivers(each), subject.vbioses(each)) if found]
        if len(manifests) < (1 if each.kind is GpuDeviceKind.SWITCH else 2):
            missing.append(each.name)
        # Of several that claim one version, the first: rim-driver or rim-vbios refuses them.
        fault = _measurement_fault(each, [found[0] for found in manifests]) if manifests else None
        faults.append(None if fault is None else f"{each.name}: {fault}")
    if missing and not any(faults):
        return _not_checked("rim-measurements", f"{missing[0]}: a manifest is missing", wanted)
    return _line("rim-measurements", wanted, faults)


_CHECKS: Final[tuple[Callable[[Subject], CheckLine], ...]] = (
    _check_format,
    _check_nonce,
    _check_chain,
    _check_validity,
    _check_model,
    _check_signature,
    _check_fwid,
    _check_ocsp_device,
    _check_ocsp_rim,
    _check_rim_driver,
    _check_rim_vbios,
    _check_rim_signature,
    _check_rim_chain,
    _check_rim_validity,
    _check_measurements,
)


def _measurement_fault(device: Device, rims: Sequence[Rim]) -> str | None:
    golden: dict[int, tuple[bytes, ...]] = {}
    for rim in rims:
        for index, values in rim.golden.items():
            if index in golden:
                return f"index {index} is active in both manifests"
            golden[index] = values
    measured = device.report.measurements
    if not golden:
        return "no active index"
    # An index beyond the last block has none, so there are never more values than blocks.
    for index, values in sorted(golden.items()):
        if index == _VIDEO_DECODER_INDEX and not device.report.video_decoder_on:
            continue
        if measured.get(index + 1) not in values:
            return f"index {index}: {_hex(measured.get(index + 1))}"
    return None


def _count_fault(device: Device, what: str, rims: Sequence[Rim]) -> str | None:
    return None if len(rims) == 1 else f"{device.name}: {len(rims)} manifests of {what}"


def _pin_fault(subject: Subject, chain: Sequence[Certificate], anchor: Anchor) -> str | None:
    root = find_root(subject.roots, chain[-1].fingerprint)
    if root is None or root.anchor is not anchor:
        return f"{chain[-1].common_name[:64]} {chain[-1].fingerprint.hex()}"
    return None


def _validity(name: str, chain: Sequence[Certificate], now: dt.datetime) -> str | None:
    fault = validity_fault(chain, now)
    return None if fault is None else f"{name}: {fault}"


def _ocsp_line(
    check: str, subject: Subject, names: Sequence[str], standings: Sequence[Standing]
) -> CheckLine:
    faults = [
        None if each.fault is None else f"{name}: {each.fault}"
        for name, each in zip(names, standings, strict=True)
    ]
    held = sum(len(each.on_hold) for each in standings)
    wanted = f"good of each certificate between leaf and root, fresh at {subject.now}"
    return _line(check, wanted, faults, done=f"{held} on hold")


def _line(check: str, wanted: str, faults: Sequence[str | None], done: str = "") -> CheckLine:
    """One line over all: the first fault, or how many hold. None to look at: not checked."""
    if not faults:
        return _not_checked(check, "none to look at", wanted)
    found = [each for each in faults if each is not None]
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return line(check, found[0] + more, wanted, good=False)
    note = f", {done}" if done else ""
    return line(check, f"{len(faults)} that hold{note}", wanted, good=True)


def _not_checked(check: str, found: str, wanted: str) -> CheckLine:
    return CheckLine(id=check, found=found, wanted=wanted, verdict=Verdict.NOT_CHECKED)


def _hex(value: bytes | None) -> str:
    return "none" if value is None else value.hex()


def _named(subject: Subject, anchor: Anchor) -> str:
    pins = [str(each) for each in subject.roots if each.anchor is anchor]
    return "; ".join(pins) or f"no root, since none is pinned for {anchor.value}"
