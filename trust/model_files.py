"""What may stand beside a model's weights: data of closed schemas, never a program.

- Config, tokenizer and chat template run on the buyer's plaintext (attacks.md, 4). So every key is
  known, every number bounded, every pattern one of `PRE_TOKENIZER_PATTERNS`. Unknown is refused.
- A chat template is one of `CHAT_TEMPLATES`, or the one whose digest the buyer's manifest names.
- Weights are one safetensors file, whose header is read strictly (trust/safetensors_header.py).

Owner (at seal time) and enclave run the same checks. Formats:
tokenizers 0.23 (tokenizer.json 1.0), transformers 5 (LlamaConfig). Errors are EncodingErrors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

from trust.encoding import digest
from trust.errors import DocumentError, EncodingError, SizeLimitError
from trust.json_rules import (
    Rule,
    either,
    integer,
    list_of,
    mapping_of,
    matching,
    number,
    object_of,
    one_of,
    parse_strict_json,
    text,
    typed,
    wrong,
)
from trust.safetensors_header import HEADER_BYTES_MAX, parse_safetensors_header

PUBLIC_FILE_BYTES_MAX: Final = 64 << 20  # a tokenizer of 256,000 words has about 20 MB
VOCABULARY_MAX: Final = 1 << 20
TOKEN_CHARACTERS_MAX: Final = 512  # the longest token of known vocabularies has 256
TEMPLATE_BYTES_MAX: Final = 1 << 16

SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "pad_token", "unk_token")
WEIGHTS_NAME: Final = "model.safetensors"
TEMPLATE_NAME: Final = "chat_template.jinja"
REQUIRED_NAMES: Final = frozenset({"config.json", "tokenizer.json", "tokenizer_config.json"})
OPTIONAL_NAMES: Final = frozenset({"generation_config.json", TEMPLATE_NAME})
UNREAD_NAMES: Final = frozenset({"README.md", "LICENSE", "LICENSE.txt", ".gitattributes"})
PICKLE_SUFFIXES: Final = (
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".npy",
    ".npz",
    ".joblib",
)
CODE_SUFFIXES: Final = (".py", ".pyc", ".so", ".sh", ".dll", ".dylib", ".ipynb")

__all__ = [
    "CHAT_TEMPLATES",
    "HEADER_BYTES_MAX",
    "PRE_TOKENIZER_PATTERNS",
    "TEMPLATE_NAME",
    "WEIGHTS_NAME",
    "ModelFiles",
    "check_model_files",
    "check_model_folder_names",
    "parse_safetensors_header",
]

PRE_TOKENIZER_PATTERNS: Final = frozenset(
    {
        # Llama 3
        (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
    }
)
CHAT_TEMPLATES: Final = frozenset(
    {
        # <|role|>content<|end|>, with the assistant's turns marked by {% generation %}
        bytes.fromhex("f224e39801d408e8550e2aeb342c67869dc820615e48fc556b5a77935c15e6db"),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """A model's public files, checked."""

    config: Mapping[str, Any]
    """config.json, whole."""
    tokenizer: str
    """tokenizer.json, as it was."""
    template: str
    """The chat template."""
    special_tokens: Mapping[str, str]
    """bos_token, eos_token, pad_token, unk_token, where there are any."""
    eos_ids: frozenset[int]
    """Tokens that end a reply; at least one."""
    context: int
    """Positions of the model."""


# --- folder --------------------------------------------------------------------------------------


def check_model_folder_names(names: Iterable[str]) -> tuple[str, ...]:
    """Which files of a model's folder are public, sorted; weights stand in `WEIGHTS_NAME`.

    Raises DocumentError for pickle, code, a second weights file, a missing or an unknown file.
    """
    present = frozenset(names)
    for name in sorted(present):
        if name.lower().endswith(PICKLE_SUFFIXES):
            raise DocumentError(f"model folder: {name} is pickle, which executes what it reads")
        if name.lower().endswith(CODE_SUFFIXES):
            raise DocumentError(f"model folder: {name} is code; a model is data")
    known = REQUIRED_NAMES | OPTIONAL_NAMES | UNREAD_NAMES | {WEIGHTS_NAME}
    if unknown := sorted(present - known):
        raise DocumentError(f"model folder: unknown file {unknown[0]!r}")
    if missing := sorted((REQUIRED_NAMES | {WEIGHTS_NAME}) - present):
        raise DocumentError(f"model folder: {missing[0]} is missing")
    return tuple(sorted(present & (REQUIRED_NAMES | OPTIONAL_NAMES)))


