"""The line-printing twins of the window's screens, on a real market's socket."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli import app, main
from client.files import HomeError
from client.market_api import MarketRefusedError, UnauthenticatedAnswerError
from tests.client.test_cli import init, market
from tests.client.test_owner_and_buyer import ASSETS, MODEL_FILES

__all__ = ["market"]  # a fixture

NAME = "ab" * 32


@pytest.fixture
def home(market: dict[str, str], tmp_path: Path) -> Path:
    """A fresh home at a real market."""
    init(tmp_path / "home", market["url"], market["identity"])
    return tmp_path / "home"


def says(home: Path, *words: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, [*words, "--home", str(home)], catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.stdout


def value(home: Path, *words: str) -> Any:
    return json.loads(says(home, *words, "--json").splitlines()[-1])


@pytest.mark.slow
def test_each_screen_has_lines_and_json_on_an_empty_market(home: Path) -> None:
    assert "0 of 0 fit" in says(home, "offers", "gpu=H100 price<=2")
    assert value(home, "offers") == []
    funnel = value(home, "offers", "gpu=H100 price<=2", "--explain")
    assert [step["left"] for step in funnel["steps"]] == [0, 0]
    assert "idle" in says(home, "money")
    assert value(home, "money")["lines"] == []
    assert value(home, "money", "statement") == []
    assert says(home, "money", "statement", "--csv").startswith("number,at,kind,")
    assert " balance Assets:Blindhost:Free  0.000000" in says(
        home, "money", "statement", "--beancount"
    )
    assert "NOT YET" in says(home, "trust", NAME)
    assert value(home, "trust", NAME, "--offline")["verdicts"] == []
    assert value(home, "releases") == []
    assert "nothing was ever released" in says(home, "releases", "--by-chip")


@pytest.mark.slow
def test_offers_are_listed_for_whoever_has_an_invite_and_no_keys(
    market: dict[str, str], home: Path
) -> None:
    visit = ("offers", "--market", market["url"], "--market-key", market["identity"])
    done = CliRunner().invoke(app, visit, catch_exceptions=False)
    assert (done.exit_code, "0 of 0 fit" in done.stdout) == (0, True), done.output
    assert "own keys" not in done.stdout  # there are none whose policies could say anything
    wrong = (*visit[:-1], NAME)  # the pinned key is what makes the answer the market's
    with pytest.raises(UnauthenticatedAnswerError):
        CliRunner().invoke(app, wrong, catch_exceptions=False)
    with pytest.raises(HomeError, match="whose offers"):
        CliRunner().invoke(app, visit[:3], catch_exceptions=False)


@pytest.mark.slow
def test_a_model_is_named_only_once_the_market_has_its_manifest(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for each in MODEL_FILES:
        (folder / each).write_bytes((ASSETS / each).read_bytes())
    model = value(home, "model", "seal", str(folder), "--kind", "simulated")
    with pytest.raises(MarketRefusedError):
        says(home, "model", "add", model["artifact"], "--name", "tiny")
    value(home, "model", "publish", model["artifact"])
    assert value(home, "model", "add", model["artifact"], "--name", "tiny")["name"] == "tiny"


@pytest.mark.slow
def test_a_market_that_does_not_know_a_job_says_so_in_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["blindhost", "job", "events", NAME, "--home", str(home), "--json"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "not-found" in capsys.readouterr().err


def test_a_query_that_cannot_be_read_is_marked_at_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["blindhost", "offers", "gpu=H100 regoin=eu", "--home", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "gpu=H100 regoin=eu"
    assert said[1] == " " * 9 + "▲"
    assert "did you mean region?" in " ".join(said[2:])


def test_a_hostile_error_reaches_the_terminal_as_letters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from trust.errors import BlindhostError

    def refuse(*_: object, **__: object) -> None:
        raise BlindhostError("\x1b]52;c;aGk=\x1b\\ and \u202e")

    monkeypatch.setattr("client.cli.trust.open_home", refuse)
    monkeypatch.setattr(sys, "argv", ["blindhost", "releases", "--home", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert "\x1b]52" not in said
    assert "\u202e" not in said
    assert "\ufffd]52" in said
