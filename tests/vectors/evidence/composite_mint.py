"""One enclave with its CPU and GPU, whose parts belong together or not, as a lie wants."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from tests.trust.verifier.gpu_vendor import Case, Gpu
from tests.trust.verifier.tdx_vendor import GUEST, IMAGE
from tests.trust.verifier.tdx_vendor import good as good_td
from tests.trust.verifier.vendor import NOW
from tests.vectors.evidence import snp_mint
from tests.vectors.evidence.format import (
    b64,
    document_json,
    endorsements_json,
    roots_json,
)
from tests.vectors.evidence.gpu import policy_of
from trust.encoding import digest
from trust.evidence.tdx import launch_config_id
from trust.identity import PartyKey
from trust.jobs import LaunchDocument, LaunchPurpose
from trust.messages import GpuEvidence, Purpose, Statement
from trust.simulated.nvidia_gpu import REQUEST_HEAD
from trust.verifier.facility import FacilityDemands
from trust.verifier.gpu_device import parse_device
from trust.verifier.policy import AppraisalPolicy

ENDORSER, OTHER = (PartyKey.from_bytes(bytes([number]) * 32) for number in (1, 2))
MARKET = PartyKey.from_bytes(bytes([3]) * 32)
NONCE = hashlib.sha256(b"simulated nonce").digest()
JOB = hashlib.sha256(b"simulated job").digest()
LEASE = "leas_" + "0" * 26

LAUNCH = LaunchDocument(
    version=1,
    purpose=LaunchPurpose.RUN,
    job=JOB,
    lease=LEASE,
    generation=1,
    rank=0,
    ranks=1,
    market=MARKET.identity,
)
STATEMENT = Statement(
    version=1,
    purpose=Purpose.RELEASE,
    verifier=hashlib.sha256(b"simulated verifier").digest(),
    nonce=NONCE,
    hpke_key=bytes(1216),
    signing_key=bytes(32),
    job=JOB,
    lease=LEASE,
    generation=1,
    rank=0,
    ranks=1,
    launch=LAUNCH.digest,
    gpu_evidence=None,
)
ANOTHER_SESSION = dataclasses.replace(
    STATEMENT, nonce=hashlib.sha256(b"simulated nonce of another session").digest()
)


def gpus_of(nonce: bytes, *serials: bytes) -> Case:
    """Hoppers that answered this nonce."""
    request = REQUEST_HEAD + nonce + b"\x00"
    return Case(
        gpus=tuple(Gpu(serial=serial, request=request) for serial in serials or (b"GPU00001",)),
        nonce=nonce,
    )


def serial_of(case: Case) -> bytes:
    return parse_device(0, case.evidence().devices[0]).serial.lstrip(b"\x00")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is shown; the defaults belong together."""

    cpu: str = "genoa"
    """genoa, vlek or tdx."""
    statement: Statement = STATEMENT
    """But for the digest of what the GPUs say."""
    signed: Statement | None = None
    """What the CPU signed; None: the statement that is shown."""
    gpus: Case = dataclasses.field(default_factory=lambda: gpus_of(STATEMENT.gpu_nonce))
    stated: bytes | None = None
    """The digest in the statement; None: of the evidence that is shown."""
    states_none: bool = False
    shows_none: bool = False
    demands_gpu: bool = True
    facility: FacilityDemands | None = None
    further: tuple[tuple[str, bytes], ...] = ()
    report_edit: Any = bytes
    launch: bytes = LAUNCH.encode()

    def shown(self) -> GpuEvidence:
        return self.gpus.evidence()

    def whole_statement(self) -> Statement:
        stated = None if self.states_none else self.stated or self.shown().digest
        return dataclasses.replace(self.statement, gpu_evidence=stated)

    def report(self) -> bytes:
        about = (self.signed or self.whole_statement()).report_data
        if self.cpu == "tdx":
            guest = dataclasses.replace(
                GUEST, report_data=about, mr_config_id=launch_config_id(self.statement.launch)
            )
            return self.report_edit(good_td(guest=guest).quote())
        edits = {0x50: about, 0xC0: self.statement.launch}
        return self.report_edit(snp_mint.report(self.cpu, edits))

    def endorsements(self) -> tuple[tuple[str, bytes], ...]:
        of_cpu = (
            good_td().endorsements()
            if self.cpu == "tdx"
            else tuple(snp_mint.chain(self.cpu).items())
        )
        of_gpus = () if self.shows_none else self.gpus.endorsements()
        return (*of_cpu, *of_gpus, *self.further)

    def policy(self) -> AppraisalPolicy:
        made = snp_mint.policy("genoa" if self.cpu == "tdx" else self.cpu)
        if self.cpu == "tdx":
            case = good_td()
            made = dataclasses.replace(
                made,
                roots=case.pinned(),
                snp=None,
                measurements=(),
                tdx=case.demands,
                tdx_images=(IMAGE,),
            )
        if self.demands_gpu:
            gpu = policy_of(self.gpus)
            roots = (*made.roots, *self.gpus.roots())
            made = dataclasses.replace(made, roots=roots, gpu=gpu.gpu)
        return dataclasses.replace(made, facility=self.facility)

    def whole(self) -> dict[str, Any]:
        statement, policy = self.whole_statement(), self.policy()
        return {
            "version": 1,
            "now": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "evidence": {
                "platform": "tdx" if self.cpu == "tdx" else "sev-snp",
                "report": b64(self.report()),
                "gpu": None if self.shows_none else b64(self.shown().encode()),
                "statement": b64(statement.encode()),
                "launch": b64(self.launch),
            },
            "endorsements": endorsements_json(self.endorsements()),
            "roots": roots_json(policy.roots),
            "policy": document_json(policy),
            "expected": {"report_data": None, "launch": None, "gpu_nonce": None},
        }


def launched(launch: bytes, **changes: Any) -> Machine:
    """The machine was launched with this document, and its statement says so."""
    statement = dataclasses.replace(STATEMENT, launch=digest(launch), **changes)
    return Machine(statement=statement, gpus=gpus_of(statement.gpu_nonce), launch=launch)
