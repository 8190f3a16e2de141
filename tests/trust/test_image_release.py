"""Releases of runtime images: each attack is refused, by the check that is there for it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trust.release_makers import (
    CUSTODIAN,
    DAY,
    LOG,
    MARKET,
    NOW,
    REBUILDERS,
    STRANGER,
    WITNESSES,
    World,
    accept,
    demands,
    measurement,
    registers,
    release,
    world,
)
from trust.encoding import label_bytes
from trust.errors import BlindhostError, DocumentError, EncodingError, PolicyError, RefusedError
from trust.image_acceptance import AcceptedRelease
from trust.image_release import EmergencyConsent, ImageRelease, ReleaseBundle, ReleaseDemands
from trust.transparency import COSIGNATURE, ED25519, Note, NoteSigner, parse_note
from trust.verifier.reference import ReferenceValues
from trust.verifier.roots import RootKind


def code(*arguments: Any, **rest: Any) -> str:
    with pytest.raises(RefusedError) as refused:
        accept(*arguments, **rest)
    return refused.value.code


# --- what is good --------------------------------------------------------------------------------


def test_two_of_three_rebuilders_two_witnesses_and_seven_days_are_enough() -> None:
    accepted = accept(world().bundle())
    assert accepted.release == release()
    assert accepted.rebuilders == tuple(each.identity for each in REBUILDERS[:2])
    assert accepted.values == release().values
    assert (accepted.by_consent, accepted.memory.newest.number, accepted.memory.size) == (
        False,
        1,
        1,
    )
    assert {each.witness.name for each in accepted.stood} == {"w1.example", "w2.example"}


def test_the_release_before_the_newest_counts_and_the_one_before_that_does_not() -> None:
    memory = accept(world().bundle()).memory
    for number in (2, 3):
        entries = [release(each) for each in range(1, number + 1)]
        memory = accept(world(*entries, since=(number - 1,)).bundle(), memory).memory
    values = memory.values(demands(), NOW)
    assert values.snp == (measurement("snp 3"), measurement("snp 2"))
    alone = memory.values(demands(previous_allowed=False), NOW)
    assert alone.snp == (measurement("snp 3"),)


def test_a_skipped_number_is_not_the_one_before() -> None:
    memory = accept(world().bundle()).memory
    entries = [release(1), release(2), release(3)]
    accepted = accept(world(*entries, since=(1,)).bundle(), memory)
    assert accepted.values == release(3).values


def test_an_accepted_release_stops_to_count_when_it_is_too_old() -> None:
    memory = accept(world(release(1), release(2)).bundle()).memory
    then = release(2).released_at + 180 * DAY
    assert memory.values(demands(), then) == release(2).values
    with pytest.raises(RefusedError, match="release-too-old"):
        memory.values(demands(), then + 1)


def test_only_the_decision_makes_an_accepted_release() -> None:
    good = accept(world().bundle())
    fields = {f.name: getattr(good, f.name) for f in dataclasses.fields(good)}
    with pytest.raises(TypeError):
        AcceptedRelease(**fields, seal=object())


def test_a_release_stays_accepted_when_the_log_grows_and_more_witnesses_sign() -> None:
    memory = accept(world().bundle()).memory
    grown = world(release(1), release(2), covering=1, index=0, since=(1,))
    assert accept(grown.bundle(), memory).memory.size == 2


# --- shape ---------------------------------------------------------------------------------------


def test_an_unknown_field_in_a_release_is_refused() -> None:
    label = label_bytes(ImageRelease.LABEL)
    value = json.loads(release().encode()[len(label) :])
    value["zeal"] = 1
    sly = label + json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(DocumentError, match="unknown field 'zeal'"):
        ImageRelease.parse(sly)
    assert code(dataclasses.replace(world().bundle(), release=sly)) == "release-malformed"


def test_a_release_without_a_measurement_does_not_load() -> None:
    with pytest.raises(PolicyError):
        ReferenceValues(snp=(), tdx=(), simulated=())
    with pytest.raises(PolicyError):
        ReferenceValues(snp=(measurement("a"),) * 2, tdx=(), simulated=())


def test_a_release_of_another_image_is_refused() -> None:
    assert code(world(release(name="other")).bundle()) == "release-name"
    assert code(world(release(name="other"), signers=[]).bundle()) == "release-name"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_as_malformed(data: bytes) -> None:
    assert code(data) == "release-malformed"


# --- rebuilders ----------------------------------------------------------------------------------


def test_one_rebuilder_is_not_enough() -> None:
    assert code(world(signers=REBUILDERS[:1]).bundle()) == "release-rebuilders"


def test_nobodys_and_strangers_signatures_count_for_nothing() -> None:
    assert code(world(signers=[]).bundle()) == "release-rebuilders"
    assert code(world(signers=[REBUILDERS[0], STRANGER]).bundle()) == "release-rebuilders"
    assert code(world(signers=[REBUILDERS[0], MARKET]).bundle()) == "release-rebuilders"
    accept(world(signers=[STRANGER, *REBUILDERS[:2]]).bundle())


def test_three_signatures_of_one_key_are_one_rebuilder_three_times() -> None:
    assert code(world(signers=[REBUILDERS[0]] * 3).bundle()) == "release-rebuilder-twice"


def test_a_rebuilders_signature_of_another_release_is_refused() -> None:
    other = world(release(1, notes=bytes([7]) * 32)).bundle()
    good = world().bundle()
    swapped = dataclasses.replace(good, signatures=(good.signatures[0], other.signatures[1]))
    assert code(swapped) == "release-signature"


def test_demands_with_one_rebuilder_do_not_load() -> None:
    with pytest.raises(DocumentError):
        demands(rebuilders_least=1)
    with pytest.raises(DocumentError):
        demands(rebuilders=(REBUILDERS[0].identity,))


def test_demands_that_name_a_rebuilder_twice_do_not_load() -> None:
    with pytest.raises(PolicyError, match="twice"):
        demands(rebuilders=(REBUILDERS[0].identity,) * 2)


def test_the_markets_key_as_a_rebuilder_does_not_load() -> None:
    with pytest.raises(PolicyError, match="never count"):
        demands(rebuilders=(REBUILDERS[0].identity, MARKET.identity))


def test_the_markets_key_as_a_witness_does_not_load() -> None:
    market = NoteSigner("w.example", COSIGNATURE, MARKET.to_bytes())
    assert market.key.public == MARKET.identity
    with pytest.raises(PolicyError, match="never count"):
        demands(witnesses=(str(WITNESSES[0].key), str(market.key)))


def test_demands_that_forget_who_never_counts_do_not_load() -> None:
    with pytest.raises(DocumentError):
        demands(never=())


def test_demands_of_more_than_are_named_do_not_load() -> None:
    with pytest.raises(PolicyError):
        demands(rebuilders_least=4)
    with pytest.raises(PolicyError):
        demands(witnesses_least=4)


def test_two_names_of_one_witness_do_not_load() -> None:
    twin = NoteSigner("twin.example", COSIGNATURE, bytes([21]) * 32)
    with pytest.raises(PolicyError, match="share a key"):
        demands(witnesses=(str(WITNESSES[0].key), str(twin.key)))


def test_a_log_that_witnesses_itself_does_not_load() -> None:
    own = NoteSigner("w.example", COSIGNATURE, bytes([20]) * 32)
    with pytest.raises(PolicyError, match="itself"):
        demands(witnesses=(str(WITNESSES[0].key), str(own.key)))


def test_a_witness_key_in_the_logs_place_does_not_load() -> None:
    with pytest.raises(PolicyError, match="type"):
        demands(log=str(WITNESSES[0].key))
    with pytest.raises(EncodingError):
        demands(log="log.example+00000000+AAAA")


# --- dates and numbers ---------------------------------------------------------------------------


def test_a_release_that_is_too_old_is_refused() -> None:
    old = release(released_at=NOW - 180 * DAY - 1)
    assert code(world(old).bundle()) == "release-too-old"
    assert code(world(old, days=()).bundle()) == "release-too-old"
    accept(world(release(released_at=NOW - 180 * DAY)).bundle())


def test_a_release_from_tomorrow_is_refused() -> None:
    assert code(world(release(released_at=NOW + DAY)).bundle()) == "release-ahead"


def test_a_lower_number_than_the_newest_accepted_is_a_rollback() -> None:
    memory = accept(world(release(1), release(2)).bundle()).memory
    older = world(release(1), release(2), index=0)
    assert code(older.bundle(), memory) == "release-rollback"


def test_two_releases_of_one_number_are_never_both_accepted() -> None:
    memory = accept(world().bundle()).memory
    twin = world(release(1), release(1, notes=bytes([7]) * 32), since=(1,))
    assert code(twin.bundle(), memory) == "release-twin"


def test_a_memory_of_another_image_or_log_is_refused() -> None:
    memory = accept(world().bundle()).memory
    assert code(world().bundle(), dataclasses.replace(memory, name="other")) == "release-memory"
    other = NoteSigner("other.example", ED25519, bytes([30]) * 32)
    wanted = demands(log=str(other.key))
    assert code(world(log=other).bundle(), memory, wanted=wanted) == "release-memory"


# --- the log -------------------------------------------------------------------------------------


def test_a_release_that_is_not_in_the_log_is_refused() -> None:
    bundle = world().bundle()
    elsewhere = world(release(1, notes=bytes([7]) * 32)).bundle()
    assert code(dataclasses.replace(bundle, proof=elsewhere.proof)) == "release-not-in-log"


def test_a_checkpoint_of_another_log_is_refused() -> None:
    thief = NoteSigner(LOG.key.name, ED25519, bytes([31]) * 32)
    assert code(world(log=thief).bundle()) == "release-log-signature"
    renamed = NoteSigner("other.example", ED25519, bytes([20]) * 32)
    assert code(world(log=renamed).bundle()) == "release-log-signature"


def test_a_proof_that_is_none_is_refused() -> None:
    assert code(world().bundle(proof=b"c2sp.org/tlog-proof@v1\n")) == "release-proof-malformed"
    assert code(world().bundle(head=b"head")) == "release-head-malformed"


def test_a_release_without_a_witness_is_refused() -> None:
    assert code(world(days=()).bundle()) == "release-witnesses"
    assert code(world(days=(8,)).bundle()) == "release-witnesses"


def test_a_stranger_as_witness_counts_for_nothing() -> None:
    stranger = NoteSigner("w9.example", COSIGNATURE, bytes([40]) * 32)
    assert code(world(witnesses=[WITNESSES[0], stranger]).bundle()) == "release-witnesses"


def test_one_witness_twice_is_one_witness() -> None:
    assert code(world(witnesses=[WITNESSES[0]] * 2).bundle()) == "release-witnesses"


def test_a_cosignature_that_was_moved_to_another_checkpoint_is_refused() -> None:
    other = world(release(1, notes=bytes([7]) * 32))
    lines = other.note(1, (8, 8)).signatures[1:]
    made = world()
    note = made.note(1, ())
    forged = Note(text=note.text, signatures=(*note.signatures, *lines))
    proof = made.bundle().proof.partition(b"\n\n")[0] + b"\n\n" + forged.encode()
    assert code(made.bundle(proof=proof)) == "release-cosignature"


def test_a_cosignature_whose_time_was_set_back_is_refused() -> None:
    made = world(days=(1, 1))
    note = made.note(1, (1, 1))
    early = int(NOW - 9 * DAY) // 1000
    lines = [
        dataclasses.replace(each, value=early.to_bytes(8, "big") + each.value[8:])
        for each in note.signatures[1:]
    ]
    forged = Note(text=note.text, signatures=(note.signatures[0], *lines))
    proof = made.bundle().proof.partition(b"\n\n")[0] + b"\n\n" + forged.encode()
    assert code(made.bundle(proof=proof)) == "release-cosignature"


def test_a_release_that_was_logged_yesterday_is_refused() -> None:
    assert code(world(days=(1, 1)).bundle()) == "release-too-young"
    assert code(world(days=(6.99, 6.99)).bundle()) == "release-too-young"
    accept(world(days=(7, 7)).bundle())


def test_one_witness_that_backdates_does_not_make_a_release_old() -> None:
    assert code(world(days=(30, 1)).bundle()) == "release-too-young"
    assert code(world(days=(30, 1, 1)).bundle()) == "release-too-young"
    accept(world(days=(30, 1, 7)).bundle())


def test_a_date_long_ago_in_the_document_does_not_make_it_old_in_the_log() -> None:
    assert code(world(release(released_at=NOW - 100 * DAY), days=(1, 1)).bundle()) == (
        "release-too-young"
    )


def test_a_cosignature_from_tomorrow_is_refused() -> None:
    assert code(world(days=(8, -1)).bundle()) == "release-cosigned-ahead"


def test_a_head_without_witnesses_is_refused() -> None:
    assert code(world(head_days=(0,)).bundle()) == "release-head-witnesses"


# --- forks ---------------------------------------------------------------------------------------


def test_a_fork_of_the_same_size_is_refused() -> None:
    memory = accept(world(release(1), release(2)).bundle()).memory
    forked = world(release(1, notes=bytes([7]) * 32), release(2))
    assert code(forked.bundle(), memory) == "release-fork"


def test_a_longer_fork_is_refused_whatever_leads_to_it() -> None:
    memory = accept(world(release(1), release(2)).bundle()).memory
    forked = world(release(1, notes=bytes([7]) * 32), release(2), release(3), since=(2,))
    assert code(forked.bundle(), memory) == "release-fork"


def test_a_fork_that_shows_no_way_from_the_checkpoint_in_memory_is_refused() -> None:
    memory = accept(world(release(1), release(2)).bundle()).memory
    forked = world(release(1, notes=bytes([7]) * 32), release(2), release(3))
    assert code(forked.bundle(), memory) == "release-unlinked"


def test_a_head_that_is_shorter_than_the_checkpoint_in_memory_is_refused() -> None:
    grown = world(release(1), release(2, name="other"), index=0, covering=1, since=(1,))
    memory = accept(grown.bundle()).memory
    assert memory.size == 2
    assert code(world().bundle(), memory) == "release-head-old"


def test_a_covering_checkpoint_of_a_fork_is_refused() -> None:
    """The entry stood in one log, and the head is another's."""
    entries = (release(1), release(2, name="other"))
    stood = world(*entries, index=0, days=(8, 8)).bundle()
    longer = world(release(1), release(2, name="third"), release(3), index=0, since=(2,))
    assert code(dataclasses.replace(longer.bundle(), proof=stood.proof)) == "release-fork"


