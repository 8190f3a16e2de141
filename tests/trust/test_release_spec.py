"""docs/spec/release.md names every refusal, and its worked bytes are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from trust.custody import LineageKind, lineage_id
from trust.encoding import digest
from trust.identity import PartyKey
from trust.messages import CheckpointAt, GrantInfo, GrantSigned, Scope, ScopeKind
from trust.release_checks import (
    CLOCK_SKEW_MILLISECONDS,
    NONCE_AGE_MILLISECONDS_MAX,
    ORDER_LIFE_MILLISECONDS,
)

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "docs" / "spec" / "release.md"


def codes_in_source() -> set[str]:
    """Every literal refusal code of trust/release*.py; ``*`` for what is filled in."""
    found: set[str] = set()
    for path in (ROOT / "trust").glob("release*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            at = {"require": 1, "RefusedError": 0, "accept_signed": 2}.get(node.func.id)
            if at is None or len(node.args) <= at:
                continue
            if isinstance(code := node.args[at], ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "*" for p in code.values]
                found.add("".join(map(str, parts)))
            elif isinstance(code, ast.Constant):
                found.add(str(code.value) if at != 2 else f"{code.value}-malformed")
    return found


def test_every_refusal_stands_in_the_spec() -> None:
    named = set(re.findall(r"`([a-z*][a-z*-]+)`", SPEC.read_text(encoding="utf-8")))
    codes = codes_in_source() - {"*-malformed", "*-signature"}
    assert len(codes) > 80
    assert codes <= named, sorted(codes - named)


def test_times_of_the_spec_are_those_of_the_code() -> None:
    text = SPEC.read_text(encoding="utf-8")
    for value in (NONCE_AGE_MILLISECONDS_MAX, ORDER_LIFE_MILLISECONDS, CLOCK_SKEW_MILLISECONDS):
        assert f"{value:,} ms" in text


def worked() -> dict[str, str]:
    key = PartyKey.from_bytes(bytes(range(32)))
    lineage = lineage_id(LineageKind.SIMULATED, key.identity, bytes(range(32, 64)))
    info = GrantInfo(
        custodian=key.identity,
        scopes=(
            Scope(scope=ScopeKind.INPUT, lineage=lineage, epoch=1, core=bytes(range(64, 96))),
            Scope(scope=ScopeKind.OUTPUT, lineage=lineage, epoch=1, core=None),
        ),
        nonce=bytes(range(96, 128)),
        hpke_key=bytes(1216),
        job=bytes(range(128, 160)),
        generation=2,
        rank=0,
        number=0,
        checkpoint=CheckpointAt(generation=1, step=75, artifact=bytes(range(160, 192))),
    )
    covered = GrantSigned(info=info.digest, sealed=digest(b"sealed"))
    return {
        "info": info.digest.hex(),
        "signed": covered.digest.hex(),
        "signature": key.sign(covered).signature.hex(),
    }


def test_worked_bytes() -> None:
    text = SPEC.read_text(encoding="utf-8")
    for name, value in worked().items():
        assert re.search(rf"^{name} +{value}$", text, re.MULTILINE), f"{name} {value}"
