"""Recipes: what is right is read, what is wrong is told, all of it at once."""

from pathlib import Path
from typing import Any

import pytest

from protos.optima.v1 import bandit_pb2 as pb
from worker import recipe as recipes
from worker.errors import RecipeError

GOOD = """
name: tiny
teacher: {model: "open_clip:coca_ViT-B-32"}
student: {keep: {image: 2}}
data: {name: digits}
"""


def read(tmp_path: Path, text: str, **overrides: Any) -> recipes.Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return recipes.read(path, overrides)


def test_the_built_in_recipe_is_a_recipe() -> None:
    recipe = recipes.read(recipes.BUILT_IN, {})
    assert (recipe.train, recipe.tail, recipe.policy.name) == ("forced", 0.3, "optima")
    assert (recipe.directory / recipe.teacher.checkpoint).is_file()  # type: ignore[operator]


def test_the_command_line_replaces_fields(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD, rounds=10, policy={"name": "round_robin"})
    assert (recipe.rounds, recipe.tail_rounds, recipe.policy.name) == (10, 3, "round_robin")


def test_all_faults_are_told_at_once_with_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, GOOD + "tails: 0.5\nrounds: -1\nloss: {temprature: 0}\ntrain: forcd\n")
    message = str(caught.value)
    assert "4 fault(s)" in message
    assert "tails: unknown field; did you mean 'tail'?" in message
    assert "loss.temprature: unknown field; did you mean 'temperature'?" in message
    assert "rounds: input should be greater than or equal to 0 (got -1)" in message
    assert "train: input should be 'forced', 'active' or 'all' (got 'forcd')" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "must be a mapping"),
        ("name: x", "teacher: field required"),
        (GOOD + "rounds: 0", "has no tail"),
        (GOOD + "deepspeed: {optimizer: {}}", "optimizer is set by the recipe's own fields"),
        (GOOD.replace("tiny", "a/b"), "name: string should match pattern"),
        (GOOD.replace("{keep: {image: 2}}", "{}"), "student: give either `keep`"),
        (GOOD.replace("{keep: {image: 2}}", "{keep: {}, checkpoint: x}"), "`checkpoint` holds the weights of `model`"),
        (GOOD.replace("{image: 2}}", "{image: 2}, checkpointing: reentrant}"), "without a graph.*use non_reentrant"),
    ],
)
def test_a_broken_recipe_gets_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, text)


def test_a_recipe_that_is_not_there_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read: No such file"):
        recipes.read(tmp_path / "none.yaml", {})


def test_the_spec_says_what_the_recipe_says(tmp_path: Path) -> None:
    spec = read(tmp_path, GOOD + "seed: 7\n").spec({"vision": ["image"], "rest": ["text", "multimodal"]})
    assert [(arm.name, list(arm.modules)) for arm in spec.arms] == [
        ("vision", ["image"]),
        ("rest", ["text", "multimodal"]),
    ]
    assert (spec.seed, spec.train, spec.policy.name) == (7, pb.TRAIN_MODE_FORCED, "optima")


def test_a_policys_options_reach_the_spec(tmp_path: Path) -> None:
    policy = "policy: {name: sliding_window_ts, options: {window: 40}}\n"
    spec = read(tmp_path, GOOD + policy).spec({"vision": ["image"]})
    assert (spec.policy.name, dict(spec.policy.options)) == ("sliding_window_ts", {"window": 40.0})
    replaced = read(tmp_path, GOOD + policy, policy={"name": "optima"}).spec({"vision": ["image"]})
    assert dict(replaced.policy.options) == {}, "another policy has other options"
    with pytest.raises(RecipeError, match=r"policy\.options\.window: input should be a valid number"):
        read(tmp_path, GOOD + "policy: {options: {window: long}}\n")
