"""Slow work, told as it goes; and a dataset checked to its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.aside import Finished, Stepped, StoppedError, iterating, stepping
from client.dataset_check import FAULTS_MAX, TOLD_BYTES, check_dataset
from client.sealed import Step
from tests.client.test_owner_and_buyer import ROW


async def test_steps_come_as_they_are_made_and_then_the_result() -> None:
    go = threading.Event()

    def work(step: Step) -> str:
        step(1, 2)
        assert go.wait(20)
        step(2, 2)
        return "done"

    found: list[object] = []
    async for each in stepping(lambda step: asyncio.to_thread(work, step)):
        found.append(each)
        go.set()
    assert found == [Stepped(done=1, total=2), Stepped(done=2, total=2), Finished(result="done")]


async def test_an_error_of_the_work_is_raised_where_it_is_read() -> None:
    async def work(step: Step) -> None:
        step(1, 2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async for _ in stepping(work):
            pass


async def test_who_stops_reading_stops_the_work_at_its_next_step() -> None:
    stopped, begun = threading.Event(), threading.Event()

    def work(step: Step) -> None:
        try:
            for number in range(1_000_000):
                step(number, 1_000_000)
                begun.set()
        except StoppedError:
            stopped.set()
            raise

    steps = stepping(lambda step: asyncio.to_thread(work, step))
    assert isinstance(await anext(steps), Stepped)
    await steps.aclose()  # type: ignore[attr-defined]
    assert stopped.is_set()


async def test_items_of_an_iterator_are_made_in_a_thread() -> None:
    here = threading.get_ident()

    def items() -> Iterator[bool]:
        for _ in range(3):
            yield threading.get_ident() != here

    assert [each async for each in iterating(items())] == [True, True, True]


# --- a dataset -----------------------------------------------------------------------------------


def test_every_broken_line_is_named_and_what_stands_there_is_not(tmp_path: Path) -> None:
    bad = '{"messages": [{"role": "canary", "content": "x"}]}\n'
    (*_, last) = check_dataset(_written(tmp_path, ROW + bad + ROW + "{}\n" + "canary\n"))
    assert (last.done, last.rows, last.faults_total) == (True, 2, 3)
    assert [each.line for each in last.faults] == [2, 4, 5]
    assert last.longest == max(len(ROW), len(bad)) - 1
    assert "canary" not in repr(last)


def test_a_hundred_faults_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    (*_, last) = check_dataset(_written(tmp_path, "{}\n" * 250 + ROW))
    assert (len(last.faults), last.faults_total, last.rows) == (FAULTS_MAX, 250, 1)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (last,) = check_dataset(_written(tmp_path, ""))
    assert (last.done, last.faults_total) == (True, 1)


def test_progress_is_told_and_never_beyond_the_file(tmp_path: Path) -> None:
    found = list(check_dataset(_written(tmp_path, ROW * (3 * TOLD_BYTES // len(ROW)))))
    assert len(found) >= 3
    assert [each.bytes_done for each in found] == sorted(each.bytes_done for each in found)
    assert found[-1].bytes_done == found[-1].bytes_total
    assert [each.done for each in found] == [False] * (len(found) - 1) + [True]


def _written(folder: Path, content: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(content)
    return path
