"""The gateway's configuration: what does not hold is named when it starts, not when it costs."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from client.gateway.config import FILLED, ConfigError, GatewayConfig, load_config, parse_config
from tests.client.tuning_rig import config_fields
from trust.custody import LineageKind

MODEL = "ab" * 32
LINEAGE = (b"s" + bytes(32)).hex()


def parsed(**models: dict):
    return parse_config(json.dumps({"models": models}).encode())


def test_configuration_names_bases_with_all_that_a_job_needs(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    fields = config_fields(MODEL, lineage=LINEAGE)
    path.write_text(json.dumps({"models": {"tiny": fields, "other": config_fields(MODEL)}}))
    config = load_config(path)
    assert list(config.models) == ["tiny", "other"]
    tiny = config.models["tiny"]
    assert (tiny.name, tiny.model.hex(), tiny.kind) == ("tiny", MODEL, LineageKind.SIMULATED)
    assert [each.hex() for each in tiny.images] == fields["images"]
    assert dict(tiny.job) == fields["job"]
    assert tiny.recipe["name"] == "lora"
    assert (config.kind, config.lineage) == (LineageKind.SIMULATED, bytes.fromhex(LINEAGE))
    assert parsed(tiny=config_fields(MODEL)).lineage is None


def test_missing_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none")
    (tmp_path / "huge").write_bytes(b" " * (1 << 21))
    with pytest.raises(ConfigError, match="over"):
        load_config(tmp_path / "huge")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"models": {}}',
        b'{"models": []}',
        b'{"models": {"a": 1}}',
        b'{"models": {}, "models": {}}',
        b'{"models": {"a": {}}, "port": 1}',
    ],
)
def test_shape_at_the_top_is_exact(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_config(data)


def without(name: str):
    def change(fields: dict) -> None:
        del fields[name]

    return change


def put(value: object, *path: str):
    def change(fields: dict) -> None:
        *before, last = path
        for each in before:
            fields = fields[each]
        fields[last] = value

    return change


FAULTS = {
    "unknown key": (put(1, "port"), "unknown key 'port'"),
    "no model": (without("model"), "missing key 'model'"),
    "no lineage": (without("lineage"), "missing key 'lineage'"),
    "a short model": (put("ab", "model"), "model: 1 bytes; wanted 32"),
    "upper-case hex": (put(MODEL.upper(), "model"), "hexadecimal"),
    "no images": (put([], "images"), "images"),
    "a short image": (put(["ab"], "images"), r"images\[0\]"),
    "another kind": (put("fake", "kind"), "real or simulated"),
    "a lineage of the other kind": (put((b"r" + bytes(32)).hex(), "lineage"), "not simulated"),
    "a serve job": (put("serve", "job", "kind"), "wanted 'train'"),
    "another recipe": (put("generate", "job", "recipe", "name"), "'lora'"),
    "half a recipe": (without("job"), "missing key 'job'"),
    "a field too many": (put(1, "job", "strange"), "strange"),
    "a recipe's field too many": (put(1, "job", "recipe", "strange"), "strange"),
    "a rank of nothing": (put(0, "job", "recipe", "rank"), "rank"),
    "rows that do not divide": (put(7, "job", "recipe", "rows_per_step"), "multiple"),
    **{f"filled {name}": (put(None, "job", name), name) for name in sorted(FILLED)},
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_fault_in_a_model_is_named(fault: str) -> None:
    change, text = FAULTS[fault]
    fields = copy.deepcopy(config_fields(MODEL))
    change(fields)
    with pytest.raises(ConfigError, match=text) as caught:
        parsed(tiny=fields)
    assert "tiny" in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "ft:a", "-a", "a" * 65, "ä"])
def test_name_that_would_not_stand_in_a_tuned_models_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a name is of"):
        parsed(**{name: config_fields(MODEL)})


def test_bases_of_two_kinds_or_lineages_are_refused() -> None:
    other = (b"s" + bytes([1]) * 32).hex()
    for second in (config_fields(MODEL, kind="real"), config_fields(MODEL, lineage=other)):
        with pytest.raises(ConfigError, match="one kind and one lineage"):
            parsed(one=config_fields(MODEL, lineage=LINEAGE), two=second)


def test_gateway_without_bases_says_so_when_a_file_comes() -> None:
    with pytest.raises(ConfigError, match="nothing to tune"):
        _ = GatewayConfig(models={}).kind
