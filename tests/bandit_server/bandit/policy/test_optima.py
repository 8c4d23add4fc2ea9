"""The waiting times of the default policy: which arms are tried again, and how soon."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest

from bandit_server.bandit.policy import build
from bandit_server.bandit.policy.optima import HARMFUL, KNOWN, Optima
from bandit_server.bandit.simulation.scenarios import make
from bandit_server.bandit.simulation.simulate import PolicyPlayer, play

GOOD, NOISE = 1.0, 0.02


def history(policy: Optima, rewards: list[tuple[int, float]]) -> int:
    """Play the rewards, with noise that is negative in the last two; return the number of the next pull."""
    for number, (arm, reward) in enumerate(rewards):
        policy.pulled(number, arm)
        back = (len(rewards) - 1 - number) // 2
        policy.rewarded(number, arm, "w", reward + (NOISE if back % 2 else -NOISE))
    return len(rewards)


def pulls_until(policy: Optima, arm: int, number: int) -> int:
    """Return how many pulls the other of two arms gets, with rewards as before, until this arm is played."""
    for waited in range(1000):
        chosen = policy.choose(in_flight=[], active=range(2), rng=np.random.default_rng(waited))[0]
        if chosen == arm:
            return waited
        policy.pulled(number + waited, chosen)
        policy.rewarded(number + waited, chosen, "w", GOOD + (NOISE if waited % 2 else -NOISE))
    raise AssertionError(f"arm {arm} was never tried again")


def waited(others: list[float]) -> int:
    """Return how long the worse of two arms waits after these rewards."""
    policy = Optima(2, retry=40, settle=4)
    rewards = [both for reward in others for both in ((0, GOOD), (1, reward))]
    return pulls_until(policy, 1, history(policy, rewards))


def test_a_poor_arm_waits_longer_after_each_of_its_rewards_up_to_a_limit() -> None:
    assert [waited([0.1] * count) for count in (1, 2, 3, 4)] == [8, 24, 72, 80]


def test_an_arm_that_is_known_waits_twice_as_long() -> None:
    assert waited([0.1] * (KNOWN - 1)) == 80
    assert waited([0.1] * KNOWN) == 160


def test_an_arm_that_was_better_than_believed_is_tried_again_soon() -> None:
    assert waited([0.1] * 6) == 80
    assert waited([0.1] * 5 + [0.4]) <= 8
    assert waited([0.1] * 5 + [-0.2]) > 8


def test_an_arm_that_does_harm_is_tried_again_sooner_still() -> None:
    assert HARMFUL > 1
    assert waited([-0.5] * 6) <= 4


def test_no_arm_counts_as_worth_less_than_nothing() -> None:
    policy = Optima(2, retry=0)
    history(policy, [(0, -0.1)] * 12 + [(1, -0.5)])
    chosen = policy.choose(in_flight=[], active=range(2), rng=np.random.default_rng(0))
    assert chosen == [1], "the less known one, though the other's mean is higher"


@pytest.mark.parametrize("noise", [0.0, 0.002, 0.02, 0.2])
@pytest.mark.parametrize("active", [[0, 1, 2, 3, 4], [1, 3, 4], [2]])
def test_each_choice_ahead_has_the_highest_bound_with_those_before_it_in_flight(
    active: list[int], noise: float
) -> None:
    policy, chance = Optima(5, retry=0, exploration=0.7), np.random.default_rng(5)
    for number in range(60):
        arm = number % 5
        policy.pulled(number, arm)
        policy.rewarded(number, arm, "w", 0.03 - 0.005 * arm + noise * chance.standard_normal())
        filters, flying = policy._filters, [number % 2, 0, 2, 0, 0]
        in_flight = [arm for arm in range(5) for _ in range(flying[arm])]
        chosen = policy.choose(in_flight=in_flight, active=active, rng=np.random.default_rng(number), count=30)
        if number < 4:
            # Until every arm has a reward, those without come first.
            continue
        for ahead, hypothesis in enumerate(filters.draw(np.random.default_rng(number).random(30)).tolist()):
            known = filters.predict(number + 1 + ahead, hypothesis)
            spread = filters.noise_variance(hypothesis) * 0.7**2
            bounds = {
                arm: max(known[0][arm], 0.0) + math.sqrt(known[1][arm] * spread / (1 + flying[arm] * known[1][arm]))
                for arm in active
            }
            assert bounds[chosen[ahead]] == pytest.approx(max(bounds.values()), rel=1e-12)
            flying[chosen[ahead]] += 1


@pytest.mark.parametrize("arms", [3, 7])
def test_an_arm_that_pays_later_is_not_starved(arms: int) -> None:
    def regret(name: str) -> float:
        return fmean(
            play(PolicyPlayer(build(name, {}, arms), arms, seed), make("coupled", 200, arms, seed)).regret
            for seed in range(100, 106)
        )

    assert regret("optima") <= regret("round_robin")
