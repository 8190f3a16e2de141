"""Faults of a job's processes and inputs, and what a whole job must never touch."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from enclave_runtime import ranks, workspace
from enclave_runtime.work import Failed, RowError, Stepped, Work
from tests.assets import chat_rows, evaluation, job_manifest, lora_recipe, seal, tiny_model
from tests.enclave_runtime.clean import in_clean_process
from tests.enclave_runtime.jobs import inputs, run_job
from trust.artifacts import ArtifactKind
from trust.errors import BlindhostError, RefusedError
from trust.jobs import InputRole, JobManifest

WITH_ALL = lora_recipe(steps=4, evaluation=evaluation())


def refusal(**arguments: Any) -> str:
    """The error of a job that does not start, as text; its children are gone."""
    try:
        run_job(**arguments)
    except BlindhostError as error:
        assert children() == []
        return f"{type(error).__name__}: {error}"
    return "it ran"


def children() -> list[str]:
    return [
        pid
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]


# --- ranks ---------------------------------------------------------------------------------------


def test_rank_that_dies_ends_the_work_once_and_leaves_no_process() -> None:
    found = in_clean_process(die_at, 2)
    assert "rank" in found["text"]
    assert found["failed"] == 1
    assert found["after"] == []
    assert found["children"] == []


def die_at(step: int) -> dict[str, Any]:
    outcome = run_job(job_manifest(), kill_at=step)
    assert len(outcome.losses) < 10
    return {
        "text": outcome.failure,
        "failed": len(outcome.of(Failed)),
        "after": outcome.events[outcome.events.index(outcome.of(Failed)[0]) + 1 :],
        "children": children(),
    }


def test_rank_that_dies_before_its_rows_ends_the_work() -> None:
    assert "rank 1" in in_clean_process(die_before_rows)


def die_before_rows() -> str:
    def kill(work: Work) -> None:
        os.kill(work._ranks[1].pid, signal.SIGKILL)

    return run_job(on_prepared=kill).failure


def test_world_of_another_size_than_the_manifests_is_refused() -> None:
    found = in_clean_process(join_with_one)
    assert found == "rank 0: world-size: 1 ranks are running, the manifest says 2"


def join_with_one() -> str:
    (child,) = ranks.fork_ranks(1, lambda seat: ranks.join_world(seat, wanted=2))
    child.reap()
    (frame,) = child.reader.read_waiting()
    child.end()
    assert child.status == 1
    return str(frame.fields["text"])


def test_accelerator_of_each_rank_counts_all_of_them() -> None:
    assert in_clean_process(join_with_three) == [(0, 3), (1, 3), (2, 3)]


def join_with_three() -> list[tuple[int, int]]:
    def main(seat: ranks.Seat) -> None:
        accelerator = ranks.join_world(seat, wanted=3)
        accelerator.wait_for_everyone()  # rank 0 is the others' rendezvous
        place = [accelerator.process_index, accelerator.num_processes]
        ranks.write_frame(seat.reports, ranks.Frame(kind="place", fields={"place": place}))

    found = []
    for child in ranks.fork_ranks(3, main):
        child.reap()
        (frame,) = child.reader.read_waiting()
        child.end()
        found.append(tuple(frame.fields["place"]))
    return found


def test_ranks_are_not_forked_beside_a_thread() -> None:
    assert "threads" in in_clean_process(fork_beside_a_thread)


def fork_beside_a_thread() -> str:
    import threading

    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        return refusal()
    finally:
        stop.set()
        thread.join()


def test_ranks_have_no_descriptor_of_the_parent_and_sessions_of_their_own() -> None:
    found = in_clean_process(look_at_ranks)
    assert found["sessions"] == 3  # two ranks and this process
    assert found["door"] not in found["descriptors"]
    assert set(found["files"]) <= {"/dev/null"}


def look_at_ranks() -> dict[str, Any]:
    seen: dict[str, Any] = {"sessions": 0, "descriptors": [], "files": []}
    door, other = os.pipe()  # as the door would be
    seen["door"] = str(Path(f"/proc/self/fd/{door}").readlink())

    def look(work: Work) -> None:
        work._tell(ranks.Frame(kind="allow", fields={"step": 0}))
        sessions = {os.getsid(0)}
        for child in work._ranks:
            while os.getsid(child.pid) == os.getsid(0):  # until it has got so far
                os.sched_yield()
            sessions.add(os.getsid(child.pid))
            for number in Path(f"/proc/{child.pid}/fd").iterdir():
                link = str(number.readlink())
                if int(number.name) > 2:
                    seen["descriptors"].append(link)
                    if link.startswith("/"):
                        seen["files"].append(link)
        seen["sessions"] = len(sessions)

    run_job(job_manifest(lora_recipe(steps=1)), on_prepared=look)
    os.close(door)
    os.close(other)
    return seen


# --- allowance -----------------------------------------------------------------------------------


def test_ranks_take_no_step_above_the_allowed_one() -> None:
    assert in_clean_process(allow_in_parts) == [[], [1, 2, 3], list(range(4, 11))]


def allow_in_parts() -> list[list[int]]:
    import select

    job, model = job_manifest(), tiny_model()
    sealed = inputs(job, model)
    manifests = {role: each.manifest for role, each in sealed.items()}
    work = Work.prepare(job, manifests, model.files, generation=1)
    taken: list[list[int]] = []
    for role, each in sealed.items():
        work.fill(role, each.opener(), each.read)
    work.begin(None)
    for allowed, quiet in ((0, 1.0), (3, 1.0), (99, 1.0)):
        work.allow_until(allowed)
        steps: list[int] = []
        while len(steps) < allowed and select.select([work], [], [], 20 if allowed else quiet)[0]:
            events = work.events()
            steps += [event.step for event in events if isinstance(event, Stepped)]
            if any(type(event).__name__ == "Finished" for event in events):
                break
        if allowed == 3:  # nothing more comes by itself
            assert not [e for e in _wait(work, quiet) if isinstance(e, Stepped)]
        taken.append(steps)
    work.stop()
    work.stop()
    assert children() == []
    return taken


def _wait(work: Work, seconds: float) -> list[Any]:
    import select

    events = []
    while select.select([work], [], [], seconds)[0]:
        events += work.events()
    return events


# --- inputs --------------------------------------------------------------------------------------


def test_broken_line_is_named_and_nothing_runs() -> None:
    lines = chat_rows(30).splitlines(keepends=True)
    lines[16] = b'{"messages": [\n'
    found = in_clean_process(functools.partial(refusal, rows=b"".join(lines)))
    assert found.startswith("RowError: line 17: not JSON")


def test_empty_line_and_missing_rows_are_errors() -> None:
    lines = chat_rows(30).splitlines(keepends=True)
    empty = b"".join([*lines[:3], b"\n", *lines[3:]])
    assert "line 4: not JSON" in in_clean_process(functools.partial(refusal, rows=empty))
    short = b"".join(lines[:-1])
    found = in_clean_process(functools.partial(refusal, rows=short))
    assert found == "RefusedError: rows: 29 rows, the manifest says 30"
    nothing = in_clean_process(functools.partial(refusal, rows=b""))
    assert nothing == "RefusedError: rows: 0 rows, the manifest says 30"


def test_last_line_may_lack_its_line_feed() -> None:
    runner = functools.partial(
        run_job, job_manifest(lora_recipe(steps=1)), rows=chat_rows(30).rstrip(b"\n")
    )
    assert in_clean_process(runner).finished.step == 1


def test_rows_longer_than_a_segment_are_joined_again() -> None:
    # 1,200 long rows cross the 1 MiB border of segments in the middle of a line.
    text = chat_rows(9000)
    assert len(text) > 1 << 20
    recipe = lora_recipe(steps=1)
    runner = functools.partial(run_job, job_manifest(recipe, rows=9000), rows=text)
    assert in_clean_process(runner).finished.step == 1


def test_broken_heldout_line_is_named() -> None:
    runner = functools.partial(refusal, job=job_manifest(WITH_ALL), heldout=chat_rows(3) + b"{}\n")
    assert in_clean_process(runner).startswith("RowError: line 4: ")


@pytest.mark.parametrize("role", [InputRole.MODEL, InputRole.DATASET])
def test_artifact_of_another_kind_than_its_role_is_refused(role: InputRole) -> None:
    job, model = job_manifest(), tiny_model()
    manifests = {r: each.manifest for r, each in inputs(job, model).items()}
    other = InputRole.DATASET if role is InputRole.MODEL else InputRole.MODEL
    manifests[role] = manifests[other]
    with pytest.raises(RefusedError, match=f"kind: input {role.value} is a"):
        Work.prepare(job, manifests, model.files, generation=1)


def test_public_file_outside_the_schema_is_refused_before_anything_is_forked() -> None:
    job, model = job_manifest(), tiny_model()
    manifests = {role: each.manifest for role, each in inputs(job, model).items()}
    files = model.files | {"config.json": model.files["config.json"][:-2] + b',"auto_map":{}}'}
    before = children()
    with pytest.raises(BlindhostError, match="auto_map"):
        Work.prepare(job, manifests, files, generation=1)
    assert children() == before


def test_weights_of_another_model_fail_with_their_name() -> None:
    assert "is missing" in in_clean_process(run_with_foreign_weights)


def run_with_foreign_weights() -> str:
    import dataclasses

    model = tiny_model()
    config = model.files["config.json"].replace(
        b'"num_hidden_layers": 2', b'"num_hidden_layers": 3'
    )
    foreign = dataclasses.replace(model, files=model.files | {"config.json": config})
    return run_job(model=foreign).failure


def test_input_is_filled_once_and_work_begins_with_all_of_them() -> None:
    found = in_clean_process(fill_twice)
    assert found == ["inputs that are not filled: dataset", "input model was filled before"]


def fill_twice() -> list[str]:
    job, model = job_manifest(), tiny_model()
    sealed = inputs(job, model)
    manifests = {role: each.manifest for role, each in sealed.items()}
    work = Work.prepare(job, manifests, model.files, generation=1)
    each, errors = sealed[InputRole.MODEL], []
    work.fill(InputRole.MODEL, each.opener(), each.read)
    for attempt in (
        lambda: work.begin(None),
        lambda: work.fill(InputRole.MODEL, each.opener(), each.read),
    ):
        try:
            attempt()
        except BlindhostError as error:
            errors.append(str(error))
    work.stop()
    return errors


# --- what a job touches --------------------------------------------------------------------------

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def refuse_writes(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, inherited by every fork: no open for writing, no folder, no removal."""
    if event == "open" and isinstance(arguments[0], str | bytes):
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & _WRITES:
            raise PermissionError(f"open for writing: {path!r}")
    if event in {"os.mkdir", "os.remove", "os.rename", "tempfile.mkstemp", "tempfile.mkdtemp"}:
        raise PermissionError(f"{event}{arguments!r}")


