"""The session among real keys: what is believed, what is refused, when it waits and how it ends."""

from __future__ import annotations

import dataclasses
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave_runtime.actions import (
    Closed,
    Committed,
    GotKeys,
    Ignored,
    MayRun,
    NeedEvidence,
    NeedManifest,
    OutputsGranted,
    Send,
    Stopping,
    Waiting,
)
from enclave_runtime.questions import RESEND_MS_FIRST, WAIT_MS_MAX, WAIT_TOLD_MS
from enclave_runtime.session import CLOSING_MS_MAX, GREETINGS_MAX, TICK_MS
from enclave_runtime.states import RunState, VerifierState
from tests.enclave_runtime.fakes import RECIPE, FakeAttester, Table, World, of
from trust.artifacts import ArtifactKind
from trust.errors import SessionError
from trust.identity import PartyKey, verify_signed
from trust.messages import (
    Allowance,
    Challenge,
    CheckpointAt,
    CheckpointReport,
    End,
    FollowUp,
    FollowUpKind,
    Grant,
    Hello,
    Metered,
    MeterRequest,
    Purpose,
    Receipt,
    ReceiptPosted,
    Refused,
    ReleaseRequest,
    Scope,
    ScopeKind,
    SignedMessage,
    parse_message,
    signed_label,
)


@pytest.fixture
def table() -> Table:
    return Table(World())


def running(table: Table) -> Table:
    table.start()
    table.begin()
    return table


def sent(kind: type, actions: list) -> list:
    """Signed documents of this kind among the sent messages."""
    found = []
    for action in of(Send, actions):
        message = parse_message(action.payload)
        if isinstance(message, SignedMessage) and signed_label(message.signed) == kind.LABEL:
            found.append(verify_signed(kind, message.signed, signer=None).document)
    return found


def snapshot(table: Table) -> tuple:
    session = table.session
    return (
        session.state,
        tuple(session.verifier_states.items()),
        session.account,
        len(table.vault),
        session._commits.newest,
        session._receipts.count,
        len(session._questions),
        tuple((v.number, v.nonce, v.bound) for v in session._verifiers()),
    )


# --- opening -------------------------------------------------------------------------------------


def test_keys_are_there_once_every_custodian_granted_and_the_market_meters(table: Table) -> None:
    actions = table.start()
    (got,) = of(GotKeys, actions)
    assert got.at is None
    assert set(table.session.verifier_states.values()) == {VerifierState.GRANTED}
    for manifest in table.world.inputs.values():
        core = manifest.document.core
        assert table.vault.missing(ScopeKind.INPUT, core) == ()


def test_one_evidence_for_each_relying_party_over_the_same_two_keys(table: Table) -> None:
    statements = [each.statement for each in of(NeedEvidence, table.start())]
    assert {s.purpose for s in statements} == {Purpose.RELEASE, Purpose.METER}
    assert len({s.verifier for s in statements}) == 3
    assert len({s.nonce for s in statements}) == 3
    assert len({(s.hpke_key, s.signing_key) for s in statements}) == 1
    assert {(s.job, s.lease, s.generation, s.rank) for s in statements} == {
        (table.world.job.digest, table.world.launch.lease, 1, 0)
    }
    assert {s.launch for s in statements} == {table.world.launch.digest}


def test_one_party_as_owner_and_buyer_grants_both_of_its_entries() -> None:
    table = Table(World(one_party=True))
    assert of(GotKeys, table.start())
    assert len(table.brokers) == 1


@pytest.mark.parametrize("missing", ["owner", "buyer", "market"])
def test_no_keys_while_one_verifier_is_silent(table: Table, missing: str) -> None:
    if missing == "market":
        table.market.receive = lambda payload: []
    else:
        getattr(table, missing).deaf_to = {Hello}
    assert not of(GotKeys, table.start())
    assert table.session.state is RunState.OPENING
    waiting = of(Waiting, table.tick(WAIT_TOLD_MS))
    assert [w.peer for w in waiting] == [getattr(table.world, missing).identity]
    assert waiting[0].what == "a challenge"
    assert not of(Waiting, table.tick(1))  # said once


def test_an_offline_broker_is_asked_again_and_the_run_goes_on_when_it_is_back(
    table: Table,
) -> None:
    table.buyer.deaf_to = {Hello}
    table.start()
    assert not of(Send, table.tick(RESEND_MS_FIRST - 1))
    table.buyer.deaf_to = set()
    assert of(GotKeys, table.tick(1))


def test_resends_become_rarer(table: Table) -> None:
    table.buyer.deaf_to = {Hello}
    table.start()
    times = [second for second in range(1, 400) if of(Send, table.tick(1000))]
    assert times == [5, 15, 35, 75, 135, 195, 255, 315, 375]


def test_a_wait_without_end_stops_the_run(table: Table) -> None:
    table.buyer.deaf_to = {Hello}
    table.start()
    (stop,) = of(Stopping, table.tick(WAIT_MS_MAX))
    assert stop.end is End.STOPPED
    assert table.world.buyer.identity.hex() in stop.text


@pytest.mark.parametrize("who", ["owner", "buyer"])
def test_a_seat_that_another_enclave_has_stops_the_run_so_that_it_goes_on_elsewhere(
    table: Table, who: str
) -> None:
    getattr(table, who).refuses = {ReleaseRequest: "seat-taken"}
    actions = table.start()
    (stop,) = of(Stopping, actions)
    assert (stop.end, stop.text) == (End.STOPPED, "seat-taken: no")
    assert not of(GotKeys, actions)