# --- emergencies ---------------------------------------------------------------------------------


def consent(**changes: Any) -> bytes:
    said = release(emergency=True)
    document = EmergencyConsent(release=said.digest, name=said.name, number=said.number, at=NOW)
    return CUSTODIAN.sign(dataclasses.replace(document, **changes)).encode()


def emergency(**changes: Any) -> World:
    return world(release(emergency=True), **{"days": (0, 0), **changes})


def test_an_emergency_needs_the_custodians_own_yes() -> None:
    assert code(emergency().bundle()) == "release-emergency"
    accepted = accept(emergency().bundle(), emergency_consent=consent())
    assert accepted.by_consent


def test_an_emergency_that_has_stood_long_enough_needs_no_yes() -> None:
    assert not accept(emergency(days=(8, 8)).bundle()).by_consent


def test_a_yes_does_not_hurry_what_is_no_emergency() -> None:
    yes = consent(release=release().digest)
    assert code(world(days=(1, 1)).bundle(), emergency_consent=yes) == "release-too-young"


def test_another_partys_yes_is_not_the_custodians() -> None:
    said = EmergencyConsent(
        release=release(emergency=True).digest, name=release().name, number=1, at=NOW
    )
    for other in (MARKET, REBUILDERS[0]):
        yes = other.sign(said).encode()
        assert code(emergency().bundle(), emergency_consent=yes) == "release-consent"


