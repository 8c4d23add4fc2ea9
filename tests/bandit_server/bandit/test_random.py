"""Randomness that any replica repeats."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from bandit_server.bandit.random import Randomness


def draws(seed: int = 7, worker: str = "w", round: int = 3, count: int = 8) -> list[float]:
    return [float(x) for x in Randomness(seed).at(worker, round).standard_normal(count)]


def test_the_same_choice_gets_the_same_numbers_whatever_was_asked_before() -> None:
    randomness = Randomness(7)
    for round in (9, 3, 200):
        randomness.at("other", round).standard_normal(5)
        randomness.at("other", round).integers(100)
    copied = copy.deepcopy(randomness)
    for asked in (randomness, copied):
        assert [float(x) for x in asked.at("w", 3).standard_normal(8)] == draws()


def test_the_numbers_are_the_same_for_ever() -> None:
    assert draws(count=3) == pytest.approx([0.7190192813726305, 0.6149183597569767, -0.2249432535145266], rel=1e-12)


@pytest.mark.parametrize("other", [{"seed": 8}, {"worker": "v"}, {"round": 4}])
def test_another_seed_worker_or_round_gets_other_numbers(other: dict[str, int]) -> None:
    assert not set(draws(**other)) & set(draws())  # type: ignore[arg-type]


def test_many_choices_together_look_independent() -> None:
    randomness = Randomness(0)
    first = np.array([randomness.at("w", round).random() for round in range(4000)])
    assert abs(first.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.05


def test_a_large_seed_is_as_good_as_a_small_one() -> None:
    assert draws(seed=2**64 - 1) != draws(seed=2**63)
