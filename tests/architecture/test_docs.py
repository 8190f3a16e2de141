"""Docs name tests, files and limits that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])


def defined_tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8")))
    return found


PROPOSALS = {"attacks.md"}  # names tests as proposed, of things that are not built yet too


@pytest.mark.parametrize(
    "path", [p for p in DOCS if p.name not in PROPOSALS], ids=lambda path: path.name
)
def test_every_test_that_a_document_names_exists(path: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", path.read_text(encoding="utf-8")))
    assert not named - defined_tests()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_threat_model_names_a_test_or_says_that_there_is_no_protection() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    for row in re.findall(
        r"^\| (?!adversary|---).*\|$", text.partition("## Not protected")[0], re.MULTILINE
    ):
        assert "`test_" in row or "**not protected**" in row, row
