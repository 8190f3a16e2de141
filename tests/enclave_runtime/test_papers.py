"""What an enclave shows: GPU evidence that its statement names, endorsements each of one kind."""

from __future__ import annotations

import dataclasses

import pytest

from enclave_runtime.attester import stated
from enclave_runtime.briefing import check_briefing
from enclave_runtime.papers import Papers
from tests.enclave_runtime.fakes import World
from trust.errors import SessionError
from trust.identity import PartyKey
from trust.messages import Challenge, Endorsement, EvidenceBundle, Purpose, Statement
from trust.sealing import HpkePrivateKey

GPU = b"what the GPUs said"
OFFERED = (("vcek", b"v"), ("ask", b"a"), ("ark", b"r"))


def papers(*kinds: str) -> tuple[Papers, Statement]:
    """An enclave's, whose briefing brings endorsements of these kinds; its statement."""
    world = World()
    brief = check_briefing(world.launch, world.briefing())
    own = tuple(Endorsement(kind=kind, content=b"briefed") for kind in kinds)
    made = Papers(
        dataclasses.replace(brief, endorsements=own),
        hpke_key=HpkePrivateKey.generate(),
        signing_key=PartyKey.generate(),
    )
    challenge = Challenge(verifier=bytes(32), purpose=Purpose.RELEASE, nonce=bytes(32))
    return made, made.statement(challenge)


def bundle(made: Papers, statement: Statement, gpu: bytes | None) -> EvidenceBundle:
    shown = made.evidence(statement, platform="sev-snp", report=b"r", gpu=gpu, offered=OFFERED)
    return EvidenceBundle.parse(shown)


@pytest.mark.parametrize("gpu", [None, GPU])
def test_the_bundle_carries_what_the_statement_names(gpu: bytes | None) -> None:
    made, plain = papers()
    found = bundle(made, stated(plain, gpu), gpu)
    assert found.gpu == gpu
    assert Statement.parse(found.statement) == stated(plain, gpu)


@pytest.mark.parametrize(
    ("named", "shown"), [(None, GPU), (GPU, None), (GPU, GPU + b"."), (b"other", GPU)]
)
def test_gpu_evidence_that_the_statement_does_not_name_is_not_shown(
    named: bytes | None, shown: bytes | None
) -> None:
    made, plain = papers()
    with pytest.raises(SessionError, match="does not name"):
        bundle(made, stated(plain, named), shown)


@pytest.mark.parametrize(
    ("briefed", "kinds"),
    [
        ((), ["vcek", "ask", "ark"]),
        (("crl", "ark", "gpu-rim", "gpu-rim"), ["crl", "ark", "gpu-rim", "gpu-rim", "vcek", "ask"]),
        (("vcek", "ask", "ark"), ["vcek", "ask", "ark"]),
        (("vlek", "asvk", "ark"), ["vlek", "asvk", "ark"]),  # two keys would be two answers
    ],
)
def test_an_offer_fills_gaps_and_never_gives_a_second_answer(
    briefed: tuple[str, ...], kinds: list[str]
) -> None:
    made, plain = papers(*briefed)
    found = bundle(made, plain, None).endorsements
    assert [each.kind for each in found] == kinds
    assert all((each.content == b"briefed") == (each.kind in briefed) for each in found)
