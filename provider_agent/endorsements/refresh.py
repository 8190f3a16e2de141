"""A round, with the network and the lock that it wants: for the command, and for the agent."""

from __future__ import annotations

import asyncio
import datetime as dt
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from provider_agent.endorsements.errors import EndorsementError
from provider_agent.endorsements.fetch import Fetcher, Waits, new_session
from provider_agent.endorsements.rounds import Round, fetch_round
from provider_agent.endorsements.services import Services
from provider_agent.endorsements.store import LOCK_FILE, Store
from provider_agent.endorsements.subjects import Wanted


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time. Raises EndorsementError: another one is at it; or OSError."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EndorsementError("busy", "another process is fetching") from error
        yield


async def refresh(
    store: Store, wanted: Wanted, services: Services, clock: Callable[[], dt.datetime]
) -> Round:
    """One round. Raises EndorsementError, or OSError."""
    waits = Waits(monotonic=asyncio.get_running_loop().time, sleep=asyncio.sleep, now=clock)
    with locked(store.folder):
        async with new_session() as session:
            return await fetch_round(store, wanted, services, Fetcher(session, waits), clock())
