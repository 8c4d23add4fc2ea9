"""The module that the engine wraps: the student, its partial forward and its losses."""

from torch import Tensor, nn

from worker.models.base import Batch
from worker.objective import Objective
from worker.parted import Outputs, Parted
from worker.plan import Plan


class Student(nn.Module):
    """What is given to ``deepspeed.initialize`` and always called through the engine.

    The forward of an arm happens in here, so that ZeRO and gradient averaging see every call. The teacher is no
    child of it: its outputs come in as arguments.
    """

    def __init__(self, parted: Parted, objective: Objective) -> None:
        super().__init__()
        self.model = parted.model
        self._parted = parted
        self._objective = objective

    def forward(self, batch: Batch, teacher: Outputs, plan: Plan) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The plan's loss (scalar, with gradient), its unweighted terms (scalars), and the logits if computed."""
        outputs = self._parted.run(plan.student, batch, teacher.boundary if plan.forced else None)
        terms = self._objective.terms(plan, self.model, outputs, teacher, batch)
        part, name = self._parted.adapter.logits
        logits = outputs.boundary[part][name].detach() if part in outputs.boundary else None
        return self._objective.weighted(terms), {n: term.detach() for n, term in terms.items()}, logits
