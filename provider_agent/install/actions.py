"""The commands that an install runs, and those that take them back: a closed list.

Rules:
- A record names an action, never a command line: who could write the record could not make the
  installer run anything else.
- Each can be done again: an install that was killed does it once more.
- A service is cleaned (``systemctl clean``) while its unit is still there; afterwards nobody knows
  which folders were its own. One that has failed is not cleaned until that is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from provider_agent.install.errors import CommandError
from provider_agent.install.system import System
from provider_agent.install.units import (
    AGENT,
    FETCH,
    GROUP,
    LAUNCHER,
    SOCKET,
    TIMER,
    UPDATE,
    VM_USER,
)

Argv = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """What is run, and what takes it back."""

    purpose: str
    do: tuple[Argv, ...] = ()
    undo: tuple[Argv, ...] = ()
    offline: bool = False
    """Whether it is also done to a folder that is no running system."""
    allowed: tuple[int, ...] = (0,)
    """Statuses that are no error."""
    optional: bool = False
    """Whether a system without the program goes without."""


_RELOAD: Final[Argv] = ("systemctl", "daemon-reload")
_RULES: Final[Argv] = ("udevadm", "control", "--reload")
_NO_SUCH_USER: Final = 6  # userdel(8), groupdel(8)
_NOTHING: Final = "No matching resources found"  # systemctl clean, of a unit that left nothing

ACTIONS: Final[dict[str, Action]] = {
    "users": Action(
        purpose=f"make group {GROUP} and user {VM_USER}",
        do=(("systemd-sysusers", "/etc/sysusers.d/blindhost.conf"),),
        undo=(("userdel", VM_USER), ("groupdel", VM_USER), ("groupdel", GROUP)),
        offline=True,
        allowed=(0, _NO_SUCH_USER),
    ),
    "rules-gone": Action(
        purpose="(at an uninstall: let udev forget the rules)",
        undo=(_RULES,),
        allowed=(0, 1, 2),  # a container has no udev
        optional=True,
    ),
    "rules": Action(
        purpose="let udev read the rules", do=(_RULES,), allowed=(0, 1, 2), optional=True
    ),
    "units-gone": Action(
        purpose="(at an uninstall: let systemd forget the units)", undo=(_RELOAD,)
    ),
    "units": Action(purpose="let systemd read the units", do=(_RELOAD,)),
    "launcher": Action(
        purpose="listen for the agent; the launcher starts when it is asked",
        do=(("systemctl", "enable", "--now", SOCKET),),
        undo=(
            ("systemctl", "stop", SOCKET, LAUNCHER),
            ("systemctl", "reset-failed", SOCKET, LAUNCHER),
            ("systemctl", "disable", SOCKET),
            ("systemctl", "clean", "--what=all", LAUNCHER),
        ),
        offline=True,
    ),
    "agent": Action(
        purpose="start the agent now and at each boot, once it is configured",
        do=(("systemctl", "enable", "--now", AGENT),),
        undo=(
            ("systemctl", "stop", AGENT),
            ("systemctl", "reset-failed", AGENT),
            ("systemctl", "disable", AGENT),
            ("systemctl", "clean", "--what=all", AGENT),
        ),
        offline=True,
    ),
    "updates": Action(
        purpose="look for a release once an hour, once it is configured",
        do=(("systemctl", "enable", "--now", TIMER),),
        undo=(
            ("systemctl", "stop", TIMER, FETCH),
            ("systemctl", "reset-failed", TIMER, FETCH, UPDATE),
            ("systemctl", "disable", TIMER),
            ("systemctl", "clean", "--what=all", TIMER),
            ("systemctl", "clean", "--what=all", FETCH),
        ),
        offline=True,
    ),
}


def run_action(system: System, name: str, *, undo: bool = False) -> None:
    """Do an action, or take it back. Raises CommandError."""
    action = ACTIONS[name]
    for argv in action.undo if undo else action.do:
        if system.offline:
            if not action.offline or (adapted := _offline(system, argv)) is None:
                continue
            argv = adapted  # noqa: PLW2901 - the same command, for a folder
        if action.optional and system.find(argv[0]) is None:
            continue
        if argv[:2] == ("systemctl", "clean"):
            _clean(system, argv)
        elif argv[:2] == ("systemctl", "reset-failed"):
            system.run(argv, allowed=(0, 1))  # 1: one of them is not loaded, so it has not failed
        else:
            system.run(argv, allowed=action.allowed)


def _clean(system: System, argv: Argv) -> None:
    """A unit that made nothing has nothing to clean, which systemctl calls a failure."""
    ran = system.run(argv, allowed=(0, 1))
    if ran.status and _NOTHING not in ran.err:
        raise CommandError(f"{' '.join(argv)}: {ran.err.strip()}")


def _offline(system: System, argv: Argv) -> Argv | None:
    """The command as it acts on the folder alone; None: it would act on the running system."""
    root = str(system.root)
    match argv:
        case ("systemctl", "enable" | "disable" as verb, *rest):
            return ("systemctl", f"--root={root}", verb, *(r for r in rest if r != "--now"))
        case ("systemd-sysusers", file):
            return ("systemd-sysusers", f"--root={root}", f"{root}{file}")
        case ("userdel" | "groupdel" as verb, name):
            return (verb, "--prefix", root, name)
        case _:
            return None
