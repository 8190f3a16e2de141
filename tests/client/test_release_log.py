"""The release log: durable, chained, and refused when it is damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.files import HomeError
from client.heads import HeadKeeper, HeadSeen
from client.release_log import HeadPlace, ReleaseLog, ReleaseLogError, replay
from tests.trust.release_world import NOW, Enclave, World
from trust.errors import SessionError, SignatureError
from trust.identity import PartyKey
from trust.release import Decision
from trust.release_state import Opened, Standing


def filled(path: Path, entries: int = 4) -> bytes:
    log = ReleaseLog.open(path, now=NOW)
    for number in range(2, entries + 1):
        log.append((Opened(incarnation=number),), now=NOW + number)
    log.close()
    return path.read_bytes()


def test_log_replays_to_the_same_memory(tmp_path: Path) -> None:
    world = World()
    log = ReleaseLog.open(tmp_path / "log", now=NOW)
    for generation in (1, 2):
        result = world.owner.ask(world.request(world.owner, Enclave(), generation))
        assert isinstance(result, Decision)
        log.append(result.entries, now=NOW)
    memory, head = log.memory, log.head(world.owner.key, now=NOW)
    log.close()
    again = ReleaseLog.open(tmp_path / "log", now=NOW)
    assert again.memory == memory
    assert again.head(world.owner.key, now=NOW).digest == head.digest
    assert set(again.memory.seats) == set(world.owner.memory.seats)
    again.close()


def test_log_is_private(tmp_path: Path) -> None:
    filled(tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    (tmp_path / "log").chmod(0o644)
    with pytest.raises(HomeError, match="0644"):
        ReleaseLog.open(tmp_path / "log", now=NOW)


def test_half_written_last_entry_is_cut_off_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "log"
    three = len(filled(path, 3))
    path.unlink()
    data = filled(path, 4)
    for cut in range(three, len(data)):
        path.write_bytes(data[:cut])
        log = ReleaseLog.open(path, now=NOW)
        assert len(log) == 3
        log.append((Opened(incarnation=4),), now=NOW + 4)
        log.close()
        assert replay(path.read_bytes()).memory.incarnation == 4


@settings(max_examples=150, deadline=None)
@given(at=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_flipped_byte_is_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int
) -> None:
    data = bytearray(filled(tmp_path_factory.mktemp("log") / "log"))
    data[at % len(data)] ^= flip
    with pytest.raises(ReleaseLogError):
        replay(bytes(data))


def test_entry_cut_out_of_the_middle_is_refused(tmp_path: Path) -> None:
    two, three, four = (len(filled(tmp_path / f"log{n}", n)) for n in (2, 3, 4))
    data = (tmp_path / "log4").read_bytes()
    with pytest.raises(ReleaseLogError, match="follow"):
        replay(data[:two] + data[three:four])
    with pytest.raises(ReleaseLogError, match="follow"):
        replay(data[:two] + data[:two])


def test_failed_write_closes_the_log_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ReleaseLog.open(tmp_path / "log", now=NOW)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            log.append((Opened(incarnation=2),), now=NOW)
    with pytest.raises(ReleaseLogError, match="earlier write"):
        log.append((Opened(incarnation=2),), now=NOW)
    assert log.memory.incarnation == 1
    log.close()


def test_behind_is_fewer_entries_another_chain_or_a_lower_incarnation(tmp_path: Path) -> None:
    key = PartyKey.generate()
    path = tmp_path / "log"
    filled(path, 1)
    log = ReleaseLog.open(path, now=NOW)
    old = log.head(key, now=NOW).document
    log.append((Opened(incarnation=1),), now=NOW)
    new = log.head(key, now=NOW).document
    assert not log.is_behind(old)
    assert not log.is_behind(new)
    log.close()
    other = ReleaseLog.open(tmp_path / "other", now=NOW + 1)
    assert other.is_behind(new)
    assert other.is_behind(old), "another chain at the same number"
    other.append((Opened(incarnation=2),), now=NOW)
    assert not other.is_behind(new), "a higher incarnation left the old one's entries behind"
    higher = other.head(key, now=NOW).document
    other.close()
    log = ReleaseLog.open(path, now=NOW)
    assert log.is_behind(higher)
    log.close()


def keepers(tmp_path: Path) -> tuple[HeadKeeper, HeadKeeper, PartyKey]:
    mine, other = PartyKey.generate(), PartyKey.generate()
    made = [
        HeadKeeper(
            ReleaseLog.open(tmp_path / f"log-{name}", now=NOW), HeadPlace(tmp_path / name), key
        )
        for name, key in (("mine", mine), ("other", other))
    ]
    return made[0], made[1], other


def test_answer_about_heads_counts_once_it_names_the_shown_head(tmp_path: Path) -> None:
    mine, other, other_key = keepers(tmp_path)
    seen = other.answer(mine.show(NOW))
    mine.take(seen)
    assert mine.heard == {other_key.identity}
    assert mine.standing is Standing.CURRENT
    stale = other.answer(mine.own(NOW + 1))
    with pytest.raises(SessionError, match="not shown"):
        mine.take(stale)


def test_answer_about_heads_is_its_signers_own(tmp_path: Path) -> None:
    mine, other, _ = keepers(tmp_path)
    seen = other.answer(mine.show(NOW))
    stranger = PartyKey.generate()
    with pytest.raises(SessionError, match="somebody else"):
        mine.take(stranger.sign(seen.document))
    forged = HeadSeen(
        custodian=stranger.identity,
        shown=seen.document.shown,
        newest=stranger.sign(mine.own(NOW).document).encode(),
    )
    with pytest.raises(SignatureError):
        mine.take(stranger.sign(forged))


def test_a_stranger_cannot_move_anothers_newest_head(tmp_path: Path) -> None:
    mine, other, _ = keepers(tmp_path)
    head = mine.show(NOW)
    with pytest.raises(SignatureError):
        other.answer(PartyKey.generate().sign(head.document))
