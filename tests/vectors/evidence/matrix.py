"""Which vector each check refuses, as a document: `python -m tests.vectors.evidence.matrix`."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.vectors.evidence.format import HERE, PLATFORMS, stored

DOCUMENT: Final = HERE.parents[2] / "docs" / "evidence-checks.md"
NUMBERS: Final = range(1, 38)

_MODULES: Final = ("snp", "snp_appraisal", "tdx", "tdx_appraisal", "nvidia", "gpu_appraisal")
# Lines that have no number: they are about the caller's own policy and clock, or about a building.
UNNUMBERED: Final = {
    "root": "the root behind verified evidence is one of this policy's",
    "time": "the caller's clock: endorsements and policy have not run out",
    "gpu": "a GPU is shown, where one is demanded",
    "gpu-in-statement": "the GPU evidence is the one that the CPU signed for",
    "launch-digest": "the launch document is there, and the one in the statement",
    "launch-form": "it is a launch document without unknown fields",
    "launch-job": "its job is the statement's",
    "launch-lease": "its lease is",
    "launch-generation": "its generation is",
    "launch-rank": "its rank is",
    "launch-ranks": "its number of ranks is",
    "facility-processor": "the evidence names a processor",
    "facility-machine": "an endorsement names that one",
    "facility-signature": "its endorser signed it",
    "facility-endorser": "the policy names that endorser",
    "facility-market": "the endorser is not the market",
    "facility-issued": "it is issued",
    "facility-expires": "it has not ended",
    "facility-age": "it is not too old",
    "facility-gpus": "the GPUs shown stand in the same one",
}
# No evidence can be refused by these alone, and why. What the reasons say is tested below.
IMPLIED: Final = {
    "product-allowed": "a policy has roots and floors of the same products, so `chain` refuses "
    "every other product first",
    "tcb-committed": "below the floor it is below REPORTED_TCB (`tcb-order`), or that is below the "
    "floor itself (`tcb-reported`)",
    "root": "`chain` and `tdx-pck-chain` refuse first; it is for evidence that was verified under "
    "another policy",
    "platform-unknown-bits": "shown and not judged",
    "gpu-architecture": "an architecture without a floor has no driver and no VBIOS that are good "
    "(`gpu-driver`, `gpu-vbios`)",
    "gpu-topology": "no policy that is shipped, and no vector, allows the mode that has one; "
    "`gpu-mode` refuses it",
    "rim-vbios": "without the manifest there is nothing to compare (`rim-measurements`)",
    "tdx-event-log": "an input has no event log: tests/trust/verifier/test_tdx_lies.py has the lie",
    "facility-market": "no policy that loads names the market as endorser, so `facility-endorser` "
    "refuses too",
    "facility-processor": "no endorsement names a masked processor, so `facility-machine` refuses "
    "too",
}
_MADE: Final = (
    "Made by `python -m tests.vectors.evidence.matrix` from tests/vectors/evidence; a test says "
    "that it is current. The numbers are those of the project's list of checks for verifiers; a "
    "check has several lines in a result, each with an id of its own."
)
_LIST: Final = (
    ("SEV-SNP", range(1, 15)),
    ("TDX", range(15, 27)),
    ("NVIDIA GPUs", range(27, 38)),
)


def numbers() -> dict[str, int]:
    """The number of each line's check in the list of checks."""
    found: dict[str, int] = {}
    for name in _MODULES:
        found |= importlib.import_module(f"trust.verifier.{name}").CHECK_NUMBERS
    return found


def refusing() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Vectors by check: those that it alone refuses, and those that another refuses as well."""
    alone: dict[str, list[str]] = defaultdict(list)
    others: dict[str, list[str]] = defaultdict(list)
    for platform, vector in stored():
        checks = vector["expect"]["checks"]
        for check in checks:
            (alone if len(checks) == 1 else others)[check].append(f"{platform}/{vector['name']}")
    return alone, others


def document() -> str:
    """The whole text."""
    alone, others = refusing()
    counts = _counts([(platform, vector) for platform, vector in stored()])
    lines = [
        "# Checks and vectors",
        "",
        _MADE,
        "",
        "| platform | lies refused | no evidence | controls | together |",
        "|---|---|---|---|---|",
        *(f"| {name} | {' | '.join(str(each) for each in row)} |" for name, row in counts.items()),
        "",
    ]
    known = numbers()
    for title, span in _LIST:
        lines += [
            f"## {title}",
            "",
            *_table({k: v for k, v in known.items() if v in span}, alone, others),
        ]
    lines += ["## Across", "", *_table(dict.fromkeys(UNNUMBERED, 0), alone, others)]
    lines += [
        "## Lines that never refuse alone",
        "",
        *(f"- `{check}`: {reason}." for check, reason in IMPLIED.items()),
        "",
    ]
    return "\n".join(lines)


def _counts(vectors: list[tuple[str, dict[str, Any]]]) -> dict[str, list[int]]:
    rows = {}
    for platform in (*PLATFORMS, "all"):
        verdicts = [v["expect"]["verdict"] for p, v in vectors if platform in {p, "all"}]
        kinds = [verdicts.count(kind) for kind in ("refused", "malformed", "accepted")]
        rows[platform] = [*kinds, len(verdicts)]
    return rows


def _table(
    checks: Mapping[str, int], alone: Mapping[str, list[str]], others: Mapping[str, list[str]]
) -> list[str]:
    rows = ["| number | line | it alone refuses | with others |", "|---|---|---|---|"]
    for check, number in sorted(checks.items(), key=lambda item: item[1]):
        names = ", ".join(_short(each) for each in alone.get(check, [])) or "—"
        count, more = len(alone.get(check, [])), len(others.get(check, []))
        rows.append(f"| {number or '—'} | `{check}` | {count}: {names} | {more or '—'} |")
    return [*rows, ""]


def _short(name: str) -> str:
    platform, _, word = name.partition("/")
    return word if platform != "composite" else name


def main() -> None:
    """Write it."""
    Path(DOCUMENT).write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
