"""The composite: a CPU, its GPU and the building that they stand in, and lies between them.

Each part is genuine. What is wrong is that they don't belong together, or that one is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from tests.trust.verifier.vendor import DAY, NOW
from tests.vectors.evidence import snp_mint
from tests.vectors.evidence.composite_mint import (
    ANOTHER_SESSION,
    ENDORSER,
    LAUNCH,
    MARKET,
    NONCE,
    OTHER,
    STATEMENT,
    Machine,
    gpus_of,
    launched,
    serial_of,
)
from tests.vectors.evidence.format import (
    Scenario,
    accepted,
    b64,
    difference,
    malformed,
    refused,
)
from trust.identity import PartyKey
from trust.verifier.facility import FacilityDemands, FacilityEndorsement

# --- buildings -----------------------------------------------------------------------------------

DEMANDS = FacilityDemands(endorsers=(ENDORSER.identity,), age_days_max=90, never=(MARKET.identity,))
_SERIAL = serial_of(gpus_of(STATEMENT.gpu_nonce))
_OTHER_SERIAL = serial_of(gpus_of(STATEMENT.gpu_nonce, b"GPU00002"))


def _milliseconds(days: int) -> int:
    return int((NOW + days * DAY).timestamp() * 1000)


def _endorsed(signer: PartyKey = ENDORSER, **changes: Any) -> tuple[str, bytes]:
    good: dict[str, Any] = {
        "version": 1,
        "endorser": ENDORSER.identity,
        "facility": "simulated building",
        "chip_id": snp_mint.CHIP_ID,
        "ppid": None,
        "gpus": (_SERIAL,),
        "issued_at": _milliseconds(-10),
        "expires_at": _milliseconds(10),
    }
    return ("facility", signer.sign(FacilityEndorsement(**{**good, **changes})).encode())


def _housed(*endorsements: tuple[str, bytes], **changes: Any) -> Machine:
    return Machine(facility=DEMANDS, further=endorsements, **changes)


_TAMPERED = _endorsed()[1]
BASES: Mapping[str, dict[str, Any]] = {
    "composite-genoa": Machine().whole(),
    "composite-facility": _housed(_endorsed()).whole(),
    "composite-tdx": Machine(cpu="tdx").whole(),
}


def _patch(machine: Machine, base: str) -> dict[str, Any]:
    return difference(BASES[f"composite-{base}"], machine.whole())


def _lie(
    name: str, tells: str, check: str | tuple[str, ...], machine: Machine, base: str = "genoa"
) -> Scenario:
    made = refused("composite", name, tells, f"composite-{base}", "", **_patch(machine, base))
    return dataclasses.replace(made, checks=(check,) if isinstance(check, str) else check)


def _at_home(name: str, tells: str, check: str | tuple[str, ...], machine: Machine) -> Scenario:
    return _lie(name, tells, check, machine, "facility")


_HERS = gpus_of(ANOTHER_SESSION.gpu_nonce)
_OTHER_GPU = gpus_of(STATEMENT.gpu_nonce, b"GPU00002")

BETWEEN = (
    _lie(
        "gpu-that-nobody-stated",
        "Genuine GPU evidence under the right nonce, of another GPU than the one in the statement.",
        "gpu-in-statement",
        Machine(gpus=_OTHER_GPU, stated=gpus_of(STATEMENT.gpu_nonce).evidence().digest),
    ),
    _lie(
        "gpu-beside-a-statement-of-none",
        "Genuine GPU evidence under the right nonce, beside a statement that shows no GPU.",
        "gpu-in-statement",
        Machine(states_none=True),
    ),
    _lie("gpu-withheld", "The GPU's evidence is withheld.", "gpu", Machine(shows_none=True)),
    _lie(
        "gpu-withheld-and-none-stated",
        "An enclave without a GPU, where the policy demands one.",
        "gpu",
        Machine(shows_none=True, states_none=True),
    ),
    _lie(
        "gpu-of-another-session",
        "The GPU answered another session's nonce, and the statement names its answer.",
        "gpu-nonce",
        Machine(gpus=_HERS),
    ),
    _lie(
        "gpu-under-the-bare-nonce",
        "The GPU answered the verifier's own nonce, which is not bound to the statement's keys.",
        "gpu-nonce",
        Machine(gpus=gpus_of(NONCE)),
    ),
    _lie(
        "gpu-under-the-statements-digest",
        "The GPU answered the digest of the statement.",
        "gpu-nonce",
        Machine(gpus=gpus_of(STATEMENT.digest)),
    ),
    _lie(
        "statement-that-the-cpu-did-not-sign",
        "A statement with other keys, whose GPU answered for it; the CPU signed the other one.",
        "report-data",
        Machine(
            statement=dataclasses.replace(STATEMENT, signing_key=bytes([1]) * 32),
            gpus=gpus_of(dataclasses.replace(STATEMENT, signing_key=bytes([1]) * 32).gpu_nonce),
            signed=Machine().whole_statement(),
        ),
    ),
    _lie(
        "gpu-digest-put-in-afterwards",
        "The CPU signed the statement without its GPU field; the digest was put in afterwards.",
        "report-data",
        Machine(signed=STATEMENT),
    ),
    _lie(
        "gpu-first",
        "The CPU's signature is not good, and its GPU's evidence is: it is not looked at.",
        "report-signature",
        Machine(report_edit=lambda report: report[:0x90] + b"\xff" + report[0x91:]),
    ),
    _lie(
        "td-and-gpu-of-another-session",
        "Under a TD, the GPU answered another session's nonce.",
        "gpu-nonce",
        Machine(cpu="tdx", gpus=_HERS),
        "tdx",
    ),
    _lie(
        "td-and-gpu-that-nobody-stated",
        "Under a TD, GPU evidence that is not in the statement.",
        "gpu-in-statement",
        Machine(cpu="tdx", gpus=_OTHER_GPU, stated=gpus_of(STATEMENT.gpu_nonce).evidence().digest),
        "tdx",
    ),
    _lie("td-without-gpu", "A TD shows no GPU.", "gpu", Machine(cpu="tdx", shows_none=True), "tdx"),
    malformed(
        "composite",
        "endorsement-of-an-unknown-kind",
        "An endorsement of a kind that no verifier knows.",
        "composite-genoa",
        "report-format",
        **_patch(Machine(further=(("sevsnp-magic", b"x"),)), "genoa"),
    ),
    malformed(
        "composite",
        "tds-collateral-beside-a-genoa",
        "A TD's endorsement beside a Genoa's evidence.",
        "composite-genoa",
        "report-format",
        **_patch(Machine(further=(("tdx-qe-identity", b"x"),)), "genoa"),
    ),
    malformed(
        "composite",
        "gpu-evidence-with-a-tail",
        "A byte stands after the GPU evidence.",
        "composite-genoa",
        "gpu-format",
        evidence={"gpu": b64(Machine().shown().encode() + b" ")},
    ),
)

_OTHERS: dict[str, Any] = {
    "job": hashlib.sha256(b"simulated job of another").digest(),
    "lease": "leas_" + "1" * 26,
    "generation": 2,
    "rank": 1,
    "ranks": 4,
}
_TWO = dataclasses.replace(LAUNCH, ranks=2)
LAUNCHED = (
    *(
        _lie(
            f"launched-with-another-{name}",
            f"The machine was launched with another {name} than the one in the statement.",
            f"launch-{name}",
            launched(dataclasses.replace(_TWO, **{name: value}).encode(), ranks=2),
        )
        for name, value in _OTHERS.items()
    ),
    _lie(
        "another-launch-document",
        "The launch document that is shown is not the one that the machine was launched with.",
        "launch-digest",
        Machine(launch=dataclasses.replace(LAUNCH, market=OTHER.identity).encode()),
    ),
    refused(
        "composite",
        "no-launch-document",
        "The launch document is withheld.",
        "composite-genoa",
        "launch-digest",
        evidence={"launch": None},
    ),
    _lie(
        "launch-with-an-unknown-field",
        "The launch document has a field that nobody knows.",
        "launch-form",
        launched(LAUNCH.encode().replace(b'{"generation"', b'{"debug":true,"generation"')),
    ),
)

HOUSED = (
    _at_home(
        "cpu-and-gpu-of-two-buildings",
        "CPU and GPU stand in two endorsements, each of which is good: one machine is built of two "
        "on paper.",
        "facility-gpus",
        _housed(
            _endorsed(gpus=(_OTHER_SERIAL,)),
            _endorsed(chip_id=bytes([7]) * 64),
        ),
    ),
    _at_home(
        "gpu-in-no-building",
        "The GPU stands in no endorsement.",
        "facility-gpus",
        _housed(_endorsed(gpus=())),
    ),
    _at_home("machine-in-no-building", "No endorsement is shown.", "facility-machine", _housed()),
    _at_home(
        "another-machines-building",
        "The endorsement is another processor's.",
        "facility-machine",
        _housed(_endorsed(chip_id=bytes([7]) * 64)),
    ),
    _at_home(
        "endorser-of-nobodys-choice",
        "The endorsement is good, by an endorser whom the policy does not name.",
        "facility-endorser",
        _housed(_endorsed(OTHER, endorser=OTHER.identity)),
    ),
    _at_home(
        "endorsement-signed-by-another",
        "Another key signed the endorsement in the endorser's name.",
        ("facility-endorser", "facility-signature"),
        _housed(_endorsed(OTHER)),
    ),
    _at_home(
        "endorsement-changed-afterwards",
        "The building's name was changed after the endorser signed.",
        "facility-signature",
        _housed(("facility", _TAMPERED.replace(b"simulated building", b"simulated Building"))),
    ),
    # The market's key is never an endorser of a policy that loads: both lines refuse.
    _at_home(
        "market-as-endorser",
        "The market endorses the machine itself.",
        ("facility-endorser", "facility-market"),
        _housed(_endorsed(MARKET, endorser=MARKET.identity)),
    ),
    _at_home(
        "endorsement-of-tomorrow",
        "The endorsement is issued tomorrow.",
        "facility-issued",
        _housed(_endorsed(issued_at=_milliseconds(1))),
    ),
    _at_home(
        "endorsement-that-ended",
        "The endorsement ended yesterday.",
        "facility-expires",
        _housed(_endorsed(expires_at=_milliseconds(-1))),
    ),
    _at_home(
        "endorsement-of-last-year",
        "The endorsement is older than the policy allows, and says that it is good.",
        "facility-age",
        _housed(_endorsed(issued_at=_milliseconds(-91))),
    ),
    _at_home(
        "endorsement-of-a-masked-chip",
        "A VLEK names no chip, and so stands in no building.",
        ("facility-machine", "facility-processor"),
        _housed(_endorsed(), cpu="vlek"),
    ),
)

SCENARIOS: tuple[Scenario, ...] = (
    accepted("composite", "good-genoa", "A Genoa with its Hopper.", "composite-genoa"),
    accepted("composite", "good-facility", "The same, in its building.", "composite-facility"),
    accepted("composite", "good-td", "A TD with its Hopper.", "composite-tdx"),
    accepted(
        "composite",
        "good-one-of-two-buildings",
        "Two endorsements of one machine, of which the older ended.",
        "composite-facility",
        **_patch(
            _housed(
                _endorsed(issued_at=_milliseconds(-50), expires_at=_milliseconds(-1)), _endorsed()
            ),
            "facility",
        ),
    ),
    accepted(
        "composite",
        "good-without-gpu",
        "An enclave without a GPU, under a policy that demands none.",
        "composite-genoa",
        **_patch(Machine(shows_none=True, states_none=True, demands_gpu=False), "genoa"),
    ),
    *BETWEEN,
    *LAUNCHED,
    *HOUSED,
)
