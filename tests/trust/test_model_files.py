"""Public files of a model that would run as programs, or hide a second model, are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assets import demo_files, demo_model
from trust.encoding import digest
from trust.errors import DocumentError, EncodingError, SizeLimitError
from trust.model_files import (
    PRE_TOKENIZER_PATTERNS,
    WEIGHTS_NAME,
    check_model_files,
    check_model_folder_names,
    parse_safetensors_header,
)

LLAMA_3 = next(iter(PRE_TOKENIZER_PATTERNS))


def edited(name: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, bytes]:
    files = demo_files()
    value = json.loads(files[name])
    change(value)
    return files | {name: json.dumps(value).encode()}


def refused(files: dict[str, bytes], text: str) -> None:
    with pytest.raises(EncodingError, match=text):
        check_model_files(files, template=None)


def test_demo_model_passes() -> None:
    files = check_model_files(demo_files(), template=None)
    assert files.eos_ids == {2}
    assert files.context == 512
    assert files.special_tokens == {
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
    }


def test_llama_3_pre_tokenizer_passes() -> None:
    def change(value: dict[str, Any]) -> None:
        value["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": LLAMA_3},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        }

    assert check_model_files(edited("tokenizer.json", change), template=None)


# --- config --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoModel": "evil.Model"}),
        ("attn_implementation", "evil-org/kernel"),
        ("_attn_implementation", "evil-org/kernel"),
        ("_attn_implementation_internal", "flash_attention_2"),
        ("quantization_config", {"quant_method": "awq"}),
        ("trust_remote_code", True),
        ("base_model_tp_plan", {}),
    ],
)
def test_config_with_an_unknown_key_is_refused(key: str, value: object) -> None:
    refused(edited("config.json", lambda c: c.update({key: value})), f"unknown key '{key}'")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 100_000),
        ("num_hidden_layers", True),
        ("hidden_size", 1 << 40),
        ("vocab_size", -1),
        ("model_type", "mamba"),
        ("architectures", ["EvilForCausalLM"]),
        ("architectures", []),
        ("hidden_act", "evil"),
        ("attention_dropout", 0.5),
        ("rms_norm_eps", "1e-5"),
        ("dtype", "torch.float8"),
        ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 10000.0}),
        ("rope_parameters", {"rope_type": "default", "evil": 1}),
        ("eos_token_id", 5000),
        ("eos_token_id", []),
        ("transformers_version", "5.0; import os"),
    ],
)
def test_config_value_out_of_its_bounds_is_refused(key: str, value: object) -> None:
    files = edited("config.json", lambda c: c.update({key: value}))
    files.pop("generation_config.json")
    refused(files, key)


def test_config_without_its_layers_is_refused() -> None:
    refused(edited("config.json", lambda c: c.pop("num_hidden_layers")), "num_hidden_layers")


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b'{"a":1,"a":2}', b'{"a":NaN}'])
def test_config_that_is_no_strict_json_is_refused(text: bytes) -> None:
    refused(demo_files() | {"config.json": text}, "config.json|not JSON")


def test_deep_nesting_is_refused() -> None:
    text = b'{"rope_parameters":' + b"[" * 5000 + b"]" * 5000 + b"}"
    refused(demo_files() | {"config.json": text}, r"config\.json")


def test_file_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trust.model_files.PUBLIC_FILE_BYTES_MAX", 1000)
    with pytest.raises(SizeLimitError, match=r"tokenizer\.json"):
        check_model_files(demo_files(), template=None)


def test_generation_config_with_an_unknown_key_is_refused() -> None:
    files = edited("generation_config.json", lambda c: c.update(custom_generate="evil/repo"))
    refused(files, "custom_generate")


# --- tokenizer -----------------------------------------------------------------------------------

REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("normalizer", REPLACE),
        ("normalizer", {"type": "Sequence", "normalizers": [REPLACE] * 4}),
        ("normalizer", {"type": "NFC", "evil": 1}),
        ("pre_tokenizer", {"type": "WhitespaceSplit"}),
        ("pre_tokenizer", None),
        ("decoder", {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}),
        ("truncation", {"max_length": 4}),
        ("padding", {"strategy": "BatchLongest"}),
        ("version", "2.0"),
        ("remote", "https://example.org"),
        ("post_processor", {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
    ],
)
def test_tokenizer_part_outside_the_list_is_refused(key: str, value: object) -> None:
    refused(edited("tokenizer.json", lambda t: t.update({key: value})), key)


@pytest.mark.parametrize("pattern", [r"(?<=acquisition)(\s?\w+\s?)+$", r"\s+", ""])
def test_tokenizer_pattern_outside_the_list_is_refused(pattern: str) -> None:
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    refused(edited("tokenizer.json", lambda t: t.update(pre_tokenizer=split)), "pattern")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "Unigram"),
        ("dropout", 0.5),
        ("byte_fallback", True),
        ("continuing_subword_prefix", "##"),
        ("vocab", {"a": 0, "b": 0}),
        ("vocab", {"a": 5000}),
        ("merges", [["zz", "yy"]]),
        ("merges", ["a b c"]),
    ],
)
def test_tokenizer_model_outside_the_schema_is_refused(key: str, value: object) -> None:
    refused(edited("tokenizer.json", lambda t: t["model"].update({key: value})), r"tokenizer\.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoTokenizer": ["evil.Tokenizer", None]}),
        ("tokenizer_class", "EvilTokenizer"),
        ("eos_token", "<|nowhere|>"),
        ("eos_token", "<|pad|>"),
        ("extra_special_tokens", ["<|nowhere|>"]),
        ("added_tokens_decoder", {"9": {}}),
        ("chat_template", "{{ evil }}"),
    ],
)
def test_tokenizer_config_outside_the_schema_is_refused(key: str, value: object) -> None:
    with pytest.raises(EncodingError):
        check_model_files(
            edited("tokenizer_config.json", lambda t: t.update({key: value})), template=None
        )


# --- chat template -------------------------------------------------------------------------------

EVIL = b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def with_template(text: bytes) -> dict[str, bytes]:
    files = edited("tokenizer_config.json", lambda t: t.pop("chat_template"))
    return files | {"chat_template.jinja": text}


def test_template_that_nobody_knows_is_refused() -> None:
    refused(with_template(EVIL), digest(EVIL).hex())


def test_template_that_the_manifest_names_passes() -> None:
    assert check_model_files(with_template(EVIL), template=digest(EVIL)).template.encode() == EVIL


def test_template_other_than_the_one_that_the_manifest_names_is_refused() -> None:
    with pytest.raises(DocumentError, match="does not accept"):
        check_model_files(with_template(EVIL + b" "), template=digest(EVIL))


def test_two_templates_that_differ_are_refused() -> None:
    refused(demo_files() | {"chat_template.jinja": EVIL}, "differ")


def test_model_without_a_template_is_refused() -> None:
    files = with_template(b"")
    del files["chat_template.jinja"]
    refused(files, "no chat template")


# --- folder --------------------------------------------------------------------------------------


def test_demo_folder_passes() -> None:
    names = check_model_folder_names([*demo_files(), WEIGHTS_NAME, "README.md"])
    assert names == tuple(sorted(demo_files()))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytorch_model.bin", "pickle"),
        ("model.PT", "pickle"),
        ("state.pkl", "pickle"),
        ("modeling_evil.py", "code"),
        ("kernel.so", "code"),
        ("model-00002-of-00002.safetensors", "unknown file"),
        ("preprocessor_config.json", "unknown file"),
    ],
)
def test_folder_with_pickle_code_or_an_unknown_file_is_refused(name: str, text: str) -> None:
    with pytest.raises(DocumentError, match=text):
        check_model_folder_names([*demo_files(), WEIGHTS_NAME, name])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS_NAME])
def test_folder_that_lacks_a_file_is_refused(name: str) -> None:
    with pytest.raises(DocumentError, match="missing"):
        check_model_folder_names({*demo_files(), WEIGHTS_NAME} - {name})


# --- safetensors ---------------------------------------------------------------------------------


def entry(start: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]} | changes


def header(text: bytes | dict[str, Any]) -> bytes:
    body = text if isinstance(text, bytes) else json.dumps(text).encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body


def parse(text: bytes | dict[str, Any], data: int) -> Any:
    head = header(text)
    return parse_safetensors_header(head, len(head) + data)


def test_header_of_the_demo_model_covers_the_file() -> None:
    weights = demo_model().weights
    parsed = parse_safetensors_header(weights, len(weights))
    assert len(parsed.tensors) == 56
    assert parsed.tensors[-1].end == len(weights)
    assert parsed.metadata == {"format": "pt"}


def test_header_with_a_duplicate_name_is_refused() -> None:
    one = json.dumps(entry(0, 8))
    with pytest.raises(EncodingError, match="twice"):
        parse(f'{{"a":{one},"a":{one}}}'.encode(), 8)


@pytest.mark.parametrize(
    ("tensors", "data", "text"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "overlaps"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "overlaps"),
        ({"a": entry(0, 8), "b": entry(12, 16)}, 16, "hole"),
        ({"a": entry(4, 8)}, 8, "hole"),
        ({"a": entry(0, 8)}, 9, "the file at"),
        ({"a": entry(0, 8)}, 7, "the file at"),
        ({"a": entry(0, 8, shape=[3])}, 8, "make 12"),
        ({"a": entry(0, 8, dtype="I64")}, 8, "dtype"),
        ({"a": entry(0, 8, dtype="F64")}, 8, "dtype"),
        ({"a": entry(8, 0)}, 8, "shape|bytes"),
        ({"a": entry(0, 8, shape=[-2])}, 8, "shape"),
        ({"a": entry(0, 8, evil=1)}, 8, "unknown key"),
        ({"a": {"dtype": "F32"}}, 0, "missing key"),
        ({"a": entry(0, 2, dtype="BF16", shape=[1]), "b": entry(2, 6)}, 6, "aligned"),
        ({"__metadata__": {"a": 1}}, 0, "text"),
    ],
)
def test_header_with_overlaps_holes_or_trailing_bytes_is_refused(
    tensors: dict[str, Any], data: int, text: str
) -> None:
    with pytest.raises(EncodingError, match=text):
        parse(tensors, data)


def test_header_longer_than_the_limit_or_the_file_is_refused() -> None:
    with pytest.raises(SizeLimitError):
        parse_safetensors_header((100_000_001).to_bytes(8, "little"), 1 << 30)
    with pytest.raises(EncodingError, match="cut off"):
        parse_safetensors_header((64).to_bytes(8, "little") + b"{}", 1 << 30)
    with pytest.raises(EncodingError, match="length field"):
        parse_safetensors_header(b"1234567", 7)
    with pytest.raises(EncodingError, match="multiple of 8"):
        parse_safetensors_header((2).to_bytes(8, "little") + b"{}", 10)


def test_header_with_too_many_tensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trust.safetensors_header.TENSORS_MAX", 1)
    with pytest.raises(DocumentError, match="at most 1 tensors"):
        parse({name: entry(0, 0) for name in "abc"}, 0)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_an_encoding_error(data: bytes) -> None:
    try:
        parsed = parse_safetensors_header(data, len(data))
    except EncodingError:
        return
    assert not parsed.tensors or parsed.tensors[-1].end == len(data)
