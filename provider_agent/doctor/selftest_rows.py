"""The checks of a selftest: what was found at each step, judged as `doctor` judges a machine."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from provider_agent.doctor.check import (
    Category,
    Outcome,
    Remedy,
    RemedyKind,
    Row,
    Severity,
    Status,
    bad,
    decided,
    good,
    skipped,
    warn,
)
from provider_agent.doctor.context import Context
from provider_agent.doctor.view import HostView, UnreadError
from trust.verifier.results import AttestationResult

BOOT_MILLISECONDS_MAX: Final = 120_000
OPEN_BYTES_PER_SECOND_LEAST: Final = 10_000_000
PURPOSES: Final = ("meter", "release")


class Step(enum.Enum):
    """Where a selftest can end early."""

    IMAGE = "image"
    CHIP = "chip"
    BOOT = "boot"
    EVIDENCE = "evidence"
    OPEN = "open"
    TEARDOWN = "teardown"


@dataclass(kw_only=True, slots=True)
class Facts:
    """What one selftest found. None: it did not come so far."""

    platform: str
    absent: str | None = None
    """Why this machine has no such platform; None: it has, or none was asked for."""
    gpus: int | None = None
    image: bytes | None = None
    """Measurement of the runtime's files, by this process: 48 bytes."""
    root: bytes | None = None
    measurement: bytes | None = None
    """What the chip says that it started: 48 bytes."""
    isolation_refused: tuple[str, ...] | None = None
    boot_milliseconds: int | None = None
    """From the launch to the first hello."""
    results: dict[str, AttestationResult] = field(default_factory=dict)
    """Verdict for each purpose."""
    misstated: dict[str, str] = field(default_factory=dict)
    """Fields that are not this session's, for each purpose."""
    open_bytes_per_second: int | None = None
    receipts: int = 0
    """Receipts of a run that goes on, under the attested key."""
    resident_kib: int | None = None
    left_behind: tuple[str, ...] | None = None
    failed: dict[Step, str] = field(default_factory=dict)
    """Why a step ended early."""

    @property
    def accepted(self) -> bool:
        """Both purposes' evidence verified, and answered our own challenges."""
        return all(
            each in self.results and self.results[each].accepted and not self.misstated[each]
            for each in PURPOSES
        )


def make_rows(facts: Facts) -> tuple[Row, ...]:
    """The rows over these facts, parents first."""

    def of(judge: Callable[[Facts], Outcome]) -> Callable[[Context], Outcome]:
        return lambda _context: judge(facts)

    return tuple(
        Row(
            id=f"selftest.{name}",
            title=title,
            category=Category.SELFTEST,
            severity=severity,
            read=read,
            operator=operator,
            required=required,
            unit=unit,
            purpose=purpose,
            judge=of(judge),
            remedies=remedies,
            depends_on=tuple(f"selftest.{each}" for each in depends_on),
        )
        for (
            name, title, severity, read, operator, required, unit, purpose, judge, remedies,
            depends_on,
        ) in _ROWS
    )  # fmt: skip


# --- judges --------------------------------------------------------------------------------------


def _ended(facts: Facts, step: Step) -> Outcome:
    """It did not come so far: by its own failure, or nobody knows."""
    if (reason := facts.failed.get(step)) is not None:
        return bad(reason)
    raise UnreadError("the test did not come so far")


PRESENCE: Final = {
    "sev-snp": ("sys/module/kvm_amd/parameters/sev_snp", "doctor --only snp.vm_type snp.dev"),
    "tdx": ("sys/module/kvm_intel/parameters/tdx", "doctor --only tdx.vm_type tdx.sgx"),
}
"""Where KVM says that it takes guests of a platform, and who says why it does not."""


