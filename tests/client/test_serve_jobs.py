"""A serve job is signed if this home's own broker would release for it, and not otherwise."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from typing import Any

import pytest

from client.buyer import sign_job
from client.files import HomeError
from tests.client.serve_stage import RECIPE, ServeStage
from tests.trust import makers
from tests.trust import release_world as rw
from trust.artifacts import ArtifactKind, Core, Custodian, Manifest, Origin
from trust.custody import LineageKind, lineage_id
from trust.errors import RefusedError
from trust.identity import PartyKey, Signed
from trust.jobs import (
    ClientKey,
    Input,
    InputRole,
    JobKind,
    JobManifest,
    RecipeTerms,
    Terms,
    Undertaking,
)
from trust.release_budget import UNBOUNDED
from trust.release_state import NOTHING_USED, Memory, Seat


class Bench:
    """A buyer's home whose log shows one training run and its adapter."""

    def __init__(self, folder: Path) -> None:
        self.stage = ServeStage(folder, adapters=0)
        self.home, self.keys = self.stage.home, self.stage.keys
        self.owner = self.stage.owner
        self.owner_entry = self.stage.base.document.core.custodians[0]
        self.trainer = PartyKey.generate()
        self.origin = Origin(job=secrets.token_bytes(32), generation=1)
        self.terms = self.publish()
        self.adapter = self.make()
        self.manifests: dict[bytes, Signed[Manifest]] = {
            each.digest: each for each in (self.stage.base, self.adapter)
        }

    def publish(self, **changed: Any) -> Signed[Terms]:
        fields = {
            "owner": self.owner.identity,
            "lineages": (self.owner_entry.lineage,),
            "recipes": (RecipeTerms(recipe="generate", rank_max=0, steps_max=0),),
            "expires_at": rw.JOB_ENDS,
            **changed,
        }
        return self.owner.sign(dataclasses.replace(makers.terms(), **fields))

    @property
    def entries(self) -> tuple[Custodian, ...]:
        return tuple(sorted((self.owner_entry, self.stage.entry)))

    def make(self, maker: PartyKey | None = None, **changed: Any) -> Signed[Manifest]:
        fields = {
            "kind": ArtifactKind.ADAPTER,
            "seal_id": secrets.token_bytes(32),
            "custodians": self.entries,
            "origin": self.origin,
            **changed,
        }
        return (maker or self.trainer).sign(rw.manifest(Core(**fields)))

    def memory(self, *outputs: Signed[Manifest], trained_under: bytes | None = None) -> Memory:
        statement = dataclasses.replace(
            makers.statement(), job=self.origin.job, signing_key=self.trainer.identity
        )
        seat = Seat(
            statement=statement,
            terms=bytes(32),
            model=self.owner_entry.lineage,
            custodians=self.entries,
            checkpoint=None,
            grant=b"grant",
            allowance=UNBOUNDED,
            account=NOTHING_USED,
            answers=(),
            closed=True,
            receipt=None,
        )
        found = outputs or (self.adapter,)
        return Memory(
            seats={seat.name: seat},
            outputs={each.digest: each for each in found},
            terms={self.origin.job: trained_under or self.terms.digest},
        )

    def job(self, *adapters: Signed[Manifest], **changed: Any) -> JobManifest:
        named = adapters or (self.adapter,)
        inputs = [Input(role=InputRole.MODEL, artifact=self.stage.base.digest)]
        inputs += [Input(role=InputRole.ADAPTER, artifact=each.digest) for each in named]
        fields = {
            "kind": JobKind.SERVE,
            "recipe": RECIPE,
            "buyer": self.keys.party.identity,
            "progress_key": self.keys.progress.public,
            "inputs": tuple(inputs),
            "terms": self.terms.digest,
            "local_ranks": 1,
            "rows": 1,
            "client_keys": (ClientKey(identity=self.stage.client.identity, tokens=None),),
            **changed,
        }
        return dataclasses.replace(makers.job_manifest(), **fields)

    def sign(
        self,
        job: JobManifest | None = None,
        memory: Memory | None = None,
        *,
        now: int = rw.NOW,
        further: tuple[Signed[Manifest], ...] = (),
    ) -> Signed[JobManifest]:
        return sign_job(
            self.home,
            self.keys,
            job or self.job(),
            terms=self.terms,
            manifests={**self.manifests, **{each.digest: each for each in further}},
            now=now,
            memory=memory or self.memory(),
        )

    def refuses(self, code: str, *arguments: Any, **named: Any) -> None:
        before = len(self.home.load(JobManifest, self.keys.party.identity))
        with pytest.raises(RefusedError) as caught:
            self.sign(*arguments, **named)
        assert caught.value.code == code
        assert len(self.home.load(JobManifest, self.keys.party.identity)) == before


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_serve_job_over_an_adapter_of_the_own_log_is_signed_and_kept(bench: Bench) -> None:
    signed = bench.sign()
    assert bench.home.holdings(bench.keys).jobs[signed.digest] == signed


