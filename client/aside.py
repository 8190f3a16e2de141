"""Slow work beside the loop, told as it goes: a thread or a task becomes an async iterator.

- Of steps only the newest is told: a reader that is late misses numbers, never the end.
- Who stops reading stops the work: at its next step it raises `StoppedError`, and cleans up.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, Generic, TypeVar

from client.sealed import Step
from trust.errors import BlindhostError

T = TypeVar("T")


class StoppedError(BlindhostError):
    """Nobody wants the result any more."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stepped:
    """So much is done."""

    done: int
    total: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finished(Generic[T]):
    """All is done."""

    result: T


async def stepping(work: Callable[[Step], Awaitable[T]]) -> AsyncIterator[Stepped | Finished[T]]:
    """Run `work`, and tell its steps and then its result. `step` may be called in any thread.

    For work that blocks: ``lambda step: asyncio.to_thread(seal, step)``.
    """
    loop, news, stop = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    newest: list[Stepped] = []

    def step(done: int, total: int) -> None:
        if stop.is_set():
            raise StoppedError("stopped by whoever asked")
        newest[:] = [Stepped(done=done, total=total)]
        loop.call_soon_threadsafe(news.set)

    task = asyncio.ensure_future(work(step))
    task.add_done_callback(lambda _: news.set())
    try:
        while not task.done():
            await news.wait()
            news.clear()
            if newest:
                yield newest.pop()
        if newest:
            yield newest.pop()
        yield Finished(result=task.result())
    finally:
        stop.set()
        if not task.done():
            # A thread can't be cancelled: it ends at its next step, and its folder goes with it.
            await asyncio.wait([task], timeout=STOP_SECONDS)
            task.cancel()


STOP_SECONDS: Final = 5.0

_END: Final = object()


async def iterating(items: Iterator[T]) -> AsyncIterator[T]:
    """An iterator whose every item is made in a thread."""
    while (item := await asyncio.to_thread(next, items, _END)) is not _END:
        yield item  # type: ignore[misc]  # it is not the mark of the end
