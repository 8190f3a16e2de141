"""Errors of the installer, under `AgentError`.

AgentError
└── InstallError
    ├── BundleError       a bundle that is not what the release key signed
    ├── PreflightError    this host, or this state of it, is refused before anything is changed
    ├── BusyError         a lease lives, and it is no maintenance window: ask again later
    └── CommandError      a command of the system that failed, or is absent
"""

from __future__ import annotations

from provider_agent.errors import AgentError


class InstallError(AgentError):
    """Base of what stops an install, an upgrade or an uninstall."""


class BundleError(InstallError):
    """A bundle that is not, byte for byte, what the release key signed."""


class PreflightError(InstallError):
    """Why nothing was changed: every reason at once."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("nothing was changed: " + "; ".join(problems))
        self.problems = problems


class BusyError(InstallError):
    """A lease lives, and it is no maintenance window."""


class CommandError(InstallError):
    """A command of the system that failed, timed out, or is absent."""
