from __future__ import annotations

import random

from bandit_server.bandit.history import WINDOW, History


def test_rewards_are_ordered_by_pull_number_however_they_arrive() -> None:
    history = History(1)
    arrivals = list(range(12))
    random.Random(3).shuffle(arrivals)
    for number in arrivals:
        history.rewarded(number, 0, "w", float(number))
    assert [reward.number for reward in history.rewards[0]] == list(range(12))
    assert [reward.value for reward in history.rewards[0]] == [float(number) for number in range(12)]


def test_only_the_last_pulls_of_an_arm_stay_in_its_window() -> None:
    history = History(2)
    for number in range(4 * WINDOW):
        history.rewarded(number, number % 2, "w", 0.1)
    numbers = [[reward.number for reward in arm] for arm in history.rewards]
    assert numbers == [list(range(2 * WINDOW + arm, 4 * WINDOW, 2)) for arm in range(2)]


def test_a_reward_that_is_older_than_a_full_window_changes_nothing() -> None:
    history = History(1)
    for number in [*range(1, WINDOW + 1), 0]:
        history.rewarded(number, 0, "w", float(number))
    assert [reward.number for reward in history.rewards[0]] == list(range(1, WINDOW + 1))


def test_the_worst_reward_is_the_arms_own_then_the_runs_then_zero() -> None:
    history = History(2)
    assert history.worst(0) == 0.0
    history.rewarded(0, 1, "w", -3.0)
    assert history.worst(0) == -3.0
    history.rewarded(1, 0, "w", 2.0)
    history.rewarded(2, 0, "w", 1.0)
    assert history.worst(0) == 1.0
