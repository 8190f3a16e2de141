"""The wall clock: read here, and a parameter everywhere else in this package."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

Clock = Callable[[], int]


def wall_clock() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def local_zone() -> dt.tzinfo:
    """Where this machine is, by its own word."""
    found = dt.datetime.fromtimestamp(wall_clock() / 1000, dt.UTC).astimezone().tzinfo
    assert found is not None
    return found
