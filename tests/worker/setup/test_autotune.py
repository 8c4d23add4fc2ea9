"""Open numbers are settings so that measuring costs at most 5 %; the recipe's own numbers are kept."""

from typing import Any

import pytest

from worker.recipe.recipe import Recipe
from worker.setup.autotune import SHARE, RoundSettings, Timings, choose

TIMINGS = Timings(steps=(0.03, 0.1), probes=(0.005, 0.01), evaluation=0.4, evaluation_batch=0.02)


def recipe(**fields: Any) -> Recipe:
    content = {"teacher": {"model": "t"}, "student": {"keep": {}}, "data": {"name": "digits"}, **fields}
    return Recipe.model_validate(content)


@pytest.mark.parametrize("slower", [0.1, 0.5, 1, 3, 10, 100])
def test_no_arm_pays_more_than_its_share_for_the_probe(slower: float) -> None:
    timings = Timings(
        TIMINGS.steps, tuple(slower * probe for probe in TIMINGS.probes), TIMINGS.evaluation, TIMINGS.evaluation_batch
    )
    for ranks in (1, 4):
        settings = choose(recipe(), timings, ranks)
        batches_per_rank = settings.probe_batches / ranks
        for step, probe in zip(timings.steps, timings.probes, strict=True):
            assert batches_per_rank * probe <= SHARE * settings.steps_per_round * step + 1e-12


def test_evaluations_cost_no_more_than_their_share() -> None:
    settings = choose(recipe(), TIMINGS, ranks=1)
    evaluation = TIMINGS.evaluation + settings.probe_batches * TIMINGS.evaluation_batch
    assert evaluation <= SHARE * settings.evaluate_every * settings.steps_per_round * sum(TIMINGS.steps) / 2


def test_a_cheap_probe_is_a_large_one_and_rounds_stay_short() -> None:
    cheap = Timings((0.1,), (0.001,), 0.01, 0.001)
    assert choose(recipe(), cheap, ranks=2) == RoundSettings(steps_per_round=10, probe_batches=8, evaluate_every=1)


def test_explicit_numbers_are_kept() -> None:
    read = recipe(steps_per_round=3, probe={"batches": 7, "evaluate_every": 9})
    assert not read.open
    assert choose(read, TIMINGS, ranks=1) == RoundSettings(3, 7, 9)
    assert choose(recipe(steps_per_round=1000), TIMINGS, ranks=1).probe_batches == 4
    assert choose(recipe(probe={"batches": 16}), TIMINGS, ranks=1).steps_per_round == 100


def test_small_noise_in_the_timings_changes_nothing() -> None:
    noisy = Timings((0.031, 0.096), (0.0051, 0.0098), 0.42, 0.021)
    assert choose(recipe(), noisy, ranks=1) == choose(recipe(), TIMINGS, ranks=1)


def test_a_length_in_steps_is_kept_whatever_the_round() -> None:
    read = recipe(steps=1000)
    assert read.open
    assert read.fixed(20, 1, 5).rounds == 50
    assert read.fixed(50, 1, 5).rounds == 20
    assert recipe(steps=1000, steps_per_round=10).rounds == 100
    with pytest.raises(ValueError, match="either `rounds` or `steps`"):
        recipe(steps=1000, rounds=10)
