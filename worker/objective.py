"""The distillation objective: named terms, and their weighted sum under a plan.

Terms are ``task/<name>``, ``logits/kl`` and one ``layers/<module>`` for each module. The *total distillation loss*
is the weighted sum of all of them, end to end with the student's own inputs, whatever the arm. A module's *own*
loss is the weighted sum of the terms that belong to it, on the teacher's boundary tensors: its layer term, and for
the module that produces the logits also the task and logit terms that can be computed there.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from worker.errors import RecipeError
from worker.losses import LAYER_LOSSES, logit_kl
from worker.models.base import Adapter, Batch
from worker.parted import Outputs
from worker.plan import Plan


class LossWeights(BaseModel):
    """How much each term weighs."""

    model_config = ConfigDict(extra="forbid")

    task: dict[str, float] = Field(default={"caption": 1.0, "contrastive": 0.1})
    """Weight of each task term by name; a term that is not named has weight 0 and is not computed."""
    logits: float = Field(default=1.0, ge=0)
    """Weight of the KL divergence between the softened logits."""
    temperature: float = Field(default=2.0, gt=0)
    """Temperature of that softening."""
    layers: float = Field(default=1.0, ge=0)
    """Weight of each module's layer term; a term of weight 0 is not computed."""
    layer_loss: str = Field(default="mse", pattern="^(mse|cosine)$")
    """How hidden states are compared: ``mse`` (normalised by the teacher's energy) or ``cosine``."""


class Objective:
    """Computes terms.

    Args:
        adapter: How the models are taken apart.
        pairs: For each module, which student layer is compared with which teacher layer.
        weights: The recipe's weights.
    """

    def __init__(self, adapter: Adapter, pairs: Mapping[str, Sequence[tuple[str, str]]], weights: LossWeights) -> None:
        self._adapter = adapter
        self._pairs = pairs
        self._matched = {part.name: part.matched for part in adapter.parts}
        self._weights = weights
        self._layer_loss = LAYER_LOSSES[weights.layer_loss]

    def terms(
        self, plan: Plan, model: nn.Module, student: Outputs, teacher: Outputs, batch: Batch
    ) -> dict[str, Tensor]:
        """Every term of the plan that has a weight, unweighted, each a scalar; this is where an arm's mask is applied.

        Raises:
            RecipeError: None has, though the plan trains something.
        """
        terms = {}
        if self._weights.layers:
            terms = {f"layers/{module}": self._layers(module, student, teacher, batch) for module in plan.layers}
        if plan.logits and self._weights.logits:
            part, name = self._adapter.logits
            terms["logits/kl"] = logit_kl(
                student.boundary[part][name],
                teacher.boundary[part][name],
                self._adapter.mask(part, name, batch),
                self._weights.temperature,
            )
        if plan.task:
            # A module's own loss holds what it can compute alone: a term over two towers is for joint rounds.
            part = self._adapter.logits[0]
            boundary = {part: student.boundary[part]} if plan.forced else student.boundary
            computed = self._adapter.task_terms(model, batch, boundary)
            terms.update({f"task/{n}": term for n, term in computed.items() if self._weights.task.get(n)})
        if plan.trained and not terms:
            raise RecipeError(
                f"nothing would train {', '.join(plan.trained)}: no loss of its own has a weight under `loss`"
            )
        return terms

    def weight(self, term: str) -> float:
        """The weight of a term by its name."""
        kind, _, name = term.partition("/")
        if kind == "layers":
            return self._weights.layers
        return self._weights.logits if kind == "logits" else self._weights.task[name]

    def weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of terms, a scalar."""
        if not terms:
            return torch.zeros(())
        return torch.stack([self.weight(name) * term for name, term in terms.items()]).sum()

    def _layers(self, module: str, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Mean distance over the module's layers and over its boundary tensors that are matched."""
        hidden_mask = self._adapter.mask(module, "hidden", batch)
        distances = [
            self._layer_loss(student.hidden[ours], teacher.hidden[theirs], hidden_mask)
            for ours, theirs in self._pairs[module]
        ]
        for name in self._matched[module]:
            distances.append(
                self._layer_loss(
                    student.boundary[module][name],
                    teacher.boundary[module][name],
                    self._adapter.mask(module, name, batch),
                )
            )
        return torch.stack(distances).mean()
