"""Appraisal policies from files and words, and the schema that is published of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from client.policies import POLICY_BYTES_MAX, genuine, read_policy
from client.schema import json_schema
from trust.errors import EncodingError, PolicyError
from trust.verifier.policy import (
    AppraisalPolicy,
    any_facility,
    simulated_policy,
    simulated_policy_of,
)
from trust.verifier.roots import Anchor, RootKind, parse_simulated_root

IMAGE = bytes(range(48))
MARKET = bytes([7] * 32)
SCHEMA = Path(__file__).parents[2] / "docs" / "spec" / "appraisal-policy.schema.json"
SHIPPED = {
    "any facility": any_facility([IMAGE]),
    "simulated": simulated_policy(bytes(32), [IMAGE]),
    "recommended": genuine(
        [IMAGE],
        endorsers=[bytes([1] * 32)],
        market=MARKET,
        allow_any_facility=False,
        processor_alone=False,
    ),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_policy_in_json_and_in_yaml_is_the_same_policy(name: str, tmp_path: Path) -> None:
    policy, file = SHIPPED[name], tmp_path / "policy"
    file.write_text(json.dumps(policy.to_json(), indent=2), encoding="utf-8")
    assert read_policy(file) == policy
    file.write_text(yaml.safe_dump(policy.to_json()), encoding="utf-8")
    assert read_policy(file) == policy


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2\n",
        "a: &x 1\nb: *x\n",
        "!!python/object/apply:os.system ['true']\n",
        "- just\n- a list\n",
        "a: 2026-11-24\n",
        "a: 1.5\n",
        "[" * 2000,
        "\x00",
        "",
        "{",
        '{"version": 1, "version": 1}',
    ],
)
def test_what_is_no_policy_is_refused_by_an_error_of_ours(text: str, tmp_path: Path) -> None:
    file = tmp_path / "policy"
    file.write_text(text, encoding="utf-8")
    with pytest.raises((PolicyError, EncodingError)):
        read_policy(file)


def test_a_missing_and_an_unknown_field_are_refused_in_yaml_too(tmp_path: Path) -> None:
    file, value = tmp_path / "policy", dict(SHIPPED["simulated"].to_json())
    file.write_text(yaml.safe_dump({**value, "debug": True}), encoding="utf-8")
    with pytest.raises(EncodingError, match="unknown field"):
        read_policy(file)
    del value["facility"]
    file.write_text(yaml.safe_dump(value), encoding="utf-8")
    with pytest.raises(EncodingError, match="missing field 'facility'"):
        read_policy(file)


def test_a_policy_of_more_than_a_mebibyte_is_not_parsed(tmp_path: Path) -> None:
    file = tmp_path / "policy"
    file.write_bytes(b"#" * (POLICY_BYTES_MAX + 1))
    with pytest.raises(PolicyError, match="more than"):
        read_policy(file)


def test_a_genuine_policy_says_where_machines_may_stand() -> None:
    words = {"market": MARKET, "processor_alone": False}
    with pytest.raises(PolicyError, match="say where machines may stand"):
        genuine([IMAGE], endorsers=[], allow_any_facility=False, **words)
    with pytest.raises(PolicyError, match="say where machines may stand"):
        genuine([IMAGE], endorsers=[bytes(32)], allow_any_facility=True, **words)
    with pytest.raises(PolicyError):
        genuine([IMAGE], endorsers=[MARKET], allow_any_facility=False, **words)
    recommended = SHIPPED["recommended"].facility
    assert recommended is not None
    assert recommended.never == (MARKET,)
    alone = genuine(
        [IMAGE], endorsers=[], market=MARKET, allow_any_facility=True, processor_alone=True
    )
    assert alone.gpu is None
    assert {root.anchor for root in alone.roots} == {Anchor.GENOA, Anchor.TURIN}


def test_a_simulated_root_is_written_with_its_anchor_and_bare_as_a_genoa() -> None:
    bare = parse_simulated_root("ab" * 32)
    assert (bare.kind, bare.anchor) == (RootKind.SIMULATED, Anchor.GENOA)
    gpu = [parse_simulated_root(f"{name}={'cd' * 31}{n}0") for n, name in
           enumerate(("nvidia-device", "nvidia-rim"))]  # fmt: skip
    policy = simulated_policy_of([bare, *gpu], [IMAGE])
    assert policy.gpu is not None
    assert simulated_policy_of([bare], [IMAGE]).gpu is None
    with pytest.raises(PolicyError, match="wanted the same"):
        simulated_policy_of([bare, gpu[0]], [IMAGE])
    with pytest.raises(PolicyError, match="wanted a genoa"):
        simulated_policy_of(gpu, [IMAGE])
    for text in ("", "ab", "AB" * 32, "milan-b0=" + "ab" * 32, "nvidia-device=" + "ab" * 31):
        with pytest.raises(PolicyError, match="ANCHOR"):
            parse_simulated_root(text)


def test_the_published_schema_is_that_of_the_type() -> None:
    schema = json_schema(AppraisalPolicy, title="Blindhost appraisal policy, version 1")
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == schema, "blindhost evidence schema"
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_policies_keep_the_schema_and_broken_ones_do_not(name: str) -> None:
    check = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    value = SHIPPED[name].to_json()
    check.validate(value)
    for field in dataclasses.fields(SHIPPED[name]):
        broken = {each: value[each] for each in value if each != field.name}
        assert not check.is_valid(broken), field.name
        assert not check.is_valid({**value, field.name: {"no": "such"}}), field.name
    assert not check.is_valid({**value, "debug": True})