def run_under_the_hook(job: JobManifest) -> dict[str, Any]:
    model = tiny_model()
    heldout = chat_rows(4, first=500)
    before = {str(p) for folder in ("/tmp", "/dev/shm") for p in Path(folder).iterdir()}
    sys.addaudithook(refuse_writes)
    with pytest.raises(PermissionError, match="open for writing"):
        Path("/tmp/blindhost-must-not-be").write_text("x")
    outcome = run_job(job, model=model, heldout=heldout)
    mine = {p for p in _own_files("/tmp", "/dev/shm") if p not in before}
    return {"step": outcome.finished.step, "new": sorted(mine)}


def _own_files(*folders: str) -> list[str]:
    """Files that this process or its forks could have made: torch's and multiprocessing's names."""
    names = ("torch", "sem.", "pymp", "accelerate", "tmp", "gloo", "psm_")
    return [str(p) for f in folders for p in Path(f).iterdir() if p.name.startswith(names)]


def test_whole_job_opens_no_file_for_writing_and_leaves_none() -> None:
    found = in_clean_process(run_under_the_hook, job_manifest(WITH_ALL))
    assert found == {"step": 4, "new": []}


def test_base_weights_in_bf16_are_one_copy_for_all_ranks() -> None:
    from trust.jobs import Precision

    job = job_manifest(lora_recipe(steps=1, precision=Precision.BF16))
    assert in_clean_process(run_job, job).finished.step == 1
    assert in_clean_process(pages_are_shared)


