"""What a round trains and what is measured around it, by mode and arm: the one place that says it (DESIGN.md §6, §6a).

======  ====================  =============  ========================  ======================  =====================
mode    student's inputs      moves          terms in the loss         computed                bandit loss (probe)
======  ====================  =============  ========================  ======================  =====================
forced  teacher's boundaries  the arm's      the arm's modules' own    the arm's parts, and    sum of all modules'
                              modules        terms                     the teacher's that      own terms, those of
                                                                       feed them               the arm measured anew
active  its own               the arm's      task, logits, layer       everything, gradient    total distillation
                              modules        terms of the arm's        from the arm's parts    loss, end to end
                                             modules                   on
all     its own               all modules    task, logits, layer       everything              total distillation
                                             terms of the arm's                                loss, end to end
                                             modules
joint   its own               all modules    all                       everything              as in the run's mode
======  ====================  =============  ========================  ======================  =====================

"joint" is the last row in every mode: an arm of that name and the tail play it. The reward is the relative decrement
of the bandit loss; the tail's rounds have none. Where a model's adapter does not declare which part feeds which,
everything is computed in every round, and ``forced`` is refused.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from worker.errors import RecipeError
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


def check_declared(parts: Sequence[Part]) -> None:
    """Raise RecipeError if it is not known of some part what it reads."""
    undeclared = [part.name for part in parts if part.inputs is None]
    if undeclared:
        raise RecipeError(
            "train: forced feeds every module with the teacher's boundary tensors, but it is not declared what "
            f"feeds {', '.join(undeclared)}: use train: active or all, or declare the inputs in the model's adapter"
        )


class Planner:
    """Derives plans for one model.

    Args:
        parts: The model's parts, every one after its inputs; each is a module.
        logits_part: The part that produces the logits, which owns the task and logit terms; None where no part does
            alone, and only joint rounds have such terms.
        mode: The recipe's ``train``.
        readers: For a module, the other modules that read parameters of its own (tied ones).

    Raises:
        RecipeError: The mode is ``forced`` and a part does not declare its inputs.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        logits_part: str | None,
        mode: Mode,
        readers: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        if mode == "forced":
            check_declared(parts)
        self._parts = tuple(parts)
        self._names = tuple(part.name for part in parts)
        self._logits_part = logits_part
        self._mode = mode
        self._readers = readers or {}

    @property
    def parts(self) -> tuple[Part, ...]:
        """The model's parts."""
        return self._parts

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

    def measured(self, trained: Sequence[str]) -> Plan:
        """What the probe measures after a round that moved these modules: what can have changed of the bandit loss."""
        if self._mode != "forced":
            return self.joint()
        changed = {*trained, *(reader for module in trained for reader in self._readers.get(module, ()))}
        return self.forced([name for name in self._names if name in changed])

    def task(self) -> Plan:
        """The student alone, end to end, for task metrics: no teacher, nothing moves."""
        return Plan(forced=False, trained=(), student=self._names, teacher=(), layers=(), task=True, logits=False)

    def look(self, parts: Sequence[str]) -> Plan:
        """Some of the student's parts alone, for what they put out: no teacher, no term, nothing moves."""
        return Plan(forced=False, trained=(), student=tuple(parts), teacher=(), layers=(), task=False, logits=False)

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
                needed.update(part.inputs or ())
        return tuple(name for name in self._names if name in needed)
