"""The job that a selftest runs: this host's own, signed by keys of the moment, about nothing.

Rules:
- Buyer, owner and market are keys that live as long as the test. What the job opens is a model of
  random numbers of this host's own, so nothing of anybody's is ever under test.
- Every document is a real one: the enclave checks it as it checks a stranger's.
- Lineage and policy are simulated ones, so a real enclave could not be misled by this job.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from provider_agent.offers import make_offer_id
from trust.artifacts import (
    ENTROPY_BYTES,
    ArtifactKind,
    ArtifactSealer,
    Core,
    Custodian,
    Manifest,
    PublicFile,
)
from trust.custody import (
    LineageKind,
    artifact_key,
    input_share,
    lineage_id,
    output_custodians,
)
from trust.encoding import digest
from trust.identity import PartyKey, Signed
from trust.jobs import (
    Bid,
    BidKind,
    Budgets,
    ClientKey,
    GenerateRecipe,
    GenerationOrder,
    Input,
    InputRole,
    JobKind,
    JobManifest,
    LaunchDocument,
    LaunchPurpose,
    OutputTerms,
    Precision,
    RankLease,
    RecipeTerms,
    Resources,
    Sharding,
    Terms,
    Undertaking,
)
from trust.messages import Allowance, Briefing, Endorsement, Statement
from trust.release_grant import input_openings, output_openings, seal_grant
from trust.release_state import Holdings
from trust.sealing import HpkePrivateKey

JOB_MILLISECONDS: Final = 3_600_000
PIECE_BYTES: Final = 1 << 20
CONTEXT: Final = 64
HIDDEN: Final = 64
HEADS: Final = 4
INTERMEDIATE_MIN, INTERMEDIATE_MAX = 16, 1 << 17
_SPECIAL: Final = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|end|>' }}"
    "{% endgeneration %}{% else %}{{ m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelftestJob:
    """All that the parties of one selftest hold."""

    party: PartyKey
    """Owner and buyer."""
    market: PartyKey
    launch: LaunchDocument
    documents: Briefing
    """Without endorsements: the chip's come at launch."""
    blobs: Mapping[bytes, bytes]
    """Ciphertext and public files by SHA-256."""
    weights: tuple[bytes, ...]
    """Digests of the model's segments, in order."""
    weights_bytes: int
    """Ciphertext of all segments together."""
    holdings: Holdings
    core: Core
    terms: Signed[Terms]

    def briefing(self, endorsements: Sequence[Endorsement]) -> bytes:
        """The agent's message at the door."""
        documents = self.documents
        return Briefing(
            job=documents.job,
            order=documents.order,
            terms=documents.terms,
            manifests=documents.manifests,
            checkpoints=(),
            endorsements=tuple(endorsements),
        ).encode()

    def grant(self, statement: Statement) -> bytes:
        """The seat's grant to whom this statement's evidence was accepted for."""
        return seal_grant(
            self.holdings,
            statement,
            (
                *input_openings(self.holdings, (self.core,)),
                *output_openings(
                    self.holdings,
                    output_custodians((self.core,)),
                    statement.job,
                    statement.generation,
                ),
            ),
            number=0,
            checkpoint=None,
            allowance=Allowance(tokens=None, steps=None, reports=None),
            terms=self.terms.digest,
        )


def make_job(*, measurement: bytes, weights_bytes: int, now: int) -> SelftestJob:
    """A serve job of a model of some `weights_bytes`. `now` is in Unix milliseconds."""
    party, market = PartyKey.generate(), PartyKey.generate()
    lineage_key = secrets.token_bytes(32)
    lineage = lineage_id(LineageKind.SIMULATED, party.identity, secrets.token_bytes(32))
    entry = Custodian(identity=party.identity, lineage=lineage, epoch=1)
    core = Core(
        kind=ArtifactKind.WEIGHTS,
        seal_id=secrets.token_bytes(32),
        custodians=(entry,),
        origin=None,
    )
    files, weights = make_model(weights_bytes)
    blobs = {digest(content): content for content in files.values()}
    manifest, segments = _seal(core, lineage_key, weights, files)
    blobs |= segments
    model = party.sign(manifest)
    terms = party.sign(_terms(party.identity, lineage, now))
    job = party.sign(_job(party, model.digest, terms.digest, measurement, now))
    lease = make_offer_id(now=now, random=secrets.token_bytes(10)).replace("offr_", "leas_")
    order = GenerationOrder(
        job=job.digest,
        number=1,
        leases=(RankLease(rank=0, lease=lease),),
        expires_at=now + JOB_MILLISECONDS,
        before=None,
    )
    names = blobs[manifest.segment_list]
    parts = tuple(names[at : at + 32] for at in range(0, len(names), 32))
    return SelftestJob(
        party=party,
        market=market,
        launch=LaunchDocument(
            version=1,
            purpose=LaunchPurpose.RUN,
            job=job.digest,
            lease=lease,
            generation=1,
            rank=0,
            ranks=1,
            market=market.identity,
        ),
        documents=Briefing(
            job=job.encode(),
            order=party.sign(order).encode(),
            terms=terms.encode(),
            manifests=(model.encode(),),
            checkpoints=(),
            endorsements=(),
        ),
        blobs=blobs,
        weights=parts,
        weights_bytes=sum(len(blobs[each]) for each in parts),
        holdings=Holdings(
            key=party,
            market=market.identity,
            lineage_keys={(lineage, 1): lineage_key},
            manifests={model.digest: model},
            terms={terms.digest: terms},
            policies=(),
            appraisal_policies={},
            jobs={job.digest: job},
        ),
        core=core,
        terms=terms,
    )