def pages_are_shared() -> bool:
    """The map is one anonymous shared object, without a path in any file system."""
    weights = workspace.SharedMap(5 << 20)
    maps = Path("/proc/self/maps").read_text().splitlines()
    (line,) = [each for each in maps if _size(each) == weights.size and "rw-s" in each]
    return line.endswith("/dev/zero (deleted)")


def _size(line: str) -> int:
    first, last = line.split(maxsplit=1)[0].split("-")
    return int(last, 16) - int(first, 16)


def test_stop_erases_the_weights() -> None:
    assert in_clean_process(erase_on_stop)


def erase_on_stop() -> bool:
    job, model = job_manifest(), tiny_model()
    sealed = inputs(job, model)
    manifests = {role: each.manifest for role, each in sealed.items()}
    work = Work.prepare(job, manifests, model.files, generation=1)
    each = sealed[InputRole.MODEL]
    work.fill(InputRole.MODEL, each.opener(), each.read)
    seen: list[bytes] = []
    kept = work._weights.map
    work._weights.map = _Spy(kept, seen)  # type: ignore[assignment]
    assert kept[:] == model.weights
    work.stop()
    return seen == [bytes(len(model.weights))]


class _Spy:
    """Notes what the map holds when it is closed."""

    def __init__(self, inner: Any, seen: list[bytes]) -> None:
        self._inner, self._seen = inner, seen

    def __setitem__(self, key: Any, value: bytes) -> None:
        self._inner[key] = value

    def close(self) -> None:
        self._seen.append(self._inner[:])
        self._inner.close()


