"""Models, rows, sealed artifacts and job manifests for tests: made here, small, and seeded.

The tokenizer and template are the demo's; a tiny model has two layers of 32.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from trust.artifacts import (
    ArtifactKind,
    ArtifactOpener,
    ArtifactSealer,
    Core,
    Custodian,
    Manifest,
    Origin,
    PublicFile,
)
from trust.custody import LineageKind, artifact_key, artifact_share, lineage_id
from trust.encoding import digest
from trust.jobs import (
    Bid,
    BidKind,
    Evaluation,
    Input,
    InputRole,
    JobKind,
    JobManifest,
    LoraRecipe,
    LossOn,
    Precision,
    Resources,
    Schedule,
    Sharding,
)
from trust.sealing import HPKE_KEY_BYTES

DEMO = Path(__file__).parents[1] / "demo" / "assets"
PUBLIC_NAMES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """An artifact, its ciphertext and its key."""

    manifest: Manifest
    segments: list[bytes]
    segment_list: bytes
    key: bytes

    def read(self, index: int) -> bytes:
        """A ciphertext segment."""
        return self.segments[index]

    def opener(self) -> ArtifactOpener:
        """Opens it."""
        return ArtifactOpener(
            manifest=self.manifest,
            segment_list=self.segment_list,
            key=self.key,
            first_segment=self.segments[0],
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model's folder, in memory."""

    weights: bytes
    files: dict[str, bytes]

    def sealed(self) -> Sealed:
        """The weights, sealed; the files, public."""
        return seal(ArtifactKind.WEIGHTS, self.weights, self.files)

    def write(self, folder: Path) -> Path:
        """As a plain folder, for `from_pretrained`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(self.weights)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder


def demo_files() -> dict[str, bytes]:
    """The demo model's public files."""
    return {name: (DEMO / name).read_bytes() for name in PUBLIC_NAMES}


def demo_model() -> Model:
    """The demo model."""
    return Model(weights=(DEMO / "model.safetensors").read_bytes(), files=demo_files())


def tiny_model(*, seed: int = 7, tied: bool = True, dtype: str = "bfloat16") -> Model:
    """A random Llama of two layers of 32, with the demo's tokenizer."""
    import safetensors.torch
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config: dict[str, Any] = json.loads((DEMO / "config.json").read_bytes())
    config.update(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        dtype=dtype,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**config)).to(getattr(torch, dtype))
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    files = demo_files() | {"config.json": json.dumps(config, indent=2).encode()}
    weights = safetensors.torch.save(state, metadata={"format": "pt"})
    return Model(weights=weights, files=files)


def chat_rows(count: int, *, first: int = 0) -> bytes:
    """JSONL chats of different lengths; row n asks and answers about number n."""
    lines = []
    for number in range(first, first + count):
        tail = " please" * (number * 7 % 11)
        user = {"role": "user", "content": f"Say number {number}{tail}."}
        reply = {"role": "assistant", "content": f"[n/{number % 3}] It is {number}."}
        lines.append(json.dumps({"messages": [user, reply]}))
    return ("\n".join(lines) + "\n").encode()


def custodian(name: str) -> Custodian:
    """A simulated custodian's entry, the same for the same name."""
    identity = digest(name.encode())
    lineage = lineage_id(LineageKind.SIMULATED, identity, digest(b"lineage" + name.encode()))
    return Custodian(identity=identity, lineage=lineage, epoch=1)


def seal(kind: ArtifactKind, content: bytes, files: dict[str, bytes] | None = None) -> Sealed:
    """Seal `content` under a key of its own."""
    derived = kind in (ArtifactKind.ADAPTER, ArtifactKind.CHECKPOINT)
    origin = Origin(job=bytes(32), generation=1) if derived else None
    core = Core(
        kind=kind,
        seal_id=digest(kind.value.encode() + content[:64]),
        custodians=(custodian(kind.value),),
        origin=origin,
    )
    key = artifact_key([artifact_share(digest(b"lineage key"), core)], core)
    sealer = ArtifactSealer(
        core=core, key=key, content_bytes=len(content), entropy=bytes(range(39))
    )
    segments = list(sealer.segments([content]))
    public = tuple(
        PublicFile(name=name, bytes=len(data), sha256=digest(data))
        for name, data in sorted((files or {}).items())
    )
    return Sealed(
        manifest=sealer.manifest(public),
        segments=segments,
        segment_list=sealer.segment_list(),
        key=key,
    )


def lora_recipe(**changes: Any) -> LoraRecipe:
    """A small LoRA recipe."""
    fields: dict[str, Any] = {
        "rank": 4,
        "alpha": 8,
        "dropout": "0.1",
        "targets": ("all-linear",),
        "epochs": None,
        "steps": 10,
        "rows_per_step": 8,
        "accumulation": 2,
        "learning_rate": "0.01",
        "schedule": Schedule.COSINE,
        "warmup_steps": 2,
        "weight_decay": "0.01",
        "clip_norm": "1",
        "seed": 11,
        "precision": Precision.FP32,
        "packing": False,
        "loss_on": LossOn.ASSISTANT,
        "evaluation": None,
    }
    return LoraRecipe(**(fields | changes))


def evaluation(**changes: Any) -> Evaluation:
    """An evaluation with short replies."""
    fields: dict[str, Any] = {"rows_max": 1000, "reply_tokens_max": 8, "header_ends_with": "]"}
    return Evaluation(**(fields | changes))


def job_manifest(recipe: Any = None, *, rows: int = 30, **changes: Any) -> JobManifest:
    """A job over artifacts that are named by role."""
    recipe = lora_recipe() if recipe is None else recipe
    train = isinstance(recipe, LoraRecipe)
    roles = [InputRole.MODEL]
    roles += [InputRole.DATASET] if train else []
    roles += [InputRole.HELDOUT] if recipe.evaluation is not None else []
    fields: dict[str, Any] = {
        "version": 1,
        "kind": JobKind.TRAIN if train else JobKind.EVALUATE,
        "nonce": digest(b"nonce"),
        "buyer": digest(b"buyer"),
        "progress_key": bytes(HPKE_KEY_BYTES),
        "inputs": tuple(Input(role=role, artifact=digest(role.value.encode())) for role in roles),
        "terms": digest(b"terms"),
        "template": None,
        "recipe": recipe,
        "enclaves": 1,
        "local_ranks": 2,
        "sharding": Sharding.DATA_PARALLEL,
        "rows": rows,
        "length_max": 128,
        "images": (bytes(48),),
        "compute_class": None,
        "resume_on_other_class": False,
        "checkpoint_steps": 2,
        "uncommitted_checkpoints_max": 4,
        "generations_max": 4,
        "spend_max_microcredits": 10**9,
        "ceiling_microcredits_per_step": 10**6,
        "bid": Bid(kind=BidKind.ON_DEMAND, price_microcredits_per_gpu_hour=10**6, notice_seconds=0),
        "resources": Resources(gpu_model="cpu", gpus=1, memory_mib=1024, platform="sev-snp"),
        "client_keys": (),
        "expires_at": 2_000_000_000_000,
    }
    return JobManifest(**(fields | changes))
