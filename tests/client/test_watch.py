"""A job's story: merged, ordered, told once, resumed exactly; and where the job stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.progress import read_progress
from client.stages import STAGES, StageState
from client.story import EVENTS_MAX, SAID_MAX, EventKind, Happening, Story, StoryEvent
from client.watch import JobStanding, JobUpdate, watch_job, watch_jobs
from marketplace.wire import JobState, LeaseState
from tests.client.stage import Stage
from tests.client.watch_stage import HOSTS, Watched, at_step, loss, make_stage
from tests.trust import release_world as rw
from trust.messages import End, Progress, ProgressEvent

Event, Lease = ProgressEvent, LeaseState


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Both brokers, running."""
    stage = make_stage(tmp_path)
    for name in ("owner", "buyer"):
        await stage.start(name)
    yield stage
    for name in ("owner", "buyer"):
        stage.stop(name)


async def look(stage: Stage, watched: Watched, after: int = 0) -> list[JobUpdate]:
    """One round."""
    each = stage.custody["buyer"]
    found = watch_job(
        watched,
        each.home,
        each.keys,
        stage.job.digest,
        clock=stage.clock,
        after_event=after,
        follow=False,
    )
    return [update async for update in found]


def events(updates: list[JobUpdate]) -> list[StoryEvent]:
    return [each for each in updates if isinstance(each, StoryEvent)]


def standing(updates: list[JobUpdate]) -> JobStanding:
    (found,) = [each for each in updates if isinstance(each, JobStanding)]
    return found


def state_of(updates: list[JobUpdate], name: str) -> StageState:
    return {each.name: each.state for each in standing(updates).stages}[name]


async def seated(stage: Stage, enclave: rw.Enclave, generation: int = 1) -> None:
    while len(stage.orders) < generation:
        stage.order(len(stage.orders) + 1)
    assert isinstance(await stage.ask("buyer", enclave, generation), bytes)


async def test_every_source_tells_its_part_once_and_in_order(stage: Stage) -> None:
    watched, enclave = Watched(stage), rw.Enclave()
    told = events(await look(stage, watched))
    assert [each.kind for each in told] == [
        EventKind.SUBMITTED,
        EventKind.STATE,
        EventKind.WAITING,
    ]
    await seated(stage, enclave)
    watched.runs(1, Lease.READY)
    watched.says(enclave, 1, Event.STARTED)
    watched.says(enclave, 2, Event.STEP, step=10, milliseconds=5000, measures=loss("2.17"))
    watched.settles(stage.receipt(enclave, 1, 10), 500_000)
    updates = await look(stage, watched, after=told[-1].number)
    fresh = events(updates)
    assert [each.number for each in fresh] == list(range(4, 4 + len(fresh)))
    assert {each.kind for each in fresh} == {
        EventKind.STATE,
        EventKind.MATCHED,
        EventKind.LEASE,
        EventKind.RELEASED,
        EventKind.STARTED,
        EventKind.RECEIPT,
    }
    assert [each.event for each in updates if isinstance(each, Progress)] == [
        Event.STARTED,
        Event.STEP,
    ]
    assert events(await look(stage, watched, after=fresh[-1].number)) == []
    whole = events(await look(stage, watched))
    assert whole == told + fresh


async def test_a_job_resumed_after_its_hosts_death_reads_as_such(stage: Stage) -> None:
    watched, first, second = Watched(stage), rw.Enclave(), rw.Enclave()
    await seated(stage, first)
    watched.runs(1, Lease.READY)
    watched.says(first, 1, Event.STARTED)
    watched.says(first, 2, Event.STEP, step=61, milliseconds=60_000)
    await look(stage, watched)
    await seated(stage, second, 2)
    watched.runs(2, Lease.READY, host=HOSTS[1])
    watched.says(second, 1, Event.STARTED, generation=2, step=60, resumed_from=at_step(60))
    watched.says(second, 2, Event.STEP, generation=2, step=70, milliseconds=5000)
    updates = await look(stage, watched)
    kinds = [each.kind for each in events(updates)]
    assert kinds.index(EventKind.HOST_LOST) < kinds.index(EventKind.RESUMED)
    words = [each.words for each in events(updates) if each.kind is EventKind.RESUMED]
    assert words == ["resumed at step 60 on a second host: the same run, generation 2"]
    now = standing(updates)
    assert now.hosts == HOSTS
    assert now.milliseconds_left == 15_000  # 30 steps at the pace of ten in five seconds
    (older,) = [e for e in events(updates) if e.about == "released:1:0"]
    assert "chip 0000" in older.words


