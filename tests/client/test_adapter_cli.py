"""`blindhost adapter fetch`, over a real market's socket and an owner's broker as a process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from client.files import write_durably
from client.hand_over import CONFIG_NAME, TENSORS_NAME
from client.home import Config
from client.market_api import MarketAddress, MarketApi
from tests.client.hand_over_stage import HandOverStage
from tests.client.test_cli import (
    ROOT,
    blindhost,
    fails,
    market,  # noqa: F401 - a fixture
    now_of_this_machine,
)
from tests.trust import release_world as rw
from trust.artifacts import Manifest
from trust.identity import Signed
from trust.release_checks import shown


async def prepare(stage: HandOverStage, where: dict[str, str]) -> Signed[Manifest]:
    """Train on the fake market, then move both homes and the ciphertext to the real one."""
    made = await stage.train()
    address = MarketAddress(url=where["url"], identity=bytes.fromhex(where["identity"]))
    for name, each in stage.custody.items():
        stage.stop(name)
        config = Config(market_url=address.url, market=address.identity)
        write_durably(each.home.folder / "config", config.encode())
    async with aiohttp.ClientSession() as session:
        key = stage.buyer.key
        api = MarketApi(session, address=address, key=key, clock=now_of_this_machine)
        for blob in stage.market.blobs.values():
            await api.put_blob(blob)
    return made


@pytest.mark.slow
def test_command_fetches_from_a_running_broker_and_says_whose_line_refuses(
    market: dict[str, str],  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = HandOverStage(tmp_path / "stage")
    owner, buyer = (stage.custody[name].home.folder for name in ("owner", "buyer"))
    made = asyncio.run(prepare(stage, market))
    artifact, folder = made.digest.hex(), tmp_path / "adapter"
    fetch = ("adapter", "fetch", artifact, "--to", str(folder), "--home", str(buyer))
    code = "from client.cli import main; main()"
    command = [sys.executable, "-c", code, "broker", "--home", str(owner)]
    assert fails(monkeypatch, *fetch, "--timeout", "1") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "waiting up to 1 s for custodian" in said
    assert f"custodian {shown(stage.owner.key.identity)} did not answer within 1 s" in said
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            assert fails(monkeypatch, *fetch) == 1
            said = " ".join(capsys.readouterr().err.split())
            owner_name = shown(stage.owner.key.identity)
            assert f"use policy 1 of custodian {owner_name}: adapter_to does not name" in said
            assert not folder.exists()
            publish(stage, owner)
            found = blindhost(*fetch, "--base-name", "base")
            assert found["bytes"] == len(stage.content)
        finally:
            process.kill()
    assert (folder / TENSORS_NAME).read_bytes() == stage.content
    assert json.loads((folder / CONFIG_NAME).read_bytes())["base_model_name_or_path"] == "base"
    assert fails(monkeypatch, *fetch) == 1
    assert "never overwritten" in capsys.readouterr().err


def publish(stage: HandOverStage, owner: Path) -> None:
    """The owner names the buyer, by its own command."""
    found = blindhost(
        *("policy", "publish", "--home", str(owner)),
        *("--lineage", stage.owner.entry.lineage.hex(), "--measurement", rw.IMAGE.hex()),
        *("--accept-simulated-evidence-from", rw.root().fingerprint.hex()),
        *("--adapter-to", stage.buyer.key.identity.hex()),
    )
    assert found["number"] == 2