def why_absent(view: HostView, platform: str) -> str | None:
    """Why a selftest of a platform can't be: it is not there. None: KVM says it is, or none asked.

    A parameter that cannot be read is no parameter: nothing would boot either.
    """
    if platform not in PRESENCE:
        return None
    path, doctor = PRESENCE[platform]
    try:
        value = view.text(path, most=64)
    except UnreadError as error:
        value = str(error)
    if value in ("Y", "1"):
        return None
    return f"KVM takes no {platform} guest here ({value}): blindhost-agent {doctor} says why"


def _platform(facts: Facts) -> Outcome:
    if facts.platform == "simulated":
        return good("simulated", note="it proves that the software works, not that it is sealed")
    if facts.absent is not None:
        return bad("not on this machine", note=facts.absent)
    if facts.platform in PRESENCE:
        return Outcome(
            status=Status.UNKNOWN,
            actual=None,
            note=f"this command does not boot {facts.platform} yet: nothing about it was tested",
        )
    return bad(facts.platform)


def _image(facts: Facts) -> Outcome:
    return good(facts.image.hex()) if facts.image else _ended(facts, Step.IMAGE)


def _chip(facts: Facts) -> Outcome:
    return good(f"root {facts.root.hex()}") if facts.root else _ended(facts, Step.CHIP)


def _boot(facts: Facts) -> Outcome:
    if facts.boot_milliseconds is None:
        return _ended(facts, Step.BOOT)
    found = facts.boot_milliseconds
    return good(found) if found <= BOOT_MILLISECONDS_MAX else warn(found)


def _walls(facts: Facts) -> Outcome:
    if facts.isolation_refused is None:
        return _ended(facts, Step.BOOT)
    if facts.isolation_refused:
        return warn(facts.isolation_refused, note="the kernel refused these walls of the sandbox")
    return good("none")


def _measurement(facts: Facts) -> Outcome:
    if facts.measurement is None or facts.image is None:
        return _ended(facts, Step.BOOT)
    return decided(
        facts.measurement == facts.image, facts.measurement.hex(), required=facts.image.hex()
    )


def _evidence(facts: Facts) -> Outcome:
    """Every line of the verifier's, for both purposes; the first that refuses is shown."""
    for each in PURPOSES:
        if (result := facts.results.get(each)) is None:
            if facts.failed.get(Step.EVIDENCE):
                return _ended(facts, Step.EVIDENCE)
            continue
        refused = [line for line in result.checks if not line.passed]
        if refused:
            return bad(f"{each}: {refused[0]}")
    missing = [each for each in PURPOSES if each not in facts.results]
    if missing:
        return _ended(facts, Step.EVIDENCE)
    lines = sum(len(result.checks) for result in facts.results.values())
    kinds = sorted({result.kind.value for result in facts.results.values()})
    return good(f"{lines} lines, {kinds[0]} root")


def _statement(facts: Facts) -> Outcome:
    missing = [each for each in PURPOSES if each not in facts.misstated]
    wrong = [f"{name}: {what}" for name, what in facts.misstated.items() if what]
    if wrong:
        return bad(wrong[0])
    return _ended(facts, Step.EVIDENCE) if missing else good("both challenges")


def _opens(facts: Facts) -> Outcome:
    if facts.open_bytes_per_second is None:
        return _ended(facts, Step.OPEN)
    rate = facts.open_bytes_per_second
    return decided(rate >= OPEN_BYTES_PER_SECOND_LEAST, rate)


def _receipt(facts: Facts) -> Outcome:
    return good(facts.receipts) if facts.receipts else _ended(facts, Step.OPEN)


def _memory(facts: Facts) -> Outcome:
    if facts.resident_kib is None:
        raise UnreadError("proc/PID/status: it has ended, or is another user's")
    return good(facts.resident_kib >> 10)


def _teardown(facts: Facts) -> Outcome:
    if facts.left_behind is None:
        return _ended(facts, Step.TEARDOWN)
    return bad(facts.left_behind) if facts.left_behind else good("nothing")


