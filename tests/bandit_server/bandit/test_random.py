from __future__ import annotations

import numpy as np
import pytest

from bandit_server.bandit.random import generator


def test_the_same_choice_gets_the_same_numbers_whoever_asks() -> None:
    first, again = generator(7, "w1", 3, "select"), generator(7, "w1", 3, "select")
    assert np.array_equal(first.standard_normal(100), again.standard_normal(100))


def test_the_numbers_are_the_same_for_ever() -> None:
    """Histories outlive releases: changed numbers would be a change of the contract."""
    assert generator(7, "w1", 3, "select").integers(0, 1000, 6).tolist() == [653, 0, 226, 692, 42, 682]


@pytest.mark.parametrize(
    "other", [(8, "w1", 3, "select"), (7, "w2", 3, "select"), (7, "w1", 4, "select"), (7, "w1", 3, "noise")]
)
def test_another_seed_worker_round_or_purpose_gets_other_numbers(other: tuple[int, str, int, str]) -> None:
    ours = generator(7, "w1", 3, "select").standard_normal(8)
    assert not np.isin(ours, generator(*other).standard_normal(8)).any()


def test_many_choices_together_look_independent() -> None:
    drawn = np.array([generator(seed, "w", round, "select").random() for seed in range(20) for round in range(100)])
    assert abs(drawn.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.06


def test_a_large_seed_is_as_good_as_a_small_one() -> None:
    assert generator(2**64 - 1, "w", 0, "select").random() != generator(0, "w", 0, "select").random()
