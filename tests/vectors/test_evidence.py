"""The golden vectors of evidence: what each comes to, and that a script makes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.vectors.evidence import build, matrix
from tests.vectors.evidence.format import BASES, HERE, difference, input_of, merged, stored, written
from tests.vectors.evidence.verdicts import judged

VECTORS = stored()
NAMES = [f"{platform}/{vector['name']}" for platform, vector in VECTORS]


@pytest.mark.parametrize(("platform", "vector"), VECTORS, ids=NAMES)
def test_a_vector_comes_to_what_it_says(platform: str, vector: Mapping[str, Any]) -> None:
    verdict, lines = judged(input_of(vector))
    expected = vector["expect"]
    assert verdict == expected["verdict"]
    if verdict != "malformed":
        assert sorted(line.id for line in lines if not line.passed) == expected["checks"]


def test_every_base_is_accepted_as_it_is() -> None:
    for path in BASES.glob("*.json"):
        verdict, lines = judged(input_of({"base": path.stem, "replace": {}}))
        assert verdict == "accepted", (path.stem, [str(each) for each in lines if not each.passed])


def test_a_lie_differs_from_its_base_and_says_one_sentence() -> None:
    for platform, vector in VECTORS:
        good = vector["name"].startswith("good-") or vector["expect"]["verdict"] == "accepted"
        assert good or vector["replace"], vector["name"]
        assert vector["tells"].endswith("."), (platform, vector["name"])
        assert vector["tells"][0].isupper(), (platform, vector["name"])
        assert vector["expect"]["checks"] == sorted(set(vector["expect"]["checks"]))
        assert bool(vector["expect"]["checks"]) == (vector["expect"]["verdict"] != "accepted")


def test_there_are_as_many_as_were_asked_for() -> None:
    lies = [platform for platform, v in VECTORS if v["expect"]["verdict"] != "accepted"]
    assert len(lies) >= 150
    assert min(lies.count(platform) for platform in ("snp", "tdx", "gpu")) >= 45


# --- each check has a vector ---------------------------------------------------------------------


def test_each_number_from_1_to_37_has_a_vector_that_only_it_refuses() -> None:
    alone, _others = matrix.refusing()
    numbers = matrix.numbers()
    assert {numbers[check] for check in alone if check in numbers} == set(matrix.NUMBERS)


@pytest.mark.parametrize("check", sorted({*matrix.numbers(), *matrix.UNNUMBERED}))
def test_each_line_has_a_vector_that_only_it_refuses_or_a_reason(check: str) -> None:
    alone, _others = matrix.refusing()
    assert (check in alone) != (check in matrix.IMPLIED), check


def test_no_vector_names_a_line_that_there_is_not() -> None:
    alone, others = matrix.refusing()
    assert {*alone, *others} <= {*matrix.numbers(), *matrix.UNNUMBERED}


def test_the_table_of_checks_and_vectors_is_current() -> None:
    assert matrix.DOCUMENT.read_text(encoding="utf-8") == matrix.document()


# --- a script makes them -------------------------------------------------------------------------


def test_no_file_is_there_that_the_index_of_folders_does_not_know() -> None:
    assert {path.parent.name for path in HERE.rglob("*.json")} <= {"bases", *build.PLATFORMS}
    for platform, vector in VECTORS:
        assert (HERE / platform / f"{vector['name']}.json").is_file()


def test_bases_of_a_genoa_are_made_again_as_they_are_stored() -> None:
    from tests.vectors.evidence import snp_mint

    for who in ("genoa", "vlek"):
        assert (BASES / f"snp-{who}.json").read_bytes() == written(snp_mint.whole(who))


@pytest.mark.slow
def test_all_files_are_made_again_as_they_are_stored() -> None:
    made = build.files()
    assert set(made) == build.stored_files()
    for path, content in made.items():
        assert (HERE / path).read_bytes() == content, path


# --- the format ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "patch", "new"),
    [  # RFC 7396, Appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merging_is_the_rfcs(old: Any, patch: Any, new: Any) -> None:
    assert merged(old, patch) == new


def test_a_difference_is_the_patch_between_two_inputs() -> None:
    old = {"same": 1, "list": [1], "gone": 2, "inner": {"a": 1, "b": 2}}
    new = {"same": 1, "list": [2], "inner": {"a": 1, "c": 3}}
    patch = difference(old, new)
    assert patch == {"gone": None, "list": [2], "inner": {"b": None, "c": 3}}
    assert merged(old, patch) == new


def test_a_scenario_is_written_with_its_checks_in_order() -> None:
    from tests.vectors.evidence.format import refused

    told = dataclasses.replace(
        refused("snp", "name", "Tells.", "base", "b", evidence={}), checks=("b", "a")
    )
    assert json.loads(written(told.as_json())) == {
        "name": "name",
        "tells": "Tells.",
        "base": "base",
        "replace": {"evidence": {}},
        "expect": {"verdict": "refused", "checks": ["a", "b"]},
    }
