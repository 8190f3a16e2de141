"""Job manifests, terms and orders: what contradicts itself is no document."""

from __future__ import annotations

import dataclasses

import pytest

from tests.trust.makers import generate, job_manifest, lora, order, serve_manifest, terms
from trust.encoding import canonical_json, label_bytes
from trust.errors import DocumentError
from trust.jobs import (
    ClientKey,
    EvaluateRecipe,
    Evaluation,
    GenerationOrder,
    Input,
    InputRole,
    JobKind,
    JobManifest,
    LossOn,
    Precision,
    RankLease,
    Terms,
)


@pytest.mark.parametrize(
    "document", [job_manifest(), serve_manifest(), terms(), order(job_manifest().digest)]
)
def test_documents_of_parties_read_back_as_themselves(document: JobManifest | Terms) -> None:
    assert type(document).parse(document.encode()) == document


def test_two_jobs_that_say_the_same_are_two_jobs() -> None:
    first = job_manifest()
    assert dataclasses.replace(first, nonce=bytes([9]) * 32).digest != first.digest


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": 1}, "exactly one of epochs and steps"),
        ({"steps": None}, "exactly one of epochs and steps"),
        ({"dropout": "1"}, "wanted below 1"),
        ({"dropout": "1e-1"}, "is not of the form"),
        ({"targets": ("all-linear", "q_proj")}, "stands alone"),
        ({"targets": ("v_proj", "q_proj")}, "sorted"),
        ({"targets": ()}, "length 0"),
        ({"rank": 0}, "wanted 1 to 256"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(DocumentError, match=text):
        dataclasses.replace(lora(), **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"inputs": (Input(role=InputRole.MODEL, artifact=bytes(32)),)}, "inputs are model"),
        ({"kind": JobKind.EVALUATE}, "inputs are"),
        ({"local_ranks": 3}, "no multiple of 3 ranks"),
        ({"images": (bytes(32),)}, "images"),
        ({"version": 2}, "version: 2, wanted 1 to 1"),
        ({"enclaves": 65}, "wanted 1 to 64"),
    ],
)
def test_a_job_that_contradicts_itself_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(DocumentError, match=text):
        dataclasses.replace(job_manifest(), **changes)


def test_a_dataset_named_twice_is_refused() -> None:
    job = job_manifest()
    with pytest.raises(DocumentError, match="each once"):
        dataclasses.replace(job, inputs=(*job.inputs, job.inputs[1]))


def test_an_evaluation_names_model_and_held_out_rows_only() -> None:
    recipe = EvaluateRecipe(
        evaluation=Evaluation(rows_max=8, reply_tokens_max=8, header_ends_with="]"),
        precision=Precision.FP32,
        loss_on=LossOn.ASSISTANT,
    )
    job = job_manifest()
    kept = tuple(i for i in job.inputs if i.role is not InputRole.DATASET)
    made = dataclasses.replace(job, kind=JobKind.EVALUATE, recipe=recipe, inputs=kept)
    assert JobManifest.parse(made.encode()).recipe == recipe
    assert made.steps == 0


ALICE = ClientKey(identity=bytes([1]) * 32, tokens=None)
BOB = ClientKey(identity=bytes([2]) * 32, tokens=0)
MODEL = Input(role=InputRole.MODEL, artifact=bytes(32))
ADAPTER = Input(role=InputRole.ADAPTER, artifact=bytes([1]) * 32)


