"""Power is estimated from the host's own two figures, beside a statement that it never changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provider_agent.earnings.energy import Power, estimate, read_power
from provider_agent.earnings.render import as_json, as_text
from tests.provider_agent.earnings.made import HOUR, MINUTE, chain, host_lease, settle, statement


def test_power_is_wall_time_by_gpus_by_watts_by_price_rounded_up() -> None:
    lease = host_lease()
    found = statement(lease, settle(lease, chain(2)))
    (line,) = found.lines
    assert (line.wall_ms, line.gpus) == (2 * HOUR + MINUTE, 1)
    energy = estimate(found, Power(watts_per_gpu=1000, microcredits_per_kwh=100_000))
    assert energy.watt_hours == 2016  # 2 h and a minute at 1 kW
    assert energy.cost == 201_667  # 201,666.67
    assert energy.margin == found.net - 201_667
    nothing = estimate(found, Power(watts_per_gpu=0, microcredits_per_kwh=5))
    assert (nothing.watt_hours, nothing.cost, nothing.margin) == (0, 0, found.net)


def test_an_estimate_stands_beside_the_statement_and_changes_no_amount() -> None:
    lease = host_lease()
    found = statement(lease, settle(lease, chain(2)))
    energy = estimate(found, Power(watts_per_gpu=400, microcredits_per_kwh=250_000))
    with_it, without = (json.loads(as_json(found, each)) for each in (energy, None))
    assert with_it.pop("energy")["cost"] == energy.cost
    assert without.pop("energy") is None
    assert with_it == without
    text = as_text(found, group="day", energy=energy)
    assert text.startswith(as_text(found, group="day"))
    assert "by your own figures" in text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"power_microcredits_per_kwh": 250000}',
        '{"power_watts_per_gpu": 700}',
        '{"power_watts_per_gpu": true, "power_microcredits_per_kwh": 1}',
        '{"power_watts_per_gpu": -1, "power_microcredits_per_kwh": 1}',
        '{"power_watts_per_gpu": 1.5, "power_microcredits_per_kwh": 1}',
        '{"power_watts_per_gpu": "700", "power_microcredits_per_kwh": 1}',
    ],
)
def test_without_both_figures_there_is_no_estimate(tmp_path: Path, content: str) -> None:
    path = tmp_path / "host.json"
    assert read_power(path) is None
    path.write_text(content)
    assert read_power(path) is None


def test_both_figures_are_read(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_text('{"power_watts_per_gpu": 700, "power_microcredits_per_kwh": 250000}')
    assert read_power(path) == Power(watts_per_gpu=700, microcredits_per_kwh=250_000)
