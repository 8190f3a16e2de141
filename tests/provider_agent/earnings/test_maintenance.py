"""A window is kept over restarts, cuts no lease unasked, and is off the book while it lasts."""

from pathlib import Path

import pytest

from marketplace.wire import OfferState
from provider_agent.earnings.maintenance import (
    LEAD_MS,
    PLAN_FILE,
    Committed,
    Phase,
    Plan,
    Window,
    new_id,
    posture,
)
from provider_agent.errors import AgentError
from tests.provider_agent.earnings.made import DAY, HOUR, START, lease_name
from tests.provider_agent.test_lifecycle import World
from tests.provider_agent.test_offers import Scene


def window(**changes: object) -> Window:
    values = {
        "id": new_id(),
        "at": START + DAY,
        "milliseconds": 2 * HOUR,
        "reason": "new kernel",
        "drain": False,
        "planned_at": START,
    }
    return Window(**values | changes)


RUNS_ON = (Committed(lease=lease_name(), until=START + DAY + 1),)
ENDS_BEFORE = (Committed(lease=lease_name(), until=START + DAY),)


def test_a_window_survives_its_agent(tmp_path: Path) -> None:
    planned = window()
    Plan(tmp_path).add(planned, ())
    assert Plan(tmp_path).windows() == (planned,)
    assert Plan(tmp_path).posture(planned.at).phase is Phase.CLOSING
    assert Plan(tmp_path).cancel(planned.id) == planned
    assert Plan(tmp_path).windows() == ()


def test_a_window_that_cuts_a_running_lease_is_refused_unless_it_drains(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    with pytest.raises(AgentError, match=lease_name()):
        plan.add(window(), RUNS_ON)
    assert plan.windows() == ()
    plan.add(window(), ENDS_BEFORE)
    plan.add(window(at=START + 3 * DAY, drain=True), RUNS_ON)
    assert len(plan.windows()) == 2


@pytest.mark.parametrize(
    "changes",
    [{"at": START - 1}, {"milliseconds": 0}, {"milliseconds": 31 * DAY}],
)
def test_a_window_that_is_past_or_endless_is_refused(
    tmp_path: Path, changes: dict[str, int]
) -> None:
    with pytest.raises(AgentError, match="lies ahead"):
        Plan(tmp_path).add(window(**changes), ())


def test_two_windows_do_not_overlap(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    plan.add(window(), ())
    with pytest.raises(AgentError, match="overlaps"):
        plan.add(window(at=START + DAY + HOUR), ())
    plan.add(window(at=START + DAY + 2 * HOUR), ())


@pytest.mark.parametrize("drain", [False, True])
def test_a_draining_window_closes_at_once_and_ends_what_runs_and_another_does_neither(
    drain: bool,
) -> None:
    planned = window(drain=drain)
    phases = [
        posture((planned,), now).phase
        for now in (
            START,
            planned.at - LEAD_MS - 1,
            planned.at - LEAD_MS,
            planned.at,
            planned.end - 1,
            planned.end,
        )
    ]
    before = Phase.CLOSING if drain else Phase.OPEN
    within = Phase.CLOSED if drain else Phase.CLOSING
    assert phases == [before, before, Phase.CLOSING, within, within, Phase.OPEN]
    assert posture((planned,), planned.end).reason is None
    assert "new kernel" in str(posture((planned,), planned.at).reason)


def test_a_plan_that_cannot_be_read_closes_the_host_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / PLAN_FILE).write_bytes(b"{")
    found = Plan(tmp_path).posture(START)
    assert found.phase is Phase.CLOSING
    assert "does not parse" in str(found.reason)
    with pytest.raises(AgentError, match="does not parse"):
        Plan(tmp_path).add(window(), ())


def test_an_unknown_window_is_not_cancelled(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="no window"):
        Plan(tmp_path).cancel("deadbeef")


# --- the offer -----------------------------------------------------------------------------------


async def test_the_offer_is_withdrawn_for_a_window_and_listed_anew_after_it(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    keeper = scene.keeper()
    await keeper.round(busy=False)
    first = keeper.offer
    for _ in range(3):
        await keeper.round(busy=False, closed="maintenance")
    assert scene.market.calls == ["put_offer", "withdraw"]
    await keeper.round(busy=False)
    assert scene.market.calls == ["put_offer", "withdraw", "put_offer"]
    assert keeper.offer != first
    assert scene.market.offer.state is OfferState.LISTED


async def test_an_agent_that_was_killed_in_a_window_takes_the_offer_off_again(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    await scene.keeper().round(busy=False)
    again = scene.keeper()  # knows the id alone, not that it is listed
    scene.market.away = 2
    for _ in range(4):
        await again.round(busy=False, closed="maintenance")
    assert scene.market.calls.count("withdraw") == 3  # asked until the market had heard it
    assert scene.market.calls.count("put_offer") == 1


# --- what runs -----------------------------------------------------------------------------------


async def test_what_still_runs_at_the_start_is_ended_reported_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    name = world.market.open_lease()
    keeper = world.keeper()
    await world.settle(keeper)
    assert world.chip.launched == [name]
    await keeper.end_all("maintenance")
    await world.settle(keeper, 8)
    assert world.market.reports[name][-1] == ("failed", "maintenance")
    assert world.chip.enclaves == {}
    assert world.left_over() == []
    await keeper.close()
