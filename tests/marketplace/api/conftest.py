from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.marketplace.api.rig import Rig, serve_rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A fresh market on a real socket."""
    async with serve_rig(tmp_path) as served:
        yield served
