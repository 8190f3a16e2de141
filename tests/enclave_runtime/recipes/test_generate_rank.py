"""The rank of a serve job: what it is told and reports, in this process and in a real fork."""

from __future__ import annotations

import array
import itertools
import os
import select
from typing import Any

import pytest

from enclave_runtime.pipes import Frame, FrameReader, write_frame
from enclave_runtime.ranks import RankChild, Seat, fork_ranks, join_world
from enclave_runtime.recipes.desk import Desk
from enclave_runtime.recipes.evaluate import Words
from enclave_runtime.recipes.generate import Asked, run
from enclave_runtime.recipes.run import run_rank
from enclave_runtime.workspace import SharedMap
from tests.assets import job_manifest, tiny_model
from tests.enclave_runtime.clean import in_clean_process
from tests.enclave_runtime.recipes.engines import (
    Replies,
    adapter_bytes,
    asked,
    engine,
    generate_recipe,
    replies,
    tiny,
)
from trust.encoding import digest
from trust.errors import SessionError
from trust.jobs import ClientKey, JobKind, JobManifest
from trust.model_files import check_model_files


def serve_job(**recipe: Any) -> JobManifest:
    client = ClientKey(identity=digest(b"client"), tokens=None)
    return job_manifest(
        generate_recipe(**recipe),
        kind=JobKind.SERVE,
        client_keys=(client,),
        local_ranks=1,
        rows=1,
    )


def forked(job: JobManifest, tell: list[Frame], until: int) -> list[tuple[str, dict, bytes]]:
    """Fork the rank of a serve job, tell it, and return what it reports until `until` replies are
    whole; then close its pipe, and see it end."""
    model = tiny_model()
    weights = SharedMap(len(model.weights))
    weights.map[:] = model.weights
    files = check_model_files(model.files, template=None)

    def main(seat: Seat) -> None:
        accelerator = join_world(seat, wanted=1)
        run_rank(seat, accelerator, job, files, weights, 1, "class")

    (child,) = fork_ranks(1, main)
    try:
        for frame in tell:
            write_frame(child.control, frame)
        frames = heard(child, until)
        os.close(child.control)
        if until:
            assert child.reap() == 0
        return [(each.kind, each.fields, each.content) for each in frames]
    finally:
        child.end()


def heard(child: RankChild, until: int) -> list[Frame]:
    frames: list[Frame] = []
    while not child.reader.ended:
        finished = [item for each in frames for item in each.fields.get("items", []) if item[2]]
        if until and len(finished) >= until:
            break
        assert select.select([child.reader.descriptor], [], [], 60)[0], frames
        frames += child.reader.read_waiting()
    return frames


def ask(request: Asked) -> Frame:
    fields = {
        name: getattr(request, name)
        for name in ("handle", "adapter", "tokens_max", "temperature", "top_p", "seed")
    }
    content = array.array("I", request.ids).tobytes()
    return Frame(kind="ask", fields=fields, content=content)


BEGIN = [Frame(kind="weights", fields={}), Frame(kind="begin", fields={"resumes": False})]


class Watched(Desk):
    """A desk whose parent goes away the second time that the rank waits."""

    parent: int
    waits: list[bool]

    def orders(self, *, wait: bool) -> list[Frame]:
        self.waits.append(wait)
        assert len(self.waits) < 1000, "an idle rank spins"
        if self.waits.count(True) == 2:
            os.close(self.parent)
        return super().orders(wait=wait)


def test_idle_rank_waits_and_a_busy_one_reports_every_20_ms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = itertools.count()
    monkeypatch.setattr(
        "enclave_runtime.recipes.generate.monotonic", lambda: next(now) / 256
    )  # 4 ms each
    (control, parent), (reports, child) = os.pipe(), os.pipe()
    os.set_blocking(reports, False)
    desk = Watched(rank=0, control=control, reports=child)
    desk.parent, desk.waits = parent, []
    for frame in (*BEGIN, ask(asked(1, tokens_max=80)), ask(asked(2, tokens_max=80))):
        write_frame(parent, frame)
    words = Words(pad=0, eos_ids=frozenset(), context=512)
    run(desk, serve_job(), tiny(), words)
    for descriptor in (control, child):
        os.close(descriptor)
    ready, *generated = FrameReader(reports).read_waiting()
    os.close(reports)
    assert ready.kind == "ready"
    assert desk.waits == [True, *[False] * 79, True]
    counts = [[item[:3] for item in each.fields["items"]] for each in generated]
    assert counts == [[[1, 6, ""], [2, 6, ""]]] * 13 + [[[1, 2, "length"], [2, 2, "length"]]]


def test_adapters_are_numbered_from_one_without_a_gap() -> None:
    control, parent = os.pipe()
    desk = Desk(rank=0, control=control, reports=-1)
    for number in (3, 1):
        write_frame(parent, Frame(kind="adapter", fields={"index": number}, content=b"x"))
    write_frame(parent, BEGIN[1])
    desk.await_begin()
    with pytest.raises(SessionError, match=r"adapters \[1, 3\]"):
        desk.adapters()
    for descriptor in (control, parent):
        os.close(descriptor)


@pytest.mark.slow
def test_rank_serves_base_and_adapters_until_its_pipe_ends() -> None:
    adapter = adapter_bytes(1)
    requests = [asked(n, adapter=n % 2, temperature=n % 3, tokens_max=20) for n in range(9)]
    wanted = replies(engine(tiny(), adapters=(adapter,)), *requests, asked(50, tokens_max=500))
    tell = [
        Frame(kind="adapter", fields={"index": 1}, content=adapter),
        *BEGIN,
        *map(ask, requests),
        ask(asked(50, tokens_max=500)),
        ask(asked(60, tokens_max=100)),
        Frame(kind="cancel", fields={"handle": 60}),
    ]
    ready, *generated = in_clean_process(forked, serve_job(), tell, 10)
    assert ready[0] == "ready"
    said = Replies()
    for kind, fields, content in generated:
        assert kind == "generated"
        ids = array.array("I", content).tolist()
        for handle, count, finish, text in fields["items"]:
            said.ids.setdefault(handle, []).extend(ids[:count])
            said.finish[handle], said.texts[handle] = finish, text
            del ids[:count]
        assert not ids
    said.ids.pop(60, None)
    assert said.ids == wanted.ids
    assert said.finish.keys() - {60} == wanted.finish.keys()
    assert said.finish[50] == "error"
    assert said.texts[50].startswith("length")
    assert sum(len(ids) for ids in said.ids.values()) == 180


@pytest.mark.slow
def test_rank_refuses_an_adapter_that_does_not_fit_and_names_it() -> None:
    tell = [
        Frame(kind="adapter", fields={"index": 1}, content=adapter_bytes(1)),
        Frame(kind="adapter", fields={"index": 2}, content=adapter_bytes(2, base_model="ff" * 32)),
        *BEGIN,
    ]
    ((kind, fields, _content),) = in_clean_process(forked, serve_job(), tell, 0)
    assert kind == "failed"
    assert fields["text"] == "rank 0: adapter 2: it is of another base model"
