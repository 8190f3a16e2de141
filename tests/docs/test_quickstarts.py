"""The quickstarts are run, block by block, by the parties that they are for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.pages import PageError, Terminal, sections
from tests.docs.town import Town


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_four_quickstarts_tell_one_story_that_runs(tmp_path: Path) -> None:
    with Town(tmp_path) as town:
        town.open()
        town.buyer.section("2. Fine-tune")
        shown = json.loads((town.work / "shown.json").read_bytes())
        assert shown["market"]["state"] == "succeeded"
        assert shown["outputs"] == [town.buyer.value("ADAPTER")]
        assert shown["receipts_that_do_not_hold"] == []
        assert shown["last_receipt"]["step"] == 6
        town.buyer.section("3. Serve it")
        town.buyer.section("4. Chat with it")
        answer = json.loads((town.work / "answer.json").read_bytes())
        assert answer["usage"]["completion_tokens"] > 0
        town.buyer.section("5. End")
        town.owner.section("4. See what came in, and end")
        town.host.section("3. End")
        said = town.operator.section("4. Look at the books, and end")
        assert "the books balance" in said
        for each in (town.operator, town.host, town.owner, town.buyer):
            assert each.ran == list(sections(each.page)), "a block was not run, or out of order"


def test_a_block_ends_at_its_first_command_that_fails(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "quickstart/host.md", {})
    try:
        assert terminal.run("echo good\n") == "good\n"
        with pytest.raises(PageError, match=r"here: ended with 3: $"):
            terminal.run("(exit 3)\necho went on\n", "here")
    finally:
        terminal.close()
