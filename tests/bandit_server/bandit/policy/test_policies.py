"""All policies: which arms they play, and what their choices may not depend on."""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bandit_server.bandit import serialization
from bandit_server.bandit.policy import Policy, build
from bandit_server.bandit.policy.published import POLICIES
from bandit_server.bandit.random import Randomness

Pays = Callable[[int, int], float]
LEARNING = [name for name in POLICIES if build(name, {}, 2).learns]


def made(name: str, arms: int, **options: float) -> Policy:
    return build(name, options, arms)


def played(
    policy: Policy,
    arms: int,
    pays: Pays,
    rounds: int,
    seed: int = 0,
    active: Sequence[int] = (),
    delay: int = 0,
    workers: str = "w",
) -> list[int]:
    """Return the arms that a policy plays.

    `pays(arm, round)` is the reward, reported `delay` rounds later. The workers take turns.
    """
    randomness = Randomness(seed)
    chosen: list[int] = []
    for round in range(rounds):
        flying = chosen[len(chosen) - delay :] if delay else []
        rng = randomness.at("w", round)
        arm = policy.choose(in_flight=flying, active=active or range(arms), rng=rng)[0]
        policy.pulled(round, arm)
        chosen.append(arm)
        if round >= delay:
            back = round - delay
            policy.rewarded(back, chosen[back], workers[back % len(workers)], pays(chosen[back], back))
    return chosen


def noisy(seed: int, gap: float = 0.25, sd: float = 0.2) -> Pays:
    """Arm k pays gap · k, and noise that depends on the round alone."""
    noise = np.random.default_rng(seed).normal(0, sd, 5000)
    return lambda arm, round: gap * arm + float(noise[round])


@pytest.mark.parametrize("name", POLICIES)
def test_a_copy_is_the_same_and_goes_its_own_way(name: str) -> None:
    policy = made(name, 5)
    played(policy, 5, noisy(1), 60, workers="vw")
    before = serialization.dump(policy)
    other, last = serialization.clone(policy), serialization.clone(policy)
    assert serialization.dump(other) == before
    for one in (other, last):
        one.pulled(60, 2)
        one.rewarded(60, 2, "x", 0.3)
    assert serialization.dump(other) == serialization.dump(last)
    assert (serialization.dump(other) != before) == policy.learns or name == "round_robin"
    assert serialization.dump(policy) == before


@pytest.mark.parametrize("name", LEARNING)
def test_the_best_of_five_noisy_arms_is_played_far_more_often_than_by_chance(name: str) -> None:
    for seed in range(3):
        assert played(made(name, 5), 5, noisy(seed), 200, seed).count(4) > 90


def test_optima_follows_the_best_arm_when_another_becomes_the_best() -> None:
    noise = noisy(1, gap=0.0)
    arms = played(made("optima", 3), 3, lambda arm, t: noise(arm, t) + (1.0 if arm == (t >= 150) else 0.0), 300)
    assert arms[100:150].count(0) > 40
    assert arms[200:].count(1) > 80


def test_optima_leaves_an_arm_that_has_rotted() -> None:
    noise, pulls = noisy(2, gap=0.0, sd=0.05), [0, 0]

    def pays(arm: int, round: int) -> float:
        pulls[arm] += 1
        return (math.exp(-pulls[0] / 20) if arm == 0 else 0.4) + noise(arm, round)

    arms = played(made("optima", 2), 2, pays, 150)
    assert arms[:20].count(0) > 12
    assert arms[100:].count(1) > 40


def test_optima_finds_an_arm_that_starts_to_pay_late() -> None:
    noise = noisy(3, gap=0.0, sd=0.05)
    arms = played(made("optima", 4), 4, lambda arm, t: noise(arm, t) + (0.5, 0.1, 0.1, 1.0 * (t > 150))[arm], 400)
    assert arms[300:].count(3) > 80


@pytest.mark.parametrize("name", LEARNING)
@settings(max_examples=8, deadline=None)
@given(
    exponent=st.integers(-20, 20),
    seed=st.integers(0, 2**32),
    delay=st.sampled_from([0, 3]),
    workers=st.sampled_from(["w", "wv"]),
)
def test_no_unit_of_reward_changes_any_choice(exponent: int, seed: int, name: str, delay: int, workers: str) -> None:
    noise = noisy(seed % 1000, gap=0.01, sd=0.02)
    play = functools.partial(played, arms=4, rounds=60, seed=seed, delay=delay, workers=workers)
    plain = play(made(name, 4), pays=noise)
    scaled = play(made(name, 4), pays=lambda a, t: math.ldexp(noise(a, t), exponent))
    assert plain == scaled


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e150, 1e300])
def test_rewards_at_the_ends_of_the_floating_range_are_learned_from(name: str, size: float) -> None:
    policy, noise = made(name, 3), noisy(0)
    assert played(policy, 3, lambda a, t: size * noise(a, t), 120).count(2) > 60
    for belief in policy.posterior():
        assert all(math.isfinite(x) for x in (belief.mean, belief.sd, belief.effective_count, belief.p_best))


