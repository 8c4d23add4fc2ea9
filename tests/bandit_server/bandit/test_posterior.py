from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_server.bandit.history import History
from bandit_server.bandit.posterior import ArmPosterior, p_best, posterior

# (arm, reward, worker) of pull 0, 1, 2, …
Pulls = list[tuple[int, float, str]]


def told(pulls: Pulls, arms: int, window: int = 20) -> History:
    history = History(arms, window)
    for number, (arm, value, worker) in enumerate(pulls):
        history.pulled(number, arm)
        history.rewarded(number, arm, worker, value)
    return history


def believed(history: History, gamma: float = 0.99) -> list[ArmPosterior]:
    beliefs = posterior(history, gamma)
    assert beliefs is not None
    return beliefs.arms()


def noisy(arms: int, rounds: int, seed: int = 0, workers: tuple[str, ...] = ("w",), size: float = 0.01) -> Pulls:
    rng = np.random.default_rng(seed)
    return [
        (i % arms, size * float(i % arms + rng.normal()), workers[int(rng.integers(len(workers)))])
        for i in range(rounds)
    ]


def directly(pulls: Pulls, arms: int, gamma: float, window: int = 20) -> list[tuple[float, float, float]]:
    """Mean, sd and effective count of every arm, as the formulas say."""
    rows = [(arm, value, worker, gamma ** (len(pulls) - 1 - i)) for i, (arm, value, worker) in enumerate(pulls)]
    kept = [[row for row in rows if row[0] == arm][-window:] for arm in range(arms)]
    rows = [row for arm in kept for row in arm]
    workers = {row[2] for row in rows}
    scale = {
        one: sum(w * abs(v) for _, v, of, w in rows if of == one) / sum(w for _, _, of, w in rows if of == one)
        for one in workers
    }
    count = [sum(row[3] for row in arm) for arm in kept]
    total = [sum(w * v / scale[of] for _, v, of, w in arm) for arm in kept]
    differences = [
        (b[3], (b[1] - a[1]) / scale[one])
        for arm in kept
        for one in workers
        for a, b in pairwise([row for row in arm if row[2] == one])
    ]
    noise = sum(w * d * d / 2 for w, d in differences) / sum(w for w, _ in differences)
    prior = sum(total) / sum(count)
    seen = [t / n for t, n in zip(total, count, strict=True) if n > 0]
    width = noise + sum((mean - prior) ** 2 for mean in seen) / len(seen)
    typical = sorted(scale.values())[len(scale) // 2]
    precision = [1 / width + n / noise for n in count]
    return [
        (typical * (prior / width + t / noise) / p, typical * p**-0.5, n)
        for p, t, n in zip(precision, total, count, strict=True)
    ]


@pytest.mark.parametrize("gamma", [1.0, 0.99, 0.7])
@pytest.mark.parametrize("workers", [("w",), ("a", "b", "c")])
def test_the_posterior_is_what_its_formulas_say(gamma: float, workers: tuple[str, ...]) -> None:
    pulls = noisy(3, 100, seed=1, workers=workers)
    # A fourth arm was never pulled.
    expected = directly(pulls, 4, gamma)
    computed = believed(told(pulls, 4), gamma)
    assert [(arm.mean, arm.sd, arm.effective_count) for arm in computed] == [pytest.approx(arm) for arm in expected]


def test_there_is_no_posterior_before_the_first_reward() -> None:
    history = History(3, 20)
    history.pulled(0, 1)
    assert posterior(history, 0.99) is None


def test_late_rewards_count_by_pull_number_and_not_by_arrival() -> None:
    pulls = noisy(3, 30)
    late = History(3, 20)
    for number, (arm, _, _) in enumerate(pulls):
        late.pulled(number, arm)
    for number, (arm, value, worker) in sorted(enumerate(pulls), key=lambda pull: pull[0] % 7):
        late.rewarded(number, arm, worker, value)
    assert believed(late) == believed(told(pulls, 3))


def test_p_best_agrees_with_monte_carlo_within_one_percent() -> None:
    rng = np.random.default_rng(0)
    for arms in (2, 3, 7, 20):
        mean, sd = rng.normal(size=arms), rng.uniform(0.05, 1.5, arms)
        drawn = mean + sd * rng.standard_normal((200_000, arms))
        sampled = np.bincount(drawn.argmax(axis=1), minlength=arms) / len(drawn)
        assert np.abs(p_best(mean, sd) - sampled).max() < 0.01


def test_p_best_of_two_arms_is_the_normal_distribution_of_their_difference() -> None:
    mean, sd = np.array([0.3, 0.0]), np.array([0.4, 0.3])
    exact = 0.5 * (1 + math.erf(0.3 / math.hypot(0.4, 0.3) / math.sqrt(2)))
    assert p_best(mean, sd) == pytest.approx([exact, 1 - exact], abs=1e-3)


@pytest.mark.parametrize("arms", [1, 5, 64])
def test_p_best_of_equal_arms_is_shared_equally(arms: int) -> None:
    assert p_best(np.zeros(arms), np.ones(arms)) == pytest.approx(np.full(arms, 1 / arms))


def test_p_best_is_certain_where_arms_lie_far_apart() -> None:
    assert p_best(np.array([0.0, 1.0, 0.5]), np.full(3, 1e-9)) == pytest.approx([0, 1, 0], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=3, max_size=40),
    exponent=st.integers(-20, 20),
)
def test_beliefs_scale_exactly_with_the_unit_of_reward(values: list[float], exponent: int) -> None:
    def beliefs(unit: float) -> list[ArmPosterior]:
        return believed(told([(i % 3, unit * (1e-3 + value), "w") for i, value in enumerate(values)], 3))

    for small, scaled in zip(beliefs(1.0), beliefs(2.0**exponent), strict=True):
        assert (scaled.mean, scaled.sd) == (small.mean * 2.0**exponent, small.sd * 2.0**exponent)
        assert (scaled.p_best, scaled.effective_count) == (small.p_best, small.effective_count)


