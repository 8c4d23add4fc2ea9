"""The dry run finds arms that would train nothing, and reports on every arm."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from open_clip import CoCa
from torch.utils.checkpoint import checkpoint

from tests.worker.jobs.tiny_coca import batch, coca
from tests.worker.jobs.tiny_models import tiny_models
from worker.distill.modular import Outputs
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.distill.projection import Projections
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.engine.engine import Engine
from worker.engine.optimizer import OptimizerRecipe
from worker.engine.process_group import ProcessGroup
from worker.errors import RecipeError
from worker.setup.dry_run import DryRun, report
from worker.setup.shape_check import compare_shapes

ARMS = {"eyes": ["image"], "words": ["text"], "sight": ["image", "multimodal"]}


def dry_run(process_group: ProcessGroup, student: CoCa, weights: LossWeights | None = None) -> DryRun:
    """Return the dry run of a student whose teacher has three layers of width 32."""
    models = tiny_models(coca(1, layers=3), student, ARMS)
    widths = compare_shapes(models, batch(0), forced=True)
    maps = {pair: torch.eye(32)[:width] for pair, width in widths.boundary.items()}
    objective = Objective(models.adapter, models.pairs, weights or LossWeights())
    wrapped = Student(models.student, objective, Projections(widths.hidden, maps))
    engine = Engine(wrapped, wrapped.owned(models.ownership.owned), OptimizerRecipe(), {}, micro_batch=4)
    teacher = Teacher(models.teacher, process_group.device, engine.dtype)
    planner = Planner(models.adapter.modules, "multimodal", "forced")
    return DryRun(models, process_group, engine, wrapped, teacher, planner, [batch(0)])


def test_a_report_lists_what_every_arm_trains_and_computes(process_group: ProcessGroup) -> None:
    dry = dry_run(process_group, coca(2, width=16))
    checks = dry.check_arms(repeats=1)
    text = report(dry.models, checks)
    arms = dict(re.findall(r"^arm (\w+).*\n((?:  .*\n?)+)", text, re.MULTILINE))
    assert list(arms) == ["eyes", "words", "sight", "joint"]
    image = sum(parameter.numel() for parameter in dry.models.student.model.get_submodule("visual").parameters())
    # The projection of a hidden state from 16 to 32 moves with the arm, but is no parameter of the student.
    equal = [replace(check, layers=tuple(replace(layer, gradient=0.0) for layer in check.layers)) for check in checks]
    assert "reaches 12 of 12 tensors, but is 0: nothing differs from the teacher" in report(dry.models, equal)
    for line in (
        "trains         image, on the teacher's boundary tensors",
        "computes       student: image; teacher: image",
        f"owns           {image:,} parameters in ",
        "hooks          all 2 pairs of layers fired",
        "visual.transformer.resblocks.0  [4, 5, 16] <- visual.transformer.resblocks.0 [4, 5, 32], projected; "
        "gradient reaches 12 of 12 tensors, at most ",
        "visual.transformer.resblocks.1  [4, 5, 16] <- visual.transformer.resblocks.2 [4, 5, 32], projected; ",
        "cost of a step ",
    ):
        assert line in arms["eyes"]
    assert "computes       student: image, multimodal; teacher: image, text, multimodal" in arms["sight"]
    assert "trains         image, text, multimodal, on the student's own inputs" in arms["joint"]
    assert "100% of joint" in arms["joint"]
    assert text.endswith("1 parameters in 1 tensors belong to no module and stay as they are: logit_scale")


def reentrant(student: CoCa) -> None:
    block = student.text.transformer.resblocks[0]
    plain = block.forward
    block.forward = lambda x, **_: checkpoint(plain, x.detach(), use_reentrant=True)


def cut_off(student: CoCa) -> None:
    student.visual.transformer.resblocks[0].register_forward_hook(lambda _m, _i, out: out.detach())


# Reentrant checkpointing itself warns of it.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (reentrant, r"arm words: no gradient reaches .*resblocks\.0: its output was computed without a graph\. "
                        r"Reentrant activation checkpointing does that"),
        (cut_off, r"arm eyes: no gradient reaches the student's layer visual\.transformer\.resblocks\.0: "),
    ],
)  # fmt: skip
def test_an_arm_without_gradients_is_refused(
    process_group: ProcessGroup, harm: Callable[[CoCa], None], message: str
) -> None:
    student = coca(2)
    harm(student)
    with pytest.raises(RecipeError, match=message):
        dry_run(process_group, student).check_arms(repeats=0)


def test_an_arm_whose_losses_have_no_weight_is_refused(process_group: ProcessGroup) -> None:
    dry = dry_run(process_group, coca(2), LossWeights(layers=0.0))
    with pytest.raises(RecipeError, match="no loss would train image: all of its terms have weight 0"):
        dry.check_arms(repeats=0)
    # A student without any loss still computes logits, for the task metric.
    without_loss = dry_run(process_group, coca(2), LossWeights(layers=0.0, logits=0.0, task={}))
    assert without_loss.engine.measure(batch(0), Outputs({}, {}), without_loss.planner.task())[1] is not None