@pytest.mark.parametrize("who", ["owner", "buyer"])
def test_a_refusal_ends_the_run(table: Table, who: str) -> None:
    getattr(table, who).refuses = {ReleaseRequest: "job-expired"}
    actions = table.start()
    (stop,) = of(Stopping, actions)
    assert (stop.end, stop.text) == (End.REFUSED, "job-expired: no")
    assert not of(GotKeys, actions)


@pytest.mark.parametrize("code", ["nonce-unknown", "nonce-stale"])
def test_a_broker_that_forgot_its_nonce_is_greeted_again(table: Table, code: str) -> None:
    table.owner.refuses = {ReleaseRequest: code}
    real = table.owner.receive

    def once(payload: bytes) -> list[bytes]:
        answers = real(payload)
        if isinstance(parse_message(payload), ReleaseRequest):
            table.owner.refuses = {}
        return answers

    table.owner.receive = once
    assert of(GotKeys, table.start())
    assert len([h for h in table.owner.heard if isinstance(h, Hello)]) == 2


def test_a_broker_that_never_knows_its_nonce_is_not_greeted_for_ever(table: Table) -> None:
    table.owner.refuses = {ReleaseRequest: "nonce-unknown"}
    assert of(Stopping, table.start())[0].end is End.REFUSED
    assert len([h for h in table.owner.heard if isinstance(h, Hello)]) == GREETINGS_MAX


def test_a_stored_grant_under_the_first_nonce_is_taken_after_a_second_challenge(
    table: Table,
) -> None:
    """A seat gets its stored grant again: it names the nonce of the granted statement."""
    real, lost = table.owner.receive, []

    def losing(payload: bytes) -> list[bytes]:
        answers = real(payload)
        if isinstance(parse_message(payload), ReleaseRequest) and not lost:
            lost.append(answers[0])
            nonce = table.owner.statement.nonce
            return [
                Refused(
                    verifier=table.world.owner.identity,
                    nonce=nonce,
                    code="nonce-unknown",
                    text="",
                ).encode()
            ]
        return answers

    table.owner.receive = losing
    assert of(GotKeys, table.start())


# --- grants that are none ------------------------------------------------------------------------


def grants_nothing(table: Table, fragment: str) -> None:
    actions = table.start()
    assert not of(GotKeys, actions)
    assert fragment in " ".join(each.reason for each in of(Ignored, actions))
    owner = (table.world.owner.identity, Purpose.RELEASE)
    assert table.session.verifier_states[owner] is VerifierState.ASKED
    assert len(table.vault) <= 2  # the buyer's alone


def replaced(**changes):
    return lambda document: dataclasses.replace(document, **changes)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"custodian": bytes(32)}, "grant of custodian"),
        ({"nonce": bytes(32)}, "never stated"),
        ({"hpke_key": bytes(1216)}, "another HPKE key"),
        ({"job": bytes(32)}, "grant for job"),
        ({"generation": 2}, "generation 2"),
        ({"rank": 1}, "rank 1"),
        ({"number": 1}, "grant number 1"),
    ],
)
def test_a_grant_that_answers_another_question_is_none(
    table: Table, changes: dict, fragment: str
) -> None:
    table.owner.change_info = replaced(**changes)
    grants_nothing(table, fragment)


def test_a_grant_of_a_stranger_is_none(table: Table) -> None:
    table.owner.deaf_to = {ReleaseRequest}
    table.start()
    stranger = table.owner
    stranger.signer = PartyKey.generate()
    request = next(
        a.payload
        for a in of(Send, table.actions)
        if isinstance(parse_message(a.payload), ReleaseRequest)
        and a.peer == table.world.owner.identity
    )
    stranger.deaf_to = set()
    (grant,) = stranger.receive(request)
    before = snapshot(table)
    for peer in (stranger.signer.identity, table.world.owner.identity, table.world.market.identity):
        (ignored,) = table.session.receive(peer, grant, 0)
        assert isinstance(ignored, Ignored)
    assert snapshot(table) == before


def test_a_grant_signed_by_another_key_is_none(table: Table) -> None:
    table.owner.signer = PartyKey.generate()
    grants_nothing(table, "no good signature")


def test_a_grant_sealed_under_another_info_is_none(table: Table) -> None:
    table.owner.seal_info = replaced(rank=1)
    grants_nothing(table, "does not open")


def test_a_custodian_cannot_pass_on_another_ones_sealed_shares(table: Table) -> None:
    """attacks.md, A4: signing somebody else's sealed bytes as one's own opens nothing."""
    table.owner.deaf_to = table.buyer.deaf_to = {ReleaseRequest}
    table.start()
    table.buyer.deaf_to = set()
    requests = {
        a.peer: a.payload
        for a in of(Send, table.actions)
        if isinstance(parse_message(a.payload), ReleaseRequest)
    }
    theirs = Grant.parse(table.buyer.receive(requests[table.world.buyer.identity])[0])
    table.owner.deaf_to = set()
    own = Grant.parse(table.owner.receive(requests[table.world.owner.identity])[0])
    from trust.encoding import digest
    from trust.messages import GrantInfo, GrantSigned

    covered = GrantSigned(info=GrantInfo.parse(own.info).digest, sealed=digest(theirs.sealed))
    signature = table.world.owner.sign(covered).signature
    stolen = Grant(info=own.info, sealed=theirs.sealed, signature=signature)
    (ignored,) = table.session.receive(table.world.owner.identity, stolen.encode(), 0)
    assert "does not open" in ignored.reason


