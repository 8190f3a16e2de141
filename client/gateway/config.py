"""The gateway's configuration: a JSON file that names the bases which a client may ask for.

    {"models": {"<name>": {"model": "<artifact, hex>", "images": ["<measurement, hex>"],
                           "lineage": "<own lineage, hex>" or null, "kind": "real" or "simulated",
                           "job": {<fields of a job manifest, as `blindhost job submit` reads>}}}}

- All of it is parsed at once, each `job` as a whole manifest: what would be refused at a submission
  is refused when the gateway starts. Unknown, missing and double keys are refused.
- A file is sealed before its client names a base, so all bases here are of one kind, and name one
  lineage at most; where none is named, one is made at first use.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from trust.custody import LineageKind
from trust.encoding import Json, base64url, parse_hex, parse_json
from trust.errors import EncodingError
from trust.jobs import CLIENT_KEYS_MAX, Input, InputRole, JobManifest
from trust.sealing import HPKE_KEY_BYTES

FILE_BYTES_MAX: Final = 1 << 20
MODELS_MAX: Final = CLIENT_KEYS_MAX
FILLED: Final = frozenset(
    {
        "version",
        "nonce",
        "buyer",
        "progress_key",
        "inputs",
        "terms",
        "rows",
        "images",
        "client_keys",
        "expires_at",
    }
)
"""Fields of a job manifest that a submission fills in."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEYS: Final = frozenset({"model", "images", "lineage", "kind", "job"})


class ConfigError(EncodingError):
    """A configuration that does not hold; its text names the model and the field."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BaseModel:
    """A base that can be tuned."""

    name: str
    model: bytes
    """Artifact id."""
    images: tuple[bytes, ...]
    """Measurements, 48 bytes each."""
    lineage: bytes | None
    """The buyer's own, for its rows; None: one is made at first use."""
    kind: LineageKind
    job: Mapping[str, Json]
    """Fields of a job manifest, without `FILLED`; a whole LoRA recipe among them."""

    @property
    def recipe(self) -> Mapping[str, Json]:
        """The default recipe's fields."""
        recipe = self.job["recipe"]
        assert isinstance(recipe, dict)  # it was parsed as a recipe
        return recipe


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GatewayConfig:
    """What this gateway offers."""

    models: Mapping[str, BaseModel]

    @property
    def kind(self) -> LineageKind:
        """Of every base here, and so of every file. Raises ConfigError if there is none."""
        if not self.models:
            raise ConfigError("no base model is configured here, so there is nothing to tune")
        return next(iter(self.models.values())).kind

    @property
    def lineage(self) -> bytes | None:
        """Of every file; None: the one that is made at first use."""
        return next((m.lineage for m in self.models.values() if m.lineage is not None), None)


def load_config(path: Path) -> GatewayConfig:
    """Read a configuration file. Raises ConfigError."""
    if not path.exists():
        raise ConfigError(f"{path.name}: there is no such file")
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ConfigError(f"{path.name}: over {FILE_BYTES_MAX} bytes")
    return parse_config(path.read_bytes())


def parse_config(data: bytes) -> GatewayConfig:
    """Parse completely.

    (1) The top has the one key `models`, with one at least. (2) Each model has exactly its keys,
    each of its kind. (3) Its `job` makes a whole training manifest. (4) All are of one kind, and
    name one lineage at most.

    Raises ConfigError.
    """
    try:
        value = parse_json(data)
    except EncodingError as error:
        raise ConfigError(f"configuration: {error}") from error
    models = value.get("models") if isinstance(value, dict) else None  # (1)
    if not isinstance(value, dict) or set(value) != {"models"} or not isinstance(models, dict):
        raise ConfigError('configuration: wanted {"models": {…}}, and no other key')
    if not 0 < len(models) <= MODELS_MAX:
        raise ConfigError(f"models: {len(models)}; wanted 1 to {MODELS_MAX}")
    found = {name: _model(name, each) for name, each in models.items()}
    kinds = {each.kind for each in found.values()}  # (4)
    lineages = {each.lineage for each in found.values() if each.lineage is not None}
    if len(kinds) > 1 or len(lineages) > 1:
        raise ConfigError(
            f"models: {len(kinds)} kinds and {len(lineages)} lineages; a file is sealed before a "
            "model is named, so all have one kind and one lineage"
        )
    return GatewayConfig(models=found)


