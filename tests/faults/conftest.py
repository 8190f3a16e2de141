"""One town for all tests of faults; a test that breaks it leaves the next one a fresh one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.matrix import Matrix


@pytest.fixture(scope="package")
def matrix() -> Iterator[Matrix]:
    with Matrix() as matrix:
        yield matrix
