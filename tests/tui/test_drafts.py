"""A draft over a quit: ids and numbers in a private file, and nothing else."""

from __future__ import annotations

import json
import stat

import pytest

from tests.tui.scenes.new_job import KEPT
from tui.drafts import BYTES_MAX, DraftFile, KeptDraft


def test_a_draft_comes_back_as_it_was_and_its_file_is_private(tmp_path):
    path = tmp_path / "window" / "draft.json"
    drafts = DraftFile(path)
    assert drafts.load() is None
    drafts.save(KEPT)
    drafts.save(KEPT)
    assert drafts.load() == KEPT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    drafts.forget()
    drafts.forget()
    assert drafts.load() is None
    assert list(path.parent.iterdir()) == []


def test_what_is_no_id_and_no_number_of_its_field_is_never_written(tmp_path):
    path = tmp_path / "draft.json"
    canary = "a row of content with blanks"
    fields = {**KEPT.fields, "rank": canary, "name": canary, "path": "/home/ana/x", "steps": "20"}
    DraftFile(path).save(KeptDraft(model=canary, data="8f" * 32, fields=fields))
    text = path.read_text()
    assert "canary" not in text
    assert "content" not in text
    assert "ana" not in text
    assert json.loads(text)["fields"]["steps"] == "20"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"version": 2}',
        b"[" * 60_000,
        b" " * BYTES_MAX + b'{"version": 1}',
    ],
)
def test_an_odd_file_is_no_draft(tmp_path, content):
    path = tmp_path / "draft.json"
    path.write_bytes(content)
    assert DraftFile(path).load() is None


def test_odd_values_in_a_draft_are_left_out(tmp_path):
    path = tmp_path / "draft.json"
    value = {"version": 1, "model": 7, "data": "../x", "fields": {"rank": "9" * 99, "seed": "3"}}
    path.write_text(json.dumps(value))
    assert DraftFile(path).load() == KeptDraft(fields={"seed": "3"})
    path.write_text(json.dumps({"version": 1, "fields": [1]}))
    assert DraftFile(path).load() == KeptDraft()


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path):
    target, path = tmp_path / "other", tmp_path / "draft.json"
    target.write_text('{"version": 1}')
    path.symlink_to(target)
    assert DraftFile(path).load() is None
    DraftFile(path).save(KEPT)
    assert target.read_text() == '{"version": 1}'
    assert DraftFile(path).load() == KEPT
