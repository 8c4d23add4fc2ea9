"""Recorded rewards, replayed."""

from __future__ import annotations

import copy

import pytest

from bandit_server.bandit.policy import build
from bandit_server.bandit.simulation.simulate import PolicyPlayer, play
from bandit_server.bandit.simulation.traces import Trace


def most(trace: Trace) -> float:
    if trace.t == trace.horizon:
        return trace.gained
    gains = []
    for arm in range(trace.arms):
        tried = copy.deepcopy(trace)
        tried.pull(arm)
        gains.append(most(tried))
    return max(gains)


def test_an_arm_pays_what_was_recorded_of_its_own_pulls() -> None:
    trace = Trace([[0.5, 0.25, 0.125], [0.3, -0.1, 0.2]], 6)
    assert [trace.pull(arm) for arm in (0, 1, 1, 0, 1, 0)] == [0.5, 0.3, -0.1, 0.25, 0.2, 0.125]


def test_past_its_end_the_last_quarter_is_played_again_each_time_half_as_large() -> None:
    recorded = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    trace = Trace([recorded, [0.0]], 13)
    assert [trace.pull(0) for _ in range(13)] == [*recorded, 1.0, 0.5, 0.5, 0.25, 0.25]
    short = Trace([[4.0], [0.0]], 4)
    assert [short.pull(0) for _ in range(4)] == [4.0, 2.0, 1.0, 0.5]


@pytest.mark.parametrize("horizon", [1, 4, 8])
def test_the_oracle_divides_the_pulls_best_whatever_the_curves(horizon: int) -> None:
    rewards = [[-1.0, 0.2, 3.0, 0.1], [0.5, 0.4, 0.6], [0.0, 0.7, -0.3, 0.9, 0.1]]
    trace = Trace(rewards, horizon)
    assert trace.best == pytest.approx(most(trace))


def test_a_policy_plays_it_with_regret() -> None:
    outcome = play(PolicyPlayer(build("sliding_window_ts", {}, 2), 2, 0), Trace([[0.5] * 40, [0.1] * 40], 40))
    assert 0 < outcome.regret < 8
    assert outcome.pulls[0] > 25
