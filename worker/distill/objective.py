"""The distillation objective: named terms, and their weighted sum under a plan.

The terms are ``task/<name>``, ``logits/kl`` (for models of two towers ``logits/affinity``) and ``layers/<module>`` for
each module. The *total distillation loss*
is the weighted sum of all terms, end to end with the student's own inputs, whatever the arm. A module's *own*
loss is the weighted sum of its own terms, on the teacher's boundary tensors: its layer term, and for the module that
computes the logits also the task and logit terms that can be computed there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from worker.distill.losses import (
    LAYER_LOSSES,
    LOGIT_LOSSES,
    LayerLoss,
    affinity,
    common_classes,
    cosine,
    logit_kl,
    normalised_mse,
    root_mean_square,
)
from worker.distill.modular import Outputs
from worker.distill.plan import Plan
from worker.errors import RecipeError
from worker.imports import lookup_or_import
from worker.models.base import Adapter, Batch

TaskLoss = Callable[[Tensor, Batch], Tensor]
"""(logits, batch) -> scalar."""
Weight = Annotated[float, Field(ge=0)]


MOST = 1e6
"""The largest distance between student and teacher, by ``mse``, at which a layer can be compared: the student puts out
1,000 times what the teacher does. Fresh students are within a factor of 100 of their teachers; beyond this one the term
exceeds all others so far that clipping the gradient leaves nothing of them."""


@dataclass(frozen=True)
class Faint:
    """An output of the teacher that is next to nothing.

    Attributes:
        module: The module.
        name: Its layer, or its boundary tensor.
        teacher: Root mean square of the teacher's output.
        student: Root mean square of the student's.
    """

    module: str
    name: str
    teacher: float
    student: float


class LossWeights(BaseModel):
    """The weight of each term, and the loss functions.

    A loss function is given by its name, or by the import path of a user's own function, ``package.module:function``.
    """

    model_config = ConfigDict(extra="forbid")

    task: dict[str, float] | None = None
    """Weight of each task term, by name or by the import path of a function of (logits, batch). A term that is not
    named has weight 0 and is not computed. The default is the model family's own terms and weights."""
    logits: Weight = 1.0
    """Weight of the logit term."""
    logit_loss: str = "kl"
    """Comparison of logits: ``kl`` (of the softened distributions; for models of two towers, whose logits are the
    similarities of images and texts, in both directions and over the rows of all ranks), or the import path of a
    function of (student, teacher, mask, temperature)."""
    classes: int | None = Field(default=None, ge=1)
    """Number of classes that teacher and student have in common, the first ones, by which logits are compared. By
    default all; of vocabularies that are padded to different sizes, those that both have."""
    temperature: float = Field(default=2.0, gt=0)
    """Temperature of the softening."""
    layers: Weight | dict[str, Weight] = 1.0
    """Weight of the layer terms, one for all or by module; a term of weight 0 is not computed."""
    layer_loss: str | dict[str, str] = "mse"
    """Comparison of hidden states, one for all or by module: ``mse`` (normalised by the teacher's energy),
    ``cosine``, or the import path of a function of (student, teacher, mask)."""