def _model(name: str, value: Json) -> BaseModel:
    where = f"models.{name[:64]}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name is of A-Z a-z 0-9 . _ -, at most 64, no sign first")
    if not isinstance(value, dict):  # (2)
        raise ConfigError(f"{where}: an object is wanted, got {type(value).__name__}")
    if unknown := sorted(set(value) - _KEYS):
        raise ConfigError(f"{where}: unknown key {unknown[0][:64]!r}")
    if missing := sorted(_KEYS - set(value)):
        raise ConfigError(f"{where}: missing key {missing[0]!r}")
    kinds = {each.name.lower(): each for each in LineageKind}
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{where}.kind: wanted real or simulated")
    named, images = value["lineage"], value["images"]
    lineage = None if named is None else _hex(named, 33, f"{where}.lineage")
    if lineage is not None and lineage[:1] != kinds[kind].value:
        raise ConfigError(f"{where}.lineage: it is not {kind}")
    if not isinstance(images, list) or not images:
        raise ConfigError(f"{where}.images: a list with one measurement at least is wanted")
    model = BaseModel(
        name=name,
        model=_hex(value["model"], 32, f"{where}.model"),
        images=tuple(_hex(each, 48, f"{where}.images[{i}]") for i, each in enumerate(images)),
        lineage=lineage,
        kind=kinds[kind],
        job=_job(value["job"], f"{where}.job"),
    )
    _check_job(model, where)  # (3)
    return model


def _hex(value: Json, length: int, where: str) -> bytes:
    try:
        data = parse_hex(value) if isinstance(value, str) else None
    except EncodingError as error:
        raise ConfigError(f"{where}: {error}") from error
    if data is None or len(data) != length:
        found = "no string" if data is None else f"{len(data)} bytes"
        raise ConfigError(f"{where}: {found}; wanted {length} bytes in hex")
    return data


def _job(value: Json, where: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: an object is wanted, got {type(value).__name__}")
    if filled := sorted(set(value) & FILLED):
        raise ConfigError(f"{where}: {filled[0]} is filled in at each submission")
    if value.get("kind") != "train":
        raise ConfigError(f"{where}.kind: wanted 'train'")
    recipe = value.get("recipe")
    if not isinstance(recipe, dict) or recipe.get("name") != "lora":
        raise ConfigError(f"{where}.recipe: a recipe with the name 'lora' is wanted")
    return value


def _check_job(model: BaseModel, where: str) -> None:
    """Raise ConfigError unless a submission's fields make a manifest of these."""
    roles = [InputRole.MODEL, InputRole.DATASET]
    if model.recipe.get("evaluation") is not None:
        roles.append(InputRole.HELDOUT)
    named = [Input(role=role, artifact=bytes([n]) * 32) for n, role in enumerate(roles)]
    whole: dict[str, Json] = {
        **model.job,
        "version": 1,
        "nonce": base64url(bytes(32)),
        "buyer": base64url(bytes(32)),
        "progress_key": base64url(bytes(HPKE_KEY_BYTES)),
        "inputs": [each.to_json() for each in named],
        "terms": base64url(bytes(32)),
        "rows": 1,
        "images": [base64url(each) for each in model.images],
        "client_keys": [],
        "expires_at": 0,
    }
    try:
        JobManifest.from_json(whole, where="job")
    except EncodingError as error:
        raise ConfigError(f"{where}: {error}") from error