@pytest.mark.parametrize("name", LEARNING)
@settings(max_examples=25, deadline=None)
@given(rewards=st.lists(st.floats(-1e308, 1e308), min_size=1, max_size=30), workers=st.integers(1, 3))
@example(rewards=[1.0, 2.2250738585e-313], workers=2)
def test_any_finite_rewards_leave_finite_beliefs(rewards: list[float], name: str, workers: int) -> None:
    policy = made(name, 3)
    with np.errstate(all="raise", under="ignore"):
        for number, reward in enumerate(rewards):
            policy.pulled(number, number % 3)
            policy.rewarded(number, number % 3, str(number % workers), reward)
        beliefs = policy.posterior()
        chosen = policy.choose(in_flight=[1], active=range(3), rng=np.random.default_rng(0), count=5)
    assert len(beliefs) == 3
    assert sum(belief.p_best for belief in beliefs) == pytest.approx(1)
    assert all(math.isfinite(belief.mean) and math.isfinite(belief.sd) for belief in beliefs)
    assert set(chosen) <= {0, 1, 2}


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("value", [0.0, 0.01, -3.0, 1e300])
def test_arms_with_equal_constant_rewards_are_all_played(name: str, value: float) -> None:
    policy = made(name, 3)
    arms = played(policy, 3, lambda a, t: value, 90)
    assert min(arms.count(arm) for arm in range(3)) >= 10
    assert [belief.mean for belief in policy.posterior()] == pytest.approx([value] * 3)


@pytest.mark.parametrize("name", LEARNING)
def test_constant_but_different_arms_are_told_apart(name: str) -> None:
    assert played(made(name, 3), 3, lambda a, t: 0.1 * a, 60).count(2) > 45


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_seed_and_history_give_the_same_choices(name: str) -> None:
    first, again = made(name, 4), made(name, 4)
    assert played(first, 4, noisy(5), 60) == played(again, 4, noisy(5), 60)
    copied = copy.deepcopy(first)
    choices = [
        policy.choose(in_flight=[2], active=range(4), rng=Randomness(1).at("w", 60), count=65)
        for policy in (first, again, copied)
    ]
    assert choices[0] == choices[1] == choices[2]


@pytest.mark.parametrize("name", POLICIES)
def test_choosing_changes_nothing(name: str) -> None:
    asked, unasked = made(name, 4), made(name, 4)
    for policy in (asked, unasked):
        played(policy, 4, noisy(6), 30)
    asked.choose(in_flight=[], active=range(4), rng=np.random.default_rng(3), count=65)
    assert asked.posterior() == unasked.posterior()
    later = [p.choose(in_flight=[], active=range(4), rng=np.random.default_rng(0), count=9) for p in (asked, unasked)]
    assert later[0] == later[1]


@pytest.mark.parametrize("name", POLICIES)
def test_the_worker_and_the_round_are_all_that_chance_depends_on(name: str) -> None:
    policy = made(name, 4)
    played(policy, 4, noisy(17), 12)
    chance, again = Randomness(5), Randomness(5)

    def chosen(chance: Randomness, worker: str, round: int) -> list[int]:
        return policy.choose(in_flight=[], active=range(4), rng=chance.at(worker, round), count=20)

    calls = [("w", 3), ("v", 3), ("w", 4)]
    forwards = [chosen(chance, *call) for call in calls]
    backwards = [chosen(again, *call) for call in reversed(calls)]
    assert forwards == backwards[::-1]


@pytest.mark.parametrize("name", POLICIES)
def test_an_arm_that_was_never_pulled_is_neither_a_fault_nor_forgotten(name: str) -> None:
    policy = made(name, 4)
    played(policy, 4, noisy(18), 300, active=[0, 1, 2])
    beliefs = policy.posterior()
    if policy.learns:
        assert all(math.isfinite(x) for b in beliefs for x in (b.mean, b.sd, b.effective_count, b.p_best))
        assert beliefs[3].effective_count < 1
        assert beliefs[3].p_best > 0
        assert policy.choose(in_flight=[], active=range(4), rng=Randomness(0).at("w", 300)) == [3]
    assert set(policy.choose(in_flight=[3], active=range(4), rng=Randomness(0).at("w", 300), count=65)) <= set(range(4))


