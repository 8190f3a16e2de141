"""One version's environment below /opt/blindhost: made from the bundle alone, whole or not there.

Rules:
- pip gets no index and only files whose hashes the signed requirements name; the pip that runs is
  the bundle's own wheel, on the system's Python, in isolated mode.
- A folder without its mark is the rest of a killed attempt: it is removed and made again.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from provider_agent.install.archive import Bundle
from provider_agent.install.errors import BundleError, PreflightError
from provider_agent.install.release import (
    HOST_FILES,
    INSTALLER,
    PYTHON,
    REQUIREMENTS,
    WHEELS,
    VerifiedRelease,
)
from provider_agent.install.system import System

MARK: Final = ".complete"
_UNPACKED: Final = ".release"
PIP_SECONDS_MAX: Final = 300


def find_python(system: System) -> str | None:
    """The system's Python of the wanted version; None: absent."""
    major, minor = PYTHON
    for name in (f"python{major}.{minor}", "python3"):
        if (path := system.find(name)) is None:
            continue
        code = "import sys, venv; print(*sys.version_info[:2])"
        ran = system.run((path, "-I", "-c", code), allowed=tuple(range(256)))
        if ran.status == 0 and ran.out.split() == [str(major), str(minor)]:
            return path
    return None


def is_complete(system: System, name: str, release: VerifiedRelease) -> bool:
    """Whether the folder holds this very release."""
    mark = system.at(name) / MARK
    return mark.is_file() and mark.read_text(encoding="ascii") == release.digest.hex()


def build(system: System, bundle: Bundle, name: str) -> None:
    """Make the environment at `name`; nothing where it is complete.

    (1) Remove the rest of a killed attempt. (2) Unpack, which hashes every byte again. (3) An
    environment without pip. (4) Install the listed wheels and no others. (5) Keep the host files
    and the installer, drop the wheels. (6) The mark.

    Raises BundleError, CommandError, PreflightError.
    """
    if is_complete(system, name, bundle.release):
        return
    place = system.at(name)
    system.remove_tree(name)  # (1)
    python = find_python(system)
    if python is None:
        raise PreflightError((f"no Python {PYTHON[0]}.{PYTHON[1]}",))
    system.make_folder(name, 0o755)
    unpacked = place / _UNPACKED
    bundle.unpack(unpacked)  # (2)
    system.run((python, "-I", "-m", "venv", "--without-pip", str(place)))  # (3)
    pip = _pip(unpacked)
    install = (
        str(place / "bin/python"), "-I", f"{pip}/pip", "install",
        "--no-index", "--find-links", str(unpacked / WHEELS), "--require-hashes",
        "--no-cache-dir", "--disable-pip-version-check", "--no-warn-script-location",
        "--quiet", "--requirement", str(unpacked / REQUIREMENTS),
    )  # fmt: skip
    system.run(install, seconds=PIP_SECONDS_MAX)  # (4)
    shutil.move(unpacked / HOST_FILES.rstrip("/"), place / HOST_FILES.rstrip("/"))  # (5)
    shutil.move(unpacked / INSTALLER, place / INSTALLER)
    shutil.rmtree(unpacked)
    system.write_file(f"{name}/{MARK}", bundle.release.digest.hex().encode(), 0o644)  # (6)


def _pip(unpacked: Path) -> Path:
    found = sorted((unpacked / WHEELS).glob("pip-*.whl"))
    if len(found) != 1:
        raise BundleError(f"{len(found)} wheels of pip in the bundle; exactly one is wanted")
    return found[0]


def host_files_of(system: System, name: str) -> dict[str, bytes]:
    """The host files that an installed version carries, by their path in the bundle."""
    top = system.at(name)
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in sorted((top / HOST_FILES.rstrip("/")).rglob("*"))
        if path.is_file()
    }