async def test_a_record_of_no_attested_key_is_a_fault_until_the_log_shows_its_seat(
    stage: Stage,
) -> None:
    watched, enclave = Watched(stage), rw.Enclave()
    watched.runs(1, Lease.ATTESTING)
    watched.says(enclave, 1, Event.STARTED)
    updates = await look(stage, watched)
    assert not [each for each in updates if isinstance(each, Progress)]
    assert EventKind.FAULT in {each.kind for each in events(updates)}
    assert state_of(updates, "train") is StageState.WAITING
    await seated(stage, enclave)
    assert [each for each in await look(stage, watched) if isinstance(each, Progress)]


async def test_a_receipt_under_another_key_is_shown_as_one_that_does_not_hold(
    stage: Stage,
) -> None:
    watched = Watched(stage)
    await seated(stage, rw.Enclave())
    watched.runs(1, Lease.READY)
    watched.settles(stage.receipt(rw.Enclave(), 1, 10), 500_000)
    (fault,) = [e for e in events(await look(stage, watched)) if e.kind is EventKind.FAULT]
    assert "DOES NOT HOLD" in fault.words


async def test_stages_say_who_acts_and_cost_says_what_is_at_most(stage: Stage) -> None:
    watched, enclave = Watched(stage), rw.Enclave()
    updates = await look(stage, watched)
    assert [each.name for each in standing(updates).stages] == list(STAGES)
    queue = standing(updates).stages[1]
    assert (queue.state, queue.words) == (StageState.RUNNING, "key broker of qwen")
    watched.runs(1, Lease.PROVISIONING)
    updates = await look(stage, watched)
    assert state_of(updates, "match") is StageState.DONE
    assert state_of(updates, "launch") is StageState.RUNNING
    await seated(stage, enclave)
    watched.runs(1, Lease.READY)
    watched.says(enclave, 1, Event.STARTED)
    watched.says(enclave, 2, Event.STEP, step=50, milliseconds=5000)
    watched.settles(stage.receipt(enclave, 1, 50), 500_000)
    updates = await look(stage, watched)
    assert state_of(updates, "train") is StageState.RUNNING
    cost = standing(updates).cost
    assert (cost.spent, cost.cap, cost.projected) == (500_000, 6_000_000, 1_000_000)
    assert cost.cap_lasts == 5_500_000  # a thousand microcredits a second


async def test_an_end_ends_the_watch_and_skips_what_is_left(stage: Stage) -> None:
    watched, enclave = Watched(stage), rw.Enclave()
    await seated(stage, enclave)
    watched.runs(1, Lease.READY)
    watched.says(enclave, 1, Event.STARTED)
    watched.is_now(JobState.FAILED)
    each = stage.custody["buyer"]
    found = watch_job(
        watched, each.home, each.keys, stage.job.digest, clock=stage.clock, poll_seconds=0
    )
    updates = [update async for update in found]
    assert events(updates)[-1].kind is EventKind.ENDED
    assert state_of(updates, "train") is StageState.FAILED
    assert state_of(updates, "settle") is StageState.SKIPPED
    watched.is_now(JobState.SUCCEEDED)
    updates = await look(stage, watched)
    assert {each.state for each in standing(updates).stages} == {StageState.DONE}


async def test_a_last_receipt_brings_the_job_to_its_settlement(stage: Stage) -> None:
    watched, enclave = Watched(stage), rw.Enclave()
    await seated(stage, enclave)
    watched.runs(1, Lease.DRAINING)
    for number, event in enumerate((Event.STARTED, Event.FINISHED), start=1):
        watched.says(enclave, number, event, step=100 * (number - 1))
    assert state_of(await look(stage, watched), "receipt") is StageState.RUNNING
    watched.settles(stage.receipt(enclave, 1, 100, end=End.DONE, outputs=(bytes(32),)), 900_000)
    assert state_of(await look(stage, watched), "settle") is StageState.RUNNING


