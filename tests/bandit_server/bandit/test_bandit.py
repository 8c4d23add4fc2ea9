"""The bandit as a library."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from bandit_server.bandit import Bandit, Pull
from bandit_server.bandit.policy.published import POLICIES

PAYS = (0.1, 0.5, 0.2, 0.3)


def rewards(seed: int) -> Iterator[float]:
    noise = random.Random(seed)
    while True:
        yield noise.gauss(0, 0.1)


def play(bandit: Bandit, pulls: int, seed: int = 0) -> list[int]:
    noise = rewards(seed)
    arms = []
    for _ in range(pulls):
        pull = bandit.select()
        bandit.report(pull, PAYS[pull.arm] + next(noise))
        arms.append(pull.arm)
    return arms


def test_it_finds_the_best_arm() -> None:
    bandit = Bandit(n_arms=4)
    assert play(bandit, 300).count(1) > 200
    best = max(bandit.posterior(), key=lambda belief: belief.p_best)
    assert bandit.posterior().index(best) == 1
    assert best.mean == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("policy", [*POLICIES, "fixed:2"])
def test_a_saved_bandit_goes_on_as_it_would_have(policy: str) -> None:
    whole, first = Bandit(4, policy, seed=3), Bandit(4, policy, seed=3)
    assert play(whole, 40) == play(first, 40)
    pulls = [[bandit.select() for _ in range(5)] for bandit in (whole, first)]
    assert pulls[0] == pulls[1]
    saved = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    again = Bandit.from_dict(saved)
    assert again.to_dict() == first.to_dict()
    for bandit in (whole, again):
        # In another order than they were selected in; one is never reported, one is abandoned.
        bandit.report(pulls[0][3], 0.4)
        bandit.report(pulls[0][0], 0.3)
        bandit.abandon(pulls[0][1])
    assert play(again, 40, seed=1) == play(whole, 40, seed=1)
    assert again.posterior() == whole.posterior()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_it_saves_does_not_grow(policy: str) -> None:
    def values(pulls: int) -> int:
        bandit = Bandit(4, policy)
        play(bandit, pulls)
        return json.dumps(bandit.to_dict()).count(",")

    assert values(200) == values(1200)


def test_several_pulls_may_be_open_and_come_back_in_any_order() -> None:
    bandit = Bandit(4, seed=1)
    opened = [bandit.select() for _ in range(8)]
    assert {pull.arm for pull in opened[:4]} == {0, 1, 2, 3}, "no arm is tried twice while another is untried"
    for pull in reversed(opened):
        bandit.report(pull, PAYS[pull.arm])
    assert play(bandit, 100).count(1) > 50


def test_an_abandoned_pull_is_forgotten() -> None:
    bandit = Bandit(1)
    pull = bandit.select()
    bandit.abandon(pull)
    with pytest.raises(ValueError, match="pull 0 of arm 0 is not open"):
        bandit.report(pull, 0.1)


def test_only_active_arms_are_chosen() -> None:
    bandit = Bandit(4)
    for _ in range(50):
        pull = bandit.select(active=[0, 2])
        assert pull.arm in (0, 2)
        bandit.report(pull, PAYS[pull.arm])


def test_bad_input_is_one_sentence_and_changes_nothing() -> None:
    bandit = Bandit(2)
    pull = bandit.select()
    for value, words in ((float("nan"), "the reward is nan"), (float("inf"), "the reward is inf")):
        with pytest.raises(ValueError, match=words):
            bandit.report(pull, value)
    with pytest.raises(ValueError, match="pull 7 of arm 1 is not open"):
        bandit.report(Pull(7, 1), 0.1)
    bandit.report(pull, 0.1)
    with pytest.raises(ValueError, match="is not open"):
        bandit.report(pull, 0.1)
    for active in ([], [2], [-1]):
        with pytest.raises(ValueError, match="expected some of the arms 0 to 1"):
            bandit.select(active=active)
    with pytest.raises(ValueError, match="n_arms is 0; expected at least one arm"):
        Bandit(0)
    with pytest.raises(ValueError, match="there is no policy 'best'"):
        Bandit(2, "best")
    with pytest.raises(ValueError, match="one of the arms 0 to 1, not '2'"):
        Bandit(2, "fixed:2")
    with pytest.raises(ValueError, match="schema None"):
        Bandit.from_dict({})