class Objective:
    """Computes terms.

    Args:
        adapter: The student's adapter.
        pairs: (student layer, teacher layer) for each pair that is compared, by module.
        weights: The recipe's weights and loss functions.

    Attributes:
        classes: The number of classes by which logits are compared; None for those that both models have.

    Raises:
        RecipeError: A loss is neither known nor can be imported.
    """

    def __init__(self, adapter: Adapter, pairs: Mapping[str, Sequence[tuple[str, str]]], weights: LossWeights) -> None:
        self._adapter = adapter
        self._pairs = pairs
        self._matched = {module.name: module.matched for module in adapter.modules}
        self._logit_weight, self._temperature = weights.logits, weights.temperature
        self.classes = weights.classes
        losses = by_module(weights.layer_loss, adapter, "mse")
        self._layer_losses: dict[str, LayerLoss] = {
            module: lookup_or_import(name, LAYER_LOSSES, "a layer loss") for module, name in losses.items()
        }
        self._layer_weights: dict[str, float] = by_module(weights.layers, adapter, 1.0)
        self._logit_loss = lookup_or_import(weights.logit_loss, LOGIT_LOSSES, "a logit loss")
        self._logit_term = f"logits/{_short(weights.logit_loss)}"
        named = adapter.task_weights if weights.task is None else weights.task
        self._task = {_short(name): weight for name, weight in named.items()}
        self._others = 1.0 if weights.task is None else 0.0
        self._own_terms: dict[str, TaskLoss] = {
            _short(name): lookup_or_import(name, {}, "a task loss") for name in named if ":" in name
        }

    def terms(
        self, plan: Plan, model: nn.Module, student: Outputs, teacher: Outputs, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute every term of the plan whose weight is not 0, unweighted, each a scalar.

        The plan is applied here: terms of other modules are not computed.

        Raises:
            RecipeError: The plan trains modules but no term has a weight.
        """
        terms = {
            f"layers/{module}": self._layers(module, student, teacher, batch)
            for module in plan.layers
            if self._layer_weights[module]
        }
        if plan.logits and self._logit_weight:
            terms |= self._logits(student, teacher, batch)
        if plan.task:
            computed = self.task_terms(plan, model, student, batch)
            terms.update({f"task/{name}": term for name, term in computed.items() if self._task_weight(name)})
        if plan.trained and not terms:
            raise RecipeError(
                f"no loss would train {', '.join(plan.trained)}: all of its terms have weight 0 under `loss`"
            )
        return terms

    def _logits(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the logit term, if both models have logits."""
        ours, theirs = student.embeddings, teacher.embeddings
        if ours is not None and theirs is not None and self._logit_loss is logit_kl:
            # Similarities are compared in both directions, and over the rows of all ranks.
            mask = self._adapter.logits_mask(batch)
            return {"logits/affinity": affinity(ours, theirs, mask, self._temperature)}
        if student.logits is None or teacher.logits is None:
            return {}
        mask = self._adapter.logits_mask_for(batch, student.logits)
        logits = common_classes(student.logits, teacher.logits, self.classes)
        return {self._logit_term: self._logit_loss(*logits, mask, self._temperature)}

    def faint(self, student: Outputs, teacher: Outputs, batch: Batch) -> Iterator[Faint]:
        """Yield the teacher's outputs that have too little energy to be divided by it, as ``mse`` does.

        Args:
            student: The outputs of all modules on a batch, before training.
            teacher: The same of the teacher.
            batch: The batch.
        """
        for module, loss in self._layer_losses.items():
            if loss is not normalised_mse or not self._layer_weights[module]:
                continue
            compared = list(self._compared(module, student, teacher, batch))
            sizes = [root_mean_square(theirs, mask) for _, _, theirs, mask in compared]
            # Beside the module's largest output this one is lost in rounding. A module may be small as a whole.
            floor = torch.finfo(torch.float32).eps * max(sizes, default=0.0)
            for (name, ours, theirs, mask), size in zip(compared, sizes, strict=True):
                own_size = root_mean_square(ours, mask)
                if size <= floor:
                    yield Faint(module, name, size, own_size)
                    continue
                same_width = ours.shape == theirs.shape
                # A projection between two widths keeps the size.
                distance = float(normalised_mse(ours, theirs, mask)) if same_width else (own_size / size) ** 2
                if distance > MOST:
                    yield Faint(module, name, size, own_size)

    def _compared(
        self, module: str, student: Outputs, teacher: Outputs, batch: Batch
    ) -> Iterator[tuple[str, Tensor, Tensor, Tensor | None]]:
        """Yield the pairs of tensors of a module that are compared: name, student's, teacher's, mask."""
        for layer, teacher_layer in self._pairs[module]:
            for name, outputs in ((layer, student), (teacher_layer, teacher)):
                if name not in outputs.hidden:
                    raise RecipeError(
                        f"the forward pass has left out the layer {name} of {module}; layers that are left out at "
                        "random or on some rows cannot be compared: switch that off in the model (layerdrop: 0), or "
                        "name other PyTorch modules under `layers`"
                    )
            hidden = student.hidden[layer]
            mask = self._adapter.mask_for(module, "hidden", batch, hidden)
            yield f"layer {teacher_layer}", hidden, teacher.hidden[teacher_layer], mask
        for name in self._matched[module]:
            mask = self._adapter.mask_for(module, name, batch, student.boundary[module][name])
            yield f"output {name}", student.boundary[module][name], teacher.boundary[module][name], mask

    def task_terms(self, plan: Plan, model: nn.Module, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Compute all task terms that the plan allows, the family's and the user's, whatever their weight."""
        # A module's own loss has only terms it can compute alone; a term over two towers is for joint rounds.
        module = self._adapter.logits[0] if self._adapter.logits else ""
        boundary = {module: student.boundary[module]} if plan.forced else student.boundary
        terms = self._adapter.task_terms(model, batch, boundary)
        if student.logits is not None:
            terms.update({name: loss(student.logits, batch) for name, loss in self._own_terms.items()})
        return terms

    def compares_vectors(self, module: str) -> bool:
        """Return whether a module's layers are compared by the direction of vectors along the last axis."""
        return self._layer_losses[module] is cosine and bool(self._layer_weights[module])

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the task terms that the recipe or the family defines."""
        return tuple(self._task)

    @property
    def compares_logits(self) -> bool:
        """Whether the logit term has a weight."""
        return self._logit_weight > 0

    def weight(self, term: str) -> float:
        """Return the weight of a term by its name."""
        kind, _, name = term.partition("/")
        if kind == "layers":
            return self._layer_weights[name]
        return self._logit_weight if kind == "logits" else self._task_weight(name)

    def takes(self, name: str) -> bool:
        """Return whether the family's own task term of this name is in the loss."""
        return self._task_weight(name) > 0 and name not in self._own_terms

    def _task_weight(self, name: str) -> float:
        return self._task.get(name, self._others)

    def weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of terms, a scalar."""
        if not terms:
            return torch.zeros(())
        return torch.stack([self.weight(name) * term for name, term in terms.items()]).sum()

    def _layers(self, module: str, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the mean distance over the module's layers and its matched boundary tensors."""
        loss = self._layer_losses[module]
        compared = self._compared(module, student, teacher, batch)
        return torch.stack([loss(ours, theirs, mask) for _, ours, theirs, mask in compared]).mean()


def by_module(setting: Any, adapter: Adapter, default: Any) -> dict[str, Any]:
    """Expand a setting, one for all modules or by module, to all modules."""
    if not isinstance(setting, dict):
        return {module.name: setting for module in adapter.modules}
    return {module.name: setting.get(module.name, default) for module in adapter.modules}


def _short(name: str) -> str:
    """Return the name of a loss in metrics: its name, or the function's name in an import path."""
    return name.rpartition(":")[2]