def test_a_grant_without_its_output_share_is_none(table: Table) -> None:
    table.owner.change_info = lambda info: dataclasses.replace(
        info, scopes=tuple(s for s in info.scopes if s.scope is not ScopeKind.OUTPUT)
    )
    grants_nothing(table, "without 1 of the scopes")


def test_a_grant_with_a_scope_that_nobody_asked_for_is_none(table: Table) -> None:
    extra = Scope(scope=ScopeKind.DERIVED, lineage=bytes(33), epoch=1, core=bytes(32))
    table.owner.change_info = lambda info: dataclasses.replace(info, scopes=(*info.scopes, extra))
    grants_nothing(table, "nobody asked for")


def test_a_grant_with_a_scope_twice_is_none(table: Table) -> None:
    table.owner.change_info = lambda info: dataclasses.replace(
        info, scopes=(*info.scopes, info.scopes[0])
    )
    grants_nothing(table, "stands twice")


def test_a_grant_with_fewer_shares_than_scopes_is_none(table: Table) -> None:
    table.owner.change_secret = lambda s: dataclasses.replace(s, shares=s.shares[:-1])
    grants_nothing(table, "1 shares for 2 scopes")


def test_a_grant_under_other_terms_is_none(table: Table) -> None:
    table.owner.change_secret = replaced(terms=bytes(32))
    grants_nothing(table, "grant under terms")


def test_a_host_that_names_another_key_to_the_market_opens_nothing(table: Table) -> None:
    real = table.market.receive

    def lying(payload: bytes) -> list[bytes]:
        answers = real(payload)
        if isinstance(parse_message(payload), MeterRequest):
            nonce = Metered.parse(answers[0]).nonce
            return [Metered(signing_key=bytes(32), nonce=nonce).encode()]
        return answers

    table.market.receive = lying
    actions = table.start()
    assert not of(GotKeys, actions)
    assert "another key or nonce" in of(Ignored, actions)[0].reason


def test_evidence_for_a_statement_that_was_not_asked_for_is_an_error(table: Table) -> None:
    table.owner.deaf_to = {ReleaseRequest}
    hello = table.session.start(0)
    owner = next(a for a in hello if a.peer == table.world.owner.identity)
    (challenge,) = table.owner.receive(owner.payload)
    (need,) = table.session.receive(table.world.owner.identity, challenge, 0)
    other = dataclasses.replace(need.statement, nonce=bytes(32))
    with pytest.raises(SessionError, match="not the newest"):
        table.session.evidence_ready(other, platform="sev-snp", report=b"r", clock_ms=0)


# --- random hosts --------------------------------------------------------------------------------


HOSTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1 << 16), st.integers(0, 7)), max_size=60
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(silent=st.sampled_from(["owner", "buyer", "market"]), script=HOSTS)
def test_no_order_of_messages_opens_without_every_custodian(
    silent: str, script: list[tuple[int, int, int]]
) -> None:
    """The host drops, repeats, reorders and mislabels as it likes; one verifier grants nothing."""
    table = Table(World())
    pool: list[tuple[bytes, bytes]] = []
    names = {getattr(table.world, n).identity: n for n in ("owner", "buyer", "market")}

    def take(actions: list) -> None:
        for action in actions:
            match action:
                case Send(peer=peer, payload=payload):
                    message = parse_message(payload)
                    if names[peer] == silent and not isinstance(message, Hello):
                        continue  # it challenges, and grants nothing
                    pool.extend((peer, a) for a in table.party(peer).receive(payload))
                case NeedEvidence(statement=statement):
                    report = FakeAttester().report(statement.report_data)
                    take(
                        table.session.evidence_ready(
                            statement, platform="sev-snp", report=report, clock_ms=table.clock
                        )
                    )
                case GotKeys():
                    pytest.fail("keys without every verifier")

    take(table.session.start(0))
    for what, which, label in script:
        if what == 0:
            table.clock += 1000 * (which % 20)
            take(table.session.tick(table.clock))
        elif pool:
            peer, payload = pool[which % len(pool)]
            if label < len(names):
                peer = sorted(names)[label]
            take(table.session.receive(peer, payload, table.clock))
    states = table.session.verifier_states
    key = next(k for k in states if names[k[0]] == silent)
    assert states[key] is not VerifierState.GRANTED
    assert table.session.state is not RunState.RUNNING


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps_taken=st.integers(1, 4), replays=st.lists(st.integers(0, 1 << 16), max_size=20))
def test_a_replayed_message_changes_nothing(steps_taken: int, replays: list[int]) -> None:
    table = Table(World())
    table.owner.allowances = [Allowance(tokens=None, steps=s, reports=None) for s in (4, 8, 12)]
    running(table)
    table.step_to(steps_taken)
    table.checkpoint(2)
    table.tick(TICK_MS)
    for which in replays:
        peer, payload = table.log[which % len(table.log)]
        before = snapshot(table)
        actions = table.session.receive(peer, payload, table.clock)
        assert all(isinstance(a, Ignored) for a in actions), actions
        assert snapshot(table) == before


