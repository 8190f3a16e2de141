"""Small honest values for tests: every field filled, nothing special about any."""

from __future__ import annotations

import dataclasses
import secrets

from trust.artifacts import ArtifactKind, Core, Custodian, Origin
from trust.custody import LineageKind, lineage_id
from trust.jobs import (
    Bid,
    BidKind,
    Budgets,
    ClientKey,
    Evaluation,
    GenerateRecipe,
    GenerationOrder,
    Input,
    InputRole,
    JobKind,
    JobManifest,
    LoraRecipe,
    LossOn,
    OutputTerms,
    Precision,
    RankLease,
    RecipeTerms,
    Resources,
    Schedule,
    Sharding,
    Terms,
    Undertaking,
)
from trust.messages import Purpose, Statement


def custodian(number: int, kind: LineageKind = LineageKind.SIMULATED) -> Custodian:
    identity = bytes([number]) * 32
    return Custodian(identity=identity, lineage=lineage_id(kind, identity, bytes(32)), epoch=0)


def core(
    kind: ArtifactKind, custodians: tuple[Custodian, ...] | None = None, job: bytes = bytes(32)
) -> Core:
    derived = kind in (ArtifactKind.ADAPTER, ArtifactKind.CHECKPOINT)
    return Core(
        kind=kind,
        seal_id=secrets.token_bytes(32),
        custodians=custodians or (custodian(1),),
        origin=Origin(job=job, generation=1) if derived else None,
    )


LEASE = "leas_" + "0" * 26


def lora() -> LoraRecipe:
    return LoraRecipe(
        rank=4,
        alpha=8,
        dropout="0.1",
        targets=("all-linear",),
        epochs=None,
        steps=10,
        rows_per_step=8,
        accumulation=2,
        learning_rate="0.004",
        schedule=Schedule.COSINE,
        warmup_steps=2,
        weight_decay="0",
        clip_norm="1",
        seed=7,
        precision=Precision.FP32,
        packing=False,
        loss_on=LossOn.ASSISTANT,
        evaluation=Evaluation(rows_max=16, reply_tokens_max=16, header_ends_with="]"),
    )


def job_manifest() -> JobManifest:
    return JobManifest(
        version=1,
        kind=JobKind.TRAIN,
        nonce=bytes(32),
        buyer=bytes([2]) * 32,
        progress_key=bytes(1216),
        inputs=tuple(
            Input(role=role, artifact=bytes([n]) * 32)
            for n, role in enumerate((InputRole.MODEL, InputRole.DATASET, InputRole.HELDOUT))
        ),
        terms=bytes(32),
        template=None,
        recipe=lora(),
        enclaves=1,
        local_ranks=2,
        sharding=Sharding.DATA_PARALLEL,
        rows=64,
        length_max=64,
        images=(bytes(48),),
        compute_class=None,
        resume_on_other_class=False,
        checkpoint_steps=2,
        uncommitted_checkpoints_max=4,
        generations_max=4,
        spend_max_microcredits=1_000_000,
        ceiling_microcredits_per_step=1_000,
        bid=Bid(
            kind=BidKind.ON_DEMAND, price_microcredits_per_gpu_hour=3_600_000, notice_seconds=0
        ),
        resources=Resources(gpu_model="cpu", gpus=1, memory_mib=1024, platform="sev-snp"),
        client_keys=(),
        expires_at=2_000_000_000_000,
    )


def generate() -> GenerateRecipe:
    return GenerateRecipe(
        slots=4,
        reply_tokens_max=32,
        precision=Precision.FP32,
        fixed_shapes=False,
        tick_milliseconds=100,
        frame_bytes=128,
    )


def serve_manifest(adapters: int = 2) -> JobManifest:
    """A serve job of a base and so many adapters, with two clients."""
    model = Input(role=InputRole.MODEL, artifact=bytes(32))
    made = tuple(
        Input(role=InputRole.ADAPTER, artifact=bytes([n + 1]) * 32) for n in range(adapters)
    )
    return dataclasses.replace(
        job_manifest(),
        kind=JobKind.SERVE,
        inputs=(model, *made),
        recipe=generate(),
        local_ranks=1,
        rows=1,
        client_keys=(
            ClientKey(identity=bytes([1]) * 32, tokens=None),
            ClientKey(identity=bytes([2]) * 32, tokens=1 << 20),
        ),
    )


def terms() -> Terms:
    return Terms(
        version=1,
        owner=bytes([1]) * 32,
        number=1,
        lineages=(custodian(1).lineage,),
        price_microcredits_per_job=1_000,
        royalty_microcredits_per_million_tokens=5_000,
        recipes=(RecipeTerms(recipe="lora", rank_max=16, steps_max=1000),),
        reports_max=2000,
        report_tokens_min=256,
        report_rows_min=64,
        output=OutputTerms(adapter_leaves=False, reply_tokens_max=64),
        screen=None,
        budgets=Budgets(tokens=1 << 40, steps=1 << 20, reports=1 << 20, period_seconds=86_400),
        undertaking=Undertaking(
            until=2_000_000_000_000, price_microcredits_per_million_tokens=5_000
        ),
        expires_at=2_000_000_000_000,
    )


def order(job: bytes) -> GenerationOrder:
    return GenerationOrder(
        job=job,
        number=1,
        leases=(RankLease(rank=0, lease=LEASE),),
        expires_at=2_000_000_000_000,
        before=None,
    )


def statement() -> Statement:
    return Statement(
        version=1,
        purpose=Purpose.RELEASE,
        verifier=bytes(32),
        nonce=bytes(32),
        hpke_key=bytes(1216),
        signing_key=bytes(32),
        job=bytes(32),
        lease=LEASE,
        generation=1,
        rank=0,
        ranks=1,
        launch=bytes(32),
        gpu_evidence=None,
    )
