"""What the benchmarks compute from what they saw: no time is measured here."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import arms, first_step, overhead, release, serve
from benchmarks.arms import Look, PlainRun
from benchmarks.first_step import Carried
from benchmarks.serve import Block
from demo.parties import StepError
from trust.encoding import digest
from trust.messages import Progress, ProgressEvent

PACKAGES = {
    "benchmarks",
    "blindhost",
    "client",
    "demo",
    "enclave_runtime",
    "marketplace",
    "provider_agent",
    "scheduler",
    "tests",
    "trust",
}
FOLDER = Path(arms.__file__).parent


def look(
    event: ProgressEvent, step: int, milliseconds: int, *, cpu: float = 0, text: str = ""
) -> Look:
    record = Progress(
        job=digest(b"job"),
        generation=1,
        rank=0,
        number=1,
        event=event,
        step=step,
        steps=100,
        tokens=0,
        milliseconds=milliseconds,
        measures=(),
        text=text,
        tensors=None,
        resumed_from=None,
    )
    return Look(record=record, at=0, cpu_enclave=cpu, cpu_host=2 * cpu)


@pytest.mark.parametrize("script", ["plain_lora.py", "plain_serve.py"])
def test_plain_arm_imports_nothing_of_ours(script: str) -> None:
    tree = ast.parse((FOLDER / script).read_text(encoding="utf-8"))
    named = [n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names]
    named += [
        node.module or "."
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (not node.level or pytest.fail("relative import"))
    ]
    assert named
    assert not PACKAGES & {name.split(".")[0] for name in named}


# --- overhead ------------------------------------------------------------------------------------


def test_enclave_speed_leaves_out_the_warm_up_and_records_of_waiting() -> None:
    looks = [
        look(ProgressEvent.STARTED, 0, 1_000, cpu=1),
        look(ProgressEvent.STEP, 8, 90_000, cpu=50),
        look(ProgressEvent.STEP, 20, 100_000, cpu=60, text="waiting for a grant: 00"),
        look(ProgressEvent.STEP, 20, 102_000, cpu=61),
        look(ProgressEvent.CHECKPOINT, 25, 103_000, cpu=62),
        look(ProgressEvent.STEP, 100, 122_000, cpu=101),
        look(ProgressEvent.FINISHED, 100, 150_000, cpu=120),
    ]
    speed = overhead.enclave_speed(looks, 20)
    assert speed == overhead.Speed(wall=4.0, cpu=2.0, cpu_host=1.0)


def test_plain_speed_begins_at_the_end_of_the_last_step_of_warm_up() -> None:
    run = PlainRun(seconds=99, cpu=99, ended=[9.0, 10.0, 10.5, 11.0], used=[1.0, 5.0, 6.0, 9.0])
    assert overhead.plain_speed(run, 2) == overhead.Speed(wall=2.0, cpu=0.5, cpu_host=0.5)


def test_seconds_of_processors_are_those_of_a_process_and_of_its_children_that_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    before, own = arms.cpu_seconds([os.getpid()]), os.times()
    subprocess.run([sys.executable, "-c", burn], check=True)
    counted, now = arms.cpu_seconds([os.getpid()]) - before, os.times()
    assert sum(now[2:4]) - sum(own[2:4]) >= 0.3  # its children's part
    assert counted == pytest.approx(sum(now[:4]) - sum(own[:4]), abs=0.1)


def test_a_process_that_is_gone_has_used_nothing() -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           check=True, capture_output=True)  # fmt: skip
    assert arms.cpu_seconds([int(child.stdout)]) == 0


# --- release, first step -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "percent", "value"), [(100, 99, 99), (60, 99, 60), (1, 99, 1), (200, 99, 198)]
)
def test_percentile_is_the_least_value_that_is_not_exceeded_by_more(
    count: int, percent: int, value: int
) -> None:
    assert release.percentile([float(each) for each in range(1, count + 1)], percent) == value


def test_opening_is_told_from_the_order_of_messages_and_not_from_what_they_say() -> None:
    lease, owner, buyer, market = "lease", "owner", "buyer", "market"
    order = [
        (lease, buyer), (lease, owner), (buyer, lease), (lease, market), (owner, lease),
        (market, lease), (lease, owner), (lease, buyer), (lease, market), (owner, lease),
        (market, lease), (buyer, lease), (lease, buyer), (buyer, lease),
    ]  # fmt: skip
    messages = [
        Carried(sender=sender, box=box, at_ms=10 * number)
        for number, (sender, box) in enumerate(order)
    ]
    assert first_step.opening(messages, lease) == (0, 80, 110)


# --- serve ---------------------------------------------------------------------------------------


def blocks(*speeds: float, first: float = 0.01) -> list[Block]:
    return [
        Block(in_flight=n, tokens=1000, seconds=1000 / s, first_token_seconds=(first, first, 9.0))
        for n, s in zip((1, 8, 32), speeds, strict=True)
    ]


def test_serve_figures_are_medians_of_ratios_within_a_run() -> None:
    figures = serve.compare(
        {
            "whole": [blocks(50, 200, 950, first=0.15), blocks(5, 20, 90, first=1.5)],
            "engine": [blocks(100, 400, 1000), blocks(10, 40, 100)],
            "transformers": [blocks(100, 100, 500), blocks(10, 10, 50)],
        },
        "fp32",
    )
    engine, transformers, added = figures
    assert engine["value"] == pytest.approx(0.925)
    assert engine["by_in_flight"] == {"1": 0.5, "8": 0.5, "32": pytest.approx(0.925)}
    assert transformers["value"] == pytest.approx(1.85)
    assert added["value"] == pytest.approx(1000 * ((0.15 + 1.5) / 2 - 0.01))


def test_arms_that_wrote_different_replies_are_not_compared() -> None:
    serve.check_tokens([blocks(1, 1, 1), blocks(2, 2, 2)])
    shorter = [Block(in_flight=32, tokens=900, seconds=1)]
    with pytest.raises(StepError, match=r"32 in flight: the arms wrote \[900, 1000\]"):
        serve.check_tokens([blocks(1, 1, 1), shorter])