def _gpu(facts: Facts) -> Outcome:
    if facts.gpus is None:
        raise UnreadError("the PCI bus could not be read")
    if not facts.gpus:
        return skipped("there is no NVIDIA GPU on this machine: none was measured")
    return skipped("the simulated platform gives no GPU to its enclave: none was measured")


_LOG: Final = Remedy(kind=RemedyKind.COMMAND, text="HOME/chip/log says what the chip did")
_ENCLAVE: Final = Remedy(
    kind=RemedyKind.PACKAGE,
    text="pip install 'blindhost[enclave]': on this platform the enclave runs from the host's own "
    "packages",
)
_MAKE: Final = Remedy(
    kind=RemedyKind.COMMAND,
    text="blindhost-agent simulated-root --home ROOT, then "
    "blindhost-agent simulated-chip --root ROOT --home HOME",
)
_B, _D, _A = Severity.BLOCKER, Severity.DEGRADED, Severity.ADVICE

_ROWS: Final = (
    ("platform", "The platform can be booted by this command", _B, ("option:--platform",), "in",
     ("simulated",), None,
     "A selftest says what was tested, and no more.", _platform, (), ()),
    ("image", "The runtime image is whole", _B, ("file:RUNTIME",), "exists", "a measurement", None,
     "Buyers accept an enclave by this number.", _image, (), ("platform",)),
    ("chip", "The chip runs", _B, ("socket:HOME/chip",), "exists", "an answer", None,
     "It measures the enclave, and signs for it.", _chip, (_MAKE, _LOG), ("image",)),
    ("boot", "The enclave boots, and greets", _B, ("door:messages",), "<=", BOOT_MILLISECONDS_MAX,
     "ms", "A buyer waits so long before a job begins.", _boot, (_ENCLAVE, _LOG), ("chip",)),
    ("isolation", "Every wall of the enclave's sandbox stands", _A, ("chip:isolation",), "none",
     "none", None, "On a laptop the kernel's walls are all that there is.", _walls, (), ("boot",)),
    ("measurement", "What the chip measured is the runtime image", _B, ("chip:measurement",), "==",
     "the image's own", None, "Otherwise something else was started, and no buyer releases a key.",
     _measurement, (_LOG,), ("boot",)),
    ("evidence", "The real verifier accepts the evidence", _B, ("door:evidence",), "==",
     "every line accepted", None,
     "Signature, chain, revocation list, policy: the very function that buyers run.", _evidence,
     (_LOG,), ("measurement",)),
    ("statement", "The evidence answers this test's challenges", _B, ("door:evidence",), "==",
     "both challenges", None, "Old evidence proves that an enclave ran once.", _statement, (_LOG,),
     ("measurement",)),
    ("open", "The granted key opens sealed weights, and how fast", _D, ("door:blobs",), ">=",
     OPEN_BYTES_PER_SECOND_LEAST, "bytes/s",
     ("By the door into the enclave's memory. It asks for a segment only under a key that opened "
      "the first; the last one is counted when it has left the host."), _opens, (),
     ("evidence", "statement")),
    ("receipt", "A receipt comes, under the attested key", _B, ("door:messages",), ">", 0,
     "receipts", "It comes once all inputs are open. What a host earns is posted from receipts.",
     _receipt, (_LOG,), ("evidence", "statement")),
    ("memory", "What the enclave took at its peak", _A, ("file:proc/PID/status",), ">", 0, "MiB",
     "The offer's memory less this is left for a model.", _memory, (), ("boot",)),
    ("gpu", "The GPU inside the enclave", _A, ("pci",), ">", 0, "GPUs",
     "Only the enclave can ask a GPU whose mode is on.", _gpu, (), ("platform",)),
    ("teardown", "Nothing is left of it", _B, ("chip:status", "file:proc/PID"), "==", "nothing",
     None, "The next lease begins with an empty machine.", _teardown, (_LOG,), ("boot",)),
)  # fmt: skip