@pytest.mark.parametrize("name", LEARNING)
def test_rewards_that_come_eight_pulls_late_are_learned_from(name: str) -> None:
    assert played(made(name, 5), 5, noisy(19), 300, delay=8).count(4) > 120


@pytest.mark.parametrize("name", LEARNING)
def test_the_probability_of_being_the_best_is_that_of_its_means_and_deviations(name: str) -> None:
    policy = made(name, 5)
    played(policy, 5, noisy(20, gap=0.03), 80)
    beliefs = policy.posterior()
    drawn = np.random.default_rng(0).normal([b.mean for b in beliefs], [b.sd for b in beliefs], (200_000, 5))
    sampled = np.bincount(drawn.argmax(axis=1), minlength=5) / len(drawn)
    assert [b.p_best for b in beliefs] == pytest.approx(sampled, abs=0.01)


@pytest.mark.parametrize("name", ["optima", "uniform"])
def test_another_seed_gives_other_choices(name: str) -> None:
    assert played(made(name, 4), 4, noisy(7), 40, seed=1) != played(made(name, 4), 4, noisy(7), 40, seed=2)


@pytest.mark.parametrize("name", POLICIES)
def test_a_paused_arm_is_never_chosen(name: str) -> None:
    for before in (0, 5, 50):
        policy = made(name, 4)
        played(policy, 4, noisy(8), before)
        for now in range(before, before + 300):
            chosen = policy.choose(in_flight=[], active=[0, 1], rng=Randomness(0).at("w", now), count=2)
            assert set(chosen) <= {0, 1}
            policy.pulled(now, chosen[0])
            policy.rewarded(now, chosen[0], "w", 0.1)


@pytest.mark.parametrize("name", POLICIES)
def test_a_single_arm_is_always_played(name: str) -> None:
    assert played(made(name, 1), 1, noisy(9), 30) == [0] * 30


@pytest.mark.parametrize("name", POLICIES)
def test_sixty_four_arms_are_all_tried(name: str) -> None:
    assert len(set(played(made(name, 64), 64, noisy(10, gap=0.0), 1000))) == 64


@pytest.mark.parametrize("name", LEARNING)
def test_every_arm_is_tried_once_before_one_is_repeated(name: str) -> None:
    orders = [played(made(name, 6), 6, noisy(11), 6, seed) for seed in range(5)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1, "in an order that depends on the seed"


@pytest.mark.parametrize("name", LEARNING)
def test_an_untried_arm_in_flight_elsewhere_is_not_tried_twice(name: str) -> None:
    policy = made(name, 3)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert set(policy.choose(in_flight=[0, 1], active=range(3), rng=rng, count=1)) == {2}


def test_eight_workers_do_not_all_jump_on_one_arm() -> None:
    policy = made("optima", 4)
    for number in range(8):
        policy.pulled(number, number % 4)
        noise = 0.1 if number % 8 in (0, 2, 5, 7) else -0.1
        policy.rewarded(number, number % 4, "w", 0.5 + 0.01 * (number % 4) + noise)
    flying: list[int] = []
    for worker in range(8):
        rng = Randomness(0).at(str(worker), 1)
        flying += policy.choose(in_flight=flying, active=range(4), rng=rng)
    assert len(set(flying)) >= 3


def test_pulls_in_flight_make_an_uncertain_arm_less_likely_to_be_chosen() -> None:
    policy = made("optima", 2)
    for number, (arm, reward) in enumerate([(0, 0.5), (0, 0.6), (0, 0.4), (0, 0.5), (1, 0.45)]):
        policy.pulled(number, arm)
        policy.rewarded(number, arm, "w", reward)

    def share(in_flight: list[int]) -> float:
        chosen = [
            policy.choose(in_flight=in_flight, active=range(2), rng=np.random.default_rng(seed))[0]
            for seed in range(400)
        ]
        return chosen.count(1) / 400

    assert share([1] * 8) < share([]) - 0.05


def test_a_late_joiner_with_rewards_a_hundred_times_larger_upsets_nothing() -> None:
    policy, noise = made("optima", 3), random.Random(12)
    for number in range(120):
        worker = "late" if number >= 60 and number % 2 else "veteran"
        size = 100.0 if worker == "late" else 1.0
        policy.pulled(number, number % 3)
        policy.rewarded(number, number % 3, worker, size * (0.1 * (number % 3) + 0.1 + noise.gauss(0, 0.02)))
    beliefs = policy.posterior()
    assert [belief.mean for belief in beliefs] == sorted(belief.mean for belief in beliefs)
    assert beliefs[2].p_best > 0.9
    assert beliefs[2].mean < 1, "in the first worker's units"


def test_an_arm_that_was_not_pulled_for_long_is_tried_again() -> None:
    arms = played(made("optima", 3, retry=10), 3, lambda a, t: (0.0, 0.0, 1.0)[a] + 1e-6 * (t % 7), 200)
    for arm in range(2):
        last = -1
        for at, chosen in enumerate(arms):
            if chosen == arm:
                last = at
            assert at - last <= 30 + 2
    never = played(made("optima", 3, retry=0), 3, lambda a, t: (0.0, 0.0, 1.0)[a] + 1e-6 * (t % 7), 200)
    assert never[50:].count(2) > arms[50:].count(2)


def test_uniform_plays_every_active_arm_equally_often() -> None:
    arms = played(made("uniform", 4), 4, noisy(13), 3000, active=[0, 1, 3])
    assert [arms.count(arm) / 3000 for arm in range(4)] == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.04)


