"""An endorser's commands: what they sign is what a verifier reads."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli.facility import facility
from client.facility import endorse, read_endorsement
from client.home import Config, Home
from client.keystore import Keystore
from tests.trust.release_makers import DAY, MARKET, NOW
from trust.errors import EncodingError, RefusedError, SignatureError
from trust.verifier.facility import FacilityDemands, appraise_facility

CHIP, PPID = bytes(range(64)), bytes(range(16))
GPUS = (b"\x33\x44", b"\x11\x22")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.create(tmp_path / "home", Config(market_url="http://m", market=MARKET.identity))
    Keystore.create(tmp_path / "home", made.key_file)
    return made


def asked(**changes: Any) -> dict[str, Any]:
    return {"facility": "Hall 2", "machine": CHIP, "gpus": GPUS, "days": 30, "now": NOW} | changes


def test_what_an_endorser_signs_a_verifier_accepts_until_it_expires(home: Home) -> None:
    signed = endorse(home, home.keystore(), **asked())
    demands = FacilityDemands(endorsers=(signed.signer,), age_days_max=60, never=(MARKET.identity,))

    def passes(now: int) -> bool:
        lines = appraise_facility(
            chip_id=CHIP,
            ppid=None,
            gpu_serials=GPUS,
            endorsements=[signed.encode()],
            demands=demands,
            now=dt.datetime.fromtimestamp(now / 1000, dt.UTC),
        )
        return all(each.passed for each in lines)

    assert passes(NOW)
    assert passes(NOW + 30 * DAY - 1000)
    assert not passes(NOW + 30 * DAY)


def test_an_intel_processor_is_named_by_its_ppid(home: Home) -> None:
    said = endorse(home, home.keystore(), **asked(machine=PPID)).document
    assert (said.ppid, said.chip_id, said.machine) == (PPID, None, PPID)
    with pytest.raises(EncodingError, match="wanted 64 or 16"):
        endorse(home, home.keystore(), **asked(machine=CHIP[:8]))


def test_the_market_endorses_nothing(home: Home) -> None:
    keys = home.keystore()
    own = Home(home.folder, Config(market_url="http://m", market=keys.party.identity))
    with pytest.raises(RefusedError, match="endorse-market"):
        endorse(own, keys, **asked())


def test_a_changed_endorsement_is_not_shown_as_good(home: Home) -> None:
    data = endorse(home, home.keystore(), **asked()).encode()
    with pytest.raises(SignatureError):
        read_endorsement(data.replace(b"Hall 2", b"Hall 3"))


def test_the_commands_write_an_endorsement_and_read_it(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "endorsement"
    words = ["endorse", "Hall 2", "--machine", CHIP.hex(), "--gpu", "3344", "--gpu", "1122"]
    run = CliRunner().invoke(
        facility,
        [*words, "--out", str(out), "--home", str(home.folder), "--json"],
        catch_exceptions=False,
    )
    assert run.exit_code == 0, run.output
    signed = read_endorsement(out.read_bytes())
    assert json.loads(run.stdout)["endorser"] == signed.signer.hex()
    assert signed.document.gpus == (b"\x11\x22", b"\x33\x44")
    shown = CliRunner().invoke(facility, ["show", str(out)], catch_exceptions=False).stdout
    assert "Hall 2" in shown
    assert "1122, 3344" in shown
