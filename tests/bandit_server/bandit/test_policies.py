from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_server.bandit.history import History
from bandit_server.bandit.policy import Policy, build
from bandit_server.bandit.policy.optima import Optima
from bandit_server.bandit.random import generator

Pays = Callable[[int, int], float]
LEARNING = ["optima"]
ALL = [*LEARNING, "uniform", "round_robin"]


def choices(
    policy: Policy,
    history: History,
    seed: int,
    count: int = 1,
    active: Sequence[int] = (),
    in_flight: Sequence[int] = (),
) -> list[int]:
    return policy.choose(
        history,
        in_flight=in_flight,
        active=active or range(len(history)),
        rng=generator(seed, "w", history.now, "select"),
        count=count,
    )


def played(policy: Policy, arms: int, pays: Pays, rounds: int, seed: int = 0, active: Sequence[int] = ()) -> list[int]:
    """The arms of a run in which pull `number` of an arm pays(arm, number)."""
    history = History(arms, policy.window)
    chosen = []
    for number in range(rounds):
        (arm,) = choices(policy, history, seed, active=active)
        history.pulled(number, arm)
        history.rewarded(number, arm, "w", pays(arm, number))
        chosen.append(arm)
    return chosen


def noisy(seed: int, gap: float = 0.25) -> Pays:
    """Arm k pays k·gap and standard noise of a quarter, in thousandths."""
    rng = np.random.default_rng(seed)
    return lambda arm, number: 1e-3 * float(gap * arm + 0.25 * rng.normal())


def in_turn(arms: int, rounds: int, pays: Pays) -> list[tuple[int, float]]:
    return [(i % arms, pays(i % arms, i)) for i in range(rounds)]


def after(rewards: Sequence[tuple[int, float]], arms: int, window: int = 20) -> History:
    history = History(arms, window)
    for number, (arm, value) in enumerate(rewards):
        history.pulled(number, arm)
        history.rewarded(number, arm, "w", value)
    return history


def test_optima_plays_the_best_of_five_noisy_arms_far_more_often_than_uniform() -> None:
    for seed in range(6):
        best = [played(build(name, {}), 5, noisy(seed), 200, seed).count(4) for name in ("optima", "uniform")]
        assert best[0] > 120
        assert best[1] < 70


def test_optima_follows_the_best_arm_when_another_becomes_the_best() -> None:
    def pays(arm: int, number: int) -> float:
        return noise(arm, number) + (2e-3 if arm == (0 if number < 150 else 2) else 0.0)

    for seed in range(4):
        noise = noisy(seed, gap=0.0)
        chosen = played(build("optima", {}), 3, pays, 300, seed)
        assert chosen[:150].count(0) > 100
        assert chosen[-100:].count(2) > 70


def test_optima_leaves_an_arm_that_has_rotted() -> None:
    for seed in range(4):
        noise = noisy(seed, gap=0.0)
        pulls: Counter[int] = Counter()

        def pays(arm: int, number: int, noise: Pays = noise, pulls: Counter[int] = pulls) -> float:
            pulls[arm] += 1
            return 4e-3 * 0.9 ** pulls[arm] + noise(arm, number) if arm == 0 else 1e-3 + noise(arm, number)

        chosen = played(build("optima", {}), 2, pays, 200, seed)
        assert chosen[:20].count(0) > 10
        assert chosen[-100:].count(1) > 70


@settings(max_examples=25, deadline=None)
@given(exponent=st.integers(-20, 20), seed=st.integers(0, 2**32), negative=st.booleans())
def test_no_unit_of_reward_changes_any_choice(exponent: int, seed: int, negative: bool) -> None:
    unit = 2.0**exponent * (-1 if negative else 1)
    sign = -1 if negative else 1
    paid, scaled = noisy(seed), noisy(seed)
    policy = build("optima", {})
    ours = played(policy, 3, lambda arm, number: sign * paid(arm, number), 60, seed)
    assert played(policy, 3, lambda arm, number: unit * scaled(arm, number), 60, seed) == ours


