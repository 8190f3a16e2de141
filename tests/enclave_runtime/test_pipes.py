"""Frames between the enclave's processes: whole, bounded, in order."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave_runtime import pipes
from enclave_runtime.pipes import Frame, FrameReader, write_all, write_frame
from enclave_runtime.recipes.desk import Desk
from enclave_runtime.rows import Row, pack_rows, unpack_rows
from trust.errors import SessionError, SizeLimitError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_frames_come_out_in_order_however_they_are_cut(pipe: tuple[int, int]) -> None:
    read, write = pipe
    frames = [Frame(kind="a", fields={"n": n}, content=bytes(n)) for n in range(20)]
    for frame in frames:
        write_frame(write, frame)
    whole = os.read(read, 1 << 16)
    reader, found = FrameReader(read), []
    for start in range(0, len(whole), 7):
        write_all(write, whole[start : start + 7])
        found += reader.read_waiting()
    assert found == frames
    os.close(write)
    assert reader.read_waiting() == []
    assert reader.ended


def test_frame_over_the_limit_is_neither_written_nor_read(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = pipe
    monkeypatch.setattr(pipes, "FRAME_BYTES_MAX", 100)
    with pytest.raises(SizeLimitError):
        write_frame(write, Frame(kind="a", fields={}, content=bytes(100)))
    write_all(write, (101).to_bytes(8, "big"))
    with pytest.raises(SizeLimitError, match="101"):
        FrameReader(read).read_waiting()


def test_frame_whose_fields_are_cut_off_is_refused(pipe: tuple[int, int]) -> None:
    read, write = pipe
    write_all(write, (6).to_bytes(8, "big") + (9).to_bytes(4, "big") + b"{}")
    with pytest.raises(SessionError, match="cut off"):
        FrameReader(read).read_waiting()


def test_rank_refuses_what_the_parent_never_says(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.set_blocking(read, True)
    write_frame(write, Frame(kind="evil", fields={}))
    with pytest.raises(SessionError, match="'evil'"):
        Desk(rank=0, control=read, reports=-1).await_weights()


def test_rank_whose_parent_is_gone_stops(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.set_blocking(read, True)
    os.close(write)
    with pytest.raises(EOFError):
        Desk(rank=0, control=read, reports=-1).await_begin()


def test_lower_allowance_takes_nothing_back(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.set_blocking(read, True)
    for step in (5, 3):
        write_frame(write, Frame(kind="allow", fields={"step": step}))
    Desk(rank=0, control=read, reports=-1).await_allowance(5)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 50), max_size=20))
def test_rows_survive_their_packing(lengths: list[int]) -> None:
    rows = [Row(ids=bytes(4 * n), supervised=b"\x01" * n) for n in lengths]
    assert list(unpack_rows(pack_rows(rows))) == rows
