"""What a `ray job submit` says here, parsed completely: the request, and the job file.

- The entrypoint is ``blindhost run <job file>`` and nothing else. A job file is data, never code:
  no command, environment or container of a client's is looked at, let alone run or kept.
- A job file is a JSON object: ``model``, ``training``, ``heldout`` (a file or null), ``recipe`` and
  ``manifest``: fields of `LoraRecipe` and of `Changes` to replace. Other fields are refused.
- What the command says goes over what the job file says, in this order: ``runtime_env.blindhost``
  (fields of `Changes`), metadata ``max_price`` and ``budget``, ``--entrypoint-num-gpus``,
  ``--entrypoint-memory`` and ``--entrypoint-label-selector``.
- A setting that would change nothing is refused, not ignored: a limit must not be lost in a typo.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Final, NoReturn, cast

from client.gateway.ray_packages import PackageError, check_name
from trust.encoding import (
    Count,
    Json,
    Microcredits,
    Range,
    Struct,
    canonical_json,
    labelled_digest,
    parse_json,
)
from trust.errors import EncodingError
from trust.jobs import (
    RANKS_MAX,
    Bid,
    BidKind,
    ComputeClass,
    JobManifest,
    LoraRecipe,
    LossOn,
    Precision,
    Resources,
    Schedule,
    Sharding,
)

BODY_BYTES_MAX: Final = 256 << 10
JOB_FILE_BYTES_MAX: Final = 64 << 10
ENTRYPOINT_CHARACTERS_MAX: Final = 2048
METADATA_MAX: Final = 64
TEXT_CHARACTERS_MAX: Final = 4096
PACKAGE_NAME: Final = re.compile(r"_ray_pkg_[0-9a-f]{8,64}\.zip")
SUBMISSION_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
JOB_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
ENTRYPOINT_KEY: Final = "blindhost.entrypoint"
"""Metadata of ours that keeps the entrypoint with its job; no client sees or sets it."""
_ENTRYPOINT_TEXT: Final = (
    "entrypoint: wanted `blindhost run JOB.json`, where JOB.json is a job file in the working "
    "directory; it is data, and no command is ever executed here"
)
_FIELDS: Final = frozenset(
    {
        "entrypoint",
        "submission_id",
        "job_id",
        "runtime_env",
        "metadata",
        "entrypoint_num_gpus",
        "entrypoint_memory",
        "entrypoint_label_selector",
    }
)
_PRICES: Final = {"max_price": "bid", "budget": "spend_max_microcredits"}


class RequestError(EncodingError):
    """A request that says something else than a job. Its text repeats no value of the client's."""


# --- what may be changed -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Changes(Struct):
    """The fields of a job manifest that a client may replace, as `JobManifest` has them."""

    enclaves: Annotated[int, Range(least=1, most=RANKS_MAX)]
    local_ranks: Annotated[int, Range(least=1, most=RANKS_MAX)]
    sharding: Sharding
    length_max: Annotated[int, Range(least=8, most=1 << 20)]
    compute_class: ComputeClass | None
    resume_on_other_class: bool
    checkpoint_steps: Count
    uncommitted_checkpoints_max: Annotated[int, Range(least=1, most=64)]
    generations_max: Annotated[int, Range(least=1, most=1024)]
    spend_max_microcredits: Microcredits
    ceiling_microcredits_per_step: Microcredits
    bid: Bid
    resources: Resources


# What is not said stands as here while the rest is checked; none of it reaches a job.
_ANY_CHANGES: Final = Changes(
    enclaves=1,
    local_ranks=1,
    sharding=Sharding.DATA_PARALLEL,
    length_max=8,
    compute_class=None,
    resume_on_other_class=False,
    checkpoint_steps=1,
    uncommitted_checkpoints_max=1,
    generations_max=1,
    spend_max_microcredits=0,
    ceiling_microcredits_per_step=0,
    bid=Bid(kind=BidKind.ON_DEMAND, price_microcredits_per_gpu_hour=0, notice_seconds=0),
    resources=Resources(gpu_model="cpu", gpus=1, memory_mib=0, platform="simulated"),
).to_json()
_ANY_RECIPE: Final = LoraRecipe(
    rank=1,
    alpha=1,
    dropout="0",
    targets=("all-linear",),
    epochs=1,
    steps=None,
    rows_per_step=1,
    accumulation=1,
    learning_rate="0",
    schedule=Schedule.CONSTANT,
    warmup_steps=0,
    weight_decay="0",
    clip_norm="0",
    seed=0,
    precision=Precision.FP32,
    packing=False,
    loss_on=LossOn.ASSISTANT,
    evaluation=None,
).to_json()
_NESTED: Final = ("bid", "resources")
_MANIFEST_FIELDS: Final = frozenset(each.name for each in dataclasses.fields(JobManifest))


def parse_recipe(given: Json) -> dict[str, Json]:
    """Fields of a recipe to replace, checked. One of epochs and steps puts the other out."""
    changes = _object(given, "recipe")
    if changes.pop("name", LoraRecipe.TAG) != LoraRecipe.TAG:
        raise RequestError(f"recipe: {LoraRecipe.TAG!r} is the one recipe that tunes")
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if changes.get(one) is not None:
            changes.setdefault(other, None)
    LoraRecipe.from_json({**_ANY_RECIPE, **changes}, where="recipe")
    return changes


