"""The session against the custodians' real decision (trust/release.py), with real evidence."""

from __future__ import annotations

import secrets

from enclave_runtime.actions import (
    Closed,
    Committed,
    GotKeys,
    Ignored,
    NeedEvidence,
    OutputsGranted,
    Send,
    Stopping,
)
from enclave_runtime.briefing import check_briefing
from enclave_runtime.session import TICK_MS, Session
from enclave_runtime.vault import Vault
from tests.trust import release_world as custodians
from tests.trust.release_world import IMAGE, NOW, Enclave, Party
from trust.artifacts import ArtifactKind
from trust.encoding import digest
from trust.messages import (
    Acknowledgement,
    Briefing,
    Challenge,
    CheckpointReport,
    End,
    Endorsement,
    FollowUp,
    Hello,
    LogHead,
    Metered,
    MeterRequest,
    Receipt,
    ReceiptPosted,
    Refused,
    ReleaseRequest,
    ScopeKind,
    SignedMessage,
    Statement,
    parse_message,
    signed_label,
)
from trust.release import (
    Decision,
    FollowUpAsked,
    ReceiptHeard,
    Refusal,
    ReleaseAsked,
    ReportHeard,
)


class Bench:
    """One enclave of one generation, between a real owner and a real buyer."""

    def __init__(self, world: custodians.World, generation: int = 1) -> None:
        self.world, self.generation, self.clock = world, generation, 0
        self.enclave, self.vault = Enclave(), Vault()
        self.launch = world.launch(generation)
        order = world.order(generation)
        self.endorsements = tuple(
            Endorsement(kind=kind, content=content)
            for kind, content in custodians.chip().endorsements()
        )
        briefing = Briefing(
            job=world.job.encode(),
            order=order.encode(),
            terms=world.terms.encode(),
            manifests=world.manifests,
            checkpoints=tuple(each.encode() for each in getattr(world, "made", [])),
            endorsements=self.endorsements,
        )
        self.session = Session(
            check_briefing(self.launch, briefing),
            hpke_key=self.enclave.hpke,
            signing_key=self.enclave.party,
            vault=self.vault,
            compute_class="cpu",
            same_class=True,
        )
        self.parties = {each.key.identity: each for each in (world.owner, world.buyer)}
        self.refusals: list[Refusal] = []
        self.receipts: list[Receipt] = []

    def follow(self, actions: list) -> list:
        done, todo = [], list(actions)
        while todo:
            action = todo.pop(0)
            done.append(action)
            match action:
                case Send(peer=peer, payload=payload):
                    for answer in self._deliver(peer, payload):
                        todo += self.session.receive(peer, answer, self.clock)
                case NeedEvidence(statement=statement):
                    todo += self.session.evidence_ready(
                        statement,
                        platform="sev-snp",
                        report=self._report(statement),
                        clock_ms=self.clock,
                    )
        assert not [a.reason for a in done if isinstance(a, Ignored)]
        return done

    def _report(self, statement: Statement) -> bytes:
        return custodians.chip().report(
            report_data=statement.report_data,
            host_data=digest(self.launch.encode()),
            measurement=IMAGE,
        )

    def _deliver(self, peer: bytes, payload: bytes) -> list[bytes]:
        message = parse_message(payload)
        if peer == self.launch.market:
            return self._market(message)
        party = self.parties[peer]
        match message:
            case Hello():
                nonce = party.challenge(purpose=message.purpose)
                challenge = Challenge(verifier=peer, purpose=message.purpose, nonce=nonce)
                return [challenge.encode()]
            case ReleaseRequest():
                orders = tuple(each.encode() for each in self.world.orders)
                return self._answer(party, ReleaseAsked(request=message, orders=orders))
            case SignedMessage(signed=signed):
                kinds = {
                    FollowUp.LABEL: lambda: FollowUpAsked(signed=signed),
                    CheckpointReport.LABEL: lambda: ReportHeard(signed=signed, segments_held=True),
                    Receipt.LABEL: lambda: ReceiptHeard(signed=signed, at=NOW),
                }
                return self._answer(party, kinds[signed_label(signed)]())
        return []

    def _answer(self, party: Party, request) -> list[bytes]:
        result = party.ask(request)
        if isinstance(result, Refusal):
            self.refusals.append(result)
            nonce = secrets.token_bytes(32)
            if isinstance(request, FollowUpAsked):
                nonce = party.memory.seats[self.session_name].statement.nonce
            elif isinstance(request, ReleaseAsked):
                nonce = custodians.Statement.parse(
                    custodians.EvidenceBundle.parse(request.request.evidence).statement
                ).nonce
            return [
                Refused(
                    verifier=party.key.identity, nonce=nonce, code=result.code, text=result.text
                ).encode()
            ]
        assert isinstance(result, Decision)
        answers = [] if result.answer is None else [result.answer]
        if result.acknowledge is not None:
            answers.append(self._acknowledgement(party, result.acknowledge))
        return answers

    @property
    def session_name(self) -> tuple[bytes, int, int]:
        return self.world.job.digest, self.generation, 0

    def _acknowledgement(self, party: Party, report: bytes) -> bytes:
        head = LogHead(
            custodian=party.key.identity,
            incarnation=1,
            entries=len(party.entries),
            chain=party.entries[-1].digest,
            at=NOW,
        )
        ack = Acknowledgement(
            custodian=party.key.identity, report=report, head=party.key.sign(head).encode()
        )
        return SignedMessage(signed=party.key.sign(ack).encode()).encode()

    def _market(self, message) -> list[bytes]:
        match message:
            case Hello():
                nonce = secrets.token_bytes(32)
                return [
                    Challenge(
                        verifier=self.launch.market, purpose=message.purpose, nonce=nonce
                    ).encode()
                ]
            case MeterRequest():
                bundle = custodians.EvidenceBundle.parse(message.evidence)
                statement = Statement.parse(bundle.statement)
                return [Metered(signing_key=statement.signing_key, nonce=statement.nonce).encode()]
            case SignedMessage(signed=signed):
                receipt = custodians_receipt(signed)
                self.receipts.append(receipt)
                return [ReceiptPosted(receipt=receipt.digest).encode()]
        return []

    # --- a run -----------------------------------------------------------------------------------

    def start(self) -> GotKeys:
        actions = self.follow(self.session.start(self.clock))
        assert self.refusals == []
        (got,) = [a for a in actions if isinstance(a, GotKeys)]
        self.follow(self.session.begun(same_class=True, clock_ms=self.clock))
        return got

    def run_to(self, last: int) -> list:
        actions = []
        job = self.world.job.document
        for step in range(self.session.step + 1, last + 1):
            actions += self.follow(self.session.stepped(step, self.clock))
            if step % job.checkpoint_steps == 0:
                made = self.world.derived(
                    self.enclave.party, ArtifactKind.CHECKPOINT, self.generation
                )
                self.world.made = [made]
                actions += self.follow(self.session.checkpoint_stored(step, made, self.clock))
        return actions


