"""The gateway's memory in a home: whole after any kill, its owner's alone, one process's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client import files, tuning_store
from client.files import HomeError
from client.tuning_store import (
    FileRecord,
    Heard,
    Pair,
    Submission,
    TuningStore,
    token_digest,
)
from tests.client.stage import Crash
from trust.errors import BlindhostError


def record(number: int = 1, **changes: object) -> FileRecord:
    fields = {
        "artifact": bytes([number]) * 32,
        "name": "rows.jsonl",
        "size": 10,
        "rows": 2,
        "purpose": "fine-tune",
        "created_at": 5,
    }
    return FileRecord(**fields | changes)


def submission(**changes: object) -> Submission:
    fields = {
        "token": token_digest("a token"),
        "job": bytes(200),
        "name": bytes(32),
        "sent": False,
        "close": None,
        "told": (bytes(32),),
        "model": "tiny",
        "training": "file-1",
        "heldout": None,
        "rate_multiplier": None,
        "label": "",
        "metadata": (Pair(key="a", value="b"),),
        "created_at": 5,
    }
    return Submission(**fields | changes)


def heard(number: int, state: str | None = None) -> Heard:
    return Heard(at=number, state=state, text="", record=None if state else number)


def reopened(store: TuningStore, home: Path) -> TuningStore:
    store.close()
    return TuningStore.open(home)


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    store = TuningStore.open(tmp_path)
    store.keep_file(record())
    store.keep_submission(submission())
    store.keep_submission(submission(sent=True))
    store.keep_lineage(b"s" + bytes(32))
    store.hear(bytes(32), [heard(0), heard(1, "queued")])
    store = reopened(store, tmp_path)
    assert store.files == {record().artifact: record()}
    assert list(store.submissions.values()) == [submission(sent=True)]
    assert store.job(bytes(32)) == submission(sent=True)
    assert store.lineage == b"s" + bytes(32)
    assert list(store.heard(bytes(32))) == [heard(0), heard(1, "queued")]
    store.drop_file(record().artifact)
    store.drop_submission(submission())
    store = reopened(store, tmp_path)
    assert (store.files, store.submissions, store.heard(bytes(32))) == ({}, {}, [])
    store.close()


@pytest.mark.parametrize("before", [True, False])
def test_kill_in_the_middle_of_a_write_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Before the rename the old one is there; after it the new one; half of one never is."""
    store = TuningStore.open(tmp_path)
    store.keep_submission(submission())
    place = tmp_path / "tuning" / "submissions"

    def killed(path: Path, content: bytes) -> None:
        beside = path.with_name(f".{path.name}.half")
        beside.write_bytes(content[: len(content) // 2] if before else content)
        if not before:
            beside.replace(path)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(tuning_store, "write_durably", killed)
        with pytest.raises(Crash):
            store.keep_submission(submission(sent=True))
    store = reopened(store, tmp_path)
    assert list(store.submissions.values()) == [submission(sent=not before)]
    assert [each.name for each in place.iterdir()] == [token_digest("a token").hex()]
    store.close()


def test_half_a_line_is_cut_off_and_the_next_begins_afresh(tmp_path: Path) -> None:
    store = TuningStore.open(tmp_path)
    store.hear(bytes(32), [heard(0), heard(1)])
    path = tmp_path / "tuning" / "heard" / bytes(32).hex()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        store = reopened(store, tmp_path)
        store.hear(bytes(32), [heard(2)])
        store = reopened(store, tmp_path)
        assert list(store.heard(bytes(32))) == [heard(0), heard(2)]
    store.close()


def test_line_that_was_changed_is_named(tmp_path: Path) -> None:
    store = TuningStore.open(tmp_path)
    store.hear(bytes(32), [heard(0)])
    path = tmp_path / "tuning" / "heard" / bytes(32).hex()
    path.write_bytes(b"{}\n")
    store = reopened(store, tmp_path)
    with pytest.raises(HomeError, match="line 1"):
        store.heard(bytes(32))
    store.close()


def test_document_that_was_changed_does_not_load(tmp_path: Path) -> None:
    store = TuningStore.open(tmp_path)
    store.keep_file(record())
    path = tmp_path / "tuning" / "files" / record().artifact.hex()
    path.write_bytes(path.read_bytes()[:-1])
    store.close()
    with pytest.raises(BlindhostError):
        TuningStore.open(tmp_path)
    path.unlink()
    TuningStore.open(tmp_path).close()  # the lock was given back


def test_second_process_is_refused(tmp_path: Path) -> None:
    store = TuningStore.open(tmp_path)
    with pytest.raises(HomeError, match="another gateway"):
        TuningStore.open(tmp_path)
    store.close()
    TuningStore.open(tmp_path).close()


def test_nothing_is_readable_by_others_and_a_folder_that_is_does_not_open(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = TuningStore.open(tmp_path)
        store.keep_file(record())
        store.keep_submission(submission())
        store.hear(bytes(32), [heard(0)])
    finally:
        os.umask(before)
    store.close()
    for path in (tmp_path / "tuning").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    (tmp_path / "tuning" / "files").chmod(0o755)
    with pytest.raises(HomeError):
        TuningStore.open(tmp_path)


def test_no_more_is_kept_than_a_home_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_store, "RECORDS_MAX", 1)
    monkeypatch.setattr(tuning_store, "HEARD_MAX", 2)
    store = TuningStore.open(tmp_path)
    store.keep_file(record(1))
    with pytest.raises(HomeError):
        store.keep_file(record(2))
    store.keep_file(record(1, name="again"))
    store.hear(bytes(32), [heard(n) for n in range(5)])
    store.hear(bytes(32), [heard(9)])
    assert list(store.heard(bytes(32))) == [heard(0), heard(1)]
    store.close()
    assert files.FILE_MODE == 0o600


def test_token_itself_is_nowhere(tmp_path: Path) -> None:
    store = TuningStore.open(tmp_path)
    store.keep_submission(submission(token=token_digest("openai/secret")))
    store.close()
    for path in (tmp_path / "tuning").rglob("*"):
        assert "secret" not in path.name
        assert path.is_dir() or b"secret" not in path.read_bytes()