def test_round_robin_plays_the_arms_in_turn_and_skips_a_paused_one() -> None:
    assert played(made("round_robin", 4), 4, noisy(14), 6) == [0, 1, 2, 3, 0, 1]
    assert played(made("round_robin", 4), 4, noisy(14), 6, active=[0, 2, 3]) == [0, 2, 3, 0, 2, 3]


def test_round_robin_goes_on_after_the_arm_that_has_just_been_paused() -> None:
    policy = made("round_robin", 4)
    policy.pulled(0, 1)
    assert policy.choose(in_flight=[], active=[0, 2, 3], rng=np.random.default_rng(0), count=4) == [2, 3, 0, 2]


def test_fixed_plays_its_arm_whatever_is_known() -> None:
    policy = build("fixed:1", {}, 3, fixed=1)
    assert played(policy, 3, noisy(15), 10) == [1] * 10
    with pytest.raises(ValueError, match="has no option 'memory'; it has none"):
        build("fixed:1", {"memory": 0.9}, 3, fixed=1)


@pytest.mark.parametrize("name", POLICIES)
def test_only_policies_that_learn_have_a_posterior_and_only_from_the_first_reward_on(name: str) -> None:
    policy = made(name, 3)
    assert policy.posterior() == []
    played(policy, 3, noisy(16), 1)
    assert len(policy.posterior()) == (3 if policy.learns else 0)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("best", {}, "there is no policy 'best'; there are optima, "),
        (
            "optima",
            {"widnow": 3},
            "policy optima has no option 'widnow'; its options are exploration, memory, retry, settle",
        ),
        ("sliding_window_ts", {"window": 0}, "option window is 0; expected a whole number from 1 to 10000"),
        ("sliding_window_ts", {"window": 2.5}, "option window is 2.5; expected a whole number from 1 to 10000"),
        ("sliding_window_ts", {"window": math.nan}, "option window is nan; expected a whole number"),
        ("thompson", {"window": 3}, "policy thompson has no option 'window'; it has none"),
        ("discounted_ts", {"gamma": 1}, "option gamma is 1; expected a number between 0 and 1"),
        ("fdsw_ts", {"gamma": 0}, "option gamma is 0; expected a number between 0 and 1"),
        ("fdsw_ts", {"window": math.inf}, "option window is inf; expected a whole number from 1 to 10000"),
        ("fdsw_ts", {"optimism": 1.5}, "option optimism is 1.5; expected a number from 0 to 1"),
        ("kalman_ts", {"drift": -1}, "option drift is -1; expected a number from 0 to 100"),
        ("sw_ucb", {"window": 20_000}, "option window is 20000; expected a whole number from 1 to 10000"),
        ("sw_ucb", {"xi": -1}, "option xi is -1; expected a number from 0 to 100"),
        ("d_ucb", {"gamma": math.nan}, "option gamma is nan; expected a number between 0 and 1"),
        ("raw_ucb", {"alpha": math.nan}, "option alpha is nan; expected a number from 0 to 100"),
        ("epsilon_greedy", {"epsilon": 2}, "option epsilon is 2; expected a number from 0 to 1"),
        ("epsilon_greedy", {"alpha": -0.1}, "option alpha is -0.1; expected a number from 0 to 1"),
        ("uniform", {"memory": 0.5}, "policy uniform has no option 'memory'; it has none"),
        ("optima", {"memory": 1.0}, "option memory is 1; expected a number between 0 and 1"),
        ("optima", {"exploration": -1}, "option exploration is -1; expected a number from 0 to 100"),
        ("optima", {"retry": -1}, "option retry is -1; expected a number from 0 to 1e\\+09"),
    ],
)
def test_a_wrong_name_or_option_gets_a_sentence(name: str, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(name, options, 3)
