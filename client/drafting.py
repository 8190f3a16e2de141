"""A fine-tune as a form says it, made a manifest, priced, and submitted.

- The form has ids and numbers; the rest of a manifest has one answer here, or follows from the
  offer: what machine, which platform.
- The most that a job can cost is its `spend_max`, by construction: the market holds that and no
  more. An estimate rests on one's own receipts for the same model, and says so; without any there
  is none.
- What a broker would refuse is refused here, before money is held (`client.buyer.sign_job`).
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from client.buyer import sign_job
from client.files import HomeError
from client.home import Home
from client.keystore import Keystore
from client.market_port import HttpMarket
from client.sealed import upload
from marketplace.wire import JobView, OfferView
from trust.artifacts import Manifest
from trust.encoding import Json, canonical_json, labelled_digest
from trust.errors import RefusedError
from trust.identity import Signed, verify_signed
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
    Terms,
    is_class_of,
)
from trust.release_state import Memory

DAY_MILLISECONDS: Final = 86_400_000
HOUR_MILLISECONDS: Final = 3_600_000
MILLION: Final = 1_000_000
GENERATIONS_MAX: Final = 12  # hosts that a job may lose
UNCOMMITTED_MAX: Final = 4
EVALUATION_ROWS_MAX: Final = 1024
QUOTE_MILLISECONDS: Final = 60_000  # prices move; a quote is looked at, and then made again


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TuneDraft:
    """What a person says of a fine-tune. Money is microcredits."""

    model: bytes
    """Artifact id."""
    data: bytes
    """Own artifact."""
    heldout: bytes | None
    rows: int
    """Of the dataset, counted when it was sealed."""
    rank: int
    alpha: int
    steps: int
    rows_per_step: int
    learning_rate: str
    length_max: int
    seed: int
    precision: str
    checkpoint_steps: int
    spend_max: int
    price_max: int
    """For a GPU and hour."""
    images: tuple[bytes, ...]
    """Measurements; empty: those that the own policies name."""

    @property
    def digest(self) -> bytes:
        """32 bytes: the same draft has the same."""
        fields = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return labelled_digest("client/draft", canonical_json(fields))


def _plain(value: object) -> Json:
    match value:
        case bytes():
            return value.hex()
        case tuple():
            return [_plain(each) for each in value]
        case int() | str() | None:
            return value
        case _:
            raise TypeError(type(value).__name__)


class DocumentsPort(Protocol):
    """The market, as a place of signed documents: `client.market_api.MarketApi`."""

    async def get_document(self, sha256: bytes) -> bytes:
        """A signed document by its digest."""

    async def get_terms(self, owner: bytes, lineage: bytes) -> Signed[Terms]:
        """An owner's newest terms of a lineage, verified."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A manifest that could be signed, and the documents that it names."""

    manifest: JobManifest
    terms: Signed[Terms]
    manifests: Mapping[bytes, Signed[Manifest]]

    def sign(self, home: Home, keys: Keystore, *, now: int, memory: Memory) -> Signed[JobManifest]:
        """Sign and keep it. Raises RefusedError and its kin for what a broker would refuse."""
        return sign_job(
            home,
            keys,
            self.manifest,
            terms=self.terms,
            manifests=self.manifests,
            now=now,
            memory=memory,
        )


async def prepare(
    port: DocumentsPort, home: Home, keys: Keystore, draft: TuneDraft, offer: OfferView, now: int
) -> Prepared:
    """Make the manifest of a draft for a machine like this offer's.

    (1) Every input's manifest: own ones from the home, the model's from the market, by its digest.
    (2) The owner's newest terms. (3) Images that the own policies accept. (4) The manifest.

    Raises HomeError, RefusedError, DocumentError, MarketRefusedError.
    """
    own = home.load(Manifest, keys.party.identity)
    manifests: dict[bytes, Signed[Manifest]] = {}
    for artifact in (draft.data, *([draft.heldout] if draft.heldout else [])):  # (1)
        if artifact not in own:
            raise HomeError(f"this home sealed no dataset {artifact.hex()[:16]}…")
        manifests[artifact] = own[artifact]
    if draft.model in own:
        manifests[draft.model] = own[draft.model]
    else:
        data = await port.get_document(draft.model)
        manifests[draft.model] = verify_signed(Manifest, data, signer=None)
    owner = manifests[draft.model].document.core.custodians[0]
    terms = await port.get_terms(owner.identity, owner.lineage)  # (2)
    images = draft.images or accepted_images(home)  # (3)
    if not images:
        raise RefusedError(
            "no-image", "no image is named, by the draft or by a policy of this home"
        )
    manifest = _manifest(keys, draft, offer, terms, images, now)  # (4)
    return Prepared(manifest=manifest, terms=terms, manifests=manifests)


