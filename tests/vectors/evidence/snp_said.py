"""How the vectors of SEV-SNP are told: who says what, and what stays good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.trust.verifier.vendor import (
    pin,
)
from tests.vectors.evidence import snp_mint as mint
from tests.vectors.evidence.format import (
    Scenario,
    accepted,
    b64,
    endorsements_json,
    malformed,
    refused,
    roots_json,
)
from tests.vectors.evidence.snp_mint import (
    chain,
)
from trust.evidence.claims import Product

GOOD, BODY = mint.report(), mint.body()


def told(name: str, tells: str, check: str, edits: mint.Edits, who: str = "genoa") -> Scenario:
    """The chip signs a report that says something else."""
    evidence = {"report": b64(mint.report(who, edits))}
    return refused("snp", name, tells, f"snp-{who}", check, evidence=evidence)


def reported(name: str, tells: str, check: str, report: bytes) -> Scenario:
    evidence = {"report": b64(report)}
    return refused("snp", name, tells, "snp-genoa", check, evidence=evidence)


def shape(name: str, tells: str, report: bytes) -> Scenario:
    evidence = {"report": b64(report)}
    return malformed("snp", name, tells, "snp-genoa", "report-format", evidence=evidence)


def chained(name: str, tells: str, check: str, who: str = "genoa", **changes: Any) -> Scenario:
    """Somebody issues other endorsements; their root is the one that is pinned."""
    made = chain(who, **changes)
    patch: dict[str, Any] = {"endorsements": endorsements_json(made.items())}
    if made["ark"] != chain(who)["ark"]:
        patch["roots"] = roots_json([pin(made["ark"], Product(_product(made)))])
    return refused("snp", name, tells, f"snp-{who}", check, **patch)


def _product(made: Mapping[str, bytes]) -> str:
    return "Milan" if b"ARK-Milan" in made["ark"] else "Genoa"


def carried(name: str, tells: str, check: str, endorsements: Mapping[str, bytes]) -> Scenario:
    """The host carries endorsements that are no endorsements."""
    patch = {"endorsements": endorsements_json(endorsements.items())}
    return malformed("snp", name, tells, "snp-genoa", check, **patch)


def edited(kind: str, key: Any, edit: Any) -> dict[str, bytes]:
    good = chain()
    return {**good, kind: mint.rewritten(key, edit)(good[kind])}


def control(name: str, tells: str, edits: mint.Edits, who: str = "genoa") -> Scenario:
    evidence = {"report": b64(mint.report(who, edits))}
    return accepted("snp", name, tells, f"snp-{who}", evidence=evidence)


def control_chain(name: str, tells: str, **changes: Any) -> Scenario:
    made = chain(**changes)
    patch: dict[str, Any] = {"endorsements": endorsements_json(made.items())}
    if made["ark"] != chain()["ark"]:
        patch["roots"] = roots_json([pin(made["ark"])])
    return accepted("snp", name, tells, "snp-genoa", **patch)
