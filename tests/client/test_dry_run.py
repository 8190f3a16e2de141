"""Appraisal again: the same checks over kept evidence, every line told apart, nothing released."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.dry_run import (
    Appraisal,
    Outcome,
    Would,
    appraise_job,
    log_entries,
    preview_offer,
    preview_other,
    releases,
)
from client.evidence import REFUSED_MAX, EvidenceFolder, KeptEvidence, kept_seats
from client.transcript import make_transcript, open_transcript
from marketplace.wire import OfferDraft, OfferState, OfferView
from tests.client.stage import Stage
from tests.trust import release_world as rw
from trust.errors import EncodingError, SignatureError
from trust.jobs import UsePolicy
from trust.messages import EvidenceBundle, Refused
from trust.verifier.policy import simulated_policy

DAY = 24 * rw.HOUR


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Both brokers, running, and a seat that the buyer's released for."""
    stage = Stage(tmp_path)
    for name in ("owner", "buyer"):
        await stage.start(name)
    stage.order(1)
    yield stage
    for name in ("owner", "buyer"):
        stage.stop(name)


async def released(stage: Stage, enclave: rw.Enclave | None = None) -> None:
    answer = await stage.ask("buyer", enclave or rw.Enclave())
    assert isinstance(answer, bytes), answer


def again(stage: Stage, name: str = "buyer", now: int = rw.NOW + 1000) -> tuple[Appraisal, ...]:
    home = stage.custody[name].home
    return appraise_job(home, log_entries(home), stage.job.digest, now)


def kept(stage: Stage) -> tuple[EvidenceFolder, KeptEvidence, Path]:
    folder = EvidenceFolder(stage.custody["buyer"].home.folder)
    found = folder.find((stage.job.digest, 1, 0))
    assert found is not None
    (path,) = (stage.custody["buyer"].home.folder / "evidence").iterdir()
    return folder, found, path


async def test_what_was_released_on_is_appraised_again_line_by_line(stage: Stage) -> None:
    await released(stage)
    (found,) = again(stage)
    assert found.headline == "PASSED, 2 checks not made"
    assert found.simulated
    assert (found.chip, found.image, found.entry) == (bytes(64), rw.IMAGE, 2)
    assert sum(found.count(each) for each in Outcome) == len(found.lines) > 30
    missing = {each.id for each in found.lines if each.outcome is Outcome.NOT_CHECKED}
    assert missing == {"gpu", "facility"}
    by_id = {each.id: each for each in found.lines}
    for name in ("verdict-in-log", "statement-in-log", "image-in-job", "launch-document"):
        assert by_id[name].outcome is Outcome.PASSED, by_id[name]
    order = [each.outcome for each in found.lines]
    assert order == sorted(order, key=list(dict.fromkeys(
        [Outcome.FAILED, Outcome.NOT_CHECKED, Outcome.PASSED, Outcome.NOT_DEMANDED]
    )).index)  # fmt: skip


async def test_the_verdict_of_today_may_be_another_than_on_the_day(stage: Stage) -> None:
    await released(stage)
    (late,) = again(stage, now=rw.NOW + 5000 * DAY)
    assert late.headline == "EXPIRED"
    by_id = {each.id: each.outcome for each in late.lines}
    assert by_id["verdict-in-log"] is Outcome.PASSED


async def test_evidence_that_was_exchanged_on_the_disk_is_not_the_logs(stage: Stage) -> None:
    await released(stage)
    _, old, path = kept(stage)
    party = stage.buyer
    other = stage.request(party, rw.Enclave(), nonce=bytes(32)).request.evidence
    path.write_bytes(dataclasses.replace(old, evidence=other).encode())
    (found,) = again(stage)
    failed = {each.id for each in found.lines if each.outcome is Outcome.FAILED}
    assert failed == {"statement-in-log", "verdict-in-log"}
    assert found.headline.startswith("REFUSED at")


async def test_evidence_with_a_changed_report_fails_at_its_signature(stage: Stage) -> None:
    await released(stage)
    _, old, path = kept(stage)
    bundle = EvidenceBundle.parse(old.evidence)
    report = bytearray(bundle.report)
    report[0x90] ^= 1  # the measurement
    changed = dataclasses.replace(bundle, report=bytes(report)).encode()
    path.write_bytes(dataclasses.replace(old, evidence=changed).encode())
    (found,) = again(stage)
    assert found.headline == "REFUSED at evidence-signature"
    assert found.image is None


async def test_a_policy_that_has_run_out_fails_and_says_what_nobody_looked_at(
    stage: Stage,
) -> None:
    answer = await stage.ask("buyer", rw.Enclave(), measurement=bytes(48))
    assert isinstance(answer, Refused)
    demanding = dataclasses.replace(
        simulated_policy(rw.root().fingerprint, [bytes(48)]), expires_at=1
    )
    stage.custody["buyer"].home.keep_appraisal(demanding)
    found = {each.policy: each for each in again(stage)}
    lines = {each.id: each.outcome for each in found[demanding.digest].lines}
    assert lines["time"] is Outcome.FAILED
    assert lines["facility"] is Outcome.NOT_CHECKED


async def test_a_refusal_is_kept_and_says_what_was_said_on_the_day(stage: Stage) -> None:
    answer = await stage.ask("buyer", rw.Enclave(), measurement=bytes(48))
    assert isinstance(answer, Refused)
    assert answer.code == "evidence-measurement"
    (found,) = again(stage)
    assert found.headline == "REFUSED at measurement"
    assert found.entry is None
    assert "evidence-measurement" in found.words


