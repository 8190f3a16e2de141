"""What a submission may say, and all that it may not: a job is data, never code."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.gateway import ray_requests
from client.gateway.ray_requests import (
    RequestError,
    parse_body,
    parse_changes,
    parse_entrypoint,
    parse_job_file,
    parse_recipe,
    parse_submission,
)
from tests.client.gateway.ray_rig import ENTRYPOINT, JOB, Rig, ray_rig, working_files, zipped
from trust.errors import BlindhostError, EncodingError
from trust.jobs import JobManifest


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with ray_rig(tmp_path / "gateway") as served:
        yield served


# --- entrypoint ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entrypoint", "path"),
    [
        ("blindhost run job.json", "job.json"),
        ("blindhost  run 'my jobs/a b.json'", "my jobs/a b.json"),
        ("blindhost run $(reboot)", "$(reboot)"),  # a file of that name, or none: no shell reads it
    ],
)
def test_an_entrypoint_names_a_job_file(entrypoint: str, path: str) -> None:
    assert parse_entrypoint(entrypoint) == path


@pytest.mark.parametrize(
    "entrypoint",
    [
        None,
        7,
        ["blindhost", "run", "job.json"],
        "",
        "python train.py",
        "blindhost",
        "blindhost run",
        "blindhost run a b",
        "blindhost run job.json; rm -rf /",
        "blindhost run job.json && curl evil",
        "blindhost run job.json\nreboot",
        "sh -c 'blindhost run job.json'",
        "/usr/bin/blindhost run job.json",
        "BLINDHOST run job.json",
        "blindhost submit job.json",
        "blindhost run /etc/passwd",
        "blindhost run ../job.json",
        "blindhost run ''",
        "blindhost run 'job.json",
        "blindhost run " + "x" * 3000,
    ],
)
def test_any_other_entrypoint_is_refused_with_what_one_is(entrypoint) -> None:
    with pytest.raises(RequestError, match="wanted `blindhost run JOB"):
        parse_entrypoint(entrypoint)


async def test_no_entrypoint_reaches_a_process(rig: Rig, tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    for entrypoint in (
        f"touch {flag}",
        f"blindhost run $(touch {flag})",
        f"blindhost run `{flag}`",
    ):
        uri = await rig.put(zipped())
        status, text = await rig.post(entrypoint=entrypoint, runtime_env={"working_dir": uri})
        assert (status, "\n" in text) == (400, False)
    assert not flag.exists()
    assert rig.port.submitted == []


# --- the request ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"entrypoint_num_cpus": 1}, "entrypoint_num_cpus is not taken"),
        ({"entrypoint_resources": {"H100": 1}}, "entrypoint_resources is not taken"),
        ({"evil\x1b": 1}, "an unknown field is not taken"),
        ({"submission_id": "a/b"}, "submission_id"),
        ({"submission_id": "a\n"}, "submission_id"),
        ({"submission_id": "x" * 129}, "submission_id"),
        ({"submission_id": "0" * 64}, "digest of a job"),
        ({"submission_id": 5}, "submission_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": ["a"]}, "metadata"),
        ({"metadata": {"max_prise": "5"}}, "max_price and budget"),
        ({"metadata": {"spend_max_microcredits": "5"}}, "max_price and budget"),
        ({"metadata": {ray_requests.ENTRYPOINT_KEY: "rm"}}, "max_price and budget"),
        ({"metadata": {"budget": "5.0"}}, "budget is a whole number"),
        ({"metadata": {"budget": "-5"}}, "budget is a whole number"),
        ({"metadata": {"max_price": "1e9"}}, "max_price is a whole number"),
        ({"metadata": {"a": "x" * 5000}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(65)}}, "65 entries"),
        ({"entrypoint_num_gpus": 70_000}, "gpus"),
        ({"entrypoint_num_gpus": "2"}, "gpus"),
        ({"entrypoint_num_gpus": True}, "gpus"),
        ({"entrypoint_memory": "lots"}, "entrypoint_memory"),
        ({"entrypoint_label_selector": {"region": "eu"}}, "entrypoint_label_selector"),
        ({"entrypoint_label_selector": {"platform": 5}}, "platform"),
        ({"runtime_env": {"blindhost": {"nonce": "AA"}}}, "unknown field 'nonce'"),
        ({"runtime_env": {"blindhost": {"images": []}}}, "unknown field 'images'"),
        ({"runtime_env": {"blindhost": {"bid": {"prize": 5}}}}, "unknown field 'prize'"),
        ({"runtime_env": {"blindhost": {"bid": 5}}}, "an object is wanted"),
        ({"runtime_env": {"blindhost": {"spend_max_microcredits": "5"}}}, "int is wanted"),
        ({"runtime_env": {"blindhost": []}}, "an object is wanted"),
    ],
)
def test_what_a_request_may_not_say_is_refused(more, says: str) -> None:
    with pytest.raises(EncodingError, match=says):
        parse_submission({"entrypoint": ENTRYPOINT, **more})


@pytest.mark.parametrize(
    "field",
    [
        "env_vars",
        "pip",
        "uv",
        "conda",
        "image_uri",
        "container",
        "py_modules",
        "worker_process_setup_hook",
        "config",
        "java_jars",
    ],
)
async def test_an_environment_with_code_or_secrets_is_refused_and_never_logged(
    rig: Rig, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    status, text = await rig.submit("a", runtime_env={field: {"TOKEN": "hf_secret"}})
    assert (status, field in text, "\n" in text) == (400, True, False)
    assert "hf_secret" not in text + caplog.text
    assert rig.port.submitted == []
    assert "add_file" not in rig.port.calls


def test_what_the_command_says_goes_over_the_job_file() -> None:
    said = parse_submission(
        {
            "entrypoint": ENTRYPOINT,
            "runtime_env": {"blindhost": {"bid": {"notice_seconds": 60}, "generations_max": 3}},
            "metadata": {"max_price": "7", "budget": "9", "team": "a"},
            "entrypoint_num_gpus": 4,
            "entrypoint_memory": (1 << 30) + 1,
            "entrypoint_label_selector": {"platform": "sev-snp"},
        }
    )
    file = parse_job_file(
        json.dumps(
            JOB
            | {"manifest": {"bid": {"kind": "interruptible"}, "resources": {"gpu_model": "h100"}}}
        ).encode()
    )
    assert said.manifest(file) == {
        "bid": {
            "kind": "interruptible",
            "notice_seconds": 60,
            "price_microcredits_per_gpu_hour": 7,
        },
        "generations_max": 3,
        "spend_max_microcredits": 9,
        "resources": {
            "gpu_model": "h100",
            "gpus": 4,
            "memory_mib": 1025,
            "platform": "sev-snp",
        },
    }
    assert said.metadata == {"max_price": "7", "budget": "9", "team": "a"}


def test_every_change_is_a_field_of_a_manifest() -> None:
    assert ray_requests._ANY_CHANGES.keys() <= JobManifest.__dataclass_fields__.keys()
    assert parse_changes({}, "x") == {}


def test_a_token_names_id_package_and_everything_said() -> None:
    said = parse_submission({"entrypoint": ENTRYPOINT})
    more = parse_submission({"entrypoint": ENTRYPOINT, "metadata": {"budget": "1"}})
    tokens = {
        said.token("a", bytes(32)),
        said.token("b", bytes(32)),
        said.token("a", bytes(31) + b"1"),
        more.token("a", bytes(32)),
    }
    assert len(tokens) == 4
    assert parse_submission({"entrypoint": ENTRYPOINT}).token("a", bytes(32)) in tokens


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"nothing",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": 1.5}',
        b'{"a": -1}',
        b'{"a": -1.0}',
        b'{"a": 1e400}',
        b'{"a": 9007199254740992}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 30 + b"1" + b"}" * 30,
        b"\xff\xfe",
    ],
)
def test_a_request_that_is_no_json_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(EncodingError):
        parse_body(data)


def test_a_whole_number_may_come_as_a_float() -> None:
    assert parse_body(b'{"entrypoint_num_gpus": 2.0}') == {"entrypoint_num_gpus": 2}


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps(text).encode()))
def test_no_body_raises_anything_but_our_errors(data: bytes) -> None:
    for parse in (parse_body, parse_job_file):
        try:
            parse(data)
        except BlindhostError:
            continue


async def test_a_huge_request_is_refused_before_it_is_parsed(rig: Rig) -> None:
    status, _ = await rig.post(entrypoint="x" * (ray_requests.BODY_BYTES_MAX + 1))
    assert status == 413


@pytest.mark.parametrize(
    "working_dir",
    [None, 5, "", "s3://bucket/x.zip", "https://evil/x.zip", "gcs://x.zip", "gcs://../x", "/tmp"],
)
async def test_a_working_directory_is_a_package_from_here(rig: Rig, working_dir) -> None:
    body = {"entrypoint": ENTRYPOINT, "runtime_env": {"working_dir": working_dir}}
    status, text = await rig.post(**body)
    assert (status, "working_dir" in text) == (400, True)


# --- the job file --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job",
    [
        [],
        {},
        {"model": "m"},
        JOB | {"command": "rm -rf /"},
        JOB | {"training": "../secret"},
        JOB | {"training": "/etc/passwd"},
        JOB | {"training": None},
        JOB | {"heldout": 5},
        JOB | {"model": ""},
        JOB | {"model": 5},
        JOB | {"recipe": []},
        JOB | {"recipe": {"rank": 0}},
        JOB | {"recipe": {"rank": "4"}},
        JOB | {"recipe": {"script": "x"}},
        JOB | {"recipe": {"name": "generate"}},
        JOB | {"recipe": {"epochs": 1, "steps": 1}},
        JOB | {"recipe": {"learning_rate": "1e-3"}},
        JOB | {"recipe": {"rank": None}},
        JOB | {"manifest": {"inputs": []}},
        JOB | {"manifest": {"terms": "AA"}},
        JOB | {"manifest": {"client_keys": []}},
        JOB | {"manifest": {"enclaves": 65}},
        JOB | {"manifest": {"sharding": "none"}},
    ],
)
async def test_a_job_file_is_parsed_completely(rig: Rig, job) -> None:
    uri = await rig.put(zipped(working_files(job)))
    status, text = await rig.post(entrypoint=ENTRYPOINT, runtime_env={"working_dir": uri})
    assert (status, "\n" in text) == (400, False), text
    assert rig.port.submitted == []
    assert "add_file" not in rig.port.calls


def test_a_number_with_a_point_is_no_number_of_a_job_file() -> None:
    with pytest.raises(EncodingError, match="integers"):
        parse_job_file(b'{"model": "m", "training": "t", "recipe": {"learning_rate": 0.001}}')


def test_one_of_epochs_and_steps_puts_the_other_out() -> None:
    assert parse_recipe({"steps": 5, "name": "lora"}) == {"steps": 5, "epochs": None}
    assert parse_recipe({"epochs": 5}) == {"steps": None, "epochs": 5}
    assert parse_recipe({"rank": 8}) == {"rank": 8}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"other.json": b"{}"}, "there is no file 'job.json'"),
        ({"job.json": json.dumps(JOB).encode()}, "there is no file 'train.jsonl'"),
        ({"job.json": b" " * (ray_requests.JOB_FILE_BYTES_MAX + 1)}, "at most 65536"),
        (working_files(JOB | {"model": "gpt\x1b"}), r"no base model gpt\x1b here"),
    ],
)
async def test_what_a_job_names_is_there(rig: Rig, files, says: str) -> None:
    uri = await rig.put(zipped(files))
    status, text = await rig.post(entrypoint=ENTRYPOINT, runtime_env={"working_dir": uri})
    assert status in {400, 413}
    assert says in text
    assert rig.leftovers() == []


async def test_a_job_without_held_out_rows_has_none(rig: Rig) -> None:
    job = {"model": JOB["model"], "training": "train.jsonl"}
    uri = await rig.put(zipped(working_files(job)))
    body = {"entrypoint": ENTRYPOINT, "runtime_env": {"working_dir": uri, "excludes": ["*.pt"]}}
    status, text = await rig.post(**body)
    assert (status, json.loads(text)["submission_id"][:10]) == (200, "raysubmit_")
    (request,) = rig.port.submitted
    assert (request.heldout, request.recipe, request.manifest) == (None, {}, {})
