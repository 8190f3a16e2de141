"""The environment of a version is made by the bundle's own pip, from its own wheels alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provider_agent.install import environment
from provider_agent.install.archive import open_bundle
from provider_agent.install.bundle import make_requirements
from provider_agent.install.errors import BundleError, CommandError
from provider_agent.install.release import HOST_FILES, REQUIREMENTS, WHEELS
from provider_agent.install.system import System
from tests.provider_agent.install.machine import RELEASE_KEY, contents, write_bundle
from tests.provider_agent.install.wheels import find_pip, standin_wheel

PIP = find_pip()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PIP is None, reason="no wheel of pip here")]
NAME = "/opt/blindhost/0.1.0"
KEY = RELEASE_KEY.identity


def _files(*, wheel: bytes | None = None) -> dict[str, bytes]:
    assert PIP is not None
    good = standin_wheel("0.1.0", behaviour="good")
    wheels = {"blindhost-0.1.0-py3-none-any.whl": good, PIP[0]: PIP[1]}
    rest = {p: c for p, c in contents("0.1.0").items() if not p.startswith(WHEELS)}
    rest[REQUIREMENTS] = make_requirements(wheels)
    if wheel is not None:
        wheels["blindhost-0.1.0-py3-none-any.whl"] = wheel
    return {**rest, **{WHEELS + name: content for name, content in wheels.items()}}


@pytest.fixture
def system(tmp_path: Path) -> System:
    (tmp_path / "root/opt/blindhost").mkdir(parents=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3.11").symlink_to(Path(sys.executable).resolve())
    return System(root=tmp_path / "root", tools=(str(tools), "/usr/bin"))


def test_the_agents_command_runs_from_it(system: System, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b.tar", "0.1.0", files=_files())
    with open_bundle(path, release_key=KEY) as bundle:
        environment.build(system, bundle, NAME)
        assert environment.is_complete(system, NAME, bundle.release)
        again = system.at(NAME).stat().st_ctime_ns
        environment.build(system, bundle, NAME)
        assert system.at(NAME).stat().st_ctime_ns == again
    done = subprocess.run(
        [system.at(NAME) / "bin/blindhost-agent", "doctor", "--json"],
        capture_output=True, text=True, check=True, env={},
    )  # fmt: skip
    assert done.stdout == '{"checks": []}'
    assert not list(system.at(NAME).rglob("*.whl"))
    found = environment.host_files_of(system, NAME)
    assert {p: c for p, c in _files().items() if p.startswith(HOST_FILES)} == found


def test_a_wheel_that_the_requirements_do_not_name_is_not_installed(
    system: System, tmp_path: Path
) -> None:
    """Signed or not: pip compares the hash too."""
    other = standin_wheel("0.1.0", behaviour="crash")
    path = write_bundle(tmp_path / "b.tar", "0.1.0", files=_files(wheel=other))
    with (
        open_bundle(path, release_key=KEY) as bundle,
        pytest.raises(CommandError, match=r"(?is)hash"),
    ):
        environment.build(system, bundle, NAME)
    assert not (system.at(NAME) / environment.MARK).exists()


def test_the_rest_of_a_killed_attempt_is_made_anew(system: System, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b.tar", "0.1.0", files=_files())
    (system.at(NAME) / "bin").mkdir(parents=True)
    (system.at(NAME) / "bin/sly").write_text("left over")
    with open_bundle(path, release_key=KEY) as bundle:
        environment.build(system, bundle, NAME)
    assert not (system.at(NAME) / "bin/sly").exists()


def test_a_bundle_without_one_pip_is_refused(system: System, tmp_path: Path) -> None:
    assert PIP is not None
    files = {p: c for p, c in _files().items() if p != WHEELS + PIP[0]}
    path = write_bundle(tmp_path / "b.tar", "0.1.0", files=files)
    with (
        open_bundle(path, release_key=KEY) as bundle,
        pytest.raises(BundleError, match="0 wheels of pip"),
    ):
        environment.build(system, bundle, NAME)