def custodians_receipt(signed: bytes) -> Receipt:
    from trust.identity import verify_signed

    return verify_signed(Receipt, signed, signer=None).document


def test_a_whole_run_with_real_custodians() -> None:
    """Grants, allowances, reports, reopened outputs, accounts, receipts: none is refused."""
    world = custodians.World()
    bench = Bench(world)
    assert bench.start().at is None
    steps = world.job.document.steps
    actions = bench.run_to(steps)
    assert not [a for a in actions if isinstance(a, Stopping)]
    committed = [a.step for a in actions if isinstance(a, Committed)]
    interval = world.job.document.checkpoint_steps
    assert committed == list(range(interval, steps + 1, interval))
    bench.clock += TICK_MS
    bench.follow(bench.session.tick(bench.clock))
    adapter = world.derived(bench.enclave.party, ArtifactKind.ADAPTER)
    actions = bench.follow(bench.session.outputs_stored([adapter], bench.clock))
    assert OutputsGranted() in actions
    bench.vault.key(ScopeKind.DERIVED, adapter.document.core)
    actions = bench.follow(bench.session.reopened(bench.clock))
    assert Closed(end=End.DONE) in actions
    assert bench.refusals == []
    assert bench.receipts[-1].outputs == (adapter.digest,)
    for each in bench.parties.values():
        assert each.memory.seats[bench.session_name].closed


def test_the_second_generation_starts_from_what_both_custodians_state() -> None:
    world = custodians.World()
    first = Bench(world)
    first.start()
    interval = world.job.document.checkpoint_steps
    first.run_to(2 * interval)
    second = Bench(world, generation=2)
    got = second.start()
    assert (got.at.generation, got.at.step) == (1, 2 * interval)
    assert got.at.artifact == world.made[0].digest
    second.vault.key(ScopeKind.DERIVED, got.manifest.core)
    second.run_to(3 * interval)
    assert second.refusals == []
    assert second.receipts[-1].first_step == 2 * interval
