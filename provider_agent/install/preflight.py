"""Everything that can be known to fail is known before anything is changed.

Rules:
- All reasons at once; each says what was found and what is wanted.
- A path that is neither absent nor ours is somebody's: an install never writes over it.
"""

from __future__ import annotations

import os
import platform
import stat
from typing import Final

from provider_agent.install import units
from provider_agent.install.applied import Applied, Kind, is_ours
from provider_agent.install.apply import SECRET_BYTES
from provider_agent.install.archive import Bundle
from provider_agent.install.environment import find_python
from provider_agent.install.errors import BundleError, PreflightError
from provider_agent.install.plan import BuildTree, MakeFolder, PlaceFile, PlaceLink, RunAction, Step
from provider_agent.install.release import PYTHON, parse_version
from provider_agent.install.system import ABSENT, FOLDER, System, file_state

_SPACE_FACTOR: Final = 4  # wheels, what they unpack to, and its byte code
_PROGRAMS: Final = ("systemctl", "systemd-sysusers", "userdel", "groupdel")


def installed_version(system: System) -> str | None:
    """The version that `current` names; None: nothing is installed. Raises BundleError."""
    state = system.observe(units.CURRENT)
    if state == ABSENT:
        return None
    version = state.removeprefix("link ")
    parse_version(version)
    return version


def check_install(
    system: System,
    applied: Applied,
    bundle: Bundle,
    steps: tuple[Step, ...],
    *,
    replace: bool = False,
) -> None:
    """Whether an install may begin. Raises PreflightError with every reason.

    (1) The machine: Linux on x86-64, root, systemd, the programs, a Python. (2) Room. (3) No other
    release is installed: going to a newer one is `upgrade`'s, which can go back. (4) Every place is
    free or ours. (5) An identity that is there has the right form and is closed to others.
    """
    problems = [
        *_machine(system),
        *_room(system, bundle),
        *conflicts(system, applied, steps, replace=replace),
    ]
    try:
        found = installed_version(system)
    except BundleError:
        found, problems = None, [*problems, f"{units.CURRENT} names no version of ours"]
    wanted = bundle.release.version
    if found not in (None, wanted):
        problems.append(f"version {found} is installed, and this is {wanted}: use `upgrade`")
    tree = applied.find(Kind.TREE, f"{units.HOME}/{wanted}")
    if found == wanted and tree is not None and bundle.release.digest.hex() not in tree.after:
        problems.append(f"another release is installed that also calls itself {wanted}")
    problems += _identity(system)
    if problems:
        raise PreflightError(tuple(problems))


def _machine(system: System) -> list[str]:
    problems = []
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        problems.append(f"{platform.system()} on {platform.machine()}; wanted Linux on x86_64")
    if system.uid != 0:
        problems.append(f"user id {system.uid}; wanted root")
    problems += [f"no {name}" for name in _PROGRAMS if system.find(name) is None]
    if not system.offline and not system.at("/run/systemd/system").is_dir():
        problems.append("systemd does not run this machine")
    if find_python(system) is None:
        problems.append(f"no Python {PYTHON[0]}.{PYTHON[1]} with venv")
    return problems


def _room(system: System, bundle: Bundle) -> list[str]:
    place = system.at("/opt")
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    wanted = _SPACE_FACTOR * sum(each.size for each in bundle.release.files)
    return [f"{free} bytes free on /opt; wanted {wanted}"] if free < wanted else []


def conflicts(
    system: System, applied: Applied, steps: tuple[Step, ...], *, replace: bool = False
) -> list[str]:
    """The places of these steps that hold something that is neither ours nor what we want.

    `replace`: a file that was there before us may be: a copy is kept, and put back at the end.
    """
    problems = []
    for step in steps:
        match step:
            case PlaceFile(name=name, content=content, mode=mode):
                if replace and applied.find(Kind.FILE, name) is None:
                    if not system.observe(name).startswith(("file ", ABSENT)):
                        problems.append(f"{name} is no file")
                    continue
                problems += _conflict(system, applied, Kind.FILE, name, file_state(content, mode))
            case PlaceLink(name=name, target=target):
                problems += _conflict(system, applied, Kind.LINK, name, f"link {target}")
            case MakeFolder(name=name):
                if (now := system.observe(name)) not in (ABSENT, FOLDER):
                    problems.append(f"{name} is a {now.split()[0]}; a folder is wanted")
            case BuildTree(version=version):
                name = f"{units.HOME}/{version}"
                known = applied.find(Kind.TREE, name)
                if known is None and system.observe(name) != ABSENT:
                    problems.append(f"{name} is there, and is not on our record")
            case RunAction() | _:
                pass
    return problems


def _conflict(system: System, applied: Applied, kind: Kind, name: str, after: str) -> list[str]:
    now, entry = system.observe(name), applied.find(kind, name)
    if now in (ABSENT, after):
        return []
    if entry is not None and (is_ours(entry, now) or now == entry.before):
        return []
    if entry is None:
        return [f"{name} is there, and is not ours: move it away"]
    return [f"{name} was changed since it was installed: put it back, or use a drop-in"]


def _identity(system: System) -> list[str]:
    if system.observe(units.IDENTITY) == ABSENT:
        return []
    found = system.at(units.IDENTITY).lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size != SECRET_BYTES:
        return [f"{units.IDENTITY} is no key of {SECRET_BYTES} bytes"]
    if found.st_mode & 0o077:
        return [f"{units.IDENTITY} is open to others (mode {found.st_mode & 0o777:04o})"]
    return []
