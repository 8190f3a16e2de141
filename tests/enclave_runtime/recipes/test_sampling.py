"""One draw, one token: as often as it is probable, and never one outside the nucleus."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from enclave_runtime.recipes.sampling import sample_all, sample_nucleus


@pytest.mark.parametrize("sample", [sample_all, sample_nucleus])
def test_tokens_are_drawn_as_often_as_they_are_probable(sample: Any) -> None:
    logits = torch.tensor([0.1, 0.4, 0.3, 0.0, 0.2]).log()
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    rows, ones = logits.expand(1000, 5), torch.ones(1000, dtype=torch.float64)
    assert sample(rows, ones, ones, draws).bincount(minlength=5).tolist() == [100, 400, 300, 0, 200]
    cold = sample(rows, ones / 2, ones, draws).bincount(minlength=5).double()
    assert cold.tolist() == pytest.approx([33.3, 533.3, 300, 0, 133.3], abs=1)


def test_nucleus_is_the_fewest_tokens_that_have_the_probability() -> None:
    logits = torch.tensor([0.1, 0.4, 0.3, 0.0, 0.2]).log().expand(1000, 5)
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    ones = torch.ones(1000, dtype=torch.float64)
    for top_p, wanted in (
        (1e-9, [0, 1000, 0, 0, 0]),
        (0.39, [0, 1000, 0, 0, 0]),
        (0.41, [0, 571, 429, 0, 0]),
        (0.75, [0, 444, 333, 0, 222]),
    ):
        found = sample_nucleus(logits, ones, ones * top_p, draws).bincount(minlength=5)
        assert found.tolist() == pytest.approx(wanted, abs=1)


@pytest.mark.parametrize(
    ("temperature", "all_", "nucleus"), [(1e-320, 0, 0), (1e-9, 0, 0), (1e300, 3, 1)]
)
def test_extreme_temperatures_are_the_most_probable_token_or_any_alike(
    temperature: float, all_: int, nucleus: int
) -> None:
    logits = torch.tensor([[5.0, -1.0, 1.0, 2.0] if all_ else [3e38, -3e38, 1.0, 2.0]])
    rows = [torch.tensor([each], dtype=torch.float64) for each in (temperature, 1.0, 0.9)]
    assert sample_all(logits, *rows).tolist() == [all_]
    assert sample_nucleus(logits, *rows).tolist() == [nucleus]
