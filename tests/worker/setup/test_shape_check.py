"""Layers that cannot be compared are named before training."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.models.generic_model import GenericAdapter, Net, rows
from worker.distill.arms import layer_pairs, ownership
from worker.distill.losses import normalised_mse
from worker.distill.modular import ModularModel
from worker.distill.objective import LossWeights, Objective
from worker.distill.projection import HiddenWidths, Projections
from worker.errors import RecipeError
from worker.models.base import Batch, ModuleSpec
from worker.models.factory import FactoryModel
from worker.models.generic import GenericAdapter as AnyModule
from worker.models.generic import NamedModule, RegroupedAdapter
from worker.setup.models import Models
from worker.setup.shape_check import Widths, compare_shapes

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


class Holder(nn.Module):
    """One layer, called several times or once, whose output may be anything."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for _ in range(self.times):
            self.layer(x)
        return {"logits": x.flatten(1)[:, :2]}


class Output(nn.Module):
    """Puts out what a function makes of its input."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x * self.weight)


@dataclass
class Fields:
    loss: Tensor
    state: Tensor


def compared(
    student: nn.Module, teacher: nn.Module, batch: Batch, mask: str | None = None, layer_loss: str = "mse"
) -> tuple[Widths, Models]:
    """Compare the layer ``layer`` of two models."""
    adapter = RegroupedAdapter(AnyModule(), [NamedModule(ModuleSpec("one", "layer", "layer"), mask)])
    ours, theirs = (ModularModel(model, adapter, {}) for model in (student, teacher))
    pairs = {"one": [("layer", "layer")]}
    owned = ownership(student, {"one": "layer"})
    models = Models(adapter, theirs, ours, FactoryModel(student, adapter, ""), {"one": ["one"]}, pairs, owned)
    objective = Objective(adapter, pairs, LossWeights(layer_loss=layer_loss))
    return compare_shapes(models, batch, forced=False, objective=objective), models


def maps(channels: int) -> Holder:
    torch.manual_seed(channels)
    return Holder(nn.Conv2d(3, channels, 3, padding=1))


PICTURES = {"x": torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))}


def test_feature_maps_of_another_number_of_channels_are_projected_over_the_channels() -> None:
    widths, models = compared(maps(4), maps(7), PICTURES)
    assert widths.hidden == {"layer": HiddenWidths("one", 4, 7, axis=1)}
    projections = Projections(widths.hidden, {})
    hidden = models.student.run(["one"], PICTURES).hidden
    lifted = projections.lift(hidden)["layer"]
    assert lifted.shape == models.teacher.run(["one"], PICTURES).hidden["layer"].shape
    weight = projections.get_parameter("hidden.layer.weight")[:, :, None, None]
    assert torch.allclose(lifted, nn.functional.conv2d(hidden["layer"], weight), atol=1e-6)


def test_feature_maps_of_another_size_are_refused() -> None:
    wide = Holder(nn.Conv2d(3, 4, 3, padding=1, stride=2))
    with pytest.raises(RecipeError, match=r"layer layer has the shape \[2, 4, 4, 3\] and the teacher's"):
        compared(wide, maps(4), PICTURES)


@pytest.mark.parametrize(("student", "teacher"), [(4, 4), (4, 7)])
def test_cosine_is_refused_for_feature_maps(student: int, teacher: int) -> None:
    with pytest.raises(
        RecipeError, match=rf"puts out \[2, {teacher}, 8, 6\], whose channels are not there; set loss.la"
    ):
        compared(maps(student), maps(teacher), PICTURES, layer_loss="cosine")


def test_cosine_is_allowed_where_the_width_is_last() -> None:
    def last() -> Holder:
        # As the blocks of a Swin: [B, H, W, C].
        return Holder(nn.Sequential(nn.Conv2d(3, 5, 1), Output(lambda x: x.movedim(1, -1))))

    compared(last(), last(), {"x": torch.randn(2, 3, 8, 8)}, layer_loss="cosine")
    compared(Holder(nn.Linear(6, 5)), Holder(nn.Linear(6, 5)), PICTURES, layer_loss="cosine")


def test_a_mask_of_other_positions_is_refused() -> None:
    batch = {**PICTURES, "mask": torch.ones(2, 8, dtype=torch.bool)}
    message = (
        r"the mask of module one is \[2, 8\], but the layer layer puts out \[2, 4, 8, 6\]; .*remove modules\.one\.m"
    )
    with pytest.raises(RecipeError, match=message):
        compared(maps(4), maps(4), batch, mask="mask")
    words = {"x": torch.randn(2, 8, 3), "mask": batch["mask"]}
    compared(Holder(nn.Linear(3, 4)), Holder(nn.Linear(3, 4)), words, mask="mask")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (None, [x, 3]),
        lambda x: {"loss": x.mean(), "last_hidden_state": x, "other": x[:1]},
        lambda x: {"scalar": x.mean(), "state": x},
        lambda x: Fields(x.mean(), x),
        lambda x: [x],
    ],
)
def test_a_hidden_state_is_found_in_any_output(function: Any) -> None:
    model = Holder(Output(function))
    _, models = compared(model, Holder(Output(function)), PICTURES)
    hidden = models.student.run(["one"], PICTURES).hidden["layer"].detach()
    assert float(normalised_mse(hidden, PICTURES["x"], None)) == 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: None, "the output of layer is a NoneType without a tensor, so it cannot be compared"),
        (lambda x: ("words", {"a": 1}), "the output of layer is a tuple without a tensor"),
        (lambda x: x.mean(), "the output of layer is a tensor without dimensions"),
        (lambda x: x.long(), r"the output of layer is of the type torch\.int64, so it cannot be compared"),
        (lambda x: x.to(torch.complex64), r"the output of layer is of the type torch\.complex64"),
    ],
)
def test_an_output_without_a_hidden_state_is_refused(function: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        compared(Holder(Output(function)), Holder(Output(function)), PICTURES)


def test_a_layer_that_is_called_several_times_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        compared(Holder(nn.Linear(6, 4), 2), Holder(nn.Linear(6, 4), 3), PICTURES)
    assert [record.getMessage() for record in caplog.records] == [
        f"the {role} calls layer {times} times in a forward pass, with the same weights; its last output is compared"
        for role, times in (("student", 2), ("teacher", 3))
    ]


def test_a_failing_forward_pass_names_all_entries_of_the_batch() -> None:
    batch: dict[str, Any] = {"x": torch.ones(2, 5), "names": ["a", "b"], "nothing": None}
    with pytest.raises(RecipeError, match=r"batches \(x \[2, 5\], names \(list of 2\), nothing \(NoneType\)\): "):
        compared(Holder(nn.Linear(6, 4)), Holder(nn.Linear(6, 4)), batch)
