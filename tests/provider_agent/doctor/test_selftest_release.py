"""The other end of a selftest's door, without a process: what it answers to which evidence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from provider_agent.chip_wire import ChipView
from provider_agent.doctor.selftest import CHALLENGES_MAX, Bench, _Talk
from provider_agent.doctor.selftest_job import SelftestJob, make_job
from provider_agent.doctor.selftest_rows import Facts
from provider_agent.doctor.view import HostView
from provider_agent.frames import Frame
from tests.provider_agent.doctor.machines import NOW
from trust.errors import EvidenceSignatureError
from trust.identity import PartyKey
from trust.messages import (
    Challenge,
    Endorsement,
    EvidenceBundle,
    Grant,
    Hello,
    Metered,
    MeterRequest,
    Purpose,
    ReleaseRequest,
    Statement,
    parse_message,
)
from trust.sealing import HpkePrivateKey
from trust.simulated import SimulatedChip
from trust.verifier.policy import simulated_policy

IMAGE = b"\x21" * 48


class Door:
    """A talk, and an enclave that is made of a chip and two keys."""

    def __init__(self, chip: SimulatedChip) -> None:
        self.chip, self.facts = chip, Facts(platform="simulated")
        self.job: SelftestJob = make_job(
            measurement=IMAGE, weights_bytes=1 << 16, now=int(NOW.timestamp() * 1000)
        )
        self.endorsements = tuple(Endorsement(kind=k, content=c) for k, c in chip.endorsements())
        view = ChipView(
            incarnation=bytes(16),
            pid=1,
            root=chip.root_fingerprint,
            endorsements=self.endorsements,
            enclaves=(),
        )
        bench = Bench(
            home=Path("/nowhere"),
            platform="simulated",
            runtime=None,
            view=HostView(root=Path("/nowhere")),
            now=NOW,
        )
        policy = simulated_policy(chip.root_fingerprint, [IMAGE])
        self.talk = _Talk(bench, self.facts, self.job, view, policy, Path("/nowhere"), 0.0)
        self.key, self.hpke = PartyKey.generate(), HpkePrivateKey.generate()

    def verifier(self, purpose: Purpose) -> bytes:
        owner = purpose is Purpose.RELEASE
        return self.job.party.identity if owner else self.job.market.identity

    def say(self, purpose: Purpose, payload: bytes) -> object:
        answer = self.talk._answer(
            Frame(peer=self.verifier(purpose), id=bytes(16), payload=payload)
        )
        return None if answer is None else parse_message(answer)

    def challenge(self, purpose: Purpose) -> Challenge | None:
        launch = self.job.launch
        hello = Hello(
            version=1, purpose=purpose, verifier=self.verifier(purpose), lease=launch.lease
        )
        answer = self.say(purpose, hello.encode())
        assert answer is None or isinstance(answer, Challenge)
        return answer

    def show(
        self, purpose: Purpose, nonce: bytes, *, image: bytes = IMAGE, **changes: object
    ) -> object:
        launch = self.job.launch
        statement = Statement(
            version=1,
            purpose=purpose,
            verifier=self.verifier(purpose),
            nonce=nonce,
            hpke_key=self.hpke.public,
            signing_key=self.key.identity,
            job=launch.job,
            lease=launch.lease,
            generation=1,
            rank=0,
            ranks=1,
            launch=launch.digest,
            gpu_evidence=None,
        )
        statement = dataclasses.replace(statement, **changes)
        report = self.chip.report(
            report_data=statement.report_data, host_data=launch.digest, measurement=image
        )
        evidence = EvidenceBundle(
            statement=statement.encode(),
            launch=launch.encode(),
            platform="sev-snp",
            report=report,
            gpu=None,
            endorsements=self.endorsements,
        ).encode()
        documents = self.job.documents
        request = ReleaseRequest(
            evidence=evidence,
            job=documents.job,
            order=documents.order,
            terms=documents.terms,
            manifests=documents.manifests,
        )
        meter = MeterRequest(evidence=evidence)
        return self.say(purpose, (meter if purpose is Purpose.METER else request).encode())


@pytest.fixture
def door(simulated_chip: SimulatedChip) -> Door:
    return Door(simulated_chip)


def test_evidence_for_this_challenge_gets_key_and_meter(door: Door) -> None:
    for purpose, kind in ((Purpose.RELEASE, Grant), (Purpose.METER, Metered)):
        asked = door.challenge(purpose)
        assert asked is not None
        assert isinstance(door.show(purpose, asked.nonce), kind)
    assert door.facts.accepted


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": bytes(32)},
        {"job": bytes(32)},
        {"rank": 1, "ranks": 2},
        {"launch": bytes(32)},
        {"verifier": bytes(32)},
        {"generation": 2},
        {"image": b"\x22" * 48},
    ],
    ids="-".join,
)
def test_other_evidence_gets_neither_and_is_not_accepted(door: Door, changes: dict) -> None:
    for purpose in Purpose.RELEASE, Purpose.METER:
        asked = door.challenge(purpose)
        assert asked is not None
        assert door.show(purpose, **({"nonce": asked.nonce} | changes)) is None
    assert not door.facts.accepted


def test_evidence_of_another_root_is_an_error(door: Door) -> None:
    door.endorsements = tuple(
        dataclasses.replace(each, content=each.content[:-1] + bytes([each.content[-1] ^ 1]))
        if each.kind == "vcek"
        else each
        for each in door.endorsements
    )
    asked = door.challenge(Purpose.RELEASE)
    assert asked is not None
    with pytest.raises(EvidenceSignatureError):
        door.show(Purpose.RELEASE, asked.nonce)
    assert not door.facts.accepted


def test_one_purpose_alone_is_half_a_proof(door: Door) -> None:
    asked = door.challenge(Purpose.RELEASE)
    assert asked is not None
    door.show(Purpose.RELEASE, asked.nonce)
    assert not door.facts.accepted


def test_an_enclave_that_greets_for_ever_is_challenged_a_few_times(door: Door) -> None:
    answers = [door.challenge(Purpose.RELEASE) for _ in range(CHALLENGES_MAX + 3)]
    nonces = [each.nonce for each in answers if each is not None]
    assert len(nonces) == len(set(nonces)) == CHALLENGES_MAX
    assert answers[CHALLENGES_MAX:] == [None] * 3
