"""Who believes a receipt (attacks.md, 12): every step over the socket, under a real report format.

The enclave here speaks through its agent; evidence is a simulated chip's, under a root that the
operator's policy names.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets

import pytest

from marketplace import wire
from marketplace.sweep import end_orders, sweep_once
from tests.marketplace.api.rig import IMAGE, Enclave, Rig, key16, refused, root
from tests.marketplace.world import (
    BUYER,
    CREDIT,
    HOST,
    HOST_2,
    HOUR,
    MARKET,
    NOW,
    OWNER,
    STRANGER,
)
from trust.artifacts import Manifest
from trust.identity import PartyKey, verify_signed
from trust.jobs import Dispute
from trust.messages import (
    EvidenceBundle,
    Metered,
    Purpose,
    Receipt,
    ReceiptPosted,
    Refused,
    SignedMessage,
)
from trust.simulated import SimulatedRoot
from trust.verifier.policy import simulated_policy

State = wire.LeaseState


async def starting(rig: Rig) -> Enclave:
    """An enclave that has been launched, and has not been challenged."""
    rig.home.save_policy(simulated_policy(root().fingerprint, [IMAGE]))
    job = await rig.submitted()
    lease = await rig.claimed(job)
    await rig.ordered(job, lease)
    return await Enclave.start(rig, job, lease, HOST)


async def refused_with(enclave: Enclave, code: str, nonce: bytes) -> None:
    answer = await enclave.answer()
    assert isinstance(answer, Refused), answer
    assert (answer.verifier, answer.nonce, answer.code) == (MARKET.identity, nonce, code)
    view = await enclave.rig.api(enclave.host).get_lease(enclave.lease)
    assert view.ready_at is None
    assert view.state is not State.READY


# --- evidence ------------------------------------------------------------------------------------


async def test_evidence_for_the_markets_own_challenge_starts_the_meter(rig: Rig) -> None:
    enclave = await starting(rig)
    challenge = await enclave.challenge()
    statement = enclave.statement(challenge.nonce)
    await enclave.post(enclave.request(statement).encode())
    answer = await enclave.answer()
    assert answer == Metered(signing_key=enclave.signing.identity, nonce=challenge.nonce)
    view = await rig.api(HOST).get_lease(enclave.lease)
    assert (view.state, view.ready_at) == (State.READY, NOW)
    assert (await rig.api(BUYER).get_job(enclave.job.digest)).state is wire.JobState.RUNNING


async def test_same_evidence_again_is_refused_as_stale(rig: Rig) -> None:
    enclave = await starting(rig)
    challenge = await enclave.challenge()
    request = enclave.request(enclave.statement(challenge.nonce)).encode()
    await enclave.post(request)
    assert isinstance(await enclave.answer(), Metered)
    await enclave.post(request)
    answer = await enclave.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "nonce-unknown"


async def test_nonce_that_nobody_issued_or_that_is_old_is_refused(rig: Rig) -> None:
    enclave = await starting(rig)
    await enclave.post(enclave.request(enclave.statement(bytes(32))).encode())
    await refused_with(enclave, "nonce-unknown", bytes(32))
    challenge = await enclave.challenge()
    rig.time[0] += 121_000
    await enclave.post(enclave.request(enclave.statement(challenge.nonce)).encode())
    await refused_with(enclave, "nonce-stale", challenge.nonce)


async def test_nonce_is_used_up_by_evidence_that_fails(rig: Rig) -> None:
    enclave = await starting(rig)
    challenge = await enclave.challenge()
    good = enclave.statement(challenge.nonce)
    await enclave.post(enclave.request(good, image=bytes(48)).encode())
    await refused_with(enclave, "evidence-measurement", challenge.nonce)
    await enclave.post(enclave.request(good).encode())
    await refused_with(enclave, "nonce-unknown", challenge.nonce)


async def test_nonce_of_another_lease_is_refused(rig: Rig) -> None:
    first = await starting(rig)
    second = await starting(rig)
    challenge = await first.challenge()
    await second.post(second.request(second.statement(challenge.nonce)).encode())
    await refused_with(second, "nonce-unknown", challenge.nonce)


async def test_key_that_the_host_supplied_is_refused(rig: Rig) -> None:
    """▸ The host shows a statement with its own key over the chip's report of another (12 i)."""
    enclave = await starting(rig)
    challenge = await enclave.challenge()
    real = enclave.statement(challenge.nonce)
    forged = dataclasses.replace(real, signing_key=HOST.identity)
    await enclave.post(enclave.request(real, shown=forged).encode())
    await refused_with(enclave, "evidence-report-data", challenge.nonce)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"purpose": Purpose.RELEASE}, "wrong-purpose"),
        ({"verifier": OWNER.identity}, "wrong-purpose"),
        ({"job": bytes(32)}, "wrong-launch"),
        ({"generation": 2}, "wrong-launch"),
        ({"rank": 1}, "wrong-launch"),
        ({"ranks": 2}, "wrong-launch"),
        ({"launch": bytes(32)}, "wrong-launch"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_statement_for_another_purpose_party_or_seat_is_refused(
    rig: Rig, change: dict[str, object], code: str
) -> None:
    enclave = await starting(rig)
    challenge = await enclave.challenge()
    await enclave.post(enclave.request(enclave.statement(challenge.nonce, **change)).encode())
    await refused_with(enclave, code, challenge.nonce)


@pytest.mark.parametrize(
    "change",
    [{"job": bytes(32)}, {"generation": 2}, {"rank": 1, "ranks": 2}, {"ranks": 2}],
    ids=["job", "generation", "rank", "ranks"],
)
async def test_launch_document_of_another_seat_than_is_on_record_is_refused(
    rig: Rig, change: dict[str, object]
) -> None:
    """The host starts the image with a launch document of its own: statement and launch agree."""
    enclave = await starting(rig)
    enclave.launch = dataclasses.replace(enclave.launch, **change)
    challenge = await enclave.challenge()
    statement = enclave.statement(challenge.nonce, **change)
    await enclave.post(enclave.request(statement).encode())
    await refused_with(enclave, "wrong-seat", challenge.nonce)


async def test_launch_document_for_another_market_is_refused(rig: Rig) -> None:
    enclave = await starting(rig)
    enclave.launch = dataclasses.replace(enclave.launch, market=STRANGER.identity)
    challenge = await enclave.challenge()
    await enclave.post(enclave.request(enclave.statement(challenge.nonce)).encode())
    await refused_with(enclave, "wrong-launch", challenge.nonce)


async def test_launch_document_that_was_not_measured_is_refused(rig: Rig) -> None:
    enclave = await starting(rig)
    challenge = await enclave.challenge()
    statement = enclave.statement(challenge.nonce)
    other = dataclasses.replace(enclave.launch, generation=7)
    shown = enclave.request(statement)
    forged = enclave.request(statement, launch=other)
    bundle = type(forged)  # the report of `other`, beside the launch document of the statement
    mixed = dataclasses.replace(
        EvidenceBundle.parse(forged.evidence), launch=EvidenceBundle.parse(shown.evidence).launch
    )
    await enclave.post(bundle(evidence=mixed.encode()).encode())
    await refused_with(enclave, "evidence-host-data", challenge.nonce)


async def test_simulated_root_that_the_policy_does_not_name_is_refused(rig: Rig) -> None:
    enclave = await starting(rig)
    other = SimulatedRoot.create(chip_time()).issue_chip(bytes(64), chip_time())
    challenge = await enclave.challenge()
    await enclave.post(enclave.request(enclave.statement(challenge.nonce), by=other).encode())
    await refused_with(enclave, "evidence", challenge.nonce)


def chip_time():
    return dt.datetime.fromtimestamp(NOW / 1000, tz=dt.UTC)


async def test_image_that_the_buyers_manifest_does_not_name_is_refused(rig: Rig) -> None:
    enclave = await starting(rig)
    other = bytes([9]) * 48
    rig.home.save_policy(simulated_policy(root().fingerprint, [IMAGE, other]))
    challenge = await enclave.challenge()
    statement = enclave.statement(challenge.nonce)
    await enclave.post(enclave.request(statement, image=other).encode())
    await refused_with(enclave, "wrong-image", challenge.nonce)


async def test_market_without_a_policy_meters_nothing(rig: Rig) -> None:
    enclave = await starting(rig)
    (rig.home.folder / "meter-policy").unlink()
    assert (await rig.api(HOST).get_market()).meter_policy is None
    challenge = await enclave.challenge()
    await enclave.post(enclave.request(enclave.statement(challenge.nonce)).encode())
    await refused_with(enclave, "no-policy", challenge.nonce)


async def test_second_enclave_never_takes_a_metered_lease(rig: Rig) -> None:
    enclave = await rig.running()
    twin = dataclasses.replace(enclave, signing=PartyKey.generate())
    challenge = await twin.challenge()
    await twin.post(twin.request(twin.statement(challenge.nonce)).encode())
    answer = await twin.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "seat-taken"


async def test_one_key_never_meters_two_leases(rig: Rig) -> None:
    first = await rig.running()
    second = await starting(rig)
    second.signing = first.signing
    challenge = await second.challenge()
    await second.post(second.request(second.statement(challenge.nonce)).encode())
    await refused_with(second, "key-in-use", challenge.nonce)


async def test_evidence_posted_from_another_lease_is_not_answered_there(rig: Rig) -> None:
    """A host relays another's evidence from its own lease: nothing is metered."""
    first, second = await starting(rig), await starting(rig)
    challenge = await first.challenge()
    request = first.request(first.statement(challenge.nonce))
    await second.post(request.encode())
    await second.post(second.hello().encode())  # in order: the next answer is to this
    assert (await second.answer()).LABEL == "session/challenge"
    assert await rig.lease_state(first.lease) is not State.READY


async def test_hello_for_another_lease_or_from_a_stranger_is_not_answered(rig: Rig) -> None:
    enclave = await starting(rig)
    await rig.api(STRANGER).post_message(MARKET.identity, enclave.hello().encode(), message=key16())
    await enclave.post(enclave.hello(purpose=Purpose.RELEASE).encode())
    await enclave.post(enclave.hello(verifier=OWNER.identity).encode())
    await enclave.post(b"not a message")
    await enclave.post(secrets.token_bytes(1000))
    await enclave.challenge()
    more = rig.api(HOST).get_messages(enclave.address, after=enclave.after, lease=enclave.lease)
    assert (enclave.after, await more) == (1, ())  # one answer, to the good hello


# --- receipts ------------------------------------------------------------------------------------


async def amounts(rig: Rig) -> tuple[int, int, int]:
    host, owner = await rig.api(HOST).get_account(), await rig.api(OWNER).get_account()
    return host.pending, owner.pending, (await rig.api(BUYER).get_account()).held


async def test_receipt_settles_by_the_lesser_clock_and_posts_once(rig: Rig) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR // 2
    receipt = enclave.receipt(milliseconds=HOUR, step=10, tokens=10 * 8 * 128)
    answer = await enclave.send_receipt(receipt)
    assert answer == ReceiptPosted(receipt=receipt.digest)
    # ten steps at the ceiling of 20,000, below half an hour's 500,000; the fee is a tenth
    royalty = 50_000 + 2_000_000 * 10_240 // 1_000_000
    assert await amounts(rig) == (180_000, royalty, 10 * CREDIT - 200_000 - royalty)
    (view,) = await rig.api(BUYER).get_receipts(enclave.job.digest)
    assert (view.host_amount, view.owner_amount, view.fee_amount) == (180_000, royalty, 20_000)
    found = verify_signed(Receipt, view.signed, signer=enclave.signing.identity)
    assert found.digest == receipt.digest


async def test_second_settlement_of_a_receipt_moves_nothing(rig: Rig) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    receipt = enclave.receipt(milliseconds=HOUR, step=10, tokens=10_240)
    await enclave.send_receipt(receipt)
    before = await amounts(rig)
    for _ in range(2):
        assert await enclave.send_receipt(receipt) == ReceiptPosted(receipt=receipt.digest)
    assert await amounts(rig) == before
    assert len(await rig.api(BUYER).get_receipts(enclave.job.digest)) == 1


async def test_host_that_starves_or_inflates_time_earns_no_more_than_the_markets_clock(
    rig: Rig,
) -> None:
    enclave = await rig.running()
    rig.time[0] += 36_000  # a hundredth of an hour: 10,000 at an ask of 1,000,000
    await enclave.send_receipt(enclave.receipt(milliseconds=100 * HOUR, step=10, tokens=1))
    assert (await rig.api(HOST).get_account()).pending == 9_000


async def refused_receipt(enclave: Enclave, receipt, code: str) -> None:
    before = await amounts(enclave.rig)
    answer = await enclave.send_receipt(receipt)
    assert isinstance(answer, Refused), answer
    assert (answer.code, answer.nonce) == (code, receipt.digest)
    assert await amounts(enclave.rig) == before


@pytest.mark.parametrize(
    "signer", [HOST, OWNER, BUYER, MARKET], ids=["host", "owner", "buyer", "market"]
)
async def test_receipt_by_a_key_that_was_never_metered_is_refused(rig: Rig, signer) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    forged = enclave.receipt(signer=signer, milliseconds=HOUR, step=10)
    await refused_receipt(enclave, forged, "receipt-unknown-key")


async def test_receipt_whose_signature_does_not_hold_is_dropped(rig: Rig) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    good = enclave.receipt(milliseconds=HOUR, step=10)
    honest = enclave.receipt(milliseconds=1, step=1)
    inflated = honest.signature + good.signer + good.document.encode()
    await enclave.post(SignedMessage(signed=inflated).encode())
    assert await enclave.send_receipt(honest) == ReceiptPosted(receipt=honest.digest)
    (view,) = await rig.api(BUYER).get_receipts(enclave.job.digest)
    assert verify_signed(Receipt, view.signed, signer=None).document.step == 1


async def test_receipt_of_another_lease_is_refused(rig: Rig) -> None:
    """▸ One enclave's receipts, credited to another, dearer lease (12 iii)."""
    enclave, other = await rig.running(), await rig.running(HOST_2)
    rig.time[0] += HOUR
    stolen = enclave.receipt(lease=other.lease, job=other.job.digest, milliseconds=HOUR, step=10)
    await other.post(SignedMessage(signed=stolen.encode()).encode())
    answer = await other.answer()
    assert isinstance(answer, Refused)
    assert answer.code == "receipt-unknown-key"
    await enclave.post(SignedMessage(signed=stolen.encode()).encode())  # from where it is not
    fine = enclave.receipt(milliseconds=1, step=1)
    assert await enclave.send_receipt(fine) == ReceiptPosted(receipt=fine.digest)
    assert (await rig.api(HOST_2).get_account()).pending == 0
    more = rig.api(HOST_2).get_messages(other.address, after=other.after, lease=other.lease)
    assert await more == ()  # nobody speaks to another's enclave through the market


@pytest.mark.parametrize(
    "change",
    [{"generation": 2}, {"rank": 1}, {"job": bytes(32)}],
    ids=["generation", "rank", "job"],
)
async def test_receipt_of_another_generation_rank_or_job_is_refused(rig: Rig, change) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    bad = enclave.receipt(milliseconds=HOUR, step=10, **change)
    await refused_receipt(enclave, bad, "receipt-wrong-lease")


async def test_receipts_of_an_older_generation_do_not_settle(rig: Rig) -> None:
    """▸ attacks.md, 7 i: two enclaves, two hosts, and only the newest generation is paid."""
    enclave = await rig.running()
    report = wire.LeaseReport(event=wire.LeaseEvent.FAILED, reason="killed")
    await rig.api(HOST).report_lease(enclave.lease, report, key=key16())
    await rig.requeue(enclave.job)
    lease = await rig.claimed(enclave.job, HOST_2)
    await rig.ordered(enclave.job, lease)
    rig.time[0] += 60_000
    late = enclave.receipt(milliseconds=60_000, step=10)
    await refused_receipt(enclave, late, "receipt-old-generation")


async def test_middle_receipt_may_be_lost_and_the_total_is_right(rig: Rig) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    for number, step in ((1, 4), (3, 8)):
        before = None if number == 1 else bytes(32)
        last = enclave.receipt(
            number=number, before=before, milliseconds=HOUR, step=step, tokens=step
        )
        assert await enclave.send_receipt(last) == ReceiptPosted(receipt=last.digest)
    assert (await rig.api(HOST).get_account()).pending == 8 * 18_000


async def test_forked_and_falling_receipts_are_refused_and_late_ones_settle_nothing(
    rig: Rig,
) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    first = enclave.receipt(milliseconds=HOUR, step=8, tokens=8)
    await enclave.send_receipt(first)
    enclave.last = first
    fork = enclave.receipt(number=1, before=None, milliseconds=HOUR, step=9, tokens=9)
    await refused_receipt(enclave, fork, "receipt-forked")
    falling = enclave.receipt(milliseconds=HOUR, step=7, tokens=7)
    await refused_receipt(enclave, falling, "receipt-decreasing")
    second = enclave.receipt(milliseconds=HOUR, step=9, tokens=9)
    third = dataclasses.replace(second.document, number=3, before=second.digest, step=10)
    signed = enclave.signing.sign(third)
    await enclave.send_receipt(signed)
    paid = await amounts(rig)
    assert await enclave.send_receipt(second) == ReceiptPosted(receipt=second.digest)
    assert await amounts(rig) == paid


async def test_committed_checkpoint_pays_one_interval_beyond_it(rig: Rig) -> None:
    """▸ attacks.md, 13: what is not committed pays one interval (10 steps), and no more."""
    enclave = await rig.running()
    rig.time[0] += HOUR
    first = enclave.receipt(milliseconds=HOUR, step=35, tokens=35)
    await enclave.send_receipt(first)
    assert (await rig.api(HOST).get_account()).pending == 10 * 18_000
    report = enclave.checkpoint(20)
    await enclave.post(SignedMessage(signed=report.encode()).encode(), box=OWNER.identity)
    artifact = verify_manifest(report.document.manifest)
    enclave.last = first
    second = enclave.receipt(milliseconds=HOUR, step=35, tokens=35, committed=artifact)
    await enclave.send_receipt(second)
    assert (await rig.api(HOST).get_account()).pending == 30 * 18_000


async def test_checkpoint_that_the_hosts_own_key_reported_pays_nothing(rig: Rig) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    report = enclave.checkpoint(90, signer=HOST)
    await enclave.post(SignedMessage(signed=report.encode()).encode(), box=OWNER.identity)
    artifact = verify_manifest(report.document.manifest)
    receipt = enclave.receipt(milliseconds=HOUR, step=40, tokens=40, committed=artifact)
    await enclave.send_receipt(receipt)
    assert (await rig.api(HOST).get_account()).pending == 10 * 18_000  # one interval, as if none


def verify_manifest(manifest: bytes) -> bytes:
    return verify_signed(Manifest, manifest, signer=None).digest


async def test_dispute_is_the_buyers_and_keeps_the_money_from_maturing(rig: Rig) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    receipt = enclave.receipt(milliseconds=HOUR, step=10, tokens=10)
    await enclave.send_receipt(receipt)
    for party in (HOST, OWNER, STRANGER):
        bad = party.sign(Dispute(receipt=receipt.digest, reason="slow", at=NOW))
        await refused(wire.ErrorCode.FORBIDDEN, rig.api(party).dispute(bad, key=key16()))
    good = BUYER.sign(Dispute(receipt=receipt.digest, reason="slow", at=NOW))
    view = await rig.api(BUYER).dispute(good, key=key16())
    assert view.state is wire.SettlementState.DISPUTED
    rig.time[0] += 25 * HOUR
    await sweep_once(rig.market)
    assert (await rig.api(HOST).get_account()).payable == 0


async def test_undisputed_money_matures_and_statements_say_so(rig: Rig) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    await enclave.send_receipt(enclave.receipt(milliseconds=HOUR, step=10, tokens=10))
    rig.time[0] += 25 * HOUR
    await sweep_once(rig.market)
    account = await rig.api(HOST).get_account()
    assert (account.pending, account.payable) == (0, 180_000)
    lines = await rig.api(HOST).get_statement(wire.AccountRole.HOST_PENDING)
    assert [(each.number, each.kind, each.direction, each.balance) for each in lines] == [
        (1, "post", "in", 180_000),
        (2, "mature", "out", 0),
    ]
    rest = await rig.api(HOST).get_statement(wire.AccountRole.HOST_PENDING, after=1)
    assert rest == lines[1:]
    mine = await rig.api(BUYER).get_statement()
    assert [(each.kind, each.direction) for each in mine] == [("top_up", "in"), ("place", "out")]
    assert await rig.api(STRANGER).get_statement() == ()


async def test_run_from_submission_to_refund_balances(rig: Rig) -> None:
    enclave = await rig.running()
    rig.time[0] += HOUR
    last = enclave.receipt(milliseconds=HOUR, step=100, tokens=102_400, end="done")
    await enclave.send_receipt(last)
    await rig.finish(enclave.job, enclave.lease)
    await rig.write(lambda s: end_orders(s, rig.time[0]))
    account = await rig.api(BUYER).get_account()
    host, owner = await rig.api(HOST).get_account(), await rig.api(OWNER).get_account()
    fee = 100_000
    assert (host.pending, owner.pending) == (900_000, 50_000 + 204_800)
    assert account.held == 0
    assert account.available == 20 * CREDIT - host.pending - owner.pending - fee
    view = await rig.api(BUYER).get_job(enclave.job.digest)
    assert view.state is wire.JobState.SUCCEEDED
    assert view.money.reserved == view.money.captured + view.money.released
