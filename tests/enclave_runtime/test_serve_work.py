"""A serve job's real processes: a child that tokenizes, a rank that writes, adapters at once."""

from __future__ import annotations

import array
import dataclasses
import select
from typing import Any

from enclave_runtime.events import Generated
from enclave_runtime.serve_desk import Asked
from enclave_runtime.work import Failed, Ready, Work
from tests.assets import Model, digest, job_manifest, lora_recipe, seal, tiny_model
from tests.enclave_runtime.clean import in_clean_process
from tests.enclave_runtime.jobs import run_job
from trust.artifacts import ArtifactKind
from trust.identity import PartyKey
from trust.jobs import ClientKey, GenerateRecipe, Input, InputRole, JobKind, JobManifest, Precision
from trust.serving import ChatMessage, GenerateRequest, Role

SECONDS_MAX = 60


def serve_job(adapters: int) -> JobManifest:
    recipe = GenerateRecipe(
        slots=4,
        reply_tokens_max=16,
        precision=Precision.FP32,
        fixed_shapes=False,
        tick_milliseconds=50,
        frame_bytes=256,
    )
    named = [Input(role=InputRole.MODEL, artifact=digest(b"model"))]
    named += [
        Input(role=InputRole.ADAPTER, artifact=digest(b"%d" % n)) for n in range(1, adapters + 1)
    ]
    return job_manifest(
        recipe,
        kind=JobKind.SERVE,
        inputs=tuple(named),
        local_ranks=1,
        length_max=64,
        client_keys=(ClientKey(identity=PartyKey.generate().identity, tokens=None),),
    )


class Served:
    """A serve job's work, fed and read as the session's shell does."""

    def __init__(self, model: Model, adapters: list[bytes]) -> None:
        job, weights = serve_job(len(adapters)), model.sealed()
        self.work = Work.prepare(
            job, {InputRole.MODEL: weights.manifest}, model.files, generation=1
        )
        self.replies: dict[int, tuple[list[int], str]] = {}
        self.failed: list[str] = []
        self.ready = False
        self.work.fill(InputRole.MODEL, weights.opener(), weights.read)
        for content in adapters:
            each = seal(ArtifactKind.ADAPTER, content)
            self.work.fill(InputRole.ADAPTER, each.opener(), each.read)
        self.work.begin(None)

    def ask(self, handle: int, text: str, **changes: Any) -> None:
        body = GenerateRequest(
            adapter=None,
            messages=(ChatMessage(role=Role.USER, content=text),),
            prompt=None,
            tokens_max=8,
            temperature="0",
            top_p="1",
            seed=None,
            stop=(),
        )
        asked = Asked(
            handle=handle,
            ids=self.work.prompt(body),
            adapter=0,
            tokens_max=8,
            temperature=0.0,
            top_p=1.0,
            seed=1,
        )
        self.work.ask(dataclasses.replace(asked, **changes))

    def listen(self, *handles: int) -> None:
        """Until these replies have ended."""
        while not self.failed and any(not self.replies.get(h, ([], ""))[1] for h in handles):
            assert select.select([self.work], [], [], SECONDS_MAX)[0], self.replies
            for event in self.work.events():
                match event:
                    case Ready():
                        self.ready = True
                    case Generated(items=items):
                        for item in items:
                            ids, _ = self.replies.get(item.handle, ([], ""))
                            self.replies[item.handle] = ([*ids, *item.ids], item.finish)
                    case Failed(text=text):
                        self.failed.append(text)

    def text(self, handle: int) -> str:
        return self.work.decode(array.array("I", self.replies[handle][0]).tobytes())


def test_base_and_adapter_answer_in_one_batch_each_as_it_does_alone() -> None:
    alone, together, ready = in_clean_process(base_and_adapter)
    assert ready
    assert alone == together
    assert alone[0] != alone[1]


def base_and_adapter() -> tuple[list[Any], list[Any], bool]:
    model = tiny_model()
    recipe = lora_recipe(steps=4, learning_rate="0.5")
    job = job_manifest(recipe)
    model_id = digest(InputRole.MODEL.value.encode())
    assert job.input(InputRole.MODEL) == model_id
    adapter = run_job(job, model=model).finished.adapter
    served = Served(model, [adapter, adapter])
    try:
        for handle, number in enumerate((0, 1, 2), start=1):
            served.ask(handle, "Where is my order?", adapter=number)
            served.listen(handle)
        for handle, number in enumerate((0, 1, 2), start=11):
            served.ask(handle, "Where is my order?", adapter=number)
        served.listen(11, 12, 13)
        assert not served.failed, served.failed
        return (
            [served.replies[n] for n in (1, 2, 3)],
            [served.replies[n] for n in (11, 12, 13)],
            served.ready,
        )
    finally:
        served.work.stop()


def test_a_bad_request_fails_alone_and_a_cancelled_one_is_heard_no_more() -> None:
    bad, good, text = in_clean_process(bad_and_good)
    assert bad == ([], "error")
    assert good[1] in {"stop", "length"}
    assert isinstance(text, str)


def bad_and_good() -> tuple[Any, Any, str]:
    served = Served(tiny_model(), [])
    try:
        served.ask(1, "no such adapter", adapter=7)
        served.ask(2, "Hello")
        served.ask(3, "never mind")
        served.work.cancel(3)
        served.listen(1, 2)
        assert not served.failed, served.failed
        return served.replies[1], served.replies[2], served.text(2)
    finally:
        served.work.stop()


def test_an_adapter_that_is_none_ends_the_work_before_anything_is_served() -> None:
    (text,) = in_clean_process(no_adapter)
    assert "rank 0" in text


def no_adapter() -> list[str]:
    served = Served(tiny_model(), [b"no safetensors"])
    try:
        served.listen(1)
        return served.failed
    finally:
        served.work.stop()