def test_serve_job_of_a_base_alone_is_signed(bench: Bench) -> None:
    base = Input(role=InputRole.MODEL, artifact=bench.stage.base.digest)
    assert bench.sign(bench.job(inputs=(base,)), Memory())


def test_adapter_that_the_own_log_does_not_show_is_refused(bench: Bench) -> None:
    bench.refuses("adapter-not-own", memory=Memory())
    other = bench.make()
    bench.refuses("adapter-not-own", bench.job(other), further=(other,))


def test_adapter_by_a_key_that_the_log_never_saw_attested_is_refused(bench: Bench) -> None:
    forged = bench.make(PartyKey.generate())
    bench.refuses(
        "adapter-unknown-maker", bench.job(forged), bench.memory(forged), further=(forged,)
    )


def test_adapter_that_a_custodian_signed_itself_is_refused(bench: Bench) -> None:
    relabelled = bench.make(bench.keys.party)
    bench.refuses(
        "adapter-relabelled",
        bench.job(relabelled),
        bench.memory(relabelled),
        further=(relabelled,),
    )


def test_adapter_of_another_base_is_refused(bench: Bench) -> None:
    stranger = Custodian(
        identity=bytes([7]) * 32,
        lineage=lineage_id(LineageKind.SIMULATED, bytes([7]) * 32, bytes(32)),
        epoch=1,
    )
    other = bench.make(custodians=tuple(sorted((stranger, bench.stage.entry))))
    bench.refuses("adapter-other-base", bench.job(other), bench.memory(other), further=(other,))


def test_kinds_of_custodians_do_not_mix(bench: Bench) -> None:
    real = dataclasses.replace(bench.stage.entry, lineage=b"r" + bench.stage.entry.lineage[1:])
    mixed = bench.make(custodians=tuple(sorted((bench.owner_entry, real))))
    memory = bench.memory(mixed)
    seat = next(iter(memory.seats.values()))
    seats = {seat.name: dataclasses.replace(seat, custodians=mixed.document.core.custodians)}
    bench.refuses(
        "kinds-mixed",
        bench.job(mixed),
        dataclasses.replace(memory, seats=seats),
        further=(mixed,),
    )


def test_terms_have_to_allow_serving_and_its_replies(bench: Bench) -> None:
    lora = (RecipeTerms(recipe="lora", rank_max=16, steps_max=1000),)
    bench.terms = bench.publish(recipes=lora)
    bench.refuses("recipe-not-in-terms")
    bench.terms = bench.publish(
        output=dataclasses.replace(makers.terms().output, reply_tokens_max=8)
    )
    bench.refuses("recipe-reply-tokens")


def test_terms_that_ended_are_good_for_what_was_made_under_their_undertaking(
    bench: Bench,
) -> None:
    until = rw.NOW + rw.HOUR
    bench.terms = bench.publish(
        expires_at=rw.NOW - 1,
        undertaking=Undertaking(until=until, price_microcredits_per_million_tokens=0),
    )
    assert bench.sign(bench.job(nonce=bytes([1]) * 32), bench.memory())
    bench.refuses("terms-expired", bench.job(), bench.memory(), now=until)
    bench.refuses("terms-expired", bench.job(), bench.memory(trained_under=bytes([3]) * 32))


def test_job_without_a_policy_for_its_own_lineage_is_refused(bench: Bench) -> None:
    for path in (bench.home.folder / "policies").iterdir():
        path.unlink()
    bench.refuses("use-policy-missing")


def test_manifest_of_every_input_has_to_be_there(bench: Bench) -> None:
    del bench.manifests[bench.stage.base.digest]
    with pytest.raises(HomeError, match="no manifest of input"):
        bench.sign()
