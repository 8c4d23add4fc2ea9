"""The PyTorch module that the engine wraps: the student with its partial forward pass and its losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from worker.distill.modular import ModularModel, Outputs
from worker.distill.objective import Objective
from worker.distill.plan import Plan
from worker.distill.projection import Projections
from worker.models.base import Batch, Boundary

Observer = Callable[[Plan, Outputs, Outputs], None]
"""(plan, student's outputs, teacher's outputs), called before the losses are computed."""


class Student(nn.Module):
    """The student as it is passed to ``deepspeed.initialize`` and always called through the engine.

    The forward pass of an arm is in here, so that ZeRO and gradient averaging see every call. The teacher is not a
    child of this PyTorch module: its outputs are arguments.

    Args:
        modular: The student model.
        objective: Computes the terms.
        projections: Maps between the widths of student and teacher; by default none.

    Attributes:
        observer: Called on every forward pass while it is set; worker/setup/dry_run.py uses it.
    """

    observer: Observer | None = None

    def __init__(self, modular: ModularModel, objective: Objective, projections: Projections | None = None) -> None:
        super().__init__()
        self.model = modular.model
        self.projections = projections or Projections({}, {})
        self._modular = modular
        self._objective = objective

    def owned(self, owned: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Return this PyTorch module's parameter names by the module that owns them, projections included.

        Args:
            owned: The bare model's parameter names by module.
        """
        return {
            module: [f"model.{name}" for name in names]
            + [f"projections.{name}" for name in self.projections.owned(module)]
            for module, names in owned.items()
        }

    @property
    def enclosing(self) -> list[nn.Module]:
        """The PyTorch modules that a forward pass may leave before it has come to their end."""
        return self._modular.enclosing

    def renew_hooks(self) -> None:
        """Register the model's hooks again, behind those of an engine."""
        self._modular.renew_hooks()

    def forward(
        self, batch: Batch, teacher: Outputs, plan: Plan, known: Mapping[str, Boundary] | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Outputs | None]:
        """Compute a plan's loss on one batch.

        Args:
            batch: The model's inputs.
            teacher: The teacher's outputs for the plan.
            plan: What to run and which terms to compute.
            known: The student's own boundary tensors of modules that the plan does not run.

        Returns:
            The loss (scalar, with gradient), its unweighted terms (scalars), and in eval mode the modules' outputs:
            in training they would stay in memory through the backward pass.
        """
        target = self.projections.reduce(teacher.boundary)
        outputs = self._modular.run(plan.student, batch, target if plan.forced else None, known)
        if self.observer is not None:
            self.observer(plan, outputs, teacher)
        terms = self._objective.terms(
            plan,
            self.model,
            replace(outputs, hidden=self.projections.lift(outputs.hidden)),
            replace(teacher, boundary=target),
            batch,
        )
        loss = self._objective.weighted(terms)
        detached = {name: term.detach() for name, term in terms.items()}
        if not self.training:
            return loss, detached, outputs
        # Only evaluations read the outputs; in training they would stay in memory through the backward pass.
        return loss + self._unreached(plan, terms, outputs), detached, None

    def _unreached(self, plan: Plan, terms: Mapping[str, Tensor], outputs: Outputs) -> Tensor | float:
        """Return 0, with a gradient of 0 for the trained modules that no term may depend on.

        Under ``all``, task and logit terms reach every module. If the model has none, the arm's layer terms do not
        reach the modules behind, and ZeRO 3 would apply gradients of an earlier step to these.
        """
        layers = [f"layers/{module}" for module in plan.layers]
        others = set(plan.trained) - set(plan.layers)
        if not others or terms.keys() - set(layers):
            return 0.0
        names = {layer for module in others for layer in self._modular.layers[module]} & outputs.hidden.keys()
        return sum((outputs.hidden[layer].sum() * 0.0 for layer in sorted(names)), start=0.0)
