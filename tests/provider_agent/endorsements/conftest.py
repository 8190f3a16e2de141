from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.provider_agent.endorsements.rig import Rig, running


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path / "endorsements") as found:
        yield found
