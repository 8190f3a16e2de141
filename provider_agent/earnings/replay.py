"""What a strategy would have earned, by the matching rule, on the leases that there were. Pure.

- A past match is an order that paid a price to some machine of this kind. The matching gives an
  order to the offer whose price is least; so this machine would have won it by asking *less* than
  was paid, while it was free. A tie counts as lost, unless the lease was its own; weighing by
  reliability is left out: every host stands as equal.
- It would have been paid its own ask for the minutes that the lease ran, and been busy so long.
- Orders that found no machine at all are not in the history, so what a lower ask would have brought
  in new orders is not counted. This is a comparison of strategies, and no forecast.
- Below `LEASES_MIN` leases there is not enough data to say anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

from marketplace.wire_hosts import PastMatch
from provider_agent.earnings.strategies import Situation, Strategy

LEASES_MIN: Final = 20
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000

Ask = Callable[[Strategy, Situation], int]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One match of the history, and what the strategy would have made of it."""

    at: int
    asked: int
    paid: int
    """What the order paid in fact; microcredits per GPU-hour."""
    won: bool
    busy: bool
    """An earlier lease still held the machine."""
    earned: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """The sum of it."""

    steps: tuple[Step, ...]
    gross: int
    """Microcredits, before the market's fee."""
    busy_minutes: int
    span_minutes: int

    @property
    def won(self) -> int:
        """Leases."""
        return sum(1 for each in self.steps if each.won)

    @property
    def is_enough(self) -> bool:
        """Whether the history says anything."""
        return len(self.steps) >= LEASES_MIN


def replay(strategy: Strategy, matches: Sequence[PastMatch], ask: Ask, *, gpus: int) -> Replay:
    """Play a strategy on a history, oldest first. `ask` may raise AgentError."""
    history = sorted(matches, key=lambda each: each.at)
    steps: list[Step] = []
    free_at = history[0].at if history else 0
    gross = busy_minutes = 0
    for index, match in enumerate(history):
        known = [_as_known(each, match.at) for each in history[:index] if each.at < match.at]
        situation = Situation(
            now=match.at,
            floor=strategy.floor,
            idle_ms=max(0, match.at - free_at),
            matches=known,
        )
        asked, busy = ask(strategy, situation), match.at < free_at
        price = match.price_microcredits_per_gpu_hour
        won = not busy and (asked < price or (match.mine and asked == price))
        earned = asked * gpus * match.minutes * MINUTE_MS // HOUR_MS if won else 0
        if won:
            free_at = match.at + match.minutes * MINUTE_MS
            busy_minutes += match.minutes
        gross += earned
        steps.append(
            Step(
                at=match.at,
                asked=asked,
                paid=match.price_microcredits_per_gpu_hour,
                won=won,
                busy=busy,
                earned=earned,
            )
        )
    span = (history[-1].at - history[0].at) // MINUTE_MS if history else 0
    span = max(span, busy_minutes)
    return Replay(steps=tuple(steps), gross=gross, busy_minutes=busy_minutes, span_minutes=span)


def _as_known(match: PastMatch, now: int) -> PastMatch:
    """A match as it looked then: how long it lasts is not known before its end."""
    runs = match.at + match.minutes * MINUTE_MS > now
    return dataclasses.replace(match, minutes=0) if runs else match
