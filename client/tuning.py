"""Fine-tunes for a gateway: rows sealed at once, jobs signed here, followed by the own log.

- Plaintext is read where its caller put it and never copied into the home: the home has ciphertext.
- A token is one job. Its signed manifest is stored before it is sent, so that whoever crashed asks
  again with the very same bytes; a job's digest is its id, and the market holds its money once.
- What the market refused for good is forgotten, own signature included: our broker orders no
  generation of a job that it does not find in its home.
- A success is one only when the own log has the last receipt; measures and texts come from records
  that the attested key signed. The market's word decides what is shown as waiting, and no more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from client.buyer import SealedRows, seal_dataset, sign_job
from client.files import HomeError
from client.gateway.config import BaseModel, GatewayConfig
from client.gateway.ports import (
    NotFoundError,
    StoredFile,
    TuneEvent,
    TuneJob,
    TuneRequest,
)
from client.home import DOCUMENTS_MAX, Home
from client.keystore import Keystore
from client.market_api import (
    MarketApi,
    MarketRefusedError,
    MarketUnreachableError,
    UnauthenticatedAnswerError,
)
from client.market_port import HttpMarket
from client.sealed import upload
from client.tuning_events import ENDED, JobEvents
from client.tuning_manifest import job_manifest
from client.tuning_store import FileRecord, Heard, Pair, Submission, TuningStore, token_digest
from marketplace.wire import ErrorCode, JobView
from trust.artifacts import ArtifactOpener, Custodian, Manifest
from trust.custody import artifact_key, input_share
from trust.errors import CustodyError, RefusedError
from trust.identity import Signed, verify_signed
from trust.jobs import Close, JobManifest, LoraRecipe, Terms, UsePolicy
from trust.messages import SignedMessage

NAME_BYTES_MAX: Final = 255
_FINAL: Final = frozenset(
    {
        ErrorCode.NO_FUNDS,
        ErrorCode.REFUSED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.OUTDATED,
        ErrorCode.MALFORMED,
        ErrorCode.TOO_LARGE,
    }
)
"""Refusals after which the market has stored nothing; after any other it may have."""
_SILENT: Final = (MarketUnreachableError, UnauthenticatedAnswerError, MarketRefusedError)
"""How a market is no help when it is asked of a job: what was heard before stands."""
ROOM_MAX: Final = DOCUMENTS_MAX - 96  # the rest of a home's documents is left to commands


class MarketTunePort:
    """Fills `client.gateway.ports.TunePort` over one home and its market. `clock`: Unix ms."""

    def __init__(
        self,
        *,
        home: Home,
        keys: Keystore,
        api: MarketApi,
        config: GatewayConfig,
        store: TuningStore,
        clock: Callable[[], int],
    ) -> None:
        self._home, self._keys, self._api, self._config = home, keys, api, config
        self._store, self._clock, self._market = store, clock, HttpMarket(api)
        self._events = JobEvents(home, keys, store, clock)
        self._sealing = asyncio.Lock()
        self._submitting: dict[bytes, asyncio.Lock] = {}

    async def base_models(self) -> Sequence[str]:
        """Names in the configuration."""
        return list(self._config.models)

    # --- files -----------------------------------------------------------------------------------

    async def add_file(self, path: Path, *, name: str, purpose: str) -> StoredFile:
        """Check, seal, remember. Raises RowError, HomeError, CustodyError, SealingError."""
        async with self._sealing:
            self._check_room("manifests")
            entry = self._entry()
            size, sealed = await asyncio.to_thread(self._seal, path, entry)
            record = FileRecord(
                artifact=sealed.manifest.digest,
                name=_shortened(name),
                size=size,
                rows=sealed.rows,
                purpose=purpose,
                created_at=self._clock(),
            )
            self._store.keep_file(record)
        return _stored(record)

    def _seal(self, path: Path, entry: Custodian) -> tuple[int, SealedRows]:
        size = path.stat().st_size
        return size, seal_dataset(self._home, self._keys, path, entry, _no_step)

    async def files(self) -> Sequence[StoredFile]:
        """All, newest first."""
        records = sorted(self._store.files.values(), key=lambda each: each.created_at)
        return [_stored(each) for each in reversed(records)]

    async def read_file(self, file: str) -> AsyncIterator[bytes]:
        """Open the own artifact again, a segment at a time."""
        record = self._record(file)
        folder = self._home.folder / "sealed" / record.artifact.hex()
        opener = await asyncio.to_thread(self._opener, record.artifact, folder)
        for index in range(len(opener)):
            segment = await asyncio.to_thread(_segment(folder, index).read_bytes)
            _, content = opener.open(index, segment)
            if content:
                yield content

    async def delete_file(self, file: str) -> None:
        """Forget a file and its ciphertext here; its manifest stays while a job names it."""
        record = self._record(file)
        self._store.drop_file(record.artifact)
        folder = self._home.folder / "sealed" / record.artifact.hex()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if not any(file in {s.training, s.heldout} for s in self._store.submissions.values()):
            (self._home.folder / "manifests" / record.artifact.hex()).unlink(missing_ok=True)

    def _record(self, file: str) -> FileRecord:
        for each in self._store.files.values():
            if _stored(each).id == file:
                return each
        raise NotFoundError(f"no file {file[:64]} here")

    def _opener(self, artifact: bytes, folder: Path) -> ArtifactOpener:
        manifest = self._home.load(Manifest, self._keys.party.identity)[artifact].document
        (entry,) = manifest.core.custodians
        share = input_share(self._keys.lineage_key(entry), manifest.core)
        return ArtifactOpener(
            manifest=manifest,
            segment_list=(folder / "list").read_bytes(),
            key=artifact_key((share,), manifest.core),
            first_segment=_segment(folder, 0).read_bytes(),
        )

    def _entry(self) -> Custodian:
        """The newest epoch of this gateway's lineage, which is made at first use."""
        lineage = self._config.lineage or self._store.lineage
        if lineage is None:
            entry = self._keys.new_lineage(self._config.kind)
            self._store.keep_lineage(entry.lineage)
            return entry
        own = [each for each in self._keys.entries() if each.lineage == lineage]
        if not own or lineage[:1] != self._config.kind.value:
            kind = self._config.kind.name.lower()
            raise CustodyError(f"this home has no {kind} lineage {lineage.hex()[:18]}…")
        return own[-1]

    # --- submitting ------------------------------------------------------------------------------

    async def submit(self, request: TuneRequest) -> TuneJob:
        """Submit, once for each token.

        (1) A token that is known is its job, whatever else is asked. (2) Else the manifest is made
        and signed, and (3) stored with its token. (4) Only then is it sent; whoever comes again
        before the market said yes sends the same bytes again.
        """
        token = token_digest(request.token)
        async with self._submitting.setdefault(token, asyncio.Lock()):
            submission = self._store.submissions.get(token)  # (1)
            if submission is None:
                submission = await self._signed(token, request)  # (2)
                self._store.keep_submission(submission)  # (3)
            if not submission.sent:
                submission = await self._send(submission)  # (4)
                return await asyncio.to_thread(self._view, submission)
        return await self._shown(submission)

    async def _signed(self, token: bytes, request: TuneRequest) -> Submission:
        base = self._config.models.get(request.model)
        if base is None:
            raise NotFoundError(f"no base model {request.model[:64]} is configured here")
        training = self._record(request.training)
        heldout = None if request.heldout is None else self._record(request.heldout)
        own = await asyncio.to_thread(self._home.load, Manifest, self._keys.party.identity)
        self._check_room("jobs")
        manifests = {each.artifact: own[each.artifact] for each in (training, heldout) if each}
        manifests[base.model] = await self._model(base, own)
        owner = manifests[base.model].document.core.custodians[0]
        terms = await self._terms(owner)
        now = self._clock()
        job = job_manifest(
            base,
            request,
            self._keys,
            training=training,
            heldout=heldout,
            terms=terms.digest,
            now=now,
        )
        self._check_policy(manifests[training.artifact].document)
        signed = sign_job(self._home, self._keys, job, terms=terms, manifests=manifests, now=now)
        told = {e.identity for m in manifests.values() for e in m.document.core.custodians}
        rate = request.recipe.get("learning_rate_multiplier")
        return Submission(
            token=token,
            job=signed.encode(),
            name=signed.digest,
            sent=False,
            close=None,
            told=tuple(sorted(told)),
            model=base.name,
            training=request.training,
            heldout=request.heldout,
            rate_multiplier=None if rate is None else str(rate),
            label=request.label,
            metadata=tuple(Pair(key=k, value=v) for k, v in request.metadata.items()),
            created_at=now,
        )

    async def _model(self, base: BaseModel, own: dict[bytes, Signed[Manifest]]) -> Signed[Manifest]:
        if base.model in own:
            return own[base.model]
        data = await self._api.get_document(base.model)
        manifest = verify_signed(Manifest, data, signer=None)
        if manifest.digest != base.model:
            raise RefusedError("model-other", "the market gave another manifest for the model")
        return manifest

    async def _terms(self, owner: Custodian) -> Signed[Terms]:
        return await self._api.get_terms(owner.identity, owner.lineage)

    def _check_policy(self, rows: Manifest) -> None:
        """Without an own use policy our broker releases nothing, and the job would only wait."""
        lineage = rows.core.custodians[0].lineage
        policies = self._home.load(UsePolicy, self._keys.party.identity).values()
        if not any(lineage in each.document.lineages for each in policies):
            raise RefusedError(
                "no-use-policy",
                f"no use policy of this home names lineage {lineage.hex()}: "
                "`blindhost policy publish` signs one",
            )

    async def _send(self, submission: Submission) -> Submission:
        job = verify_signed(JobManifest, submission.job, signer=self._keys.party.identity)
        own = await asyncio.to_thread(self._home.load, Manifest, self._keys.party.identity)
        try:
            for each in job.document.inputs:
                if each.artifact in own:
                    await upload(self._home, own[each.artifact], self._market, _no_step)
            view = await self._market.submit_job(job)
        except MarketRefusedError as error:
            if error.error_code in _FINAL:
                self._drop(submission)
            raise
        return self._heard(submission, view)

    # --- following -------------------------------------------------------------------------------

    async def job(self, job: str) -> TuneJob:
        """A job, by what the market says now and by what the own log shows."""
        return await self._shown(await self._submission(job))

    async def jobs(self) -> Sequence[TuneJob]:
        """All that the market ever had, newest first."""
        found = sorted(self._store.submissions.values(), key=lambda each: each.created_at)
        views = await self._views()
        shown = []
        for each in reversed(found):
            known = each
            if views is not None:
                known = await self._asked(each, views.get(each.name))
            if known.sent:
                shown.append(await asyncio.to_thread(self._view, known))
        return shown

    async def _views(self) -> Mapping[bytes, JobView] | None:
        """What the market says of its newest jobs; None: nothing at all."""
        try:
            return {each.job: each for each in await self._api.get_jobs()}
        except _SILENT:
            return None

    async def events(self, job: str, *, after: int) -> Sequence[TuneEvent]:
        """What happened after event number `after`."""
        submission = await self._asked(await self._submission(job))
        return await asyncio.to_thread(self._events.after, submission.name, after)

    async def _submission(self, job: str) -> Submission:
        found = next((s for s in self._store.submissions.values() if s.name.hex() == job), None)
        if found is not None and not found.sent:
            found = await self._asked(found)
        if found is None or not found.sent:
            raise NotFoundError(f"no job {job[:64]} here")
        return found

    async def _shown(self, submission: Submission) -> TuneJob:
        submission = await self._asked(submission)
        return await asyncio.to_thread(self._view, submission)

    async def _asked(self, submission: Submission, view: JobView | None = None) -> Submission:
        """Ask the market, unless the job has ended; whoever does not answer changes nothing."""
        if self._events.state(submission.name) in ENDED:
            return submission
        try:
            view = view or await self._api.get_job(submission.name)
        except _SILENT:
            return submission
        return self._heard(submission, view)

    def _heard(self, submission: Submission, view: JobView) -> Submission:
        if view.job != submission.name or view.buyer != self._keys.party.identity:
            raise RefusedError("job-other", "the market answered about another job")
        said = Heard(
            at=self._clock(), state=view.state.value, text=view.waiting_for or "", record=None
        )
        self._events.take_state(submission.name, said)
        current = self._store.submissions.get(submission.token)
        if current is None or current.sent:
            return current or submission
        current = dataclasses.replace(current, sent=True)
        self._store.keep_submission(current)
        return current

    def _view(self, submission: Submission) -> TuneJob:
        manifest = verify_signed(JobManifest, submission.job, signer=None).document
        outcome = self._events.outcome(submission.name)
        recipe: dict[str, object] = dict(manifest.recipe.to_json())
        assert isinstance(manifest.recipe, LoraRecipe)
        if submission.rate_multiplier is not None:
            recipe["learning_rate_multiplier"] = submission.rate_multiplier
        adapter = outcome.adapter
        return TuneJob(
            job=submission.name.hex(),
            state=outcome.state,
            message=outcome.message,
            code=outcome.code,
            model=submission.model,
            tuned_model=None if adapter is None else f"ft:{submission.model}:{adapter.hex()[:16]}",
            training=submission.training,
            heldout=submission.heldout,
            created_at=submission.created_at,
            finished_at=outcome.finished_at,
            trained_tokens=outcome.trained_tokens,
            recipe=recipe,
            label=submission.label,
            metadata={each.key: each.value for each in submission.metadata},
        )

    # --- stopping --------------------------------------------------------------------------------

    async def cancel(self, job: str) -> bool:
        """Close it: every custodian and the market are told, over one signature."""
        submission = await self._asked(await self._submission(job))
        if self._events.state(submission.name) in ENDED:
            return False
        if submission.close is None:
            signed = self._keys.party.sign(Close(job=submission.name, at=self._clock()))
            submission = dataclasses.replace(submission, close=signed.encode())
            self._store.keep_submission(submission)
        assert submission.close is not None
        close = verify_signed(Close, submission.close, signer=self._keys.party.identity)
        message = SignedMessage(signed=close.encode()).encode()
        for custodian in sorted({*submission.told, self._keys.party.identity}):
            await self._market.post_message(custodian, message)
        await self._market.post_close(close)
        await self._asked(submission)
        return True

    async def forget(self, job: str) -> bool:
        """Forget an ended job, its token included."""
        submission = await self._asked(await self._submission(job))
        if self._events.state(submission.name) not in ENDED:
            return False
        self._events.drop(submission.name)
        self._drop(submission)
        return True

    def _drop(self, submission: Submission) -> None:
        """Forget it, own signature first: without that our broker orders no generation of it."""
        (self._home.folder / "jobs" / submission.name.hex()).unlink(missing_ok=True)
        self._store.drop_submission(submission)

    def _check_room(self, folder: str) -> None:
        """A home with more documents than its broker reads would stop its broker."""
        count = sum(1 for _ in (self._home.folder / folder).iterdir())
        if count >= ROOM_MAX:
            raise HomeError(f"{folder}: {count} in this home; delete or forget some first")


def _stored(record: FileRecord) -> StoredFile:
    return StoredFile(
        id=f"file-{record.artifact.hex()[:32]}",
        name=record.name,
        size=record.size,
        rows=record.rows,
        purpose=record.purpose,
        created_at=record.created_at // 1000,
        artifact=record.artifact,
    )


def _segment(folder: Path, index: int) -> Path:
    return folder / f"{index:08d}"


def _shortened(name: str) -> str:
    return name.encode("utf-8", "replace")[:NAME_BYTES_MAX].decode("utf-8", "ignore")


def _no_step(_done: int, _total: int) -> None:
    """Nobody watches."""
