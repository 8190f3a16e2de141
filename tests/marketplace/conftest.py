from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from marketplace.store import Store
from tests.marketplace.world import open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A fresh market database in a file; the books balance when the test is over."""
    opened = open_store(tmp_path)
    yield opened
    opened.close()
