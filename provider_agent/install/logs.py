"""The journal of our units, fit to be shown to somebody else.

Rules:
- Line by line: addresses, keys, digests, tokens and passwords in URLs are cut; ids of leases, jobs
  and offers stay, since they are what people ask about.
- No control character reaches the terminal: some lines are a guest's.
- To redact what is redacted changes nothing.
"""

from __future__ import annotations

import re
from typing import Final

from provider_agent.install import units

LINES_MAX: Final = 10_000
LINE_CHARACTERS_MAX: Final = 4_000

_RULES: Final = (
    (re.compile(r"(?i)\b(bearer|basic)\s+(?!<)\S+"), r"\1 <secret>"),
    (
        re.compile(
            r"(?i)\b([\w-]*(?:password|passphrase|secret|token|api[-_]?key))(\s*[=:]\s*)(?!<)\S+"
        ),
        r"\1\2<secret>",
    ),
    (re.compile(r"(\w+://)[^/\s@<>]+@"), r"\1<user>@"),
    (re.compile(r"(\w+://[^\s?<>]+)\?[^\s<>]+"), r"\1?<query>"),
    (re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"), "<mail>"),
    (re.compile(r"\b[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}\b"), "<mac>"),
    (re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"), "<address>"),
    (re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])"), "<address>"),
    (
        re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6}(?![\w:])"),
        "<address>",
    ),
    (re.compile(r"\b[0-9a-fA-F]{32,}\b"), "<hex>"),
    (re.compile(r"(?i)\b(serial(?: number)?)(\s*[=:]\s*)(?!<)\S+"), r"\1\2<serial>"),
    # After the ids, which have 26 characters behind their prefix: longer ones are keys or digests.
    (
        re.compile(
            r"(?<![\w-])(?![a-z]{4}_[0-9a-z]{26}(?![\w-]))[A-Za-z0-9_-]{40,}={0,2}(?![\w-])"
        ),
        "<base64>",
    ),
)


def redact(line: str) -> str:
    """A line without what is nobody else's business, and without control characters."""
    text = "".join(
        c if c == "\t" or _is_printable(c) else "\N{REPLACEMENT CHARACTER}" for c in line
    )
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text[:LINE_CHARACTERS_MAX]


def _is_printable(character: str) -> bool:
    return character.isprintable()  # C0, C1, bidirectional and zero-width ones are not


def journal_command(*, lines: int, follow: bool, since: str | None) -> tuple[str, ...]:
    """The command whose output is to be redacted."""
    named = (units.AGENT, units.LAUNCHER, units.FETCH, units.UPDATE, f"{units.VM_PREFIX}*")
    return (
        "journalctl",
        "--no-pager",
        "--output=short-iso",
        f"--lines={min(lines, LINES_MAX)}",
        *(f"--unit={name}" for name in named),
        *(("--follow",) if follow else ()),
        *((f"--since={since}",) if since else ()),
    )
