"""A layer of the teacher that puts out next to nothing is named before training."""

from __future__ import annotations

import pytest
import torch

from tests.worker.models.generic_model import GenericAdapter, Net, rows
from worker.distill.arms import layer_pairs, ownership
from worker.distill.modular import ModularModel
from worker.distill.objective import LossWeights, Objective
from worker.errors import RecipeError
from worker.models.factory import FactoryModel
from worker.setup.models import Models
from worker.setup.shape_check import compare_shapes

ARMS = {"west": ["left"], "east": ["right"], "top": ["head"]}


def check(*, teacher: float = 1.0, student: float = 1.0, layers: dict[str, str] | None = None, **loss: object) -> None:
    """Compare models whose layer left.0 is scaled by these factors."""
    adapter = GenericAdapter()
    made = []
    for seed, factor in ((0, student), (1, teacher)):
        torch.manual_seed(seed)
        net = Net()
        for parameter in net.left[0].parameters():
            parameter.data.mul_(factor)
        made.append(ModularModel(net, adapter, layers or {}))
    ours, theirs = made
    pairs = {name: layer_pairs(ours.layers[name], theirs.layers[name]) for name in ("left", "right", "head")}
    owned = ownership(ours.model, {module.name: module.path for module in adapter.modules})
    models = Models(adapter, theirs, ours, FactoryModel(ours.model, adapter, ""), ARMS, pairs, owned)
    compare_shapes(models, rows(), forced=False, objective=Objective(adapter, pairs, LossWeights.model_validate(loss)))


@pytest.mark.parametrize("factor", [0.0, 1e-9, 1e-5])
def test_a_teachers_layer_without_output_is_named(factor: float) -> None:
    with pytest.raises(
        RecipeError,
        match=r"arm west: the teacher's layer left\.0 of left puts out next to nothing \(root mean square [\d.e+-]+, "
        r"the student's [\d.e+-]+\), and the layer loss mse divides by it; leave the layer out by a glob of the others "
        r"under `layers`, or set loss\.layer_loss: \{left: cosine\}$",
    ):
        check(teacher=factor)


def test_both_may_put_out_little_but_not_nothing() -> None:
    check(teacher=1e-5, student=1e-5)
    check(teacher=1e-2)
    with pytest.raises(RecipeError, match=r"layer left\.0"):
        check(teacher=1e-9, student=1e-9)


def test_what_the_message_says_helps() -> None:
    check(teacher=0.0, layer_loss={"left": "cosine"})
    check(teacher=0.0, layers={"left": "left.1"})