def check_model_files(files: Mapping[str, bytes], *, template: bytes | None) -> ModelFiles:
    """Check a model's public files; `template` is the digest that the job's manifest accepts.

    (1) Names and sizes. (2) Each file is JSON of its closed schema. (3) They agree with each other.
    (4) The template is a known one, or the accepted one.

    Raises DocumentError, EncodingError or SizeLimitError, and names file and key.
    """
    check_model_folder_names([*files, WEIGHTS_NAME])  # (1)
    for name, content in files.items():
        if len(content) > PUBLIC_FILE_BYTES_MAX:
            raise SizeLimitError(f"{name}: {len(content)} bytes; at most {PUBLIC_FILE_BYTES_MAX}")
    parsed = {
        name: parse_strict_json(name, files[name])
        for name in sorted(files)
        if name != TEMPLATE_NAME
    }
    for name, value in parsed.items():  # (2)
        _SCHEMAS[name](name, value)
    config, tokenizer, settings = (
        parsed[name] for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
    )
    words = _vocabulary(tokenizer, config["vocab_size"])  # (3)
    _check_special_tokens(tokenizer, settings)
    special = {key: settings[key] for key in SPECIAL_TOKENS if settings.get(key) is not None}
    eos = parsed.get("generation_config.json", {}).get("eos_token_id", config["eos_token_id"])
    eos_ids = frozenset(eos if isinstance(eos, list) else [eos])
    if any(token >= config["vocab_size"] for token in eos_ids):
        raise DocumentError(f"eos_token_id {sorted(eos_ids)}: vocab_size is {config['vocab_size']}")
    if "eos_token" in special and words[special["eos_token"]] not in eos_ids:
        raise DocumentError("tokenizer_config.json: eos_token is not config.json's eos_token_id")
    return ModelFiles(
        config=config,
        tokenizer=files["tokenizer.json"].decode("utf-8"),
        template=_template(files.get(TEMPLATE_NAME), settings.get("chat_template"), template),
        special_tokens=special,
        eos_ids=eos_ids,
        context=config["max_position_embeddings"],
    )


def _template(file: bytes | None, inline: str | None, accepted: bytes | None) -> str:  # (4)
    text = inline.encode("utf-8") if inline is not None else file
    if text is None:
        raise DocumentError("no chat template: neither chat_template.jinja nor tokenizer_config's")
    if file is not None and file != text:
        raise DocumentError("chat_template.jinja and tokenizer_config.json's template differ")
    if len(text) > TEMPLATE_BYTES_MAX:
        raise SizeLimitError(f"chat template: {len(text)} bytes; at most {TEMPLATE_BYTES_MAX}")
    found = digest(text)
    if found not in CHAT_TEMPLATES and found != accepted:
        raise DocumentError(
            f"chat template {found.hex()} is none that the image knows, "
            "and the job's manifest does not accept it"
        )
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EncodingError("chat template: not UTF-8") from error


def _vocabulary(tokenizer: Mapping[str, Any], size: int) -> Mapping[str, int]:
    """Word -> id: each id once, below `size`, and merges of known words alone."""
    words: dict[str, int] = dict(tokenizer["model"]["vocab"])
    for token in tokenizer["added_tokens"]:
        if words.setdefault(token["content"], token["id"]) != token["id"]:
            raise DocumentError(
                f"tokenizer.json: added token {token['id']} has another id in vocab"
            )
    if len(set(words.values())) != len(words):
        raise DocumentError("tokenizer.json: two tokens have one id")
    if (last := max(words.values(), default=0)) >= size:
        raise DocumentError(f"tokenizer.json: id {last}, config's vocab_size is {size}")
    for merge in tokenizer["model"]["merges"]:
        left, right = merge if isinstance(merge, list) else _halves(merge)
        if left not in words or right not in words or left + right not in words:
            raise DocumentError("tokenizer.json: a merge of tokens that are not in vocab")
    return words


