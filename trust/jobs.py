"""What parties decide and sign: terms, use policies, job manifests, generation orders.

- A job manifest is data, never code. Its digest is the job's name; the buyer signs it.
- Terms are the owner's: one signed, numbered document. A manifest names its digest.
- A *rank* is an enclave's place in its job; processes inside it are *local ranks*. World size =
  enclaves × local ranks. Rows per step are global: they do not depend on the world size.
- Nothing that a run computes depends on `nonce`, `expires_at`, `bid` or `spend_max`.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, ClassVar, Final

from trust.artifacts import LineageId
from trust.encoding import (
    Bytes32,
    Count,
    Decimal,
    Digest,
    Document,
    Microcredits,
    Name,
    Pattern,
    Range,
    Size,
    Struct,
    Uint16,
    Uint32,
    Uint53,
    UnixMilliseconds,
)
from trust.errors import DocumentError
from trust.sealing import HPKE_KEY_BYTES

VERSION: Final = 1
INPUTS_MAX: Final = 16
RANKS_MAX: Final = 64
TARGETS_MAX: Final = 64
CLIENT_KEYS_MAX: Final = 64

Version = Annotated[int, Range(least=VERSION, most=VERSION)]
HpkeKey = Annotated[bytes, Size(least=HPKE_KEY_BYTES, most=HPKE_KEY_BYTES)]
LeaseId = Annotated[str, Pattern(expression=r"leas_[0-9a-hjkmnp-tv-z]{26}")]
ComputeClass = Annotated[str, Size(least=1, most=512)]


def is_class_of(machine: str, run: str) -> bool:
    """Whether a run of class `run` was made on a machine that its host describes as `machine`.

    A class is ``name=value`` fields with ``;`` between them. A host knows some of them (processor,
    vectors, GPU); the rest (torch, ranks, precision …) follows from image and manifest.
    """
    return set(machine.split(";")) <= set(run.split(";"))


# --- recipes -------------------------------------------------------------------------------------


class Schedule(enum.StrEnum):
    """How the learning rate goes from `learning_rate` to its end."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Precision(enum.StrEnum):
    """What base and activations compute in; adapter and moments are always fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


class LossOn(enum.StrEnum):
    """Which tokens are supervised."""

    ASSISTANT = "assistant"
    ALL = "all"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation(Struct):
    """Measure on the held-out rows: mean loss, and greedy replies compared with the reference."""

    rows_max: Count
    reply_tokens_max: Annotated[int, Range(least=0, most=4096)]
    """0: loss only."""
    header_ends_with: Annotated[str, Size(least=0, most=8)]
    """The reply's header is its text up to and including this; empty: there is no header."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoraRecipe(Struct):
    """Plain LoRA on linear layers, trained with AdamW (arXiv 2106.09685)."""

    TAG: ClassVar[str | None] = "lora"

    rank: Annotated[int, Range(least=1, most=256)]
    alpha: Annotated[int, Range(least=1, most=1024)]
    dropout: Decimal
    targets: Annotated[tuple[Name, ...], Size(least=1, most=TARGETS_MAX)]
    """Names of linear layers, or ``all-linear`` alone. Heads and embeddings are no targets."""
    epochs: Count | None
    """Passes over the rows; None where `steps` is given."""
    steps: Count | None
    """Optimizer steps; None where `epochs` is given."""
    rows_per_step: Count
    """Rows in one optimizer step over all ranks and micro batches."""
    accumulation: Annotated[int, Range(least=1, most=1024)]
    """Micro batches in one step on each rank."""
    learning_rate: Decimal
    schedule: Schedule
    warmup_steps: Uint32
    weight_decay: Decimal
    clip_norm: Decimal
    """Gradient norm above which gradients are scaled down; "0" = never."""
    seed: Uint32
    precision: Precision
    packing: bool
    loss_on: LossOn
    evaluation: Evaluation | None
    """Run before and after training, on the input with the role *heldout*."""

    def _check(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise DocumentError("recipe: exactly one of epochs and steps is given")
        if float(self.dropout) >= 1:
            raise DocumentError(f"recipe: dropout {self.dropout}, wanted below 1")
        if "all-linear" in self.targets and len(self.targets) > 1:
            raise DocumentError("recipe: all-linear stands alone in targets")
        if list(self.targets) != sorted(set(self.targets)):
            raise DocumentError("recipe: targets are sorted, each once")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateRecipe(Struct):
    """Evaluate a base model on the held-out rows, and train nothing."""

    TAG: ClassVar[str | None] = "evaluate"

    evaluation: Evaluation
    precision: Precision
    loss_on: LossOn


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRecipe(Struct):
    """Serve a base model and adapters of it: one batch, a slot for each request in it.

    What host and network see of a reply is `frame_bytes` every `tick_milliseconds`, so both are the
    manifest's: public, and the same whatever is asked (docs/spec/serving.md).
    """

    TAG: ClassVar[str | None] = "generate"

    slots: Annotated[int, Range(least=1, most=256)]
    """Requests in one batch; more wait. A slot holds `length_max` tokens, prompt and reply."""
    reply_tokens_max: Annotated[int, Range(least=1, most=1 << 20)]
    precision: Precision
    fixed_shapes: bool
    """Always compute the full batch over the full context: then a seeded reply is the same alone
    and among others in bf16 too, at a price in speed. fp32 needs it not."""
    tick_milliseconds: Annotated[int, Range(least=20, most=10_000)]
    frame_bytes: Annotated[int, Range(least=64, most=1 << 14)]
    """Plaintext of one frame: what a reply may bring in one tick, padded to this."""

    @property
    def evaluation(self) -> None:
        """Nothing is measured."""
        return

    @property
    def loss_on(self) -> LossOn:
        """Nothing is trained, so no template needs a marker."""
        return LossOn.ALL


# --- job manifest --------------------------------------------------------------------------------


class JobKind(enum.StrEnum):
    """What a job does."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    SERVE = "serve"


class InputRole(enum.StrEnum):
    """What an input is for."""

    MODEL = "model"
    DATASET = "dataset"
    HELDOUT = "heldout"
    ADAPTER = "adapter"
    """What a job of the same custodians made; a serve job may have several."""


class Sharding(enum.StrEnum):
    """How the local ranks share the work."""

    DATA_PARALLEL = "data-parallel"
    FSDP2 = "fsdp2"


class BidKind(enum.StrEnum):
    """On demand runs until done; interruptible may be outbid after its notice."""

    ON_DEMAND = "on-demand"
    INTERRUPTIBLE = "interruptible"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Input(Struct):
    """An artifact that the job opens."""

    role: InputRole
    artifact: Digest


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClientKey(Struct):
    """A key that may speak to a serve job's enclave."""

    identity: Bytes32
    tokens: Uint53 | None
    """What it may use of one generation, prompts and replies; None: what the job may."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Bid(Struct):
    """What the buyer pays a host at most."""

    kind: BidKind
    price_microcredits_per_gpu_hour: Microcredits
    notice_seconds: Uint32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Resources(Struct):
    """What an offer must have. A machine without a GPU counts as one GPU of model ``cpu``."""

    gpu_model: Name
    gpus: Uint16
    memory_mib: Uint32
    platform: Name


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobManifest(Document):
    """A job, whole. Its digest is the job's name."""

    LABEL: ClassVar[str] = "job"

    version: Version
    kind: JobKind
    nonce: Bytes32
    """Makes two jobs that say the same two jobs."""
    buyer: Bytes32
    progress_key: HpkeKey
    """To whom the enclave seals progress."""
    inputs: Annotated[tuple[Input, ...], Size(least=1, most=INPUTS_MAX)]
    terms: Digest
    """The owner's terms that the buyer accepts."""
    template: Digest | None
    """A chat template that the buyer accepts although the image does not know it."""
    recipe: LoraRecipe | EvaluateRecipe | GenerateRecipe
    enclaves: Annotated[int, Range(least=1, most=RANKS_MAX)]
    local_ranks: Annotated[int, Range(least=1, most=RANKS_MAX)]
    sharding: Sharding
    rows: Count
    """Rows in the dataset; the enclave refuses another number. Visible counts derive from it.
    1 where there is no dataset."""
    length_max: Annotated[int, Range(least=8, most=1 << 20)]
    """Tokens in a row; a longer one is an error that names its line, never cut in silence."""
    images: Annotated[tuple[Annotated[bytes, Size(least=48, most=48)], ...], Size(least=1, most=16)]
    """Measurements of runtime images that may run this job."""
    compute_class: ComputeClass | None
    """None: the class on which generation 1 runs."""
    resume_on_other_class: bool
    checkpoint_steps: Count
    uncommitted_checkpoints_max: Annotated[int, Range(least=1, most=64)]
    generations_max: Annotated[int, Range(least=1, most=1024)]
    spend_max_microcredits: Microcredits
    ceiling_microcredits_per_step: Microcredits
    """A host earns no more than this for one step, however long it takes; of a serve job, for a
    million tokens."""
    bid: Bid
    resources: Resources
    client_keys: Annotated[tuple[ClientKey, ...], Size(least=0, most=CLIENT_KEYS_MAX)]
    """Who may speak to a serve job's enclave, sorted by identity; else empty."""
    expires_at: UnixMilliseconds

    def _check(self) -> None:
        roles = [each.role for each in self.inputs if each.role is not InputRole.ADAPTER]
        wanted = {InputRole.MODEL}
        if self.kind is JobKind.TRAIN:
            wanted.add(InputRole.DATASET)
        evaluates = self.recipe.evaluation is not None
        if evaluates:
            wanted.add(InputRole.HELDOUT)
        if len(set(roles)) != len(roles) or set(roles) != wanted:
            names = ", ".join(sorted(role.value for role in wanted))
            raise DocumentError(f"job: inputs are {', '.join(roles)}; wanted {names}, each once")
        if type(self.recipe) is not _RECIPES[self.kind]:
            raise DocumentError(f"job: a {self.kind.value} job with recipe {self.recipe.TAG}")
        self._check_serve()
        if isinstance(self.recipe, LoraRecipe):
            shares = self.world_size * self.recipe.accumulation
            if self.recipe.rows_per_step % shares:
                raise DocumentError(
                    f"job: {self.recipe.rows_per_step} rows a step are no multiple of "
                    f"{self.world_size} ranks × {self.recipe.accumulation} micro batches"
                )

    def _check_serve(self) -> None:
        serves = self.kind is JobKind.SERVE
        adapters = self.adapters
        if adapters and not serves:
            raise DocumentError(f"job: an adapter is no input of a {self.kind.value} job")
        if len(set(adapters)) != len(adapters):
            raise DocumentError("job: an adapter stands twice")
        clients = [each.identity for each in self.client_keys]
        if serves != bool(clients) or clients != sorted(set(clients)):
            raise DocumentError(
                f"job: {len(clients)} client keys; a serve job has some, sorted, each once, and no "
                "other job has any"
            )
        if isinstance(self.recipe, GenerateRecipe):
            if self.world_size != 1:
                raise DocumentError(f"job: {self.world_size} processes; a serve job has one")
            if self.recipe.reply_tokens_max >= self.length_max:
                raise DocumentError(
                    f"job: replies of {self.recipe.reply_tokens_max} tokens leave no prompt in a "
                    f"slot of {self.length_max}"
                )

    @property
    def adapters(self) -> tuple[bytes, ...]:
        """Artifact ids of the adapters, in order. In a serve job, number n of them is n+1."""
        return tuple(each.artifact for each in self.inputs if each.role is InputRole.ADAPTER)

    @property
    def world_size(self) -> int:
        """Training processes over all enclaves."""
        return self.enclaves * self.local_ranks

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole job; 0 where nothing is trained."""
        if not isinstance(self.recipe, LoraRecipe):
            return 0
        if self.recipe.steps is not None:
            return self.recipe.steps
        assert self.recipe.epochs is not None
        return max(1, self.recipe.epochs * self.rows // self.recipe.rows_per_step)

    def input(self, role: InputRole) -> bytes:
        """Artifact id of the first input with this role. Raises DocumentError if there is none."""
        for each in self.inputs:
            if each.role is role:
                return each.artifact
        raise DocumentError(f"job: no input with the role {role.value}")


_RECIPES: Final = {
    JobKind.TRAIN: LoraRecipe,
    JobKind.EVALUATE: EvaluateRecipe,
    JobKind.SERVE: GenerateRecipe,
}


# --- terms and policies --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RecipeTerms(Struct):
    """A recipe that the owner allows, and its limits."""

    recipe: Name
    rank_max: Uint32
    steps_max: Uint32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OutputTerms(Struct):
    """What may leave."""

    adapter_leaves: bool
    """True: a buyer may get its adapter. That gives a gradient oracle of the base away."""
    reply_tokens_max: Uint32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Screen(Struct):
    """A screen that rows must pass. Not built yet: terms that name one are refused."""

    guard: Digest
    policy_text: Digest


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Budgets(Struct):
    """What one buyer may use in a period, by the owner's own clock."""

    tokens: Uint53
    steps: Uint53
    reports: Uint53
    period_seconds: Count


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Undertaking(Struct):
    """The owner will release the job's outputs for serving, until when and at what price."""

    until: UnixMilliseconds
    price_microcredits_per_million_tokens: Microcredits


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Terms(Document):
    """The owner's terms, numbered: a higher number replaces a lower one."""

    LABEL: ClassVar[str] = "terms"

    version: Version
    owner: Bytes32
    number: Count
    lineages: Annotated[tuple[LineageId, ...], Size(least=1, most=64)]
    """The models that these terms are about."""
    price_microcredits_per_job: Microcredits
    royalty_microcredits_per_million_tokens: Microcredits
    recipes: Annotated[tuple[RecipeTerms, ...], Size(least=1, most=16)]
    reports_max: Uint32
    """Losses and scores that may leave in one job (attacks.md, 5)."""
    report_tokens_min: Count
    """Supervised tokens that a reported mean is over, at least."""
    report_rows_min: Count
    output: OutputTerms
    screen: Screen | None
    budgets: Budgets
    undertaking: Undertaking
    expires_at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class UsePolicy(Document):
    """When a custodian consents. Its own broker enforces it; others may read it."""

    LABEL: ClassVar[str] = "use-policy"

    version: Version
    custodian: Bytes32
    number: Count
    lineages: Annotated[tuple[LineageId, ...], Size(least=1, most=64)]
    appraisal_policy: Digest
    jobs_signed_by: Annotated[tuple[Bytes32, ...], Size(least=0, most=64)] | None
    """Buyers whose jobs may open these lineages; None: anybody's that keeps the terms."""
    adapter_to: Annotated[tuple[Bytes32, ...], Size(least=0, most=64)]
    """Who may be given an adapter's shares outside an enclave."""


# --- generations ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RankLease(Struct):
    """Which lease a rank runs under."""

    rank: Uint16
    lease: LeaseId


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOrder(Document):
    """A job's n-th run exists by this document, signed by its buyer: the market makes none."""

    LABEL: ClassVar[str] = "generation"

    job: Digest
    number: Count
    leases: Annotated[tuple[RankLease, ...], Size(least=1, most=RANKS_MAX)]
    expires_at: UnixMilliseconds
    before: Digest | None
    """Digest of order number-1; None for the first."""

    def _check(self) -> None:
        if [each.rank for each in self.leases] != list(range(len(self.leases))):
            raise DocumentError("generation: one lease for each rank, in order")
        if (self.number == 1) != (self.before is None):
            raise DocumentError(f"generation {self.number}: wrong link to the order before")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Close(Document):
    """The buyer's last word on a job: it is never released again."""

    LABEL: ClassVar[str] = "close"

    job: Digest
    at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ready(Document):
    """A custodian's broker is there, and would decide on this job now."""

    LABEL: ClassVar[str] = "ready"

    custodian: Bytes32
    job: Digest
    at: UnixMilliseconds


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Dispute(Document):
    """The buyer contests a receipt; what it pays waits until resolved."""

    LABEL: ClassVar[str] = "dispute"

    receipt: Digest
    reason: Name
    at: UnixMilliseconds


# --- launch --------------------------------------------------------------------------------------


class LaunchPurpose(enum.StrEnum):
    """Why a machine was started."""

    RUN = "run"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LaunchDocument(Document):
    """All that an enclave takes from its host at boot; its digest is in HOST_DATA."""

    LABEL: ClassVar[str] = "launch"

    version: Version
    purpose: LaunchPurpose
    job: Digest
    lease: LeaseId
    generation: Count
    rank: Uint16
    ranks: Annotated[int, Range(least=1, most=RANKS_MAX)]
    market: Bytes32
    """Whose challenge of purpose *meter* the enclave answers."""

    def _check(self) -> None:
        if self.rank >= self.ranks:
            raise DocumentError(f"launch: rank {self.rank} of {self.ranks}")