def accepted_images(home: Home) -> tuple[bytes, ...]:
    """Measurements that every appraisal policy of this home accepts, sorted; at most 16."""
    policies = list(home.appraisal_policies().values())
    if not policies:
        return ()
    common = set(policies[0].measurements).intersection(*(each.measurements for each in policies))
    return tuple(sorted(common)[:16])


def _manifest(
    keys: Keystore,
    draft: TuneDraft,
    offer: OfferView,
    terms: Signed[Terms],
    images: Sequence[bytes],
    now: int,
) -> JobManifest:
    inputs = [
        Input(role=InputRole.MODEL, artifact=draft.model),
        Input(role=InputRole.DATASET, artifact=draft.data),
    ]
    evaluation = None
    if draft.heldout is not None:
        inputs.append(Input(role=InputRole.HELDOUT, artifact=draft.heldout))
        evaluation = Evaluation(
            rows_max=EVALUATION_ROWS_MAX, reply_tokens_max=0, header_ends_with=""
        )
    recipe = LoraRecipe(
        rank=draft.rank,
        alpha=draft.alpha,
        dropout="0",
        targets=("all-linear",),
        epochs=None,
        steps=draft.steps,
        rows_per_step=draft.rows_per_step,
        accumulation=1,
        learning_rate=draft.learning_rate,
        schedule=Schedule.COSINE,
        warmup_steps=min(5, draft.steps),
        weight_decay="0",
        clip_norm="1",
        seed=draft.seed,
        precision=Precision(draft.precision),
        packing=False,
        loss_on=LossOn.ASSISTANT,
        evaluation=evaluation,
    )
    machine = offer.draft
    return JobManifest(
        version=1,
        kind=JobKind.TRAIN,
        nonce=secrets.token_bytes(32),
        buyer=keys.party.identity,
        progress_key=keys.progress.public,
        inputs=tuple(inputs),
        terms=terms.digest,
        template=None,
        recipe=recipe,
        enclaves=1,
        local_ranks=1,
        sharding=Sharding.DATA_PARALLEL,
        rows=draft.rows,
        length_max=draft.length_max,
        images=tuple(images),
        compute_class=None,
        resume_on_other_class=False,
        checkpoint_steps=draft.checkpoint_steps,
        uncommitted_checkpoints_max=UNCOMMITTED_MAX,
        generations_max=GENERATIONS_MAX,
        spend_max_microcredits=draft.spend_max,
        ceiling_microcredits_per_step=-(-draft.spend_max // draft.steps),
        bid=Bid(
            kind=BidKind.ON_DEMAND,
            price_microcredits_per_gpu_hour=draft.price_max,
            notice_seconds=0,
        ),
        resources=Resources(
            gpu_model=machine.gpu_model,
            gpus=machine.gpus,
            memory_mib=machine.memory_mib,
            platform=machine.platform,
        ),
        client_keys=(),
        expires_at=now + DAY_MILLISECONDS,
    )


# --- what it costs -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """What a job would cost on an offer; microcredits."""

    cost_max: int
    """Never more, by construction."""
    cost_low: int | None
    """None: there is nothing to estimate from."""
    cost_high: int | None
    milliseconds: int | None
    """By the slower of the paces that were seen."""
    rests_on: str
    expires_at: int


def quote(manifest: JobManifest, terms: Terms, offer: OfferView, memory: Memory, now: int) -> Quote:
    """What a job can cost, and what it costs if it goes as fast as one's own jobs went before.

    (1) Paces, tokens in a millisecond, of own receipts: same model, and a machine of the offer's
    class. (2) The work is known from the manifest alone. (3) Host's part: time at the offer's ask,
    no more than the ceiling for each step. (4) Owner's part: flat price and royalty. (5) Never
    above the cap.
    """
    cap = manifest.spend_max_microcredits
    expires = now + QUOTE_MILLISECONDS
    paces = _paces(manifest, offer, memory)  # (1)
    recipe = manifest.recipe
    if not paces or not isinstance(recipe, LoraRecipe):
        return Quote(
            cost_max=cap,
            cost_low=None,
            cost_high=None,
            milliseconds=None,
            rests_on="no receipt of your own for this model on such a machine: no estimate",
            expires_at=expires,
        )
    tokens = manifest.steps * recipe.rows_per_step * manifest.length_max  # (2)
    price = offer.draft.ask_microcredits_per_gpu_hour * offer.draft.gpus
    ceiling = manifest.ceiling_microcredits_per_step * manifest.steps
    owed = terms.price_microcredits_per_job  # (4)
    owed += terms.royalty_microcredits_per_million_tokens * tokens // MILLION
    costs, times = [], []
    for done, milliseconds in paces:
        took = -(-tokens * milliseconds // done)
        times.append(took)
        host = min(price * took // HOUR_MILLISECONDS, ceiling)  # (3)
        costs.append(min(cap, host + owed))  # (5)
    return Quote(
        cost_max=cap,
        cost_low=min(costs),
        cost_high=max(costs),
        milliseconds=max(times),
        rests_on=f"the pace of {len(paces)} earlier runs of yours",
        expires_at=expires,
    )


def _paces(manifest: JobManifest, offer: OfferView, memory: Memory) -> list[tuple[int, int]]:
    """(Tokens, milliseconds) of every own run of this model on a machine of this class."""
    model = manifest.input(InputRole.MODEL)
    found = []
    for seat in memory.seats.values():
        job = memory.jobs.get(seat.statement.job)
        said = seat.receipt
        if job is None or said is None or job.kind is not JobKind.TRAIN:
            continue
        same = job.input(InputRole.MODEL) == model and is_class_of(
            offer.draft.compute_class, said.compute_class
        )
        if same and said.tokens and said.milliseconds:
            found.append((said.tokens, said.milliseconds))
    return found


def in_sentences(manifest: JobManifest, terms: Terms) -> tuple[str, ...]:
    """The manifest in words: who may see what, what is held, what comes back."""
    recipe = manifest.recipe
    assert isinstance(recipe, LoraRecipe)
    leaves = "may leave to you" if terms.output.adapter_leaves else "stays inside enclaves"
    model, cap = manifest.input(InputRole.MODEL).hex()[:16], manifest.spend_max_microcredits
    work = f"LoRA rank {recipe.rank}, {manifest.steps} steps, seed {recipe.seed}"
    held = "so much is held now, and the rest comes back"
    flat = f"{terms.price_microcredits_per_job} microcredits flat"
    royalty = f"{terms.royalty_microcredits_per_million_tokens} for a million tokens"
    return (
        f"You tune model {model} on {manifest.rows} rows: {work}, {recipe.precision.value}.",
        f"Never more than {cap} microcredits, by construction: {held}.",
        f"The owner asks {flat} and {royalty}.",
        f"The adapter opens only if the model's owner and you both say so; it {leaves}.",
        "The host sees sizes, times and prices. It sees no row, no word, no loss, no weight.",
    )


async def submit(port: HttpMarket, home: Home, signed: Signed[JobManifest]) -> JobView:
    """Upload what is missing of one's own, then submit: the market holds the money.

    Submitting the same signed manifest again does nothing more. Raises MarketRefusedError.
    """
    own = home.load(Manifest, signed.signer)
    for each in signed.document.inputs:
        if each.artifact in own:
            await upload(home, own[each.artifact], port, lambda _done, _total: None)
    return await port.submit_job(signed)
