"""Contrastive and affinity losses on one rank, against the formulas and open_clip's own losses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, DistillClipLoss, SigLipLoss
from torch import Tensor

from worker.distill.losses import affinity
from worker.distill.modular import ModularModel
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.models.task_losses import contrastive

SCALE = torch.tensor([3.0])
BIAS = torch.tensor([-10.0])


@pytest.fixture
def rows() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(6, 8), torch.randn(6, 8)


def normalised(*embeddings: Tensor) -> list[Tensor]:
    return [F.normalize(each, dim=-1) for each in embeddings]


@pytest.mark.parametrize("paired", [None, [True, True, False, True, False, True]])
def test_the_loss_of_paired_rows_is_open_clips_own_on_those_rows(
    rows: tuple[Tensor, Tensor], paired: list[bool] | None
) -> None:
    mask = None if paired is None else torch.tensor(paired)
    subset = normalised(*(each if mask is None else each[mask] for each in rows))
    softmax, sigmoid = contrastive(*rows, SCALE, mask), contrastive(*rows, SCALE, mask, BIAS)
    assert torch.allclose(softmax, ClipLoss()(*subset, SCALE.exp()), rtol=1e-5)
    assert torch.allclose(sigmoid, SigLipLoss()(*subset, SCALE.exp(), BIAS), rtol=1e-5)
    assert not torch.allclose(softmax, sigmoid, rtol=0.1)


def test_rows_without_a_pair_give_no_loss_and_a_finite_gradient(rows: tuple[Tensor, Tensor]) -> None:
    image = rows[0].requires_grad_()
    for bias in (None, BIAS):
        for marks in ([False] * 6, [True] + [False] * 5):
            loss = contrastive(image, rows[1], SCALE, torch.tensor(marks), bias)
            (gradient,) = torch.autograd.grad(loss, image)
            assert torch.isfinite(gradient).all()
            assert bias is not None or float(loss.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("paired", [None, [True, True, False, True, False, True]])
def test_affinity_is_the_distillation_loss_of_tinyclip_and_open_clip_less_the_teachers_entropy(
    rows: tuple[Tensor, Tensor], paired: list[bool] | None
) -> None:
    """The teacher may have another width and another scale."""
    mask = None if paired is None else torch.tensor(paired)
    teacher = {"image": torch.randn(6, 12), "text": torch.randn(6, 12), "scale": torch.tensor([7.0])}
    student = {"image": rows[0].requires_grad_(), "text": rows[1], "scale": SCALE.exp()}

    def published(embeddings: dict[str, Tensor]) -> Tensor:
        """Return open_clip's cross-entropy to the teacher, which is TinyCLIP's too."""
        features = [
            each if mask is None else each[mask]
            for each in normalised(embeddings["image"], embeddings["text"], teacher["image"], teacher["text"])
        ]
        loss: Tensor = DistillClipLoss()(*features[:2], embeddings["scale"], *features[2:], teacher["scale"])[1]
        return loss

    ours = affinity(student, teacher, mask, 1.0)
    assert torch.allclose(ours, published(student) - published(teacher), atol=1e-5)
    one, other = (torch.autograd.grad(loss, student["image"])[0] for loss in (ours, published(student)))
    assert torch.allclose(one, other, atol=1e-6)
    assert float(affinity(teacher, teacher, mask, 1.0)) == pytest.approx(0, abs=1e-6)
    assert not torch.allclose(ours, affinity(student, teacher, mask, 2.0), rtol=1e-3)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_clip_of_transformers_has_the_same_losses(name: str) -> None:
    """Its own forward pass compares all rows of this rank and knows no unpaired ones."""
    from benchmarks.zoo.configs import CONFIGS, build
    from worker.models.hf.adapters import find_adapter

    student, batch = build(name).eval(), dict(CONFIGS[name].batch())
    made: list[ModularModel] = []
    for model in (student, build(name).eval()):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * len(made) * torch.randn_like(parameter))
        made.append(ModularModel(model, find_adapter(model), {}))
    ours = made[0]
    pairs = {module: [(layer, layer) for layer in layers] for module, layers in ours.layers.items()}
    objective = Objective(ours.adapter, pairs, LossWeights())
    plan = Planner(ours.adapter.modules, None, "active").joint()
    for marks in (None, [True] + [False] * (len(batch["input_ids"]) - 1)):
        if marks is not None:
            batch["paired"] = torch.tensor(marks)
        with torch.no_grad():
            outputs, targets = (modular.run(plan.student, batch) for modular in made)
            terms = objective.terms(plan, student, outputs, targets, batch)
            own = student(**CONFIGS[name].batch(), return_loss=True).loss
        assert {term for term in terms if not term.startswith("layers/")} == {"task/loss", "logits/affinity"}
        assert torch.allclose(terms["task/loss"], own, rtol=1e-4) == (marks is None)
        assert (float(terms["logits/affinity"]) > 1e-6) == (marks is None)


def test_among_stand_ins_a_pass_for_both_towers_has_the_loss() -> None:
    """No module makes it alone, so no single module's pass has to come to its end."""
    from benchmarks.zoo.configs import CONFIGS, build
    from worker.distill.reads import owners
    from worker.distill.stand_ins import StandIns, decoded
    from worker.models.hf.adapters import find_adapter

    model, batch = build("clip").eval(), CONFIGS["clip"].batch()
    adapter = find_adapter(model)
    stand_ins = StandIns(model, adapter, owners(model, adapter))
    with torch.no_grad():
        stand_ins.learn(batch)
        both, one = (stand_ins.run(modules, batch, {}) for modules in (["image", "text"], ["image"]))
    assert set(adapter.task_terms(model, batch, decoded(both))) == {"loss"}
    assert adapter.task_terms(model, batch, decoded(one)) == {}
