"""Forced rounds of models that declare nothing: a module computes among stand-ins what it computes by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.zoo.configs import CONFIGS, build
from tests.worker.jobs import tiny_vlm
from worker.distill.arms import frozen_parameters, layer_pairs, ownership
from worker.distill.modular import ModularModel, Outputs
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.errors import RecipeError
from worker.models.base import Batch, Boundary, ModuleSpec
from worker.models.factory import FactoryModel
from worker.models.generic import GenericAdapter, NamedModule, RegroupedAdapter
from worker.models.hf.adapters import find_adapter
from worker.models.hf.loader import HfModel
from worker.setup.forced import with_stand_ins
from worker.setup.models import Models

READS: dict[str, dict[str, tuple[str, ...]]] = {
    "opt": {"lower": (), "middle": ("lower",), "upper": ("lower", "middle")},
    "bert_encoder": {"lower": (), "middle": ("lower",), "upper": ("lower", "middle")},
    "swin": {"lower": (), "middle": ("lower",), "upper": ("lower", "middle")},
    "resnet": {"lower": (), "middle": ("lower",), "upper": ("middle",)},
    "wav2vec2_ctc": {"lower": (), "middle": ("lower",), "upper": ("lower", "middle")},
    "moonshine": {"encoder": (), "decoder": ("encoder",)},
    "vit_gpt2": {"encoder": (), "decoder": ("encoder",)},
    "blip2": {"image": (), "connector": ("image",), "language": ("image", "connector")},
    "llava": {"image": (), "connector": ("image",), "language": ("image", "connector")},
    "paligemma": {"image": (), "connector": ("image",), "language": ("connector",)},
    "idefics3": {"image": (), "connector": ("image",), "language": ("connector",)},
    "qwen2_vl": {"image": (), "connector": ("image",), "language": ("image", "connector")},
    "qwen3_vl": {"image": (), "connector": ("image",), "language": ("image", "connector")},
    "clip": {"image": (), "text": ()},
    "siglip": {"image": (), "text": ()},
    "detr": {"backbone": (), "encoder": ("backbone",), "decoder": ("backbone", "encoder")},
}
"""By class of models: the inputs that are found, of its modules."""


def pair(name: str) -> Models:
    """Return a small model and a student cut from it."""
    model = build(name)
    adapter = find_adapter(model)
    exported = HfModel(model, adapter, "/nowhere", {}, "fresh").cut(CONFIGS[name].keep, adapter)
    teacher, student = ModularModel(model, adapter, {}), ModularModel(exported.model, exported.adapter, {})
    pairs = {module: layer_pairs(student.layers[module], teacher.layers[module]) for module in student.layers}
    paths = {module.name: module.path for module in exported.adapter.modules}
    owned = ownership(exported.model, paths, frozen_parameters(exported.model, ()))
    return Models(exported.adapter, teacher, student, exported, {}, pairs, owned)


@torch.no_grad()
def outputs(modular: ModularModel, batch: Batch, module: str | None = None, inputs: Any = None) -> Outputs:
    modules = [spec.name for spec in modular.adapter.modules]
    return modular.run(modules if module is None else [module], batch, inputs)


@torch.no_grad()
def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    return max(float((tensor.double() - theirs[name].double()).abs().max()) for name, tensor in ours.items())


@dataclass
class Calls:
    """The PyTorch modules within units of other modules that a pass has called."""

    names: set[str]


@contextmanager
def counted(modular: ModularModel, module: str) -> Iterator[Calls]:
    """Note which PyTorch modules inside of other modules' units are called."""
    calls, stand_ins = Calls(set()), modular.stand_ins
    assert stand_ins is not None
    every = {call.partition("#")[0] for call in stand_ins.order}
    units = {unit for unit in every if stand_ins.module_of(unit) != module} - stand_ins.spare.get(module, set())
    inside = {
        name: unit
        for name, unit in modular.model.named_modules()
        if name not in every and any(name.startswith(f"{unit}.") for unit in units)
    }
    hooks = [
        unit.register_forward_pre_hook(lambda *_, name=name: calls.names.add(name)) for name, unit in inside.items()
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def noisy(boundary: Mapping[str, Boundary]) -> dict[str, Boundary]:
    torch.manual_seed(1)
    return {
        module: {
            name: torch.randn_like(tensor) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
        }
        for module, tensors in boundary.items()
    }


def check_own_shoes(modular: ModularModel, batch: Batch) -> None:
    """Check that each module computes among a model's own outputs what it computes in the model, and nothing else."""
    modular.model.eval()
    whole = outputs(modular, batch)
    maker = (modular.adapter.logits or ("", ""))[0]
    # End to end there are task terms, even if no module makes them alone.
    assert modular.adapter.task_terms(modular.model, batch, whole.boundary) or "labels" not in batch
    for spec in modular.adapter.modules:
        with counted(modular, spec.name) as calls:
            alone = outputs(modular, batch, spec.name, whole.boundary)
        assert calls.names == set()
        layers = {layer: whole.hidden[layer] for layer in modular.layers[spec.name] if layer in whole.hidden}
        assert alone.hidden.keys() == layers.keys()
        assert distance(alone.hidden, layers) == 0.0
        assert distance({**alone.boundary[spec.name], **alone.hidden}, {**whole.boundary[spec.name], **layers}) == 0.0
        assert (alone.logits is not None) == (spec.name == maker)
        if alone.logits is not None and whole.logits is not None:
            assert torch.equal(alone.logits, whole.logits)
        if spec.inputs:
            other = outputs(modular, batch, spec.name, noisy(whole.boundary))
            assert distance(other.hidden, layers) > 1e-3


def check_arms(models: Models, batch: Batch) -> None:
    """Check that an arm's loss moves the arm, and reaches each of its layers."""
    student = Student(models.student, Objective(models.adapter, models.pairs, LossWeights()))
    teacher = Teacher(models.teacher, torch.device("cpu"), torch.float32)
    planner = Planner(models.adapter.modules, (models.adapter.logits or (None,))[0], "forced")
    parameters = dict(models.student.model.named_parameters())
    student.train()
    for module in models.student.layers:
        owned = models.ownership.owned[module]
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in owned)
            parameter.grad = None
        if not owned:
            continue
        plan = planner.arm([module])
        loss, terms, _ = student(batch, teacher.run(plan.teacher, batch), plan)
        loss.backward()
        assert torch.isfinite(loss), terms
        moved = {name for name, parameter in parameters.items() if parameter.grad is not None}
        assert moved
        for layer in models.student.layers[module]:
            inside = {name for name in owned if name.startswith(f"{layer}.")}
            assert not inside or inside & moved, (module, layer)