async def test_without_evidence_there_is_no_verdict(stage: Stage) -> None:
    assert again(stage) == ()
    await released(stage)
    kept(stage)[2].unlink()
    (found,) = again(stage)
    assert found.headline == "NO EVIDENCE KEPT"
    assert found.lines == ()


async def test_a_disk_that_takes_no_evidence_stops_no_release(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(EvidenceFolder, "_write", full)
    await released(stage)
    assert len(releases(log_entries(stage.custody["buyer"].home))) == 1


async def test_strangers_evidence_fills_no_disk(stage: Stage) -> None:
    folder = EvidenceFolder(stage.custody["buyer"].home.folder)
    await released(stage)
    bundle = EvidenceBundle.parse(kept(stage)[1].evidence)
    from trust.messages import Statement
    from trust.release import Refusal

    statement = Statement.parse(bundle.statement)
    for number in range(REFUSED_MAX + 9):
        other = dataclasses.replace(statement, job=number.to_bytes(32, "big"))
        folder.keep(bundle, other, Refusal(code="evidence-signer", text=""), rw.NOW)
    folder.keep(bundle, statement, Refusal(code="nonce-stale", text=""), rw.NOW)
    files = list((stage.custody["buyer"].home.folder / "evidence").iterdir())
    assert len(files) == REFUSED_MAX + 1
    assert kept_seats(stage.custody["buyer"].home.folder, stage.job.digest) == (
        (stage.job.digest, 1, 0),
    )


# --- the transcript ------------------------------------------------------------------------------


async def transcript(stage: Stage) -> bytes:
    await released(stage)
    each = stage.custody["buyer"]
    (seat,) = releases(log_entries(each.home))
    policy = each.home.appraisal_policies()[seat.released.policies[0]]
    return make_transcript(each.keys.party, rw.MARKET, kept(stage)[1], policy, seat, rw.NOW)


async def test_a_transcript_opens_without_home_keys_or_market(stage: Stage) -> None:
    opened = open_transcript(await transcript(stage))
    assert opened.word.signer == stage.custody["buyer"].keys.party.identity
    assert opened.appraise(rw.NOW + 1000) == again(stage)[0]


@pytest.mark.parametrize("name", ["evidence", "policy", "entry", "word"])
async def test_a_transcript_with_a_part_of_another_is_refused(stage: Stage, name: str) -> None:
    mine = json.loads(await transcript(stage))
    other_stage = Stage(stage.folder / "other")
    for party in ("owner", "buyer"):
        await other_stage.start(party)
    other_stage.order(1)
    other = json.loads(await transcript(other_stage))
    for party in ("owner", "buyer"):
        other_stage.stop(party)
    if mine[name] == other[name]:
        other[name] = mine["word"]
    with pytest.raises((SignatureError, EncodingError)):
        open_transcript(json.dumps(mine | {name: other[name]}).encode())


async def test_another_partys_word_makes_no_transcript_of_mine(stage: Stage) -> None:
    await released(stage)
    each = stage.custody["buyer"]
    (seat,) = releases(log_entries(each.home))
    policy = each.home.appraisal_policies()[seat.released.policies[0]]
    thief = stage.custody["owner"].keys.party
    made = make_transcript(thief, rw.MARKET, kept(stage)[1], policy, seat, rw.NOW)
    with pytest.raises(SignatureError, match="was made for"):
        open_transcript(made)


# --- would keys be released ----------------------------------------------------------------------


def offer(platform: str = "sev-snp") -> OfferView:
    draft = OfferDraft(
        offer="offr_" + "0" * 26,
        platform=platform,
        compute_class="cpu=x",
        gpu_model="cpu",
        gpus=1,
        memory_mib=1,
        ask_microcredits_per_gpu_hour=1,
        floor_microcredits_per_gpu_hour=None,
        ends_at=rw.NOW + DAY,
    )
    return OfferView(
        host=bytes(32), state=OfferState.LISTED, terms_number=1, draft=draft, deadline=None
    )


async def test_an_offer_is_ruled_out_by_its_platform_and_never_promised(stage: Stage) -> None:
    each = stage.custody["buyer"]
    holdings = each.home.holdings(each.keys)
    refused = preview_offer(holdings, offer("tdx"), rw.NOW)
    assert (refused.would, refused.check) == (Would.REFUSE, "platform")
    assert preview_offer(holdings, offer(), rw.NOW).would is Would.UNKNOWN


async def test_a_policy_that_has_run_out_rules_every_offer_out(stage: Stage) -> None:
    each = stage.custody["buyer"]
    holdings = each.home.holdings(each.keys)
    (policy,) = holdings.appraisal_policies.values()
    ended = dataclasses.replace(policy, expires_at=rw.NOW)
    use = dataclasses.replace(holdings.policies[0].document, appraisal_policy=ended.digest)
    changed = dataclasses.replace(
        holdings,
        appraisal_policies={ended.digest: ended},
        policies=(each.keys.party.sign(use),),
    )
    found = preview_offer(changed, offer(), rw.NOW)
    assert (found.would, found.check) == (Would.REFUSE, "time")


async def test_an_owner_that_names_other_buyers_would_refuse(stage: Stage) -> None:
    party = stage.custody["owner"].keys.party
    (policy,) = stage.custody["owner"].home.load(UsePolicy, party.identity).values()
    closed = dataclasses.replace(policy.document, jobs_signed_by=(bytes(32),))
    buyer = stage.custody["buyer"].keys.party.identity
    assert preview_other(closed, buyer).would is Would.REFUSE
    assert preview_other(policy.document, buyer).would is Would.UNKNOWN