def test_a_yes_to_another_release_does_not_count() -> None:
    yes = consent(release=bytes(32))
    assert code(emergency().bundle(), emergency_consent=yes) == "release-consent"


def test_a_yes_waives_neither_rebuilders_nor_witnesses() -> None:
    assert code(emergency(signers=REBUILDERS[:1]).bundle(), emergency_consent=consent()) == (
        "release-rebuilders"
    )
    assert code(emergency(days=(0,)).bundle(), emergency_consent=consent()) == "release-witnesses"


# --- every signed byte ---------------------------------------------------------------------------


def test_no_mutation_of_any_byte_of_a_bundle_is_accepted_as_another_release() -> None:
    good = world().bundle().encode()
    wanted = release()
    for at in range(0, len(good), 7):
        changed = bytearray(good)
        changed[at] ^= 1 << (at % 8)
        try:
            accepted = accept(bytes(changed))
        except BlindhostError:
            continue
        assert accepted.release == wanted  # a line that nobody wanted was broken


def test_no_mutation_of_the_release_itself_is_accepted() -> None:
    bundle = world().bundle()
    for at in range(len(bundle.release)):
        changed = bytearray(bundle.release)
        changed[at] ^= 1
        with pytest.raises(RefusedError):
            accept(dataclasses.replace(bundle, release=bytes(changed)))


