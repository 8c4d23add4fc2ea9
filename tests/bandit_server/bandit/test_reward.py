from __future__ import annotations

import math
import statistics
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_server.bandit import reward
from bandit_server.bandit.reward import TIMES_KEPT, Costs

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("before", "after", "share"), [(2.0, 1.0, 0.5), (1.0, 1.0, 0.0), (1.0, 3.0, -2.0), (0.1, 0.0, 1.0)]
)
def test_the_relative_reward_is_the_share_of_the_loss_that_went_away(before: float, after: float, share: float) -> None:
    assert reward.relative(before, after) == share


def test_the_absolute_reward_is_the_decrement_in_units_of_the_loss() -> None:
    assert reward.absolute(7.0, 4.5) == 2.5


@given(before=st.floats(min_value=0, exclude_min=True, allow_infinity=False), after=finite)
def test_finite_losses_always_give_finite_rewards(before: float, after: float) -> None:
    assert math.isfinite(reward.relative(before, after))
    assert math.isfinite(reward.absolute(before, after))


def test_a_decrement_beyond_the_floating_range_is_the_ranges_end() -> None:
    assert reward.relative(5e-324, 1e300) == -sys.float_info.max
    assert reward.absolute(1.7e308, -1.7e308) == sys.float_info.max


def _costs(times: dict[int, list[float]], worker: str = "w") -> Costs:
    costs = Costs()
    costs.add(worker, 0, 1000.0)
    for arm, seconds in times.items():
        for value in seconds:
            costs.add(worker, arm, value)
    return costs


def test_the_relative_cost_is_the_arms_median_over_the_mean_of_the_medians() -> None:
    times = {0: [1.0, 9.0, 2.0], 1: [4.0, 4.0], 2: [6.0]}
    costs = _costs(times)
    mean = statistics.fmean([2.0, 4.0, 6.0])
    assert [costs.relative("w", arm) for arm in times] == [2.0 / mean, 4.0 / mean, 6.0 / mean]


def test_a_workers_first_round_says_nothing_of_cost() -> None:
    costs = Costs()
    costs.add("w", 1, 1000.0)
    costs.add("w", 0, 2.0)
    costs.add("w", 1, 2.0)
    assert (costs.relative("w", 0), costs.relative("w", 1)) == (1.0, 1.0)


def test_an_unknown_worker_or_arm_costs_what_the_mean_costs() -> None:
    costs = _costs({0: [2.0], 1: [4.0]})
    assert costs.relative("w", 7) == 1.0
    assert costs.relative("other", 0) == 1.0


def test_costs_are_each_workers_own() -> None:
    costs = _costs({0: [1.0], 1: [3.0]}, "slow")
    costs.add("fast", 0, 5.0)
    costs.add("fast", 0, 3.0)
    costs.add("fast", 1, 1.0)
    assert (costs.relative("slow", 0), costs.relative("fast", 0)) == (0.5, 1.5)


def test_rounds_that_took_no_time_cost_what_others_cost() -> None:
    assert _costs({0: [0.0], 1: [0.0]}).relative("w", 0) == 1.0
    assert _costs({0: [0.0], 1: [2.0]}).relative("w", 0) == 1.0


def test_only_recent_round_times_count() -> None:
    costs = _costs({0: [1.0] * 50 + [8.0] * TIMES_KEPT, 1: [4.0]})
    assert costs.relative("w", 0) == 8.0 / 6.0


def test_a_reward_per_cost_is_finite_too() -> None:
    assert reward.per_cost(0.5, 2.0) == 0.25
    assert reward.per_cost(-1e300, 1e-200) == -sys.float_info.max