@settings(max_examples=300, deadline=None)
@given(
    pulls=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.one_of(st.just(0.0), st.floats(1e-300, 1e300), st.floats(-1e300, -1e-300)),
            st.sampled_from(["a", "b"]),
            st.integers(1, 2000),
        ),
        min_size=1,
        max_size=15,
    ),
    gamma=st.floats(0.01, 1),
)
def test_beliefs_are_finite_for_rewards_of_any_size_and_age(
    pulls: list[tuple[int, float, str, int]], gamma: float
) -> None:
    history, number = History(4, 6), 0
    for arm, value, worker, gap in pulls:
        number += gap
        history.pulled(number, arm)
        history.rewarded(number, arm, worker, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for arm_belief in believed(history, gamma):
            assert math.isfinite(arm_belief.mean)
            assert 0 <= arm_belief.sd < math.inf
            assert 0 <= arm_belief.p_best <= 1


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e-3, 1e150, 1e300])
def test_magnitudes_change_no_probability(size: float) -> None:
    def chances(size: float) -> list[float]:
        return [arm.p_best for arm in believed(told(noisy(3, 60, size=size), 3))]

    assert chances(size) == pytest.approx(chances(1.0), rel=1e-6)


def test_a_worker_whose_rewards_are_a_hundred_times_larger_sways_nothing() -> None:
    pulls = noisy(3, 90, workers=("veteran", "joiner"))
    grown = [(arm, value * 128 if worker == "joiner" else value, worker) for arm, value, worker in pulls]
    chances = [arm.p_best for arm in believed(told(pulls, 3))]
    assert [arm.p_best for arm in believed(told(grown, 3))] == chances


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0, 1e-300, 1e300])
def test_constant_rewards_leave_all_arms_alike(value: float) -> None:
    beliefs = believed(told([(i % 4, value, "w") for i in range(40)], 4))
    assert [arm.mean for arm in beliefs] == pytest.approx([value] * 4)
    assert [arm.p_best for arm in beliefs] == pytest.approx([0.25] * 4, abs=0.02)


def test_constant_but_different_arms_are_told_apart() -> None:
    beliefs = believed(told([(i % 3, [0.1, 0.3, 0.2][i % 3], "w") for i in range(30)], 3))
    assert [arm.mean for arm in beliefs] == pytest.approx([0.1, 0.3, 0.2], rel=1e-6)
    assert beliefs[1].p_best > 0.99


def test_a_single_arm_is_the_best_one() -> None:
    assert [arm.p_best for arm in believed(told(noisy(1, 10), 1))] == [1.0]


def test_sixty_four_arms_have_a_posterior_and_the_better_half_most_of_the_chance() -> None:
    beliefs = believed(told(noisy(64, 640, seed=2), 64))
    assert sum(arm.p_best for arm in beliefs) == pytest.approx(1)
    assert sum(arm.p_best for arm in beliefs[32:]) > 0.95


def test_an_arm_never_pulled_is_believed_to_be_like_the_others_and_less_certain() -> None:
    beliefs = believed(told(noisy(3, 60), 4))
    tried = beliefs[:3]
    assert beliefs[3].effective_count == 0
    assert min(arm.mean for arm in tried) < beliefs[3].mean < max(arm.mean for arm in tried)
    assert beliefs[3].sd > max(arm.sd for arm in tried)


def test_pulls_in_flight_shrink_variance_and_leave_means() -> None:
    beliefs = posterior(told(noisy(3, 30), 3), 0.99)
    assert beliefs is not None
    waiting = beliefs.expecting([1, 1, 2])
    assert waiting.mean.tolist() == beliefs.mean.tolist()
    assert (waiting.precision - beliefs.precision).tolist() == pytest.approx([0, 2 * beliefs.noise, beliefs.noise])
    assert beliefs.expecting([]).sd.tolist() == beliefs.sd.tolist()


def fading(later: Callable[[int], tuple[int, float]], rounds: int) -> list[ArmPosterior]:
    """Arm 0 pays 1, arm 1 pays 2, ten times each; then what `later` says."""
    rng = np.random.default_rng(5)
    early = [(i % 2, 1.0 + i % 2) for i in range(20)]
    pulls = [*early, *(later(i) for i in range(rounds))]
    return believed(told([(arm, value + 0.1 * rng.normal(), "w") for arm, value in pulls], 2), 0.95)


def test_an_arm_whose_rewards_grow_old_becomes_uncertain_again() -> None:
    fresh, old = (fading(lambda i: (1, 2.0), rounds)[0] for rounds in (0, 200))
    assert old.effective_count < 0.01 < fresh.effective_count
    assert old.sd > 3 * fresh.sd
    assert fresh.p_best < 0.01 < old.p_best


def test_recent_rewards_outweigh_old_ones() -> None:
    assert fading(lambda i: (i % 2, 2.0 - i % 2), 60)[0].mean == pytest.approx(2.0, abs=0.15)


def test_beliefs_do_not_depend_on_rewards_outside_the_window() -> None:
    recent = noisy(2, 40)
    other = [(arm, 100 * value, worker) for arm, value, worker in noisy(2, 40, seed=9)]
    assert believed(told(noisy(2, 40, seed=8) + recent, 2)) == believed(told(other + recent, 2))