def parse_changes(given: Json, where: str) -> dict[str, Json]:
    """Fields of a manifest to replace, checked; of bid and resources some fields or all."""
    changes = _object(given, where)
    whole = {**_ANY_CHANGES, **changes}
    for name in _NESTED:
        if name in changes:
            inner = _object(changes[name], f"{where}.{name}")
            whole[name] = {**cast(dict[str, Json], _ANY_CHANGES[name]), **inner}
    Changes.from_json(whole, where=where)
    return changes


def _merge(below: dict[str, Json], above: Mapping[str, Json]) -> dict[str, Json]:
    merged = {**below, **above}
    for name in _NESTED:
        if name in below and name in above:
            inner = cast(dict[str, Json], below[name])
            merged[name] = {**inner, **cast(dict[str, Json], above[name])}
    return merged


# --- the job file --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobFile:
    """A job file, parsed."""

    model: str
    training: str
    """Path in the working directory."""
    heldout: str | None
    recipe: Mapping[str, Json]
    manifest: Mapping[str, Json]


def parse_job_file(data: bytes) -> JobFile:
    """Parse a job file completely. Raises RequestError, DocumentError, EncodingError."""
    value = _object(parse_json(data), "job file")
    wanted = {"model", "training"}
    allowed = wanted | {"heldout", "recipe", "manifest"}
    if wanted - value.keys() or value.keys() - allowed:
        raise RequestError(
            "job file: wanted model and training, and perhaps heldout, recipe and manifest; "
            "nothing else"
        )
    paths = {name: value.get(name) for name in ("training", "heldout")}
    for name, path in paths.items():
        if path is None and name == "heldout":
            continue
        if not isinstance(path, str):
            raise RequestError(f"job file: {name} is no path in the working directory")
        check_name(path)
    return JobFile(
        model=_text(value["model"], "job file: model"),
        training=cast(str, paths["training"]),
        heldout=cast(str | None, paths["heldout"]),
        recipe=parse_recipe(value.get("recipe", {})),
        manifest=parse_changes(value.get("manifest", {}), "manifest"),
    )


# --- the request ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A request to submit a job, parsed."""

    body: Mapping[str, Json]
    job_file: str
    """Path in the working directory."""
    submission_id: str | None
    metadata: Mapping[str, str]
    changes: Mapping[str, Json]

    @property
    def entrypoint(self) -> str:
        """As a client may see it again."""
        return shlex.join(["blindhost", "run", self.job_file])

    def token(self, submission_id: str, package: bytes) -> str:
        """Names this submission: its id, the bytes of its working directory, and all it says."""
        said = canonical_json(dict(self.body))
        parts = (submission_id.encode(), package, said)
        return labelled_digest("client/gateway/ray-job", *parts).hex()

    def manifest(self, file: JobFile) -> dict[str, Json]:
        """The changes of the job file, and over them those of the command."""
        return _merge(dict(file.manifest), self.changes)


def parse_body(data: bytes) -> dict[str, Json]:
    """A request's JSON: strict, but that a whole number may be written as a float."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_once,
            parse_float=_whole,
            parse_constant=_refuse_constant,
        )
        return _object(parse_json(json.dumps(value).encode()), "request")
    except EncodingError:
        raise
    except (ValueError, RecursionError) as error:
        raise RequestError(f"request: not JSON ({type(error).__name__})") from error


def package_name(body: Mapping[str, Json]) -> str:
    """The package that is the job's working directory. Raises RequestError."""
    uri = _object(body.get("runtime_env", {}), "runtime_env").get("working_dir")
    if not isinstance(uri, str) or not uri.startswith("gcs://"):
        raise RequestError(
            "runtime_env: a working_dir on this machine is wanted (--working-dir DIR); nothing is "
            "fetched from elsewhere"
        )
    name = uri.removeprefix("gcs://")
    if not PACKAGE_NAME.fullmatch(name):
        raise RequestError("runtime_env: working_dir is no package of Ray's client")
    return name


def parse_submission(body: Mapping[str, Json]) -> Submission:
    """Parse a request completely.

    (1) Fields that are known. (2) The entrypoint names a job file. (3) The id is a plain word.
    (4) The environment holds nothing that would run, or be a secret. (5) Metadata are texts.
    (6) Everything that changes the manifest, in order. Raises RequestError, EncodingError.
    """
    given = {name: value for name, value in body.items() if value is not None}
    if unknown := given.keys() - _FIELDS:  # (1)
        known = sorted(each for each in unknown if re.fullmatch(r"[a-z_]{1,40}", each))
        raise RequestError(f"request: {', '.join(known) or 'an unknown field'} is not taken here")
    job_file = parse_entrypoint(given.get("entrypoint"))  # (2)
    submission_id = given.get("submission_id", given.get("job_id"))  # (3)
    if submission_id is not None:
        submission_id = check_submission_id(submission_id)
    changes = _parse_environment(given.get("runtime_env", {}))  # (4)
    metadata = _parse_metadata(given.get("metadata", {}))  # (5)
    for more in (_of_metadata(metadata), _of_flags(given)):  # (6)
        changes = _merge(changes, parse_changes(more, "request"))
    return Submission(
        body=body,
        job_file=job_file,
        submission_id=submission_id,
        metadata=metadata,
        changes=changes,
    )


