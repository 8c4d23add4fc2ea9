"""The distillation objective: named terms, and their weighted sum under a plan.

Terms are ``task/<name>``, ``logits/kl`` and one ``layers/<module>`` for each module. The *total distillation loss*
is the weighted sum of all of them, end to end with the student's own inputs, whatever the arm. A module's *own*
loss is the weighted sum of the terms that belong to it, on the teacher's boundary tensors: its layer term, and for
the module that produces the logits also the task and logit terms that can be computed there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from worker.distill.losses import LAYER_LOSSES, LOGIT_LOSSES, LayerLoss
from worker.distill.modular import Outputs
from worker.distill.plan import Plan
from worker.errors import RecipeError
from worker.imports import known_or_imported
from worker.models.base import Adapter, Batch

TaskLoss = Callable[[Tensor, Batch], Tensor]
"""(logits, batch) -> scalar."""
Weight = Annotated[float, Field(ge=0)]


class LossWeights(BaseModel):
    """How much each term weighs, and what the losses are: by name, or a function of the user's own by its import path,
    ``package.module:function``."""

    model_config = ConfigDict(extra="forbid")

    task: dict[str, float] | None = None
    """Weight of each task term by name, or by the import path of a function of (logits, batch); a term that is not
    named has weight 0 and is not computed. By default the model family's own terms and weights."""
    logits: Weight = 1.0
    """Weight of the loss between the logits."""
    logit_loss: str = "kl"
    """How logits are compared: ``kl`` (of the softened distributions), or the import path of a function of (student,
    teacher, mask, temperature)."""
    temperature: float = Field(default=2.0, gt=0)
    """Temperature of that softening."""
    layers: Weight | dict[str, Weight] = 1.0
    """Weight of each module's layer term, one for all or by module; a term of weight 0 is not computed."""
    layer_loss: str | dict[str, str] = "mse"
    """How hidden states are compared, one for all or by module: ``mse`` (normalised by the teacher's energy),
    ``cosine``, or the import path of a function of (student, teacher, mask)."""


class Objective:
    """Computes terms.

    Args:
        adapter: How the models are taken apart.
        pairs: For each module, which student layer is compared with which teacher layer.
        weights: The recipe's weights.

    Raises:
        RecipeError: A loss is neither known nor importable.
    """

    def __init__(self, adapter: Adapter, pairs: Mapping[str, Sequence[tuple[str, str]]], weights: LossWeights) -> None:
        self._adapter = adapter
        self._pairs = pairs
        self._matched = {module.name: module.matched for module in adapter.modules}
        self._logit_weight, self._temperature = weights.logits, weights.temperature
        losses = by_module(weights.layer_loss, adapter, "mse")
        self._layer_losses: dict[str, LayerLoss] = {
            module: known_or_imported(name, LAYER_LOSSES, "a layer loss") for module, name in losses.items()
        }
        self._layer_weights: dict[str, float] = by_module(weights.layers, adapter, 1.0)
        self._logit_loss = known_or_imported(weights.logit_loss, LOGIT_LOSSES, "a logit loss")
        self._logit_term = f"logits/{_short(weights.logit_loss)}"
        named = adapter.task_weights if weights.task is None else weights.task
        self._task = {_short(name): weight for name, weight in named.items()}
        self._others = 1.0 if weights.task is None else 0.0
        self._own_terms: dict[str, TaskLoss] = {
            _short(name): known_or_imported(name, {}, "a task loss") for name in named if ":" in name
        }

    def terms(
        self, plan: Plan, model: nn.Module, student: Outputs, teacher: Outputs, batch: Batch
    ) -> dict[str, Tensor]:
        """Every term of the plan that has a weight, unweighted, each a scalar; this is where an arm's mask is applied.

        Raises:
            RecipeError: None has, though the plan trains something.
        """
        terms = {
            f"layers/{module}": self._layers(module, student, teacher, batch)
            for module in plan.layers
            if self._layer_weights[module]
        }
        if plan.logits and self._logit_weight and student.logits is not None and teacher.logits is not None:
            mask = self._adapter.logits_mask(batch)
            terms[self._logit_term] = self._logit_loss(student.logits, teacher.logits, mask, self._temperature)
        if plan.task:
            computed = self.task_terms(plan, model, student, batch)
            terms.update({f"task/{name}": term for name, term in computed.items() if self._task_weight(name)})
        if plan.trained and not terms:
            raise RecipeError(
                f"nothing would train {', '.join(plan.trained)}: no loss of its own has a weight under `loss`"
            )
        return terms

    def task_terms(self, plan: Plan, model: nn.Module, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """All task terms that the plan allows to compute, the model's and the user's, whatever they weigh."""
        # A module's own loss holds what it can compute alone: a term over two towers is for joint rounds.
        module = self._adapter.logits[0] if self._adapter.logits else ""
        boundary = {module: student.boundary[module]} if plan.forced else student.boundary
        terms = self._adapter.task_terms(model, batch, boundary)
        if student.logits is not None:
            terms.update({name: loss(student.logits, batch) for name, loss in self._own_terms.items()})
        return terms

    @property
    def named(self) -> tuple[str, ...]:
        """The task terms that the recipe or the family names."""
        return tuple(self._task)

    def weight(self, term: str) -> float:
        """The weight of a term by its name."""
        kind, _, name = term.partition("/")
        if kind == "layers":
            return self._layer_weights[name]
        return self._logit_weight if kind == "logits" else self._task_weight(name)

    def _task_weight(self, name: str) -> float:
        return self._task.get(name, self._others)

    def weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of terms, a scalar."""
        if not terms:
            return torch.zeros(())
        return torch.stack([self.weight(name) * term for name, term in terms.items()]).sum()

    def _layers(self, module: str, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Mean distance over the module's layers and over its boundary tensors that are matched."""
        loss = self._layer_losses[module]
        hidden_mask = self._adapter.mask(module, "hidden", batch)
        distances = [
            loss(student.hidden[ours], teacher.hidden[theirs], hidden_mask) for ours, theirs in self._pairs[module]
        ]
        for name in self._matched[module]:
            distances.append(
                loss(
                    student.boundary[module][name],
                    teacher.boundary[module][name],
                    self._adapter.mask(module, name, batch),
                )
            )
        return torch.stack(distances).mean()


def by_module(given: Any, adapter: Adapter, default: Any) -> dict[str, Any]:
    """What a recipe gives once for all modules, or for some by name."""
    if not isinstance(given, dict):
        return {module.name: given for module in adapter.modules}
    return {module.name: given.get(module.name, default) for module in adapter.modules}


def _short(name: str) -> str:
    """What a loss is called in metrics: its name, or that of the function an import path ends in."""
    return name.rpartition(":")[2]
