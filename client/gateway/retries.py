"""A request that a client sends again is not computed again.

OpenAI's client sends no idempotency key, and after a timeout sends the same body once more, with
``x-stainless-retry-count`` above 0. Such a request joins the first one, if that still runs or has
just ended; without the count, equal bodies are different questions, and each is asked.

- A request whose client left runs on for `GRACE_SECONDS`, in which the retry comes, and is then
  cancelled. A request that failed is not kept: its retry is a new one.
- Streams are not joined: one whose client left is cancelled at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from client.gateway.errors import BUSY_MILLISECONDS, ApiError
from client.gateway.streams import GoneError

GRACE_SECONDS: Final = 10.0  # a client waits at most 8 s before it asks again
WINDOW_SECONDS: Final = 30.0  # an answer that was lost on the way is asked for again by then
KEPT_MAX: Final = 64  # answers
RUNNING_MAX: Final = 256  # as many as the most slots that an enclave has

Answer = Mapping[str, object]


@dataclasses.dataclass(kw_only=True, slots=True, eq=False)
class _Flight:
    name: bytes
    task: asyncio.Task[Answer]
    waiters: int = 0
    timer: asyncio.TimerHandle | None = None


class Retries:
    """Requests that run, and those that have just ended."""

    def __init__(self) -> None:
        self._flights: list[_Flight] = []
        """In the order in which they began."""

    async def answer(
        self,
        name: bytes,
        start: Callable[[], Coroutine[Any, Any, Answer]],
        *,
        is_retry: bool,
        gone: asyncio.Task[None],
    ) -> Answer:
        """The answer to the request of this name. `gone` ends when the client leaves.

        Raises GoneError then, ApiError if too many run, and what `start` raises.
        """
        flight = (self._known(name) if is_retry else None) or self._begin(name, start)
        flight.waiters += 1
        _stop(flight)
        try:
            await asyncio.wait({flight.task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not flight.task.done():
                raise GoneError("the client left")
            if flight.task.cancelled():
                raise ApiError(503, "stopping", "the gateway stops, or nobody waited any more")
            return flight.task.result()
        finally:
            flight.waiters -= 1
            if not flight.waiters:
                self._leave(flight)

    async def close(self) -> None:
        """Cancel what runs."""
        flights, self._flights = self._flights, []
        for flight in flights:
            _stop(flight)
            flight.task.cancel()
        await asyncio.gather(*(each.task for each in flights), return_exceptions=True)

    def _known(self, name: bytes) -> _Flight | None:
        """The request that this one repeats: rather one that nobody waits for than another."""
        same = [each for each in self._flights if each.name == name]
        alone = [each for each in same if not each.waiters]
        return (alone or same)[-1] if same else None

    def _begin(self, name: bytes, start: Callable[[], Coroutine[Any, Any, Answer]]) -> _Flight:
        if sum(not each.task.done() for each in self._flights) >= RUNNING_MAX:
            waits = {"retry-after-ms": str(BUSY_MILLISECONDS)}
            raise ApiError(429, "busy", f"{RUNNING_MAX} requests run already", headers=waits)
        flight = _Flight(name=name, task=asyncio.create_task(start()))
        flight.task.add_done_callback(functools.partial(self._ended, flight))
        self._flights.append(flight)
        return flight

    def _ended(self, flight: _Flight, task: asyncio.Task[Answer]) -> None:
        _stop(flight)
        if task.cancelled() or task.exception() is not None:
            self._forget(flight)
            return
        if not flight.waiters:
            self._leave(flight)
        kept = [each for each in self._flights if each.task.done()]
        for each in kept[:-KEPT_MAX]:
            self._forget(each)

    def _leave(self, flight: _Flight) -> None:
        """Nobody waits for it now: cancel it soon, or, if it has ended, forget it soon."""
        loop = asyncio.get_running_loop()
        if flight not in self._flights:
            return
        if flight.task.done():
            flight.timer = loop.call_later(WINDOW_SECONDS, self._forget, flight)
        else:
            flight.timer = loop.call_later(GRACE_SECONDS, flight.task.cancel)

    def _forget(self, flight: _Flight) -> None:
        _stop(flight)
        if flight in self._flights:
            self._flights.remove(flight)


def _stop(flight: _Flight) -> None:
    if flight.timer is not None:
        flight.timer.cancel()
        flight.timer = None