def parse_entrypoint(value: Json) -> str:
    """The job file that an entrypoint names. It is split into words as a shell would, no more."""
    if not isinstance(value, str) or len(value) > ENTRYPOINT_CHARACTERS_MAX:
        raise RequestError(_ENTRYPOINT_TEXT)
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise RequestError(_ENTRYPOINT_TEXT) from error
    if len(words) != 3 or words[:2] != ["blindhost", "run"]:
        raise RequestError(_ENTRYPOINT_TEXT)
    try:
        check_name(words[2])
    except PackageError as error:
        raise RequestError(_ENTRYPOINT_TEXT) from error
    return words[2]


def check_submission_id(value: Json) -> str:
    """A client's own id; it stands in paths and on terminals. Raises RequestError."""
    if not isinstance(value, str) or not SUBMISSION_ID.fullmatch(value):
        raise RequestError(
            "submission_id: wanted 1 to 128 letters, digits, dots, dashes and underscores"
        )
    if JOB_DIGEST.fullmatch(value):
        raise RequestError("submission_id: 64 hex digits are the digest of a job")
    return value


def _parse_environment(value: Json) -> dict[str, Json]:
    environment = _object(value, "runtime_env")
    for name in environment:
        if name in {"working_dir", "excludes", "blindhost"}:
            continue
        word = name if re.fullmatch(r"[a-z_]{1,40}", name) else "an unknown field"
        raise RequestError(
            f"runtime_env: {word} is not taken: a job is data, and brings neither code, packages, "
            "images nor variables"
        )
    return parse_changes(environment.get("blindhost", {}), "runtime_env.blindhost")


def _parse_metadata(value: Json) -> dict[str, str]:
    metadata = _object(value, "metadata")
    if len(metadata) > METADATA_MAX:
        raise RequestError(f"metadata: {len(metadata)} entries; at most {METADATA_MAX}")
    for name, text in metadata.items():
        _text(name, "metadata")
        _text(text, "metadata", least=0)
        known = name in _PRICES
        if not known and (name in _MANIFEST_FIELDS or name.startswith(("max_", "blindhost"))):
            raise RequestError(
                f"metadata: of a job's limits {' and '.join(_PRICES)} are taken here; others go "
                "into the job file"
            )
    return cast(dict[str, str], metadata)


def _of_metadata(metadata: Mapping[str, str]) -> dict[str, Json]:
    changes: dict[str, Json] = {}
    for name in _PRICES:
        if name not in metadata:
            continue
        if not re.fullmatch(r"0|[1-9][0-9]{0,15}", metadata[name]):
            raise RequestError(f"metadata: {name} is a whole number of microcredits, as a string")
        amount = int(metadata[name])
        if name == "budget":
            changes["spend_max_microcredits"] = amount
        else:
            changes["bid"] = {"price_microcredits_per_gpu_hour": amount}
    return changes


def _of_flags(given: Mapping[str, Json]) -> dict[str, Json]:
    resources: dict[str, Json] = {}
    if gpus := given.get("entrypoint_num_gpus"):
        resources["gpus"] = gpus
    if memory := given.get("entrypoint_memory"):
        if isinstance(memory, bool) or not isinstance(memory, int):
            raise RequestError("entrypoint_memory: a number of bytes is wanted")
        resources["memory_mib"] = -(-memory >> 20)
    selector = _object(given.get("entrypoint_label_selector", {}), "entrypoint_label_selector")
    if selector.keys() - {"platform", "gpu_model"}:
        raise RequestError("entrypoint_label_selector: platform and gpu_model are taken, no other")
    resources |= selector
    return {"resources": resources} if resources else {}


# --- JSON ----------------------------------------------------------------------------------------


def _object(value: Json, where: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise RequestError(f"{where}: an object is wanted")
    return dict(value)


def _text(value: Json, where: str, *, least: int = 1) -> str:
    if not isinstance(value, str) or not least <= len(value) <= TEXT_CHARACTERS_MAX:
        raise RequestError(
            f"{where}: texts of {least} to {TEXT_CHARACTERS_MAX} characters are wanted"
        )
    if any("\ud800" <= each <= "\udfff" for each in value):
        raise RequestError(f"{where}: half of a surrogate pair is no text")
    return value


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise RequestError("request: a field stands twice")
    return value


def _whole(text: str) -> int:
    number = float(text)  # Ray's command sends 2 GPUs as 2.0
    if not number.is_integer() or not 0 <= number < 1 << 53:
        raise RequestError("request: numbers are whole, and not negative")
    return int(number)


def _refuse_constant(text: str) -> NoReturn:  # noqa: ARG001
    raise RequestError("request: numbers are whole, and not negative")