@given(payload=st.binary(max_size=200), peer=st.binary(min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_noise_is_ignored(payload: bytes, peer: bytes) -> None:
    table = Table(World())
    for state in ("before", "after"):
        before = snapshot(table)
        (ignored,) = table.session.receive(peer, payload, 0)
        assert isinstance(ignored, Ignored), state
        assert snapshot(table) == before
        table.start()


def test_a_cut_message_is_ignored(table: Table) -> None:
    table.start()
    for peer, payload in table.log:
        (ignored,) = table.session.receive(peer, payload[:-1], 0)
        assert isinstance(ignored, Ignored)


def test_a_challenge_after_the_grant_asks_for_no_evidence(table: Table) -> None:
    table.start()
    late = Challenge(
        verifier=table.world.owner.identity, purpose=Purpose.RELEASE, nonce=os.urandom(32)
    )
    (ignored,) = table.session.receive(table.world.owner.identity, late.encode(), 0)
    assert "challenge while release is granted" in ignored.reason


def test_a_challenge_of_another_purpose_is_ignored(table: Table) -> None:
    table.session.start(0)
    owner = table.world.owner.identity
    meter = Challenge(verifier=owner, purpose=Purpose.METER, nonce=os.urandom(32))
    (ignored,) = table.session.receive(owner, meter.encode(), 0)
    assert "no meter verifier" in ignored.reason


# --- which checkpoint ----------------------------------------------------------------------------


def resumed(*, generation: int = 3) -> Table:
    return Table(World(generation=generation))


def test_the_run_starts_from_the_stated_checkpoint() -> None:
    world = World(generation=2)
    at = world.make_checkpoint(generation=1, step=4, content=b"state")
    table = Table(world)
    table.owner.stated = table.buyer.stated = at
    (got,) = of(GotKeys, table.start())
    assert got.at == at
    assert got.manifest.digest == at.artifact
    assert not [h for h in table.owner.heard if isinstance(h, FollowUp)]


def test_the_newer_of_two_stated_checkpoints_counts_and_the_other_custodian_is_asked() -> None:
    world = World(generation=3)
    older = world.make_checkpoint(generation=1, step=8, content=b"older")
    newer = world.make_checkpoint(generation=2, step=6, content=b"newer")
    table = Table(world)
    table.owner.stated, table.buyer.stated = older, newer
    (got,) = of(GotKeys, table.start())
    assert got.at == newer  # by generation first, then by step
    (asked,) = [h for h in table.owner.heard if isinstance(h, FollowUp)]
    assert asked.kind is FollowUpKind.SHARE
    assert not [h for h in table.buyer.heard if isinstance(h, FollowUp)]
    table.vault.key(ScopeKind.DERIVED, got.manifest.core)


def test_a_custodian_that_states_none_is_asked_for_the_others() -> None:
    world = World(generation=2)
    at = world.make_checkpoint(generation=1, step=4, content=b"state")
    table = Table(world)
    table.buyer.stated = at
    (got,) = of(GotKeys, table.start())
    assert got.at == at
    assert [h.kind for h in table.owner.heard if isinstance(h, FollowUp)] == [FollowUpKind.SHARE]


@pytest.mark.parametrize("step", [2, 8])
def test_a_rolled_back_or_newer_checkpoint_of_the_host_is_not_started_from(step: int) -> None:
    """The host offers another manifest than the stated one: it is looked up by id, and absent."""
    world = World(generation=2)
    stated = world.make_checkpoint(generation=1, step=4, content=b"state", offered=False)
    offered = world.make_checkpoint(generation=1, step=step, content=b"other")
    table = Table(world)
    table.owner.stated = table.buyer.stated = stated
    actions = table.start()
    assert not of(GotKeys, actions)
    assert of(NeedManifest, actions) == [NeedManifest(artifact=stated.artifact)]
    other = next(m for m in world.checkpoints if m.digest == offered.artifact)
    (stop,) = of(Stopping, table.follow(table.session.manifest_ready(other.document, 0)))
    assert stop.end is End.FAILED
    assert "not of the checkpoint that the custodians state" in stop.text


def test_a_stated_checkpoint_is_taken_from_the_blob_store_where_the_host_offers_none() -> None:
    world = World(generation=2)
    at = world.make_checkpoint(generation=1, step=4, content=b"state", offered=False)
    table = Table(world)
    table.owner.stated = table.buyer.stated = at
    assert of(NeedManifest, table.start())
    from trust.artifacts import Manifest

    manifest = Manifest.parse(world.blobs[at.artifact])
    (got,) = of(GotKeys, table.follow(table.session.manifest_ready(manifest, 0)))
    assert got.at == at


def test_a_share_of_an_unsigned_manifest_is_not_asked_for() -> None:
    """A custodian opens what an enclave of its own log signed; the blob store has no signature."""
    from trust.artifacts import Manifest

    world = World(generation=2)
    at = world.make_checkpoint(generation=1, step=4, content=b"state", offered=False)
    table = Table(world)
    table.buyer.stated = at  # the owner states none, and gave no share of it
    table.start()
    manifest = Manifest.parse(world.blobs[at.artifact])
    (stop,) = of(Stopping, table.follow(table.session.manifest_ready(manifest, 0)))
    assert "no signed manifest" in stop.text


def test_a_checkpoint_of_another_job_is_refused() -> None:
    from trust.artifacts import Origin

    world = World(generation=2)
    at = world.make_checkpoint(
        generation=1, step=4, content=b"x", origin=Origin(job=bytes(32), generation=1)
    )
    table = Table(world)
    table.owner.stated = table.buyer.stated = at
    (stop,) = of(Stopping, table.start())
    assert "not of the checkpoint" in stop.text


def test_an_adapter_is_no_checkpoint_to_start_from() -> None:
    world = World(generation=2)
    at = world.make_checkpoint(generation=1, step=4, content=b"x", kind=ArtifactKind.ADAPTER)
    table = Table(world)
    table.owner.stated = table.buyer.stated = at
    assert of(Stopping, table.start())[0].end is End.FAILED


def test_a_checkpoint_of_this_or_a_later_generation_is_no_statement() -> None:
    world = World(generation=2)
    at = world.make_checkpoint(generation=2, step=4, content=b"x")
    table = Table(world)
    table.owner.stated = table.buyer.stated = at
    actions = table.start()
    assert not of(GotKeys, actions)
    assert "states a checkpoint of generation 2" in of(Ignored, actions)[0].reason


def test_two_checkpoints_of_one_order_are_a_fork() -> None:
    world = World(generation=2)
    table = Table(world)
    table.owner.stated = world.make_checkpoint(generation=1, step=4, content=b"a")
    table.buyer.stated = world.make_checkpoint(generation=1, step=4, content=b"b")
    (stop,) = of(Stopping, table.start())
    assert "two checkpoints" in stop.text


def test_a_custodian_that_refuses_the_checkpoints_share_ends_the_run() -> None:
    world = World(generation=2)
    at = world.make_checkpoint(generation=1, step=4, content=b"state")
    table = Table(world)
    table.buyer.stated = at
    table.owner.refuses = {FollowUpKind.SHARE: "checkpoint-older"}
    actions = table.start()
    assert not of(GotKeys, actions)
    assert of(Stopping, actions)[0].end is End.REFUSED


# --- committed checkpoints -----------------------------------------------------------------------


def test_a_checkpoint_is_committed_when_both_custodians_acknowledged_it(table: Table) -> None:
    running(table)
    table.step_to(2)
    table.buyer.deaf_to = {CheckpointReport}
    manifest, actions = table.checkpoint(2)
    assert not of(Committed, actions)
    table.buyer.deaf_to = set()
    actions = table.tick(RESEND_MS_FIRST)
    assert of(Committed, actions) == [Committed(step=2, artifact=manifest.digest)]
    assert sent(Receipt, actions)[-1].committed == manifest.digest


def test_reports_are_chained(table: Table) -> None:
    running(table)
    table.step_to(4)
    table.checkpoint(2)
    table.checkpoint(4)
    first, second = table.owner.reports
    assert first.before is None
    assert second.before == first.digest


def test_dropped_reports_stop_the_run_at_the_maximum_and_it_says_for_whom(table: Table) -> None:
    """attacks.md, 13: the host drops what the buyer should hear."""
    table.buyer.deaf_to = {CheckpointReport}
    table.start()
    assert of(MayRun, table.begin()) == [MayRun(until=4)]  # 2 checkpoints of 2 steps
    table.step_to(4)
    for step in (2, 4):
        assert not of(MayRun, table.checkpoint(step)[1])
    with pytest.raises(SessionError, match="allowed until 4"):
        table.session.stepped(5, 0)
    waiting = of(Waiting, table.tick(WAIT_TOLD_MS))
    assert {w.peer for w in waiting} == {table.world.buyer.identity}
    assert {w.what for w in waiting} == {
        f"the acknowledgement of the checkpoint at step {s}" for s in (2, 4)
    }
    table.buyer.deaf_to = set()
    actions = table.tick(60_000)
    assert of(MayRun, actions)[-1] == MayRun(until=8)


def test_an_acknowledgement_by_one_custodian_raises_nothing(table: Table) -> None:
    running(table)
    table.step_to(2)
    table.owner.deaf_to = {CheckpointReport}
    _manifest, actions = table.checkpoint(2)
    assert not of(MayRun, actions)


def test_an_acknowledgement_by_a_stranger_commits_nothing(table: Table) -> None:
    running(table)
    table.step_to(2)
    table.owner.signer = PartyKey.generate()
    _manifest, actions = table.checkpoint(2)
    assert not of(Committed, actions)
    assert of(Ignored, actions)


def test_an_acknowledgement_under_somebody_elses_log_head_commits_nothing(table: Table) -> None:
    from trust.messages import Acknowledgement, LogHead

    running(table)
    table.step_to(2)
    table.owner.deaf_to = {CheckpointReport}
    table.checkpoint(2)
    head = LogHead(
        custodian=table.world.buyer.identity, incarnation=1, entries=1, chain=bytes(32), at=1
    )
    ack = Acknowledgement(
        custodian=table.world.owner.identity,
        report=table.buyer.reports[0].digest,
        head=table.world.buyer.sign(head).encode(),
    )
    payload = SignedMessage(signed=table.world.owner.sign(ack).encode()).encode()
    (ignored,) = table.session.receive(table.world.owner.identity, payload, 0)
    assert "head is signed by" in ignored.reason


def test_one_custodians_acknowledgement_does_not_count_for_the_other(table: Table) -> None:
    running(table)
    table.step_to(2)
    table.owner.deaf_to = {CheckpointReport}
    table.checkpoint(2)
    ack = table.buyer.acknowledge(table.buyer.reports[0])
    (ignored,) = table.session.receive(table.world.owner.identity, ack, 0)
    assert "is signed by" in ignored.reason


def test_a_later_commit_settles_the_earlier_ones(table: Table) -> None:
    running(table)
    table.step_to(4)
    table.buyer.deaf_to = {CheckpointReport}
    table.checkpoint(2)
    table.buyer.deaf_to = set()
    _manifest, actions = table.checkpoint(4)
    assert [c.step for c in of(Committed, actions)] == [4]
    assert of(MayRun, actions) == [MayRun(until=8)]
    assert not sent(CheckpointReport, table.tick(RESEND_MS_FIRST))


# --- allowances ----------------------------------------------------------------------------------


def steps(*totals: int) -> list[Allowance]:
    return [Allowance(tokens=None, steps=total, reports=None) for total in totals]


def test_the_run_stops_where_the_allowance_ends_and_its_custodian_gives_no_more(
    table: Table,
) -> None:
    table.owner.allowances = steps(3)
    table.start()
    assert of(MayRun, table.begin()) == [MayRun(until=3)]
    actions = table.step_to(3)
    (stop,) = of(Stopping, actions)
    assert stop.end is End.OUT_OF_BUDGET
    assert table.world.owner.identity.hex() in stop.text
    assert sent(Receipt, actions)[-1].end is End.OUT_OF_BUDGET
    assert sent(Receipt, actions)[-1].outputs == ()


def test_more_is_asked_for_before_zero_with_a_cumulative_account(table: Table) -> None:
    table.owner.allowances = steps(4, 12)
    running(table)
    actions = table.step_to(2)
    (asked,) = [h for h in table.owner.heard if isinstance(h, FollowUp)]
    assert asked.kind is FollowUpKind.ACCOUNT
    assert (asked.number, asked.account.steps, asked.account.tokens) == (1, 2, 2 * 4 * 16)
    assert not of(Stopping, actions)
    assert (
        table.session._allowances.reach(table.session._custodians[table.world.owner.identity]) == 12
    )


def test_a_silent_custodian_makes_the_run_wait_at_zero(table: Table) -> None:
    table.owner.allowances = steps(3, 12)
    table.owner.deaf_to = {FollowUp}
    running(table)
    table.step_to(3)
    assert table.session.state is RunState.RUNNING
    waiting = of(Waiting, table.tick(WAIT_TOLD_MS))
    assert (table.world.owner.identity, "an answer to account") in {
        (w.peer, w.what) for w in waiting
    }
    table.owner.deaf_to = set()
    assert of(MayRun, table.tick(60_000)) == [MayRun(until=4)]


def test_enclave_whose_receipts_are_dropped_stops_at_its_allowance(table: Table) -> None:
    """attacks.md, 6: the host drops receipts and accounts, and keeps the machine up."""
    table.owner.allowances = steps(3, 12)
    table.owner.deaf_to = table.buyer.deaf_to = {Receipt, FollowUp}
    table.market.posts = False
    running(table)
    table.step_to(3)
    for _minute in range(600):
        assert not of(MayRun, table.tick(60_000))
    with pytest.raises(SessionError, match="allowed until 3"):
        table.session.stepped(4, table.clock)


def test_the_least_of_the_custodians_bounds_counts(table: Table) -> None:
    table.owner.allowances = steps(3)
    table.buyer.allowances = [Allowance(tokens=2 * 64, steps=9, reports=None)]
    table.start()
    assert of(MayRun, table.begin()) == [MayRun(until=2)]


def test_an_old_smaller_allowance_takes_nothing_back(table: Table) -> None:
    table.owner.allowances = steps(6, 3)
    running(table)
    table.checkpoint(2)
    assert not of(Stopping, table.step_to(3))
    assert table.session.state is RunState.RUNNING


def test_evaluations_are_counted_and_kept_back_from_the_tokens() -> None:
    from tests.enclave_runtime.fakes import EVALUATION

    recipe = dataclasses.replace(RECIPE, evaluation=EVALUATION)
    table = Table(World(recipe=recipe))
    both = 2 * 8 * (16 + 4)
    table.owner.allowances = [Allowance(tokens=both + 3 * 64, steps=None, reports=None)]
    table.start()
    assert of(MayRun, table.begin()) == [MayRun(until=3)]
    table.session.evaluated()
    assert table.session.account.tokens == 8 * 20


def test_too_few_tokens_for_the_evaluations_open_nothing() -> None:
    from tests.enclave_runtime.fakes import EVALUATION

    table = Table(World(recipe=dataclasses.replace(RECIPE, evaluation=EVALUATION)))
    table.owner.allowances = [Allowance(tokens=319, steps=None, reports=None)]
    actions = table.start()
    assert not of(GotKeys, actions)
    assert of(Stopping, actions)[0].end is End.OUT_OF_BUDGET


def test_a_refused_question_keeps_its_number_for_the_next(table: Table) -> None:
    """A refusal is no answer: the custodian counts answers, and wants the next number."""
    table.owner.allowances = steps(4)
    running(table)
    table.step_to(2)
    table.step_to(4)
    numbers = [h.number for h in table.owner.heard if isinstance(h, FollowUp)]
    kinds = [h.kind for h in table.owner.heard if isinstance(h, FollowUp)]
    assert kinds[-1] is FollowUpKind.CLOSE
    assert set(numbers) == {1}


def test_a_number_that_was_answered_after_all_is_left_to_the_old_question(table: Table) -> None:
    """A copy of a refused question came late, and was answered then: its number is taken."""
    table.owner.allowances = steps(4)
    running(table)
    table.step_to(2)  # the account is refused as number 1
    table.owner.refuses = {FollowUpKind.SHARE: "follow-up-replayed"}
    real = table.owner.receive

    def once(payload: bytes) -> list[bytes]:
        answers = real(payload)
        if [h for h in table.owner.heard if getattr(h, "kind", None) is FollowUpKind.SHARE]:
            table.owner.refuses = {}
        return answers

    table.owner.receive = once
    actions = table.follow(table.session.outputs_stored([table.seal_adapter()], table.clock))
    shares = [h for h in table.owner.heard if getattr(h, "kind", None) is FollowUpKind.SHARE]
    assert [h.number for h in shares] == [1, 2]
    assert of(OutputsGranted, actions)


def test_a_refused_report_does_not_answer_an_account(table: Table) -> None:
    table.owner.allowances = steps(3, 12)
    table.owner.deaf_to = {FollowUp}
    running(table)
    table.step_to(3)
    refusal = Refused(
        verifier=table.world.owner.identity,
        nonce=table.owner.statement.nonce,
        code="report-step-not-above",
        text="",
    )
    (ignored,) = table.session.receive(table.world.owner.identity, refusal.encode(), 0)
    assert isinstance(ignored, Ignored)
    assert table.session.state is RunState.RUNNING


def test_reports_are_asked_for_before_they_run_out(table: Table) -> None:
    table.owner.allowances = [
        Allowance(tokens=None, steps=None, reports=4),
        Allowance(tokens=None, steps=None, reports=8),
    ]
    running(table)
    assert table.session.reports_left == 4
    table.follow(table.session.reported(3, 0))
    assert table.session.reports_left == 5
    assert table.session.account.reports == 3


# --- receipts ------------------------------------------------------------------------------------


def test_receipts_are_cumulative_and_chained_and_go_to_all_three(table: Table) -> None:
    running(table)
    table.step_to(2)
    table.checkpoint(2)
    table.tick(TICK_MS)
    receipts = table.market.receipts
    assert [r.number for r in receipts] == [1, 2, 3]
    assert receipts[0].before is None
    assert [r.before for r in receipts[1:]] == [r.digest for r in receipts[:-1]]
    assert receipts[-1].step == 2
    assert receipts[-1].first_step == 0
    assert receipts[-1].tokens == 2 * 4 * 16
    assert receipts[-1].milliseconds == TICK_MS
    assert receipts[-1].world_size == 2
    for broker in (table.owner, table.buyer):
        assert [h for h in broker.heard if isinstance(h, Receipt)] == receipts


def test_one_receipt_each_tick(table: Table) -> None:
    running(table)
    before = len(table.market.receipts)
    for _second in range(180):
        table.tick(1000)
    assert len(table.market.receipts) - before == 3


def test_a_resumed_run_counts_from_its_own_first_step() -> None:
    world = World(generation=2)
    at = world.make_checkpoint(generation=1, step=4, content=b"state")
    table = Table(world)
    table.owner.stated = table.buyer.stated = at
    running(table)
    table.step_to(6)
    table.tick(TICK_MS)
    last = table.market.receipts[-1]
    assert (last.first_step, last.step, last.tokens) == (4, 6, 2 * 64)
    assert last.committed == at.artifact


def test_milliseconds_begin_with_the_shares(table: Table) -> None:
    """Waiting for a broker is never paid time."""
    table.buyer.deaf_to = {Hello}
    table.start()
    table.tick(50_000)
    table.buyer.deaf_to = set()
    table.tick(10_000)
    table.begin()
    assert table.market.receipts[0].milliseconds == 0


def test_a_receipt_that_is_not_posted_is_sent_again(table: Table) -> None:
    table.start()
    table.market.posts = False
    table.begin()
    assert len(table.market.receipts) == 1
    table.tick(RESEND_MS_FIRST)
    assert len(table.market.receipts) == 2
    assert table.market.receipts[0] == table.market.receipts[1]
    foreign = ReceiptPosted(receipt=bytes(32))
    (ignored,) = table.session.receive(table.world.market.identity, foreign.encode(), 0)
    assert "not the newest" in ignored.reason


# --- the end -------------------------------------------------------------------------------------


def finished(table: Table) -> tuple[list, object]:
    running(table)
    for step in range(2, 13, 2):
        table.step_to(step)
        table.checkpoint(step)
    adapter = table.seal_adapter()
    return table.follow(table.session.outputs_stored([adapter], table.clock)), adapter


def test_outputs_are_asked_for_again_before_the_last_receipt(table: Table) -> None:
    actions, adapter = finished(table)
    assert of(OutputsGranted, actions) == [OutputsGranted()]
    assert all(r.end is None for r in table.market.receipts)
    table.vault.key(ScopeKind.DERIVED, adapter.document.core)
    actions = table.follow(table.session.reopened(table.clock))
    last = table.market.receipts[-1]
    assert (last.end, last.outputs, last.step) == (End.DONE, (adapter.digest,), 12)
    assert of(Closed, actions) == [Closed(end=End.DONE)]
    for broker in (table.owner, table.buyer):
        asked = [h for h in broker.heard if isinstance(h, FollowUp)]
        assert [a.kind for a in asked] == [FollowUpKind.SHARE, FollowUpKind.CLOSE]
        assert [a.number for a in asked] == [1, 2]
        assert asked[-1].account.steps == 12


def test_a_custodian_that_refuses_to_reopen_ends_the_job_unpaid(table: Table) -> None:
    table.owner.refuses = {FollowUpKind.SHARE: "no-more"}
    actions, _adapter = finished(table)
    (stop,) = of(Stopping, actions)
    assert stop.end is End.FAILED
    actions += table.tick(TICK_MS)
    assert End.DONE not in {r.end for r in table.market.receipts}
    assert table.market.receipts[-1].end is End.FAILED


def test_a_failure_among_secrets_shows_at_the_next_tick_alone(table: Table) -> None:
    """attacks.md, 10: the moment of a crash would tell what the rows hold."""
    running(table)
    table.tick(1000)
    table.step_to(1)
    actions = table.follow(table.session.end(End.FAILED, "line 3", table.clock))
    assert of(Stopping, actions)
    assert not of(Send, actions)
    assert not of(Send, table.tick(TICK_MS - 1001))
    actions = table.tick(1)
    assert sent(Receipt, actions)[-1].end is End.FAILED
    assert of(Closed, actions)


def test_closing_waits_for_the_market_and_not_for_ever(table: Table) -> None:
    table.start()
    table.market.posts = False
    table.begin()
    actions = table.follow(table.session.end(End.STOPPED, "why", table.clock))
    assert not of(Closed, actions)
    assert not of(Closed, table.tick(CLOSING_MS_MAX - 1))
    assert of(Closed, table.tick(1)) == [Closed(end=End.STOPPED)]
    assert table.session.tick(table.clock + 1) == []


def test_the_closing_account_comes_after_a_follow_up_that_is_being_asked(table: Table) -> None:
    table.owner.allowances = steps(3, 12)
    table.owner.deaf_to = {FollowUp}
    running(table)
    table.step_to(3)
    table.follow(table.session.end(End.STOPPED, "why", table.clock))
    table.owner.deaf_to = set()
    actions = table.tick(60_000)
    asked = [h for h in table.owner.heard if isinstance(h, FollowUp)]
    assert [(a.kind, a.number) for a in asked] == [
        (FollowUpKind.ACCOUNT, 1),
        (FollowUpKind.CLOSE, 2),
    ]
    assert of(Closed, actions)


def test_a_challenge_after_the_end_asks_for_no_evidence(table: Table) -> None:
    table.owner.refuses = {ReleaseRequest: "no-job"}
    table.buyer.deaf_to = {Hello}
    table.start()
    challenge = Challenge(
        verifier=table.world.buyer.identity, purpose=Purpose.RELEASE, nonce=os.urandom(32)
    )
    (ignored,) = table.session.receive(table.world.buyer.identity, challenge.encode(), 0)
    assert "nothing is opened any more" in ignored.reason


def test_an_old_challenge_is_not_answered_twice(table: Table) -> None:
    """After a refusal of its nonce, the host repeats the challenge that was refused."""
    table.owner.refuses = {ReleaseRequest: "nonce-unknown"}
    real, challenges = table.owner.receive, []

    def silent_after_one(payload: bytes) -> list[bytes]:
        if isinstance(parse_message(payload), Hello) and challenges:
            return []
        answers = real(payload)
        challenges.extend(a for a in answers if a.startswith(b"blindhost/v1/session/challenge"))
        return answers

    table.owner.receive = silent_after_one
    table.start()
    (ignored,) = table.session.receive(table.world.owner.identity, challenges[0], 0)
    assert "answered before" in ignored.reason


def test_nothing_is_opened_after_the_end(table: Table) -> None:
    table.owner.refuses = {ReleaseRequest: "no-job"}
    table.buyer.deaf_to = {ReleaseRequest}
    table.start()
    table.buyer.deaf_to = set()
    request = [
        a.payload
        for a in of(Send, table.actions)
        if a.peer == table.world.buyer.identity
        and isinstance(parse_message(a.payload), ReleaseRequest)
    ]
    (grant,) = table.buyer.receive(request[-1])
    held = len(table.vault)
    (ignored,) = table.session.receive(table.world.buyer.identity, grant, 0)
    assert isinstance(ignored, Ignored)
    assert len(table.vault) == held


def test_steps_after_the_end_count_nothing(table: Table) -> None:
    running(table)
    table.follow(table.session.end(End.STOPPED, "why", table.clock))
    assert table.session.stepped(1, table.clock) == []
    assert table.session.account.steps == 0


def test_a_checkpoint_statement_says_which_is_newer() -> None:
    older = CheckpointAt(generation=1, step=9, artifact=bytes(32))
    newer = CheckpointAt(generation=2, step=1, artifact=bytes(32))
    assert newer.order > older.order