def test_a_serve_job_names_its_adapters_in_order_and_takes_no_step() -> None:
    job = serve_manifest(adapters=3)
    assert job.adapters == tuple(bytes([n]) * 32 for n in (1, 2, 3))
    assert (job.steps, job.world_size) == (0, 1)
    assert job.input(InputRole.MODEL) == bytes(32)
    assert serve_manifest(adapters=0).adapters == ()
    assert serve_manifest(adapters=15).adapters[-1] == bytes([15]) * 32


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"client_keys": ()}, "0 client keys"),
        ({"client_keys": (BOB, ALICE)}, "sorted, each once"),
        ({"client_keys": (ALICE, ALICE)}, "sorted, each once"),
        (
            {"client_keys": (ALICE, dataclasses.replace(ALICE, tokens=1))},
            "sorted, each once",
        ),
        (
            {
                "client_keys": tuple(
                    ClientKey(identity=bytes([n]) * 32, tokens=None) for n in range(65)
                )
            },
            "length 65",
        ),
        ({"inputs": (MODEL, ADAPTER, ADAPTER)}, "an adapter stands twice"),
        ({"inputs": (ADAPTER,)}, "wanted model"),
        ({"inputs": (MODEL, MODEL)}, "each once"),
        (
            {"inputs": (MODEL, ADAPTER, Input(role=InputRole.DATASET, artifact=bytes(32)))},
            "wanted model",
        ),
        ({"local_ranks": 2}, "2 processes; a serve job has one"),
        ({"enclaves": 2}, "2 processes; a serve job has one"),
        ({"recipe": lora()}, "wanted heldout, model"),
        ({"recipe": dataclasses.replace(lora(), evaluation=None)}, "serve job with recipe lora"),
        ({"kind": JobKind.EVALUATE}, "evaluate job with recipe generate"),
        ({"length_max": 32}, "leave no prompt"),
        ({"recipe": dataclasses.replace(generate(), reply_tokens_max=64)}, "leave no prompt"),
    ],
)
def test_a_serve_job_that_contradicts_itself_is_refused(
    changes: dict[str, object], text: str
) -> None:
    with pytest.raises(DocumentError, match=text):
        dataclasses.replace(serve_manifest(), **changes)


def test_a_reply_of_one_token_less_than_a_slot_leaves_a_prompt_of_one() -> None:
    recipe = dataclasses.replace(generate(), reply_tokens_max=63)
    assert dataclasses.replace(serve_manifest(), recipe=recipe).length_max == 64


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"inputs": (*job_manifest().inputs, ADAPTER)}, "an adapter is no input of a train job"),
        ({"client_keys": (ALICE,)}, "no other job has any"),
        ({"kind": JobKind.SERVE}, "inputs are"),
        ({"recipe": generate()}, "inputs are"),
    ],
)
def test_a_training_job_has_neither_adapters_nor_clients(
    changes: dict[str, object], text: str
) -> None:
    with pytest.raises(DocumentError, match=text):
        dataclasses.replace(job_manifest(), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": 0},
        {"slots": 257},
        {"reply_tokens_max": 0},
        {"tick_milliseconds": 19},
        {"tick_milliseconds": 10_001},
        {"frame_bytes": 63},
        {"frame_bytes": (1 << 14) + 1},
    ],
)
def test_a_serve_recipe_keeps_its_bounds(changes: dict[str, int]) -> None:
    with pytest.raises(DocumentError, match=next(iter(changes))):
        dataclasses.replace(generate(), **changes)


def test_steps_follow_from_epochs_and_rows() -> None:
    job = job_manifest()
    by_epoch = dataclasses.replace(job.recipe, epochs=3, steps=None)
    assert dataclasses.replace(job, recipe=by_epoch, rows=1200).steps == 3 * 1200 // 8


def test_an_unknown_recipe_and_an_unknown_field_are_refused() -> None:
    value = job_manifest().to_json()
    for changes in ({"recipe": {"name": "shell"}}, {"entrypoint": "python train.py"}):
        data = label_bytes("job") + canonical_json(value | changes)
        with pytest.raises(DocumentError):
            JobManifest.parse(data)


def test_an_order_names_one_lease_for_each_rank_and_its_predecessor() -> None:
    first = order(bytes(32))
    for changes in (
        {"number": 2},
        {"before": bytes(32)},
        {"leases": (RankLease(rank=1, lease=first.leases[0].lease),)},
        {"leases": ()},
    ):
        with pytest.raises(DocumentError):
            dataclasses.replace(first, **changes)
    with pytest.raises(DocumentError, match="lease"):
        RankLease(rank=0, lease="leas_TOO-SHORT")
    second = dataclasses.replace(first, number=2, before=first.digest)
    assert GenerationOrder.parse(second.encode()) == second
