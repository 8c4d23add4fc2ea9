"""The work of a round, counted: forward calls of every tower of both models, by mode and arm."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from tests.worker.jobs.tiny_coca import batch, coca
from tests.worker.models.generic_model import GenericAdapter, Net, rows
from worker.distill.arms import layer_pairs
from worker.distill.modular import ModularModel
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Plan, Planner
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.models.base import Adapter
from worker.models.open_clip.coca import CoCaAdapter


class Pair:
    """A student and its teacher without any engine; ``calls`` counts forward passes of their modules."""

    def __init__(self, adapter: Adapter, teacher: nn.Module, student: nn.Module, data: Any) -> None:
        self.data = data
        self.calls: Counter[str] = Counter()
        self.model: Any = student
        ours, theirs = ModularModel(student, adapter, {}), ModularModel(teacher, adapter, {})
        pairs = {
            module.name: layer_pairs(ours.layers[module.name], theirs.layers[module.name]) for module in adapter.modules
        }
        self.student = Student(ours, Objective(adapter, pairs, LossWeights()))
        self.teacher = Teacher(theirs, torch.device("cpu"), torch.float32)
        for who, model in (("student", student), ("teacher", teacher)):
            for module in adapter.modules:
                assert isinstance(module.path, str)
                model.get_submodule(module.path).register_forward_hook(self._count(f"{who} {module.name}"))

    def _count(self, name: str) -> Any:
        return lambda *_: self.calls.update([name])

    def run(self, plan: Plan) -> dict[str, torch.Tensor]:
        self.calls.clear()
        terms: dict[str, torch.Tensor]
        loss, terms, _ = self.student(self.data, self.teacher.run(plan.teacher, self.data), plan)
        loss.backward()
        return terms


TOWERS = ["image", "text", "multimodal"]
BOTH = [f"{who} {tower}" for who in ("student", "teacher") for tower in TOWERS]


@pytest.fixture
def pair() -> Pair:
    return Pair(CoCaAdapter(), coca(1), coca(2), batch(0))


@pytest.mark.parametrize(
    ("arm", "computed", "terms"),
    [
        ("image", ["student image", "teacher image"], {"layers/image"}),
        ("text", ["student text", "teacher text"], {"layers/text"}),
        (
            "multimodal",
            ["student multimodal", "teacher image", "teacher text", "teacher multimodal"],
            {"layers/multimodal", "logits/kl", "task/caption"},
        ),
    ],
)
def test_forced_computes_what_the_arm_needs_and_nothing_else(
    pair: Pair, arm: str, computed: list[str], terms: set[str]
) -> None:
    planner = Planner(CoCaAdapter.modules, "multimodal", "forced")
    assert set(pair.run(planner.arm([arm]))) == terms
    assert pair.calls == dict.fromkeys(computed, 1)
    # The probe measures the same after such a round: nothing else of the bandit loss can have changed.
    assert planner.measured(planner.arm([arm]).trained) == planner.arm([arm])
    assert set(pair.run(planner.measured([arm]))) == terms
    assert pair.calls == dict.fromkeys(computed, 1)


@pytest.mark.parametrize("mode", ["active", "all"])
@pytest.mark.parametrize("arm", TOWERS)
def test_active_and_all_run_both_models_end_to_end(pair: Pair, mode: Any, arm: str) -> None:
    planner = Planner(CoCaAdapter.modules, "multimodal", mode)
    terms = pair.run(planner.arm([arm]))
    assert set(terms) == {f"layers/{arm}", "logits/kl", "task/caption", "task/contrastive"}
    assert pair.calls == dict.fromkeys(BOTH, 1)
    # Their bandit loss is the total distillation loss.
    measured = planner.measured(planner.arm([arm]).trained)
    assert measured == planner.joint()
    assert set(pair.run(measured)) == {*terms, *(f"layers/{tower}" for tower in TOWERS)}


def test_active_computes_no_gradient_below_the_arm(pair: Pair) -> None:
    pair.model.requires_grad_(False)
    pair.model.text_decoder.requires_grad_(True)
    seen: dict[str, bool] = {}
    pair.model.visual.register_forward_hook(lambda _m, _i, out: seen.update(image=out[0].requires_grad))
    pair.run(Planner(CoCaAdapter.modules, "multimodal", "active").arm(["multimodal"]))
    assert seen == {"image": False}


def test_forced_modules_read_the_teachers_tensors_and_joint_ones_the_students(pair: Pair) -> None:
    read = []
    pair.model.text_decoder.register_forward_pre_hook(lambda _m, inputs: read.append(inputs[0].detach()))
    planner = Planner(CoCaAdapter.modules, "multimodal", "forced")
    pair.run(planner.arm(["multimodal"]))
    pair.run(planner.joint())
    theirs = pair.teacher.run(("image",), pair.data).boundary["image"]["tokens"]
    assert torch.equal(read[0], theirs)
    assert not torch.equal(read[1], theirs)


def test_a_model_that_does_not_say_what_feeds_what_is_run_whole() -> None:
    torch.manual_seed(0)
    pair = Pair(GenericAdapter(), Net(), Net(), rows())
    planner = Planner(GenericAdapter.modules, "head", "active")
    pair.run(planner.arm(["right"]))
    assert pair.calls == {
        f"{who} {module}": 1 for who in ("student", "teacher") for module in ("left", "right", "head")
    }
    with pytest.raises(ValueError, match="`forced` needs the inputs of every module"):
        Planner(GenericAdapter.modules, "head", "forced")


def test_hooks_ignore_the_recompute_of_checkpointed_activations() -> None:
    plain, saving = (Pair(CoCaAdapter(), coca(1), coca(2), batch(0)) for _ in range(2))
    CoCaAdapter().checkpoint_activations(saving.model)
    runs = []
    for pair in (plain, saving):
        count: Counter[str] = Counter()
        block = pair.model.visual.transformer.resblocks[0]
        block.register_forward_pre_hook(lambda *_, count=count: count.update(["calls"]))
        pair.model.train()
        pair.run(Planner(CoCaAdapter.modules, "multimodal", "forced").joint())
        runs.append(count["calls"])
    assert runs == [1, 2]
    for ours, theirs in zip(plain.model.parameters(), saving.model.parameters(), strict=True):
        if ours.grad is None or theirs.grad is None:
            assert ours.grad is theirs.grad
        else:
            assert torch.equal(ours.grad, theirs.grad)
