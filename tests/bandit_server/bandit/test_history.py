from __future__ import annotations

import random

import pytest

from bandit_server.bandit.history import History


def test_rewards_are_ordered_by_pull_number_however_they_arrive() -> None:
    history = History(1, 20)
    arrivals = list(range(12))
    random.Random(3).shuffle(arrivals)
    for number in arrivals:
        history.rewarded(number, 0, "w", float(number))
    assert [reward.number for reward in history.rewards[0]] == list(range(12))
    assert [reward.value for reward in history.rewards[0]] == [float(number) for number in range(12)]


def test_only_the_last_pulls_of_an_arm_stay_in_its_window() -> None:
    history = History(2, 3)
    for number in range(10):
        history.rewarded(number, number % 2, "w", 0.1)
    assert [[reward.number for reward in arm] for arm in history.rewards] == [[4, 6, 8], [5, 7, 9]]


def test_a_reward_that_is_older_than_a_full_window_changes_nothing() -> None:
    history = History(1, 2)
    for number in (5, 6, 1):
        history.rewarded(number, 0, "w", float(number))
    assert [reward.number for reward in history.rewards[0]] == [5, 6]


def test_now_and_last_follow_the_highest_pull_number_and_not_the_last_arrival() -> None:
    history = History(3, 5)
    history.pulled(4, 2)
    history.pulled(1, 0)
    assert (history.now, history.last, history.pulls) == (5, 2, [1, 0, 1])


def test_a_discarded_pull_no_longer_counts_and_ages_nothing_anew() -> None:
    history = History(2, 5)
    history.pulled(0, 0)
    history.pulled(1, 1)
    history.discarded(1, 1)
    assert (history.pulls, history.now) == ([1, 0], 2)


def test_the_worst_reward_is_the_arms_own_then_the_runs_then_zero() -> None:
    history = History(2, 5)
    assert history.worst(0) == 0.0
    history.rewarded(0, 1, "w", -3.0)
    assert history.worst(0) == -3.0
    history.rewarded(1, 0, "w", 2.0)
    history.rewarded(2, 0, "w", 1.0)
    assert history.worst(0) == 1.0


@pytest.mark.parametrize(("arms", "window"), [(0, 5), (2, 0), (-1, -1)])
def test_a_history_without_arms_or_window_is_refused(arms: int, window: int) -> None:
    with pytest.raises(ValueError, match="at least one arm and a window of at least 1"):
        History(arms, window)