def _seal(
    core: Core, lineage_key: bytes, weights: bytes, files: Mapping[str, bytes]
) -> tuple[Manifest, dict[bytes, bytes]]:
    sealer = ArtifactSealer(
        core=core,
        key=artifact_key([input_share(lineage_key, core)], core),
        content_bytes=len(weights),
        entropy=secrets.token_bytes(ENTROPY_BYTES),
    )
    pieces = (weights[at : at + PIECE_BYTES] for at in range(0, len(weights), PIECE_BYTES))
    blobs = {digest(segment): segment for segment in sealer.segments(pieces)}
    names = sealer.segment_list()
    blobs[digest(names)] = names
    public = tuple(
        PublicFile(name=name, bytes=len(content), sha256=digest(content))
        for name, content in sorted(files.items())
    )
    return sealer.manifest(public), blobs


def _terms(owner: bytes, lineage: bytes, now: int) -> Terms:
    return Terms(
        version=1,
        owner=owner,
        number=1,
        lineages=(lineage,),
        price_microcredits_per_job=0,
        royalty_microcredits_per_million_tokens=0,
        recipes=(RecipeTerms(recipe="generate", rank_max=8, steps_max=1),),
        reports_max=2000,
        report_tokens_min=256,
        report_rows_min=64,
        output=OutputTerms(adapter_leaves=False, reply_tokens_max=64),
        screen=None,
        budgets=Budgets(tokens=1 << 40, steps=1 << 20, reports=1 << 20, period_seconds=60),
        undertaking=Undertaking(until=0, price_microcredits_per_million_tokens=0),
        expires_at=now + JOB_MILLISECONDS,
    )


def _job(party: PartyKey, model: bytes, terms: bytes, measurement: bytes, now: int) -> JobManifest:
    return JobManifest(
        version=1,
        kind=JobKind.SERVE,
        nonce=secrets.token_bytes(32),
        buyer=party.identity,
        progress_key=HpkePrivateKey.generate().public,
        inputs=(Input(role=InputRole.MODEL, artifact=model),),
        terms=terms,
        template=digest(_TEMPLATE.encode()),
        recipe=GenerateRecipe(
            slots=1,
            reply_tokens_max=12,
            precision=Precision.FP32,
            fixed_shapes=False,
            tick_milliseconds=20,
            frame_bytes=64,
        ),
        enclaves=1,
        local_ranks=1,
        sharding=Sharding.DATA_PARALLEL,
        rows=1,
        length_max=32,
        images=(measurement,),
        compute_class=None,
        resume_on_other_class=False,
        checkpoint_steps=1,
        uncommitted_checkpoints_max=1,
        generations_max=1,
        spend_max_microcredits=1,
        ceiling_microcredits_per_step=1,
        bid=Bid(kind=BidKind.ON_DEMAND, price_microcredits_per_gpu_hour=1, notice_seconds=0),
        resources=Resources(gpu_model="cpu", gpus=1, memory_mib=1, platform="sev-snp"),
        client_keys=(ClientKey(identity=PartyKey.generate().identity, tokens=None),),
        expires_at=now + JOB_MILLISECONDS,
    )


def make_model(weights_bytes: int) -> tuple[dict[str, bytes], bytes]:
    """Public files and weights: one layer of a Llama, wide enough for some `weights_bytes`."""
    words = len(_SPECIAL) + 256
    width = weights_bytes // (3 * 2 * HIDDEN)
    width = max(INTERMEDIATE_MIN, min(width, INTERMEDIATE_MAX))
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (words, HIDDEN),
        layer + "input_layernorm.weight": (HIDDEN,),
        **{f"{layer}self_attn.{each}_proj.weight": (HIDDEN, HIDDEN) for each in "qkvo"},
        layer + "mlp.gate_proj.weight": (width, HIDDEN),
        layer + "mlp.up_proj.weight": (width, HIDDEN),
        layer + "mlp.down_proj.weight": (HIDDEN, width),
        layer + "post_attention_layernorm.weight": (HIDDEN,),
        "model.norm.weight": (HIDDEN,),
    }
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # data begins at a multiple of 8
    return public_files(width), len(head).to_bytes(8, "little") + head + _small_numbers(end // 2)


def _small_numbers(count: int) -> bytes:
    """So many random numbers of bfloat16 of either sign, about a hundredth: a sane model's."""
    numbers = bytearray(secrets.token_bytes(2 * count))
    signs = bytes(0x3C | each & 0x80 for each in range(256))  # exponent -7, the sign as it fell
    numbers[1::2] = numbers[1::2].translate(signs)
    return bytes(numbers)


def public_files(width: int) -> dict[str, bytes]:
    """A model's public files, as small as the enclave's schema lets them be: bytes are tokens."""
    words = {word: number for number, word in enumerate((*_SPECIAL, *_byte_letters()))}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": word, **flags, "special": True}
            for number, word in enumerate(_SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": level | {"use_regex": True},
        "post_processor": None,
        "decoder": level | {"use_regex": True},
        "model": {"type": "BPE", "vocab": words, "merges": []},
    }
    settings = {
        "bos_token": "<|bos|>",
        "chat_template": _TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|end|>",
        "extra_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>"],
        "model_max_length": CONTEXT,
        "pad_token": "<|pad|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(words),
        "hidden_size": HIDDEN,
        "intermediate_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-05,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
    }
    named = {
        "config.json": config,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": settings,
    }
    return {name: json.dumps(value, ensure_ascii=False).encode() for name, value in named.items()}


def _byte_letters() -> list[str]:
    """A printable letter for each byte, as byte-level BPE has them (GPT-2, encoder.py)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [each for each in range(256) if each not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + number) for number, byte in enumerate(rest)}
    return [letters[byte] for byte in range(256)]
