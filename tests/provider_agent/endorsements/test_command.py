"""``blindhost-agent endorsements``, as a host runs it: its words, its JSON, its status."""

from __future__ import annotations

import asyncio
import datetime as dt
import fcntl
import json
from pathlib import Path

import pytest

from provider_agent.__main__ import main
from provider_agent.commands import endorsements as command
from provider_agent.endorsements.shapes import TDX_KINDS
from tests.provider_agent.endorsements import minted
from tests.provider_agent.endorsements.rig import Rig

NOW_MS = int(minted.NOW.timestamp() * 1000)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "wall_clock", lambda: NOW_MS)


async def run(rig: Rig, *arguments: str) -> int:
    """Off the loop on which the rig's servers answer."""
    base = rig.services.kds.base
    urls = [w for n in ("kds", "pcs", "root-list", "rim", "ocsp") for w in (f"--{n}-url", base)]
    services = urls if arguments[0] == "fetch" else []
    folder = ("--folder", str(rig.store.folder))
    return await asyncio.to_thread(
        main, ["endorsements", arguments[0], *folder, *services, *arguments[1:]]
    )


def tdx() -> tuple[str, ...]:
    return ("--tdx-fmspc", minted.FMSPC)


async def test_fetch_says_what_it_did_and_show_says_it_again_as_json(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(rig, "fetch", *tdx()) == 0
    said = capsys.readouterr().out
    assert "asked 4 times, wrote 7 files" in said
    assert all(each in said for each in TDX_KINDS)
    assert await run(rig, "show", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "blindhost/v1/host/endorsements"
    assert value["complete"] is True
    assert {each["kind"] for each in value["objects"]} == set(TDX_KINDS)
    for each in value["objects"]:
        assert each["state"] == "good"
        assert dt.datetime.fromisoformat(each["ends"]) > minted.NOW
        assert len(each["sha256"]) == 64


async def test_hardware_is_said_once_and_fetched_again_without_a_word(
    rig: Rig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(minted.gpu_chain())
    subject = minted.snp_subject()
    said = (
        *("--snp-product", "Genoa", "--snp-chip-id", subject.chip_id.hex()),
        *("--snp-tcb", subject.tcb.hex(), "--gpu-rim", minted.RIM_ID, "--gpu-chain", str(chain)),
    )
    assert await run(rig, "fetch", *said) == 0
    wanted = rig.store.wanted()
    assert wanted is not None
    assert (wanted.snp, wanted.gpu, wanted.tdx) == (subject, minted.gpu_subject(), None)
    (rig.store.folder / "snp" / "crl").unlink()
    rig.asked.clear()
    assert await run(rig, "fetch") == 0
    assert rig.asked == ["/vcek/v1/Genoa/crl"]
    capsys.readouterr()


async def test_what_is_missing_is_named_with_what_to_do_and_gives_status_1(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    del rig.replies["/IntelSGXRootCA.der"]
    assert await run(rig, "fetch", *tdx()) == 1
    said = capsys.readouterr().out
    assert "tdx/tdx-root-crl: never here; not fetched since 2026-11-24 12:00 UTC" in said
    assert "status 404" in said
    assert "endorsements import NAME FILE" in said
    assert await run(rig, "show", "--json") == 1
    assert json.loads(capsys.readouterr().out)["complete"] is False


async def test_a_file_that_was_fetched_elsewhere_is_brought(
    rig: Rig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert await run(rig, "show") == 1
    assert "nothing is here" in capsys.readouterr().out
    for kind, content in minted.intel().items():
        (tmp_path / kind).write_bytes(content)
        assert await run(rig, "import", kind, str(tmp_path / kind)) == 0
    assert await run(rig, "show") == 0
    assert capsys.readouterr().out.count("import") == 7
    (tmp_path / "junk").write_bytes(b"junk")
    assert await run(rig, "import", "crl", str(tmp_path / "junk")) == 78  # EX_CONFIG, and a reason


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--tdx-fmspc", "zz"),
        ("--snp-chip-id", "00" * 64),
        ("--gpu-rim", "../crl"),
        ("--snp-report", "/dev/null"),
        ("--kds-url", "http://kdsintf.amd.com", "--tdx-fmspc", minted.FMSPC),
    ],
)
async def test_a_bad_word_is_refused_before_anything_is_asked_or_written(
    rig: Rig, arguments: tuple[str, ...]
) -> None:
    assert await run(rig, "fetch", *arguments) == 78
    assert rig.asked == []
    assert rig.store.wanted() is None


async def test_two_never_fetch_at_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.store.folder.mkdir()
    with (rig.store.folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert await run(rig, "fetch", *tdx()) == 78
    assert "busy" in caplog.text
    assert rig.asked == []


async def test_what_a_service_says_reaches_no_terminal_as_control(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(rig, "fetch", *tdx()) == 0
    rig.store.trouble("tdx", "tdx-root-crl", "\x1b]52;c;evil\x07\u202e", minted.NOW)
    capsys.readouterr()
    for arguments in (("show",), ("show", "--json")):
        assert await run(rig, *arguments) == 0
        said = capsys.readouterr().out
        assert "evil" in said
        assert not set("\x1b\x07\u202e") & set(said)
