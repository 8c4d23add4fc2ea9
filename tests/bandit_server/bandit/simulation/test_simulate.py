"""A policy on a scenario."""

from __future__ import annotations

import pytest

from bandit_server.bandit.policy.published import POLICIES
from bandit_server.bandit.simulation.scenarios import SCENARIOS, make
from bandit_server.bandit.simulation.simulate import play, simulate


class RecordingPlayer:
    """Plays arms in turn and records its rewards."""

    def __init__(self, arms: int) -> None:
        self.arms = arms
        self.workers: list[str] = []
        self.reports: list[tuple[int, int, str, float]] = []
        self.reports_before: list[int] = []

    def select(self, worker: str) -> int:
        self.reports_before.append(len(self.reports))
        self.workers.append(worker)
        return (len(self.workers) - 1) % self.arms

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        self.reports.append((number, arm, worker, reward))


@pytest.mark.parametrize(("name", "delay"), [("rotting", 0), ("8-in-flight", 8)])
def test_a_reward_is_reported_as_many_pulls_late_as_the_scenario_says(name: str, delay: int) -> None:
    player, again = RecordingPlayer(3), make(name, 40, 3, 0)
    play(player, make(name, 40, 3, 0))
    assert player.reports_before == [max(0, t - delay) for t in range(40)]
    assert player.reports == [(t, t % 3, "first", again.pull(t % 3)) for t in range(40 - delay)]


def test_each_pull_is_made_and_reported_by_its_worker() -> None:
    player, scenario = RecordingPlayer(3), make("two-workers-one-late", 40, 3, 0)
    play(player, make("two-workers-one-late", 40, 3, 0))
    assert player.workers == [scenario.worker(t) for t in range(40)]
    assert [worker for _, _, worker, _ in player.reports] == player.workers


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_plays_every_scenario_and_no_one_beats_the_oracle(policy: str, scenario: str) -> None:
    outcome = simulate(policy, scenario, 40, 3, seed=1)
    assert sum(outcome.pulls) == sum(outcome.ranks) == 40
    assert outcome.regret > -1e-9


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_is_one_game(policy: str) -> None:
    assert simulate(policy, "rotting", 60, 3, seed=2) == simulate(policy, "rotting", 60, 3, seed=2)


def test_regret_is_what_the_oracle_gains_more() -> None:
    player, scenario = RecordingPlayer(3), make("piecewise", 60, 3, 3)
    again = make("piecewise", 60, 3, 3)
    lost = 0.0
    for t in range(60):
        means = [again.mean(arm) for arm in range(3)]
        lost += max(means) - means[t % 3]
        again.pull(t % 3)
    outcome = play(player, scenario)
    assert outcome.regret == pytest.approx(lost)
    assert outcome.pulls == (20, 20, 20)


def test_ranks_say_how_good_the_arms_were_at_the_time() -> None:
    always_best = [simulate(policy, "rotting", 300, 3, seed=0).ranks for policy in ("sliding_window_ts", "uniform")]
    assert always_best[0][0] > 2 * always_best[0][2]
    assert max(always_best[1]) < 140


@pytest.mark.parametrize(
    ("policy", "scenario", "options", "sentence"),
    [
        ("best", "rotting", {}, "there is no policy 'best'"),
        ("optima", "mine", {}, "there is no scenario 'mine'"),
        ("thompson", "rotting", {"window": 3.0}, "policy thompson has no option 'window'"),
    ],
)
def test_a_wrong_name_is_one_sentence(policy: str, scenario: str, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        simulate(policy, scenario, 10, 3, 0, options)
