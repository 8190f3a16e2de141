"""One lie a file: what a golden vector of evidence is. README.md says it to other people.

Rules:
- A vector is a *base*, which is a whole good input, and a merge patch (RFC 7396) that spoils it.
- It says what it must come to: the verdict, and every check that refuses. Nothing else may refuse.
- Only JSON goes in: a verifier in another language runs these files through its own command.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from trust.encoding import Document
from trust.verifier.roots import PinnedRoot

HERE = Path(__file__).parent
BASES = HERE / "bases"
PLATFORMS = ("snp", "tdx", "gpu", "composite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """One vector. Its file is <platform>/<name>.json."""

    platform: str
    """One of `PLATFORMS`."""
    name: str
    """Short dashed words, of which no two vectors of a platform have the same."""
    tells: str
    """One sentence: what the lie is; or, of a control, what is true."""
    base: str
    """Name of a file in bases/."""
    replace: Mapping[str, Any]
    """A merge patch onto the base."""
    verdict: str
    """accepted, refused, or malformed: bytes that are no evidence."""
    checks: tuple[str, ...]
    """Every check that refuses, in any order. A malformed one names the check of its shape."""

    def as_json(self) -> dict[str, Any]:
        """What its file holds."""
        return {
            "name": self.name,
            "tells": self.tells,
            "base": self.base,
            "replace": self.replace,
            "expect": {"verdict": self.verdict, "checks": sorted(self.checks)},
        }


def refused(platform: str, name: str, tells: str, base: str, check: str, **patch: Any) -> Scenario:
    """A lie that `check` alone refuses; `patch` is the merge patch's members."""
    return Scenario(
        platform=platform,
        name=name,
        tells=tells,
        base=base,
        replace=patch,
        verdict="refused",
        checks=(check,),
    )


def malformed(
    platform: str, name: str, tells: str, base: str, check: str, **patch: Any
) -> Scenario:
    """Bytes that are no evidence: `check` is the one of the shape (number 1, 15, 27 or 33)."""
    made = refused(platform, name, tells, base, check, **patch)
    return dataclasses.replace(made, verdict="malformed")


def accepted(platform: str, name: str, tells: str, base: str, **patch: Any) -> Scenario:
    """A control: good evidence, which differs from its base in what a lie might be made of."""
    return Scenario(
        platform=platform,
        name=name,
        tells=tells,
        base=base,
        replace=patch,
        verdict="accepted",
        checks=(),
    )


# --- parts of an input ---------------------------------------------------------------------------


def b64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 §4): all bytes in an input but a policy's own."""
    return base64.b64encode(data).decode("ascii")


def endorsements_json(endorsements: Iterable[tuple[str, bytes]]) -> list[dict[str, str]]:
    """The member `endorsements`, from (kind, bytes)."""
    return [{"kind": kind, "content": b64(content)} for kind, content in endorsements]


def roots_json(roots: Iterable[PinnedRoot]) -> list[dict[str, str]]:
    """The member `roots`."""
    return [
        {
            "kind": root.kind.value,
            "anchor": root.anchor.value,
            "fingerprint": root.fingerprint.hex(),
        }
        for root in roots
    ]


def document_json(document: Document) -> dict[str, Any]:
    """The JSON of a document of ours, as its own encoding has it: the member `policy`."""
    return cast("dict[str, Any]", json.loads(document.encode().split(b"\x00", 1)[1]))


# --- files ---------------------------------------------------------------------------------------


def written(value: Any) -> bytes:
    """JSON as all files here have it."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, `MergePatch`."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def stored() -> list[tuple[str, dict[str, Any]]]:
    """(platform, vector) of all files, in their names' order."""
    return [
        (platform, json.loads(path.read_bytes()))
        for platform in PLATFORMS
        for path in sorted((HERE / platform).glob("*.json"))
    ]


def input_of(vector: Mapping[str, Any]) -> dict[str, Any]:
    """The whole input that a vector stands for."""
    base = json.loads((BASES / f"{vector['base']}.json").read_bytes())
    return complete(base, vector["replace"])


def complete(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the patch applied; what the patch takes out of three objects is null."""
    made = merged(base, patch)
    for part in ("evidence", "policy", "expected"):
        made[part] = {name: made[part].get(name) for name in base[part]}
    return cast("dict[str, Any]", made)


def difference(old: Any, new: Any) -> dict[str, Any]:
    """The merge patch that makes `new` of `old`: of objects alone, and `new` holds no null more."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        if name in old and isinstance(old[name], Mapping) and isinstance(value, Mapping):
            if inner := difference(old[name], value):
                patch[name] = inner
        elif name not in old or old[name] != value:
            patch[name] = value
    return patch