@pytest.mark.parametrize("size", [1e-297, 1e297])
def test_rewards_at_the_ends_of_the_floating_range_are_learned_from(size: float) -> None:
    paid = noisy(1)
    assert played(build("optima", {}), 5, lambda arm, number: size * paid(arm, number), 150).count(4) > 80


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_worker_and_history_give_the_same_choices(name: str) -> None:
    history = after(in_turn(5, 40, noisy(0, gap=0.1)), 5)
    first, again = (choices(build(name, {}), history, 11, count=65, in_flight=[1, 3]) for _ in range(2))
    assert first == again
    assert len(first) == 65


def test_another_seed_gives_other_choices() -> None:
    history = after(in_turn(5, 40, noisy(0, gap=0.1)), 5)
    assert len({tuple(choices(build("optima", {}), history, seed, count=20)) for seed in range(10)}) == 10


def test_late_rewards_lead_to_the_choices_of_punctual_ones() -> None:
    paid = in_turn(4, 40, noisy(3, gap=0.1))
    late = History(4, 20)
    for number, (arm, _) in enumerate(paid):
        late.pulled(number, arm)
    for number, (arm, value) in reversed(list(enumerate(paid))):
        late.rewarded(number, arm, "w", value)
    for seed in range(20):
        punctual = choices(build("optima", {}), after(paid, 4), seed, count=10)
        assert choices(build("optima", {}), late, seed, count=10) == punctual


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("known", [[], [(0, 0.1)], [(i % 4, 0.1 * (i % 4 == 2)) for i in range(40)]])
def test_a_paused_arm_is_never_chosen(name: str, known: list[tuple[int, float]]) -> None:
    history = after(known, 4)
    for seed in range(30):
        assert 2 not in choices(build(name, {}), history, seed, count=20, active=[0, 1, 3], in_flight=[2, 2])


@pytest.mark.parametrize("name", ALL)
def test_a_single_arm_is_always_played(name: str) -> None:
    assert played(build(name, {}), 1, noisy(0), 20) == [0] * 20


@pytest.mark.parametrize("name", ALL)
def test_sixty_four_arms_are_all_tried(name: str) -> None:
    assert set(played(build(name, {}), 64, noisy(0), 640)) == set(range(64))


def test_optima_tries_every_arm_once_before_it_repeats_one() -> None:
    for seed in range(10):
        assert sorted(played(build("optima", {}), 5, noisy(seed), 5, seed)) == list(range(5))


def test_the_order_of_first_tries_depends_on_the_seed() -> None:
    assert len({tuple(played(build("optima", {}), 4, noisy(0), 4, seed)) for seed in range(20)}) > 8


def test_an_untried_arm_in_flight_elsewhere_is_not_tried_twice() -> None:
    history = after([(0, 0.1)], 3)
    assert {choices(build("optima", {}), history, seed, in_flight=[1])[0] for seed in range(20)} == {2}


def test_eight_workers_do_not_all_jump_on_one_arm() -> None:
    policy = Optima()
    for seed in range(10):
        history, waiting = History(4, 20), list[int]()
        for worker in range(4):
            waiting += choices(policy, history, 10 * seed + worker, in_flight=waiting)
        assert sorted(waiting) == [0, 1, 2, 3]


def test_pulls_in_flight_on_an_uncertain_arm_make_it_less_likely_to_be_chosen() -> None:
    """The arm that lags behind is chosen for doubt about it alone, and eight pulls will settle most of that."""
    history = after([*[(0, 0.0), (0, 1.0)] * 2, *[(1, 0.5), (1, 1.5)] * 8], 2)
    alone, crowded = (
        sum(choices(Optima(), history, seed, in_flight=flying) == [0] for seed in range(1000))
        for flying in ([], [0] * 8)
    )
    assert alone > 100
    assert crowded < 0.6 * alone


@pytest.mark.parametrize("value", [0.0, 0.01, -0.01])
def test_arms_with_equal_constant_rewards_are_all_played(value: float) -> None:
    chosen = Counter(played(build("optima", {}), 4, lambda arm, number: value, 400))
    assert min(chosen.values()) > 50


