"""What an appraisal comes to, from its lines alone. What a hub says of it is not looked at.

- *Not checked* is no pass. *Not demanded* is neither: the policy asks for nothing there.
- A headline never says "secure" or "safe"; it is good only where nothing was skipped and the roots
  are real.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from tui.facts import Attestation, CheckLine, Verdict
from tui.state.rows import Tone
from tui.text import clean

SIGNS: Final[Mapping[Verdict, tuple[str, Tone]]] = {
    Verdict.FAILED: ("✗ FAILED", Tone.BAD),
    Verdict.NOT_CHECKED: ("? NOT CHECKED", Tone.WARN),
    Verdict.PASSED: ("✓ passed", Tone.GOOD),
    Verdict.NOT_DEMANDED: ("- not demanded", Tone.FAINT),
}
ORDER: Final = tuple(SIGNS)
"""In which verdicts stand."""


def in_order(lines: tuple[CheckLine, ...]) -> tuple[CheckLine, ...]:
    """Failed, not checked, passed, not demanded."""
    return tuple(sorted(lines, key=lambda each: ORDER.index(each.verdict)))


def counts(lines: tuple[CheckLine, ...]) -> Mapping[Verdict, int]:
    """How many of each verdict; they sum to the number of lines."""
    found = Counter(each.verdict for each in lines)
    return {verdict: found[verdict] for verdict in ORDER}


def headline(appraisal: Attestation | None) -> str:
    """The verdict in words, from its lines alone."""
    if appraisal is None or not appraisal.lines:
        return "NOT YET"
    failed = [each.id for each in in_order(appraisal.lines) if each.verdict is Verdict.FAILED]
    if failed:
        words = "EXPIRED" if failed == ["time"] else f"REFUSED at {clean(failed[0], limit=64)}"
    else:
        words = "PASSED"
        if missing := counts(appraisal.lines)[Verdict.NOT_CHECKED]:
            words += f", {missing} check{'s' if missing > 1 else ''} not made"
        if not any(each.verdict is Verdict.PASSED for each in appraisal.lines):
            words = "NOT YET"  # nothing was checked at all: that is no pass
    return f"SIMULATED: {words}" if appraisal.simulated else words


def tone(appraisal: Attestation | None) -> Tone:
    """Good only where every check was made and the roots are real; else yellow, or bad."""
    words = headline(appraisal)
    if words.endswith("EXPIRED") or "REFUSED" in words:
        return Tone.BAD
    return Tone.GOOD if words == "PASSED" else Tone.WARN


def changed(old: Attestation, new: Attestation) -> tuple[tuple[str, str, str], ...]:
    """Checks whose verdict differs: id, was, is; of a check that only one of them has, a dash."""
    was = {each.id: each.verdict.value for each in old.lines}
    now = {each.id: each.verdict.value for each in new.lines}
    return tuple(
        (name, was.get(name, "-"), now.get(name, "-"))
        for name in dict.fromkeys((*was, *now))
        if was.get(name) != now.get(name)
    )


def severity(appraisal: Attestation) -> tuple[bool, bool, int]:
    """The greater, the worse: failed, nothing checked, how many were not."""
    found = counts(appraisal.lines)
    missing = found[Verdict.NOT_CHECKED]
    return (found[Verdict.FAILED] > 0, found[Verdict.PASSED] == 0, missing)