# Of transformers' own: frames of two models train otherwise since 2021.
@pytest.mark.filterwarnings("ignore:Version v4:FutureWarning", "ignore:Support for mismatched:UserWarning")
@pytest.mark.parametrize("name", READS)
def test_every_arm_in_its_own_shoes_differs_by_nothing(name: str) -> None:
    batch = CONFIGS[name].batch()
    models = with_stand_ins(pair(name), batch)
    assert {module.name: module.inputs for module in models.adapter.modules} == READS[name]
    for modular, _ in models.both:
        check_own_shoes(modular, batch)
    check_arms(models, batch)


def test_a_users_own_model_in_its_own_shoes() -> None:
    batch = tiny_vlm.batch(0)
    models = with_stand_ins(tiny_vlm.models(tiny_vlm.vlm(1), tiny_vlm.vlm(2, depth=2), {}), batch)
    inputs = {module.name: module.inputs for module in models.adapter.modules}
    assert inputs == {"eye": (), "bridge": ("eye",), "lower": ("eye", "bridge"), "upper": ("eye", "bridge", "lower")}
    assert models.adapter.logits == ("upper", "model>logits")
    check_own_shoes(models.student, batch)
    check_arms(models, batch)


def test_modules_that_read_each_other_each_have_a_pass() -> None:
    """Embeddings and head are one module, the layers between them the other."""
    batch = {"picture": torch.randn(2, 3, 4), "text": torch.randint(0, tiny_vlm.WORDS, (2, 6))}
    modules = {
        "ends": (("patches", "place", "bridge", "words", "norm", "head"), "bridge"),
        "body": (("eye", "mind"), ("eye.*", "mind.*")),
    }
    models = with_stand_ins(grouped(tiny_vlm.vlm(1), tiny_vlm.vlm(2), modules), batch)
    assert {module.name: module.inputs for module in models.adapter.modules} == {"ends": ("body",), "body": ("ends",)}
    for modular, _ in models.both:
        check_own_shoes(modular, batch)
    teacher = outputs(models.teacher, batch)
    both = models.student.run(["ends", "body"], batch, teacher.boundary)
    for module in ("ends", "body"):
        alone = models.student.run([module], batch, teacher.boundary)
        assert distance(alone.hidden, both.hidden) == 0.0


def test_modules_that_stand_in_draw_no_random_numbers() -> None:
    batch = tiny_vlm.batch(0)
    models = with_stand_ins(tiny_vlm.models(tiny_vlm.vlm(1), tiny_vlm.vlm(2, depth=2, dropout=0.5), {}), batch)
    teacher, student = outputs(models.teacher, batch), models.student.model
    student.train()
    torch.manual_seed(5)
    hidden = models.student.run(["upper"], batch, teacher.boundary).hidden["mind.1"]
    torch.manual_seed(5)
    assert torch.equal(hidden, student.mind[1](student.gain * teacher.boundary["lower"]["mind.0:0"])[0])  # type: ignore[operator, index]


def grouped(teacher: nn.Module, student: nn.Module, modules: dict[str, Any]) -> Models:
    named = [NamedModule(ModuleSpec(name, *paths)) for name, paths in modules.items()]
    ours, theirs = (ModularModel(model, RegroupedAdapter(GenericAdapter(), named), {}) for model in (student, teacher))
    pairs = {name: layer_pairs(ours.layers[name], theirs.layers[name]) for name in modules}
    owned = ownership(student, {name: paths[0] for name, paths in modules.items()})
    return Models(ours.adapter, theirs, ours, FactoryModel(student, GenericAdapter(), ""), {}, pairs, owned)


class Three(nn.Module):
    """A model one of whose modules is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


def test_a_module_that_is_never_called_is_refused() -> None:
    modules = {"first": ("first", "first"), "second": (("second",), "second"), "third": ("unused", "unused")}
    with pytest.raises(RecipeError, match="the forward pass of Three calls no PyTorch module of third"):
        with_stand_ins(grouped(Three(), Three(), modules), {"x": torch.randn(2, 4)})


class Counting(nn.Module):
    """A model whose second module needs to know that the first was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Tagger(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(hidden + self.first.last)  # type: ignore[no-any-return]


class Tagger(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.last: Any = 0.0

    def forward(self, input: Tensor) -> Tensor:
        self.last = self.last + input.mean()
        return super().forward(input)


def test_modules_that_pass_more_than_tensors_are_refused() -> None:
    modules = {"first": ("first", "first"), "second": ("second", "second")}
    with pytest.raises(RecipeError, match="computes something else when the other modules are replaced"):
        with_stand_ins(grouped(Counting(), Counting(), modules), {"x": torch.randn(2, 4)})