def test_equally_good_noisy_arms_are_all_played() -> None:
    for seed in range(4):
        assert min(Counter(played(build("optima", {}), 4, noisy(seed, gap=0.0), 400, seed)).values()) > 20


def test_an_arm_without_recent_history_is_chosen_again() -> None:
    """With constant rewards there is no noise at all: only forgetting brings the lesser arm back."""
    paid = noisy(4)
    other = [(0, paid(0, 0)) for _ in range(10)] + [(1, 0.25e-3 + paid(1, 0)) for _ in range(10)]
    fresh, old = after(other, 2), after(other + [(1, 0.25e-3 + paid(1, 0)) for _ in range(800)], 2)
    policy = build("optima", {"gamma": 0.98})
    again = [sum(choices(policy, history, seed) == [0] for seed in range(300)) for history in (fresh, old)]
    assert again[0] < 6
    assert again[1] > 30


def test_uniform_plays_every_active_arm_equally_often() -> None:
    counts = Counter(choices(build("uniform", {}), History(4, 5), 0, count=3000, active=[0, 1, 3]))
    assert all(abs(counts[arm] - 1000) < 100 for arm in (0, 1, 3))


def test_round_robin_plays_the_arms_in_turn_and_skips_a_paused_one() -> None:
    policy = build("round_robin", {})
    assert played(policy, 3, noisy(0), 7) == [0, 1, 2, 0, 1, 2, 0]
    assert played(policy, 4, noisy(0), 7, active=[0, 1, 3]) == [0, 1, 3, 0, 1, 3, 0]


def test_round_robin_goes_on_after_the_arm_that_has_just_been_paused() -> None:
    history = after([(0, 0.1), (1, 0.1)], 4)
    assert choices(build("round_robin", {}), history, 0, count=4, active=[0, 2, 3]) == [2, 3, 0, 2]


def test_fixed_plays_its_arm_whatever_is_known() -> None:
    policy = build("fixed:text", {}, fixed=1)
    assert played(policy, 3, noisy(0), 5) == [1] * 5


@pytest.mark.parametrize("name", ["uniform", "round_robin"])
def test_policies_that_do_not_learn_have_no_posterior(name: str) -> None:
    policy = build(name, {})
    assert not policy.learns
    assert policy.posterior(after([(0, 0.1), (1, 0.2)], 2)) == []


def test_optima_has_a_posterior_from_the_first_reward_on() -> None:
    policy = build("optima", {})
    assert policy.posterior(History(2, 20)) == []
    assert [arm.effective_count for arm in policy.posterior(after([(1, 0.2)], 2))] == [0, 1]


def test_the_window_option_is_the_histories_window() -> None:
    assert build("optima", {"window": 7.0, "gamma": 0.9}).window == 7


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("optimal", {}, "there is no policy 'optimal'; there are optima, .*joint, fixed:<arm>"),
        ("", {}, "there is no policy ''"),
        ("optima", {"sigma": 1.0}, "policy optima has no option 'sigma'; its options are window, gamma"),
        ("uniform", {"window": 5.0}, "policy uniform has no option 'window'; it has none"),
        ("optima", {"window": 1.0}, "option window is 1; expected a whole number from 2 to 10000"),
        ("optima", {"window": 2.5}, "option window is 2.5; expected a whole number"),
        ("optima", {"window": float("nan")}, "option window is nan; expected a whole number"),
        ("optima", {"window": float("inf")}, "option window is inf; expected a whole number"),
        ("optima", {"gamma": 0.0}, "option gamma is 0; expected a number above 0, up to 1"),
        ("optima", {"gamma": 1.01}, "option gamma is 1.01; expected a number above 0, up to 1"),
        ("optima", {"gamma": float("nan")}, "option gamma is nan; expected a number above 0"),
    ],
)
def test_a_wrong_name_or_option_gets_a_sentence(name: str, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(name, options)


def test_a_fixed_policy_has_no_options() -> None:
    with pytest.raises(ValueError, match="policy fixed:text has no option 'window'; it has none"):
        build("fixed:text", {"window": 5.0}, fixed=1)
