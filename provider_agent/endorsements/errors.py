"""What goes wrong with endorsements: one word for programs, one sentence for the host.

AgentError
└── EndorsementError       `code` is a word for programs
    ├── FetchError         a service that gave no answer, or one that is none
    └── MissingError       what must be carried is not here, or has run out
"""

from __future__ import annotations

from provider_agent.errors import AgentError


class EndorsementError(AgentError):
    """Base. `code` is a word for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class FetchError(EndorsementError):
    """A service that did not answer, or answered what was not asked for."""


class MissingError(EndorsementError):
    """What a verifier will ask for is not here. The text says what, since when, and what to do."""