def test_evaluation_stands_in_rank_0s_order_whichever_rank_is_first() -> None:
    work = object.__new__(Work)
    recipe = lora_recipe(evaluation=evaluation(reply_tokens_max=0))
    work._job, work._frames, work._parts = job_manifest(recipe), deque(), {}
    work._over, work._references, work._done = False, [], set()
    fields = {"phase": "base", "loss": 2.0, "tokens": 4, "rows": 1}
    part = ranks.Frame(kind="evaluated", fields=fields)
    step = ranks.Frame(kind="stepped", fields={"step": 1, "loss": 1.0, "tokens": 1, "rows": 1})

    def after(*reports: tuple[int, ranks.Frame]) -> list[str]:
        for rank, frame in reports:
            work._take(rank, frame)
        work._tokens = _NoDecoder()  # type: ignore[assignment]
        return [type(event).__name__ for event in work._drain()]

    assert after((1, part)) == []
    assert after((0, ranks.Frame(kind="ready", fields={}))) == ["Ready"]
    assert after((0, part), (0, step)) == ["Evaluated", "Stepped"]
    fields = {**fields, "phase": "tuned"}
    tuned = ranks.Frame(kind="evaluated", fields=fields)
    assert after((0, tuned), (0, step)) == []
    assert after((1, tuned)) == ["Evaluated", "Stepped"]


class _NoDecoder:
    def decode(self, line: int, ids: bytes) -> str:
        raise AssertionError("there is no reply")


def test_nothing_waits_after_the_end() -> None:
    assert in_clean_process(wait_after_the_end) == [False, []]


def wait_after_the_end() -> list[Any]:
    import select
    import time

    job, model = job_manifest(lora_recipe(steps=1)), tiny_model()
    sealed = inputs(job, model)
    manifests = {role: each.manifest for role, each in sealed.items()}
    work = Work.prepare(job, manifests, model.files, generation=1)
    for role, each in sealed.items():
        work.fill(role, each.opener(), each.read)
    work.begin(None)
    work.allow_until(1)
    while not any(type(event).__name__ == "Finished" for event in work.events()):
        select.select([work], [], [], 20)
    for child in work._ranks:
        deadline = time.monotonic() + 20
        while not select.select([child.pidfd], [], [], 1)[0]:
            assert time.monotonic() < deadline
    found = [bool(select.select([work], [], [], 0)[0]), work.events()]
    work.stop()
    return found


def test_rows_longer_than_the_models_positions_are_refused() -> None:
    job, model = job_manifest(length_max=257), tiny_model()
    manifests = {role: each.manifest for role, each in inputs(job, model).items()}
    with pytest.raises(RefusedError, match="length: 257 tokens; the model has 256"):
        Work.prepare(job, manifests, model.files, generation=1)


def test_job_of_several_enclaves_is_refused() -> None:
    job = job_manifest(lora_recipe(rows_per_step=16), enclaves=2)
    with pytest.raises(RefusedError, match="enclaves"):
        Work.prepare(job, {}, {}, generation=1)


def test_row_error_names_its_line() -> None:
    assert (RowError(3, "x").line, str(RowError(3, "x"))) == (3, "line 3: x")
    assert seal(ArtifactKind.DATASET, b"x").manifest.segments == 1
