"""What leaves by `logs` tells events, and nothing that is nobody else's business."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider_agent.install.logs import LINE_CHARACTERS_MAX, LINES_MAX, journal_command, redact
from provider_agent.install.units import AGENT

SECRETS = [
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "192.168.17.4",
    "2001:db8:0:1:2:3:4:5",
    "fe80::1",
    "2001:db8::8a2e:370:7334",
    "aa:bb:cc:dd:ee:ff",
    "somebody@example.org",
    "dGhpcyBpcyBhIHNlY3JldCBrZXkgb2YgMzIgYnl0ZXMhIQ",
    "Bearer abc.def.ghi",
    "password=hunter22",
    "api_key: k3y",
    "https://user:pw@market.example/x",
    "https://market.example/x?code=secret",
    "Serial Number: 1650421000000",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_does_not_pass(secret: str) -> None:
    found = redact(f"2026-11-24T16:00:00+0000 host agent[7]: event {secret} end")
    assert "<" in found
    for part in ("hunter22", "abc.def", "k3y", "user:pw", "code=", "1650421", secret):
        assert part not in found
    assert found.startswith("2026-11-24T16:00:00+0000")
    assert found.endswith("end") or "Serial" in secret


@pytest.mark.parametrize(
    "line",
    [
        "listed offer=offr_0123456789abcdefghjkmnpqrs state=listed",
        "lease-ended lease=leas_0123456789abcdefghjkmnpqrs reason=exit-0",
        "market-away reason=no answer within 10 s",
        "2026-11-24T16:00:00+0000 host blindhost-agent[4711]: serving 3 GPUs at 1.2.3",
        "version 580.95.05 at 12:30:15",
    ],
)
def test_events_and_ids_pass_unchanged(line: str) -> None:
    assert redact(line) == line


@pytest.mark.parametrize("text", ["\x1b[2Jgone", "\x9b31m", "a\u202eb", "\x07", "a\rb", "\u200b"])
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    assert all(c.isprintable() for c in redact(f"guest says {text}"))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300) | st.sampled_from(SECRETS) | st.from_regex(r"[0-9a-f:. =@-]{0,80}"))
def test_to_redact_twice_is_to_redact_once(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_a_line_has_an_end() -> None:
    assert len(redact("x " * 100_000)) == LINE_CHARACTERS_MAX


def test_the_journal_is_asked_for_our_units_alone() -> None:
    command = journal_command(lines=10**9, follow=True, since="-1h")
    assert f"--lines={LINES_MAX}" in command
    assert f"--unit={AGENT}" in command
    assert all(c.startswith("--unit=blindhost-") for c in command if c.startswith("--unit"))
    assert {"--follow", "--since=-1h"} <= set(command)
