"""The module that the engine wraps: the student, its partial forward and its losses."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from worker.distill.modular import ModularModel, Outputs
from worker.distill.objective import Objective
from worker.distill.plan import Plan
from worker.distill.projection import Projections
from worker.models.base import Batch, Boundary

Observer = Callable[[Plan, Outputs, Outputs], None]
"""Sees a plan and what student and teacher put out under it, before the losses are computed."""


class Student(nn.Module):
    """What is given to ``deepspeed.initialize`` and always called through the engine.

    The forward of an arm happens in here, so that ZeRO and gradient averaging see every call. The teacher is no
    child of it: its outputs come in as arguments.

    Attributes:
        observer: Looks on while it is set; see worker/setup/dry_run.py.
    """

    observer: Observer | None = None

    def __init__(self, modular: ModularModel, objective: Objective, projections: Projections | None = None) -> None:
        super().__init__()
        self.model = modular.model
        self.projections = projections or Projections({}, {})
        self._modular = modular
        self._objective = objective

    def owned(self, owned: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Names of this module's parameters by the student's module that owns them, projections included.

        Args:
            owned: Names of the bare model's parameters by module.
        """
        return {
            module: [f"model.{name}" for name in names]
            + [f"projections.{name}" for name in self.projections.owned(module)]
            for module, names in owned.items()
        }

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
            Outputs(outputs.boundary, self.projections.lift(outputs.hidden), outputs.logits),
            Outputs(target, teacher.hidden, teacher.logits),
            batch,
        )
        # Only evaluations look at it; kept in a step, it would be in memory through its backward pass.
        seen = None if self.training else outputs
        detached = {name: term.detach() for name, term in terms.items()}
        return self._objective.weighted(terms), detached, seen
