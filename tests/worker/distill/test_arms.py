"""Names that match nothing, ownership, and which layers are compared."""

import pytest
from torch import nn

from worker.distill.arms import arm_faults, check_trainable, layer_pairs, ownership
from worker.errors import RecipeError
from worker.models.paths import matching_modules


def net() -> nn.Module:
    blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(3)])
    return nn.ModuleDict({"visual": nn.ModuleDict({"blocks": blocks}), "text": nn.Embedding(4, 2)})


def test_a_glob_matches_one_component_in_the_models_order() -> None:
    assert matching_modules(net(), "visual.blocks.*") == [
        "visual.blocks.0",
        "visual.blocks.1",
        "visual.blocks.2",
    ]


def test_a_path_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"'visual\.block\.\*' matches nothing.*visual\.blocks\.0"):
        matching_modules(net(), "visual.block.*")


def test_a_tied_parameter_belongs_to_the_first_module_listed() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False), "c": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    owned = ownership(model, {"b": "b", "a": "a"})
    assert owned.owned == {"b": ("a.weight",), "a": ()}
    assert owned.unowned == ("c.weight", "c.bias")


def test_layers_are_paired_uniformly_the_last_with_the_last() -> None:
    teacher = [f"t{i}" for i in range(8)]
    assert layer_pairs(["s0", "s1"], teacher) == [("s0", "t3"), ("s1", "t7")]
    assert layer_pairs(["s0", "s1", "s2"], teacher) == [("s0", "t1"), ("s1", "t4"), ("s2", "t7")]


@pytest.mark.parametrize(
    ("chosen", "message"), [([0], "1 teacher layers; expected 2"), ([0, 8], "teacher layer 8; expected 0 to 7")]
)
def test_a_layer_map_that_does_not_fit_says_so(chosen: list[int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        layer_pairs(["s0", "s1"], [f"t{i}" for i in range(8)], chosen)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"x": []}, "'x' has no modules"),
        ({"x": ["imagee"]}, "did you mean 'image'"),
        ({"joint": ["image"]}, "reserved"),
    ],
)
def test_arms_that_make_no_sense_are_refused(arms: dict[str, list[str]], message: str) -> None:
    [(arm, sentence)] = arm_faults(arms, ["image", "text"])
    assert arm in arms
    assert message in sentence


def test_what_is_shared_is_known_and_an_arm_that_owns_nothing_is_refused() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    owned = ownership(model, {"a": "a", "b": "b"})
    assert owned.tied == {"a.weight": ("b",)}
    check_trainable({"both": ["a", "b"]}, owned)
    with pytest.raises(RecipeError, match="arm 'b' has nothing to train"):
        check_trainable({"a": ["a"], "b": ["b"]}, owned)
