"""Each check and refusal that can be produced has its hint, and no hint is about nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tui.facts import STAGES
from tui.hints import check_hint, hints, refusal_hint

ROOT = Path(__file__).parents[2]
MAKERS = {"line", "not_demanded", "_check_presence", "_check_bit"}
FAULTS = {"host", "buyer", "platform", "custodian"}


def calls(path: Path, names: set[str]) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def tuples(path: Path) -> dict[str, list[str]]:
    """Module constants that are tuples of words."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Tuple):
            words = [e.value for e in node.value.elts if isinstance(e, ast.Constant)]
            if words and all(isinstance(each, str) for each in words):
                found[target.id] = words
    return found


def verifier_checks() -> set[str]:
    """Ids in trust/verifier: literals, and the three places that build one from a prefix."""
    found: set[str] = set()
    for path in sorted((ROOT / "trust" / "verifier").glob("*.py")):
        bits = tuples(path)
        for call in calls(path, MAKERS):
            match call.args[0]:
                case ast.Constant(value=str(word)):
                    found.add(word)
                case ast.JoinedStr(values=[ast.Constant(value=str(prefix)), *_]):
                    names = {
                        "guest-": bits.get("_GUEST_BITS", []),
                        "platform-": bits.get("_PLATFORM_BITS", []),
                        "tcb-": ["reported", "committed", "launch"],
                    }[prefix]  # a prefix that is new fails here
                    assert names, prefix
                    found |= {prefix + each.replace("_", "-") for each in names}
                case ast.Name():
                    pass  # passes on what its caller named
                case other:
                    raise AssertionError(f"{path.name}:{call.lineno}: {ast.dump(other)}")
    return found


def client_checks() -> set[str]:
    """Ids that the client adds when it appraises what was kept."""
    return {
        call.args[0].value
        for call in calls(ROOT / "client" / "dry_run.py", {"line"})
        if isinstance(call.args[0], ast.Constant)
    }


def release_refusals() -> set[str]:
    """Codes in trust/release_checks.py, those that are built from a document's name too."""
    path = ROOT / "trust" / "release_checks.py"
    found: set[str] = set()
    for call in calls(path, {"require"}):
        match call.args[1] if len(call.args) > 1 else None:
            case ast.Constant(value=str(word)):
                found.add(word)
            case ast.JoinedStr(values=[ast.Constant(value="launch-"), *_]):
                found |= {f"launch-{each}" for each in loop_names(path)}
            case ast.Name() | None:
                pass
            case other:
                raise AssertionError(f"line {call.lineno}: {ast.dump(other)}")
    for call in calls(path, {"RefusedError"}):
        if isinstance(call.args[0], ast.Constant):
            found.add(call.args[0].value)
    for call in calls(path, {"refusing", "accept_signed"}):
        what = call.args[-1]
        if isinstance(what, ast.Constant):
            found |= {f"{what.value}-signature", f"{what.value}-malformed"}
    return found


def loop_names(path: Path) -> list[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "check_launch":
            [loop] = [each for each in ast.walk(node) if isinstance(each, ast.For)]
            return [each.value for each in loop.iter.elts]
    raise AssertionError("check_launch is gone")


def test_every_check_that_can_be_made_has_a_hint_and_no_hint_is_about_nothing():
    made = verifier_checks() | client_checks()
    assert {"chain", "guest-debug", "tcb-launch", "platform-sev-tio", "gpu"} <= made
    assert set(hints().checks) == made


def test_every_refusal_of_a_release_has_a_hint_and_no_hint_is_about_nothing():
    made = release_refusals()
    assert {"heads-wanted", "launch-rank", "order-signature", "image-not-in-job"} <= made
    assert set(hints().refusals) == made


def test_every_stage_has_a_hint_with_a_known_class_of_fault():
    assert tuple(hints().stages) == STAGES
    assert {each.fault for each in hints().stages.values()} <= FAULTS


@pytest.mark.parametrize("words", ["secure", "trustworthy", "guarantee"])
def test_no_hint_comforts(words):
    for each in hints().checks.values():
        assert words not in f"{each.means} {each.gains}".lower()


def test_hints_are_sentences():
    for each in hints().checks.values():
        assert each.means.endswith((".", ")."))
        assert each.gains
        assert not each.gains.endswith(".")
    for refusal in hints().refusals.values():
        assert refusal.means.endswith(".")
        assert not refusal.ends.endswith(".")


def test_an_id_that_nobody_wrote_about_gets_no_sentence():
    assert check_hint("brand-new") is None
    assert refusal_hint("brand-new") is None
