"""What a round trains, by mode and arm: the one place that says it (DESIGN.md §6, §6a).

==========  =====================  ======================  ===========================  ==================
mode        student's inputs       parameters that move    terms in the loss            computed
==========  =====================  ======================  ===========================  ==================
forced      teacher's boundaries   the arm's               own terms of the arm's       only the arm's
                                                           modules                      parts
active      its own                the arm's               task, logits, layer terms    up to the last
                                                           of the arm's modules         part (with no
                                                                                        gradient below)
all         its own                all                     task, logits, layer terms    everything
                                                           of the arm's modules
joint       its own                all                     all                          everything
==========  =====================  ======================  ===========================  ==================

"joint" is the last row in every mode: it is what the tail plays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.models.base import Part

Mode = Literal["forced", "active", "all"]


@dataclass(frozen=True)
class Plan:
    """One round's work.

    Attributes:
        forced: Whether the student's parts read the teacher's boundary tensors.
        trained: Modules whose parameters move.
        student: Student parts to run, in order.
        teacher: Teacher parts to run, in order.
        layers: Modules whose layer terms are in the loss.
        task: Whether task terms are in the loss.
        logits: Whether the logit term is in the loss.
    """

    forced: bool
    trained: tuple[str, ...]
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    layers: tuple[str, ...]
    task: bool
    logits: bool


class Planner:
    """Derives plans for one model.

    Args:
        parts: The model's parts, every one after its inputs; each is a module.
        logits_part: The part that produces the logits, which owns the task and logit terms.
        mode: The recipe's ``train``.
    """

    def __init__(self, parts: Sequence[Part], logits_part: str, mode: Mode) -> None:
        self._parts = tuple(parts)
        self._names = tuple(part.name for part in parts)
        self._logits_part = logits_part
        self._mode = mode

    @property
    def modules(self) -> tuple[str, ...]:
        """All modules, in order."""
        return self._names

    def joint(self) -> Plan:
        """Layerwise distillation of all modules at once, end to end."""
        return self._own_inputs(trained=self._names, layers=self._names)

    def arm(self, modules: Sequence[str]) -> Plan:
        """The plan for an arm that is not the joint one."""
        ordered = tuple(name for name in self._names if name in modules)
        if self._mode == "forced":
            return self.forced(ordered)
        return self._own_inputs(trained=ordered if self._mode == "active" else self._names, layers=ordered)

    def forced(self, modules: Sequence[str]) -> Plan:
        """Each of the modules on the teacher's boundary tensors, with its own terms."""
        owns_logits = self._logits_part in modules
        return Plan(
            forced=True,
            trained=tuple(modules),
            student=tuple(modules),
            teacher=self._with_inputs(modules),
            layers=tuple(modules),
            task=owns_logits,
            logits=owns_logits,
        )

    def task(self) -> Plan:
        """The student alone, end to end, for task metrics: no teacher, nothing moves."""
        return Plan(forced=False, trained=(), student=self._names, teacher=(), layers=(), task=True, logits=False)

    def _own_inputs(self, trained: tuple[str, ...], layers: tuple[str, ...]) -> Plan:
        return Plan(
            forced=False,
            trained=trained,
            student=self._names,
            teacher=self._names,
            layers=layers,
            task=True,
            logits=True,
        )

    def _with_inputs(self, modules: Sequence[str]) -> tuple[str, ...]:
        """The modules and everything they read, directly or not, in order."""
        needed = set(modules)
        for part in reversed(self._parts):
            if part.name in needed:
                needed.update(part.inputs)
        return tuple(name for name in self._names if name in needed)