def _check_special_tokens(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Tokens that tokenizer_config.json names are added tokens of tokenizer.json."""
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    if len(added) != len(tokenizer["added_tokens"]):
        raise DocumentError("tokenizer.json: an added token stands twice")
    named = [settings[key] for key in SPECIAL_TOKENS if settings.get(key) is not None]
    for key in ("extra_special_tokens", "additional_special_tokens"):
        named += settings.get(key, [])
    for content in named:
        if content not in added:
            raise DocumentError(f"tokenizer_config.json: {content[:64]!r} is no added token")
    for key, entry in settings.get("added_tokens_decoder", {}).items():
        if {**entry, "id": int(key)} != added.get(entry["content"]):
            raise DocumentError(f"tokenizer_config.json: added token {key} differs")


def _halves(merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space or " " in right:
        raise DocumentError("tokenizer.json: a merge is two tokens")
    return left, right


# --- schemas -------------------------------------------------------------------------------------

_BOOLEAN: Final = one_of(True, False)  # noqa: FBT003 - values, not switches
_NULL: Final = one_of(None)
_TOKEN: Final = text(TOKEN_CHARACTERS_MAX)
_TOKEN_ID: Final = integer(0, VOCABULARY_MAX - 1)
_VERSION: Final = matching(r"[0-9]{1,3}(\.[0-9a-z]{1,8}){1,4}")
_EOS: Final = either(list_of(_TOKEN_ID, most=16, least=1), _TOKEN_ID)
_DIMENSION: Final = integer(1, 1 << 17)

_ROPE: Final = either(
    object_of(
        {
            "rope_type": one_of("llama3"),
            "factor": number(1, 1024),
            "high_freq_factor": number(0.01, 1024),
            "low_freq_factor": number(0.01, 1024),
            "original_max_position_embeddings": integer(1, 1 << 21),
        },
        {"rope_theta": number(1, 1e9)},
    ),
    object_of({"rope_type": one_of("default")}, {"rope_theta": number(1, 1e9)}),
)

_CONFIG: Final = object_of(
    {
        "architectures": list_of(one_of("LlamaForCausalLM"), most=1, least=1),
        "model_type": one_of("llama"),
        "vocab_size": integer(1, VOCABULARY_MAX),
        "hidden_size": _DIMENSION,
        "intermediate_size": _DIMENSION,
        "num_hidden_layers": integer(1, 256),
        "num_attention_heads": integer(1, 1024),
        "max_position_embeddings": integer(1, 1 << 21),
        "rms_norm_eps": number(1e-12, 1e-2),
        "eos_token_id": _EOS,
    },
    {
        "num_key_value_heads": integer(1, 1024),
        "head_dim": integer(1, 1024),
        "hidden_act": one_of("silu"),
        "attention_bias": _BOOLEAN,
        "attention_dropout": number(0, 0),
        "mlp_bias": _BOOLEAN,
        "initializer_range": number(0, 1),
        "bos_token_id": either(_NULL, _TOKEN_ID),
        "pad_token_id": either(_NULL, _TOKEN_ID),
        "dtype": one_of("bfloat16", "float16", "float32"),
        "torch_dtype": one_of("bfloat16", "float16", "float32"),
        "pretraining_tp": one_of(1),
        "rope_parameters": _ROPE,
        "rope_scaling": either(_NULL, _ROPE),
        "rope_theta": number(1, 1e9),
        "tie_word_embeddings": _BOOLEAN,
        "transformers_version": _VERSION,
        "use_cache": _BOOLEAN,
    },
)

_GENERATION: Final = object_of(
    {},
    {
        "_from_model_config": _BOOLEAN,
        "bos_token_id": _TOKEN_ID,
        "eos_token_id": _EOS,
        "pad_token_id": _TOKEN_ID,
        "do_sample": _BOOLEAN,
        "temperature": number(0, 10),
        "top_p": number(0, 1),
        "top_k": integer(0, VOCABULARY_MAX),
        "output_attentions": one_of(False),  # noqa: FBT003 - a value, not a switch
        "output_hidden_states": one_of(False),  # noqa: FBT003 - a value, not a switch
        "transformers_version": _VERSION,
        "use_cache": _BOOLEAN,
    },
)

_FLAGS: Final = {
    "content": _TOKEN,
    "single_word": one_of(False),  # noqa: FBT003 - a value, not a switch
    "lstrip": _BOOLEAN,
    "rstrip": _BOOLEAN,
    "normalized": _BOOLEAN,
    "special": _BOOLEAN,
}

_TOKENIZER_CONFIG: Final = object_of(
    {},
    {
        "bos_token": either(_NULL, _TOKEN),
        "eos_token": either(_NULL, _TOKEN),
        "pad_token": either(_NULL, _TOKEN),
        "unk_token": either(_NULL, _TOKEN),
        "extra_special_tokens": list_of(_TOKEN, most=4096),
        "additional_special_tokens": list_of(_TOKEN, most=4096),
        "added_tokens_decoder": mapping_of(object_of(_FLAGS), most=4096, key=r"0|[1-9][0-9]{0,6}"),
        "chat_template": text(TEMPLATE_BYTES_MAX),
        "clean_up_tokenization_spaces": _BOOLEAN,
        "model_input_names": list_of(one_of("input_ids", "attention_mask"), most=2),
        "model_max_length": number(1, 1e31),
        "tokenizer_class": one_of("PreTrainedTokenizerFast"),
    },
)

_BYTE_LEVEL: Final = {
    "add_prefix_space": _BOOLEAN,
    "trim_offsets": _BOOLEAN,
    "use_regex": _BOOLEAN,
}


def _pattern(where: str, value: Any) -> None:
    object_of({"Regex": text(1024)})(where, value)
    if value["Regex"] not in PRE_TOKENIZER_PATTERNS:
        wrong(where, value["Regex"], "a pattern of the image's list")


def _pre_tokenizer_kinds() -> Mapping[str, Mapping[str, Rule]]:
    return {
        "ByteLevel": _BYTE_LEVEL,
        "Digits": {"individual_digits": _BOOLEAN},
        "Split": {"pattern": _pattern, "behavior": one_of("Isolated"), "invert": one_of(False)},  # noqa: FBT003 - a value, not a switch
        "Sequence": {"pretokenizers": list_of(typed(_pre_tokenizer_kinds), most=4)},
    }


_PIECE: Final = either(
    object_of({"Sequence": object_of({"id": one_of("A", "B"), "type_id": integer(0, 1)})}),
    object_of({"SpecialToken": object_of({"id": _TOKEN, "type_id": integer(0, 1)})}),
)
_SPECIAL: Final = object_of(
    {"id": _TOKEN, "ids": list_of(_TOKEN_ID, most=4), "tokens": list_of(_TOKEN, most=4)}
)


def _post_processor_kinds() -> Mapping[str, Mapping[str, Rule]]:
    return {
        "ByteLevel": _BYTE_LEVEL,
        "TemplateProcessing": {
            "single": list_of(_PIECE, most=8),
            "pair": list_of(_PIECE, most=8),
            "special_tokens": mapping_of(_SPECIAL, most=8),
        },
        "Sequence": {"processors": list_of(typed(_post_processor_kinds), most=4)},
    }


_TOKENIZER: Final = object_of(
    {
        "version": one_of("1.0"),
        "truncation": _NULL,
        "padding": _NULL,
        "added_tokens": list_of(object_of({"id": _TOKEN_ID, **_FLAGS}), most=4096),
        "normalizer": either(_NULL, object_of({"type": one_of("NFC")})),
        "pre_tokenizer": typed(_pre_tokenizer_kinds),
        "post_processor": either(_NULL, typed(_post_processor_kinds)),
        "decoder": object_of({"type": one_of("ByteLevel"), **_BYTE_LEVEL}),
        "model": object_of(
            {
                "type": one_of("BPE"),
                "vocab": mapping_of(_TOKEN_ID, most=VOCABULARY_MAX),
                "merges": list_of(
                    either(list_of(_TOKEN, most=2, least=2), text(2 * TOKEN_CHARACTERS_MAX + 1)),
                    most=VOCABULARY_MAX,
                ),
            },
            {
                "dropout": _NULL,
                "unk_token": either(_NULL, _TOKEN),
                "continuing_subword_prefix": either(_NULL, one_of("")),
                "end_of_word_suffix": either(_NULL, one_of("")),
                "fuse_unk": _BOOLEAN,
                "byte_fallback": one_of(False),  # noqa: FBT003 - a value, not a switch
                "ignore_merges": _BOOLEAN,
            },
        ),
    },
)

_SCHEMAS: Final[Mapping[str, Rule]] = {
    "config.json": _CONFIG,
    "generation_config.json": _GENERATION,
    "tokenizer.json": _TOKENIZER,
    "tokenizer_config.json": _TOKENIZER_CONFIG,
}