async def test_the_list_of_jobs_comes_again_only_when_it_changes(stage: Stage) -> None:
    watched = Watched(stage)
    found = watch_jobs(watched, poll_seconds=0)
    first = await anext(found)
    following = asyncio.ensure_future(anext(found))
    before = watched.asked
    while watched.asked < before + 5:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    assert not following.done()
    watched.is_now(JobState.CANCELLED)
    assert await following != first
    await found.aclose()  # type: ignore[attr-defined]


# --- the story on the disk -----------------------------------------------------------------------


def happening(about: str, at: int | None = None, kind: EventKind = EventKind.LEASE) -> Happening:
    return Happening(about=about, at=at, kind=kind, words=about)


def test_two_watchers_tell_one_story_with_one_numbering(tmp_path: Path) -> None:
    one, other = Story(tmp_path, bytes(32)), Story(tmp_path, bytes(32))
    one.tell([happening("a"), happening("b")], 5)
    other.tell([happening("b"), happening("c")], 6)
    one.tell([happening("c"), happening("d")], 7)
    other.tell([], 8)
    assert one.events == other.events
    assert [(each.number, each.about) for each in one.events] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
        (4, "d"),
    ]


@pytest.mark.parametrize("cut", [1, 3, 4, 40])
def test_half_a_record_at_the_end_goes_and_its_event_is_told_again(
    tmp_path: Path, cut: int
) -> None:
    story = Story(tmp_path, bytes(32))
    story.tell([happening("a")], 5)
    path = tmp_path / "events" / bytes(32).hex()
    whole = path.read_bytes()
    story.tell([happening("b")], 6)
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    again = Story(tmp_path, bytes(32))
    again.tell([happening("b")], 7)
    assert [(each.about, each.at) for each in again.events] == [("a", 5), ("b", 7)]
    third = Story(tmp_path, bytes(32))
    third.tell([], 8)
    assert third.events == again.events


def test_what_is_left_of_a_long_half_record_is_no_record_behind_a_short_one(tmp_path: Path) -> None:
    story = Story(tmp_path, bytes(32))
    story.tell([happening("x" * 100)], 5)
    path = tmp_path / "events" / bytes(32).hex()
    path.write_bytes(path.read_bytes()[:-1])
    for number in range(3):
        again = Story(tmp_path, bytes(32))
        again.tell([happening(f"y{number}")], 6)
        assert read_progress(path)[1] == path.stat().st_size
    assert [each.about for each in again.events] == ["y0", "y1", "y2"]


def test_a_market_that_says_ever_new_things_fills_no_disk_and_hides_no_end(tmp_path: Path) -> None:
    story = Story(tmp_path, bytes(32))
    story.tell([happening(f"x{n}") for n in range(SAID_MAX + 50)], 5)
    assert len(story.events) == SAID_MAX
    story.tell([happening("ended", kind=EventKind.ENDED)], 6)
    story.tell([happening("released", 4, EventKind.RELEASED)], 7)
    assert [each.about for each in story.events[SAID_MAX:]] == ["ended", "released"]
    assert SAID_MAX < EVENTS_MAX


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=6))
def test_a_story_tells_each_thing_once_whatever_comes_in_whatever_order(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("story")
    for number, told in enumerate(rounds):
        before = Story(folder, bytes(32))
        before.tell([], number)
        known = list(before.events)
        story = Story(folder, bytes(32))
        story.tell([happening(f"x{n}", n * 100) for n in told], number)
        assert story.events[: len(known)] == known
    found = Story(folder, bytes(32))
    found.tell([], 99)
    assert sorted(each.about for each in found.events) == sorted(
        {f"x{n}" for told in rounds for n in told}
    )
    assert [each.number for each in found.events] == list(range(1, len(found.events) + 1))


def test_nothing_that_came_sealed_stands_in_the_story(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)

    async def play() -> None:
        for name in ("owner", "buyer"):
            await stage.start(name)
        watched, enclave = Watched(stage), rw.Enclave()
        await seated(stage, enclave)
        watched.runs(1, Lease.READY)
        watched.says(enclave, 1, Event.STARTED, text="canary-words")
        watched.says(enclave, 2, Event.EVALUATED, measures=loss("7.77"), text="canary-words")
        assert "evaluated" in {each.kind.value for each in events(await look(stage, watched))}
        for name in ("owner", "buyer"):
            stage.stop(name)

    asyncio.run(play())
    content = (tmp_path / "buyer" / "events" / stage.job.digest.hex()).read_bytes()
    assert b"canary" not in content
    assert b"7.77" not in content
