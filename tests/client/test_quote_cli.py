"""`blindhost quote`: a price for each offer, the same as the window's, and nothing signed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.cli import app
from client.cli.quote import read_draft
from tests.marketplace.api.rig import key16
from tests.marketplace.world import CREDIT, HOST
from tests.tui.hub_rig import Desk, desk, rig
from tests.tui.test_hub_jobs import draft_of, publish_policy
from trust.errors import EncodingError

__all__ = ["desk", "rig"]  # fixtures

DRAFT = {
    "rows": 64, "rank": 8, "alpha": 16, "steps": 100, "rows_per_step": 8, "length_max": 128,
    "seed": 7, "checkpoint_steps": 10, "spend_max": 6 * CREDIT, "price_max": 2 * CREDIT,
    "learning_rate": "0.0002", "precision": "fp32",
}  # fmt: skip


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "draft.json"
    path.write_text(json.dumps({**DRAFT, **changes}))
    return path


async def test_each_offer_has_its_price_and_nothing_is_signed_or_held(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = await draft_of(desk, tmp_path)
    await desk.rig.api(HOST).post_offer(
        desk.rig.draft(platform="tdx", ask_microcredits_per_gpu_hour=3 * CREDIT), key=key16()
    )
    monkeypatch.setattr("client.cli.quote.now_milliseconds", lambda: desk.rig.time[0])
    words = ("quote", str(written(tmp_path)), "--home", str(desk.home.folder))
    named = ("--model", draft.model, "--dataset", draft.data)

    async def invoke(*more: str) -> Result:
        def call() -> Result:
            return CliRunner().invoke(app, [*words, *named, *more], catch_exceptions=False)

        return await asyncio.to_thread(call)

    before = json.loads((await invoke("--json")).stdout.splitlines()[-1])
    assert [each["refused"][:13] for each in before] == ["no-use-policy"] * 2
    publish_policy(desk)
    first, dear = json.loads((await invoke("--json")).stdout.splitlines()[-1])
    assert (first["cost_max"], first["cost_low"], first["refused"]) == (6 * CREDIT, None, "")
    assert dear["refused"] == "dearer than price_max"
    shown = await invoke("tee=snp")
    assert first["offer"] in shown.stdout
    assert dear["offer"] not in shown.stdout
    assert "no receipt of your own" in shown.stdout
    assert "1 offers; nothing is signed and nothing is held" in shown.stdout
    assert not desk.home.holdings(desk.keys).jobs
    assert await desk.rig.api(desk.keys.party).get_jobs() == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"buyer": "x"}, "buyer is no field of a draft"),
        ({"rank": "8"}, "rank: a whole number is wanted"),
        ({"rank": True}, "rank: a whole number is wanted"),
        ({"precision": 32}, "precision: a word in quotes is wanted"),
    ],
)
def test_a_draft_with_an_odd_field_is_refused_by_its_name(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(EncodingError, match=words):
        read_draft(path, model="3a" * 32, dataset="8f" * 32, heldout=None)


def test_a_draft_that_lacks_a_field_says_which(tmp_path: Path) -> None:
    path = tmp_path / "draft.json"
    path.write_text(json.dumps({k: v for k, v in DRAFT.items() if k != "spend_max"}))
    with pytest.raises(EncodingError, match="spend_max is missing"):
        read_draft(path, model="3a" * 32, dataset="8f" * 32, heldout=None)
