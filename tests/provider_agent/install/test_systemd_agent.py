"""The real agent under its real unit, in a real systemd, lists its machine at a real market.

One thing is not the unit's: the drop-in below, because the packages lie in the system's Python and
not in an environment below /opt, and the service manager is not told READY by this start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from provider_agent.install import units
from tests.provider_agent.install import nspawn

REASON = nspawn.why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]
ROOT = Path(units.__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
PACKAGES = ("provider_agent", "trust", "marketplace", "enclave_runtime")
DISTRIBUTIONS = (
    "aiohappyeyeballs", "aiohttp", "aiosignal", "attrs", "cffi", "cryptography", "frozenlist",
    "idna", "multidict", "qemu.qmp", "propcache", "rfc8785", "typing_extensions", "yarl",
)  # fmt: skip
DROP_IN = """[Service]
Environment=PYTHONPATH=/srv/agent
ExecStart=
ExecStart=/usr/bin/python3 -m provider_agent serve --home %S/blindhost \
--market ${BLINDHOST_MARKET} --market-identity ${BLINDHOST_MARKET_IDENTITY} --ask ${BLINDHOST_ASK}
"""
START_SECONDS_MAX = 60


@pytest.fixture
def market(tmp_path: Path) -> Iterator[dict[str, str]]:
    home = tmp_path / "market"
    home.mkdir(mode=0o700)
    with (tmp_path / "market.log").open("wb") as log:
        command = [BIN / "blindhost-market", "serve", "--home", home, "--port", "0"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + START_SECONDS_MAX
            while not (home / "endpoint.json").exists():
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
            yield json.loads((home / "endpoint.json").read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS_MAX)


def _lay_out(root: Path, chip: Path, market: dict[str, str]) -> None:
    """The agent's files in a tree that is about to be booted."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / "srv/agent" / name)
    shutil.copy(ROOT / "constraints.txt", root / "srv/agent")
    site = root / "usr/lib/python3/dist-packages"
    for name in DISTRIBUTIONS:
        for each in metadata.files(name) or ():
            if ".." not in each.parts:
                (site / each).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(each.locate(), site / each)
    info = site / "blindhost.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blindhost\nVersion: 0.1.0\n")
    for file in units.host_files():
        (root / file.path).parent.mkdir(parents=True, exist_ok=True)
        (root / file.path).write_text(file.content)
    drop_in = root / f"etc/systemd/system/{units.AGENT}.d/test.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(DROP_IN)
    configuration = root / units.CONFIGURATION.lstrip("/")
    configuration.mkdir()
    (configuration / "identity").write_bytes(os.urandom(32))
    (configuration / "agent.env").write_text(
        f"BLINDHOST_MARKET={market['url']}\nBLINDHOST_MARKET_IDENTITY={market['identity']}\n"
        "BLINDHOST_ASK=3600000\n"
    )
    state = root / units.STATE.lstrip("/")
    state.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copytree(chip, state)


def test_the_agents_sandbox_lets_it_offer_its_machine(
    tmp_path: Path, market: dict[str, str]
) -> None:
    maker, chip = tmp_path / "maker", tmp_path / "chip"
    agent = BIN / "blindhost-agent"
    for command in (
        ["simulated-root", "--home", maker],
        ["simulated-chip", "--root", maker, "--home", chip],
    ):
        subprocess.run([agent, *command], check=True, capture_output=True)
    with nspawn.boot(Path(os.environ[nspawn.VARIABLE]), tmp_path / "root") as container:
        _lay_out(container.root, chip, market)
        container.run("systemd-sysusers")
        container.run("systemctl", "daemon-reload")
        container.run("systemctl", "start", units.AGENT)
        end = time.monotonic() + START_SECONDS_MAX
        while "listed offer=" not in (journal := _journal(container)):
            assert time.monotonic() < end, journal
            time.sleep(0.5)
        assert container.show(units.AGENT, "NRestarts") == "0"
        status = container.run("cat", f"/proc/{container.show(units.AGENT, 'MainPID')}/status")
        assert "Uid:\t0\t" not in status.stdout
        assert "CapBnd:\t0000000000000000\n" in status.stdout
        assert "Seccomp:\t2\n" in status.stdout
        container.run("systemctl", "stop", units.AGENT)
        assert container.show(units.AGENT, "Result") == "success", _journal(container)


def _journal(container: nspawn.Container) -> str:
    return container.run("journalctl", "-u", units.AGENT, "--no-pager", "-o", "cat").stdout