def test_no_mutation_of_a_checkpoints_text_is_accepted() -> None:
    bundle = world(release(1), release(2)).bundle()
    text = parse_note(bundle.head).text.encode()
    for at in range(len(text)):
        changed = bytearray(bundle.head)
        changed[at] ^= 1
        with pytest.raises(RefusedError):
            accept(dataclasses.replace(bundle, head=bytes(changed)))


# --- reference values ----------------------------------------------------------------------------


def test_a_simulated_measurement_is_good_under_simulated_roots_alone() -> None:
    values = release().values
    assert values.measurements(RootKind.REAL) == (measurement("snp 1"),)
    assert values.measurements(RootKind.SIMULATED) == (measurement("simulated 1"),)
    assert values.tdx_images(RootKind.REAL) == (registers("1"),)
    assert values.tdx_images(RootKind.SIMULATED) == ()


def test_a_release_names_whole_sets_of_tdx_registers() -> None:
    for hole in ("rtmr0", "rtmr1", "rtmr2"):
        part = dataclasses.replace(registers("a"), **{hole: None})
        with pytest.raises(PolicyError, match="RTMR"):
            ReferenceValues(snp=(), tdx=(part,), simulated=())


def test_documents_survive_their_encoding() -> None:
    for document in (release(), demands(), world().bundle(), accept(world().bundle()).memory):
        assert type(document).parse(document.encode()) == document
    assert ReleaseDemands.parse(demands().encode()).witness_keys[0] == WITNESSES[0].key
    assert ReleaseBundle.parse(world().bundle().encode()).release == release().encode()
