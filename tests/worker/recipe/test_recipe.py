"""Recipes: valid ones are read, and all errors of an invalid one come at once."""

from pathlib import Path
from typing import Any

import open_clip
import pytest

from protos.optima.v1 import bandit_pb2 as pb
from worker.data import DATA_MODULES
from worker.errors import RecipeError
from worker.models.open_clip.cut import SECTIONS
from worker.recipe.recipe import BUILT_IN, Recipe, read_recipe

GOOD = """
name: tiny
teacher: {model: "open_clip:coca_ViT-B-32"}
student: {keep: {image: 2}}
data: {name: digits}
"""


def read(tmp_path: Path, text: str, **overrides: Any) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path, overrides)


def test_the_built_in_recipe_is_a_recipe() -> None:
    recipe = read_recipe(BUILT_IN, {})
    assert (recipe.train, recipe.tail, recipe.policy.name) == ("forced", 0.3, "optima")
    assert (recipe.directory / recipe.teacher.checkpoint).is_file()  # type: ignore[operator]


@pytest.mark.parametrize("path", sorted(BUILT_IN.parent.glob("coca*.yaml")), ids=lambda path: path.stem)
def test_teachers_of_open_clip_have_weights_that_it_knows(path: Path) -> None:
    name, _, tag = read_recipe(path, {}).teacher.model.removeprefix("open_clip:").partition("@")
    assert tag in open_clip.list_pretrained_tags_by_model(name)


@pytest.mark.parametrize("path", sorted(BUILT_IN.parent.glob("coca_l14*.yaml")), ids=lambda path: path.stem)
def test_the_papers_recipes_name_what_is_there(path: Path) -> None:
    recipe = read_recipe(path, {})
    name = recipe.teacher.model.removeprefix("open_clip:").partition("@")[0]
    config = open_clip.get_model_config(name)
    layers = {module: config[section]["layers"] for module, section in SECTIONS.items()}
    kept = recipe.student.keep or {}
    # The same fraction of every module.
    assert len({kept[module] / layers[module] for module in layers}) == 1
    assert kept["image"] == {"coca_l14_to_tiny12": 12, "coca_l14_to_tiny6": 6, "coca_l14_finetune": 24}[path.stem]
    assert recipe.data.name in DATA_MODULES
    assert recipe.deepspeed["torch_autocast"]["enabled"]
    if path.stem == "coca_l14_finetune":
        assert (recipe.loss.logits, recipe.loss.layers, recipe.policy.name) == (0, 0, "joint")


def test_the_command_line_replaces_fields(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD, rounds=10, policy={"name": "round_robin"})
    assert (recipe.rounds, recipe.tail_rounds, recipe.policy.name) == (10, 3, "round_robin")
    deeper = {"data.options.seed": 3, "data.batch_size": 8, "student.keep": {"text": 1}}
    recipe = read(tmp_path, GOOD, **deeper)
    assert (recipe.data.name, recipe.data.batch_size, recipe.data.options) == ("digits", 8, {"seed": 3})
    assert recipe.student.keep == {"text": 1}
    with pytest.raises(RecipeError, match=r"line 5: data\.batch_sise: unknown field; did you mean 'batch_size'"):
        read(tmp_path, GOOD, **{"data.batch_sise": 8})


def test_all_errors_come_at_once_with_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(
            tmp_path,
            GOOD + "tails: 0.5\nrounds: -1\nloss:\n  temprature: 0\n  layers: {image: -1}\ntrain: forcd\n"
            "modules:\n  a: {pth: x}\n  b: [1]\nseed: 3\nseed: 4\narms: {ok: [a], 'not ok': [a, 3]}\n",
        )
    assert str(caught.value).splitlines()[1:] == [
        "  line 16: seed: set twice, first in line 15",
        "  line 6: tails: unknown field; did you mean 'tail'?",
        "  line 7: rounds: input should be greater than or equal to 0 (got -1)",
        "  line 9: loss.temprature: unknown field; did you mean 'temperature'?",
        "  line 10: loss.layers.image: input should be greater than or equal to 0 (got -1)",
        "  line 11: train: input should be 'forced', 'active' or 'all' (got 'forcd'; did you mean 'forced'?)",
        "  line 13: modules.a.path: field required",
        "  line 13: modules.a.pth: unknown field; did you mean 'path'?",
        "  line 14: modules.b: input should be a valid string, or input should be a valid dictionary or instance of "
        "ModuleRecipe",
        "  line 17: arms.not ok: string should match pattern '^[A-Za-z0-9._-]{1,64}$' (got 'not ok')",
        "  line 17: arms.not ok.1: input should be a valid string (got 3)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "must be a mapping"),
        ("name: x", "teacher: field required"),
        (GOOD + "rounds: 0", "has no tail"),
        (GOOD + "train: xyz", r"train: input should be 'forced', 'active' or 'all' \(got 'xyz'\)$"),
        (GOOD + "deepspeed: {optimizer: {}}", "optimizer follows from the recipe's own fields"),
        (GOOD.replace("tiny", "a/b"), "name: string should match pattern"),
        (GOOD.replace("{keep: {image: 2}}", "{}"), "student: set either `keep`"),
        (GOOD.replace("{keep: {image: 2}}", "{keep: {}, checkpoint: x}"), "`checkpoint` needs `model`"),
        (GOOD.replace("{image: 2}}", "{image: 2}, checkpointing: reentrant}"), "without a graph.*use non_reentrant"),
    ],
)
def test_a_broken_recipe_gets_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(tmp_path, text)


def test_a_recipe_that_is_not_there_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read: No such file"):
        read_recipe(tmp_path / "none.yaml", {})


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
