"""A replay knows nothing of the future, and wins by the matching rule alone."""

from provider_agent.earnings.replay import LEASES_MIN, replay
from provider_agent.earnings.strategies import Fixed, FloorDemand, Situation, Strategy, ask
from tests.provider_agent.earnings.made import CREDIT, DAY, HOUR, START, match

FLOOR = CREDIT // 2


def no_script(script: object, situation: Situation) -> int:
    raise AssertionError("no script here")


def asked(strategy: Strategy, situation: Situation) -> int:
    return ask(strategy, situation, no_script)


def history(count: int, *, price: int = CREDIT, every: int = 2 * HOUR):
    return tuple(match(START + n * every, price) for n in range(count))


def test_it_wins_what_it_undercuts_and_is_paid_its_own_ask() -> None:
    found = replay(Fixed(ask=900_000, floor=FLOOR), history(4), asked, gpus=2)
    assert (found.won, found.gross) == (4, 4 * 2 * 900_000)
    assert found.busy_minutes == 240


def test_a_tie_is_lost_unless_the_lease_was_its_own() -> None:
    strategy = Fixed(ask=CREDIT, floor=FLOOR)
    assert replay(strategy, history(3), asked, gpus=1).won == 0
    own = tuple(match(START + n * 2 * HOUR, mine=True) for n in range(3))
    assert replay(strategy, own, asked, gpus=1).won == 3


def test_a_machine_that_is_busy_wins_nothing_meanwhile() -> None:
    found = replay(Fixed(ask=1, floor=0), history(4, every=HOUR // 2), asked, gpus=1)
    assert [each.won for each in found.steps] == [True, False, True, False]
    assert [each.busy for each in found.steps] == [False, True, False, True]


def test_no_strategy_is_shown_what_comes_later_or_how_long_a_running_lease_lasts() -> None:
    seen: list[Situation] = []

    def spy(strategy: Strategy, situation: Situation) -> int:
        seen.append(situation)
        return 10 * CREDIT

    replay(Fixed(ask=1, floor=0), history(5, every=HOUR // 2), spy, gpus=1)
    for situation in seen:
        for each in situation.matches:
            assert each.at < situation.now
            assert each.minutes == 0 or each.at + each.minutes * 60_000 <= situation.now
    assert [len(each.matches) for each in seen] == [0, 1, 2, 3, 4]


def test_below_twenty_leases_there_is_not_enough_data() -> None:
    strategy = Fixed(ask=1, floor=0)
    assert not replay(strategy, history(LEASES_MIN - 1), asked, gpus=1).is_enough
    assert replay(strategy, history(LEASES_MIN), asked, gpus=1).is_enough
    assert LEASES_MIN == 20


def test_an_empty_history_is_no_error() -> None:
    found = replay(Fixed(ask=1, floor=0), (), asked, gpus=1)
    assert (found.won, found.gross, found.span_minutes) == (0, 0, 0)


def test_floor_and_demand_asks_more_when_more_is_asked_for_and_never_less_than_the_floor() -> None:
    strategy = FloorDemand(floor=FLOOR)

    def price(today: int) -> int:
        week = [match(START - n * 12 * HOUR) for n in range(3, 17)]  # two a day
        day = [match(START - n * HOUR) for n in range(1, today + 1)]
        situation = Situation(
            now=START, floor=FLOOR, idle_ms=0, matches=tuple(sorted(week + day, key=lambda x: x.at))
        )
        return asked(strategy, situation)

    assert price(0) == FLOOR
    assert price(0) < price(1) < price(2) < price(3)
    assert price(3) == price(30) == FLOOR + (CREDIT - FLOOR) * 3 // 2
    empty = Situation(now=START, floor=FLOOR, idle_ms=0, matches=())
    assert asked(strategy, empty) == FLOOR
    cheap = Situation(now=START, floor=FLOOR, idle_ms=0, matches=history(30, price=1, every=-DAY))
    assert asked(strategy, cheap) == FLOOR
