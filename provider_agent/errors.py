"""Errors of the provider agent, in one tree under trust's.

    BlindhostError
    └── AgentError
        ├── LaunchError        a chip, a sandbox or an image that does not start
        ├── DoorError          an enclave that breaks the door's framing
        └── MarketError
            ├── UnavailableError     the market does not answer; asking again may help
            └── RejectedError        the market says no; asking again does not help

Texts carry ids and numbers, never a payload.
"""

from __future__ import annotations

from trust.errors import BlindhostError


class AgentError(BlindhostError):
    """Base of what goes wrong on the host's side."""


class LaunchError(AgentError):
    """A chip, a sandbox or an image that does not start, and why."""


class DoorError(AgentError):
    """An enclave that breaks the framing of its door: the connection ends."""


class MarketError(AgentError):
    """Base of what the market answers, or does not."""


class UnavailableError(MarketError):
    """No answer, or one that says *later*: the same call may succeed."""


class RejectedError(MarketError):
    """The market says no: the same call fails again. `code` is a word for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
